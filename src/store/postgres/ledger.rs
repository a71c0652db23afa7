//! Every pre-key ever uploaded, so that none comes back.

use std::collections::HashSet;

use sqlx::{Error, PgConnection};
use uuid::Uuid;

use crate::domain::{DeviceNo, KeyId, KeyKind, OneTimePreKey, SignedPreKey, UserId};

/// What the ledger keeps of a key.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) kind: KeyKind,
    pub(super) id: KeyId,
    /// BLAKE3 of the public key.
    pub(super) digest: [u8; 32],
}

impl Entry {
    pub(super) fn new(kind: KeyKind, id: KeyId, public_key: &[u8]) -> Self {
        Self { kind, id, digest: blake3::hash(public_key).into() }
    }

    pub(super) fn signed(kind: KeyKind, key: &SignedPreKey) -> Self {
        Self::new(kind, key.id, &key.public_key)
    }
}

/// A one-time key on its way to the store.
pub(super) struct NewPreKey<'a> {
    pub(super) entry: Entry,
    public_key: &'a [u8],
    signature: Option<&'a [u8]>,
}

/// The one-time keys of an upload, both kinds.
pub(super) fn new_prekeys<'a>(onetime: &'a [OneTimePreKey], kem: &'a [SignedPreKey]) -> Vec<NewPreKey<'a>> {
    let onetime = onetime.iter().map(|key| NewPreKey {
        entry: Entry::new(KeyKind::OneTime, key.id, &key.public_key),
        public_key: &key.public_key,
        signature: None,
    });
    let kem = kem.iter().map(|key| NewPreKey {
        entry: Entry::signed(KeyKind::Kem, key),
        public_key: &key.public_key,
        signature: Some(&key.signature),
    });
    onetime.chain(kem).collect()
}

/// The first key that stands under an earlier key's digest in the same upload: one key may not have two ids.
pub(super) fn repeated(entries: &[Entry]) -> Option<Entry> {
    let mut digests = HashSet::new();
    entries.iter().copied().find(|entry| !digests.insert(entry.digest))
}

/// Which of these digests the user has uploaded before, from any device. The user's row must be locked.
pub(super) async fn known_digests(
    tx: &mut PgConnection,
    user: Uuid,
    entries: &[Entry],
) -> Result<HashSet<Vec<u8>>, Error> {
    let digests: Vec<&[u8]> = entries.iter().map(|entry| entry.digest.as_slice()).collect();
    let known: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT digest FROM prekey_ledger WHERE user_id = $1 AND digest = ANY($2::bytea[])",
    )
    .bind(user)
    .bind(digests)
    .fetch_all(tx)
    .await?;
    Ok(known.into_iter().collect())
}

/// Writes keys into the ledger.
pub(super) async fn enter(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    entries: &[Entry],
) -> Result<(), Error> {
    let kinds: Vec<i16> = entries.iter().map(|entry| entry.kind as i16).collect();
    let ids: Vec<i64> = entries.iter().map(|entry| i64::from(entry.id.get())).collect();
    let digests: Vec<&[u8]> = entries.iter().map(|entry| entry.digest.as_slice()).collect();
    sqlx::query(
        "INSERT INTO prekey_ledger (device_no, kind, key_id, user_id, digest) \
         SELECT $1, n.kind, n.key_id, $2, n.digest \
         FROM unnest($3::smallint[], $4::bigint[], $5::bytea[]) AS n(kind, key_id, digest)",
    )
    .bind(device.0)
    .bind(user.uuid())
    .bind(kinds)
    .bind(ids)
    .bind(digests)
    .execute(tx)
    .await?;
    Ok(())
}

/// Stores one-time keys.
pub(super) async fn store(
    tx: &mut PgConnection,
    device: DeviceNo,
    keys: &[NewPreKey<'_>],
) -> Result<(), Error> {
    let kinds: Vec<i16> = keys.iter().map(|key| key.entry.kind as i16).collect();
    let ids: Vec<i64> = keys.iter().map(|key| i64::from(key.entry.id.get())).collect();
    let public_keys: Vec<&[u8]> = keys.iter().map(|key| key.public_key).collect();
    let signatures: Vec<Option<&[u8]>> = keys.iter().map(|key| key.signature).collect();
    sqlx::query(
        "INSERT INTO prekeys (device_no, kind, key_id, public_key, signature) \
         SELECT $1, n.kind, n.key_id, n.public_key, n.signature \
         FROM unnest($2::smallint[], $3::bigint[], $4::bytea[], $5::bytea[]) \
         AS n(kind, key_id, public_key, signature)",
    )
    .bind(device.0)
    .bind(kinds)
    .bind(ids)
    .bind(public_keys)
    .bind(signatures)
    .execute(tx)
    .await?;
    Ok(())
}
