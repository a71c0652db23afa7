//! What an `MLSMessage` (RFC 9420 §6) shows without any cryptography: enough to find its group, its epoch and its sender.
//!
//! Costs no more than reading the lengths: no body is copied, and of a `PublicMessage` only the part before the content is
//! looked at.

use uuid::Uuid;

use super::{NotMls, reader::Reader};
use crate::domain::{Epoch, GroupId};

/// `ProtocolVersion` mls10.
pub(super) const MLS10: u16 = 1;
/// `WireFormat` of a `PublicMessage`.
pub(super) const PUBLIC: u16 = 1;
/// `WireFormat` of a Welcome.
pub(super) const WELCOME: u16 = 3;

/// What is in a framed message (RFC 9420 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// An application message.
    Application,
    /// A proposal.
    Proposal,
    /// A commit.
    Commit,
}

/// Who says that it sent a `PublicMessage` (RFC 9420 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicSender {
    /// The member at this leaf.
    Member(u32),
    /// The external sender at this index of the group's extension; this relay lets none into a group.
    External(u32),
    /// A device that proposes to be added.
    NewMemberProposal,
    /// A device that joins by an external commit.
    NewMemberCommit,
}

/// What every framed message shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Its group.
    pub group_id: GroupId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it is.
    pub content_type: ContentType,
}

/// What an `MLSMessage` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A `PublicMessage`.
    Public(Framing, PublicSender),
    /// A `PrivateMessage`, whose sender is hidden.
    Private(Framing),
    /// A Welcome.
    Welcome,
    /// A `GroupInfo`.
    GroupInfo,
    /// A key package.
    KeyPackage,
}

impl Header {
    /// Reads the header. A `PrivateMessage` is read to its end, other bodies only as far as the header goes.
    ///
    /// # Errors
    /// When these are not the bytes of an `MLSMessage`, or its group or epoch cannot be one of this relay's.
    pub fn parse(message: &[u8]) -> Result<Self, NotMls> {
        let mut reader = Reader::new(message);
        if reader.u16()? != MLS10 {
            return Err(NotMls::Version);
        }
        match reader.u16()? {
            PUBLIC => public(&mut reader),
            2 => private(reader),
            WELCOME => Ok(Self::Welcome),
            4 => Ok(Self::GroupInfo),
            5 => Ok(Self::KeyPackage),
            _ => Err(NotMls::WireFormat),
        }
    }

    /// Reads a `PrivateMessage` of the application, the only kind that the message route takes.
    ///
    /// # Errors
    /// When these are the bytes of anything else.
    pub fn parse_application(message: &[u8]) -> Result<Framing, NotMls> {
        match Self::parse(message)? {
            Self::Private(framing) if framing.content_type == ContentType::Application => Ok(framing),
            Self::Public(..) | Self::Private(_) | Self::Welcome | Self::GroupInfo | Self::KeyPackage => {
                Err(NotMls::NotApplication)
            }
        }
    }
}

fn private(mut reader: Reader<'_>) -> Result<Header, NotMls> {
    let (group_id, epoch) = place(&mut reader)?;
    let content_type = content_type(&mut reader)?;
    let (_authenticated_data, _sender_data, _ciphertext) =
        (reader.vector()?, reader.vector()?, reader.vector()?);
    reader.end()?;
    Ok(Header::Private(Framing { group_id, epoch, content_type }))
}

/// Reads the front of a `FramedContent`, up to the content itself.
pub(super) fn public(reader: &mut Reader<'_>) -> Result<Header, NotMls> {
    let (group_id, epoch) = place(reader)?;
    let sender = match reader.u8()? {
        1 => PublicSender::Member(reader.u32()?),
        2 => PublicSender::External(reader.u32()?),
        3 => PublicSender::NewMemberProposal,
        4 => PublicSender::NewMemberCommit,
        _ => return Err(NotMls::Malformed),
    };
    let _authenticated_data = reader.vector()?;
    let content_type = content_type(reader)?;
    Ok(Header::Public(Framing { group_id, epoch, content_type }, sender))
}

fn place(reader: &mut Reader<'_>) -> Result<(GroupId, Epoch), NotMls> {
    let group_id = Uuid::from_slice(reader.vector()?).map_err(|_| NotMls::GroupId)?;
    let epoch = Epoch::from_wire(reader.u64()?).ok_or(NotMls::Epoch)?;
    Ok((GroupId::new(group_id), epoch))
}

fn content_type(reader: &mut Reader<'_>) -> Result<ContentType, NotMls> {
    match reader.u8()? {
        1 => Ok(ContentType::Application),
        2 => Ok(ContentType::Proposal),
        3 => Ok(ContentType::Commit),
        _ => Err(NotMls::Malformed),
    }
}
