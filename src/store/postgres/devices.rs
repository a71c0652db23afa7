//! Devices: linking, listing and seeing them.

use sqlx::{Error, PgConnection, PgPool};

use super::{
    audit::{self, Event},
    rows::{DeviceRow, at, device_number},
    standing::lock_user,
    stock,
};
use crate::{
    domain::{Device, DeviceNo, DeviceNumber, Pseudonym, SecurityEvent, Timestamp, UserId},
    store::LinkOffer,
};

pub(super) async fn offer_link(
    pool: &PgPool,
    subject: Pseudonym,
    offer: &LinkOffer,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    lock_user(&mut tx, offer.user_id).await?;
    let Some(by) = vouching(&mut tx, offer).await? else { return Ok(false) };
    store_offer(&mut tx, offer).await?;
    audit::enter(&mut *tx, subject, Event::of_device(SecurityEvent::LinkIssued, by), now).await?;
    tx.commit().await?;
    Ok(true)
}

/// The number of the device that vouches, if it is an active one of this user.
async fn vouching(tx: &mut PgConnection, offer: &LinkOffer) -> Result<Option<DeviceNumber>, Error> {
    let number: Option<i16> = sqlx::query_scalar(
        "SELECT device_number FROM devices WHERE device_no = $1 AND user_id = $2 AND deactivated_at IS NULL",
    )
    .bind(offer.by.0)
    .bind(offer.user_id.uuid())
    .fetch_optional(tx)
    .await?;
    number.map(device_number).transpose()
}

async fn store_offer(tx: &mut PgConnection, offer: &LinkOffer) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO link_tokens (user_id, token_hash, device_id, identity_key, linked_by_device_no, \
            linked_by_device_id, linked_by_identity_key, linked_by_signature, expires_at) \
         VALUES ($1, $3, $4, $5, $2, $6, $7, $8, $9) \
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
    .execute(tx)
    .await?;
    Ok(())
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
    let mut devices = rows.into_iter().map(DeviceRow::device).collect::<Result<Vec<_>, Error>>()?;
    let numbers: Vec<DeviceNo> = devices.iter().map(|device| device.device_no).collect();
    for (owner, key) in stock::keys_of(pool, &numbers).await? {
        if let Some(device) = devices.iter_mut().find(|device| device.device_no == owner) {
            device.mls_signature_keys.push(key);
        }
    }
    Ok(devices)
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
