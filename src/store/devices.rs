//! What acts on devices and their keys take and become.

use super::{NewSession, PackagePlace, PackageUpload, Principal, SingleUse};
use crate::domain::{
    Bundle, DeviceId, DeviceNo, IdentityKey, KeyId, KeyKind, LinkedBy, MlsSignatureKey, OneTimePreKey,
    RegistrationId, SignatureScheme, SignedPreKey, Timestamp, UserId,
};

/// A device that asks to be registered. Every key in it has been checked.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The user it belongs to.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// A name for its owner's eyes.
    pub device_name: Option<String>,
    /// Its registration id.
    pub registration_id: RegistrationId,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// Its first signed pre-key.
    pub signed_prekey: SignedPreKey,
    /// Its one-time pre-keys.
    pub onetime_prekeys: Vec<OneTimePreKey>,
    /// Its one-time KEM pre-keys.
    pub kem_prekeys: Vec<SignedPreKey>,
    /// Its last-resort KEM pre-key.
    pub last_resort_kem_prekey: Option<SignedPreKey>,
    /// Its MLS signature keys, at most one of a scheme.
    pub mls_signature_keys: Vec<MlsSignatureKey>,
    /// Its first key packages.
    pub packages: PackageUpload,
    /// Whether it may claim a user id that nobody has.
    pub may_claim: bool,
    /// BLAKE3 of the link token, for a device of a user that has some.
    pub link_token_hash: Option<[u8; 32]>,
    /// What brings a user back that has no device left.
    pub revival: Option<Revival>,
    /// The session that registration opens.
    pub session: NewSession,
}

/// Why a user without devices may come back. Its token, if it is one, works once: a registration that claims the user id
/// uses it up too, so that it cannot bring the user back later.
#[derive(Debug, Clone)]
pub enum Revival {
    /// This identity key, one of [`recovery_keys`](super::Store::recovery_keys), signed for the new one. A new key that a
    /// device of this user once had must be one of those as well: a key that was expelled does not come back by a signature
    /// from before.
    Recovered(IdentityKey),
    /// The host application said so, by an admission token that works once.
    Admitted(SingleUse),
}

/// Whether a bundle comes with one-time keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTimeKeys {
    /// With one-time keys, while there are some.
    Given,
    /// Without: the KEM pre-key is the last-resort one, if there is one.
    Withheld,
}

/// What became of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// The device is there, and so are its keys, its mailbox and its session.
    Registered(Principal),
    /// The device id is active already.
    DeviceExists,
    /// Nobody has the user id, and this registration may not claim it.
    AdmissionRequired,
    /// The user id is claimed, and no valid link token for this device and key came with the request; or no device is
    /// left, and nothing that brings the user back.
    LinkRequired,
    /// The admission token that was to bring the user back, or came with a claim, was used before.
    AdmissionUsed,
    /// The user has as many active devices as a user may have.
    TooManyDevices,
    /// A key was uploaded by this user before, perhaps by an earlier incarnation.
    KeyReused(KeyKind, KeyId),
    /// An MLS signature key of this scheme is, or was, another device's; the relay over.
    MlsKeyReused(SignatureScheme),
    /// As [`super::PackagesPublished::SignatureKeyUnknown`].
    PackageKeyUnknown(PackagePlace),
    /// As [`super::PackagesPublished::Reused`].
    PackageReused(PackagePlace),
}

/// An existing device's word for a newcomer.
#[derive(Debug, Clone)]
pub struct LinkOffer {
    /// The user.
    pub user_id: UserId,
    /// The incarnation that vouches.
    pub by: DeviceNo,
    /// The newcomer's device id.
    pub device_id: DeviceId,
    /// The newcomer's identity key.
    pub identity_key: IdentityKey,
    /// The statement that will be served with the newcomer.
    pub linked_by: LinkedBy,
    /// BLAKE3 of the link token.
    pub token_hash: [u8; 32],
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// A bundle that was taken, and what its owner should hear of it.
#[derive(Debug, Clone)]
pub struct TakenBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// The owner.
    pub device_no: DeviceNo,
    /// One-time pre-keys left afterwards.
    pub onetime_left: u32,
    /// One-time KEM pre-keys left afterwards.
    pub kem_left: u32,
    /// Whether the last-resort KEM pre-key was given.
    pub last_resort_given: bool,
}

/// Keys to add to a device. Every key has been checked.
#[derive(Debug, Clone, Default)]
pub struct KeyUpload {
    /// A new signed pre-key, which replaces the current one.
    pub signed_prekey: Option<SignedPreKey>,
    /// One-time pre-keys to add.
    pub onetime_prekeys: Vec<OneTimePreKey>,
    /// One-time KEM pre-keys to add.
    pub kem_prekeys: Vec<SignedPreKey>,
    /// A new last-resort KEM pre-key, which replaces the current one.
    pub last_resort_kem_prekey: Option<SignedPreKey>,
}

/// What became of an upload of keys: all of it, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// All keys are there.
    Published {
        /// How many were new.
        accepted: u32,
        /// How many had been uploaded before under the same id, used or not, and were skipped.
        already_known: u32,
        /// One-time pre-keys now stored.
        onetime_count: u32,
        /// One-time KEM pre-keys now stored.
        kem_count: u32,
    },
    /// The id belongs to another key of this incarnation, or the key was uploaded by this user under another id or by
    /// an earlier incarnation; or a signed or last-resort pre-key that was replaced comes back.
    KeyReused(KeyKind, KeyId),
    /// More of this kind would be stored than a device may have.
    TooMany(KeyKind),
    /// The device was deactivated.
    Gone,
}

/// What became of a deactivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deactivated {
    /// The incarnation is gone, with everything that hung on it.
    Gone(DeviceNo),
    /// There is no such active device.
    Unknown,
    /// The calling device was linked less than 24 hours ago and is younger than that device.
    NotAllowed,
}
