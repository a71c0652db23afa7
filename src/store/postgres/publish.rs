//! Adding and replacing keys, and counting them.

use std::collections::HashMap;

use sqlx::{Error, FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit::{self, Event},
    bundles::LEFT,
    ledger::{self, Entry, NewPreKey},
    rows::{at, count, device_number, identity_key, missing, moment, signed_prekey},
    standing::lock_user,
};
use crate::{
    domain::{
        DeviceNo, DeviceNumber, KeyKind, KeyStats, LastingKeys, Pseudonyms, SecurityEvent, SignedPreKey,
        Timestamp, UserId,
    },
    store::{KeyUpload, Limits, Published},
};

/// Runs the upload; anything but `Published` rolls back.
pub(super) async fn publish(
    pool: &PgPool,
    limits: Limits,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    upload: &KeyUpload,
    now: Timestamp,
) -> Result<Published, Error> {
    let mut tx = pool.begin().await?;
    let published = run(&mut tx, limits, pseudonyms, device, upload, now).await?;
    match published {
        Published::Published { .. } => tx.commit().await?,
        Published::KeyReused(..) | Published::TooMany(_) | Published::Gone => tx.rollback().await?,
    }
    Ok(published)
}

async fn run(
    tx: &mut PgConnection,
    limits: Limits,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    upload: &KeyUpload,
    now: Timestamp,
) -> Result<Published, Error> {
    let Some(owner) = lock_owner(tx, device).await? else { return Ok(Published::Gone) };
    let prekeys = ledger::new_prekeys(&upload.onetime_prekeys, &upload.kem_prekeys);
    let signed = upload.signed_prekey.as_ref().map(|key| Entry::signed(KeyKind::Signed, key));
    let last_resort = upload.last_resort_kem_prekey.as_ref().map(|key| Entry::signed(KeyKind::Kem, key));
    let mut entries: Vec<Entry> = prekeys.iter().map(|key| key.entry).collect();
    entries.extend(signed.into_iter().chain(last_resort));
    let known = match Known::read(tx, &owner, device, &entries).await?.check(&owner, &entries, prekeys.len())
    {
        Ok(known) => known,
        Err(reused) => return Ok(Published::KeyReused(reused.kind, reused.id)),
    };
    let new_prekeys: Vec<NewPreKey<'_>> = prekeys.into_iter().filter(|key| !known.has(&key.entry)).collect();
    let new_entries: Vec<Entry> = entries.iter().copied().filter(|entry| !known.has(entry)).collect();
    if let Some(reused) = ledger::repeated(&new_entries) {
        return Ok(Published::KeyReused(reused.kind, reused.id));
    }
    let (onetime, kem): (i64, i64) = sqlx::query_as(LEFT).bind(device.0).fetch_one(&mut *tx).await?;
    let added = |kind| new_prekeys.iter().filter(|key| key.entry.kind == kind).count();
    let onetime_count = count(onetime).saturating_add(small(added(KeyKind::OneTime)));
    let kem_count = count(kem).saturating_add(small(added(KeyKind::Kem)));
    if onetime_count > limits.max_prekeys && added(KeyKind::OneTime) > 0 {
        return Ok(Published::TooMany(KeyKind::OneTime));
    }
    if kem_count > limits.max_prekeys && added(KeyKind::Kem) > 0 {
        return Ok(Published::TooMany(KeyKind::Kem));
    }
    ledger::store(tx, device, &new_prekeys).await?;
    ledger::enter(tx, owner.user, device, &new_entries).await?;
    if let Some(key) = upload.signed_prekey.as_ref().filter(|_| signed.is_some_and(|it| !known.has(&it))) {
        replace_signed(tx, device, key, now).await?;
        let rotated = Event::of_device(SecurityEvent::KeyRotated, owner.device_number);
        audit::enter(&mut *tx, pseudonyms.of(owner.user), rotated, now).await?;
    }
    let replaces = |_: &&SignedPreKey| last_resort.is_some_and(|entry| !known.has(&entry));
    if let Some(key) = upload.last_resort_kem_prekey.as_ref().filter(replaces) {
        replace_last_resort(tx, device, key).await?;
    }
    let accepted = small(new_entries.len());
    let already_known = small(entries.len()) - accepted;
    Ok(Published::Published { accepted, already_known, onetime_count, kem_count })
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The active device whose keys change, by the ids of its current lasting keys.
struct Owner {
    user: UserId,
    device_number: DeviceNumber,
    signed_prekey: Option<i64>,
    last_resort: Option<i64>,
}

/// The user's row serialises uploads of all its devices: what one of them used must not come from another.
async fn lock_owner(tx: &mut PgConnection, device: DeviceNo) -> Result<Option<Owner>, Error> {
    let found: Option<Uuid> = sqlx::query_scalar("SELECT user_id FROM devices WHERE device_no = $1")
        .bind(device.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(user) = found.map(UserId::new) else { return Ok(None) };
    lock_user(tx, user).await?;
    let mailbox = sqlx::query("SELECT FROM mailboxes WHERE device_no = $1 FOR UPDATE")
        .bind(device.0)
        .fetch_optional(&mut *tx)
        .await?;
    if mailbox.is_none() {
        return Ok(None);
    }
    let (number, signed_prekey, last_resort): (i16, _, _) = sqlx::query_as(
        "SELECT device_number, signed_prekey_id, last_resort_id FROM devices WHERE device_no = $1",
    )
    .bind(device.0)
    .fetch_one(tx)
    .await?;
    Ok(Some(Owner { user, device_number: device_number(number)?, signed_prekey, last_resort }))
}

/// What the ledger knows of the uploaded keys.
struct Known {
    by_id: HashMap<(i16, i64), Vec<u8>>,
    digests: std::collections::HashSet<Vec<u8>>,
}

impl Known {
    async fn read(
        tx: &mut PgConnection,
        owner: &Owner,
        device: DeviceNo,
        entries: &[Entry],
    ) -> Result<Self, Error> {
        let kinds: Vec<i16> = entries.iter().map(|entry| entry.kind as i16).collect();
        let ids: Vec<i64> = entries.iter().map(|entry| i64::from(entry.id.get())).collect();
        let rows: Vec<(i16, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT l.kind, l.key_id, l.digest FROM unnest($2::smallint[], $3::bigint[]) AS n(kind, key_id) \
             JOIN prekey_ledger l ON l.device_no = $1 AND l.kind = n.kind AND l.key_id = n.key_id",
        )
        .bind(device.0)
        .bind(kinds)
        .bind(ids)
        .fetch_all(&mut *tx)
        .await?;
        Ok(Self {
            by_id: rows.into_iter().map(|(kind, id, digest)| ((kind, id), digest)).collect(),
            digests: ledger::known_digests(tx, owner.user.uuid(), entries).await?,
        })
    }

    /// Refuses the upload by the first key that must not come. The entries after `onetime` are lasting keys, which may
    /// be uploaded again only while they are the current ones.
    fn check(self, owner: &Owner, entries: &[Entry], onetime: usize) -> Result<Self, Entry> {
        for (index, entry) in entries.iter().enumerate() {
            let same_id = self.by_id.get(&slot(entry));
            let is_current = match entry.kind {
                _ if index < onetime => true,
                KeyKind::Signed => owner.signed_prekey == Some(slot(entry).1),
                KeyKind::OneTime | KeyKind::Kem => owner.last_resort == Some(slot(entry).1),
            };
            let repeated = same_id.is_some_and(|digest| digest == entry.digest.as_slice()) && is_current;
            let unknown = same_id.is_none() && !self.digests.contains(entry.digest.as_slice());
            if !repeated && !unknown {
                return Err(*entry);
            }
        }
        Ok(self)
    }

    fn has(&self, entry: &Entry) -> bool {
        self.by_id.contains_key(&slot(entry))
    }
}

fn slot(entry: &Entry) -> (i16, i64) {
    (entry.kind as i16, i64::from(entry.id.get()))
}

async fn replace_signed(
    tx: &mut PgConnection,
    device: DeviceNo,
    key: &SignedPreKey,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET signed_prekey_id = $2, signed_prekey = $3, signed_prekey_signature = $4, \
            signed_prekey_at = $5 WHERE device_no = $1",
    )
    .bind(device.0)
    .bind(i64::from(key.id.get()))
    .bind(&*key.public_key)
    .bind(key.signature.as_slice())
    .bind(at(now))
    .execute(tx)
    .await?;
    Ok(())
}

async fn replace_last_resort(
    tx: &mut PgConnection,
    device: DeviceNo,
    key: &SignedPreKey,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET last_resort_id = $2, last_resort = $3, last_resort_signature = $4, \
            last_resort_used = false WHERE device_no = $1",
    )
    .bind(device.0)
    .bind(i64::from(key.id.get()))
    .bind(&*key.public_key)
    .bind(key.signature.as_slice())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn stats(pool: &PgPool, device: DeviceNo) -> Result<Option<KeyStats>, Error> {
    let row: Option<(i64, i64, i64, Option<OffsetDateTime>, bool)> = sqlx::query_as(
        "SELECT (SELECT count(*) FROM prekeys WHERE device_no = $1 AND kind = 1), \
            (SELECT count(*) FROM prekey_ledger WHERE device_no = $1 AND kind = 1), \
            (SELECT count(*) FROM prekeys WHERE device_no = $1 AND kind = 2), \
            signed_prekey_at, last_resort_used \
         FROM devices WHERE device_no = $1 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .fetch_optional(pool)
    .await?;
    let Some((unused, total, kem, signed_at, last_resort_used)) = row else { return Ok(None) };
    Ok(Some(KeyStats {
        unused_prekeys: count(unused),
        total_prekeys: count(total),
        kem_prekeys: count(kem),
        signed_prekey_at: moment(signed_at.ok_or_else(missing)?),
        last_resort_used,
    }))
}

#[derive(FromRow)]
struct LastingRow {
    identity_key: Vec<u8>,
    signed_prekey_id: Option<i64>,
    signed_prekey: Option<Vec<u8>>,
    signed_prekey_signature: Option<Vec<u8>>,
    last_resort_id: Option<i64>,
    last_resort: Option<Vec<u8>>,
    last_resort_signature: Option<Vec<u8>>,
}

pub(super) async fn lasting(pool: &PgPool, device: DeviceNo) -> Result<Option<LastingKeys>, Error> {
    let row: Option<LastingRow> = sqlx::query_as(
        "SELECT identity_key, signed_prekey_id, signed_prekey, signed_prekey_signature, last_resort_id, \
            last_resort, last_resort_signature FROM devices WHERE device_no = $1 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let signed = whole(row.signed_prekey_id, row.signed_prekey, row.signed_prekey_signature)?;
    Ok(Some(LastingKeys {
        identity_key: identity_key(&row.identity_key)?,
        signed_prekey: signed.ok_or_else(missing)?,
        last_resort_kem_prekey: whole(row.last_resort_id, row.last_resort, row.last_resort_signature)?,
    }))
}

fn whole(
    id: Option<i64>,
    public_key: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
) -> Result<Option<SignedPreKey>, Error> {
    let Some(id) = id else { return Ok(None) };
    signed_prekey(id, public_key.ok_or_else(missing)?, &signature.ok_or_else(missing)?).map(Some)
}
