//! The ledger of pre-keys as it is stored: every one ever uploaded, so that none comes back.

use sqlx::{Error, PgConnection};

use super::rows::{digest, missing};
use crate::{
    domain::{DeviceNo, UserId},
    store::ledger::{Key, Ledger, Purpose},
};

/// Reads what concerns these keys. `device` is the incarnation they are for, if it exists already. The user's row must
/// be locked.
pub(super) async fn read(
    tx: &mut PgConnection,
    user: UserId,
    device: Option<DeviceNo>,
    keys: &[Key<'_>],
) -> Result<Ledger, Error> {
    let digests: Vec<&[u8]> = keys.iter().map(|key| key.digest.as_slice()).collect();
    let seen: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT digest FROM prekey_ledger WHERE user_id = $1 AND digest = ANY($2::bytea[])",
    )
    .bind(user.uuid())
    .bind(digests)
    .fetch_all(&mut *tx)
    .await?;
    let mut ledger = Ledger::default();
    for bytes in seen {
        ledger.hold_digest(digest(&bytes)?);
    }
    if let Some(device) = device {
        read_ids(&mut ledger, tx, device, keys).await?;
    }
    Ok(ledger)
}

async fn read_ids(
    ledger: &mut Ledger,
    tx: &mut PgConnection,
    device: DeviceNo,
    keys: &[Key<'_>],
) -> Result<(), Error> {
    let (kinds, ids) = kinds_and_ids(keys);
    let known: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT n.place, l.digest \
         FROM unnest($2::smallint[], $3::bigint[]) WITH ORDINALITY AS n(kind, key_id, place) \
         JOIN prekey_ledger l ON l.device_no = $1 AND l.kind = n.kind AND l.key_id = n.key_id",
    )
    .bind(device.0)
    .bind(kinds)
    .bind(ids)
    .fetch_all(tx)
    .await?;
    for (place, bytes) in known {
        let key = usize::try_from(place - 1).ok().and_then(|index| keys.get(index)).ok_or_else(missing)?;
        ledger.hold_id(key.kind, key.id, digest(&bytes)?);
    }
    Ok(())
}

fn kinds_and_ids<'k, 'a: 'k>(keys: impl IntoIterator<Item = &'k Key<'a>>) -> (Vec<i16>, Vec<i64>) {
    keys.into_iter().map(|key| (key.kind as i16, i64::from(key.id.get()))).unzip()
}

/// Enters new keys into the ledger, and the one-time ones among them into the stock.
pub(super) async fn enter(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    keys: &[&Key<'_>],
) -> Result<(), Error> {
    let (kinds, ids) = kinds_and_ids(keys.iter().copied());
    let digests: Vec<&[u8]> = keys.iter().map(|key| key.digest.as_slice()).collect();
    sqlx::query(
        "INSERT INTO prekey_ledger (device_no, kind, key_id, user_id, digest) \
         SELECT $1, n.kind, n.key_id, $2, n.digest \
         FROM unnest($3::smallint[], $4::bigint[], $5::bytea[]) AS n(kind, key_id, digest)",
    )
    .bind(device.0)
    .bind(user.uuid())
    .bind(kinds)
    .bind(ids)
    .bind(digests)
    .execute(&mut *tx)
    .await?;
    let onetime: Vec<_> = keys.iter().copied().filter(|key| key.purpose == Purpose::OneTime).collect();
    stock(tx, device, &onetime).await
}

async fn stock(tx: &mut PgConnection, device: DeviceNo, keys: &[&Key<'_>]) -> Result<(), Error> {
    let (kinds, ids) = kinds_and_ids(keys.iter().copied());
    let public_keys: Vec<&[u8]> = keys.iter().map(|key| key.bytes).collect();
    let signatures: Vec<Option<&[u8]>> =
        keys.iter().map(|key| key.signature.map(<[u8; 64]>::as_slice)).collect();
    sqlx::query(
        "INSERT INTO prekeys (device_no, kind, key_id, public_key, signature) \
         SELECT $1, n.kind, n.key_id, n.public_key, n.signature \
         FROM unnest($2::smallint[], $3::bigint[], $4::bytea[], $5::bytea[]) \
         AS n(kind, key_id, public_key, signature)",
    )
    .bind(device.0)
    .bind(kinds)
    .bind(ids)
    .bind(public_keys)
    .bind(signatures)
    .execute(tx)
    .await?;
    Ok(())
}
