//! MLS signature keys: registered, replaced, shown.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    audit::{self, Entry},
    keys, packages, rows,
};
use crate::{
    domain::{DeviceNo, MlsSignatureKey, SecurityEvent, SignatureScheme},
    store::MlsKeySet,
};

pub(super) async fn set(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    key: MlsSignatureKey,
    context: Context,
) -> Result<MlsKeySet, sqlx::Error> {
    let Some(owner) = keys::owner(tx, device).await? else { return Ok(MlsKeySet::Gone) };
    let current = of(tx, device).await?;
    let former = current.iter().find(|current| current.scheme == key.scheme);
    if former.is_some_and(|former| former.public_key == key.public_key) {
        return Ok(MlsKeySet::Set(0));
    }
    if taken(tx, std::slice::from_ref(&key)).await?.is_some() {
        return Ok(MlsKeySet::Reused);
    }
    let dropped = match former {
        Some(former) => {
            forget(tx, former).await?;
            let (event, number) = (SecurityEvent::KeyRotated, Some(owner.number));
            audit::enter(tx, Entry { user: owner.user, event, device: number, by: None }, &context).await?;
            packages::drop_of_key(tx, device, &former.public_key).await?
        }
        None => 0,
    };
    insert(tx, device, &key).await?;
    Ok(MlsKeySet::Set(dropped))
}

/// The scheme of the first of these keys that is or was some device's, or stands among them twice.
pub(super) async fn taken(
    tx: &mut SqliteConnection,
    keys: &[MlsSignatureKey],
) -> Result<Option<SignatureScheme>, sqlx::Error> {
    for (index, key) in keys.iter().enumerate() {
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM mls_keys WHERE public_key = ?)")
            .bind(key.public_key.to_vec())
            .fetch_one(&mut *tx)
            .await?;
        if known || keys[..index].iter().any(|other| other.public_key == key.public_key) {
            return Ok(Some(key.scheme));
        }
    }
    Ok(None)
}

pub(super) async fn insert(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    key: &MlsSignatureKey,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO mls_keys (public_key, device_no, scheme, signature) VALUES (?, ?, ?, ?)")
        .bind(key.public_key.to_vec())
        .bind(device.0)
        .bind(key.scheme as i64)
        .bind(key.signature.to_vec())
        .execute(tx)
        .await?;
    Ok(())
}

/// The key is known by its bytes alone from now on.
async fn forget(tx: &mut SqliteConnection, key: &MlsSignatureKey) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE mls_keys SET current = 0, signature = NULL WHERE public_key = ?")
        .bind(key.public_key.to_vec())
        .execute(tx)
        .await?;
    Ok(())
}

/// Like [`forget`], for every key of a device.
pub(super) async fn forget_all(tx: &mut SqliteConnection, device: DeviceNo) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE mls_keys SET current = 0, signature = NULL WHERE device_no = ? AND current")
        .bind(device.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// The current keys of a device, by scheme.
pub(super) async fn of(
    conn: &mut SqliteConnection,
    device: DeviceNo,
) -> Result<Vec<MlsSignatureKey>, sqlx::Error> {
    Ok(of_each(conn, &[device]).await?.remove(&device).unwrap_or_default())
}

/// The current keys of devices, by scheme; devices without one are left out.
pub(super) async fn of_each(
    conn: &mut SqliteConnection,
    devices: &[DeviceNo],
) -> Result<HashMap<DeviceNo, Vec<MlsSignatureKey>>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT device_no, scheme, public_key, signature FROM mls_keys \
         WHERE device_no IN (SELECT value FROM json_each(?)) AND current ORDER BY device_no, scheme",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .try_map(|row: SqliteRow| {
        let key = MlsSignatureKey {
            scheme: rows::valid(SignatureScheme::new(row.try_get("scheme")?))?,
            public_key: Bytes::copy_from_slice(row.try_get("public_key")?),
            signature: rows::signature(row.try_get("signature")?)?,
        };
        Ok((rows::device_no(&row, "device_no")?, key))
    })
    .fetch_all(conn)
    .await?;
    let mut keys: HashMap<DeviceNo, Vec<MlsSignatureKey>> = HashMap::new();
    for (device, key) in found {
        keys.entry(device).or_default().push(key);
    }
    Ok(keys)
}
