//! Sealed envelopes, the sends that carry them and the mailbox items they become.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    ConversationId, DeviceId, DeviceNo, DeviceNumber, Epoch, GroupId, MessageId, Position, RegistrationId,
    Sequence, Timestamp, UserId,
};

/// What the sender says the body is; all but `Opaque` are checked structurally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnvelopeType {
    /// A Signal `PreKeySignalMessage`.
    PreKey = 0,
    /// A Signal `SignalMessage`.
    Whisper = 1,
    /// A Signal `SenderKeyMessage`.
    SenderKey = 2,
    /// A Signal sealed-sender message.
    Sealed = 3,
    /// A Signal `PlaintextContent`: decryption-error messages only.
    PlaintextContent = 4,
    /// Anything else that looks encrypted.
    Opaque = 5,
}

/// The sender's hint about a message. The relay does nothing with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the wire's own")]
pub enum MessageType {
    Text = 0,
    Media = 1,
    Audio = 2,
    File = 3,
    Location = 4,
    Contact = 5,
    Poll = 6,
    Event = 7,
    Call = 8,
    System = 9,
    Opaque = 10,
}

/// Sealed bytes and how to read them: what one device gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the body is.
    pub envelope_type: EnvelopeType,
    /// The sealed body.
    pub ciphertext: Bytes,
    /// An ephemeral key beside the body, for protocols that send one: 32 or 33 bytes.
    pub ephemeral_key: Option<Bytes>,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({:?}, ..)", self.envelope_type)
    }
}

/// How a sender names one of the recipient's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceName {
    /// By device id.
    Id(DeviceId),
    /// By device number.
    Number(DeviceNumber),
}

/// An envelope for one named device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// The device.
    pub device: DeviceName,
    /// The registration id the sender's session is with; refused as stale when the device has another.
    pub registration_id: Option<RegistrationId>,
    /// The body for it.
    pub envelope: Envelope,
}

/// The bodies of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bodies {
    /// One body for every active device of the recipient.
    Same(Envelope),
    /// One for each of the recipient's active devices, all of them named.
    Each(Vec<Addressed>),
}

/// A device that calls the relay: the actor of every act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub user_id: UserId,
    /// Its name.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// The incarnation.
    pub device_no: DeviceNo,
}

/// A pairwise send, parsed and checked.
#[derive(Debug, Clone)]
pub struct Send {
    /// The sending device.
    pub sender: Caller,
    /// The client's id of the message, or one made for it.
    pub message_id: MessageId,
    /// BLAKE3 over everything in this send that the client decides: two sends with one id are the same send exactly
    /// when their digests agree.
    pub digest: [u8; 32],
    /// The recipient; the sender's own user for a note to self.
    pub recipient_id: UserId,
    /// The conversation: the pair's own, or one the client named.
    pub conversation: Conversation,
    /// The hint.
    pub message_type: MessageType,
    /// Whether the client asked for erasure at `expires_at`, rather than the queue's limit.
    pub self_destructing: bool,
    /// When the bodies are erased, delivered or not.
    pub expires_at: Timestamp,
    /// The bodies.
    pub bodies: Bodies,
}

/// The conversation a send belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversation {
    /// The pair's own, derived from the pair; it needs no check.
    Own(ConversationId),
    /// One that the client named: its own to make when unknown, exactly this pair's when known.
    Named(ConversationId),
}

impl Conversation {
    /// The id, however it came about.
    #[must_use]
    pub const fn id(self) -> ConversationId {
        match self {
            Self::Own(id) | Self::Named(id) => id,
        }
    }
}

/// What the sender learns of an accepted message. The same for the first answer and every repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The message.
    pub message_id: MessageId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Its number in the conversation.
    pub sequence: Sequence,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// What became of a message, derived from what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Some device has not acked it yet.
    Sent,
    /// Every device acked it, or the recipient said so.
    Delivered,
    /// The recipient said it was read.
    Read,
    /// Its body expired before every device had it.
    Expired,
}

/// A message as one device sees it.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id.
    pub message_id: MessageId,
    /// Its conversation.
    pub conversation_id: ConversationId,
    /// Who sent it.
    pub sender_id: UserId,
    /// Which device sent it.
    pub sender_device_id: DeviceId,
    /// That device's number.
    pub sender_device_number: DeviceNumber,
    /// Whom it was sent to.
    pub recipient_id: UserId,
    /// The hint.
    pub message_type: MessageType,
    /// The body for this device; none once acked, deleted or expired, and for the sender.
    pub envelope: Option<Envelope>,
    /// Its number in the conversation; none for a message that was never stored.
    pub sequence: Option<Sequence>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// What became of it.
    pub status: Status,
    /// When the recipient said it was delivered.
    pub delivered_at: Option<Timestamp>,
    /// When the recipient said it was read.
    pub read_at: Option<Timestamp>,
    /// Whether its sender asked for erasure.
    pub self_destructing: bool,
    /// When the body is erased.
    pub expires_at: Timestamp,
}

/// What lies in a mailbox.
#[derive(Debug, Clone)]
pub enum Item {
    /// A message.
    Message(Message),
    /// A message was deleted for everyone by its sender.
    Deleted {
        /// The id of this notice, for its ack.
        message_id: MessageId,
        /// The message that is gone.
        deletes: MessageId,
        /// When this notice is forgotten.
        expires_at: Timestamp,
    },
    /// The list of the user's own devices changed. A newer one takes the place of an older one that still waits.
    DevicesChanged {
        /// The id of this notice, for its ack.
        message_id: MessageId,
        /// The active devices after the change, oldest first.
        devices: Arc<[ListedDevice]>,
        /// When this notice is forgotten.
        expires_at: Timestamp,
    },
    /// The device was added to an MLS group: a Welcome for it alone (RFC 9420 §12.4.3.1). Comes before any entry of the
    /// group's log.
    Welcome {
        /// The id of this item, for its ack.
        message_id: MessageId,
        /// The group.
        group_id: GroupId,
        /// The epoch that it lets the device into.
        epoch: Epoch,
        /// The Welcome as an `MLSMessage`.
        welcome: Bytes,
        /// When it is forgotten.
        expires_at: Timestamp,
    },
    /// A window of this group's log was opened to the device without a Welcome: a roster group, a group it made, or one it
    /// joined by an external commit. Comes before any entry of the log.
    Joined {
        /// The id of this item, for its ack.
        message_id: MessageId,
        /// The group.
        group_id: GroupId,
        /// When it is forgotten.
        expires_at: Timestamp,
    },
}

/// A device as a list of devices names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// The device.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// Its registration id.
    pub registration_id: RegistrationId,
}

impl Item {
    /// The group whose log the device may read once it has this item, if it is such an item.
    #[must_use]
    pub const fn opens_window_of(&self) -> Option<GroupId> {
        match self {
            Self::Welcome { group_id, .. } | Self::Joined { group_id, .. } => Some(*group_id),
            Self::Message(_) | Self::Deleted { .. } | Self::DevicesChanged { .. } => None,
        }
    }

    /// The id by which the item is acked.
    #[must_use]
    pub const fn message_id(&self) -> MessageId {
        match self {
            Self::Message(message) => message.message_id,
            Self::Deleted { message_id, .. }
            | Self::DevicesChanged { message_id, .. }
            | Self::Welcome { message_id, .. }
            | Self::Joined { message_id, .. } => *message_id,
        }
    }

    /// The moment from which the item must not be given out any more.
    #[must_use]
    pub const fn expires_at(&self) -> Timestamp {
        match self {
            Self::Message(message) => message.expires_at,
            Self::Deleted { expires_at, .. }
            | Self::DevicesChanged { expires_at, .. }
            | Self::Welcome { expires_at, .. }
            | Self::Joined { expires_at, .. } => *expires_at,
        }
    }

    /// Whether its sender asked for erasure: such a body is kept in the store alone.
    #[must_use]
    pub const fn is_self_destructing(&self) -> bool {
        match self {
            Self::Message(message) => message.self_destructing,
            Self::Deleted { .. }
            | Self::DevicesChanged { .. }
            | Self::Welcome { .. }
            | Self::Joined { .. } => false,
        }
    }

    /// Roughly how many bytes the item holds, for bounds.
    #[must_use]
    pub fn weight(&self) -> usize {
        let body = match self {
            Self::Message(Message { envelope: Some(envelope), .. }) => envelope.ciphertext.len(),
            Self::Message(_) | Self::Deleted { .. } | Self::Joined { .. } => 0,
            Self::Welcome { welcome, .. } => welcome.len(),
            Self::DevicesChanged { devices, .. } => devices.len() * 80,
        };
        body + 256
    }
}

/// A committed mailbox item on its way to its device.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The addressee.
    pub device_no: DeviceNo,
    /// Where it lies in the addressee's mailbox.
    pub position: Position,
    /// The item.
    pub item: Arc<Item>,
}

/// How long the metadata of an accepted message, and with it its id, is remembered.
pub const METADATA_LIFE: Duration = Duration::from_hours(30 * 24);
