//! The acts on groups (RFC 9420, RFC 9750 §5; the rules are in MLS.md).

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    StoreError,
    groups::{
        Advance, Advanced, Allowed, GroupAccepted, GroupCreated, GroupReset, HandshakeState, Invite, LogPage,
        NewGroup, NewProposals, Proposed, Report, RosterChange, RosterChanged, Standing, StoredCommit,
    },
};
use crate::domain::{
    Caller, DeviceNo, Epoch, GroupId, GroupSend, InviteId, Member, Membership, Position, Role, Timestamp,
    UserId, Window,
};

/// Acts on groups. See [`super::Store`] for what holds for every act.
#[async_trait]
pub trait GroupActs: Send + Sync {
    /// Makes a group, with the commit that fills it if one came: group, roster, windows, entries, state, Welcomes and
    /// `joined` items in one act. The founder's window begins before the first entry, a joiner's after the commit. Every
    /// window comes with an item in the device's mailbox, a Welcome or else `joined`. In a roster group the further members
    /// are `invited`. Group ids and conversation ids never collide: one of version 8, as those of the pairs' own conversations
    /// are, is `Exists` whether or not the pair has written yet.
    async fn create_group(&self, group: NewGroup, now: Timestamp) -> Result<GroupCreated, StoreError>;

    /// Where the group's present generation began by this very request of this device, or its first one: the position of the
    /// reset entry, and 0 for the founding. None when neither did, or there is no such group.
    async fn founding_of(
        &self,
        group: GroupId,
        by: DeviceNo,
        digest: [u8; 32],
    ) -> Result<Option<Position>, StoreError>;

    /// How a device stands in a group; none when there is no such group.
    async fn standing(&self, group: GroupId, caller: &Caller) -> Result<Option<Standing>, StoreError>;

    /// The commit that was accepted for this epoch of this generation, while its entry is kept.
    async fn commit_of(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<StoredCommit>, StoreError>;

    /// What commits and proposals are judged by, as of one moment; none when there is no such MLS group.
    async fn handshake_state(&self, group: GroupId) -> Result<Option<HandshakeState>, StoreError>;

    /// The public state of a group, if it is the one with this digest.
    async fn group_state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, StoreError>;

    /// Moves a group into its next epoch, or changes nothing: of two for one epoch exactly one succeeds, over all nodes.
    /// Epoch, entry, roster, state, used packages, windows, Welcomes and items are one act; pending proposals are gone. The
    /// windows of removed devices end with the commit's entry, those of added ones begin after it; a device that is removed
    /// and added in one commit gets a new window. After a removal the oldest epoch of application messages is the new one.
    /// A user whose last device is removed is out of the group; an owner's role goes to the oldest admin, else to the oldest
    /// member. A repeat is looked for first. An external commit ends
    /// [`rolled_back`](crate::domain::Group::rolled_back); other commits of such a group are `Stale`.
    async fn advance_group(&self, advance: Advance, now: Timestamp) -> Result<Advanced, StoreError>;

    /// Keeps proposals for the next commit and enters each into the log. Where all devices of the owner's user leave, the
    /// role is handed over at once.
    async fn propose(&self, proposals: NewProposals, now: Timestamp) -> Result<Proposed, StoreError>;

    /// Accepts a message for a group: one row, whatever the group's size. Takes its place in this node's order when called,
    /// like [`super::Store::accept_envelopes`]. Looked at in this order, under the group's lock: a repeat by the same device;
    /// whether the device may write; the id; the kind of body; whether the group was rolled back; the epoch. An invited
    /// member who writes is a member.
    ///
    /// # Errors
    /// As [`super::Store::accept_envelopes`].
    fn accept_group_send(&self, send: GroupSend) -> BoxFuture<'static, Result<GroupAccepted, StoreError>>;

    /// Entries after a place, ascending: at most `limit`, and about `bytes` bytes, but one if there is one. Bodies that have
    /// expired are left out of their entries.
    async fn group_log(
        &self,
        group: GroupId,
        after: Position,
        limit: u32,
        bytes: usize,
        now: Timestamp,
    ) -> Result<LogPage, StoreError>;

    /// The last position given in each of these logs. Any number may be asked for.
    async fn group_heads(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Position)>, StoreError>;

    /// The windows of a device that have not ended, or end after their cursor, and the head of each log; of one group if one
    /// is named. By group, oldest first.
    async fn windows(
        &self,
        device: DeviceNo,
        group: Option<GroupId>,
    ) -> Result<Vec<(Window, Position)>, StoreError>;

    /// Every window of a device in a group that still holds an entry, or has not ended; oldest first.
    async fn windows_in(&self, device: DeviceNo, group: GroupId) -> Result<Vec<Window>, StoreError>;

    /// Moves cursors: each to `max(old, min(position, head, end of the window))`. Groups that the device has no window in are
    /// left out.
    async fn ack_entries(&self, device: DeviceNo, acks: &[(GroupId, Position)]) -> Result<(), StoreError>;

    /// The groups that a user is in, by id, after one.
    async fn groups_of(
        &self,
        user: UserId,
        after: Option<GroupId>,
        limit: u32,
    ) -> Result<Vec<Membership>, StoreError>;

    /// Everybody in a group, the owner first, then by the moment of joining; none when there is no such group.
    async fn members(&self, group: GroupId) -> Result<Option<Vec<Member>>, StoreError>;

    /// The ratchet tree as of the beginning of an epoch of a generation, while it is kept: of the current epoch, and of those
    /// at which somebody joined by a Welcome.
    async fn ratchet_tree(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<Bytes>, StoreError>;

    /// Renames a group; what is none stays. Needs an admin.
    async fn describe_group(
        &self,
        group: GroupId,
        by: &Caller,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Allowed, StoreError>;

    /// Gives a member a role. Needs the owner; giving away the owner's role makes the former owner an admin.
    async fn set_role(
        &self,
        group: GroupId,
        by: &Caller,
        user: UserId,
        role: Role,
    ) -> Result<Allowed, StoreError>;

    /// Keeps a join token: BLAKE3 of it. Needs an admin.
    async fn make_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: Invite,
        token: [u8; 32],
    ) -> Result<Allowed, StoreError>;

    /// Ends a join token. Needs an admin.
    async fn revoke_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: InviteId,
    ) -> Result<Allowed, StoreError>;

    /// The join tokens of a group that have not ended, oldest first.
    async fn invites(&self, group: GroupId, now: Timestamp) -> Result<Vec<Invite>, StoreError>;

    /// Whether this is BLAKE3 of a join token of the group that has not ended.
    async fn is_invited(&self, group: GroupId, token: [u8; 32], now: Timestamp) -> Result<bool, StoreError>;

    /// Changes who is in a roster group, all or nothing: roster, epoch, a `membership` entry, windows, and a `joined` item for
    /// every device of an added user. An admin adds and removes, anyone leaves, nobody removes the owner. An owner who leaves
    /// hands over like [`GroupActs::advance_group`]. Changes nothing and adds no entry when there is nothing to change.
    async fn change_roster(&self, change: RosterChange, now: Timestamp) -> Result<RosterChanged, StoreError>;

    /// Keeps a report, one of a device for an epoch: the first stays. Needs a device that is in the group.
    async fn report_commit(&self, report: Report, now: Timestamp) -> Result<Allowed, StoreError>;

    /// Makes an MLS group anew under its id, as the owner: a `reset` entry ends every window, and then the founding goes as in
    /// [`GroupActs::create_group`], with the founder's window after that entry. Generation + 1; proposals, invites, reports
    /// and trees are gone. `handshake` must be the same or stricter. Name, description and `external_join` are those of the
    /// new founding where given.
    async fn reset_group(
        &self,
        group: NewGroup,
        generation: i64,
        now: Timestamp,
    ) -> Result<GroupReset, StoreError>;
}
