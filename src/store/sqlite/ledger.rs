//! The ledger of pre-keys as it is stored: every one ever uploaded, so that none comes back.

use sqlx::{QueryBuilder, Row as _, SqliteConnection};

use super::{ROWS_AT_ONCE, rows};
use crate::{
    domain::{DeviceNo, KeyKind, UserId},
    store::ledger::{Key, Ledger, Purpose},
};

/// Reads what concerns these keys. `device` is the incarnation they are for, if it exists already.
pub(super) async fn read(
    tx: &mut SqliteConnection,
    user: UserId,
    device: Option<DeviceNo>,
    keys: &[Key<'_>],
) -> Result<Ledger, sqlx::Error> {
    let digests = rows::blobs(keys.iter().map(|key| key.digest.as_slice()));
    let seen = sqlx::query(
        "SELECT digest FROM prekey_ledger \
         WHERE user_id = ? AND digest IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(user.uuid())
    .bind(digests)
    .fetch_all(&mut *tx)
    .await?;
    let mut ledger = Ledger::default();
    for row in seen {
        ledger.hold_digest(rows::digest(row.try_get("digest")?)?);
    }
    if let Some(device) = device {
        read_ids(&mut ledger, tx, device, keys).await?;
    }
    Ok(ledger)
}

async fn read_ids(
    ledger: &mut Ledger,
    tx: &mut SqliteConnection,
    device: DeviceNo,
    keys: &[Key<'_>],
) -> Result<(), sqlx::Error> {
    for kind in [KeyKind::Signed, KeyKind::OneTime, KeyKind::Kem] {
        let of_kind = keys.iter().filter(|key| key.kind == kind);
        let ids = rows::numbers(of_kind.map(|key| i64::from(key.id.get())));
        let known = sqlx::query(
            "SELECT key_id, digest FROM prekey_ledger \
             WHERE device_no = ? AND kind = ? AND key_id IN (SELECT value FROM json_each(?))",
        )
        .bind(device.0)
        .bind(kind as i64)
        .bind(ids)
        .fetch_all(&mut *tx)
        .await?;
        for row in known {
            let id = rows::key_id(row.try_get("key_id")?)?;
            ledger.hold_id(kind, id, rows::digest(row.try_get("digest")?)?);
        }
    }
    Ok(())
}

/// Enters new keys into the ledger, and the one-time ones among them into the stock.
pub(super) async fn enter(
    tx: &mut SqliteConnection,
    user: UserId,
    device: DeviceNo,
    keys: &[&Key<'_>],
) -> Result<(), sqlx::Error> {
    for chunk in keys.chunks(ROWS_AT_ONCE) {
        let mut insert =
            QueryBuilder::new("INSERT INTO prekey_ledger (device_no, kind, key_id, user_id, digest) ");
        insert.push_values(chunk, |mut row, key| {
            row.push_bind(device.0).push_bind(key.kind as i64).push_bind(i64::from(key.id.get()));
            row.push_bind(user.uuid()).push_bind(key.digest.to_vec());
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    let onetime: Vec<_> = keys.iter().filter(|key| key.purpose == Purpose::OneTime).collect();
    for chunk in onetime.chunks(ROWS_AT_ONCE) {
        let mut insert =
            QueryBuilder::new("INSERT INTO prekeys (device_no, kind, key_id, public_key, signature) ");
        insert.push_values(chunk, |mut row, key| {
            row.push_bind(device.0).push_bind(key.kind as i64).push_bind(i64::from(key.id.get()));
            row.push_bind(key.bytes.to_vec()).push_bind(key.signature.map(|signature| signature.to_vec()));
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    Ok(())
}
