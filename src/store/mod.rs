//! The durable store: the truth about everything the relay has promised.
//!
//! One method is one atomic act, named by intent. Two engines keep these promises, Postgres and SQLite, and both pass
//! the conformance suite in `tests/relay/store.rs`. An outcome that a caller can act on is an enum value; an error
//! means that the store could not be asked, or that it is not known whether the act took place. Every act may be
//! repeated after an error.
//!
//! Acts that touch several rows lock them in one order: users by id, then conversation ids, then groups by id, then
//! mailboxes by `device_no`, then messages, then items; sessions come last.

mod ack;
mod committed;
mod decide;
mod device_list;
mod devices;
mod group_acts;
mod group_batch;
mod group_items;
mod group_rules;
mod groups;
mod lane;
mod ledger;
mod logins;
mod mail;
mod package_ledger;
mod packages;
pub mod postgres;
mod restored;
pub mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub use committed::{Committed, committed};
pub use devices::{
    Deactivated, KeyUpload, LinkOffer, OneTimeKeys, Published, Registered, Registration, Revival, TakenBundle,
};
pub use group_acts::GroupActs;
pub use groups::{
    Advance, Advanced, Allowed, CannotAdd, Commit, EpochState, ExternalJoiner, Founding, GroupAccepted,
    GroupCreated, GroupReset, HandshakeState, Invite, Joiner, LOG_LIFE, LogPage, MOST_INVITES,
    MOST_PROPOSALS, MlsFounding, NewGroup, NewProposal, NewProposals, PendingProposal, Proposed, Report,
    RosterChange, RosterChanged, Standing, StoredCommit,
};
pub use logins::{
    AUDIT_LIFE, LoggedIn, Login, NewSession, Principal, REFRESH_GRACE, REVOCATION_LIFE, Revocation, Rotated,
    Rotation, SESSIONS_PER_DEVICE, Session, SingleUse,
};
pub use mail::{Accepted, Deleted, Expired, HistoryQuery, Left, Mark, Marked};
pub use packages::{
    ClaimedPackage, IssuedPackage, MlsKeySet, PackageActs, PackagePlace, PackageUpload, PackagesPublished,
};
pub use restored::Restored;

pub use crate::domain::Mismatch;
use crate::domain::{
    AuditEntry, Block, Caller, ConversationId, Device, DeviceId, DeviceNo, IdentityKey, Item, KeyStats,
    LastingKeys, Message, MessageId, NetworkKey, Position, SecurityEvent, Send, SessionId, Timestamp, UserId,
};

/// The store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine is away, failed, or did not answer in time. Whether the act took place is not known.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + std::marker::Send + Sync>),
    /// Too much waits to be committed; nothing was done.
    #[error("the store is overloaded")]
    Overloaded,
}

/// What an engine is busy with at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Its connections, pool by pool.
    pub pools: Vec<Pool>,
    /// How many wait in each queue, by its name: items in the lanes, batches on their way to hot delivery.
    pub waiting: Vec<(&'static str, usize)>,
}

/// A pool of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Which it is.
    pub name: &'static str,
    /// Open connections.
    pub open: usize,
    /// Those of them that nobody uses.
    pub idle: usize,
}
/// How many blocks are read at a time, those that end the latest first.
pub const MOST_BLOCKS: u32 = 10_000;

/// The limits that acts enforce.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Active devices of a user.
    pub max_devices: u32,
    /// One-time pre-keys of one kind that a device may have stored.
    pub max_prekeys: u32,
    /// Items in a mailbox.
    pub mailbox_items: u32,
    /// Items of one sending user in a mailbox; at most `mailbox_items`.
    pub mailbox_items_per_sender: u32,
    /// How long a notice (`deleted`) waits for its device.
    pub notice_life: Duration,
    /// Members of a roster group, or leaves of an MLS group; at most [`crate::domain::MAX_MEMBERS`].
    pub max_members: u32,
    /// Groups that a user may be in. It may be passed by as many as MLS groups add different devices of the user to at the
    /// same moment.
    pub max_groups: u32,
    /// Epochs before the current one from which application messages are taken, while no device was removed since.
    pub past_epochs: u32,
}

/// The durable store. See the module's text for what holds for every act.
#[async_trait]
pub trait Store: GroupActs + PackageActs {
    /// Registers a device as a new incarnation: device, keys, mailbox and session, or nothing. The first registration
    /// claims the user id, if it may, and uses a revival's token up as well; a further one needs a link token for exactly
    /// this device id and identity key, which is used up; a user with no active device left comes back by a revival alone,
    /// whose token is used up. Of two that race for a user or device id one wins. The device number is the lowest that this
    /// user never had, else the lowest that is free. Of several keys that must not come the first is named, in the order of
    /// [`Store::publish_keys`].
    ///
    /// The user's other devices find a `devices_changed` notice, in place of an older one and even in a full mailbox; the
    /// event `DeviceAdded` (by the linking device, if one did) is entered. In each roster group of the user the device gets a
    /// window that begins at the head, and a `joined` item.
    async fn register_device(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Registered, StoreError>;

    /// The identity keys with which the user may come back: those of its former devices that ended themselves, newest first
    /// and at most 16. A device that another one ended adds none, because its key may be in a thief's hands; a key that it
    /// shared with one that ended itself counts. None for a user that nobody claimed, or that has an active device.
    async fn recovery_keys(&self, user: UserId) -> Result<Vec<IdentityKey>, StoreError>;

    /// Keeps a link token, in place of the user's outstanding one, and enters `LinkIssued`. False when the vouching device
    /// is not active.
    async fn offer_link(&self, offer: LinkOffer, now: Timestamp) -> Result<bool, StoreError>;

    /// Takes a bundle of one device, of the user's oldest active device when none is named. One-time keys in it are
    /// given to nobody else, over all nodes and crashes; lowest id first. None when there is no such active device.
    async fn take_bundle(
        &self,
        user: UserId,
        device: Option<&DeviceId>,
        onetime: OneTimeKeys,
    ) -> Result<Option<TakenBundle>, StoreError>;

    /// Takes a bundle of every active device of a user but `except`, oldest first, in one act. None when the user has
    /// no active device.
    async fn take_bundles(
        &self,
        user: UserId,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
    ) -> Result<Option<Vec<TakenBundle>>, StoreError>;

    /// Whether `from` wrote one of the latest 200 messages of this conversation that are still known.
    async fn has_written(&self, conversation: ConversationId, from: UserId) -> Result<bool, StoreError>;

    /// Adds and replaces keys of a device: all, or nothing. A new signed pre-key enters `KeyRotated`. Of several keys that
    /// must not come the first is named: the signed pre-key, then the one-time, the KEM and the last-resort ones.
    async fn publish_keys(
        &self,
        device: DeviceNo,
        upload: KeyUpload,
        now: Timestamp,
    ) -> Result<Published, StoreError>;

    /// Ends a device of the caller's user in one act: its keys, mailbox, sessions and link tokens are gone, a revocation
    /// is left, and messages it had not acked count as lost on it. Allowed for the device itself, for an older one,
    /// and for one registered more than 24 hours before `now`. The devices that are left find a `devices_changed` notice,
    /// as after a registration; `DeviceDeactivated` is entered. Its windows and key packages are gone; its leaves stay in the
    /// rosters of MLS groups, dead, until a commit removes them.
    async fn deactivate(
        &self,
        by: &Caller,
        target: &DeviceId,
        now: Timestamp,
    ) -> Result<Deactivated, StoreError>;

    /// The active devices of a user, oldest first.
    async fn devices(&self, user: UserId) -> Result<Vec<Device>, StoreError>;

    /// Notes that a device was seen, by the day.
    async fn note_seen(&self, device: DeviceNo, now: Timestamp) -> Result<(), StoreError>;

    /// How many keys an active device has at `now`; none when it was deactivated.
    async fn key_stats(&self, device: DeviceNo, now: Timestamp) -> Result<Option<KeyStats>, StoreError>;

    /// The lasting keys of an active device; none when it was deactivated.
    async fn lasting_keys(&self, device: DeviceNo) -> Result<Option<LastingKeys>, StoreError>;

    /// What was revoked at or after `since`, on any node, oldest first; for [`REVOCATION_LIFE`].
    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError>;

    /// Blocks a network at `now` ([`Block::after`]): for longer, the oftener it was blocked of late. One that is blocked
    /// stays as it is, so that nodes that block it at the same time block it once.
    async fn block(&self, network: NetworkKey, now: Timestamp) -> Result<Block, StoreError>;

    /// The blocks that have not ended at `now`, those that end the latest first, at most [`MOST_BLOCKS`]. One that an
    /// operator lifted is not among them.
    async fn blocks(&self, now: Timestamp) -> Result<Vec<Block>, StoreError>;

    /// Opens a session for a device that answered a challenge, which is used up; enters `LoggedIn`. When the device has
    /// [`SESSIONS_PER_DEVICE`] already, the one refreshed longest ago is ended and revoked; of several refreshed at the
    /// same moment the one opened first. A challenge that was used is told of before a device that is gone.
    async fn open_session(&self, login: Login, now: Timestamp) -> Result<LoggedIn, StoreError>;

    /// Replaces a session's refresh token, when the one that came is the current one and has not ended. The one before is
    /// answered as it was for [`REFRESH_GRACE`], while its successor is unused; anything else that came, having once been
    /// this session's, ends and revokes the session and enters `TokenReused`.
    async fn rotate_session(&self, rotation: Rotation, now: Timestamp) -> Result<Rotated, StoreError>;

    /// Ends and revokes a session of this device and enters `LoggedOut`. False when there is no such session any more.
    async fn end_session(
        &self,
        device: DeviceNo,
        session: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// The sessions of a user's devices that have not ended, oldest first.
    async fn sessions(&self, user: UserId, now: Timestamp) -> Result<Vec<Session>, StoreError>;

    /// Uses something up that works once. False when it was used before. Of two that race one wins.
    async fn use_once(&self, token: SingleUse) -> Result<bool, StoreError>;

    /// Enters a security event that no other act enters; nothing for a user id that nobody claimed, whose trail nobody
    /// will ever read.
    async fn note_event(&self, user: UserId, event: SecurityEvent, now: Timestamp) -> Result<(), StoreError>;

    /// A user's security events before an entry, or the newest, newest first.
    async fn audit(
        &self,
        user: UserId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError>;

    /// Accepts a send: durable for every addressed device when `Stored` is returned, unchanged store otherwise. The
    /// send takes its place in the order of this node when this method is called, before the future is polled; dropping
    /// the future does not take it back. A repeat is recognised before anything else is looked at.
    ///
    /// # Errors
    /// `Overloaded` when the queue of sends is full: nothing was done. `Unavailable` when it is not known whether it was
    /// committed: the same send may be repeated.
    fn accept_envelopes(&self, send: Send) -> BoxFuture<'static, Result<Accepted, StoreError>>;

    /// Erases items of a device's mailbox and returns how many were there. Takes its place when called, like
    /// [`Store::accept_envelopes`].
    fn ack(&self, device: DeviceNo, positions: Vec<Position>) -> BoxFuture<'static, Result<u32, StoreError>>;

    /// Where items lie in a device's mailbox, acked ones too, by their ids; unknown ids are left out.
    async fn positions_of(&self, device: DeviceNo, ids: &[MessageId]) -> Result<Vec<Position>, StoreError>;

    /// The last position given in each of these mailboxes; deactivated ones are left out. Any number of devices may be
    /// asked for.
    async fn mailbox_heads(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, Position)>, StoreError>;

    /// Which positions after `after` are left and not expired, and the head as of the same moment: keys only.
    async fn mailbox_left(
        &self,
        device: DeviceNo,
        after: Position,
        limit: u32,
        now: Timestamp,
    ) -> Result<Left, StoreError>;

    /// How many items wait and have not expired, counted up to `limit`.
    async fn mailbox_count(&self, device: DeviceNo, limit: u32, now: Timestamp) -> Result<u32, StoreError>;

    /// The items at these positions, ascending; those erased or expired by now are left out.
    async fn mailbox_items(
        &self,
        device: DeviceNo,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<Vec<(Position, Item)>, StoreError>;

    /// A page of a conversation, newest first, without what is deleted for the caller or for everyone, or expired.
    /// None when the caller has no part in such a conversation.
    async fn history(&self, query: HistoryQuery, now: Timestamp) -> Result<Option<Vec<Message>>, StoreError>;

    /// Notes what the recipient says of a message; the first time wins. None when it is not a message to that user.
    async fn mark(
        &self,
        recipient: UserId,
        message: MessageId,
        mark: Mark,
        now: Timestamp,
    ) -> Result<Option<Marked>, StoreError>;

    /// Hides a message from a user's history and erases what is left of it in that user's mailboxes, where it then
    /// counts as lost; may be repeated. Returns the places where bodies were put for that user, for whoever caches them;
    /// none when the user has no part in such a message.
    async fn delete_for_me(
        &self,
        user: UserId,
        message: MessageId,
    ) -> Result<Option<Vec<(DeviceNo, Position)>>, StoreError>;

    /// Erases the bodies left of a message and puts a notice into the mailbox of every active device it was addressed
    /// to, in one act; may be repeated, without a second notice. A mailbox that is full although nothing was erased in it
    /// gets none.
    async fn delete_for_everyone(
        &self,
        sender: UserId,
        message: MessageId,
        now: Timestamp,
    ) -> Result<Deleted, StoreError>;

    /// Does up to `limit` pieces of expiry: erases expired bodies, forgets metadata 30 days after acceptance, entries of
    /// group logs after [`LOG_LIFE`] and what else has ended. Safe to run on every node at once.
    async fn expire(&self, now: Timestamp, limit: u32) -> Result<Expired, StoreError>;

    /// Makes a store that was restored from a backup fit to be served, at `now`: what happened after the backup is lost
    /// to the store, and must not be undone behind the backs of those who saw it. To be done before any relay serves it;
    /// doing it again costs devices a login and an upload of keys, and harms nothing.
    ///
    /// - No one-time key is handed out that may have been before: all that are stored are erased, and stay known, so that
    ///   they are refused when they come again; every last-resort key counts as used.
    /// - No position of a mailbox or a group's log, device number or number of an entry of the audit trail is given that may have been given before:
    ///   each goes on beyond any that a store could have reached by `now`, also when one backup is restored twice.
    /// - No key package is handed out that may have been before: all that are stored are erased, one-time and last-resort.
    /// - Every MLS group is [`Group::rolled_back`](crate::domain::Group::rolled_back), and its join tokens are gone.
    /// - Sessions and link tokens are gone. Access tokens are not the store's: they need another signing key.
    ///
    /// What expired meanwhile is erased by [`Store::expire`] as ever.
    async fn after_restore(&self, now: Timestamp) -> Result<Restored, StoreError>;

    /// Asks the engine whether it is there and its schema is the one this relay knows.
    async fn check(&self) -> Result<(), StoreError>;

    /// What the engine is busy with at this moment, for its operator; nothing is asked for it.
    fn load(&self) -> Load;

    /// Lets running batches end and closes the connections.
    async fn close(&self);
}
