//! The durable store: the truth about everything the relay has promised.
//!
//! One method is one atomic act, named by intent. Two engines keep these promises, Postgres and SQLite, and both pass
//! the conformance suite in `tests/relay/store.rs`. An outcome that a caller can act on is an enum value; an error
//! means that the store could not be asked, or that it is not known whether the act took place. Every act may be
//! repeated after an error.
//!
//! Acts that touch several rows lock them in one order: users, then mailboxes by `device_no`, then messages, then items;
//! sessions come last.

mod committed;
mod decide;
mod device_list;
mod lane;
pub mod postgres;
pub mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub use committed::{Committed, committed};

pub use crate::domain::Mismatch;
use crate::domain::{
    AuditEntry, Bundle, Caller, ConversationId, Device, DeviceId, DeviceNo, DeviceNumber, IdentityKey, Item,
    KeyId, KeyKind, KeyStats, LastingKeys, LinkedBy, Message, MessageId, OneTimePreKey, Position, Receipt,
    RegistrationId, SecurityEvent, Send, Sequence, SessionId, SignedPreKey, Timestamp, UserId,
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
}

/// A device that asks to be registered. Every key in it has been checked.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The user it belongs to.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// A name for its owner's eyes.
    pub device_name: Option<String>,
    /// Its registration id.
    pub registration_id: RegistrationId,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// Its first signed pre-key.
    pub signed_prekey: SignedPreKey,
    /// Its one-time pre-keys.
    pub onetime_prekeys: Vec<OneTimePreKey>,
    /// Its one-time KEM pre-keys.
    pub kem_prekeys: Vec<SignedPreKey>,
    /// Its last-resort KEM pre-key.
    pub last_resort_kem_prekey: Option<SignedPreKey>,
    /// Whether it may claim a user id that nobody has.
    pub may_claim: bool,
    /// BLAKE3 of the link token, for a device of a user that has some.
    pub link_token_hash: Option<[u8; 32]>,
    /// What brings a user back that has no device left.
    pub revival: Option<Revival>,
    /// The session that registration opens.
    pub session: NewSession,
}

/// Why a user without devices may come back.
#[derive(Debug, Clone)]
pub enum Revival {
    /// This identity key, one of [`Store::recovery_keys`], signed for the new one.
    Recovered(IdentityKey),
    /// The host application said so, by an admission token that works once.
    Admitted(SingleUse),
}

/// Something that works once: a challenge, a ticket, an admission token.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse {
    /// BLAKE3 of it.
    pub hash: [u8; 32],
    /// The moment from which it is refused for its age, and so need not be remembered. It is remembered for 5 minutes
    /// more, for clocks that disagree.
    pub expires_at: Timestamp,
}

/// A session to be opened.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub session_id: SessionId,
    /// BLAKE3 of its refresh token; the token itself is never stored.
    pub refresh_hash: [u8; 32],
    /// When the refresh token ends.
    pub expires_at: Timestamp,
}

/// Sessions that a device may have. A further one takes the place of the one that was refreshed longest ago.
pub const SESSIONS_PER_DEVICE: u32 = 10;

/// How long the refresh token before the current one is honoured, while the current one is unused.
pub const REFRESH_GRACE: Duration = Duration::from_mins(1);

/// How long security events are kept.
pub const AUDIT_LIFE: Duration = Duration::from_hours(90 * 24);

/// A device for which a token may be issued, and since when its user id is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The device.
    pub caller: Caller,
    /// When its user id was claimed.
    pub user_since: Timestamp,
}

/// A device that proved itself and wants a session.
#[derive(Debug, Clone)]
pub struct Login {
    /// The incarnation.
    pub device_no: DeviceNo,
    /// The challenge that it answered.
    pub challenge: SingleUse,
    /// The session.
    pub session: NewSession,
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// The session is open.
    LoggedIn(Principal),
    /// The challenge was answered before.
    ChallengeUsed,
    /// The device was deactivated.
    Gone,
}

/// A refresh token that came, and what is to take its place.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The session it names.
    pub session_id: SessionId,
    /// BLAKE3 of the token that came.
    pub presented: [u8; 32],
    /// BLAKE3 of its successor.
    pub next: [u8; 32],
    /// When the successor ends.
    pub expires_at: Timestamp,
}

/// What became of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// The successor is current, since `at` and until `expires_at`. A repeat within [`REFRESH_GRACE`], while the successor
    /// is unused, gets the same.
    Rotated {
        /// Whose session it is.
        principal: Principal,
        /// When the first answer was given.
        at: Timestamp,
        /// When the successor ends.
        expires_at: Timestamp,
    },
    /// A token of this session that was used before came again: the session is ended. Whose it was.
    Reused(DeviceNo),
    /// There is no such session, or it has ended.
    Unknown,
}

/// A session as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub session_id: SessionId,
    /// The device.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// When the device logged in.
    pub created_at: Timestamp,
    /// The day it was opened or refreshed last.
    pub last_used: Timestamp,
    /// When its refresh token ends.
    pub expires_at: Timestamp,
}

/// Something whose access tokens are worth nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// Every token of this incarnation.
    Device(DeviceNo),
    /// Every token of this session of a device.
    Session(DeviceNo, SessionId),
}

/// Whether a bundle comes with one-time keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTimeKeys {
    /// With one-time keys, while there are some.
    Given,
    /// Without: the KEM pre-key is the last-resort one, if there is one.
    Withheld,
}

/// What became of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// The device is there, and so are its keys, its mailbox and its session.
    Registered(Principal),
    /// The device id is active already.
    DeviceExists,
    /// Nobody has the user id, and this registration may not claim it.
    AdmissionRequired,
    /// The user id is claimed, and no valid link token for this device and key came with the request; or no device is
    /// left, and nothing that brings the user back.
    LinkRequired,
    /// The admission token that was to bring the user back was used before.
    AdmissionUsed,
    /// The user has as many active devices as a user may have.
    TooManyDevices,
    /// A key was uploaded by this user before, perhaps by an earlier incarnation.
    KeyReused(KeyKind, KeyId),
}

/// An existing device's word for a newcomer.
#[derive(Debug, Clone)]
pub struct LinkOffer {
    /// The user.
    pub user_id: UserId,
    /// The incarnation that vouches.
    pub by: DeviceNo,
    /// The newcomer's device id.
    pub device_id: DeviceId,
    /// The newcomer's identity key.
    pub identity_key: IdentityKey,
    /// The statement that will be served with the newcomer.
    pub linked_by: LinkedBy,
    /// BLAKE3 of the link token.
    pub token_hash: [u8; 32],
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// A bundle that was taken, and what its owner should hear of it.
#[derive(Debug, Clone)]
pub struct TakenBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// The owner.
    pub device_no: DeviceNo,
    /// One-time pre-keys left afterwards.
    pub onetime_left: u32,
    /// One-time KEM pre-keys left afterwards.
    pub kem_left: u32,
    /// Whether the last-resort KEM pre-key was given.
    pub last_resort_given: bool,
}

/// Keys to add to a device. Every key has been checked.
#[derive(Debug, Clone, Default)]
pub struct KeyUpload {
    /// A new signed pre-key, which replaces the current one.
    pub signed_prekey: Option<SignedPreKey>,
    /// One-time pre-keys to add.
    pub onetime_prekeys: Vec<OneTimePreKey>,
    /// One-time KEM pre-keys to add.
    pub kem_prekeys: Vec<SignedPreKey>,
    /// A new last-resort KEM pre-key, which replaces the current one.
    pub last_resort_kem_prekey: Option<SignedPreKey>,
}

/// What became of an upload of keys: all of it, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// All keys are there.
    Published {
        /// How many were new.
        accepted: u32,
        /// How many had been uploaded before under the same id, used or not, and were skipped.
        already_known: u32,
        /// One-time pre-keys now stored.
        onetime_count: u32,
        /// One-time KEM pre-keys now stored.
        kem_count: u32,
    },
    /// The id belongs to another key of this incarnation, or the key was uploaded by this user under another id or by
    /// an earlier incarnation; or a signed or last-resort pre-key that was replaced comes back.
    KeyReused(KeyKind, KeyId),
    /// More of this kind would be stored than a device may have.
    TooMany(KeyKind),
    /// The device was deactivated.
    Gone,
}

/// What became of a deactivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deactivated {
    /// The incarnation is gone, with everything that hung on it.
    Gone(DeviceNo),
    /// There is no such active device.
    Unknown,
    /// The calling device was linked less than 24 hours ago and is younger than that device.
    NotAllowed,
}

/// What became of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Committed, and every addressed device will get it or it expires.
    Stored(Receipt),
    /// The same send was committed before; nothing changed.
    Repeated(Receipt),
    /// The id belongs to another send, or to a send of another device.
    MessageIdReused,
    /// The recipient has no active device.
    NoDevices,
    /// The named conversation is not this pair's.
    ConversationUnknown,
    /// The named devices are not the recipient's active devices.
    DeviceListMismatch(Mismatch),
    /// A recipient's mailbox is full, or full of this sender.
    MailboxFull,
}

/// Which positions of a mailbox are left after a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The positions, ascending, and whose they are; at most as many as asked for; expired ones are left out.
    pub items: Vec<(Position, MessageId)>,
    /// The last position given in this mailbox, as of the same moment.
    pub head: Position,
}

impl Left {
    /// The positions alone.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.items.iter().map(|(position, _)| *position).collect()
    }
}

/// A page of a conversation's history.
#[derive(Debug, Clone, Copy)]
pub struct HistoryQuery {
    /// Whose history.
    pub user_id: UserId,
    /// Which device looks: bodies are those still waiting for it.
    pub device_no: DeviceNo,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Only messages before this number.
    pub before: Option<Sequence>,
    /// How many at most.
    pub limit: u32,
}

/// What a recipient says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It was delivered.
    Delivered,
    /// It was read, and so delivered.
    Read,
}

/// A mark that was set, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// When it was set first.
    pub at: Timestamp,
    /// Whether this act set it.
    pub newly: bool,
    /// The message's conversation.
    pub conversation_id: ConversationId,
    /// The sender's active devices, who may want to hear of it.
    pub sender_devices: Vec<DeviceNo>,
}

/// What became of a deletion for everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// No body is left, and each recipient device finds a notice; now, or since an earlier call. These are the places
    /// where bodies were put, for whoever caches them.
    Deleted(Vec<(DeviceNo, Position)>),
    /// The caller is the recipient, who may only delete for itself.
    NotSender,
    /// There is no such message, or it is not the caller's to see.
    Unknown,
}

/// What one round of expiry did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Messages whose bodies were erased.
    pub bodies: u32,
    /// Messages, link tokens, sessions, revocations, used tokens and security events that were forgotten.
    pub forgotten: u32,
    /// Whether there may be more to do.
    pub more: bool,
}

/// The durable store. See the module's text for what holds for every act.
#[async_trait]
pub trait Store: std::marker::Send + Sync {
    /// Registers a device as a new incarnation: device, keys, mailbox and session, or nothing. The first registration
    /// claims the user id, if it may; a further one needs a link token for exactly this device id and identity key, which
    /// is used up; a user with no active device left comes back by a revival alone, whose token is used up. Of two that
    /// race for a user or device id one wins. The device number is the lowest that this user never had, else the lowest
    /// that is free.
    ///
    /// The user's other devices find a `devices_changed` notice, in place of an older one and even in a full mailbox; the
    /// event `DeviceAdded` (by the linking device, if one did) is entered.
    async fn register_device(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Registered, StoreError>;

    /// The identity keys with which the user may come back: those of its former devices, newest first and at most 16,
    /// without those of devices that another device ended, because such a key may be in a thief's hands. None for a user
    /// that nobody claimed, or that has an active device.
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

    /// Adds and replaces keys of a device: all, or nothing. A new signed pre-key enters `KeyRotated`.
    async fn publish_keys(
        &self,
        device: DeviceNo,
        upload: KeyUpload,
        now: Timestamp,
    ) -> Result<Published, StoreError>;

    /// Ends a device of the caller's user in one act: its keys, mailbox, sessions and link tokens are gone, a revocation
    /// is left, and messages it had not acked count as lost on it. Allowed for the device itself, for an older one,
    /// and for one registered more than 24 hours before `now`. The devices that are left find a `devices_changed` notice,
    /// as after a registration; `DeviceDeactivated` is entered.
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

    /// How many keys an active device has; none when it was deactivated.
    async fn key_stats(&self, device: DeviceNo) -> Result<Option<KeyStats>, StoreError>;

    /// The lasting keys of an active device; none when it was deactivated.
    async fn lasting_keys(&self, device: DeviceNo) -> Result<Option<LastingKeys>, StoreError>;

    /// What was revoked at or after `since`, on any node.
    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError>;

    /// Opens a session for a device that answered a challenge, which is used up; enters `LoggedIn`. When the device has
    /// [`SESSIONS_PER_DEVICE`] already, the one refreshed longest ago is ended and revoked.
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

    /// Enters a security event that no other act enters.
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

    /// Does up to `limit` pieces of expiry: erases expired bodies, forgets metadata 30 days after acceptance and what
    /// else has ended. Safe to run on every node at once.
    async fn expire(&self, now: Timestamp, limit: u32) -> Result<Expired, StoreError>;

    /// Asks the engine whether it is there and its schema is the one this relay knows.
    async fn check(&self) -> Result<(), StoreError>;

    /// Lets running batches end and closes the connections.
    async fn close(&self);
}
