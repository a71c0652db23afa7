//! Columns as domain values, and lists of domain values as the JSON that `json_each` reads.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use sqlx::{Row as _, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{
    domain::{
        Caller, DeviceId, DeviceNo, DeviceNumber, Envelope, EnvelopeType, IdentityKey, InvalidId, KeyId,
        LinkedBy, ListedDevice, MessageType, Position, RegistrationId, Signature, SignedPreKey, Timestamp,
        UserId,
    },
    store::device_list,
};

type Read<T> = Result<T, sqlx::Error>;

/// What stands in the database is not what this relay writes there.
pub(super) fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(InvalidId(what)))
}

pub(super) fn valid<T>(parsed: Result<T, InvalidId>) -> Read<T> {
    parsed.map_err(|invalid| sqlx::Error::Decode(Box::new(invalid)))
}

pub(super) fn user_id(row: &SqliteRow, column: &str) -> Read<UserId> {
    row.try_get(column).map(UserId::new)
}

pub(super) fn device_no(row: &SqliteRow, column: &str) -> Read<DeviceNo> {
    row.try_get(column).map(DeviceNo)
}

pub(super) fn device_id(row: &SqliteRow, column: &str) -> Read<DeviceId> {
    valid(DeviceId::parse(row.try_get(column)?))
}

pub(super) fn device_number(row: &SqliteRow, column: &str) -> Read<DeviceNumber> {
    valid(DeviceNumber::new(row.try_get(column)?))
}

pub(super) fn optional_device_number(row: &SqliteRow, column: &str) -> Read<Option<DeviceNumber>> {
    row.try_get::<Option<i64>, _>(column)?.map(|number| valid(DeviceNumber::new(number))).transpose()
}

/// The columns that name a device.
pub(super) fn caller(row: &SqliteRow) -> Read<Caller> {
    Ok(Caller {
        user_id: user_id(row, "user_id")?,
        device_id: device_id(row, "device_id")?,
        device_number: device_number(row, "device_number")?,
        device_no: device_no(row, "device_no")?,
    })
}

pub(super) fn registration_id(row: &SqliteRow, column: &str) -> Read<RegistrationId> {
    valid(RegistrationId::new(row.try_get(column)?))
}

pub(super) fn key_id(number: i64) -> Read<KeyId> {
    valid(KeyId::new(number))
}

pub(super) fn position(row: &SqliteRow, column: &str) -> Read<Position> {
    row.try_get(column).map(Position)
}

pub(super) fn timestamp(row: &SqliteRow, column: &str) -> Read<Timestamp> {
    row.try_get(column).map(Timestamp::from_millis)
}

pub(super) fn optional_timestamp(row: &SqliteRow, column: &str) -> Read<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_millis))
}

pub(super) fn digest(bytes: &[u8]) -> Read<[u8; 32]> {
    bytes.try_into().map_err(|_| corrupt("a digest has 32 bytes"))
}

pub(super) fn signature(bytes: &[u8]) -> Read<Signature> {
    bytes.try_into().map_err(|_| corrupt("a signature has 64 bytes"))
}

pub(super) fn identity_key(bytes: &[u8]) -> Read<IdentityKey> {
    if let Ok(key) = <[u8; 32]>::try_from(bytes) {
        return Ok(IdentityKey::Ed25519(key));
    }
    match <[u8; 33]>::try_from(bytes) {
        Ok(key) => Ok(IdentityKey::Signal(key)),
        Err(_) => Err(corrupt("an identity key has 32 or 33 bytes")),
    }
}

/// The `linked_by_*` columns.
pub(super) fn linked_by(row: &SqliteRow) -> Read<Option<LinkedBy>> {
    if row.try_get::<Option<&str>, _>("linked_by_device_id")?.is_none() {
        return Ok(None);
    }
    Ok(Some(LinkedBy {
        device_id: device_id(row, "linked_by_device_id")?,
        identity_key: identity_key(row.try_get("linked_by_identity_key")?)?,
        signature: signature(row.try_get("linked_by_signature")?)?,
    }))
}

/// A pre-key with its signature, from three columns; none when they are null.
pub(super) fn signed_prekey(row: &SqliteRow, [id, key, sig]: [&str; 3]) -> Read<Option<SignedPreKey>> {
    let Some(number) = row.try_get::<Option<i64>, _>(id)? else { return Ok(None) };
    Ok(Some(SignedPreKey {
        id: key_id(number)?,
        public_key: Bytes::copy_from_slice(row.try_get(key)?),
        signature: signature(row.try_get(sig)?)?,
    }))
}

/// The `envelope_type`, `ephemeral_key` and `body` columns; none when they are null.
pub(super) fn envelope(row: &SqliteRow) -> Read<Option<Envelope>> {
    let Some(envelope_type) = row.try_get::<Option<i64>, _>("envelope_type")? else { return Ok(None) };
    let ephemeral_key: Option<&[u8]> = row.try_get("ephemeral_key")?;
    Ok(Some(Envelope {
        envelope_type: parse_envelope_type(envelope_type)?,
        ciphertext: Bytes::copy_from_slice(row.try_get("body")?),
        ephemeral_key: ephemeral_key.map(Bytes::copy_from_slice),
    }))
}

fn parse_envelope_type(number: i64) -> Read<EnvelopeType> {
    Ok(match number {
        0 => EnvelopeType::PreKey,
        1 => EnvelopeType::Whisper,
        2 => EnvelopeType::SenderKey,
        3 => EnvelopeType::Sealed,
        4 => EnvelopeType::PlaintextContent,
        5 => EnvelopeType::Opaque,
        _ => return Err(corrupt("an envelope type lies between 0 and 5")),
    })
}

pub(super) fn message_type(row: &SqliteRow) -> Read<MessageType> {
    Ok(match row.try_get::<i64, _>("message_type")? {
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
        _ => return Err(corrupt("a message type lies between 0 and 10")),
    })
}

/// The `body` column of a notice that the list of devices changed.
pub(super) fn device_list(row: &SqliteRow) -> Read<Arc<[ListedDevice]>> {
    device_list::decode(row.try_get("body")?).ok_or_else(|| corrupt("a list of devices is well-formed"))
}

/// The `places` column: a JSON array of `[device_no, position]`.
pub(super) fn read_places(row: &SqliteRow) -> Read<Vec<(DeviceNo, Position)>> {
    let pairs: Vec<(i64, i64)> =
        serde_json::from_str(row.try_get("places")?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(pairs.into_iter().map(|(device, position)| (DeviceNo(device), Position(position))).collect())
}

/// A count as the seam speaks of it.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(if number < 0 { 0 } else { u32::MAX })
}

/// `[1,2,3]`, for `IN (SELECT value FROM json_each(?))`.
pub(super) fn numbers(list: impl IntoIterator<Item = i64>) -> String {
    array(list.into_iter().map(|number| number.to_string()))
}

/// `["0a..", ..]`, for `IN (SELECT unhex(value) FROM json_each(?))`.
pub(super) fn blobs<'a>(list: impl IntoIterator<Item = &'a [u8]>) -> String {
    array(list.into_iter().map(|bytes| {
        let mut quoted = String::with_capacity(bytes.len() * 2 + 2);
        quoted.push('"');
        for byte in bytes {
            // Writing to a string cannot fail.
            let _infallible = write!(quoted, "{byte:02x}");
        }
        quoted.push('"');
        quoted
    }))
}

/// Like [`blobs`], of ids.
pub(super) fn uuids(list: impl IntoIterator<Item = Uuid>) -> String {
    array(list.into_iter().map(|uuid| format!("\"{}\"", uuid.simple())))
}

/// `[[1,2],[3,4]]`, for `(SELECT value ->> 0, value ->> 1 FROM json_each(?))`.
pub(super) fn tuples<const N: usize>(list: impl IntoIterator<Item = [i64; N]>) -> String {
    array(list.into_iter().map(numbers))
}

/// Like [`tuples`], of places; this is also what the `places` column holds.
pub(super) fn places(list: impl IntoIterator<Item = (DeviceNo, Position)>) -> String {
    tuples(list.into_iter().map(|(device, position)| [device.0, position.0]))
}

fn array(items: impl Iterator<Item = String>) -> String {
    let mut json = String::from("[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(&item);
    }
    json.push(']');
    json
}
