//! What callers bring to groups, on the wire.

use serde::Deserialize;
use utoipa::ToSchema;

use super::GroupSendRequest;
use crate::{
    domain::{GroupId, MessageId, UserId},
    http::{BodyKind, Problem, RequestBody},
    wire::{B64, ExternalJoin, Handshake, Id, MessageType, Role},
};

/// A group to be made. With `group_info` an MLS group, without a roster group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    /// A sealed blob of at most 4 KiB, in base64.
    pub name: Option<String>,
    pub description: Option<String>,
    /// The further members of a roster group.
    pub member_ids: Option<Vec<Id>>,
    /// Makes the request repeatable. An MLS group's is in its `GroupInfo`.
    pub group_id: Option<Id>,
    /// The creator's own device.
    pub device_id: Option<String>,
    /// `public` where nothing is said, for an MLS group.
    pub handshake: Option<Handshake>,
    /// `resync` where nothing is said, for an MLS group.
    pub external_join: Option<ExternalJoin>,
    /// The `GroupInfo` of epoch 0, an `MLSMessage`.
    pub group_info: Option<B64>,
    /// The tree, if it is not in the `GroupInfo`.
    pub ratchet_tree: Option<B64>,
    /// The commit that fills the group, an `MLSMessage`.
    pub commit: Option<B64>,
    /// The Welcome to that commit.
    pub welcome: Option<B64>,
    /// The `GroupInfo` of epoch 1.
    pub commit_group_info: Option<B64>,
}

impl RequestBody for CreateBody {
    const KIND: BodyKind = BodyKind::Group;
}

/// Members to add: `user_id` or `user_ids` in a roster group, a commit with its Welcome in an MLS group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MembersBody {
    pub user_id: Option<Id>,
    /// With a commit: whose devices it adds, if that is to be checked.
    pub user_ids: Option<Vec<Id>>,
    pub commit: Option<B64>,
    pub group_info: Option<B64>,
    pub welcome: Option<B64>,
    /// The caller's own device.
    pub device_id: Option<String>,
}

impl RequestBody for MembersBody {
    const KIND: BodyKind = BodyKind::Group;
}

/// A device that a commit removes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovedDevice {
    pub user_id: Id,
    pub device_id: String,
}

/// What removes a member of an MLS group: a commit, or for oneself `proposals`; a roster group needs no body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovalBody {
    pub commit: Option<B64>,
    pub group_info: Option<B64>,
    /// With private handshakes: the devices that the commit removes.
    pub removed: Option<Vec<RemovedDevice>>,
    /// A Remove or a `SelfRemove` for every leaf of one's own.
    pub proposals: Option<Vec<B64>>,
    /// The caller's own device.
    pub device_id: Option<String>,
}

impl RequestBody for RemovalBody {
    const KIND: BodyKind = BodyKind::Group;
}

/// A commit, an external one too.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommitBody {
    /// An `MLSMessage`.
    pub commit: B64,
    /// The `GroupInfo` of the epoch that the commit opens.
    pub group_info: B64,
    /// Exactly when the commit adds somebody.
    pub welcome: Option<B64>,
    /// With private handshakes: the devices that the commit removes.
    pub removed: Option<Vec<RemovedDevice>>,
    /// The sender's own device.
    pub device_id: Option<String>,
}

impl RequestBody for CommitBody {
    const KIND: BodyKind = BodyKind::Group;
}

/// A proposal for the next commit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposalBody {
    /// An `MLSMessage`.
    pub proposal: B64,
    /// The sender's own device.
    pub device_id: Option<String>,
}

impl RequestBody for ProposalBody {
    const KIND: BodyKind = BodyKind::Group;
}

/// A message for a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSendBody {
    /// An `MLSMessage` (`PrivateMessage`); in a roster group any sealed bytes.
    ciphertext: B64,
    /// Makes the send repeatable.
    message_id: Option<Id>,
    /// The sender's own device.
    pub(super) device_id: Option<String>,
    message_type: Option<MessageType>,
    /// 1–2592000: the body is erased then.
    expires_in_seconds: Option<u64>,
}

impl RequestBody for GroupSendBody {
    const KIND: BodyKind = BodyKind::Message;
}

impl GroupSendBody {
    /// The message as a request for this group.
    ///
    /// # Errors
    /// 400 for a nil `message_id`.
    pub fn request(self, group_id: GroupId) -> Result<GroupSendRequest, Problem> {
        Ok(GroupSendRequest {
            group_id,
            message_type: self.message_type.unwrap_or(MessageType::Opaque).into(),
            message_id: self.message_id.map(message_id).transpose()?,
            expires_in_seconds: self.expires_in_seconds,
            ciphertext: self.ciphertext.0,
        })
    }
}

/// A message for a group as a socket frame.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSendFrame {
    #[serde(rename = "type")]
    _type: String,
    /// The client's name for this request; comes back with the answer.
    #[serde(rename = "ref")]
    _reference: Option<String>,
    group_id: Id,
    ciphertext: B64,
    message_id: Option<Id>,
    /// The sender's own device.
    pub device_id: Option<String>,
    message_type: Option<MessageType>,
    expires_in_seconds: Option<u64>,
}

impl TryFrom<GroupSendFrame> for GroupSendRequest {
    type Error = Problem;

    fn try_from(frame: GroupSendFrame) -> Result<Self, Problem> {
        let body = GroupSendBody {
            ciphertext: frame.ciphertext,
            message_id: frame.message_id,
            device_id: frame.device_id,
            message_type: frame.message_type,
            expires_in_seconds: frame.expires_in_seconds,
        };
        body.request(GroupId::new(frame.group_id.0))
    }
}

fn message_id(id: Id) -> Result<MessageId, Problem> {
    let id = MessageId::new(id.0);
    if id.is_nil() { Err(Problem::bad_field("message_id", "the nil UUID names no message")) } else { Ok(id) }
}

/// A new name, a new description, or both.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribeBody {
    /// A sealed blob of at most 4 KiB, in base64.
    pub name: Option<String>,
    pub description: Option<String>,
}

impl RequestBody for DescribeBody {}

impl DescribeBody {
    /// Refuses what no store keeps.
    pub(super) fn check(&self) -> Result<(), Problem> {
        texts(self.name.as_ref(), self.description.as_ref())
    }
}

/// Refuses texts that no store keeps.
pub(super) fn texts(name: Option<&String>, description: Option<&String>) -> Result<(), Problem> {
    for (field, text) in [("name", name), ("description", description)] {
        if text.is_some_and(|text| text.contains('\0')) {
            return Err(Problem::bad_field(field, "a NUL is not text"));
        }
    }
    Ok(())
}

/// What a member may do from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleBody {
    pub role: Role,
}

impl RequestBody for RoleBody {}

/// A join token to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InviteBody {
    /// 60–2592000.
    pub expires_in_seconds: Option<u64>,
}

impl RequestBody for InviteBody {}

/// A commit that a member could not process (RFC 9420 §16.12).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportBody {
    /// The epoch that the commit is for.
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub epoch: u64,
    /// BLAKE3 of the commit: 32 bytes.
    pub commit_blake3: B64,
    /// At most 256 bytes.
    #[schema(max_length = 256)]
    pub reason: String,
}

impl RequestBody for ReportBody {}

/// The user ids of a list.
pub(super) fn users(ids: Vec<Id>) -> Vec<UserId> {
    ids.into_iter().map(|id| UserId::new(id.0)).collect()
}
