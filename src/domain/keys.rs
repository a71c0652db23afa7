//! Public keys as the relay holds them: parsed and, by the time they stand here, checked.

use std::fmt;

use bytes::Bytes;

use super::{DeviceId, DeviceNo, DeviceNumber, KeyId, MlsSignatureKey, RegistrationId, Timestamp, UserId};

/// A device's identity key. Its kind decides how the device signs (API.md, "Two identity kinds").
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum IdentityKey {
    /// 32 bytes, an Ed25519 key.
    Ed25519([u8; 32]),
    /// 33 bytes, `0x05` and a Curve25519 key that signs by XEdDSA.
    Signal([u8; 33]),
}

impl IdentityKey {
    /// The key as it stands on the wire: 32 or 33 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(bytes) => bytes,
            Self::Signal(bytes) => bytes,
        }
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "IdentityKey::Ed25519(..)",
            Self::Signal(_) => "IdentityKey::Signal(..)",
        })
    }
}

/// A 64-byte signature, Ed25519 or XEdDSA.
pub type Signature = [u8; 64];

/// An unsigned one-time pre-key: 32 bytes, or 33 with Signal's prefix.
#[derive(Clone, PartialEq, Eq)]
pub struct OneTimePreKey {
    /// Its id.
    pub id: KeyId,
    /// The serialised public key.
    pub public_key: Bytes,
}

/// A pre-key with its owner's signature: the signed pre-key, a KEM pre-key, or the last-resort KEM pre-key.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedPreKey {
    /// Its id.
    pub id: KeyId,
    /// The serialised public key.
    pub public_key: Bytes,
    /// The identity key's signature over the serialised public key.
    pub signature: Signature,
}

impl fmt::Debug for OneTimePreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneTimePreKey(..)")
    }
}

impl fmt::Debug for SignedPreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedPreKey(..)")
    }
}

/// The kinds within which key ids count. One-time and last-resort KEM pre-keys share a kind, because Signal clients
/// keep them under one numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// The signed pre-key.
    Signed = 0,
    /// One-time elliptic-curve pre-keys.
    OneTime = 1,
    /// KEM pre-keys, one-time and last-resort.
    Kem = 2,
}

/// The statement of an existing device that a newcomer belongs to the same user, kept and served for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedBy {
    /// The device that signed.
    pub device_id: DeviceId,
    /// The identity key it signed with.
    pub identity_key: IdentityKey,
    /// The signature over the link statement (API.md, "Signed statements").
    pub signature: Signature,
}

/// What a sender needs to open a session with one device (X3DH or PQXDH).
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The owner.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// Its registration id.
    pub registration_id: RegistrationId,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// Who vouched for it, if it was linked.
    pub linked_by: Option<LinkedBy>,
    /// The signed pre-key.
    pub signed_prekey: SignedPreKey,
    /// A one-time pre-key, taken for this bundle alone; absent when there is none left.
    pub onetime_prekey: Option<OneTimePreKey>,
    /// A KEM pre-key: one-time while there are some, else the last-resort one.
    pub kem_prekey: Option<SignedPreKey>,
}

/// An active device.
#[derive(Debug, Clone)]
pub struct Device {
    /// The incarnation; never leaves the relay.
    pub device_no: DeviceNo,
    /// The device.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// Its registration id.
    pub registration_id: RegistrationId,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// Who vouched for it, if it was linked.
    pub linked_by: Option<LinkedBy>,
    /// Its MLS signature keys, at most one of a scheme.
    pub mls_signature_keys: Vec<MlsSignatureKey>,
    /// The name its owner gave it; for the owner's eyes.
    pub device_name: Option<String>,
    /// When it was registered; for the owner's eyes.
    pub created_at: Timestamp,
    /// The day it was last seen; for the owner's eyes.
    pub last_seen: Timestamp,
}

/// How many keys a device has, for its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyStats {
    /// One-time pre-keys that are left.
    pub unused_prekeys: u32,
    /// One-time pre-keys ever uploaded by this incarnation.
    pub total_prekeys: u32,
    /// One-time KEM pre-keys that are left.
    pub kem_prekeys: u32,
    /// When the current signed pre-key was published.
    pub signed_prekey_at: Timestamp,
    /// One-time key packages that are left and have not ended.
    pub key_packages: u32,
    /// Whether the last-resort KEM pre-key, or a last-resort key package, was handed out since it was published.
    pub last_resort_used: bool,
}

/// The keys of a device that do not get used up, for comparison by their owner.
#[derive(Debug, Clone)]
pub struct LastingKeys {
    /// The identity key.
    pub identity_key: IdentityKey,
    /// The signed pre-key.
    pub signed_prekey: SignedPreKey,
    /// The last-resort KEM pre-key.
    pub last_resort_kem_prekey: Option<SignedPreKey>,
}
