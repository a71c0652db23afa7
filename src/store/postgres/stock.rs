//! The stock of MLS keys and key packages: which may come, and how they are entered.

use std::collections::{HashMap, HashSet};

use sqlx::{Error, FromRow, PgConnection};

use super::rows::{at, corrupt, digest};
use crate::{
    domain::{DeviceNo, KeyPackage, MlsSignatureKey, SignatureScheme, UserId},
    store::{PackagePlace, PackageUpload},
};

/// A package of an upload.
#[derive(Clone)]
pub(super) struct Named<'a> {
    place: PackagePlace,
    package: &'a KeyPackage,
    /// BLAKE3 of its body.
    digest: [u8; 32],
}

impl Named<'_> {
    pub(super) fn is_onetime(&self) -> bool {
        match self.place {
            PackagePlace::OneTime(_) => true,
            PackagePlace::LastResort => false,
        }
    }
}

/// Every package of an upload, in the order in which they are looked at.
pub(super) fn in_order(upload: &PackageUpload) -> Vec<Named<'_>> {
    let onetime =
        upload.packages.iter().enumerate().map(|(index, package)| (PackagePlace::OneTime(index), package));
    let last_resort = upload.last_resort.iter().map(|package| (PackagePlace::LastResort, package));
    onetime
        .chain(last_resort)
        .map(|(place, package)| Named { place, package, digest: blake3::hash(&package.body).into() })
        .collect()
}

/// Why packages may not come: the first that must not.
pub(super) enum Refusal {
    KeyUnknown(PackagePlace),
    Reused(PackagePlace),
}

#[derive(FromRow)]
struct HeldRow {
    reference: Vec<u8>,
    device_no: i64,
    init_key_digest: Vec<u8>,
    body_digest: Vec<u8>,
}

pub(crate) const HELD: &str = "\
    SELECT reference, device_no, init_key_digest, body_digest FROM key_packages WHERE reference = ANY($1) UNION \
    SELECT reference, device_no, init_key_digest, body_digest FROM key_packages \
    WHERE user_id = $2 AND init_key_digest = ANY($3)";

/// Those that are new, under the lock of the user's row; or the first that must not come.
pub(super) async fn fresh<'a>(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    named: &[Named<'a>],
) -> Result<Result<Vec<Named<'a>>, Refusal>, Error> {
    let rows: Vec<HeldRow> = sqlx::query_as(HELD)
        .bind(named.iter().map(|named| named.package.reference.0.as_slice()).collect::<Vec<_>>())
        .bind(user.uuid())
        .bind(named.iter().map(|named| named.package.init_key_digest.as_slice()).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
    let mut known: HashMap<[u8; 32], (i64, [u8; 32])> = HashMap::new();
    let mut init_keys: HashSet<[u8; 32]> = HashSet::new();
    for row in rows {
        known.insert(digest(&row.reference)?, (row.device_no, digest(&row.body_digest)?));
        init_keys.insert(digest(&row.init_key_digest)?);
    }
    let keys = current_keys(tx, device).await?;
    let mut fresh = Vec::with_capacity(named.len());
    for named in named {
        let (package, place) = (named.package, named.place);
        match known.get(&package.reference.0) {
            Some(held) if *held == (device.0, named.digest) => continue,
            Some(_) => return Ok(Err(Refusal::Reused(place))),
            None => {}
        }
        if keys.get(&package.cipher_suite.signature_scheme()) != Some(&package.signature_key.to_vec()) {
            return Ok(Err(Refusal::KeyUnknown(place)));
        }
        if !init_keys.insert(package.init_key_digest) {
            return Ok(Err(Refusal::Reused(place)));
        }
        known.insert(package.reference.0, (device.0, named.digest));
        fresh.push(named.clone());
    }
    Ok(Ok(fresh))
}

async fn current_keys(
    tx: &mut PgConnection,
    device: DeviceNo,
) -> Result<HashMap<SignatureScheme, Vec<u8>>, Error> {
    let rows: Vec<(i16, Vec<u8>)> =
        sqlx::query_as("SELECT scheme, public_key FROM mls_keys WHERE device_no = $1 AND current")
            .bind(device.0)
            .fetch_all(tx)
            .await?;
    let key =
        |(scheme, key): (i16, Vec<u8>)| Ok((SignatureScheme::new(scheme.into()).map_err(corrupt)?, key));
    rows.into_iter().map(key).collect()
}

/// Enters new packages. A last-resort one takes the place of the one of its suite, which may still enter groups.
pub(super) async fn enter(
    tx: &mut PgConnection,
    user: UserId,
    device: DeviceNo,
    fresh: &[Named<'_>],
) -> Result<(), Error> {
    if fresh.is_empty() {
        return Ok(());
    }
    let suite = |named: &Named<'_>| i16::try_from(named.package.cipher_suite.number()).map_err(corrupt);
    let suites = fresh.iter().map(suite).collect::<Result<Vec<_>, _>>()?;
    let replaced: Vec<i16> =
        fresh.iter().zip(&suites).filter(|(named, _)| !named.is_onetime()).map(|(_, suite)| *suite).collect();
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
    .bind(fresh.iter().map(|named| named.package.reference.0.as_slice()).collect::<Vec<_>>())
    .bind(suites)
    .bind(fresh.iter().map(|named| !named.is_onetime()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|named| &*named.package.signature_key).collect::<Vec<_>>())
    .bind(fresh.iter().map(|named| named.package.init_key_digest.as_slice()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|named| named.digest.as_slice()).collect::<Vec<_>>())
    .bind(fresh.iter().map(|named| at(named.package.not_after)).collect::<Vec<_>>())
    .bind(fresh.iter().map(|named| &*named.package.body).collect::<Vec<_>>())
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
