//! From uploaded bytes to checked keys: every refusal names the field, and the index where there is one.

use std::collections::HashSet;

use bytes::Bytes;

use super::{
    MlsRefusal, Refusal,
    mls::{self, PackageRules, PackageUse},
    signal,
};
use crate::{
    domain::{
        DeviceId, IdentityKey, KeyId, KeyPackage, MlsSignatureKey, OneTimePreKey, Signature, SignatureScheme,
        SignedPreKey, Timestamp, UserId,
    },
    store::{PackagePlace, PackageUpload},
};

/// An unsigned pre-key as it came.
#[derive(Debug, Clone)]
pub struct RawPreKey {
    /// Its id.
    pub id: i64,
    /// The serialised public key.
    pub public_key: Bytes,
}

/// A signed pre-key as it came.
#[derive(Debug, Clone)]
pub struct RawSignedPreKey {
    /// Its id.
    pub id: i64,
    /// The serialised public key.
    pub public_key: Bytes,
    /// The signature over it.
    pub signature: Bytes,
}

/// An MLS signature key as it came.
#[derive(Debug, Clone)]
pub struct RawMlsKey {
    /// The number of its scheme.
    pub scheme: i64,
    /// The public key.
    pub public_key: Bytes,
    /// The identity key's signature over the MLS key statement.
    pub signature: Bytes,
}

/// Key packages as they came.
#[derive(Debug, Clone, Default)]
pub struct RawPackages {
    /// One-time packages.
    pub key_packages: Vec<Bytes>,
    /// A last-resort package.
    pub last_resort: Option<Bytes>,
    /// What the field of the last-resort package is called.
    pub last_resort_field: &'static str,
}

impl RawPackages {
    /// The field that holds the package at this place.
    pub(super) fn field(last_resort_field: &str, place: PackagePlace) -> String {
        match place {
            PackagePlace::OneTime(index) => format!("key_packages[{index}]"),
            PackagePlace::LastResort => last_resort_field.to_owned(),
        }
    }
}

/// The identity key of a new device.
pub(super) fn identity(bytes: &[u8]) -> Result<IdentityKey, Refusal> {
    signal::parse_identity_key(bytes)
        .map_err(|why| Refusal::InvalidKey("identity_key".into(), why.to_string()))
}

/// A signed elliptic-curve pre-key.
pub(super) fn signed(
    identity: &IdentityKey,
    field: &str,
    raw: &RawSignedPreKey,
) -> Result<SignedPreKey, Refusal> {
    signal::parse_ec_prekey(identity, raw.public_key.clone()).map_err(|why| invalid(field, why))?;
    finish(identity, field, raw)
}

/// A KEM pre-key, one-time or last-resort.
pub(super) fn kem(
    identity: &IdentityKey,
    field: &str,
    raw: &RawSignedPreKey,
) -> Result<SignedPreKey, Refusal> {
    signal::parse_kem_prekey(raw.public_key.clone()).map_err(|why| invalid(field, why))?;
    finish(identity, field, raw)
}

/// A list of one-time pre-keys without a duplicate.
pub(super) fn onetime_list(
    identity: &IdentityKey,
    field: &str,
    raws: &[RawPreKey],
) -> Result<Vec<OneTimePreKey>, Refusal> {
    refuse_duplicates(field, raws.iter().map(|raw| (raw.id, &raw.public_key)))?;
    let check = |(index, raw): (usize, &RawPreKey)| {
        let at = format!("{field}[{index}]");
        signal::parse_ec_prekey(identity, raw.public_key.clone()).map_err(|why| invalid(&at, why))?;
        Ok(OneTimePreKey { id: key_id(&at, raw.id)?, public_key: raw.public_key.clone() })
    };
    raws.iter().enumerate().map(check).collect()
}

/// A list of one-time KEM pre-keys without a duplicate, among themselves and with the last-resort one.
pub(super) fn kem_list(
    identity: &IdentityKey,
    field: &str,
    raws: &[RawSignedPreKey],
    last_resort: Option<&RawSignedPreKey>,
) -> Result<Vec<SignedPreKey>, Refusal> {
    let keys = last_resort.into_iter().chain(raws).map(|raw| (raw.id, &raw.public_key));
    let mut offset = keys.clone();
    refuse_duplicates(field, &mut offset).map_err(|refusal| shift(refusal, field, last_resort.is_some()))?;
    raws.iter().enumerate().map(|(index, raw)| kem(identity, &format!("{field}[{index}]"), raw)).collect()
}

/// An MLS signature key of a device, under its identity key.
pub(super) fn mls_key(
    identity: &IdentityKey,
    (user, device): (UserId, &DeviceId),
    path: &str,
    raw: &RawMlsKey,
) -> Result<MlsSignatureKey, Refusal> {
    let field = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let scheme = SignatureScheme::new(raw.scheme)
        .map_err(|why| Refusal::InvalidKey(field("scheme"), why.to_string()))?;
    mls::check_signature_key(scheme, &raw.public_key)
        .map_err(|why| Refusal::InvalidKey(field("public_key"), why.to_string()))?;
    let bad = || Refusal::InvalidSignature(field("signature"));
    let signature = Signature::try_from(&raw.signature[..]).map_err(|_| bad())?;
    let statement = signal::mls_key_statement(user, device, scheme, &raw.public_key);
    if !signal::verify(identity, &statement, &signature) {
        return Err(bad());
    }
    Ok(MlsSignatureKey { scheme, public_key: raw.public_key.clone(), signature })
}

/// The MLS signature keys of a new device: at most one of a scheme.
pub(super) fn mls_keys(
    identity: &IdentityKey,
    owner: (UserId, &DeviceId),
    raws: &[RawMlsKey],
) -> Result<Vec<MlsSignatureKey>, Refusal> {
    let mut keys: Vec<MlsSignatureKey> = Vec::new();
    for (index, raw) in raws.iter().enumerate() {
        let path = format!("mls_signature_keys[{index}]");
        // Before the costly part, so that a long list costs nothing.
        if keys.iter().any(|key| i64::from(key.scheme.number()) == raw.scheme) {
            return Err(Refusal::InvalidKey(format!("{path}.scheme"), "this scheme occurs twice".into()));
        }
        keys.push(mls_key(identity, owner, &path, raw)?);
    }
    Ok(keys)
}

/// Key packages of a device: none twice.
pub(super) fn packages(
    rules: &PackageRules,
    owner: (UserId, &DeviceId),
    raws: &RawPackages,
    now: Timestamp,
) -> Result<PackageUpload, Refusal> {
    let mut init_keys = HashSet::new();
    let mut check = |place, use_, body: &Bytes| -> Result<KeyPackage, Refusal> {
        let field = || RawPackages::field(raws.last_resort_field, place);
        let package = mls::check_package(rules, owner, use_, body.clone(), now)
            .map_err(|why| MlsRefusal::InvalidPackage(field(), why))?;
        if !init_keys.insert(package.init_key_digest) {
            return Err(MlsRefusal::PackageReused(field()).into());
        }
        Ok(package)
    };
    let mut packages = Vec::new();
    for (index, body) in raws.key_packages.iter().enumerate() {
        packages.push(check(PackagePlace::OneTime(index), PackageUse::OneTime, body)?);
    }
    let last_resort = raws.last_resort.as_ref();
    let last_resort =
        last_resort.map(|body| check(PackagePlace::LastResort, PackageUse::LastResort, body)).transpose()?;
    Ok(PackageUpload { packages, last_resort })
}

fn finish(identity: &IdentityKey, field: &str, raw: &RawSignedPreKey) -> Result<SignedPreKey, Refusal> {
    let id = key_id(field, raw.id)?;
    let bad = || Refusal::InvalidSignature(field.to_owned());
    let signature = Signature::try_from(&raw.signature[..]).map_err(|_| bad())?;
    if !signal::verify(identity, &raw.public_key, &signature) {
        return Err(bad());
    }
    Ok(SignedPreKey { id, public_key: raw.public_key.clone(), signature })
}

fn key_id(field: &str, id: i64) -> Result<KeyId, Refusal> {
    KeyId::new(id).map_err(|why| Refusal::InvalidKey(format!("{field}.id"), why.to_string()))
}

fn invalid(field: &str, why: signal::InvalidKey) -> Refusal {
    Refusal::InvalidKey(format!("{field}.public_key"), why.to_string())
}

fn refuse_duplicates<'a>(field: &str, keys: impl Iterator<Item = (i64, &'a Bytes)>) -> Result<(), Refusal> {
    let (mut ids, mut publics) = (HashSet::new(), HashSet::new());
    for (index, (id, public_key)) in keys.enumerate() {
        if !ids.insert(id) || !publics.insert(public_key) {
            return Err(Refusal::Duplicate(field.to_owned(), index));
        }
    }
    Ok(())
}

/// The last-resort key was looked at first; indexes count from the list.
fn shift(refusal: Refusal, field: &str, shifted: bool) -> Refusal {
    match refusal {
        Refusal::Duplicate(_, index) if shifted => {
            Refusal::Duplicate(field.to_owned(), index.saturating_sub(1))
        }
        other => other,
    }
}
