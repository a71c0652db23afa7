//! Which keys may come, given every one that was uploaded before.
//!
//! Pure, and the same for both engines: an engine reads what its ledger holds, asks here, and enters what is new. Keys are
//! looked at in one order, so that both engines name the same one of several that must not come: the signed pre-key, the
//! one-time ones, the KEM ones, the last-resort one.

use std::collections::{HashMap, HashSet};

use super::{KeyUpload, Registration};
use crate::domain::{KeyId, KeyKind, OneTimePreKey, Signature, SignedPreKey};

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Signed,
    OneTime,
    LastResort,
}

/// A key of an upload, with its digest.
pub(super) struct Key<'a> {
    pub(super) kind: KeyKind,
    pub(super) id: KeyId,
    pub(super) purpose: Purpose,
    pub(super) bytes: &'a [u8],
    pub(super) signature: Option<&'a Signature>,
    /// BLAKE3 of the public key.
    pub(super) digest: [u8; 32],
}

impl<'a> Key<'a> {
    fn signed(kind: KeyKind, purpose: Purpose, key: &'a SignedPreKey) -> Self {
        let signature = Some(&key.signature);
        let digest = blake3::hash(&key.public_key).into();
        Self { kind, id: key.id, purpose, bytes: &key.public_key, signature, digest }
    }

    fn unsigned(key: &'a OneTimePreKey) -> Self {
        let digest = blake3::hash(&key.public_key).into();
        let (kind, purpose) = (KeyKind::OneTime, Purpose::OneTime);
        Self { kind, id: key.id, purpose, bytes: &key.public_key, signature: None, digest }
    }
}

/// Every key of a registration, in order.
pub(super) fn keys_of_registration(registration: &Registration) -> Vec<Key<'_>> {
    in_order(
        Some(&registration.signed_prekey),
        &registration.onetime_prekeys,
        &registration.kem_prekeys,
        registration.last_resort_kem_prekey.as_ref(),
    )
}

/// Every key of an upload, in order.
pub(super) fn keys_of_upload(upload: &KeyUpload) -> Vec<Key<'_>> {
    in_order(
        upload.signed_prekey.as_ref(),
        &upload.onetime_prekeys,
        &upload.kem_prekeys,
        upload.last_resort_kem_prekey.as_ref(),
    )
}

fn in_order<'a>(
    signed: Option<&'a SignedPreKey>,
    onetime: &'a [OneTimePreKey],
    kem: &'a [SignedPreKey],
    last_resort: Option<&'a SignedPreKey>,
) -> Vec<Key<'a>> {
    let signed = signed.into_iter().map(|key| Key::signed(KeyKind::Signed, Purpose::Signed, key));
    let kem = kem.iter().map(|key| Key::signed(KeyKind::Kem, Purpose::OneTime, key));
    let last_resort = last_resort.into_iter().map(|key| Key::signed(KeyKind::Kem, Purpose::LastResort, key));
    signed.chain(onetime.iter().map(Key::unsigned)).chain(kem).chain(last_resort).collect()
}

/// The ids of a device's current lasting keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lasting {
    pub(super) signed: Option<i64>,
    pub(super) last_resort: Option<i64>,
}

impl Lasting {
    /// Whether a key that was uploaded before may come again: not when it was replaced.
    fn may_repeat(self, key: &Key<'_>) -> bool {
        let current = match key.purpose {
            Purpose::OneTime => return true,
            Purpose::Signed => self.signed,
            Purpose::LastResort => self.last_resort,
        };
        current == Some(i64::from(key.id.get()))
    }
}

/// How a key stands to what was uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Never seen.
    New,
    /// The same key under the same id of the same incarnation.
    Known,
    /// The id belongs to another key, or the key to another id or incarnation.
    Reused,
}

/// What an engine's ledger holds about the keys of one upload.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    by_id: HashMap<(KeyKind, KeyId), [u8; 32]>,
    digests: HashSet<[u8; 32]>,
}

impl Ledger {
    /// The incarnation has uploaded the key with this digest under this id.
    pub(super) fn hold_id(&mut self, kind: KeyKind, id: KeyId, digest: [u8; 32]) {
        self.by_id.insert((kind, id), digest);
    }

    /// The user has uploaded the key with this digest, from some device.
    pub(super) fn hold_digest(&mut self, digest: [u8; 32]) {
        self.digests.insert(digest);
    }

    /// The first key of a new incarnation that must not come: the user uploaded it before, or it stands twice in `keys`.
    pub(super) fn first_reused<'k, 'a>(mut self, keys: &'k [Key<'a>]) -> Option<&'k Key<'a>> {
        keys.iter().find(|key| self.admit(key) != Standing::New)
    }

    /// Those of a device's keys that are new, or the first that must not come.
    pub(super) fn fresh<'k, 'a>(
        mut self,
        keys: &'k [Key<'a>],
        lasting: Lasting,
    ) -> Result<Vec<&'k Key<'a>>, &'k Key<'a>> {
        let mut fresh = Vec::with_capacity(keys.len());
        for key in keys {
            match self.admit(key) {
                Standing::New => fresh.push(key),
                Standing::Known if lasting.may_repeat(key) => {}
                Standing::Known | Standing::Reused => return Err(key),
            }
        }
        Ok(fresh)
    }

    /// How a key stands, and from now on the ledger knows it.
    fn admit(&mut self, key: &Key<'_>) -> Standing {
        match self.by_id.get(&(key.kind, key.id)) {
            Some(digest) if *digest == key.digest => Standing::Known,
            Some(_) => Standing::Reused,
            None if !self.digests.insert(key.digest) => Standing::Reused,
            None => {
                self.by_id.insert((key.kind, key.id), key.digest);
                Standing::New
            }
        }
    }
}
