//! A new incarnation of a device.

use std::collections::HashSet;

use sqlx::{Error, FromRow, PgConnection, PgPool};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use super::{
    ledger::{self, Entry},
    rows::{LinkedByRow, at, device_number},
};
use crate::{
    domain::{Caller, DeviceNo, DeviceNumber, KeyKind, LinkedBy, SignedPreKey, Timestamp, UserId},
    store::{Limits, Registered, Registration},
};

pub(super) async fn register(
    pool: &PgPool,
    limits: Limits,
    registration: &Registration,
    now: Timestamp,
) -> Result<Registered, Error> {
    let mut tx = pool.begin().await?;
    let registered = run(&mut tx, limits, registration, now).await?;
    match registered {
        Registered::Registered(_) => tx.commit().await?,
        _ => tx.rollback().await?,
    }
    Ok(registered)
}

async fn run(
    tx: &mut PgConnection,
    limits: Limits,
    new: &Registration,
    now: Timestamp,
) -> Result<Registered, Error> {
    let first = claim(tx, new.user_id, now).await?;
    let active = active_devices(tx, new.user_id).await?;
    if active.iter().any(|device| device.device_id == new.device_id.as_str()) {
        return Ok(Registered::DeviceExists);
    }
    let linked_by = if first { None } else { use_link_token(tx, new, &active, now).await? };
    if linked_by.is_none() && !first {
        return Ok(Registered::LinkRequired);
    }
    let Some(number) = next_number(tx, new.user_id, &active).await? else {
        return Ok(Registered::TooManyDevices);
    };
    if active.len() >= limits.max_devices as usize {
        return Ok(Registered::TooManyDevices);
    }
    let entries = entries(new);
    if let Some(reused) = ledger::repeated(&entries) {
        return Ok(Registered::KeyReused(reused.kind, reused.id));
    }
    let known = ledger::known_digests(tx, new.user_id.uuid(), &entries).await?;
    if let Some(reused) = entries.iter().find(|entry| known.contains(entry.digest.as_slice())) {
        return Ok(Registered::KeyReused(reused.kind, reused.id));
    }
    let device = insert_device(tx, new, number, linked_by.as_ref(), now).await?;
    let prekeys = ledger::new_prekeys(&new.onetime_prekeys, &new.kem_prekeys);
    ledger::store(tx, device, &prekeys).await?;
    ledger::enter(tx, new.user_id, device, &entries).await?;
    open_mailbox(tx, new.user_id, device).await?;
    open_session(tx, new, device, now).await?;
    Ok(Registered::Registered(crate::store::Principal {
        user_since: now,
        caller: Caller {
            user_id: new.user_id,
            device_id: new.device_id.clone(),
            device_number: number,
            device_no: device,
        },
    }))
}

/// Makes or finds the user's row and locks it, so that registrations of one user come one after the other. True when
/// this act makes it.
async fn claim(tx: &mut PgConnection, user: UserId, now: Timestamp) -> Result<bool, Error> {
    let made = sqlx::query("INSERT INTO users (user_id, claimed_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(user.uuid())
        .bind(at(now))
        .execute(&mut *tx)
        .await?;
    lock_user(tx, user).await?;
    Ok(made.rows_affected() == 1)
}

/// Locks the row that stands for the user's list of devices and ledger of keys. False when nobody claimed the id.
pub(super) async fn lock_user(tx: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let locked = sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE")
        .bind(user.uuid())
        .fetch_optional(tx)
        .await?;
    Ok(locked.is_some())
}

#[derive(FromRow)]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
struct ActiveRow {
    device_no: i64,
    device_id: String,
    device_number: i16,
}

async fn active_devices(tx: &mut PgConnection, user: UserId) -> Result<Vec<ActiveRow>, Error> {
    sqlx::query_as(
        "SELECT device_no, device_id, device_number FROM devices \
         WHERE user_id = $1 AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .fetch_all(tx)
    .await
}

#[derive(FromRow)]
struct TokenRow {
    token_hash: Vec<u8>,
    device_id: String,
    identity_key: Vec<u8>,
    linked_by_device_no: i64,
    expires_at: OffsetDateTime,
    #[sqlx(flatten)]
    linked_by: LinkedByRow,
}

/// Uses the user's link token up if it is valid for exactly this device and key.
async fn use_link_token(
    tx: &mut PgConnection,
    new: &Registration,
    active: &[ActiveRow],
    now: Timestamp,
) -> Result<Option<LinkedBy>, Error> {
    let Some(hash) = new.link_token_hash else { return Ok(None) };
    let row: Option<TokenRow> = sqlx::query_as(
        "SELECT token_hash, device_id, identity_key, linked_by_device_no, expires_at, linked_by_device_id, \
            linked_by_identity_key, linked_by_signature \
         FROM link_tokens WHERE user_id = $1 FOR UPDATE",
    )
    .bind(new.user_id.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(token) = row else { return Ok(None) };
    let valid = bool::from(token.token_hash.as_slice().ct_eq(&hash))
        && token.device_id == new.device_id.as_str()
        && token.identity_key == new.identity_key.as_bytes()
        && token.expires_at > at(now)
        && active.iter().any(|device| device.device_no == token.linked_by_device_no);
    if !valid {
        return Ok(None);
    }
    sqlx::query("DELETE FROM link_tokens WHERE user_id = $1").bind(new.user_id.uuid()).execute(tx).await?;
    token.linked_by.linked_by()
}

/// The lowest number that the user never had, else the lowest that no active device has.
async fn next_number(
    tx: &mut PgConnection,
    user: UserId,
    active: &[ActiveRow],
) -> Result<Option<DeviceNumber>, Error> {
    let ever: Vec<i16> = sqlx::query_scalar("SELECT DISTINCT device_number FROM devices WHERE user_id = $1")
        .bind(user.uuid())
        .fetch_all(tx)
        .await?;
    let ever: HashSet<i16> = ever.into_iter().collect();
    let taken: HashSet<i16> = active.iter().map(|device| device.device_number).collect();
    let all = 1..=i16::from(DeviceNumber::MAX);
    let fresh = all.clone().find(|number| !ever.contains(number));
    let lowest = fresh.or_else(|| all.clone().find(|number| !taken.contains(number)));
    lowest.map(device_number).transpose()
}

fn entries(new: &Registration) -> Vec<Entry> {
    let prekeys = ledger::new_prekeys(&new.onetime_prekeys, &new.kem_prekeys);
    let last_resort = new.last_resort_kem_prekey.iter().map(|key| Entry::signed(KeyKind::Kem, key));
    let mut entries = vec![Entry::signed(KeyKind::Signed, &new.signed_prekey)];
    entries.extend(prekeys.iter().map(|key| key.entry).chain(last_resort));
    entries
}

async fn insert_device(
    tx: &mut PgConnection,
    new: &Registration,
    number: DeviceNumber,
    linked_by: Option<&LinkedBy>,
    now: Timestamp,
) -> Result<DeviceNo, Error> {
    let id = |key: &SignedPreKey| i64::from(key.id.get());
    let last_resort = new.last_resort_kem_prekey.as_ref();
    sqlx::query_scalar(
        "INSERT INTO devices (user_id, device_id, device_number, registration_id, device_name, created_at, \
            last_seen, identity_key, linked_by_device_id, linked_by_identity_key, linked_by_signature, \
            signed_prekey_id, signed_prekey, signed_prekey_signature, signed_prekey_at, last_resort_id, \
            last_resort, last_resort_signature) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $6, $15, $16, $17) \
         RETURNING device_no",
    )
    .bind(new.user_id.uuid())
    .bind(new.device_id.as_str())
    .bind(i16::from(number.get()))
    .bind(i32::from(new.registration_id.get()))
    .bind(new.device_name.as_deref())
    .bind(at(now))
    .bind(at(now.day()))
    .bind(new.identity_key.as_bytes())
    .bind(linked_by.map(|by| by.device_id.as_str()))
    .bind(linked_by.map(|by| by.identity_key.as_bytes()))
    .bind(linked_by.map(|by| by.signature.as_slice()))
    .bind(id(&new.signed_prekey))
    .bind(&*new.signed_prekey.public_key)
    .bind(new.signed_prekey.signature.as_slice())
    .bind(last_resort.map(id))
    .bind(last_resort.map(|key| &*key.public_key))
    .bind(last_resort.map(|key| key.signature.as_slice()))
    .fetch_one(tx)
    .await
    .map(DeviceNo)
}

/// The highest sequence is the user's rather than the device's: a new mailbox goes on where the others are.
async fn open_mailbox(tx: &mut PgConnection, user: UserId, device: DeviceNo) -> Result<(), Error> {
    // Locked, because a send that runs now would move the number after it was read.
    sqlx::query("SELECT FROM mailboxes WHERE user_id = $1 ORDER BY device_no FOR UPDATE")
        .bind(user.uuid())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO mailboxes (device_no, user_id, sequence) \
         SELECT $1, $2, coalesce(max(sequence), 0) FROM mailboxes WHERE user_id = $2",
    )
    .bind(device.0)
    .bind(user.uuid())
    .execute(tx)
    .await?;
    Ok(())
}

async fn open_session(
    tx: &mut PgConnection,
    new: &Registration,
    device: DeviceNo,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO sessions (session_id, device_no, refresh_hash, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(new.session.session_id.uuid())
    .bind(device.0)
    .bind(new.session.refresh_hash.as_slice())
    .bind(at(now))
    .bind(at(new.session.expires_at))
    .execute(tx)
    .await?;
    Ok(())
}
