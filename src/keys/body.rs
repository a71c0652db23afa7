//! Keys and devices on the wire: request bodies and answers.

pub(super) mod packages;
pub(super) mod register;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};

use self::packages::MlsKeyAnswer;
use super::{RawPreKey, RawSignedPreKey};
use crate::{
    domain::{self, Device},
    http::{BodyKind, RequestBody},
    store::TakenBundle,
    wire::{B64, Id, Time},
};

/// An unsigned one-time pre-key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreKey {
    /// 0 … 2^31−1, never used before by this device.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub(super) id: i64,
    /// 32 bytes with an Ed25519 identity, `0x05` and 32 bytes with a Signal identity.
    pub(super) public_key: B64,
}

/// A pre-key signed by the identity key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedPreKey {
    /// 0 … 2^31−1, never used before by this device.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    pub(super) id: i64,
    /// The serialised key.
    pub(super) public_key: B64,
    /// 64 bytes over the serialised key.
    pub(super) signature: B64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkBody {
    pub(super) device_id: String,
    pub(super) identity_key: B64,
    /// The calling device's signature over the link statement.
    pub(super) signature: B64,
}

impl RequestBody for LinkBody {}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LinkAnswer {
    pub(super) link_token: String,
    pub(super) expires_at: Time,
}

/// Who vouched for a device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LinkedBy {
    pub(super) device_id: String,
    pub(super) identity_key: B64,
    pub(super) signature: B64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BundleAnswer {
    pub(super) user_id: Id,
    pub(super) device_id: String,
    pub(super) device_number: u8,
    pub(super) registration_id: u16,
    pub(super) identity_key: B64,
    pub(super) linked_by: Option<LinkedBy>,
    pub(super) signed_prekey_id: u32,
    pub(super) signed_prekey: B64,
    pub(super) signed_prekey_signature: B64,
    pub(super) onetime_prekey_id: Option<u32>,
    pub(super) onetime_prekey: Option<B64>,
    pub(super) kem_prekey_id: Option<u32>,
    pub(super) kem_prekey: Option<B64>,
    pub(super) kem_prekey_signature: Option<B64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BundlesAnswer {
    pub(super) user_id: Id,
    pub(super) bundles: Vec<BundleAnswer>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct BundleQuery {
    /// The device; the oldest active one when absent.
    pub(super) device_id: Option<String>,
}

/// Either `id`, `public_key` and `signature` of the new signed pre-key, or `new_signed_prekey` and more.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    pub(super) id: Option<i64>,
    pub(super) public_key: Option<B64>,
    pub(super) signature: Option<B64>,
    pub(super) new_signed_prekey: Option<SignedPreKey>,
    #[serde(default)]
    pub(super) new_onetime_prekeys: Vec<PreKey>,
    pub(super) new_last_resort_kem_prekey: Option<SignedPreKey>,
}

impl RequestBody for RotateBody {
    const KIND: BodyKind = BodyKind::Keys;
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RotateAnswer {
    pub(super) success: bool,
    pub(super) rotated_at: Time,
}

/// Pre-keys of any kind. An array alone means one-time pre-keys.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreKeysByKind {
    #[serde(default)]
    pub(super) onetime_prekeys: Vec<PreKey>,
    #[serde(default)]
    pub(super) kem_prekeys: Vec<SignedPreKey>,
    pub(super) last_resort_kem_prekey: Option<SignedPreKey>,
}

/// Pre-keys: an array of one-time ones, or an object by kind.
#[derive(Debug, ToSchema)]
#[schema(value_type = PreKeysForms)]
pub(super) struct PreKeysBody(pub(super) PreKeysByKind);

/// The forms of [`PreKeysBody`], for the OpenAPI document.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described")]
enum PreKeysForms {
    List(Vec<PreKey>),
    ByKind(PreKeysByKind),
}

impl<'de> Deserialize<'de> for PreKeysBody {
    /// By hand, because an untagged enum would not tell which field is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrKinds;
        impl<'de> de::Visitor<'de> for ListOrKinds {
            type Value = PreKeysBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of one-time pre-keys or an object")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<PreKeysBody, A::Error> {
                let onetime_prekeys = Vec::deserialize(de::value::SeqAccessDeserializer::new(list))?;
                Ok(PreKeysBody(PreKeysByKind {
                    onetime_prekeys,
                    kem_prekeys: Vec::new(),
                    last_resort_kem_prekey: None,
                }))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PreKeysBody, A::Error> {
                PreKeysByKind::deserialize(de::value::MapAccessDeserializer::new(map)).map(PreKeysBody)
            }
        }
        deserializer.deserialize_any(ListOrKinds)
    }
}

impl RequestBody for PreKeysBody {
    const KIND: BodyKind = BodyKind::Keys;
    const ARRAY: bool = true;
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PreKeysAnswer {
    pub(super) success: bool,
    pub(super) accepted: u32,
    pub(super) already_known: u32,
    pub(super) onetime_prekey_count: u32,
    pub(super) kem_prekey_count: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeviceAnswer {
    pub(super) device_id: String,
    pub(super) device_number: u8,
    pub(super) registration_id: u16,
    pub(super) identity_key: B64,
    pub(super) linked_by: Option<LinkedBy>,
    pub(super) mls_signature_keys: Vec<MlsKeyAnswer>,
    /// For the owner only, like the two below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<Time>,
    /// By the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_seen: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DevicesAnswer {
    pub(super) devices: Vec<DeviceAnswer>,
    pub(super) count: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatsAnswer {
    pub(super) unused_prekeys: u32,
    pub(super) total_prekeys: u32,
    pub(super) used_prekeys: u32,
    pub(super) kem_prekeys: u32,
    /// One-time key packages that are left and have not ended.
    pub(super) key_packages: u32,
    /// Fewer than 20 one-time pre-keys are left.
    pub(super) low: bool,
    pub(super) signed_prekey_age_days: u64,
    /// The signed pre-key is 7 days old or older.
    pub(super) rotation_due: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckBody {
    /// SHA-256 over the identity key, then id (u64, big endian) and key of the signed and of the last-resort pre-key.
    pub(super) digest: B64,
}

impl RequestBody for CheckBody {}

/// That an act was done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success {
    /// Always true.
    pub success: bool,
}

pub(super) fn raw<T, R: From<T>>(keys: Vec<T>) -> Vec<R> {
    keys.into_iter().map(R::from).collect()
}

impl From<PreKey> for RawPreKey {
    fn from(key: PreKey) -> Self {
        Self { id: key.id, public_key: key.public_key.0 }
    }
}

impl From<SignedPreKey> for RawSignedPreKey {
    fn from(key: SignedPreKey) -> Self {
        Self { id: key.id, public_key: key.public_key.0, signature: key.signature.0 }
    }
}

impl From<domain::LinkedBy> for LinkedBy {
    fn from(linked_by: domain::LinkedBy) -> Self {
        Self {
            device_id: linked_by.device_id.as_str().to_owned(),
            identity_key: b64(linked_by.identity_key.as_bytes()),
            signature: b64(&linked_by.signature),
        }
    }
}

impl From<TakenBundle> for BundleAnswer {
    fn from(taken: TakenBundle) -> Self {
        let bundle = taken.bundle;
        let onetime = bundle.onetime_prekey;
        let kem = bundle.kem_prekey;
        Self {
            user_id: Id(bundle.user_id.uuid()),
            device_id: bundle.device_id.as_str().to_owned(),
            device_number: bundle.device_number.get(),
            registration_id: bundle.registration_id.get(),
            identity_key: b64(bundle.identity_key.as_bytes()),
            linked_by: bundle.linked_by.map(Into::into),
            signed_prekey_id: bundle.signed_prekey.id.get(),
            signed_prekey: B64(bundle.signed_prekey.public_key),
            signed_prekey_signature: b64(&bundle.signed_prekey.signature),
            onetime_prekey_id: onetime.as_ref().map(|key| key.id.get()),
            onetime_prekey: onetime.map(|key| B64(key.public_key)),
            kem_prekey_id: kem.as_ref().map(|key| key.id.get()),
            kem_prekey_signature: kem.as_ref().map(|key| b64(&key.signature)),
            kem_prekey: kem.map(|key| B64(key.public_key)),
        }
    }
}

impl DeviceAnswer {
    pub(super) fn of(device: Device, owner: bool) -> Self {
        Self {
            device_id: device.device_id.as_str().to_owned(),
            device_number: device.device_number.get(),
            registration_id: device.registration_id.get(),
            identity_key: b64(device.identity_key.as_bytes()),
            linked_by: device.linked_by.map(Into::into),
            mls_signature_keys: device.mls_signature_keys.into_iter().map(Into::into).collect(),
            device_name: device.device_name.filter(|_| owner),
            created_at: owner.then_some(Time(device.created_at)),
            last_seen: owner.then_some(Time(device.last_seen)),
        }
    }
}

pub(super) fn b64(bytes: &[u8]) -> B64 {
    B64(Bytes::copy_from_slice(bytes))
}
