//! Why acts on keys are refused.

use std::time::Duration;

use super::mls::InvalidPackage;
use crate::store::StoreError;

/// Why an act on keys was refused. Fields are named as on the wire.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A key is not one: the field and why.
    #[error("invalid key")]
    InvalidKey(String, String),
    /// A signature does not verify: the field.
    #[error("invalid signature")]
    InvalidSignature(String),
    /// The proof that the device holds its identity key does not verify.
    #[error("invalid proof")]
    InvalidProof,
    /// A Signal identity comes without a last-resort KEM pre-key.
    #[error("kem required")]
    KemRequired,
    /// Fewer one-time pre-keys than needed.
    #[error("too few pre-keys")]
    TooFew(&'static str, usize),
    /// More pre-keys than a device may have: the field and the limit.
    #[error("too many pre-keys")]
    TooMany(&'static str, u32),
    /// An id or key occurs twice in one list: the field and the index.
    #[error("duplicate pre-key")]
    Duplicate(String, usize),
    /// A key or id was uploaded before: the field and the index, if it is in a list.
    #[error("pre-key reused")]
    Reused(&'static str, Option<usize>),
    /// MLS keys or key packages are not what they must be.
    #[error(transparent)]
    Mls(#[from] MlsRefusal),
    /// The device id is active already.
    #[error("device exists")]
    DeviceExists,
    /// A link token is needed, and none that fits came.
    #[error("link required")]
    LinkRequired,
    /// Nobody has the user id, and the host application did not admit it.
    #[error("admission required")]
    AdmissionRequired,
    /// The admission token that was to bring the user back was used before.
    #[error("admission used")]
    AdmissionUsed,
    /// The recovery proof does not verify under any earlier identity key that still speaks for the user.
    #[error("invalid recovery proof")]
    InvalidRecovery,
    /// The user has as many devices as it may.
    #[error("too many devices")]
    TooManyDevices(u32),
    /// Too young to deactivate that device.
    #[error("not allowed")]
    NotAllowed,
    /// There is no such device, or no longer.
    #[error("unknown device")]
    UnknownDevice,
    /// The client's keys are not the relay's.
    #[error("keys differ")]
    KeysDiffer,
    /// A device does this too often: after how long it may again.
    #[error("too often")]
    TooOften(Duration),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an act on MLS keys or key packages was refused. Fields are named as on the wire.
#[derive(Debug, thiserror::Error)]
pub enum MlsRefusal {
    /// Bytes are not a key package that this device may upload: the field and why.
    #[error("invalid key package")]
    InvalidPackage(String, InvalidPackage),
    /// A key package was uploaded before, or shares its init key with another one: the field.
    #[error("key package reused")]
    PackageReused(String),
    /// The signature key in a package's leaf is not the one registered for its scheme: the field.
    #[error("unknown signature key")]
    UnknownSignatureKey(String),
    /// More key packages than a device may have: the limit.
    #[error("too many key packages")]
    TooManyPackages(u32),
    /// An MLS signature key is, or was, another device's or a former one of this device: the field.
    #[error("signature key reused")]
    MlsKeyReused(String),
    /// Nobody may be given a key package, because none is there.
    #[error("no key package")]
    NoPackage,
}
