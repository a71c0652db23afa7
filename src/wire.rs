//! JSON atoms shared by the features: bytes, ids, times, and a message as clients see it.
//!
//! The same types serve MessagePack, where bytes are bytes; ids and times are text in both.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, macros::format_description};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};
use uuid::Uuid;

use crate::domain::{self, Envelope, ListedDevice, Message, Status, Timestamp};

/// Bytes: padded standard base64 in JSON, binary in MessagePack.
#[derive(Clone, PartialEq, Eq)]
pub struct B64(pub Bytes);

impl fmt::Debug for B64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B64({} bytes)", self.0.len())
    }
}

impl Serialize for B64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for B64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = B64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("padded standard base64")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<B64, E> {
                STANDARD
                    .decode(text)
                    .map(|bytes| B64(bytes.into()))
                    .map_err(|_| E::custom("not padded standard base64"))
            }
        }
        struct Binary;
        impl de::Visitor<'_> for Binary {
            type Value = B64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<B64, E> {
                Ok(B64(Bytes::copy_from_slice(bytes)))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            deserializer.deserialize_bytes(Binary)
        }
    }
}

/// A UUID, as hyphenated text in every format.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub Uuid);

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id(..)")
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a UUID")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                parse_uuid(text).map(Id).ok_or_else(|| E::custom("not a UUID"))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A UUID from its hyphenated text, in either case.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() == 36 { Uuid::try_parse(text).ok() } else { None }
}

/// A moment: RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Timestamp);

impl Time {
    /// The text of the moment.
    #[must_use]
    pub fn text(self) -> String {
        let format =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        let nanos = i128::from(self.0.millis()) * 1_000_000;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        moment.format(format).unwrap_or_default()
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

macro_rules! text_schema {
    ($type:ty, $name:literal, $format:expr, $says:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String).format(Some($format));
                text.description(Some($says)).into()
            }
        }

        impl ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    };
}

text_schema!(B64, "Bytes", SchemaFormat::KnownFormat(KnownFormat::Byte), "padded standard base64");
text_schema!(Id, "Uuid", SchemaFormat::KnownFormat(KnownFormat::Uuid), "a UUID");
text_schema!(Time, "Time", SchemaFormat::KnownFormat(KnownFormat::DateTime), "RFC 3339, UTC, milliseconds");

/// One of these names, as they are written.
fn one_of(names: &[impl Serialize]) -> RefOr<Schema> {
    // Names are texts, whose serialisation cannot fail.
    let names = names.iter().map(|name| serde_json::to_value(name).unwrap_or_default());
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident of $domain:ty, $style:tt: $($variant:ident),+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = $style)]
        #[expect(missing_docs, reason = "the names are the wire's own; the domain type tells what they mean")]
        pub enum $name {
            $($variant),+
        }

        // By hand: the derive does not see what style the variants have.
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $crate::wire::one_of(&[$($name::$variant),+])
            }
        }

        impl ToSchema for $name {}

        impl From<$name> for $domain {
            fn from(name: $name) -> Self {
                match name {
                    $($name::$variant => <$domain>::$variant),+
                }
            }
        }

        impl From<$domain> for $name {
            fn from(value: $domain) -> Self {
                match value {
                    $(<$domain>::$variant => Self::$variant),+
                }
            }
        }
    };
}

names!(
    /// See [`domain::MessageType`].
    MessageType of domain::MessageType, "PascalCase":
    Text, Media, Audio, File, Location, Contact, Poll, Event, Call, System, Opaque
);
names!(
    /// See [`domain::Status`].
    MessageStatus of Status, "PascalCase": Sent, Delivered, Read, Expired
);

mod groups;

pub use groups::{
    EntryKind, ExternalJoin, GroupView, Handshake, LogEntryView, MemberDeviceView, MemberView, Role,
};

/// See [`domain::EnvelopeType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the wire's own; the domain type tells what they mean")]
pub enum EnvelopeType {
    #[serde(rename = "prekey")]
    PreKey,
    Whisper,
    SenderKey,
    Sealed,
    PlaintextContent,
    Opaque,
}

impl From<EnvelopeType> for domain::EnvelopeType {
    fn from(name: EnvelopeType) -> Self {
        match name {
            EnvelopeType::PreKey => Self::PreKey,
            EnvelopeType::Whisper => Self::Whisper,
            EnvelopeType::SenderKey => Self::SenderKey,
            EnvelopeType::Sealed => Self::Sealed,
            EnvelopeType::PlaintextContent => Self::PlaintextContent,
            EnvelopeType::Opaque => Self::Opaque,
        }
    }
}

impl From<domain::EnvelopeType> for EnvelopeType {
    fn from(value: domain::EnvelopeType) -> Self {
        match value {
            domain::EnvelopeType::PreKey => Self::PreKey,
            domain::EnvelopeType::Whisper => Self::Whisper,
            domain::EnvelopeType::SenderKey => Self::SenderKey,
            domain::EnvelopeType::Sealed => Self::Sealed,
            domain::EnvelopeType::PlaintextContent => Self::PlaintextContent,
            domain::EnvelopeType::Opaque => Self::Opaque,
        }
    }
}

/// A message as one device sees it: in the queue, in the history and on the socket.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Message)]
#[expect(missing_docs, reason = "the fields are API.md's")]
pub struct MessageView {
    pub id: Id,
    pub message_id: Id,
    pub conversation_id: Id,
    pub sender_id: Id,
    pub sender_device_id: String,
    pub sender_device_number: u8,
    pub recipient_id: Id,
    pub message_type: MessageType,
    /// Null, like the ciphertext, once this device has acked the message, and for its sender.
    pub envelope_type: Option<EnvelopeType>,
    pub ciphertext: Option<B64>,
    pub ephemeral_key: Option<B64>,
    /// Null for a message sent `online_only`.
    pub sequence_number: Option<i64>,
    pub timestamp: Time,
    pub status: MessageStatus,
    pub delivered_at: Option<Time>,
    pub read_at: Option<Time>,
    pub is_self_destructing: bool,
    pub expires_at: Time,
}

impl From<&Message> for MessageView {
    fn from(message: &Message) -> Self {
        let envelope = message.envelope.as_ref();
        let id = Id(message.message_id.uuid());
        Self {
            id,
            message_id: id,
            conversation_id: Id(message.conversation_id.uuid()),
            sender_id: Id(message.sender_id.uuid()),
            sender_device_id: message.sender_device_id.as_str().to_owned(),
            sender_device_number: message.sender_device_number.get(),
            recipient_id: Id(message.recipient_id.uuid()),
            message_type: message.message_type.into(),
            envelope_type: envelope.map(|envelope| envelope.envelope_type.into()),
            ciphertext: envelope.map(|Envelope { ciphertext, .. }| B64(ciphertext.clone())),
            ephemeral_key: envelope.and_then(|envelope| envelope.ephemeral_key.clone()).map(B64),
            sequence_number: message.sequence.map(|sequence| sequence.0),
            timestamp: Time(message.accepted_at),
            status: message.status.into(),
            delivered_at: message.delivered_at.map(Time),
            read_at: message.read_at.map(Time),
            is_self_destructing: message.self_destructing,
            expires_at: Time(message.expires_at),
        }
    }
}

/// A wait in whole seconds, a begun one counted as one: who waits so long has waited enough.
#[must_use]
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// A Welcome for one device (RFC 9420 §12.4.3.1).
#[derive(Debug, Serialize, ToSchema)]
pub struct WelcomeView {
    message_id: Id,
    group_id: Id,
    /// The epoch that it lets the device into.
    epoch: i64,
    /// An `MLSMessage`.
    welcome: B64,
}

impl WelcomeView {
    /// The view of a Welcome.
    #[must_use]
    pub fn new(
        message_id: domain::MessageId,
        group_id: domain::GroupId,
        epoch: domain::Epoch,
        welcome: &Bytes,
    ) -> Self {
        let (message_id, group_id) = (Id(message_id.uuid()), Id(group_id.uuid()));
        Self { message_id, group_id, epoch: epoch.0, welcome: B64(welcome.clone()) }
    }
}

/// A device in the list of a `devices_changed` notice.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListedDeviceView {
    device_id: String,
    /// 1–127.
    device_number: u8,
    registration_id: u16,
}

impl From<&ListedDevice> for ListedDeviceView {
    fn from(device: &ListedDevice) -> Self {
        Self {
            device_id: device.device_id.as_str().to_owned(),
            device_number: device.device_number.get(),
            registration_id: device.registration_id.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_padded_base64_in_json_and_raw_in_messagepack() {
        let bytes = B64(Bytes::from_static(&[1, 2, 3, 4]));
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"AQIDBA==\"");
        assert_eq!(serde_json::from_str::<B64>("\"AQIDBA==\"").unwrap(), bytes);
        for bad in ["\"AQIDBA\"", "\"AQIDBB==\"", "\"AQID-A==\"", "7", "[1]"] {
            assert!(serde_json::from_str::<B64>(bad).is_err(), "{bad}");
        }
        let packed = rmp_serde::to_vec(&bytes).unwrap();
        assert_eq!(packed, [0xc4, 4, 1, 2, 3, 4]);
        assert_eq!(rmp_serde::from_slice::<B64>(&packed).unwrap(), bytes);
        let text = rmp_serde::to_vec("AQIDBA==").unwrap();
        assert!(rmp_serde::from_slice::<B64>(&text).is_err(), "base64 text is not bytes");
    }

    #[test]
    fn ids_are_hyphenated_text_in_both_formats() {
        let id = Id(Uuid::from_u128(0xA1));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"00000000-0000-0000-0000-0000000000a1\"");
        assert_eq!(serde_json::from_str::<Id>(&json.to_uppercase()).unwrap(), id);
        assert_eq!(rmp_serde::from_slice::<Id>(&rmp_serde::to_vec(&id).unwrap()).unwrap(), id);
        assert!(serde_json::from_str::<Id>("\"000000000000000000000000000000a1\"").is_err());
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(Time(Timestamp::from_millis(1_767_225_600_007)).text(), "2026-01-01T00:00:00.007Z");
        assert_eq!(Time(Timestamp::from_millis(0)).text(), "1970-01-01T00:00:00.000Z");
    }
}
