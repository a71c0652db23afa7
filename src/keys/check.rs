//! From uploaded bytes to checked keys: every refusal names the field, and the index where there is one.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Refusal, signal};
use crate::domain::{IdentityKey, KeyId, OneTimePreKey, Signature, SignedPreKey};

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
