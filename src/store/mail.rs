//! What acts on messages and mailboxes take and become.

use crate::domain::{
    ConversationId, DeviceNo, MessageId, Mismatch, Position, Receipt, Sequence, Timestamp, UserId,
};

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
