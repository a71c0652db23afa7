//! Adding and replacing keys, and counting them.

use sqlx::{Error, FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit::{self, Event},
    bundles::LEFT,
    ledger,
    rows::{at, count, device_number, identity_key, missing, moment, signed_prekey},
    standing::lock_user,
};
use crate::{
    domain::{
        DeviceNo, DeviceNumber, KeyKind, KeyStats, LastingKeys, Pseudonyms, SecurityEvent, SignedPreKey,
        Timestamp, UserId,
    },
    store::{
        KeyUpload, Limits, Published,
        ledger::{Key, Lasting, Purpose, keys_of_upload},
    },
};

/// Runs the upload; anything but `Published` rolls back.
pub(super) async fn publish(
    pool: &PgPool,
    limits: Limits,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    upload: &KeyUpload,
    now: Timestamp,
) -> Result<Published, Error> {
    let mut tx = pool.begin().await?;
    let published = run(&mut tx, limits, pseudonyms, device, upload, now).await?;
    match published {
        Published::Published { .. } => tx.commit().await?,
        Published::KeyReused(..) | Published::TooMany(_) | Published::Gone => tx.rollback().await?,
    }
    Ok(published)
}

async fn run(
    tx: &mut PgConnection,
    limits: Limits,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    upload: &KeyUpload,
    now: Timestamp,
) -> Result<Published, Error> {
    let Some(owner) = lock_owner(tx, device).await? else { return Ok(Published::Gone) };
    let keys = keys_of_upload(upload);
    let ledger = ledger::read(tx, owner.user, Some(device), &keys).await?;
    let fresh = match ledger.fresh(&keys, owner.lasting) {
        Ok(fresh) => fresh,
        Err(reused) => return Ok(Published::KeyReused(reused.kind, reused.id)),
    };
    let (onetime, kem): (i64, i64) = sqlx::query_as(LEFT).bind(device.0).fetch_one(&mut *tx).await?;
    let mut counts = [count(onetime), count(kem)];
    for (kind, stored) in [KeyKind::OneTime, KeyKind::Kem].into_iter().zip(&mut counts) {
        let to_store = |key: &&&Key<'_>| key.kind == kind && key.purpose == Purpose::OneTime;
        let added = small(fresh.iter().filter(to_store).count());
        *stored = stored.saturating_add(added);
        if added > 0 && *stored > limits.max_prekeys {
            return Ok(Published::TooMany(kind));
        }
    }
    ledger::enter(tx, owner.user, device, &fresh).await?;
    let is_new = |purpose| fresh.iter().any(|key| key.purpose == purpose);
    if let Some(key) = upload.signed_prekey.as_ref().filter(|_| is_new(Purpose::Signed)) {
        replace_signed(tx, device, key, now).await?;
        let rotated = Event::of_device(SecurityEvent::KeyRotated, owner.device_number);
        audit::enter(&mut *tx, pseudonyms.of(owner.user), rotated, now).await?;
    }
    if let Some(key) = upload.last_resort_kem_prekey.as_ref().filter(|_| is_new(Purpose::LastResort)) {
        replace_last_resort(tx, device, key).await?;
    }
    let accepted = small(fresh.len());
    let already_known = small(keys.len()) - accepted;
    let [onetime_count, kem_count] = counts;
    Ok(Published::Published { accepted, already_known, onetime_count, kem_count })
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The active device whose keys change, and its current lasting keys.
pub(super) struct Owner {
    pub(super) user: UserId,
    pub(super) device_number: DeviceNumber,
    lasting: Lasting,
}

/// The user's row serialises uploads of all its devices: what one of them used must not come from another.
pub(super) async fn lock_owner(tx: &mut PgConnection, device: DeviceNo) -> Result<Option<Owner>, Error> {
    let found: Option<Uuid> = sqlx::query_scalar("SELECT user_id FROM devices WHERE device_no = $1")
        .bind(device.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(user) = found.map(UserId::new) else { return Ok(None) };
    lock_user(tx, user).await?;
    let mailbox = sqlx::query("SELECT FROM mailboxes WHERE device_no = $1 FOR UPDATE")
        .bind(device.0)
        .fetch_optional(&mut *tx)
        .await?;
    if mailbox.is_none() {
        return Ok(None);
    }
    let (number, signed, last_resort): (i16, _, _) = sqlx::query_as(
        "SELECT device_number, signed_prekey_id, last_resort_id FROM devices WHERE device_no = $1",
    )
    .bind(device.0)
    .fetch_one(tx)
    .await?;
    let lasting = Lasting { signed, last_resort };
    Ok(Some(Owner { user, device_number: device_number(number)?, lasting }))
}

async fn replace_signed(
    tx: &mut PgConnection,
    device: DeviceNo,
    key: &SignedPreKey,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET signed_prekey_id = $2, signed_prekey = $3, signed_prekey_signature = $4, \
            signed_prekey_at = $5 WHERE device_no = $1",
    )
    .bind(device.0)
    .bind(i64::from(key.id.get()))
    .bind(&*key.public_key)
    .bind(key.signature.as_slice())
    .bind(at(now))
    .execute(tx)
    .await?;
    Ok(())
}

async fn replace_last_resort(
    tx: &mut PgConnection,
    device: DeviceNo,
    key: &SignedPreKey,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET last_resort_id = $2, last_resort = $3, last_resort_signature = $4, \
            last_resort_used = false WHERE device_no = $1",
    )
    .bind(device.0)
    .bind(i64::from(key.id.get()))
    .bind(&*key.public_key)
    .bind(key.signature.as_slice())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn stats(
    pool: &PgPool,
    device: DeviceNo,
    now: Timestamp,
) -> Result<Option<KeyStats>, Error> {
    // A package that has ended has no body any more.
    let row: Option<(i64, i64, i64, i64, Option<OffsetDateTime>, bool)> = sqlx::query_as(
        "SELECT (SELECT count(*) FROM prekeys WHERE device_no = $1 AND kind = 1), \
            (SELECT count(*) FROM prekey_ledger WHERE device_no = $1 AND kind = 1), \
            (SELECT count(*) FROM prekeys WHERE device_no = $1 AND kind = 2), \
            (SELECT count(*) FROM key_packages \
                WHERE device_no = $1 AND state = 0 AND NOT last_resort AND not_after > $2), \
            signed_prekey_at, last_resort_used OR EXISTS (SELECT FROM key_packages \
                WHERE device_no = $1 AND state = 0 AND last_resort AND given) \
         FROM devices WHERE device_no = $1 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .bind(at(now))
    .fetch_optional(pool)
    .await?;
    let Some((unused, total, kem, packages, signed_at, last_resort_used)) = row else { return Ok(None) };
    Ok(Some(KeyStats {
        key_packages: count(packages),
        unused_prekeys: count(unused),
        total_prekeys: count(total),
        kem_prekeys: count(kem),
        signed_prekey_at: moment(signed_at.ok_or_else(missing)?),
        last_resort_used,
    }))
}

#[derive(FromRow)]
struct LastingRow {
    identity_key: Vec<u8>,
    signed_prekey_id: Option<i64>,
    signed_prekey: Option<Vec<u8>>,
    signed_prekey_signature: Option<Vec<u8>>,
    last_resort_id: Option<i64>,
    last_resort: Option<Vec<u8>>,
    last_resort_signature: Option<Vec<u8>>,
}

pub(super) async fn lasting(pool: &PgPool, device: DeviceNo) -> Result<Option<LastingKeys>, Error> {
    let row: Option<LastingRow> = sqlx::query_as(
        "SELECT identity_key, signed_prekey_id, signed_prekey, signed_prekey_signature, last_resort_id, \
            last_resort, last_resort_signature FROM devices WHERE device_no = $1 AND deactivated_at IS NULL",
    )
    .bind(device.0)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let signed = whole(row.signed_prekey_id, row.signed_prekey, row.signed_prekey_signature)?;
    Ok(Some(LastingKeys {
        identity_key: identity_key(&row.identity_key)?,
        signed_prekey: signed.ok_or_else(missing)?,
        last_resort_kem_prekey: whole(row.last_resort_id, row.last_resort, row.last_resort_signature)?,
    }))
}

fn whole(
    id: Option<i64>,
    public_key: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
) -> Result<Option<SignedPreKey>, Error> {
    let Some(id) = id else { return Ok(None) };
    signed_prekey(id, public_key.ok_or_else(missing)?, &signature.ok_or_else(missing)?).map(Some)
}
