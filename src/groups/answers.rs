//! What callers learn of groups, on the wire.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Changed, GroupFace, GroupSent, Page};
use crate::{
    domain::{Epoch, GroupId, Item},
    store::Invite,
    wire::{B64, GroupView, Id, LogEntryView, MemberView, Time, WelcomeView},
};

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
    pub join_token: String,
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
