//! How devices come: registration and the link tokens it needs.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    ledger::{self, Ledger, Standing},
    rows,
};
use crate::{
    domain::{Caller, DeviceNo, DeviceNumber, IdentityKey, LinkedBy, Timestamp, UserId},
    store::{Limits, LinkOffer, Registered, Registration},
};

pub(super) async fn register_device(
    tx: &mut SqliteConnection,
    registration: Registration,
    limits: Limits,
    now: Timestamp,
) -> Result<Registered, sqlx::Error> {
    let user = registration.user_id;
    let incarnations = incarnations(tx, user).await?;
    let active = || incarnations.iter().filter(|row| row.active);
    if active().any(|row| row.device_id == registration.device_id.as_str()) {
        return Ok(Registered::DeviceExists);
    }
    let mut linked_by = None;
    if is_claimed(tx, user).await? {
        linked_by = voucher(tx, &registration, now).await?;
        if linked_by.is_none() {
            return Ok(Registered::LinkRequired);
        }
    }
    if active().count() >= limits.max_devices as usize {
        return Ok(Registered::TooManyDevices);
    }
    let Some(device_number) = lowest_number(&incarnations) else { return Ok(Registered::TooManyDevices) };

    let keys = ledger::keys_of_registration(&registration);
    let mut ledger = Ledger::read(tx, user, None, &keys).await?;
    for key in &keys {
        if ledger.admit(key) != Standing::New {
            return Ok(Registered::KeyReused(key.kind, key.id));
        }
    }

    claim(tx, user, now).await?;
    let device_no = insert_device(tx, &registration, device_number, linked_by.as_ref(), now).await?;
    ledger::enter(tx, user, device_no, &keys.iter().collect::<Vec<_>>()).await?;
    open_mailbox(tx, user, device_no).await?;
    open_session(tx, &registration, device_no, now).await?;
    Ok(Registered::Registered(crate::store::Principal {
        user_since: now,
        caller: Caller { user_id: user, device_id: registration.device_id, device_number, device_no },
    }))
}

struct Incarnation {
    device_id: String,
    number: i64,
    active: bool,
}

async fn incarnations(tx: &mut SqliteConnection, user: UserId) -> Result<Vec<Incarnation>, sqlx::Error> {
    let parse = |row: SqliteRow| {
        Ok(Incarnation {
            device_id: row.try_get("device_id")?,
            number: row.try_get("device_number")?,
            active: row.try_get("active")?,
        })
    };
    sqlx::query(
        "SELECT device_id, device_number, deactivated_at IS NULL AS active FROM devices WHERE user_id = ?",
    )
    .bind(user.uuid())
    .try_map(parse)
    .fetch_all(tx)
    .await
}

/// The lowest number that the user never had, else the lowest that no active device has.
fn lowest_number(incarnations: &[Incarnation]) -> Option<DeviceNumber> {
    let lowest = |taken: &dyn Fn(i64) -> bool| {
        (1..=i64::from(DeviceNumber::MAX)).find(|&number| !taken(number)).map(DeviceNumber::new)
    };
    let ever = |number| incarnations.iter().any(|row| row.number == number);
    let now = |number| incarnations.iter().any(|row| row.active && row.number == number);
    lowest(&ever).or_else(|| lowest(&now))?.ok()
}

async fn is_claimed(tx: &mut SqliteConnection, user: UserId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE user_id = ?)")
        .bind(user.uuid())
        .fetch_one(tx)
        .await
}

async fn claim(tx: &mut SqliteConnection, user: UserId, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO users (user_id, claimed_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(user.uuid())
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
    // A link token is used up by the registration that it allowed.
    sqlx::query("DELETE FROM link_tokens WHERE user_id = ?").bind(user.uuid()).execute(tx).await?;
    Ok(())
}

/// Who vouches for this device and key, by a link token that is still good.
async fn voucher(
    tx: &mut SqliteConnection,
    registration: &Registration,
    now: Timestamp,
) -> Result<Option<LinkedBy>, sqlx::Error> {
    let Some(token_hash) = registration.link_token_hash else { return Ok(None) };
    let row = sqlx::query(
        "SELECT t.linked_by_device_id, t.linked_by_identity_key, t.linked_by_signature \
         FROM link_tokens t \
         JOIN devices d ON d.device_no = t.linked_by_device_no AND d.deactivated_at IS NULL \
         WHERE t.user_id = ? AND t.token_hash = ? AND t.device_id = ? AND t.identity_key = ? \
         AND t.expires_at > ?",
    )
    .bind(registration.user_id.uuid())
    .bind(token_hash.to_vec())
    .bind(registration.device_id.as_str())
    .bind(registration.identity_key.as_bytes().to_vec())
    .bind(now.millis())
    .fetch_optional(tx)
    .await?;
    row.as_ref().map_or(Ok(None), rows::linked_by)
}

async fn insert_device(
    tx: &mut SqliteConnection,
    registration: &Registration,
    device_number: DeviceNumber,
    linked_by: Option<&LinkedBy>,
    now: Timestamp,
) -> Result<DeviceNo, sqlx::Error> {
    let signed = &registration.signed_prekey;
    let last_resort = registration.last_resort_kem_prekey.as_ref();
    let key_bytes = |key: &IdentityKey| key.as_bytes().to_vec();
    sqlx::query_scalar(
        "INSERT INTO devices (user_id, device_id, device_number, registration_id, device_name, created_at, \
         last_seen, identity_key, linked_by_device_id, linked_by_identity_key, linked_by_signature, \
         signed_prekey_id, signed_prekey, signed_prekey_signature, signed_prekey_at, \
         last_resort_id, last_resort, last_resort_signature) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING device_no",
    )
    .bind(registration.user_id.uuid())
    .bind(registration.device_id.as_str())
    .bind(i64::from(device_number.get()))
    .bind(i64::from(registration.registration_id.get()))
    .bind(registration.device_name.as_deref())
    .bind(now.millis())
    .bind(now.day().millis())
    .bind(key_bytes(&registration.identity_key))
    .bind(linked_by.map(|by| by.device_id.as_str()))
    .bind(linked_by.map(|by| key_bytes(&by.identity_key)))
    .bind(linked_by.map(|by| by.signature.to_vec()))
    .bind(i64::from(signed.id.get()))
    .bind(signed.public_key.to_vec())
    .bind(signed.signature.to_vec())
    .bind(now.millis())
    .bind(last_resort.map(|key| i64::from(key.id.get())))
    .bind(last_resort.map(|key| key.public_key.to_vec()))
    .bind(last_resort.map(|key| key.signature.to_vec()))
    .fetch_one(tx)
    .await
    .map(DeviceNo)
}

async fn open_mailbox(tx: &mut SqliteConnection, user: UserId, device: DeviceNo) -> Result<(), sqlx::Error> {
    // The highest sequence is the user's, not the device's: it must outlive the devices that saw it.
    sqlx::query(
        "INSERT INTO mailboxes (device_no, user_id, sequence) \
         SELECT ?1, ?2, coalesce(max(sequence), 0) FROM mailboxes WHERE user_id = ?2",
    )
    .bind(device.0)
    .bind(user.uuid())
    .execute(tx)
    .await?;
    Ok(())
}

async fn open_session(
    tx: &mut SqliteConnection,
    registration: &Registration,
    device: DeviceNo,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let session = &registration.session;
    sqlx::query(
        "INSERT INTO sessions (session_id, device_no, refresh_hash, created_at, expires_at) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(session.session_id.uuid())
    .bind(device.0)
    .bind(session.refresh_hash.to_vec())
    .bind(now.millis())
    .bind(session.expires_at.millis())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn offer_link(tx: &mut SqliteConnection, offer: LinkOffer) -> Result<bool, sqlx::Error> {
    let kept = sqlx::query(
        "INSERT INTO link_tokens (user_id, token_hash, device_id, identity_key, linked_by_device_no, \
         linked_by_device_id, linked_by_identity_key, linked_by_signature, expires_at) \
         SELECT user_id, ?, ?, ?, device_no, ?, ?, ?, ? FROM devices \
         WHERE device_no = ? AND user_id = ? AND deactivated_at IS NULL \
         ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, \
         device_id = excluded.device_id, identity_key = excluded.identity_key, \
         linked_by_device_no = excluded.linked_by_device_no, \
         linked_by_device_id = excluded.linked_by_device_id, \
         linked_by_identity_key = excluded.linked_by_identity_key, \
         linked_by_signature = excluded.linked_by_signature, expires_at = excluded.expires_at",
    )
    .bind(offer.token_hash.to_vec())
    .bind(offer.device_id.as_str())
    .bind(offer.identity_key.as_bytes().to_vec())
    .bind(offer.linked_by.device_id.as_str())
    .bind(offer.linked_by.identity_key.as_bytes().to_vec())
    .bind(offer.linked_by.signature.to_vec())
    .bind(offer.expires_at.millis())
    .bind(offer.by.0)
    .bind(offer.user_id.uuid())
    .execute(tx)
    .await?;
    Ok(kept.rows_affected() == 1)
}
