//! The ledger of pre-keys: every one ever uploaded, so that none comes back.

use std::collections::{HashMap, HashSet};

use sqlx::{QueryBuilder, Row as _, SqliteConnection};

use super::{ROWS_AT_ONCE, rows};
use crate::{
    domain::{DeviceNo, KeyId, KeyKind, OneTimePreKey, Signature, SignedPreKey, UserId},
    store::{KeyUpload, Registration},
};

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
    bytes: &'a [u8],
    signature: Option<&'a Signature>,
    digest: [u8; 32],
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

/// Every key of a registration.
pub(super) fn keys_of_registration(registration: &Registration) -> Vec<Key<'_>> {
    let mut keys = vec![Key::signed(KeyKind::Signed, Purpose::Signed, &registration.signed_prekey)];
    keys.extend(registration.onetime_prekeys.iter().map(Key::unsigned));
    let kem = registration.kem_prekeys.iter();
    keys.extend(kem.map(|key| Key::signed(KeyKind::Kem, Purpose::OneTime, key)));
    let last_resort = registration.last_resort_kem_prekey.iter();
    keys.extend(last_resort.map(|key| Key::signed(KeyKind::Kem, Purpose::LastResort, key)));
    keys
}

/// Every key of an upload.
pub(super) fn keys_of_upload(upload: &KeyUpload) -> Vec<Key<'_>> {
    let signed = upload.signed_prekey.iter();
    let mut keys: Vec<_> = signed.map(|key| Key::signed(KeyKind::Signed, Purpose::Signed, key)).collect();
    keys.extend(upload.onetime_prekeys.iter().map(Key::unsigned));
    let kem = upload.kem_prekeys.iter();
    keys.extend(kem.map(|key| Key::signed(KeyKind::Kem, Purpose::OneTime, key)));
    let last_resort = upload.last_resort_kem_prekey.iter();
    keys.extend(last_resort.map(|key| Key::signed(KeyKind::Kem, Purpose::LastResort, key)));
    keys
}

/// How a key stands to what was uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never seen.
    New,
    /// The same key under the same id of the same incarnation.
    Known,
    /// The id belongs to another key, or the key to another id or incarnation.
    Reused,
}

/// What the ledger holds about the keys of one upload.
pub(super) struct Ledger {
    by_id: HashMap<(KeyKind, KeyId), [u8; 32]>,
    digests: HashSet<[u8; 32]>,
}

impl Ledger {
    /// Reads what concerns these keys. `device` is the incarnation they are for, if it exists already.
    pub(super) async fn read(
        tx: &mut SqliteConnection,
        user: UserId,
        device: Option<DeviceNo>,
        keys: &[Key<'_>],
    ) -> Result<Self, sqlx::Error> {
        let digests = rows::blobs(keys.iter().map(|key| key.digest.as_slice()));
        let seen = sqlx::query(
            "SELECT digest FROM prekey_ledger \
             WHERE user_id = ? AND digest IN (SELECT unhex(value) FROM json_each(?))",
        )
        .bind(user.uuid())
        .bind(digests)
        .fetch_all(&mut *tx)
        .await?;
        let mut ledger = Self { by_id: HashMap::new(), digests: HashSet::new() };
        for row in seen {
            ledger.digests.insert(rows::digest(row.try_get("digest")?)?);
        }
        if let Some(device) = device {
            ledger.read_ids(tx, device, keys).await?;
        }
        Ok(ledger)
    }

    async fn read_ids(
        &mut self,
        tx: &mut SqliteConnection,
        device: DeviceNo,
        keys: &[Key<'_>],
    ) -> Result<(), sqlx::Error> {
        for kind in [KeyKind::Signed, KeyKind::OneTime, KeyKind::Kem] {
            let of_kind = keys.iter().filter(|key| key.kind == kind);
            let ids = rows::numbers(of_kind.map(|key| i64::from(key.id.get())));
            let known = sqlx::query(
                "SELECT key_id, digest FROM prekey_ledger \
                 WHERE device_no = ? AND kind = ? AND key_id IN (SELECT value FROM json_each(?))",
            )
            .bind(device.0)
            .bind(kind as i64)
            .bind(ids)
            .fetch_all(&mut *tx)
            .await?;
            for row in known {
                let id = rows::key_id(row.try_get("key_id")?)?;
                self.by_id.insert((kind, id), rows::digest(row.try_get("digest")?)?);
            }
        }
        Ok(())
    }

    /// How a key stands, and from now on the ledger knows it.
    pub(super) fn admit(&mut self, key: &Key<'_>) -> Standing {
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

/// Enters new keys into the ledger, and the one-time ones among them into the stock.
pub(super) async fn enter(
    tx: &mut SqliteConnection,
    user: UserId,
    device: DeviceNo,
    keys: &[&Key<'_>],
) -> Result<(), sqlx::Error> {
    for chunk in keys.chunks(ROWS_AT_ONCE) {
        let mut insert =
            QueryBuilder::new("INSERT INTO prekey_ledger (device_no, kind, key_id, user_id, digest) ");
        insert.push_values(chunk, |mut row, key| {
            row.push_bind(device.0).push_bind(key.kind as i64).push_bind(i64::from(key.id.get()));
            row.push_bind(user.uuid()).push_bind(key.digest.to_vec());
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    let onetime: Vec<_> = keys.iter().filter(|key| key.purpose == Purpose::OneTime).collect();
    for chunk in onetime.chunks(ROWS_AT_ONCE) {
        let mut insert =
            QueryBuilder::new("INSERT INTO prekeys (device_no, kind, key_id, public_key, signature) ");
        insert.push_values(chunk, |mut row, key| {
            row.push_bind(device.0).push_bind(key.kind as i64).push_bind(i64::from(key.id.get()));
            row.push_bind(key.bytes.to_vec()).push_bind(key.signature.map(|signature| signature.to_vec()));
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    Ok(())
}
