//! Hot state: what makes delivery fast and may be lost at any moment.
//!
//! Routing is subscription: a node subscribes to one channel per connected device and per group that a connected device
//! reads, and an event is for whoever listens.
//! Two engines, Redis and in-process, pass the conformance suite in `tests/relay/hot.rs`. Nothing here is ever believed
//! about what exists; a failed act is counted and forgotten, because the store and the reconciler make up for it.

mod budgets;
mod counted;
mod crowds;
mod leases;
mod ledger;
mod line;
pub mod local;
mod reach;
pub mod redis;
mod rooms;
mod stretch;
mod switchboard;
mod watching;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::domain::{
    BudgetKey, ConversationId, Delivery, DeviceNo, Drawn, GroupId, Item, Lease, LogEntry, MessageId,
    Position, Quota, SessionId, Status, Timestamp, UserId,
};

pub use budgets::{Budgets, Spent};
pub use crowds::{Crowds, Hold};
pub use line::{End, Line, Overlooked, Signal};
pub use rooms::{Heard, Reading, Room, Turn};
pub use stretch::{Form, Next, Stretch, Told};
pub use switchboard::{Seat, Sessions, Switchboard};
pub use watching::Watch;

/// Hot state could not be reached, or answered nonsense.
#[derive(Debug, thiserror::Error)]
#[error("hot state is unavailable")]
pub struct HotError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Something for a connected device. Only `Item` and `Wake` stand for durable things, which the store still has when
/// the event is lost; the rest is live only.
#[derive(Debug, Clone)]
pub enum Event {
    /// A committed mailbox item.
    Item(Position, Arc<Item>),
    /// The mailbox has items up to at least here; read the store.
    Wake(Position),
    /// A message that was never stored (`online_only`).
    Fleeting(Arc<Item>),
    /// What a recipient said of a message that this device's user sent.
    Receipt(ReceiptEvent),
    /// The device's keys run low.
    KeysLow(KeysLow),
    /// The device opened another socket, with this session; every other session of it ends.
    Replaced(Uuid),
    /// The device was deactivated; its sockets end.
    Deactivated,
    /// A session of the device was ended; a socket that lives by its tokens ends.
    LoggedOut(SessionId),
}

/// An item that weighs more than this travels as a wake, without its body.
const HEAVY: usize = 64 * 1024;

/// How long the public state of an MLS group is kept, and how large it may be: a full group of 1,500 weighs about 1 MiB.
const STATE_LIFE: Duration = Duration::from_hours(1);
const STATE_WEIGHT: usize = 4 * 1024 * 1024;

/// How many items an offline queue keeps for one device; the oldest go first.
const QUEUE_LENGTH: usize = 1_000;

impl Event {
    /// Roughly how many bytes the event holds, for bounds.
    fn weight(&self) -> usize {
        match self {
            Self::Item(_, item) | Self::Fleeting(item) => item.weight(),
            Self::Wake(_)
            | Self::Receipt(_)
            | Self::KeysLow(_)
            | Self::Replaced(_)
            | Self::Deactivated
            | Self::LoggedOut(_) => 0,
        }
    }

    /// What a listening node is told of a committed item: the item, or a wake when it is heavy.
    fn about(delivery: &Delivery) -> Self {
        if delivery.item.weight() > HEAVY {
            return Self::Wake(delivery.position);
        }
        Self::Item(delivery.position, Arc::clone(&delivery.item))
    }
}

/// See [`Event::Receipt`].
#[derive(Debug, Clone, Copy)]
pub struct ReceiptEvent {
    /// The message.
    pub message_id: MessageId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Who said so.
    pub by: UserId,
    /// `Delivered` or `Read`.
    pub status: Status,
    /// When.
    pub at: Timestamp,
}

/// See [`Event::KeysLow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysLow {
    /// One-time pre-keys left.
    pub onetime_prekeys: u32,
    /// One-time KEM pre-keys left.
    pub kem_prekeys: u32,
    /// One-time key packages left that have not ended, of all suites.
    pub key_packages: u32,
    /// Whether the last-resort KEM pre-key, or a last-resort key package, was handed out.
    pub last_resort_used: bool,
    /// Whether somebody fetched keys faster than the limits allow, and got none of the one-time ones.
    pub limit_tripped: bool,
}

/// Something about a group's log, for every device connected to this process that reads it.
#[derive(Debug, Clone)]
pub enum GroupEvent {
    /// A committed entry.
    Entry(Arc<LogEntry>),
    /// The log reaches at least up to here; read the store.
    Wake(Position),
}

impl GroupEvent {
    /// What a listening node is told of a committed entry: the entry, or a wake when it is heavy.
    fn about(entry: &Arc<LogEntry>) -> Self {
        if entry.weight() > HEAVY {
            return Self::Wake(entry.position);
        }
        Self::Entry(Arc::clone(entry))
    }
}

/// Where an engine brings events for devices connected to this process. Called from the engine's own tasks: must be
/// quick and must not block.
pub trait Doorbell: Send + Sync {
    /// Hands an event to the device's session in this process. False when there is none.
    fn ring(&self, device: DeviceNo, event: Event) -> bool;

    /// Hands an event about a group's log to the sessions of this process that read it. False when there is none.
    fn ring_group(&self, group: GroupId, event: GroupEvent) -> bool;

    /// Subscriptions were lost and are back: every session must read the store before it pushes again.
    fn resubscribed(&self);
}

/// Hot state. See the module's text.
#[async_trait]
pub trait Hot: Send + Sync {
    /// Begins to listen for a device; when this returns, no later event is missed while the engine is reachable. May be
    /// called again for a device that is listened for.
    async fn subscribe(&self, device: DeviceNo) -> Result<(), HotError>;

    /// Stops listening for a device.
    async fn unsubscribe(&self, device: DeviceNo) -> Result<(), HotError>;

    /// Brings committed items to devices that are not connected to this process: as events where some node listens
    /// (as a wake without the body when the item weighs more than 64 KiB), else into the offline queue, a cache of
    /// bodies for the next drain, unless the body is to be erased early. Items of one device keep their order.
    async fn deliver(&self, deliveries: &[Delivery]) -> Result<(), HotError>;

    /// Sends an event to whoever listens for the device, on any node but without this process's own sessions when the
    /// engine spans nodes: callers ring their own doorbell first.
    async fn notify(&self, device: DeviceNo, event: Event) -> Result<(), HotError>;

    /// The items of the device's offline queue that are still there, by position. Never an item of another device or
    /// another position; any of them may be missing.
    async fn cached(
        &self,
        device: DeviceNo,
        positions: &[Position],
    ) -> Result<HashMap<Position, Arc<Item>>, HotError>;

    /// Drops items of the device's offline queue, because they were acked.
    async fn forget(&self, device: DeviceNo, positions: &[Position]) -> Result<(), HotError>;

    /// Drops everything kept for a device.
    async fn forget_device(&self, device: DeviceNo) -> Result<(), HotError>;

    /// Begins to listen for a group's log; when this returns, no later entry is missed while the engine is reachable. May be
    /// called again for a group that is listened for.
    async fn subscribe_group(&self, group: GroupId) -> Result<(), HotError>;

    /// Stops listening for a group's log.
    async fn unsubscribe_group(&self, group: GroupId) -> Result<(), HotError>;

    /// Tells every other node that listens for their groups of entries: one message for each entry, whatever the size of the
    /// group, as a wake without the body when the entry weighs more than 64 KiB. Entries of one group keep their order.
    async fn publish_entries(&self, entries: &[Arc<LogEntry>]) -> Result<(), HotError>;

    /// Keeps the public state of an MLS group for an hour, in place of any other state of that group. One that is too large
    /// is not kept.
    async fn keep_state(&self, group: GroupId, digest: [u8; 32], state: Bytes) -> Result<(), HotError>;

    /// The state of a group, if the one that is kept has this BLAKE3 digest; never another one.
    async fn state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, HotError>;

    /// Takes as many places in a budget as there are, at most `most`. All nodes share it when the engine spans nodes,
    /// whatever their clocks show, and of two that race for the last place one gets it. `now` and what the lease tells are
    /// by the caller's clock. A budget that nobody takes from is forgotten after its period.
    async fn lease(
        &self,
        budget: BudgetKey,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, HotError>;

    /// Takes one place: [`Hot::lease`] of one.
    async fn draw(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Result<Drawn, HotError> {
        Ok(self.lease(budget, quota, 1, now).await?.drawn(quota, now))
    }

    /// Counts a holder of this node among those of a crowd for `life` from now on, by the engine's own clock; one that is
    /// counted already goes on, and one that other nodes hold as well is counted once. False, and nothing is done, when
    /// `most` others are counted. Of two that race for the last place one gets it.
    async fn hold(&self, crowd: BudgetKey, holder: Uuid, most: u32, life: Duration)
    -> Result<bool, HotError>;

    /// Counts these holders of this node in their crowds for another `life`, however many there are.
    async fn renew(&self, held: &[(BudgetKey, Uuid)], life: Duration) -> Result<(), HotError>;

    /// Counts these holders of this node no longer: those that another node holds go on.
    async fn release(&self, held: &[(BudgetKey, Uuid)]) -> Result<(), HotError>;

    /// Asks the engine whether it is reachable.
    async fn check(&self) -> Result<(), HotError>;

    /// Ends the engine's tasks and connections.
    async fn close(&self);
}
