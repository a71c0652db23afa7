//! Key packages: published, handed out, looked up.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use sqlx::{QueryBuilder, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Context, ROWS_AT_ONCE, SqliteStore, keys, mls_keys, rows};
use crate::{
    domain::{Caller, CipherSuite, DeviceNo, KeyPackageRef, MlsSignatureKey, Timestamp, UserId},
    store::{
        ClaimedPackage, IssuedPackage, MlsKeySet, OneTimeKeys, PackageActs, PackageUpload, PackagesPublished,
        StoreError,
        package_ledger::{Offered, PackageLedger, Refused, offered},
    },
};

#[async_trait]
impl PackageActs for SqliteStore {
    async fn set_mls_key(
        &self,
        device: DeviceNo,
        key: MlsSignatureKey,
        now: Timestamp,
    ) -> Result<MlsKeySet, StoreError> {
        let context = self.context(now);
        self.write(move |tx| mls_keys::set(tx, device, key, context).boxed()).await
    }

    async fn publish_packages(
        &self,
        device: DeviceNo,
        upload: PackageUpload,
        now: Timestamp,
    ) -> Result<PackagesPublished, StoreError> {
        let context = self.context(now);
        self.write(move |tx| publish(tx, device, upload, context).boxed()).await
    }

    async fn claim_packages(
        &self,
        user: UserId,
        suite: CipherSuite,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
        now: Timestamp,
    ) -> Result<Vec<ClaimedPackage>, StoreError> {
        self.write(move |tx| claim(tx, user, suite, except, onetime, now).boxed()).await
    }

    async fn issued_packages(&self, references: &[KeyPackageRef]) -> Result<Vec<IssuedPackage>, StoreError> {
        let references = rows::blobs(references.iter().map(|reference| reference.0.as_slice()));
        self.read(|conn| issued(conn, references).boxed()).await
    }
}

async fn publish(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    upload: PackageUpload,
    context: Context,
) -> Result<PackagesPublished, sqlx::Error> {
    let Some(owner) = keys::owner(tx, device).await? else { return Ok(PackagesPublished::Gone) };
    let offered = offered(&upload);
    let known = known(tx, owner.user, Some(device), &offered).await?;
    let fresh = match known.fresh(&offered, &mls_keys::of(tx, device).await?) {
        Ok(fresh) => fresh,
        Err(Refused::SignatureKeyUnknown(place)) => return Ok(PackagesPublished::SignatureKeyUnknown(place)),
        Err(Refused::Reused(place)) => return Ok(PackagesPublished::Reused(place)),
    };
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let added = number(fresh.iter().filter(|offered| !offered.is_last_resort()).count());
    let stored = stored(tx, device, context.now).await?;
    if added > 0 && stored.saturating_add(added) > context.limits.max_prekeys {
        return Ok(PackagesPublished::TooMany);
    }
    insert(tx, owner.user, device, &fresh).await?;
    Ok(PackagesPublished::Published {
        accepted: number(fresh.len()),
        already_known: number(offered.len() - fresh.len()),
        count: self::stored(tx, device, context.now).await?,
        has_last_resort: has_last_resort(tx, device, context.now).await?,
    })
}

/// What is known about the packages of an upload. `device` is the incarnation they are for, if it exists already.
pub(super) async fn known(
    tx: &mut SqliteConnection,
    user: UserId,
    device: Option<DeviceNo>,
    offered: &[Offered<'_>],
) -> Result<PackageLedger, sqlx::Error> {
    let mut ledger = PackageLedger::default();
    let references = offered.iter().map(|one| one.package.reference.0.as_slice());
    let found = sqlx::query(
        "SELECT reference, device_no, body_digest FROM key_packages \
         WHERE reference IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(rows::blobs(references))
    .fetch_all(&mut *tx)
    .await?;
    for row in found {
        let reference = KeyPackageRef(rows::digest(row.try_get("reference")?)?);
        if Some(rows::device_no(&row, "device_no")?) == device {
            ledger.hold_own(reference, rows::digest(row.try_get("body_digest")?)?);
        } else {
            ledger.hold_foreign(reference);
        }
    }
    let init_keys = offered.iter().map(|one| one.package.init_key_digest.as_slice());
    let found = sqlx::query(
        "SELECT init_key_digest FROM key_packages \
         WHERE user_id = ? AND init_key_digest IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(user.uuid())
    .bind(rows::blobs(init_keys))
    .fetch_all(tx)
    .await?;
    for row in found {
        ledger.hold_init_key(rows::digest(row.try_get("init_key_digest")?)?);
    }
    Ok(ledger)
}

/// Enters new packages; a last-resort one takes the place of the current one of its suite.
pub(super) async fn insert(
    tx: &mut SqliteConnection,
    user: UserId,
    device: DeviceNo,
    fresh: &[&Offered<'_>],
) -> Result<(), sqlx::Error> {
    for one in fresh.iter().filter(|one| one.is_last_resort()) {
        replace_last_resort(tx, device, one.package.cipher_suite).await?;
    }
    for chunk in fresh.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::new(
            "INSERT INTO key_packages (reference, device_no, user_id, cipher_suite, last_resort, \
             signature_key, init_key_digest, body_digest, not_after, body) ",
        );
        insert.push_values(chunk, |mut row, one| {
            let package = one.package;
            row.push_bind(package.reference.0.to_vec()).push_bind(device.0).push_bind(user.uuid());
            row.push_bind(i64::from(package.cipher_suite.number())).push_bind(one.is_last_resort());
            row.push_bind(package.signature_key.to_vec()).push_bind(package.init_key_digest.to_vec());
            row.push_bind(one.digest.to_vec()).push_bind(package.not_after.millis());
            row.push_bind(package.body.to_vec());
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    Ok(())
}

/// The one before may still enter groups.
async fn replace_last_resort(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    suite: CipherSuite,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE key_packages SET state = 1, body = NULL \
         WHERE device_no = ? AND cipher_suite = ? AND last_resort AND state = 0",
    )
    .bind(device.0)
    .bind(i64::from(suite.number()))
    .execute(tx)
    .await?;
    Ok(())
}

/// How many one-time packages of a device are stored and have not ended.
pub(super) async fn stored(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    now: Timestamp,
) -> Result<u32, sqlx::Error> {
    let stored: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM key_packages \
         WHERE device_no = ? AND NOT last_resort AND state = 0 AND not_after > ?",
    )
    .bind(device.0)
    .bind(now.millis())
    .fetch_one(conn)
    .await?;
    Ok(rows::count(stored))
}

async fn has_last_resort(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM key_packages \
         WHERE device_no = ? AND last_resort AND state = 0 AND not_after > ?)",
    )
    .bind(device.0)
    .bind(now.millis())
    .fetch_one(tx)
    .await
}

/// Drops the packages of a device that are signed by a key, and says how many could still be handed out.
pub(super) async fn drop_of_key(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    key: &Bytes,
) -> Result<u32, sqlx::Error> {
    let mut dropped = 0;
    for drop in [
        "UPDATE key_packages SET state = 3 WHERE device_no = ? AND signature_key = ? AND state = 1",
        "UPDATE key_packages SET state = 3, body = NULL WHERE device_no = ? AND signature_key = ? AND state = 0",
    ] {
        dropped =
            sqlx::query(drop).bind(device.0).bind(key.to_vec()).execute(&mut *tx).await?.rows_affected();
    }
    Ok(u32::try_from(dropped).unwrap_or(u32::MAX))
}

/// Drops every package of a device.
pub(super) async fn drop_all(tx: &mut SqliteConnection, device: DeviceNo) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE key_packages SET state = 3, body = NULL WHERE device_no = ? AND state IN (0, 1)")
        .bind(device.0)
        .execute(tx)
        .await?;
    Ok(())
}

async fn claim(
    tx: &mut SqliteConnection,
    user: UserId,
    suite: CipherSuite,
    except: Option<DeviceNo>,
    onetime: OneTimeKeys,
    now: Timestamp,
) -> Result<Vec<ClaimedPackage>, sqlx::Error> {
    let owners = sqlx::query(
        "SELECT device_no, user_id, device_id, device_number FROM devices \
         WHERE user_id = ? AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .try_map(|row: SqliteRow| rows::caller(&row))
    .fetch_all(&mut *tx)
    .await?;
    let mut claimed = Vec::with_capacity(owners.len());
    for owner in owners.into_iter().filter(|owner| Some(owner.device_no) != except) {
        claimed.extend(take(tx, owner, suite, onetime, now).await?);
    }
    Ok(claimed)
}

/// Takes one package of a device, if it has one.
async fn take(
    tx: &mut SqliteConnection,
    owner: Caller,
    suite: CipherSuite,
    onetime: OneTimeKeys,
    now: Timestamp,
) -> Result<Option<ClaimedPackage>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT package_no, last_resort, body, \
         (SELECT count(*) FROM key_packages s WHERE s.device_no = p.device_no \
          AND s.cipher_suite = p.cipher_suite AND NOT s.last_resort AND s.state = 0 AND s.not_after > ?3) AS stored \
         FROM key_packages p WHERE device_no = ?1 AND cipher_suite = ?2 AND state = 0 AND not_after > ?3 \
         AND (last_resort OR ?4) ORDER BY last_resort, package_no LIMIT 1",
    )
    .bind(owner.device_no.0)
    .bind(i64::from(suite.number()))
    .bind(now.millis())
    .bind(onetime == OneTimeKeys::Given)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let is_last_resort: bool = row.try_get("last_resort")?;
    let give = if is_last_resort {
        "UPDATE key_packages SET given = 1 WHERE package_no = ?"
    } else {
        "UPDATE key_packages SET given = 1, state = 1, body = NULL WHERE package_no = ?"
    };
    sqlx::query(give).bind(row.try_get::<i64, _>("package_no")?).execute(tx).await?;
    let stored = rows::count(row.try_get("stored")?);
    Ok(Some(ClaimedPackage {
        owner,
        package: Bytes::copy_from_slice(row.try_get("body")?),
        is_last_resort,
        left: stored.saturating_sub(u32::from(!is_last_resort)),
    }))
}

/// Whether the package `p` may enter a group. Those of former keys are dropped.
macro_rules! usable {
    () => {
        "(p.state = 1 OR p.last_resort AND p.state = 0)"
    };
}
pub(super) use usable;

async fn issued(conn: &mut SqliteConnection, references: String) -> Result<Vec<IssuedPackage>, sqlx::Error> {
    const ISSUED: &str = concat!(
        "SELECT p.reference, p.cipher_suite, ",
        usable!(),
        " AS usable, d.deactivated_at IS NULL AS active, d.device_no, d.user_id, d.device_id, d.device_number \
         FROM key_packages p JOIN devices d ON d.device_no = p.device_no \
         WHERE p.reference IN (SELECT unhex(value) FROM json_each(?)) ORDER BY p.package_no",
    );
    sqlx::query(ISSUED)
        .bind(references)
        .try_map(|row: SqliteRow| {
            Ok(IssuedPackage {
                reference: KeyPackageRef(rows::digest(row.try_get("reference")?)?),
                owner: rows::caller(&row)?,
                active: row.try_get("active")?,
                cipher_suite: rows::valid(CipherSuite::new(row.try_get("cipher_suite")?))?,
                usable: row.try_get("usable")?,
            })
        })
        .fetch_all(conn)
        .await
}
