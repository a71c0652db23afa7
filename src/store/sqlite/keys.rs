//! A device's keys: published, counted, shown.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    audit::{self, Entry},
    ledger,
    rows::{self, corrupt},
};
use crate::{
    domain::{
        DeviceNo, DeviceNumber, KeyId, KeyKind, KeyStats, LastingKeys, SecurityEvent, SignedPreKey,
        Timestamp, UserId,
    },
    store::{
        KeyUpload, Published,
        ledger::{Key, Lasting, Purpose, keys_of_upload},
    },
};

pub(super) const SIGNED: [&str; 3] = ["signed_prekey_id", "signed_prekey", "signed_prekey_signature"];
pub(super) const LAST_RESORT: [&str; 3] = ["last_resort_id", "last_resort", "last_resort_signature"];

pub(super) fn no_signed_prekey() -> sqlx::Error {
    corrupt("an active device has a signed pre-key")
}

/// How many one-time pre-keys and one-time KEM pre-keys are left.
pub(super) async fn stock(tx: &mut SqliteConnection, device: DeviceNo) -> Result<(u32, u32), sqlx::Error> {
    let (onetime, kem): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 2) \
         FROM prekeys WHERE device_no = ?",
    )
    .bind(device.0)
    .fetch_one(tx)
    .await?;
    Ok((rows::count(onetime), rows::count(kem)))
}

/// The user of an active device and its current lasting keys.
pub(super) struct Owner {
    pub(super) user: UserId,
    pub(super) number: DeviceNumber,
    lasting: Lasting,
}

pub(super) async fn publish_keys(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    upload: KeyUpload,
    context: Context,
) -> Result<Published, sqlx::Error> {
    let Some(owner) = owner(tx, device).await? else { return Ok(Published::Gone) };
    let keys = keys_of_upload(&upload);
    let ledger = ledger::read(tx, owner.user, Some(device), &keys).await?;
    let fresh = match ledger.fresh(&keys, owner.lasting) {
        Ok(fresh) => fresh,
        Err(reused) => return Ok(Published::KeyReused(reused.kind, reused.id)),
    };
    let (onetime, kem) = stock(tx, device).await?;
    let mut counts = [onetime, kem];
    for (kind, stored) in [KeyKind::OneTime, KeyKind::Kem].into_iter().zip(&mut counts) {
        let to_store = |key: &&&Key<'_>| key.kind == kind && key.purpose == Purpose::OneTime;
        let added = u32::try_from(fresh.iter().filter(to_store).count()).unwrap_or(u32::MAX);
        *stored = stored.saturating_add(added);
        if added > 0 && *stored > context.limits.max_prekeys {
            return Ok(Published::TooMany(kind));
        }
    }
    ledger::enter(tx, owner.user, device, &fresh).await?;
    let is_new = |purpose| fresh.iter().any(|key| key.purpose == purpose);
    if let Some(key) = upload.signed_prekey.as_ref().filter(|_| is_new(Purpose::Signed)) {
        replace_signed(tx, device, key, context.now).await?;
        let (event, number) = (SecurityEvent::KeyRotated, Some(owner.number));
        audit::enter(tx, Entry { user: owner.user, event, device: number, by: None }, &context).await?;
    }
    if let Some(key) = upload.last_resort_kem_prekey.as_ref().filter(|_| is_new(Purpose::LastResort)) {
        replace_last_resort(tx, device, key).await?;
    }
    let accepted = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
    let already_known = u32::try_from(keys.len() - fresh.len()).unwrap_or(u32::MAX);
    let [onetime_count, kem_count] = counts;
    Ok(Published::Published { accepted, already_known, onetime_count, kem_count })
}

pub(super) async fn owner(tx: &mut SqliteConnection, device: DeviceNo) -> Result<Option<Owner>, sqlx::Error> {
    sqlx::query(
        "SELECT user_id, device_number, signed_prekey_id, last_resort_id FROM devices \
         WHERE device_no = ? AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .try_map(|row: SqliteRow| {
        Ok(Owner {
            user: rows::user_id(&row, "user_id")?,
            number: rows::device_number(&row, "device_number")?,
            lasting: Lasting {
                signed: row.try_get("signed_prekey_id")?,
                last_resort: row.try_get("last_resort_id")?,
            },
        })
    })
    .fetch_optional(tx)
    .await
}

async fn replace_signed(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    key: &SignedPreKey,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE devices SET signed_prekey_id = ?, signed_prekey = ?, signed_prekey_signature = ?, \
         signed_prekey_at = ? WHERE device_no = ?",
    )
    .bind(id(key.id))
    .bind(key.public_key.to_vec())
    .bind(key.signature.to_vec())
    .bind(now.millis())
    .bind(device.0)
    .execute(tx)
    .await?;
    Ok(())
}

async fn replace_last_resort(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    key: &SignedPreKey,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE devices SET last_resort_id = ?, last_resort = ?, last_resort_signature = ?, \
         last_resort_used = 0 WHERE device_no = ?",
    )
    .bind(id(key.id))
    .bind(key.public_key.to_vec())
    .bind(key.signature.to_vec())
    .bind(device.0)
    .execute(tx)
    .await?;
    Ok(())
}

fn id(key: KeyId) -> i64 {
    i64::from(key.get())
}

pub(super) async fn key_stats(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    now: Timestamp,
) -> Result<Option<KeyStats>, sqlx::Error> {
    sqlx::query(
        "SELECT signed_prekey_at, last_resort_used OR EXISTS (SELECT 1 FROM key_packages k \
           WHERE k.device_no = d.device_no AND k.last_resort AND k.state = 0 AND k.given) AS last_resort_used, \
         (SELECT count(*) FROM key_packages k WHERE k.device_no = d.device_no AND NOT k.last_resort \
           AND k.state = 0 AND k.not_after > ?2) AS packages, \
         (SELECT count(*) FROM prekeys p WHERE p.device_no = d.device_no AND p.kind = 1) AS unused, \
         (SELECT count(*) FROM prekey_ledger l WHERE l.device_no = d.device_no AND l.kind = 1) AS total, \
         (SELECT count(*) FROM prekeys p WHERE p.device_no = d.device_no AND p.kind = 2) AS kem \
         FROM devices d WHERE device_no = ?1 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .bind(now.millis())
    .try_map(|row: SqliteRow| {
        Ok(KeyStats {
            key_packages: rows::count(row.try_get("packages")?),
            unused_prekeys: rows::count(row.try_get("unused")?),
            total_prekeys: rows::count(row.try_get("total")?),
            kem_prekeys: rows::count(row.try_get("kem")?),
            signed_prekey_at: rows::timestamp(&row, "signed_prekey_at")?,
            last_resort_used: row.try_get("last_resort_used")?,
        })
    })
    .fetch_optional(conn)
    .await
}

pub(super) async fn lasting_keys(
    conn: &mut SqliteConnection,
    device: DeviceNo,
) -> Result<Option<LastingKeys>, sqlx::Error> {
    sqlx::query(
        "SELECT identity_key, signed_prekey_id, signed_prekey, signed_prekey_signature, \
         last_resort_id, last_resort, last_resort_signature \
         FROM devices WHERE device_no = ? AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .try_map(|row: SqliteRow| {
        Ok(LastingKeys {
            identity_key: rows::identity_key(row.try_get("identity_key")?)?,
            signed_prekey: rows::signed_prekey(&row, SIGNED)?.ok_or_else(no_signed_prekey)?,
            last_resort_kem_prekey: rows::signed_prekey(&row, LAST_RESORT)?,
        })
    })
    .fetch_optional(conn)
    .await
}
