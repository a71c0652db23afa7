//! Link tokens: a device's word for a newcomer.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    audit::{self, Entry},
    rows,
};
use crate::{
    domain::{DeviceNumber, LinkedBy, SecurityEvent, Timestamp, UserId},
    store::{LinkOffer, Registration},
};

pub(super) async fn offer_link(
    tx: &mut SqliteConnection,
    offer: LinkOffer,
    context: Context,
) -> Result<bool, sqlx::Error> {
    let Some(number) = vouching(tx, &offer).await? else { return Ok(false) };
    keep(tx, &offer).await?;
    let entry =
        Entry { user: offer.user_id, event: SecurityEvent::LinkIssued, device: Some(number), by: None };
    audit::enter(tx, entry, &context).await?;
    Ok(true)
}

/// The number of the vouching device; none when it is not active.
async fn vouching(tx: &mut SqliteConnection, offer: &LinkOffer) -> Result<Option<DeviceNumber>, sqlx::Error> {
    sqlx::query(
        "SELECT device_number FROM devices WHERE device_no = ? AND user_id = ? AND deactivated_at IS NULL",
    )
    .bind(offer.by.0)
    .bind(offer.user_id.uuid())
    .try_map(|row: SqliteRow| rows::device_number(&row, "device_number"))
    .fetch_optional(tx)
    .await
}

async fn keep(tx: &mut SqliteConnection, offer: &LinkOffer) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO link_tokens (user_id, token_hash, device_id, identity_key, linked_by_device_no, \
         linked_by_device_id, linked_by_identity_key, linked_by_signature, expires_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (user_id) DO UPDATE SET token_hash = excluded.token_hash, \
         device_id = excluded.device_id, identity_key = excluded.identity_key, \
         linked_by_device_no = excluded.linked_by_device_no, \
         linked_by_device_id = excluded.linked_by_device_id, \
         linked_by_identity_key = excluded.linked_by_identity_key, \
         linked_by_signature = excluded.linked_by_signature, expires_at = excluded.expires_at",
    )
    .bind(offer.user_id.uuid())
    .bind(offer.token_hash.to_vec())
    .bind(offer.device_id.as_str())
    .bind(offer.identity_key.as_bytes().to_vec())
    .bind(offer.by.0)
    .bind(offer.linked_by.device_id.as_str())
    .bind(offer.linked_by.identity_key.as_bytes().to_vec())
    .bind(offer.linked_by.signature.to_vec())
    .bind(offer.expires_at.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// Who vouches for a newcomer.
pub(super) struct Voucher {
    pub(super) linked_by: LinkedBy,
    pub(super) number: DeviceNumber,
}

/// Who vouches for this device and key, by a link token that is still good.
pub(super) async fn voucher(
    tx: &mut SqliteConnection,
    registration: &Registration,
    now: Timestamp,
) -> Result<Option<Voucher>, sqlx::Error> {
    let Some(token_hash) = registration.link_token_hash else { return Ok(None) };
    let found = sqlx::query(
        "SELECT t.linked_by_device_id, t.linked_by_identity_key, t.linked_by_signature, d.device_number \
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
    let Some(row) = found else { return Ok(None) };
    let number = rows::device_number(&row, "device_number")?;
    Ok(rows::linked_by(&row)?.map(|linked_by| Voucher { linked_by, number }))
}

/// A link token is used up by the registration that it allowed.
pub(super) async fn use_up(tx: &mut SqliteConnection, user: UserId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM link_tokens WHERE user_id = ?").bind(user.uuid()).execute(tx).await?;
    Ok(())
}
