//! The domain's types as they stand in a frame. The domain knows no serde, so each is mirrored here and checked on the
//! way back.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{
        self, ConversationId, DeviceId, DeviceNo, DeviceNumber, EnvelopeType, Epoch, GroupId, MessageId,
        MessageType, Position, RegistrationId, Sequence, SessionId, Timestamp, UserId,
    },
    hot,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Frame {
    device: i64,
    event: Event,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Item(i64, Item),
    Wake(i64),
    Fleeting(Item),
    Receipt(Receipt),
    KeysLow {
        onetime_prekeys: u32,
        kem_prekeys: u32,
        key_packages: u32,
        last_resort_used: bool,
        limit_tripped: bool,
    },
    Replaced(Uuid),
    Deactivated,
    LoggedOut(Uuid),
}

#[derive(Serialize, Deserialize)]
struct Receipt {
    message_id: Uuid,
    conversation_id: Uuid,
    by: Uuid,
    status: Status,
    at: i64,
}

#[derive(Serialize, Deserialize)]
enum Status {
    Sent,
    Delivered,
    Read,
    Expired,
}

#[derive(Serialize, Deserialize)]
enum Item {
    Message(Box<Message>),
    Deleted { message_id: Uuid, deletes: Uuid, expires_at: i64 },
    DevicesChanged { message_id: Uuid, devices: Vec<ListedDevice>, expires_at: i64 },
    Welcome { message_id: Uuid, group_id: Uuid, epoch: i64, welcome: Bytes, expires_at: i64 },
    Joined { message_id: Uuid, group_id: Uuid, expires_at: i64 },
}

#[derive(Serialize, Deserialize)]
struct ListedDevice {
    device_id: String,
    device_number: u8,
    registration_id: u16,
}

#[derive(Serialize, Deserialize)]
struct Message {
    id: Uuid,
    conversation_id: Uuid,
    sender_id: Uuid,
    sender_device_id: String,
    sender_device_number: u8,
    recipient_id: Uuid,
    hint: u8,
    envelope: Option<Envelope>,
    sequence: Option<i64>,
    accepted_at: i64,
    status: Status,
    delivered_at: Option<i64>,
    read_at: Option<i64>,
    self_destructing: bool,
    expires_at: i64,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    kind: u8,
    ciphertext: Bytes,
    ephemeral_key: Option<Bytes>,
}

impl Frame {
    pub(super) fn new(device: DeviceNo, event: &hot::Event) -> Self {
        Self { device: device.0, event: Event::from(event) }
    }

    /// Back into the domain; none when a value is impossible there.
    pub(super) fn open(self) -> Option<(DeviceNo, hot::Event)> {
        Some((DeviceNo(self.device), self.event.open()?))
    }
}

impl From<&hot::Event> for Event {
    fn from(event: &hot::Event) -> Self {
        match event {
            hot::Event::Item(position, item) => Self::Item(position.0, Item::from(&**item)),
            hot::Event::Wake(position) => Self::Wake(position.0),
            hot::Event::Fleeting(item) => Self::Fleeting(Item::from(&**item)),
            hot::Event::Receipt(receipt) => Self::Receipt(Receipt::from(*receipt)),
            hot::Event::KeysLow(low) => Self::KeysLow {
                onetime_prekeys: low.onetime_prekeys,
                kem_prekeys: low.kem_prekeys,
                key_packages: low.key_packages,
                last_resort_used: low.last_resort_used,
                limit_tripped: low.limit_tripped,
            },
            hot::Event::Replaced(session) => Self::Replaced(*session),
            hot::Event::Deactivated => Self::Deactivated,
            hot::Event::LoggedOut(session) => Self::LoggedOut(session.uuid()),
        }
    }
}

impl Event {
    fn open(self) -> Option<hot::Event> {
        Some(match self {
            Self::Item(position, item) => hot::Event::Item(Position(position), Arc::new(item.open()?)),
            Self::Wake(position) => hot::Event::Wake(Position(position)),
            Self::Fleeting(item) => hot::Event::Fleeting(Arc::new(item.open()?)),
            Self::Receipt(receipt) => hot::Event::Receipt(receipt.open()),
            Self::KeysLow { onetime_prekeys, kem_prekeys, key_packages, last_resort_used, limit_tripped } => {
                hot::Event::KeysLow(hot::KeysLow {
                    onetime_prekeys,
                    kem_prekeys,
                    key_packages,
                    last_resort_used,
                    limit_tripped,
                })
            }
            Self::Replaced(session) => hot::Event::Replaced(session),
            Self::Deactivated => hot::Event::Deactivated,
            Self::LoggedOut(session) => hot::Event::LoggedOut(SessionId::new(session)),
        })
    }
}

impl From<hot::ReceiptEvent> for Receipt {
    fn from(receipt: hot::ReceiptEvent) -> Self {
        Self {
            message_id: receipt.message_id.uuid(),
            conversation_id: receipt.conversation_id.uuid(),
            by: receipt.by.uuid(),
            status: Status::from(receipt.status),
            at: receipt.at.millis(),
        }
    }
}

impl Receipt {
    fn open(self) -> hot::ReceiptEvent {
        hot::ReceiptEvent {
            message_id: MessageId::new(self.message_id),
            conversation_id: ConversationId::new(self.conversation_id),
            by: UserId::new(self.by),
            status: self.status.open(),
            at: Timestamp::from_millis(self.at),
        }
    }
}

impl From<domain::Status> for Status {
    fn from(status: domain::Status) -> Self {
        match status {
            domain::Status::Sent => Self::Sent,
            domain::Status::Delivered => Self::Delivered,
            domain::Status::Read => Self::Read,
            domain::Status::Expired => Self::Expired,
        }
    }
}

impl Status {
    const fn open(self) -> domain::Status {
        match self {
            Self::Sent => domain::Status::Sent,
            Self::Delivered => domain::Status::Delivered,
            Self::Read => domain::Status::Read,
            Self::Expired => domain::Status::Expired,
        }
    }
}

impl From<&domain::Item> for Item {
    fn from(item: &domain::Item) -> Self {
        match item {
            domain::Item::Message(message) => Self::Message(Box::new(Message::from(message))),
            domain::Item::Deleted { message_id, deletes, expires_at } => Self::Deleted {
                message_id: message_id.uuid(),
                deletes: deletes.uuid(),
                expires_at: expires_at.millis(),
            },
            domain::Item::DevicesChanged { message_id, devices, expires_at } => Self::DevicesChanged {
                message_id: message_id.uuid(),
                devices: devices.iter().map(ListedDevice::from).collect(),
                expires_at: expires_at.millis(),
            },
            domain::Item::Welcome { message_id, group_id, epoch, welcome, expires_at } => Self::Welcome {
                message_id: message_id.uuid(),
                group_id: group_id.uuid(),
                epoch: epoch.0,
                welcome: welcome.clone(),
                expires_at: expires_at.millis(),
            },
            domain::Item::Joined { message_id, group_id, expires_at } => Self::Joined {
                message_id: message_id.uuid(),
                group_id: group_id.uuid(),
                expires_at: expires_at.millis(),
            },
        }
    }
}

impl Item {
    fn open(self) -> Option<domain::Item> {
        Some(match self {
            Self::Message(message) => domain::Item::Message(message.open()?),
            Self::Deleted { message_id, deletes, expires_at } => domain::Item::Deleted {
                message_id: MessageId::new(message_id),
                deletes: MessageId::new(deletes),
                expires_at: Timestamp::from_millis(expires_at),
            },
            Self::DevicesChanged { message_id, devices, expires_at } => domain::Item::DevicesChanged {
                message_id: MessageId::new(message_id),
                devices: devices.into_iter().map(ListedDevice::open).collect::<Option<_>>()?,
                expires_at: Timestamp::from_millis(expires_at),
            },
            Self::Welcome { message_id, group_id, epoch, welcome, expires_at } => domain::Item::Welcome {
                message_id: MessageId::new(message_id),
                group_id: GroupId::new(group_id),
                epoch: Epoch(epoch),
                welcome,
                expires_at: Timestamp::from_millis(expires_at),
            },
            Self::Joined { message_id, group_id, expires_at } => domain::Item::Joined {
                message_id: MessageId::new(message_id),
                group_id: GroupId::new(group_id),
                expires_at: Timestamp::from_millis(expires_at),
            },
        })
    }
}

impl From<&domain::ListedDevice> for ListedDevice {
    fn from(device: &domain::ListedDevice) -> Self {
        Self {
            device_id: device.device_id.as_str().to_owned(),
            device_number: device.device_number.get(),
            registration_id: device.registration_id.get(),
        }
    }
}

impl ListedDevice {
    fn open(self) -> Option<domain::ListedDevice> {
        Some(domain::ListedDevice {
            device_id: DeviceId::parse(&self.device_id).ok()?,
            device_number: DeviceNumber::new(self.device_number.into()).ok()?,
            registration_id: RegistrationId::new(self.registration_id.into()).ok()?,
        })
    }
}

impl From<&domain::Message> for Message {
    fn from(message: &domain::Message) -> Self {
        Self {
            id: message.message_id.uuid(),
            conversation_id: message.conversation_id.uuid(),
            sender_id: message.sender_id.uuid(),
            sender_device_id: message.sender_device_id.as_str().to_owned(),
            sender_device_number: message.sender_device_number.get(),
            recipient_id: message.recipient_id.uuid(),
            hint: message.message_type as u8,
            envelope: message.envelope.as_ref().map(Envelope::from),
            sequence: message.sequence.map(|sequence| sequence.0),
            accepted_at: message.accepted_at.millis(),
            status: Status::from(message.status),
            delivered_at: message.delivered_at.map(Timestamp::millis),
            read_at: message.read_at.map(Timestamp::millis),
            self_destructing: message.self_destructing,
            expires_at: message.expires_at.millis(),
        }
    }
}

impl Message {
    fn open(self) -> Option<domain::Message> {
        let envelope = match self.envelope {
            Some(envelope) => Some(envelope.open()?),
            None => None,
        };
        Some(domain::Message {
            message_id: MessageId::new(self.id),
            conversation_id: ConversationId::new(self.conversation_id),
            sender_id: UserId::new(self.sender_id),
            sender_device_id: DeviceId::parse(&self.sender_device_id).ok()?,
            sender_device_number: DeviceNumber::new(self.sender_device_number.into()).ok()?,
            recipient_id: UserId::new(self.recipient_id),
            message_type: message_type(self.hint)?,
            envelope,
            sequence: self.sequence.map(Sequence),
            accepted_at: Timestamp::from_millis(self.accepted_at),
            status: self.status.open(),
            delivered_at: self.delivered_at.map(Timestamp::from_millis),
            read_at: self.read_at.map(Timestamp::from_millis),
            self_destructing: self.self_destructing,
            expires_at: Timestamp::from_millis(self.expires_at),
        })
    }
}

impl From<&domain::Envelope> for Envelope {
    fn from(envelope: &domain::Envelope) -> Self {
        Self {
            kind: envelope.envelope_type as u8,
            ciphertext: envelope.ciphertext.clone(),
            ephemeral_key: envelope.ephemeral_key.clone(),
        }
    }
}

impl Envelope {
    fn open(self) -> Option<domain::Envelope> {
        Some(domain::Envelope {
            envelope_type: envelope_type(self.kind)?,
            ciphertext: self.ciphertext,
            ephemeral_key: self.ephemeral_key,
        })
    }
}

const fn envelope_type(number: u8) -> Option<EnvelopeType> {
    Some(match number {
        0 => EnvelopeType::PreKey,
        1 => EnvelopeType::Whisper,
        2 => EnvelopeType::SenderKey,
        3 => EnvelopeType::Sealed,
        4 => EnvelopeType::PlaintextContent,
        5 => EnvelopeType::Opaque,
        _ => return None,
    })
}

pub(super) const fn message_type(number: u8) -> Option<MessageType> {
    Some(match number {
        0 => MessageType::Text,
        1 => MessageType::Media,
        2 => MessageType::Audio,
        3 => MessageType::File,
        4 => MessageType::Location,
        5 => MessageType::Contact,
        6 => MessageType::Poll,
        7 => MessageType::Event,
        8 => MessageType::Call,
        9 => MessageType::System,
        10 => MessageType::Opaque,
        _ => return None,
    })
}
