//! What acts on groups take and become (RFC 9420, RFC 9750 §5; the rules are in MLS.md).
//!
//! A group is a row with a log of entries. A device reads the log within its windows: one is opened when it is added, ends
//! with the entry that removes it, and moves by acks alone. In a roster group every active device of a member user has one;
//! in an MLS group every leaf. Whether a device may write is whether it has a window that has not ended.

use bytes::Bytes;

use crate::domain::{
    Caller, CipherSuite, DeviceNo, Epoch, ExternalJoin, Group, GroupId, GroupReceipt, Handshake, InviteId,
    KeyPackageRef, LogEntry, Member, Position, Role, Timestamp, UserId, Window,
};

/// Proposals that a group may have pending.
pub const MOST_PROPOSALS: usize = 256;

/// How long the log of a group, and the trees for joiners, are kept.
pub const LOG_LIFE: std::time::Duration = std::time::Duration::from_hours(30 * 24);

/// A device that a commit adds.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// The incarnation.
    pub device_no: DeviceNo,
    /// The key package by which it enters.
    pub reference: KeyPackageRef,
    /// Its leaf; none where the relay cannot know it.
    pub leaf_index: Option<u32>,
    /// The Welcome for it alone, an `MLSMessage`.
    pub welcome: Bytes,
}

/// A commit as it came, an `MLSMessage`.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The bytes.
    pub body: Bytes,
    /// BLAKE3 of them.
    pub digest: [u8; 32],
}

/// The public state of an MLS group in one epoch.
#[derive(Debug, Clone)]
pub struct EpochState {
    /// The state of the relay's `PublicGroup`, behind its format number; none with private handshakes.
    pub state: Option<Bytes>,
    /// The `GroupInfo` that opened the epoch, an `MLSMessage`.
    pub group_info: Bytes,
    /// The ratchet tree for those who join at this epoch, and the current one for members; none where the relay does not
    /// know it.
    pub tree: Option<Bytes>,
}

/// The MLS side of a group that is made or reset.
#[derive(Debug, Clone)]
pub struct MlsFounding {
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// The commit that fills it, if one came in the same call: epoch 0 becomes epoch 1.
    pub commit: Option<Commit>,
    /// Whom that commit adds.
    pub joiners: Vec<Joiner>,
    /// The state of the resulting epoch: 0, or 1 with a commit.
    pub epoch_state: EpochState,
}

/// What a group is made with.
#[derive(Debug, Clone)]
pub enum Founding {
    /// A roster group with these further members.
    Roster(Vec<UserId>),
    /// An MLS group; the founding device has leaf 0.
    Mls(Box<MlsFounding>),
}

/// A group to be made.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Its id.
    pub group_id: GroupId,
    /// BLAKE3 over everything in the request that the client decides.
    pub digest: [u8; 32],
    /// The device that makes it; its user becomes the owner.
    pub by: Caller,
    /// See [`Group::name`].
    pub name: Option<String>,
    /// See [`Group::description`].
    pub description: Option<String>,
    /// How handshakes travel; `None` exactly for a roster group.
    pub handshake: Handshake,
    /// Who may join by an external commit; `None` for a roster group.
    pub external_join: ExternalJoin,
    /// The rest.
    pub founding: Founding,
}

/// Why devices or users could not be added. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannotAdd {
    /// The key package entered a group before, was dropped, or was never handed out.
    PackageUsed(KeyPackageRef),
    /// The device was deactivated.
    DeviceGone(DeviceNo),
    /// The user has no active device, or was never there.
    UserUnknown(UserId),
    /// The device's mailbox is full, or full of the adding user.
    MailboxFull,
    /// The group would have more members or leaves than [`super::Limits::max_members`].
    GroupFull,
    /// The user is in [`super::Limits::max_groups`] other groups.
    TooManyGroups(UserId),
}

/// What became of a group to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupCreated {
    /// It is there.
    Created(Group),
    /// The same device made it with the same digest before; it may have moved on since.
    Repeated(Group),
    /// The id belongs to another group or to a conversation.
    Exists,
    /// The founder's device was deactivated.
    Gone,
    /// Somebody could not be added.
    CannotAdd(CannotAdd),
}

/// What became of a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupReset {
    /// The group begins anew, after the entry at this position.
    Reset(Group, Position),
    /// The same reset was done before.
    Repeated(Group, Position),
    /// The calling device's user has no part in such a group, or it is no MLS group.
    NotMember,
    /// The caller is not its owner.
    NotAllowed,
    /// It was reset, or its handshakes are stricter, meanwhile.
    Changed,
    /// Somebody could not be added.
    CannotAdd(CannotAdd),
}

/// A group as one device stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The group.
    pub group: Group,
    /// Changes whenever proposals, roles, or who of the roster is active or leaving change, and with every epoch.
    pub version: i64,
    /// The user's role; none when the user is not in the group.
    pub role: Option<Role>,
    /// See [`Member::invited`].
    pub invited: bool,
    /// The device's newest window; none when it never had one.
    pub window: Option<Window>,
    /// The device's leaf in the current epoch: `Some(None)` when it has one whose index the relay does not know.
    pub leaf: Option<Option<u32>>,
    /// Reports of a broken commit in the current epoch.
    pub reports: u32,
}

impl Standing {
    /// Whether the device is in the group and has not proposed to leave.
    #[must_use]
    pub fn may_write(&self) -> bool {
        self.window.is_some_and(|window| window.closed_at.is_none())
    }
}

/// A commit that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCommit {
    /// The device that sent it.
    pub sender: DeviceNo,
    /// BLAKE3 of it.
    pub digest: [u8; 32],
    /// The epoch it was for.
    pub epoch: Epoch,
    /// Its place in the log.
    pub position: Position,
}

/// A proposal that waits for a commit.
#[derive(Debug, Clone)]
pub struct PendingProposal {
    /// Who sent it.
    pub sender: DeviceNo,
    /// The leaf's device that it is about, for Remove and `SelfRemove`.
    pub target: Option<DeviceNo>,
    /// The proposal, an `MLSMessage`.
    pub body: Bytes,
}

/// What a commit is judged by, read at one moment.
#[derive(Debug, Clone)]
pub struct HandshakeState {
    /// See [`Standing::version`].
    pub version: i64,
    /// See [`Group::generation`].
    pub generation: i64,
    /// The current epoch.
    pub epoch: Epoch,
    /// BLAKE3 of the state, by which a cached copy is known; none with private handshakes.
    pub state_digest: Option<[u8; 32]>,
    /// The `GroupInfo` of the epoch.
    pub group_info: Bytes,
    /// Proposals of this epoch, in order of arrival.
    pub proposals: Vec<PendingProposal>,
    /// Everybody in the group.
    pub members: Vec<Member>,
}

/// A commit that was judged, to be made true.
#[derive(Debug, Clone)]
pub struct Advance {
    /// The group.
    pub group_id: GroupId,
    /// The committing device.
    pub by: Caller,
    /// The version it was judged by.
    pub version: i64,
    /// The generation it was judged by.
    pub generation: i64,
    /// The epoch it is for.
    pub epoch: Epoch,
    /// The commit.
    pub commit: Commit,
    /// The state of the next epoch.
    pub epoch_state: EpochState,
    /// Whom it adds.
    pub joiners: Vec<Joiner>,
    /// The committer's own new leaf, when it joins by an external commit.
    pub external: Option<ExternalJoiner>,
    /// Whose leaves it removes, of the devices in the group; for a resync also the committer's own old one.
    pub removed: Vec<DeviceNo>,
}

/// A device that joins by an external commit of its own.
#[derive(Debug, Clone, Copy)]
pub struct ExternalJoiner {
    /// Its leaf; none where the relay cannot know it.
    pub leaf_index: Option<u32>,
    /// BLAKE3 of the join token that lets it in, if it needs one: it must still hold when the commit is made true.
    pub invite: Option<[u8; 32]>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advanced {
    /// The group is in this epoch now, after the commit's entry.
    Advanced(Epoch, Position),
    /// The same commit of the same device was accepted before: the epoch it opened, and its entry.
    Repeated(Epoch, Position),
    /// The group is in another epoch: this one, perhaps of another generation.
    Stale(Epoch),
    /// The version is another one: judge again.
    Changed,
    /// The caller has no part in the group any more, or the join token ended.
    NotMember,
    /// Somebody could not be added.
    CannotAdd(CannotAdd),
}

/// Proposals to be kept for the next commit. All, or none.
#[derive(Debug, Clone)]
pub struct NewProposals {
    /// The group.
    pub group_id: GroupId,
    /// The proposing device.
    pub by: Caller,
    /// The generation they were judged by.
    pub generation: i64,
    /// The epoch they are for.
    pub epoch: Epoch,
    /// The proposals, in order.
    pub proposals: Vec<NewProposal>,
}

/// A proposal that was judged.
#[derive(Debug, Clone)]
pub struct NewProposal {
    /// The proposal, an `MLSMessage`.
    pub body: Bytes,
    /// The leaf's device that it is about, for Remove and `SelfRemove`.
    pub target: Option<DeviceNo>,
    /// Whether the target leaves by it: a device of the proposer's own user. Its window ends with this entry.
    pub leaves: bool,
}

/// What became of proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// They are in the log, the last of them at this position; now, or since an identical request.
    Accepted(Epoch, Position),
    /// The group is in another epoch: this one, perhaps of another generation.
    Stale(Epoch),
    /// The proposal at this index is another one about a target that this device has proposed about.
    Exists(usize),
    /// The group has as many as it may ([`MOST_PROPOSALS`]).
    TooMany,
    /// The device is not in the group, or leaves it.
    NotMember,
    /// The store was restored: see [`Group::rolled_back`].
    RolledBack,
}

/// What became of a message for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupAccepted {
    /// Committed.
    Stored(GroupReceipt),
    /// The same send of the same device was committed before.
    Repeated(GroupReceipt),
    /// There is no such group, or the device may not write in it.
    NotMember,
    /// The id belongs to another send.
    MessageIdReused,
    /// The body names an epoch, and the group is a roster group; or the other way round.
    WrongKind,
    /// The epoch is not one from which messages are taken: the current one.
    Stale(Epoch),
    /// The store was restored: see [`Group::rolled_back`].
    RolledBack,
}

/// A change of a roster group's members.
#[derive(Debug, Clone)]
pub struct RosterChange {
    /// The group.
    pub group_id: GroupId,
    /// The device that asks for it.
    pub by: Caller,
    /// Users to add; those who are in the group already are skipped.
    pub add: Vec<UserId>,
    /// Users to remove; the caller's own to leave.
    pub remove: Vec<UserId>,
}

/// What became of a change of a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RosterChanged {
    /// Done, now or before: the epoch and the entry of the last change, as they are now.
    Changed(Epoch, Position),
    /// The caller has no part in such a group.
    NotMember,
    /// The caller may not add or remove them.
    NotAllowed,
    /// It is an MLS group, whose roster only commits change.
    CommitRequired,
    /// A user to be removed is not in the group.
    Unknown,
    /// Somebody could not be added.
    CannotAdd(CannotAdd),
}

/// What became of an act that needs a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Done, now or before.
    Done,
    /// The caller has no part in such a group.
    NotMember,
    /// The caller's role is too small, or it is the owner's role that would be taken away.
    NotAllowed,
    /// What it is about is not there.
    Unknown,
    /// There are as many as there may be.
    TooMany,
}

/// A join token that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invite {
    /// Its id.
    pub invite_id: InviteId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Join tokens that a group may have at one time.
pub const MOST_INVITES: usize = 64;

/// A member's report of a commit that it could not process (RFC 9420 §16.12).
#[derive(Debug, Clone)]
pub struct Report {
    /// The group.
    pub group_id: GroupId,
    /// The reporting device.
    pub by: Caller,
    /// The epoch the commit was for.
    pub epoch: Epoch,
    /// BLAKE3 of the commit.
    pub commit: [u8; 32],
    /// Why, in at most 256 bytes.
    pub reason: String,
}

/// A page of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// The entries after the place asked for, ascending. A position that is left out between two of them, or between the last
    /// one and `head` when the page is not full, is gone for good.
    pub entries: Vec<LogEntry>,
    /// Whether the page ended by its limits, and not at the head.
    pub more: bool,
    /// The last position given in the log, as of the same moment.
    pub head: Position,
    /// The first position that is left; `head + 1` when none is.
    pub oldest: Position,
}

/// The lowest epoch from which an MLS group takes application messages once it is in `epoch`: at most `past` before it, and
/// none from before a removal.
#[must_use]
pub(super) fn oldest_epoch(before: Epoch, epoch: Epoch, removes: bool, past: u32) -> Epoch {
    if removes { epoch } else { before.max(Epoch(epoch.0 - i64::from(past))) }
}
