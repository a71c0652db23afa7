//! Groups on the wire: request bodies and answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Changed, GroupFace, GroupSendRequest, GroupSent, Page};
use crate::{
    domain::{Epoch, GroupId, Item, MessageId, UserId},
    http::{BodyKind, Problem, RequestBody},
    store::Invite,
    wire::{
        B64, ExternalJoin, GroupView, Handshake, Id, LogEntryView, MemberView, MessageType, Role, Time,
        WelcomeView,
    },
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
    pub epoch: u64,
    /// BLAKE3 of the commit: 32 bytes.
    pub commit_blake3: B64,
    /// At most 256 bytes.
    pub reason: String,
}

impl RequestBody for ReportBody {}

/// What a sender learns.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupSentAnswer {
    message_id: Id,
    group_id: Id,
    position: i64,
    /// The position again.
    sequence_number: i64,
    timestamp: Time,
    epoch: i64,
    #[schema(example = "Sent")]
    status: &'static str,
}

impl From<GroupSent> for GroupSentAnswer {
    fn from(sent: GroupSent) -> Self {
        let (GroupSent::Stored(receipt) | GroupSent::Repeated(receipt)) = sent;
        Self {
            message_id: Id(receipt.message_id.uuid()),
            group_id: Id(receipt.group_id.uuid()),
            position: receipt.position.0,
            sequence_number: receipt.position.0,
            timestamp: Time(receipt.accepted_at),
            epoch: receipt.epoch.0,
            status: "Sent",
        }
    }
}

/// Where the group stands after a change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedAnswer {
    success: bool,
    epoch: i64,
    /// Of the entry in the group's log.
    position: i64,
}

impl From<Changed> for ChangedAnswer {
    fn from(changed: Changed) -> Self {
        Self { success: true, epoch: changed.epoch.0, position: changed.position.0 }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GroupSuccess)]
pub(super) struct Success {
    pub success: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupsAnswer {
    pub groups: Vec<GroupView>,
    pub count: usize,
    /// For the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<Id>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MembersAnswer {
    pub members: Vec<MemberView>,
    pub count: usize,
}

/// A join token. The relay keeps its hash only, so it is shown once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InviteAnswer {
    pub invite_id: Id,
    /// For the header `X-Join-Token`.
    pub token: String,
    pub expires_at: Time,
}

/// What is known of a join token that was given out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invite)]
pub(super) struct InviteView {
    invite_id: Id,
    created_at: Time,
    expires_at: Time,
}

impl From<Invite> for InviteView {
    fn from(invite: Invite) -> Self {
        Self {
            invite_id: Id(invite.invite_id.uuid()),
            created_at: Time(invite.created_at),
            expires_at: Time(invite.expires_at),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InvitesAnswer {
    pub invites: Vec<InviteView>,
    pub count: usize,
}

/// The item that opened a window without a Welcome.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JoinedView {
    message_id: Id,
    group_id: Id,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogAnswer {
    entries: Vec<LogEntryView>,
    /// The last position that the device may see as of now.
    head: i64,
    /// The first position that it may see and that is left.
    oldest: i64,
    more: bool,
    next_after: i64,
    /// The Welcome that lets the device read these entries, while it waits in its mailbox. To be processed before them, and
    /// to be acked there.
    #[serde(skip_serializing_if = "Option::is_none")]
    welcome: Option<WelcomeView>,
    /// The same of a window that was opened without a Welcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined: Option<JoinedView>,
}

impl From<Page> for LogAnswer {
    fn from(page: Page) -> Self {
        let (mut welcome, mut joined) = (None, None);
        match page.opening {
            Some(Item::Welcome { message_id, group_id, epoch, welcome: body, .. }) => {
                welcome = Some(WelcomeView::new(message_id, group_id, epoch, &body));
            }
            Some(Item::Joined { message_id, group_id, .. }) => {
                joined =
                    Some(JoinedView { message_id: Id(message_id.uuid()), group_id: Id(group_id.uuid()) });
            }
            Some(Item::Message(_) | Item::Deleted { .. } | Item::DevicesChanged { .. }) | None => {}
        }
        Self {
            entries: page.entries.iter().map(LogEntryView::from).collect(),
            head: page.head.0,
            oldest: page.oldest.0,
            more: page.more,
            next_after: page.next_after.0,
            welcome,
            joined,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TreeAnswer {
    group_id: Id,
    epoch: i64,
    ratchet_tree: B64,
}

impl TreeAnswer {
    pub(super) fn new(group: GroupId, epoch: Epoch, tree: bytes::Bytes) -> Self {
        Self { group_id: Id(group.uuid()), epoch: epoch.0, ratchet_tree: B64(tree) }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InfoAnswer {
    group_id: Id,
    epoch: i64,
    group_info: B64,
    /// Null where the relay does not know it (private handshakes).
    ratchet_tree: Option<B64>,
    /// In the order in which they came.
    proposals: Vec<B64>,
    /// How many devices say that they could not process the commit that opened this epoch.
    reports: u32,
}

impl InfoAnswer {
    pub(super) fn new(group: GroupId, face: GroupFace) -> Self {
        Self {
            group_id: Id(group.uuid()),
            epoch: face.epoch.0,
            group_info: B64(face.group_info),
            ratchet_tree: face.tree.map(B64),
            proposals: face.proposals.into_iter().map(B64).collect(),
            reports: face.reports,
        }
    }
}

/// The user ids of a list.
pub(super) fn users(ids: Vec<Id>) -> Vec<UserId> {
    ids.into_iter().map(|id| UserId::new(id.0)).collect()
}
