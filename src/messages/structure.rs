//! What the outside of a sealed body tells: whether it is built as its type says.
//!
//! Pure. A relay cannot check a MAC or a signature inside a body; these checks catch bodies that no client could
//! read. Unknown protobuf fields are let through, since newer clients add some, with one exception: a
//! `PlaintextContent` is the only body that travels in clear, so it holds a decryption-error message and nothing else.

mod proto;

use prost::Message;

use crate::domain::{EnvelopeType, SEALED_MIN};
use proto::{
    Content, DecryptionErrorMessage, PreKeySignalMessage, SenderKeyMessage, SignalMessage,
    UnidentifiedSenderMessage,
};

/// A Curve25519 key with its type byte.
const EC_KEY: TypedBytes = TypedBytes { prefix: 0x05, length: 33 };
/// A Kyber1024 ciphertext with its type byte.
const KEM_CIPHERTEXT: TypedBytes = TypedBytes { prefix: 0x08, length: 1569 };
/// The MAC behind a `SignalMessage`.
const SIGNAL_MAC: usize = 8;
/// The signature behind a `SenderKeyMessage`.
const SENDER_KEY_SIGNATURE: usize = 64;
/// The sender's encrypted identity key in sealed sender v1: 33 bytes and a MAC of 10.
const SEALED_STATIC: usize = 43;
/// The MAC at the end of what sealed sender v1 encrypts.
const SEALED_MAC: usize = 10;
/// Sealed sender v2 as received: version, encrypted key 32, authentication tag 16, ephemeral key 32, and a
/// ciphertext with a tag of 16 and something before it.
const SEALED_V2_MIN: usize = 1 + 32 + 16 + 32 + 16 + 1;
/// The first byte of a `PlaintextContent`.
const PLAINTEXT_MARK: u8 = 0xc0;
/// The byte that ends the message in a `PlaintextContent`; libsignal puts no padding after it.
const PADDING_BOUNDARY: u8 = 0x80;

/// What is wrong with a body. The words are meant for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short for anything of its type.
    #[error("the body must have {at_least} bytes or more")]
    TooShort {
        /// The least that would do.
        at_least: usize,
    },
    /// The first byte names another format or an unknown version.
    #[error("the first byte of the body names no known version of its type")]
    Version,
    /// Not the protobuf message it should be.
    #[error("the body is not the protobuf message of its type")]
    NotProtobuf,
    /// A required field is absent or empty.
    #[error("the body lacks the field '{0}'")]
    Missing(&'static str),
    /// A field has the wrong type byte or length.
    #[error("the field '{0}' of the body has the wrong type or length")]
    BadField(&'static str),
    /// A `PlaintextContent` with more in it than a decryption-error message.
    #[error("a plaintext_content body may hold a decryption error message only")]
    NotDecryptionError,
}

/// Checks that a body is built as its type says.
pub fn check(envelope_type: EnvelopeType, body: &[u8]) -> Result<(), Malformed> {
    match envelope_type {
        EnvelopeType::PreKey => check_prekey(body),
        EnvelopeType::Whisper => check_whisper(body),
        EnvelopeType::SenderKey => check_sender_key(body),
        EnvelopeType::Sealed => check_sealed(body),
        EnvelopeType::PlaintextContent => check_plaintext_content(body),
        EnvelopeType::Opaque => at_least(SEALED_MIN, body),
    }
}

fn check_prekey(body: &[u8]) -> Result<(), Malformed> {
    let (version, proto) = split_version(body)?;
    if !matches!(version, 3 | 4) {
        return Err(Malformed::Version);
    }
    let message = decode::<PreKeySignalMessage>(proto)?;
    require(message.signed_pre_key_id.is_some(), "signed_pre_key_id")?;
    EC_KEY.check(message.base_key.as_deref(), "base_key")?;
    EC_KEY.check(message.identity_key.as_deref(), "identity_key")?;
    // Version 3 is the X3DH of before the KEM, which may be absent there, but not by half.
    if version == 4 || message.kyber_pre_key_id.is_some() || message.kyber_ciphertext.is_some() {
        require(message.kyber_pre_key_id.is_some(), "kyber_pre_key_id")?;
        KEM_CIPHERTEXT.check(message.kyber_ciphertext.as_deref(), "kyber_ciphertext")?;
    }
    let inner = not_empty(message.message.as_deref(), "message")?;
    check_whisper(inner)
}

fn check_whisper(body: &[u8]) -> Result<(), Malformed> {
    let (version, rest) = split_version(body)?;
    if !matches!(version, 3 | 4) {
        return Err(Malformed::Version);
    }
    let (proto, _mac) = split_tail(rest, SIGNAL_MAC)?;
    let message = decode::<SignalMessage>(proto)?;
    EC_KEY.check(message.ratchet_key.as_deref(), "ratchet_key")?;
    require(message.counter.is_some(), "counter")?;
    not_empty(message.ciphertext.as_deref(), "ciphertext")?;
    Ok(())
}

fn check_sender_key(body: &[u8]) -> Result<(), Malformed> {
    let (version, rest) = split_version(body)?;
    // Sender keys have stayed at version 3; libsignal refuses any other.
    if version != 3 {
        return Err(Malformed::Version);
    }
    let (proto, _signature) = split_tail(rest, SENDER_KEY_SIGNATURE)?;
    let message = decode::<SenderKeyMessage>(proto)?;
    let distribution_id = not_empty(message.distribution_uuid.as_deref(), "distribution_uuid")?;
    well_formed(distribution_id.len() == 16, "distribution_uuid")?;
    require(message.chain_id.is_some(), "chain_id")?;
    require(message.iteration.is_some(), "iteration")?;
    not_empty(message.ciphertext.as_deref(), "ciphertext")?;
    Ok(())
}

fn check_sealed(body: &[u8]) -> Result<(), Malformed> {
    match body {
        [] => Err(Malformed::TooShort { at_least: 1 }),
        [0x11, proto @ ..] => check_sealed_v1(proto),
        // 0x23 is the sender's form for many recipients; a recipient's own copy says 0x22, and clients read both.
        [0x22 | 0x23, ..] => check_sealed_v2(body),
        _ => Err(Malformed::Version),
    }
}

fn check_sealed_v1(proto: &[u8]) -> Result<(), Malformed> {
    let message = decode::<UnidentifiedSenderMessage>(proto)?;
    EC_KEY.check(message.ephemeral_public.as_deref(), "ephemeral_public")?;
    let encrypted_static = not_empty(message.encrypted_static.as_deref(), "encrypted_static")?;
    well_formed(encrypted_static.len() == SEALED_STATIC, "encrypted_static")?;
    let encrypted_message = not_empty(message.encrypted_message.as_deref(), "encrypted_message")?;
    well_formed(encrypted_message.len() > SEALED_MAC, "encrypted_message")
}

fn check_sealed_v2(body: &[u8]) -> Result<(), Malformed> {
    at_least(SEALED_V2_MIN, body)?;
    // The last byte of the ephemeral key: the top bit of a Curve25519 key is clear.
    well_formed(body[80] & 0x80 == 0, "ephemeral_public")
}

fn check_plaintext_content(body: &[u8]) -> Result<(), Malformed> {
    let Some((&PLAINTEXT_MARK, rest)) = body.split_first() else {
        return Err(Malformed::Version);
    };
    let Some((&PADDING_BOUNDARY, content)) = rest.split_last() else {
        return Err(Malformed::NotDecryptionError);
    };
    let error_message = decode_exactly::<Content>(content)?.decryption_error_message;
    let error_message = not_empty(error_message.as_deref(), "decryption_error_message")?;
    let error = decode_exactly::<DecryptionErrorMessage>(error_message)?;
    require(error.timestamp.is_some(), "timestamp")?;
    if error.ratchet_key.is_some() {
        EC_KEY.check(error.ratchet_key.as_deref(), "ratchet_key")?;
    }
    Ok(())
}

/// Bytes whose first one says what they are.
struct TypedBytes {
    prefix: u8,
    length: usize,
}

impl TypedBytes {
    fn check(&self, bytes: Option<&[u8]>, field: &'static str) -> Result<(), Malformed> {
        let bytes = not_empty(bytes, field)?;
        well_formed(bytes.len() == self.length && bytes.first() == Some(&self.prefix), field)
    }
}

fn split_version(body: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    let Some((first, rest)) = body.split_first() else {
        return Err(Malformed::TooShort { at_least: 1 });
    };
    Ok((first >> 4, rest))
}

/// Splits a MAC or signature off the end; what stays in front must not be empty.
fn split_tail(bytes: &[u8], tail: usize) -> Result<(&[u8], &[u8]), Malformed> {
    match bytes.len().checked_sub(tail) {
        None | Some(0) => Err(Malformed::TooShort { at_least: tail + 2 }),
        Some(middle) => Ok(bytes.split_at(middle)),
    }
}

fn decode<M: Message + Default>(proto: &[u8]) -> Result<M, Malformed> {
    // The cause is prost's wording of a peer's bytes: of no use to a client and none of the log's business.
    M::decode(proto).map_err(|_| Malformed::NotProtobuf)
}

/// Decodes a message that holds its known fields in their usual order and not a byte more.
fn decode_exactly<M: Message + Default>(proto: &[u8]) -> Result<M, Malformed> {
    let message = decode::<M>(proto)?;
    if message.encode_to_vec() != proto {
        return Err(Malformed::NotDecryptionError);
    }
    Ok(message)
}

fn not_empty<'a>(bytes: Option<&'a [u8]>, field: &'static str) -> Result<&'a [u8], Malformed> {
    bytes.filter(|bytes| !bytes.is_empty()).ok_or(Malformed::Missing(field))
}

fn require(is_present: bool, field: &'static str) -> Result<(), Malformed> {
    if is_present { Ok(()) } else { Err(Malformed::Missing(field)) }
}

fn well_formed(holds: bool, field: &'static str) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed::BadField(field)) }
}

fn at_least(at_least: usize, body: &[u8]) -> Result<(), Malformed> {
    if body.len() < at_least { Err(Malformed::TooShort { at_least }) } else { Ok(()) }
}

#[cfg(test)]
#[path = "../../tests/clients/signal_bodies.rs"]
pub(crate) mod signal_bodies;
#[cfg(test)]
mod tests;
