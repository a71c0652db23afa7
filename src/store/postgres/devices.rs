//! Devices: linking, listing, seeing and ending them.

use std::time::Duration;

use sqlx::{Error, PgConnection, PgPool};
use time::OffsetDateTime;

use super::{
    register::lock_user,
    rows::{DeviceRow, at, moment},
};
use crate::{
    domain::{Caller, Device, DeviceId, DeviceNo, Timestamp, UserId},
    store::{Deactivated, LinkOffer},
};

/// How long a linked device waits until it may end a device that is older than itself.
const PROBATION: Duration = Duration::from_hours(24);

pub(super) async fn offer_link(pool: &PgPool, offer: &LinkOffer) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    lock_user(&mut tx, offer.user_id).await?;
    let stored = sqlx::query(
        "INSERT INTO link_tokens (user_id, token_hash, device_id, identity_key, linked_by_device_no, \
            linked_by_device_id, linked_by_identity_key, linked_by_signature, expires_at) \
         SELECT d.user_id, $3, $4, $5, d.device_no, $6, $7, $8, $9 FROM devices d \
         WHERE d.device_no = $2 AND d.user_id = $1 AND d.deactivated_at IS NULL \
         ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, device_id = excluded.device_id, \
            identity_key = excluded.identity_key, linked_by_device_no = excluded.linked_by_device_no, \
            linked_by_device_id = excluded.linked_by_device_id, \
            linked_by_identity_key = excluded.linked_by_identity_key, \
            linked_by_signature = excluded.linked_by_signature, expires_at = excluded.expires_at",
    )
    .bind(offer.user_id.uuid())
    .bind(offer.by.0)
    .bind(offer.token_hash.as_slice())
    .bind(offer.device_id.as_str())
    .bind(offer.identity_key.as_bytes())
    .bind(offer.linked_by.device_id.as_str())
    .bind(offer.linked_by.identity_key.as_bytes())
    .bind(offer.linked_by.signature.as_slice())
    .bind(at(offer.expires_at))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(stored.rows_affected() == 1)
}

pub(super) async fn list(pool: &PgPool, user: UserId) -> Result<Vec<Device>, Error> {
    let rows: Vec<DeviceRow> = sqlx::query_as(
        "SELECT device_no, device_id, device_number, registration_id, device_name, created_at, last_seen, \
            identity_key, linked_by_device_id, linked_by_identity_key, linked_by_signature \
         FROM devices WHERE user_id = $1 AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(DeviceRow::device).collect()
}

/// Writes once a day for each device, however often it is seen.
pub(super) async fn note_seen(pool: &PgPool, device: DeviceNo, now: Timestamp) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET last_seen = $2 \
         WHERE device_no = $1 AND last_seen < $2 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .bind(at(now.day()))
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn revocations(
    pool: &PgPool,
    since: Timestamp,
) -> Result<Vec<crate::store::Revocation>, Error> {
    let devices: Vec<i64> =
        sqlx::query_scalar("SELECT device_no FROM revocations WHERE revoked_at >= $1 ORDER BY revocation_id")
            .bind(at(since))
            .fetch_all(pool)
            .await?;
    Ok(devices.into_iter().map(|device| crate::store::Revocation::Device(DeviceNo(device))).collect())
}

pub(super) async fn deactivate(
    pool: &PgPool,
    by: &Caller,
    target: &DeviceId,
    now: Timestamp,
) -> Result<Deactivated, Error> {
    let mut tx = pool.begin().await?;
    lock_user(&mut tx, by.user_id).await?;
    let Some(device) = active_device(&mut tx, by.user_id, target).await? else {
        return Ok(Deactivated::Unknown);
    };
    if !may_end(&mut tx, by, device, now).await? {
        return Ok(Deactivated::NotAllowed);
    }
    end(&mut tx, device, now).await?;
    tx.commit().await?;
    Ok(Deactivated::Gone(device))
}

async fn active_device(
    tx: &mut PgConnection,
    user: UserId,
    device: &DeviceId,
) -> Result<Option<DeviceNo>, Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT device_no FROM devices WHERE user_id = $1 AND device_id = $2 AND deactivated_at IS NULL",
    )
    .bind(user.uuid())
    .bind(device.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(found.map(DeviceNo))
}

/// Whether the caller may end this device of its user: itself, a younger one, or any once it is no newcomer. A caller
/// that was ended itself may end nobody.
async fn may_end(
    tx: &mut PgConnection,
    by: &Caller,
    device: DeviceNo,
    now: Timestamp,
) -> Result<bool, Error> {
    let created: Option<OffsetDateTime> = sqlx::query_scalar(
        "SELECT created_at FROM devices WHERE device_no = $1 AND user_id = $2 AND deactivated_at IS NULL",
    )
    .bind(by.device_no.0)
    .bind(by.user_id.uuid())
    .fetch_optional(tx)
    .await?;
    Ok(created.is_some_and(|created| by.device_no <= device || moment(created) <= now.minus(PROBATION)))
}

/// What belongs to one incarnation, erased in the order in which acts lock.
const ERASURE: [&str; 6] = [
    "DELETE FROM mailbox_items WHERE device_no = $1",
    "DELETE FROM mailboxes WHERE device_no = $1",
    "DELETE FROM prekeys WHERE device_no = $1",
    "DELETE FROM sessions WHERE device_no = $1",
    "DELETE FROM link_tokens WHERE linked_by_device_no = $1",
    "UPDATE devices SET device_name = NULL, signed_prekey_id = NULL, signed_prekey = NULL, \
        signed_prekey_signature = NULL, signed_prekey_at = NULL, last_resort_id = NULL, last_resort = NULL, \
        last_resort_signature = NULL WHERE device_no = $1",
];

async fn end(tx: &mut PgConnection, device: DeviceNo, now: Timestamp) -> Result<(), Error> {
    sqlx::query("SELECT FROM mailboxes WHERE device_no = $1 FOR UPDATE")
        .bind(device.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE messages SET lost = true WHERE message_id = ANY(ARRAY( \
            SELECT m.message_id FROM messages m \
            WHERE m.message_id = ANY(ARRAY(SELECT message_id FROM mailbox_items WHERE device_no = $1)) \
            ORDER BY m.message_id FOR UPDATE))",
    )
    .bind(device.0)
    .execute(&mut *tx)
    .await?;
    for statement in ERASURE {
        sqlx::query(statement).bind(device.0).execute(&mut *tx).await?;
    }
    sqlx::query("UPDATE devices SET deactivated_at = $2 WHERE device_no = $1")
        .bind(device.0)
        .bind(at(now))
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO revocations (device_no, revoked_at) VALUES ($1, $2)")
        .bind(device.0)
        .bind(at(now))
        .execute(tx)
        .await?;
    Ok(())
}
