//! Bundles of keys, as whoever wants to write takes them.

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    keys::{LAST_RESORT, SIGNED, no_signed_prekey, stock},
    rows,
};
use crate::{
    domain::{Bundle, DeviceId, DeviceNo, KeyKind, OneTimePreKey, SignedPreKey, UserId},
    store::{OneTimeKeys, TakenBundle},
};

pub(super) async fn take_bundle(
    tx: &mut SqliteConnection,
    user: UserId,
    device: Option<DeviceId>,
    onetime: OneTimeKeys,
) -> Result<Option<TakenBundle>, sqlx::Error> {
    match active(tx, user, device.as_ref()).await?.into_iter().next() {
        Some((device_no, row)) => take(tx, user, device_no, &row, onetime).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn take_bundles(
    tx: &mut SqliteConnection,
    user: UserId,
    except: Option<DeviceNo>,
    onetime: OneTimeKeys,
) -> Result<Option<Vec<TakenBundle>>, sqlx::Error> {
    let devices = active(tx, user, None).await?;
    if devices.is_empty() {
        return Ok(None);
    }
    let mut taken = Vec::with_capacity(devices.len());
    for (device_no, row) in devices {
        if Some(device_no) != except {
            taken.push(take(tx, user, device_no, &row, onetime).await?);
        }
    }
    Ok(Some(taken))
}

/// The active devices of a user, oldest first, or the one that is named.
async fn active(
    tx: &mut SqliteConnection,
    user: UserId,
    device: Option<&DeviceId>,
) -> Result<Vec<(DeviceNo, SqliteRow)>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, device_id, device_number, registration_id, identity_key, \
         linked_by_device_id, linked_by_identity_key, linked_by_signature, \
         signed_prekey_id, signed_prekey, signed_prekey_signature, \
         last_resort_id, last_resort, last_resort_signature \
         FROM devices WHERE user_id = ?1 AND deactivated_at IS NULL AND (?2 IS NULL OR device_id = ?2) \
         ORDER BY device_no",
    )
    .bind(user.uuid())
    .bind(device.map(DeviceId::as_str))
    .try_map(|row: SqliteRow| Ok((rows::device_no(&row, "device_no")?, row)))
    .fetch_all(tx)
    .await
}

async fn take(
    tx: &mut SqliteConnection,
    user: UserId,
    device_no: DeviceNo,
    row: &SqliteRow,
    onetime: OneTimeKeys,
) -> Result<TakenBundle, sqlx::Error> {
    let (onetime_prekey, mut kem_prekey) = match onetime {
        OneTimeKeys::Given => take_onetime(tx, device_no).await?,
        OneTimeKeys::Withheld => (None, None),
    };
    let mut last_resort_given = false;
    if kem_prekey.is_none() {
        kem_prekey = rows::signed_prekey(row, LAST_RESORT)?;
        last_resort_given = kem_prekey.is_some();
    }
    if last_resort_given {
        sqlx::query("UPDATE devices SET last_resort_used = 1 WHERE device_no = ? AND last_resort_used = 0")
            .bind(device_no.0)
            .execute(&mut *tx)
            .await?;
    }
    let bundle = Bundle {
        user_id: user,
        device_id: rows::device_id(row, "device_id")?,
        device_number: rows::device_number(row, "device_number")?,
        registration_id: rows::registration_id(row, "registration_id")?,
        identity_key: rows::identity_key(row.try_get("identity_key")?)?,
        linked_by: rows::linked_by(row)?,
        signed_prekey: rows::signed_prekey(row, SIGNED)?.ok_or_else(no_signed_prekey)?,
        onetime_prekey,
        kem_prekey,
    };
    let (onetime_left, kem_left) = stock(tx, device_no).await?;
    Ok(TakenBundle { bundle, device_no, onetime_left, kem_left, last_resort_given })
}

/// A one-time pre-key and a one-time KEM pre-key, while there are some.
async fn take_onetime(
    tx: &mut SqliteConnection,
    device: DeviceNo,
) -> Result<(Option<OneTimePreKey>, Option<SignedPreKey>), sqlx::Error> {
    let onetime = match take_lowest(tx, device, KeyKind::OneTime).await? {
        Some(key) => Some(OneTimePreKey {
            id: rows::key_id(key.try_get("key_id")?)?,
            public_key: Bytes::copy_from_slice(key.try_get("public_key")?),
        }),
        None => None,
    };
    let kem = match take_lowest(tx, device, KeyKind::Kem).await? {
        Some(key) => rows::signed_prekey(&key, ["key_id", "public_key", "signature"])?,
        None => None,
    };
    Ok((onetime, kem))
}

async fn take_lowest(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    kind: KeyKind,
) -> Result<Option<SqliteRow>, sqlx::Error> {
    sqlx::query(
        "DELETE FROM prekeys WHERE device_no = ?1 AND kind = ?2 \
         AND key_id = (SELECT min(key_id) FROM prekeys WHERE device_no = ?1 AND kind = ?2) \
         RETURNING key_id, public_key, signature",
    )
    .bind(device.0)
    .bind(kind as i64)
    .fetch_optional(tx)
    .await
}
