//! A user's devices, and how they go.

use std::time::Duration;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    audit::{self, Entry},
    groups, mls_keys, notices, packages, revocations, rows,
};
use crate::{
    domain::{Caller, Delivery, Device, DeviceId, DeviceNo, DeviceNumber, SecurityEvent, Timestamp, UserId},
    store::{Deactivated, Revocation},
};

/// A device younger than this may not deactivate older ones: a thief of a link token must not lock the owner out.
const PROBATION: Duration = Duration::from_hours(24);

pub(super) async fn deactivate(
    tx: &mut SqliteConnection,
    by: Caller,
    target: DeviceId,
    context: Context,
) -> Result<(Deactivated, Vec<Delivery>), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Vec::new()));
    let Some((device, number)) = find(tx, by.user_id, &target).await? else {
        return refused(Deactivated::Unknown);
    };
    if !may_deactivate(tx, &by, device, context.now).await? {
        return refused(Deactivated::NotAllowed);
    }
    let another = by.device_no != device;
    groups::leave_all(tx, device).await?;
    erase_mailbox(tx, device).await?;
    erase_keys(tx, device, another, context.now).await?;
    for erase in
        ["DELETE FROM sessions WHERE device_no = ?", "DELETE FROM link_tokens WHERE linked_by_device_no = ?"]
    {
        sqlx::query(erase).bind(device.0).execute(&mut *tx).await?;
    }
    revocations::revoke(tx, Revocation::Device(device), context.now).await?;
    let entry = Entry {
        user: by.user_id,
        event: SecurityEvent::DeviceDeactivated,
        device: Some(number),
        by: another.then_some(by.device_number),
    };
    audit::enter(tx, entry, &context).await?;
    let deliveries = notices::devices_changed(tx, by.user_id, None, &context).await?;
    Ok((Deactivated::Gone(device), deliveries))
}

async fn find(
    tx: &mut SqliteConnection,
    user: UserId,
    device: &DeviceId,
) -> Result<Option<(DeviceNo, DeviceNumber)>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, device_number FROM devices \
         WHERE user_id = ? AND device_id = ? AND deactivated_at IS NULL",
    )
    .bind(user.uuid())
    .bind(device.as_str())
    .try_map(|row: SqliteRow| {
        Ok((rows::device_no(&row, "device_no")?, rows::device_number(&row, "device_number")?))
    })
    .fetch_optional(tx)
    .await
}

async fn may_deactivate(
    tx: &mut SqliteConnection,
    by: &Caller,
    target: DeviceNo,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    if by.device_no == target {
        return Ok(true);
    }
    let created_at: Option<i64> = sqlx::query_scalar(
        "SELECT created_at FROM devices WHERE device_no = ? AND user_id = ? AND deactivated_at IS NULL",
    )
    .bind(by.device_no.0)
    .bind(by.user_id.uuid())
    .fetch_optional(tx)
    .await?;
    // Gone itself a moment ago: its word counts no more.
    let Some(created_at) = created_at else { return Ok(false) };
    Ok(by.device_no < target || created_at <= now.minus(PROBATION).millis())
}

async fn erase_mailbox(tx: &mut SqliteConnection, device: DeviceNo) -> Result<(), sqlx::Error> {
    for erase in [
        "UPDATE messages SET lost = 1 \
         WHERE message_id IN (SELECT message_id FROM mailbox_items WHERE device_no = ?)",
        "DELETE FROM mailbox_items WHERE device_no = ?",
        "DELETE FROM mailboxes WHERE device_no = ?",
    ] {
        sqlx::query(erase).bind(device.0).execute(&mut *tx).await?;
    }
    Ok(())
}

async fn erase_keys(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    expelled: bool,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM prekeys WHERE device_no = ?").bind(device.0).execute(&mut *tx).await?;
    packages::drop_all(tx, device).await?;
    mls_keys::forget_all(tx, device).await?;
    sqlx::query(
        "UPDATE devices SET deactivated_at = ?, expelled = ?, signed_prekey_id = NULL, signed_prekey = NULL, \
         signed_prekey_signature = NULL, signed_prekey_at = NULL, last_resort_id = NULL, \
         last_resort = NULL, last_resort_signature = NULL, device_name = NULL WHERE device_no = ?",
    )
    .bind(now.millis())
    .bind(expelled)
    .bind(device.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn devices(conn: &mut SqliteConnection, user: UserId) -> Result<Vec<Device>, sqlx::Error> {
    let mut devices = sqlx::query(
        "SELECT device_no, device_id, device_number, registration_id, identity_key, \
         linked_by_device_id, linked_by_identity_key, linked_by_signature, \
         device_name, created_at, last_seen \
         FROM devices WHERE user_id = ? AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .try_map(|row: SqliteRow| {
        Ok(Device {
            mls_signature_keys: Vec::new(),
            device_no: rows::device_no(&row, "device_no")?,
            device_id: rows::device_id(&row, "device_id")?,
            device_number: rows::device_number(&row, "device_number")?,
            registration_id: rows::registration_id(&row, "registration_id")?,
            identity_key: rows::identity_key(row.try_get("identity_key")?)?,
            linked_by: rows::linked_by(&row)?,
            device_name: row.try_get("device_name")?,
            created_at: rows::timestamp(&row, "created_at")?,
            last_seen: rows::timestamp(&row, "last_seen")?,
        })
    })
    .fetch_all(&mut *conn)
    .await?;
    let numbers: Vec<_> = devices.iter().map(|device| device.device_no).collect();
    let mut keys = mls_keys::of_each(conn, &numbers).await?;
    for device in &mut devices {
        device.mls_signature_keys = keys.remove(&device.device_no).unwrap_or_default();
    }
    Ok(devices)
}

pub(super) async fn note_seen(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE devices SET last_seen = ?1 \
         WHERE device_no = ?2 AND last_seen < ?1 AND deactivated_at IS NULL",
    )
    .bind(now.day().millis())
    .bind(device.0)
    .execute(tx)
    .await?;
    Ok(())
}
