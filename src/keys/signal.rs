//! Public keys of the Signal protocol: parsed, verified and put into signed statements.
//!
//! Pure: bytes in, a verdict out. The relay holds no private key and has no code to use one.

use bytes::Bytes;
use curve25519_dalek::{MontgomeryPoint, edwards::CompressedEdwardsY};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};

use crate::domain::{DeviceId, IdentityKey, Signature, SignatureScheme, SignedPreKey, UserId};

/// The type byte of a serialised Curve25519 key.
const EC_PREFIX: u8 = 0x05;
/// The type byte of a serialised Kyber1024 key.
const KEM_PREFIX: u8 = 0x08;
/// The length of a serialised Kyber1024 key, type byte included.
const KEM_LENGTH: usize = 1 + 1568;

/// The prime of the field, 2^255 − 19, little-endian.
const FIELD_PRIME: [u8; 32] = {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed;
    bytes[31] = 0x7f;
    bytes
};

/// The canonical u-coordinates of all points of order 1, 2, 4 and 8 on the curve and its twist. An agreement with
/// any of them yields zero, whatever the other side's secret.
const LOW_ORDER: [[u8; 32]; 5] = {
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = FIELD_PRIME;
    minus_one[0] = 0xec;
    [
        [0; 32],
        one,
        minus_one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
            0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

/// Why bytes are not the public key they should be. The words are meant for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The key is too long or too short.
    #[error("the key must have {expected} bytes")]
    WrongLength {
        /// The length or lengths that would do.
        expected: &'static str,
    },
    /// The key has another type byte, or none.
    #[error("the key must start with the type byte {expected:#04x}")]
    WrongPrefix {
        /// The type byte that would do.
        expected: u8,
    },
    /// The bytes are a second spelling of another key.
    #[error("the key is not in its canonical form")]
    NonCanonical,
    /// The bytes are no point, so nothing that this key signs could be verified.
    #[error("the key is not a point on the curve")]
    NotOnCurve,
    /// The key is one of the few points that make every shared secret the same.
    #[error("the key is a low-order point")]
    LowOrder,
}

/// Parses an identity key, whose length tells its kind: 32 bytes Ed25519, 33 bytes Signal.
pub fn parse_identity_key(bytes: &[u8]) -> Result<IdentityKey, InvalidKey> {
    if let Ok(key) = <[u8; 32]>::try_from(bytes) {
        check_edwards(&key)?;
        return Ok(IdentityKey::Ed25519(key));
    }
    let Ok(key) = <[u8; 33]>::try_from(bytes) else {
        return Err(InvalidKey::WrongLength { expected: "32 or 33" });
    };
    let [prefix, u @ ..] = key;
    check_prefix(prefix, EC_PREFIX)?;
    check_montgomery(&u)?;
    // A point of the twist can agree on secrets, but it cannot sign.
    if MontgomeryPoint(u).to_edwards(0).is_none() {
        return Err(InvalidKey::NotOnCurve);
    }
    Ok(IdentityKey::Signal(key))
}

/// Parses an elliptic-curve pre-key, signed or one-time, of the kind that goes with `identity`: 32 bytes X25519 for
/// an Ed25519 identity, 33 bytes with the type byte for a Signal identity.
pub fn parse_ec_prekey(identity: &IdentityKey, key: Bytes) -> Result<Bytes, InvalidKey> {
    match identity {
        IdentityKey::Ed25519(_) => {
            check_x25519(&key)?;
        }
        IdentityKey::Signal(_) => {
            let Ok([prefix, u @ ..]) = <[u8; 33]>::try_from(&key[..]) else {
                return Err(InvalidKey::WrongLength { expected: "33" });
            };
            check_prefix(prefix, EC_PREFIX)?;
            check_montgomery(&u)?;
        }
    }
    Ok(key)
}

/// Parses a KEM pre-key: Kyber1024 in Signal's serialisation, for either kind of identity.
pub fn parse_kem_prekey(key: Bytes) -> Result<Bytes, InvalidKey> {
    if key.len() != KEM_LENGTH {
        return Err(InvalidKey::WrongLength { expected: "1569" });
    }
    check_prefix(key[0], KEM_PREFIX)?;
    Ok(key)
}

/// Whether `signature` is the identity key's over `message`.
#[must_use]
pub fn verify(identity: &IdentityKey, message: &[u8], signature: &Signature) -> bool {
    match identity {
        IdentityKey::Ed25519(key) => verify_ed25519(key, message, signature),
        IdentityKey::Signal([_, u @ ..]) => verify_xeddsa(u, message, signature),
    }
}

/// What a device signs to register: that this device of this user, on this relay, holds the identity key and
/// published this signed pre-key.
#[must_use]
pub fn register_statement(
    relay_name: &str,
    user_id: UserId,
    device_id: &DeviceId,
    signed_prekey_public_key: &[u8],
) -> Vec<u8> {
    let user_id = lower_case(user_id);
    let key_hash = Sha256::digest(signed_prekey_public_key);
    statement(&[
        b"restante-register-v1",
        relay_name.as_bytes(),
        user_id.as_bytes(),
        device_id.as_str().as_bytes(),
        &key_hash,
    ])
}

/// What an existing device signs to link a newcomer to its user.
#[must_use]
pub fn link_statement(user_id: UserId, device_id: &DeviceId, identity_key: &IdentityKey) -> Vec<u8> {
    let user_id = lower_case(user_id);
    statement(&[
        b"restante-link-v1",
        user_id.as_bytes(),
        device_id.as_str().as_bytes(),
        identity_key.as_bytes(),
    ])
}

/// What a device signs to log in: that it answers this challenge, on this relay, as this device of this user.
#[must_use]
pub fn login_statement(relay_name: &str, user_id: UserId, device_id: &DeviceId, challenge: &str) -> Vec<u8> {
    let user_id = lower_case(user_id);
    statement(&[
        b"restante-auth-v1",
        relay_name.as_bytes(),
        user_id.as_bytes(),
        device_id.as_str().as_bytes(),
        challenge.as_bytes(),
    ])
}

/// What an earlier identity key of a user signs so that a new one may bring the user back.
#[must_use]
pub fn recover_statement(relay_name: &str, user_id: UserId, new_identity: &IdentityKey) -> Vec<u8> {
    let user_id = lower_case(user_id);
    statement(&[b"restante-recover-v1", relay_name.as_bytes(), user_id.as_bytes(), new_identity.as_bytes()])
}

/// What a device's identity key signs for its MLS signature key of a scheme: so that members can hold a leaf against the
/// identity they know, without trusting the relay.
#[must_use]
pub fn mls_key_statement(
    user_id: UserId,
    device_id: &DeviceId,
    scheme: SignatureScheme,
    public_key: &[u8],
) -> Vec<u8> {
    let user_id = lower_case(user_id);
    let scheme = scheme.number().to_string();
    statement(&[
        b"restante-mls-v1",
        user_id.as_bytes(),
        device_id.as_str().as_bytes(),
        scheme.as_bytes(),
        public_key,
    ])
}

/// The digest by which a device and the relay compare the keys that do not get used up: SHA-256 over the identity
/// key, then id (8 bytes, big-endian) and key of the signed pre-key, then the same of the last-resort KEM pre-key.
#[must_use]
pub fn key_digest(
    identity: &IdentityKey,
    signed_prekey: &SignedPreKey,
    last_resort: Option<&SignedPreKey>,
) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(identity.as_bytes());
    for prekey in std::iter::once(signed_prekey).chain(last_resort) {
        hash.update(u64::from(prekey.id.get()).to_be_bytes());
        hash.update(&prekey.public_key);
    }
    hash.finalize().into()
}

fn verify_ed25519(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    VerifyingKey::from_bytes(key).is_ok_and(|key| verify_strict(&key, message, signature))
}

/// Signal's `XEdDSA`: the top bit of the signature carries the sign of the signer's Edwards point. The published
/// paper forces that bit to zero and so refuses half of what Signal clients sign.
fn verify_xeddsa(u: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    let sign = signature[63] >> 7;
    let Some(point) = MontgomeryPoint(*u).to_edwards(sign) else { return false };
    let mut signature = *signature;
    signature[63] &= 0x7f;
    verify_strict(&VerifyingKey::from(point), message, &signature)
}

/// Strict, because with a low-order key the plain rule accepts forgeries: half of those tried for u = 0.
fn verify_strict(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
}

fn check_prefix(prefix: u8, expected: u8) -> Result<(), InvalidKey> {
    if prefix != expected {
        return Err(InvalidKey::WrongPrefix { expected });
    }
    Ok(())
}

/// Checks a bare X25519 public key.
pub(super) fn check_x25519(key: &[u8]) -> Result<(), InvalidKey> {
    let u = key.try_into().map_err(|_| InvalidKey::WrongLength { expected: "32" })?;
    check_montgomery(&u)
}

fn check_montgomery(u: &[u8; 32]) -> Result<(), InvalidKey> {
    // From the top byte down; a set top bit makes the number larger than the prime, too.
    if u.iter().rev().ge(FIELD_PRIME.iter().rev()) {
        return Err(InvalidKey::NonCanonical);
    }
    if LOW_ORDER.contains(u) {
        return Err(InvalidKey::LowOrder);
    }
    Ok(())
}

/// Checks an Ed25519 public key.
pub(super) fn check_edwards(key: &[u8; 32]) -> Result<(), InvalidKey> {
    let Some(point) = CompressedEdwardsY(*key).decompress() else {
        return Err(InvalidKey::NotOnCurve);
    };
    if point.compress().as_bytes() != key {
        return Err(InvalidKey::NonCanonical);
    }
    if point.is_small_order() {
        return Err(InvalidKey::LowOrder);
    }
    Ok(())
}

/// Joins parts by a zero byte. No text part can hold one, and a binary part stands last and has a known length, so
/// two different lists of parts never give the same statement.
fn statement(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&0)
}

fn lower_case(user_id: UserId) -> String {
    user_id.uuid().hyphenated().to_string()
}

#[cfg(test)]
mod tests;
