//! Between columns and the words of the domain.

use bytes::Bytes;
use sqlx::{Error, FromRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{
    Device, DeviceId, DeviceNo, DeviceNumber, Envelope, EnvelopeType, IdentityKey, KeyId, LinkedBy,
    MessageType, OneTimePreKey, Position, RegistrationId, SignedPreKey, Timestamp,
};

/// Years 1 to 9999, which both sides can hold.
const EARLIEST: i64 = -62_135_596_800_000;
const LATEST: i64 = 253_402_300_799_999;

/// A moment as a column.
pub(super) fn at(moment: Timestamp) -> OffsetDateTime {
    let nanos = i128::from(moment.millis().clamp(EARLIEST, LATEST)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A column as a moment.
pub(super) fn moment(column: OffsetDateTime) -> Timestamp {
    Timestamp::from_millis(column.unix_timestamp() * 1000 + i64::from(column.millisecond()))
}

/// A value that no act of this relay writes.
pub(super) fn corrupt(reason: impl Into<Box<dyn std::error::Error + std::marker::Send + Sync>>) -> Error {
    Error::Decode(reason.into())
}

pub(super) fn missing() -> Error {
    corrupt("a column that belongs here is null")
}

pub(super) fn device_id(text: &str) -> Result<DeviceId, Error> {
    DeviceId::parse(text).map_err(corrupt)
}

pub(super) fn device_number(number: i16) -> Result<DeviceNumber, Error> {
    DeviceNumber::new(i64::from(number)).map_err(corrupt)
}

pub(super) fn registration_id(number: i32) -> Result<RegistrationId, Error> {
    RegistrationId::new(i64::from(number)).map_err(corrupt)
}

pub(super) fn key_id(number: i64) -> Result<KeyId, Error> {
    KeyId::new(number).map_err(corrupt)
}

pub(super) fn identity_key(bytes: &[u8]) -> Result<IdentityKey, Error> {
    if let Ok(key) = <[u8; 32]>::try_from(bytes) {
        return Ok(IdentityKey::Ed25519(key));
    }
    <[u8; 33]>::try_from(bytes).map(IdentityKey::Signal).map_err(corrupt)
}

pub(super) fn signature(bytes: &[u8]) -> Result<[u8; 64], Error> {
    <[u8; 64]>::try_from(bytes).map_err(corrupt)
}

pub(super) fn digest(bytes: &[u8]) -> Result<[u8; 32], Error> {
    <[u8; 32]>::try_from(bytes).map_err(corrupt)
}

/// A count as the domain holds it.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

pub(super) fn onetime_prekey(id: i64, public_key: Vec<u8>) -> Result<OneTimePreKey, Error> {
    Ok(OneTimePreKey { id: key_id(id)?, public_key: Bytes::from(public_key) })
}

pub(super) fn signed_prekey(id: i64, public_key: Vec<u8>, signed: &[u8]) -> Result<SignedPreKey, Error> {
    Ok(SignedPreKey { id: key_id(id)?, public_key: Bytes::from(public_key), signature: signature(signed)? })
}

pub(super) fn message_type(column: i16) -> Result<MessageType, Error> {
    Ok(match column {
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
        _ => return Err(corrupt("an unknown message type")),
    })
}

fn envelope_type(column: i16) -> Result<EnvelopeType, Error> {
    Ok(match column {
        0 => EnvelopeType::PreKey,
        1 => EnvelopeType::Whisper,
        2 => EnvelopeType::SenderKey,
        3 => EnvelopeType::Sealed,
        4 => EnvelopeType::PlaintextContent,
        5 => EnvelopeType::Opaque,
        _ => return Err(corrupt("an unknown envelope type")),
    })
}

/// The body columns of an item; null in a notice (but for the list of devices in one) and where an outer join found none.
#[derive(FromRow)]
pub(super) struct BodyRow {
    envelope_type: Option<i16>,
    ephemeral_key: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
}

impl BodyRow {
    pub(super) fn envelope(self) -> Result<Option<Envelope>, Error> {
        let (Some(kind), Some(body)) = (self.envelope_type, self.body) else { return Ok(None) };
        Ok(Some(Envelope {
            envelope_type: envelope_type(kind)?,
            ciphertext: Bytes::from(body),
            ephemeral_key: self.ephemeral_key.map(Bytes::from),
        }))
    }

    /// The body as it is stored, of an item that is no envelope.
    pub(super) fn bytes(self) -> Option<Vec<u8>> {
        self.body
    }
}

/// Who vouched for a device.
#[derive(FromRow)]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
pub(super) struct LinkedByRow {
    linked_by_device_id: Option<String>,
    linked_by_identity_key: Option<Vec<u8>>,
    linked_by_signature: Option<Vec<u8>>,
}

impl LinkedByRow {
    pub(super) fn linked_by(self) -> Result<Option<LinkedBy>, Error> {
        let Some(device) = self.linked_by_device_id else { return Ok(None) };
        Ok(Some(LinkedBy {
            device_id: device_id(&device)?,
            identity_key: identity_key(&self.linked_by_identity_key.ok_or_else(missing)?)?,
            signature: signature(&self.linked_by_signature.ok_or_else(missing)?)?,
        }))
    }
}

/// An active device as its user's list shows it.
#[derive(FromRow)]
pub(super) struct DeviceRow {
    device_no: i64,
    device_id: String,
    device_number: i16,
    registration_id: i32,
    device_name: Option<String>,
    created_at: OffsetDateTime,
    last_seen: OffsetDateTime,
    identity_key: Vec<u8>,
    #[sqlx(flatten)]
    linked_by: LinkedByRow,
}

impl DeviceRow {
    pub(super) fn device(self) -> Result<Device, Error> {
        Ok(Device {
            mls_signature_keys: Vec::new(),
            device_no: DeviceNo(self.device_no),
            device_id: device_id(&self.device_id)?,
            device_number: device_number(self.device_number)?,
            registration_id: registration_id(self.registration_id)?,
            identity_key: identity_key(&self.identity_key)?,
            linked_by: self.linked_by.linked_by()?,
            device_name: self.device_name,
            created_at: moment(self.created_at),
            last_seen: moment(self.last_seen),
        })
    }
}

/// Where the bodies of a message were put, as two columns of equal length.
#[derive(Default, FromRow)]
pub(super) struct Places {
    pub(super) device_nos: Vec<i64>,
    pub(super) positions: Vec<i64>,
}

impl Places {
    /// Ascending by device and position, the order in which items are locked.
    pub(super) fn sorted(places: impl IntoIterator<Item = (DeviceNo, Position)>) -> Self {
        let mut pairs: Vec<_> = places.into_iter().collect();
        pairs.sort_unstable();
        pairs.dedup();
        let (device_nos, positions) =
            pairs.into_iter().map(|(device, position)| (device.0, position.0)).unzip();
        Self { device_nos, positions }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceNo, Position)> {
        let positions = self.positions.iter().copied().map(Position);
        self.device_nos.iter().copied().map(DeviceNo).zip(positions)
    }
}

pub(super) fn device_numbers(devices: &[DeviceNo]) -> Vec<i64> {
    devices.iter().map(|device| device.0).collect()
}

pub(super) fn uuids<T: Copy>(ids: impl IntoIterator<Item = T>, uuid: impl Fn(T) -> Uuid) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = ids.into_iter().map(uuid).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
