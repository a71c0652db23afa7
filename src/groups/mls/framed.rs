//! The two `PublicMessage`s that a group with private handshakes takes, read by hand: there is no tree that the library could
//! judge them by, but their signatures verify under the calling device's registered key.

use openmls::prelude::SignContent;
use openmls_traits::crypto::OpenMlsCrypto as _;
use tls_codec::Serialize as _;

use super::{
    CommitFault, NotMls, ProposalFault, Refusal, Sender, StateFault, header,
    identity::{identity, registered_key},
    provider::{self, Verifier},
    reader::Reader,
};
use crate::domain::CipherSuite;

/// `ProposalType`s (RFC 9420 §17.4, and `SelfRemove` of draft-ietf-mls-extensions).
const REMOVE: u16 = 3;
const PRE_SHARED_KEY: u16 = 4;
const EXTERNAL_INIT: u16 = 6;
const SELF_REMOVE: u16 = 0x000a;

/// `CredentialType` basic.
const BASIC: u16 = 1;
/// `LeafNodeSource` commit.
const COMMIT: u8 = 3;

/// Checks an external commit by which the calling device comes in, and which removes a leaf exactly if the device has one. Of
/// the leaf that it removes no more can be seen than that it is one. Returns the confirmation tag, which is not signed.
pub(super) fn check_external_commit<'a>(
    message: &'a [u8],
    context: &[u8],
    suite: CipherSuite,
    sender: &Sender<'_>,
    has_leaf: bool,
) -> Result<&'a [u8], Refusal> {
    let mut reader = content(message)?;
    let (inits, removes) = count_proposals(Reader::new(reader.vector()?))?;
    if inits != 1 || removes > 1 {
        return Err(ProposalFault::External.into());
    }
    match (removes == 1, has_leaf) {
        (true, false) => return Err(ProposalFault::External.into()),
        (false, true) => return Err(CommitFault::SecondLeaf.into()),
        (true, true) | (false, false) => {}
    }
    if reader.u8()? != 1 {
        return Err(CommitFault::NoPath.into());
    }
    check_leaf(&mut reader, suite, sender)?;
    let _nodes = reader.vector()?;
    let signed = signed_part(message, reader);
    let (signature, confirmation_tag) = (reader.vector()?, reader.vector()?);
    reader.end()?;
    verify(signed, context, suite, sender, signature)?;
    Ok(confirmation_tag)
}

/// Checks a `SelfRemove` of the calling device.
pub(super) fn check_self_remove(
    message: &[u8],
    context: &[u8],
    suite: CipherSuite,
    sender: &Sender<'_>,
) -> Result<(), Refusal> {
    let mut reader = content(message)?;
    if reader.u16()? != SELF_REMOVE {
        return Err(ProposalFault::Framing.into());
    }
    let signed = signed_part(message, reader);
    let (signature, _membership_tag) = (reader.vector()?, reader.vector()?);
    reader.end()?;
    verify(signed, context, suite, sender, signature)
}

/// What follows the front of a `PublicMessage`.
fn content(message: &[u8]) -> Result<Reader<'_>, NotMls> {
    let mut reader = Reader::new(message);
    let (_version, _wire_format) = (reader.u16()?, reader.u16()?);
    header::public(&mut reader)?;
    Ok(reader)
}

/// Version, wire format and content: what is signed, before the group context (RFC 9420 §6.1).
fn signed_part<'a>(message: &'a [u8], reader: Reader<'_>) -> &'a [u8] {
    message.split_at(message.len() - reader.rest().len()).0
}

/// How many external inits and removes there are. Anything else but pre-shared keys has no place here.
fn count_proposals(mut list: Reader<'_>) -> Result<(u32, u32), Refusal> {
    let (mut inits, mut removes) = (0, 0);
    while !list.rest().is_empty() {
        // By value; what is named by reference cannot be looked up.
        if list.u8()? != 1 {
            return Err(ProposalFault::External.into());
        }
        match list.u16()? {
            EXTERNAL_INIT => {
                let _kem_output = list.vector()?;
                inits += 1;
            }
            REMOVE => {
                let _leaf_index = list.u32()?;
                removes += 1;
            }
            PRE_SHARED_KEY => skip_pre_shared_key(&mut list)?,
            _other => return Err(ProposalFault::External.into()),
        }
    }
    Ok((inits, removes))
}

/// A `PreSharedKeyID` (RFC 9420 §8.4).
fn skip_pre_shared_key(list: &mut Reader<'_>) -> Result<(), NotMls> {
    match list.u8()? {
        1 => {
            let _psk_id = list.vector()?;
        }
        2 => {
            let (_usage, _group_id, _epoch) = (list.u8()?, list.vector()?, list.u64()?);
        }
        _ => return Err(NotMls::Malformed),
    }
    let _nonce = list.vector()?;
    Ok(())
}

/// A `LeafNode` (RFC 9420 §7.2) of the calling device, with its registered key.
fn check_leaf(reader: &mut Reader<'_>, suite: CipherSuite, sender: &Sender<'_>) -> Result<(), Refusal> {
    let _encryption_key = reader.vector()?;
    let signature_key = reader.vector()?;
    let named = reader.u16()? == BASIC
        && reader.vector()? == identity(sender.caller.user_id, &sender.caller.device_id);
    if !named {
        return Err(CommitFault::Identity.into());
    }
    if registered_key(sender.keys, suite) != Some(signature_key) {
        return Err(CommitFault::UnregisteredKey.into());
    }
    for _capability in ["versions", "suites", "extensions", "proposals", "credentials"] {
        reader.vector()?;
    }
    if reader.u8()? != COMMIT {
        return Err(CommitFault::Path.into());
    }
    let (_parent_hash, _extensions, _signature) = (reader.vector()?, reader.vector()?, reader.vector()?);
    Ok(())
}

fn verify(
    signed: &[u8],
    context: &[u8],
    suite: CipherSuite,
    sender: &Sender<'_>,
    signature: &[u8],
) -> Result<(), Refusal> {
    let key = registered_key(sender.keys, suite).ok_or(CommitFault::UnregisteredKey)?;
    let framed = SignContent::new("FramedContentTBS", [signed, context].concat().into());
    let framed = framed.tls_serialize_detached().map_err(|_| StateFault::Library)?;
    let scheme = provider::suite(suite).signature_algorithm();
    Verifier.verify_signature(scheme, &framed, key, signature).map_err(|_| Refusal::NotYou)
}
