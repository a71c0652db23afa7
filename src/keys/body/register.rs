//! A registration on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PreKey, SignedPreKey, packages::MlsKeyBody};
use crate::{
    auth::TokenAnswer,
    http::{Act, BodyKind, RequestBody},
    wire::{B64, Id, Time},
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::keys) struct RegisterBody {
    #[schema(example = "phone")]
    pub(in crate::keys) device_id: String,
    pub(in crate::keys) device_name: Option<String>,
    /// 1–16383.
    pub(in crate::keys) registration_id: i64,
    /// 32 bytes: Ed25519. 33 bytes, the first `0x05`: Signal's Curve25519.
    pub(in crate::keys) identity_key: B64,
    /// The identity key's signature over the registration statement; may be absent in open mode.
    pub(in crate::keys) proof: Option<B64>,
    pub(in crate::keys) signed_prekey: SignedPreKey,
    /// 50–200.
    pub(in crate::keys) onetime_prekeys: Vec<PreKey>,
    #[serde(default)]
    pub(in crate::keys) kem_prekeys: Vec<SignedPreKey>,
    /// Required with a 33-byte identity key.
    pub(in crate::keys) last_resort_kem_prekey: Option<SignedPreKey>,
    /// At most one of a scheme.
    #[serde(default)]
    pub(in crate::keys) mls_signature_keys: Vec<MlsKeyBody>,
    /// Signed with one of these keys.
    #[serde(default)]
    pub(in crate::keys) key_packages: Vec<B64>,
    pub(in crate::keys) last_resort_key_package: Option<B64>,
    /// For every device of a user that has some.
    pub(in crate::keys) link_token: Option<String>,
    /// For a user that has no device left: the signature of an earlier identity key over the recovery statement.
    pub(in crate::keys) recovery_proof: Option<B64>,
}

impl RequestBody for RegisterBody {
    const KIND: BodyKind = BodyKind::Keys;
    const ACT: Option<Act> = Some(Act::Register);
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct RegisterAnswer {
    pub(in crate::keys) user_id: Id,
    pub(in crate::keys) device_id: String,
    pub(in crate::keys) device_number: u8,
    pub(in crate::keys) registration_id: u16,
    pub(in crate::keys) created_at: Time,
    pub(in crate::keys) onetime_prekey_count: usize,
    pub(in crate::keys) kem_prekey_count: usize,
    pub(in crate::keys) key_package_count: usize,
    #[serde(flatten)]
    pub(in crate::keys) tokens: TokenAnswer,
}
