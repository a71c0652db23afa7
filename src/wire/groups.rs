//! Groups as clients see them: the group, its members, the entries of its log.

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{B64, Id, MessageType, Time};
use crate::domain::{self, Group, LogEntry, Member};

names!(
    /// See [`domain::Handshake`].
    Handshake of domain::Handshake, "snake_case": Public, Private, None
);
names!(
    /// See [`domain::ExternalJoin`].
    ExternalJoin of domain::ExternalJoin, "snake_case": None, Resync, Siblings, Token
);
names!(
    /// See [`domain::Role`].
    Role of domain::Role, "snake_case": Member, Admin, Owner
);
names!(
    /// See [`domain::EntryKind`].
    EntryKind of domain::EntryKind, "snake_case": Application, Commit, Proposal, Membership, Reset
);

/// A group as one of its members sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Group)]
#[expect(missing_docs, reason = "the fields are API.md's")]
pub struct GroupView {
    pub id: Id,
    pub group_id: Id,
    /// A sealed blob in base64, or with `PLAINTEXT_GUARD=off` whatever was written.
    pub name: Option<String>,
    pub description: Option<String>,
    pub created_by: Id,
    pub member_count: u32,
    pub max_members: u32,
    pub current_epoch: i64,
    /// The lowest epoch from which messages are taken.
    pub oldest_epoch: i64,
    /// `none`: a roster group.
    pub handshake: Handshake,
    pub external_join: ExternalJoin,
    /// Null for a roster group.
    pub cipher_suite: Option<u16>,
    /// The caller's.
    pub role: Role,
    /// Whether the caller was added to a roster group and has not acted in it yet.
    pub invited: bool,
    /// How often the group was made anew under its id.
    pub resets: i64,
    /// Whether the relay's store was restored to an earlier state: the group goes on after a reset or an external commit.
    pub rolled_back: bool,
    pub created_at: Time,
}

impl GroupView {
    /// The view of a group by a member of this role.
    #[must_use]
    pub fn new(group: Group, role: domain::Role, invited: bool, max_members: u32) -> Self {
        let id = Id(group.group_id.uuid());
        Self {
            id,
            group_id: id,
            name: group.name,
            description: group.description,
            created_by: Id(group.created_by.uuid()),
            member_count: group.member_count,
            max_members,
            current_epoch: group.epoch.0,
            oldest_epoch: group.oldest_epoch.0,
            handshake: group.handshake.into(),
            external_join: group.external_join.into(),
            cipher_suite: group.cipher_suite.map(domain::CipherSuite::number),
            role: role.into(),
            invited,
            resets: group.generation,
            rolled_back: group.rolled_back,
            created_at: Time(group.created_at),
        }
    }
}

/// A user in a group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
#[expect(missing_docs, reason = "the fields are API.md's")]
pub struct MemberView {
    pub user_id: Id,
    pub role: Role,
    /// Whether it was added to a roster group and has not acted in it yet.
    pub invited: bool,
    pub joined_at: Time,
    pub devices: Vec<MemberDeviceView>,
}

/// A device in a group: a leaf of an MLS group, a reader of a roster group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MemberDevice)]
#[expect(missing_docs, reason = "the fields are API.md's")]
pub struct MemberDeviceView {
    pub device_id: String,
    /// Null in roster groups, and where the relay cannot know it (private handshakes).
    pub leaf_index: Option<u32>,
    /// Whether it is registered still; anyone may remove the leaf of a device that is not.
    pub active: bool,
    /// Whether it has proposed to leave.
    pub leaving: bool,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        let device = |device: domain::MemberDevice| MemberDeviceView {
            device_id: device.device_id.as_str().to_owned(),
            leaf_index: device.leaf_index,
            active: device.active,
            leaving: device.leaving,
        };
        Self {
            user_id: Id(member.user_id.uuid()),
            role: member.role.into(),
            invited: member.invited,
            joined_at: Time(member.joined_at),
            devices: member.devices.into_iter().map(device).collect(),
        }
    }
}

/// An entry of a group's log.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = LogEntry)]
#[expect(missing_docs, reason = "the fields are API.md's")]
pub struct LogEntryView {
    pub group_id: Id,
    pub position: i64,
    /// The position again.
    pub sequence_number: i64,
    pub kind: EntryKind,
    pub message_id: Id,
    pub sender_id: Id,
    pub sender_device_id: String,
    /// Null but for application entries.
    pub message_type: Option<MessageType>,
    /// The epoch it was sent in.
    pub epoch: i64,
    /// An `MLSMessage`; in roster groups what was sent, and for `membership` JSON that the relay wrote:
    /// `{"added":[user_id…],"removed":[user_id…]}`. Null once expired.
    pub ciphertext: Option<B64>,
    pub timestamp: Time,
    /// When the body is erased before its time, if its sender asked for that.
    pub expires_at: Option<Time>,
}

impl From<&LogEntry> for LogEntryView {
    fn from(entry: &LogEntry) -> Self {
        Self {
            group_id: Id(entry.group_id.uuid()),
            position: entry.position.0,
            sequence_number: entry.position.0,
            kind: entry.kind.into(),
            message_id: Id(entry.message_id.uuid()),
            sender_id: Id(entry.sender_id.uuid()),
            sender_device_id: entry.sender_device_id.as_str().to_owned(),
            message_type: entry.message_type.map(Into::into),
            epoch: entry.epoch.0,
            ciphertext: entry.body.clone().map(B64),
            timestamp: Time(entry.accepted_at),
            expires_at: entry.expires_at.map(Time),
        }
    }
}
