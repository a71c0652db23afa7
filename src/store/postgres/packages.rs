//! MLS keys and key packages.

use async_trait::async_trait;
use sqlx::{Error, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    PostgresStore,
    audit::{self, Event},
    fault::{Repeat, attempt},
    publish::lock_owner,
    rows::{at, corrupt, count, device_id, device_number, digest},
    stock,
};
use crate::{
    domain::{
        Caller, CipherSuite, DeviceNo, KeyPackageRef, MlsSignatureKey, Pseudonyms, SecurityEvent, Timestamp,
        UserId,
    },
    store::{
        ClaimedPackage, IssuedPackage, Limits, MlsKeySet, OneTimeKeys, PackageActs, PackageUpload,
        PackagesPublished, StoreError,
        package_ledger::{Refused, offered},
    },
};

#[async_trait]
impl PackageActs for PostgresStore {
    async fn set_mls_key(
        &self,
        device: DeviceNo,
        key: MlsSignatureKey,
        now: Timestamp,
    ) -> Result<MlsKeySet, StoreError> {
        let act = || set_key(&self.pool, &self.pseudonyms, device, &key, now);
        attempt(Repeat::WhenUndone, act).await
    }

    async fn publish_packages(
        &self,
        device: DeviceNo,
        upload: PackageUpload,
        now: Timestamp,
    ) -> Result<PackagesPublished, StoreError> {
        attempt(Repeat::Always, || publish(&self.pool, self.limits, device, &upload, now)).await
    }

    async fn claim_packages(
        &self,
        user: UserId,
        suite: CipherSuite,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
        now: Timestamp,
    ) -> Result<Vec<ClaimedPackage>, StoreError> {
        let act = || claim(&self.pool, user, suite, (except, onetime), now);
        attempt(Repeat::WhenUndone, act).await
    }

    async fn issued_packages(&self, references: &[KeyPackageRef]) -> Result<Vec<IssuedPackage>, StoreError> {
        attempt(Repeat::Always, || issued(&self.pool, references)).await
    }
}

/// Sets the key; anything but `Set` rolls back.
async fn set_key(
    pool: &PgPool,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    key: &MlsSignatureKey,
    now: Timestamp,
) -> Result<MlsKeySet, Error> {
    let mut tx = pool.begin().await?;
    let Some(owner) = lock_owner(&mut tx, device).await? else { return Ok(MlsKeySet::Gone) };
    let known: Option<(i64, bool)> =
        sqlx::query_as("SELECT device_no, current FROM mls_keys WHERE public_key = $1")
            .bind(&*key.public_key)
            .fetch_optional(&mut *tx)
            .await?;
    if let Some((holder, current)) = known {
        let same = holder == device.0 && current;
        return Ok(if same { MlsKeySet::Set(0) } else { MlsKeySet::Reused });
    }
    let former: Option<Vec<u8>> = sqlx::query_scalar(
        "UPDATE mls_keys SET current = false, signature = NULL \
         WHERE device_no = $1 AND scheme = $2 AND current RETURNING public_key",
    )
    .bind(device.0)
    .bind(key.scheme as i16)
    .fetch_optional(&mut *tx)
    .await?;
    if !stock::enter_key(&mut tx, device, key).await? {
        return Ok(MlsKeySet::Reused);
    }
    let mut dropped = 0;
    if let Some(former) = former {
        dropped = drop_packages(&mut tx, device, &former).await?;
        let rotated = Event::of_device(SecurityEvent::KeyRotated, owner.device_number);
        audit::enter(&mut *tx, pseudonyms.of(owner.user), rotated, now).await?;
    }
    tx.commit().await?;
    Ok(MlsKeySet::Set(dropped))
}

/// Drops every package of a former key, and counts those that were still to be handed out.
async fn drop_packages(tx: &mut PgConnection, device: DeviceNo, former: &[u8]) -> Result<u32, Error> {
    let stored: i64 = sqlx::query_scalar(
        "WITH dropped AS ( \
            SELECT reference, state FROM key_packages \
            WHERE device_no = $1 AND signature_key = $2 AND state IN (0, 1) ORDER BY reference FOR UPDATE \
         ), gone AS ( \
            UPDATE key_packages SET state = 3, body = NULL \
            WHERE reference = ANY(ARRAY(SELECT reference FROM dropped))) \
         SELECT count(*) FROM dropped WHERE state = 0",
    )
    .bind(device.0)
    .bind(former)
    .fetch_one(tx)
    .await?;
    Ok(count(stored))
}

/// Runs the upload; anything but `Published` rolls back.
async fn publish(
    pool: &PgPool,
    limits: Limits,
    device: DeviceNo,
    upload: &PackageUpload,
    now: Timestamp,
) -> Result<PackagesPublished, Error> {
    let offered = offered(upload);
    let mut tx = pool.begin().await?;
    let Some(owner) = lock_owner(&mut tx, device).await? else { return Ok(PackagesPublished::Gone) };
    let fresh = match stock::fresh(&mut tx, owner.user, device, &offered).await? {
        Ok(fresh) => fresh,
        Err(Refused::SignatureKeyUnknown(place)) => return Ok(PackagesPublished::SignatureKeyUnknown(place)),
        Err(Refused::Reused(place)) => return Ok(PackagesPublished::Reused(place)),
    };
    stock::enter(&mut tx, owner.user, device, &fresh).await?;
    let (onetime, lasting): (i64, i64) =
        sqlx::query_as(STOCK).bind(device.0).bind(at(now)).fetch_one(&mut *tx).await?;
    let adds = fresh.iter().any(|one| !one.is_last_resort());
    if adds && onetime > i64::from(limits.max_prekeys) {
        return Ok(PackagesPublished::TooMany);
    }
    tx.commit().await?;
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(PackagesPublished::Published {
        accepted: small(fresh.len()),
        already_known: small(offered.len() - fresh.len()),
        count: count(onetime),
        has_last_resort: lasting > 0,
    })
}

/// One-time packages, and last-resort ones, that may be handed out.
const STOCK: &str = "\
    SELECT count(*) FILTER (WHERE NOT last_resort), count(*) FILTER (WHERE last_resort) FROM key_packages \
    WHERE device_no = $1 AND state = 0 AND not_after > $2";

/// The first that nobody else is taking right now: takers pass each other by rather than queue up.
pub(crate) const TAKE: &str = "\
    WITH taken AS ( \
        SELECT reference, body FROM key_packages \
        WHERE device_no = $1 AND cipher_suite = $2 AND NOT last_resort AND state = 0 AND not_after > $3 \
        ORDER BY package_no LIMIT 1 FOR UPDATE SKIP LOCKED \
    ), marked AS ( \
        UPDATE key_packages p SET state = 1, given = true, body = NULL FROM taken t WHERE p.reference = t.reference) \
    SELECT body FROM taken";

const LAST_RESORT: &str = "\
    SELECT reference, body, given FROM key_packages \
    WHERE device_no = $1 AND cipher_suite = $2 AND last_resort AND state = 0 AND not_after > $3 \
    ORDER BY package_no DESC LIMIT 1";

const LEFT: &str = "\
    SELECT count(*) FROM key_packages \
    WHERE device_no = $1 AND cipher_suite = $2 AND NOT last_resort AND state = 0 AND not_after > $3";

#[derive(FromRow)]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
struct OwnerRow {
    device_no: i64,
    device_id: String,
    device_number: i16,
}

async fn claim(
    pool: &PgPool,
    user: UserId,
    suite: CipherSuite,
    (except, onetime): (Option<DeviceNo>, OneTimeKeys),
    now: Timestamp,
) -> Result<Vec<ClaimedPackage>, Error> {
    let mut tx = pool.begin().await?;
    let owners: Vec<OwnerRow> = sqlx::query_as(
        "SELECT device_no, device_id, device_number FROM devices \
         WHERE user_id = $1 AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .fetch_all(&mut *tx)
    .await?;
    let mut claimed = Vec::with_capacity(owners.len());
    for row in owners {
        let owner = Caller {
            user_id: user,
            device_id: device_id(&row.device_id)?,
            device_number: device_number(row.device_number)?,
            device_no: DeviceNo(row.device_no),
        };
        if Some(owner.device_no) != except {
            claimed.extend(take(&mut tx, owner, suite, onetime, now).await?);
        }
    }
    tx.commit().await?;
    Ok(claimed)
}

fn number(suite: CipherSuite) -> Result<i16, Error> {
    i16::try_from(suite.number()).map_err(corrupt)
}

/// A package of one device; none when it has none of this suite.
async fn take(
    tx: &mut PgConnection,
    owner: Caller,
    suite: CipherSuite,
    onetime: OneTimeKeys,
    now: Timestamp,
) -> Result<Option<ClaimedPackage>, Error> {
    let (device, suite) = (owner.device_no.0, number(suite)?);
    let taken: Option<Option<Vec<u8>>> = match onetime {
        OneTimeKeys::Given => {
            sqlx::query_scalar(TAKE).bind(device).bind(suite).bind(at(now)).fetch_optional(&mut *tx).await?
        }
        OneTimeKeys::Withheld => None,
    };
    let taken = taken.flatten();
    let is_last_resort = taken.is_none();
    let package = match taken {
        Some(body) => Some(body),
        None => take_last_resort(tx, device, suite, now).await?,
    };
    let Some(package) = package else { return Ok(None) };
    let left: i64 =
        sqlx::query_scalar(LEFT).bind(device).bind(suite).bind(at(now)).fetch_one(&mut *tx).await?;
    Ok(Some(ClaimedPackage { owner, package: package.into(), is_last_resort, left: count(left) }))
}

/// Written once for each last-resort package, so that takers do not queue up for its row.
async fn take_last_resort(
    tx: &mut PgConnection,
    device: i64,
    suite: i16,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, Error> {
    let found: Option<(Vec<u8>, Option<Vec<u8>>, bool)> =
        sqlx::query_as(LAST_RESORT).bind(device).bind(suite).bind(at(now)).fetch_optional(&mut *tx).await?;
    let Some((reference, body, given)) = found else { return Ok(None) };
    if !given {
        sqlx::query("UPDATE key_packages SET given = true WHERE reference = $1 AND NOT given")
            .bind(reference)
            .execute(tx)
            .await?;
    }
    Ok(body)
}

#[derive(FromRow)]
struct IssuedRow {
    reference: Vec<u8>,
    user_id: Uuid,
    device_no: i64,
    device_id: String,
    device_number: i16,
    active: bool,
    cipher_suite: i16,
    usable: bool,
}

pub(crate) const ISSUED: &str = "\
    SELECT p.reference, d.user_id, d.device_no, d.device_id, d.device_number, \
        d.deactivated_at IS NULL AS active, p.cipher_suite, \
        (p.state = 1 OR (p.state = 0 AND p.last_resort)) AS usable \
    FROM key_packages p JOIN devices d ON d.device_no = p.device_no WHERE p.reference = ANY($1)";

async fn issued(pool: &PgPool, references: &[KeyPackageRef]) -> Result<Vec<IssuedPackage>, Error> {
    let references: Vec<&[u8]> = references.iter().map(|reference| reference.0.as_slice()).collect();
    let rows: Vec<IssuedRow> = sqlx::query_as(ISSUED).bind(references).fetch_all(pool).await?;
    let package = |row: IssuedRow| {
        Ok(IssuedPackage {
            reference: KeyPackageRef(digest(&row.reference)?),
            owner: Caller {
                user_id: UserId::new(row.user_id),
                device_id: device_id(&row.device_id)?,
                device_number: device_number(row.device_number)?,
                device_no: DeviceNo(row.device_no),
            },
            active: row.active,
            cipher_suite: CipherSuite::new(row.cipher_suite.into()).map_err(corrupt)?,
            usable: row.usable,
        })
    };
    rows.into_iter().map(package).collect()
}
