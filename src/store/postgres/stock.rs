//! The stock of MLS keys and key packages: which may come, and how they are entered.

use sqlx::{Error, FromRow, PgConnection, PgExecutor};

use super::rows::{at, corrupt, device_numbers, digest, missing, signature};
use crate::{
    domain::{DeviceNo, KeyPackageRef, MlsSignatureKey, SignatureScheme, UserId},
    store::package_ledger::{Offered, PackageLedger, Refused},
};

#[derive(FromRow)]
struct HeldRow {
    reference: Vec<u8>,
    device_no: i64,
    is_users: bool,
    init_key_digest: Vec<u8>,
    body_digest: Vec<u8>,
}

pub(crate) const HELD: &str = "\
    SELECT reference, device_no, user_id = $2 AS is_users, init_key_digest, body_digest FROM key_packages \
    WHERE reference = ANY($1) UNION ALL \
    SELECT reference, device_no, true, init_key_digest, body_digest FROM key_packages \
    WHERE user_id = $2 AND init_key_digest = ANY($3)";

/// Those of a device's packages that are new, under the lock of its user's row; or the first that must not come.
pub(super) async fn fresh<'k, 'a>(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    offered: &'k [Offered<'a>],
) -> Result<Result<Vec<&'k Offered<'a>>, Refused>, Error> {
    let rows: Vec<HeldRow> = sqlx::query_as(HELD)
        .bind(offered.iter().map(|one| one.package.reference.0.as_slice()).collect::<Vec<_>>())
        .bind(user.uuid())
        .bind(offered.iter().map(|one| one.package.init_key_digest.as_slice()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    let mut ledger = PackageLedger::default();
    for row in rows {
        let reference = KeyPackageRef(digest(&row.reference)?);
        if row.device_no == device.0 {
            ledger.hold_own(reference, digest(&row.body_digest)?);
        } else {
            ledger.hold_foreign(reference);
        }
        if row.is_users {
            ledger.hold_init_key(digest(&row.init_key_digest)?);
        }
    }
    let keys: Vec<MlsSignatureKey> = keys_of(tx, &[device]).await?.into_iter().map(|(_, key)| key).collect();
    Ok(ledger.fresh(offered, &keys))
}

/// The current signature keys of these devices, by device and scheme.
pub(super) async fn keys_of(
    executor: impl PgExecutor<'_>,
    devices: &[DeviceNo],
) -> Result<Vec<(DeviceNo, MlsSignatureKey)>, Error> {
    type Row = (i64, i16, Vec<u8>, Option<Vec<u8>>);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT device_no, scheme, public_key, signature FROM mls_keys \
         WHERE device_no = ANY($1) AND current ORDER BY device_no, scheme",
    )
    .bind(device_numbers(devices))
    .fetch_all(executor)
    .await?;
    let key = |(device, scheme, public_key, signed): (i64, i16, Vec<u8>, Option<Vec<u8>>)| {
        let key = MlsSignatureKey {
            scheme: SignatureScheme::new(scheme.into()).map_err(corrupt)?,
            public_key: public_key.into(),
            signature: signature(&signed.ok_or_else(missing)?)?,
        };
        Ok((DeviceNo(device), key))
    };
    rows.into_iter().map(key).collect()
}

/// Enters new packages. A last-resort one takes the place of the one of its suite, which may still enter groups.
pub(super) async fn enter(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    fresh: &[&Offered<'_>],
) -> Result<(), Error> {
    if fresh.is_empty() {
        return Ok(());
    }
    let suite = |one: &&Offered<'_>| i16::try_from(one.package.cipher_suite.number()).map_err(corrupt);
    let suites = fresh.iter().map(suite).collect::<Result<Vec<_>, _>>()?;
    let replaced: Vec<i16> =
        fresh.iter().zip(&suites).filter(|(one, _)| one.is_last_resort()).map(|(_, suite)| *suite).collect();
    if !replaced.is_empty() {
        sqlx::query(
            "UPDATE key_packages SET state = 1, body = NULL \
             WHERE device_no = $1 AND cipher_suite = ANY($2) AND last_resort AND state = 0",
        )
        .bind(device.0)
        .bind(replaced)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query(
        "INSERT INTO key_packages (reference, device_no, user_id, cipher_suite, last_resort, signature_key, \
            init_key_digest, body_digest, not_after, body) \
         SELECT n.reference, $1, $2, n.cipher_suite, n.last_resort, n.signature_key, n.init_key_digest, \
            n.body_digest, n.not_after, n.body \
         FROM unnest($3::bytea[], $4::smallint[], $5::boolean[], $6::bytea[], $7::bytea[], $8::bytea[], \
            $9::timestamptz[], $10::bytea[]) WITH ORDINALITY \
         AS n(reference, cipher_suite, last_resort, signature_key, init_key_digest, body_digest, not_after, \
            body, place) ORDER BY n.place",
    )
    .bind(device.0)
    .bind(user.uuid())
    .bind(fresh.iter().map(|one| one.package.reference.0.as_slice()).collect::<Vec<_>>())
    .bind(suites)
    .bind(fresh.iter().map(|one| one.is_last_resort()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|one| &*one.package.signature_key).collect::<Vec<_>>())
    .bind(fresh.iter().map(|one| one.package.init_key_digest.as_slice()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|one| one.digest.as_slice()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|one| at(one.package.not_after)).collect::<Vec<_>>())
    .bind(fresh.iter().map(|one| &*one.package.body).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Enters a signature key of a device. False when it is, or was, a key of some device.
pub(super) async fn enter_key(
    tx: &mut PgConnection,
    device: DeviceNo,
    key: &MlsSignatureKey,
) -> Result<bool, Error> {
    let entered = sqlx::query(
        "INSERT INTO mls_keys (public_key, device_no, scheme, signature) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (public_key) DO NOTHING",
    )
    .bind(&*key.public_key)
    .bind(device.0)
    .bind(key.scheme as i16)
    .bind(key.signature.as_slice())
    .execute(tx)
    .await?;
    Ok(entered.rows_affected() == 1)
}
