//! MLS signature keys and key packages on the wire.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::b64;
use crate::{
    domain,
    http::{BodyKind, RequestBody},
    keys::{RawMlsKey, RawPackages},
    store::ClaimedPackage,
    wire::{B64, Id},
};

/// An MLS signature key and the identity key's word for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::keys) struct MlsKeyBody {
    /// 2055: Ed25519. 1027: ECDSA on P-256.
    #[schema(example = 2055)]
    pub(in crate::keys) scheme: i64,
    /// 32 bytes, or 65 (an uncompressed point).
    pub(in crate::keys) public_key: B64,
    /// The identity key's signature over the MLS key statement.
    pub(in crate::keys) signature: B64,
}

impl RequestBody for MlsKeyBody {}

/// An MLS signature key of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct MlsKeyAnswer {
    pub(in crate::keys) scheme: u16,
    pub(in crate::keys) public_key: B64,
    pub(in crate::keys) signature: B64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct MlsKeySetAnswer {
    pub(in crate::keys) success: bool,
    /// Key packages of the former key that may not be used any more.
    pub(in crate::keys) dropped_packages: u32,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::keys) struct PackagesBody {
    /// `MLSMessage`s, each with a `KeyPackage`.
    #[serde(default)]
    pub(in crate::keys) key_packages: Vec<B64>,
    /// One with the extension `last_resort_key_package`; replaces the one of its suite.
    pub(in crate::keys) last_resort: Option<B64>,
}

impl RequestBody for PackagesBody {
    const KIND: BodyKind = BodyKind::Keys;
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct PackagesAnswer {
    pub(in crate::keys) accepted: u32,
    pub(in crate::keys) already_known: u32,
    /// One-time packages that are stored and have not ended.
    pub(in crate::keys) key_package_count: u32,
    pub(in crate::keys) has_last_resort: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::keys) struct ClaimQuery {
    /// 1, 2 or 3 (RFC 9420 §17.1).
    #[param(minimum = 1, maximum = 3)]
    pub(in crate::keys) cipher_suite: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct ClaimAnswer {
    pub(in crate::keys) user_id: Id,
    pub(in crate::keys) key_packages: Vec<ClaimedPackageAnswer>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::keys) struct ClaimedPackageAnswer {
    pub(in crate::keys) device_id: String,
    /// The `MLSMessage` as its owner uploaded it.
    pub(in crate::keys) key_package: B64,
    pub(in crate::keys) is_last_resort: bool,
}

impl From<MlsKeyBody> for RawMlsKey {
    fn from(key: MlsKeyBody) -> Self {
        Self { scheme: key.scheme, public_key: key.public_key.0, signature: key.signature.0 }
    }
}

impl From<domain::MlsSignatureKey> for MlsKeyAnswer {
    fn from(key: domain::MlsSignatureKey) -> Self {
        Self { scheme: key.scheme.number(), public_key: B64(key.public_key), signature: b64(&key.signature) }
    }
}

impl From<PackagesBody> for RawPackages {
    fn from(body: PackagesBody) -> Self {
        packages(body.key_packages, body.last_resort, "last_resort")
    }
}

impl From<ClaimedPackage> for ClaimedPackageAnswer {
    fn from(claimed: ClaimedPackage) -> Self {
        Self {
            device_id: claimed.owner.device_id.as_str().to_owned(),
            key_package: B64(claimed.package),
            is_last_resort: claimed.is_last_resort,
        }
    }
}

/// Packages of a body in which the last-resort one has this name.
pub(in crate::keys) fn packages(
    key_packages: Vec<B64>,
    last_resort: Option<B64>,
    last_resort_field: &'static str,
) -> RawPackages {
    RawPackages {
        key_packages: key_packages.into_iter().map(|package| package.0).collect(),
        last_resort: last_resort.map(|package| package.0),
        last_resort_field,
    }
}
