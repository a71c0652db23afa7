//! Taking bundles.

use sqlx::{Error, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::rows::{
    LinkedByRow, count, device_id, device_number, identity_key, missing, onetime_prekey, registration_id,
    signed_prekey,
};
use crate::{
    domain::{Bundle, DeviceId, DeviceNo, KeyKind, OneTimePreKey, SignedPreKey, UserId},
    store::{OneTimeKeys, TakenBundle},
};

/// The lowest key that nobody else is taking right now: takers pass each other by rather than queue up.
pub(crate) const TAKE: &str = "\
    DELETE FROM prekeys WHERE (device_no, kind, key_id) = ( \
        SELECT device_no, kind, key_id FROM prekeys WHERE device_no = $1 AND kind = $2 \
        ORDER BY key_id LIMIT 1 FOR UPDATE SKIP LOCKED) \
    RETURNING key_id, public_key, signature";

pub(crate) const LEFT: &str = "\
    SELECT count(*) FILTER (WHERE kind = 1), count(*) FILTER (WHERE kind = 2) FROM prekeys WHERE device_no = $1";

const OWNERS: &str = "\
    SELECT device_no, user_id, device_id, device_number, registration_id, identity_key, linked_by_device_id, \
        linked_by_identity_key, linked_by_signature, signed_prekey_id, signed_prekey, signed_prekey_signature, \
        last_resort_id, last_resort, last_resort_signature, last_resort_used \
    FROM devices WHERE user_id = $1 AND deactivated_at IS NULL AND ($2::text IS NULL OR device_id = $2) \
    ORDER BY device_no LIMIT $3";

#[derive(FromRow)]
struct OwnerRow {
    device_no: i64,
    user_id: Uuid,
    device_id: String,
    device_number: i16,
    registration_id: i32,
    identity_key: Vec<u8>,
    #[sqlx(flatten)]
    linked_by: LinkedByRow,
    signed_prekey_id: Option<i64>,
    signed_prekey: Option<Vec<u8>>,
    signed_prekey_signature: Option<Vec<u8>>,
    last_resort_id: Option<i64>,
    last_resort: Option<Vec<u8>>,
    last_resort_signature: Option<Vec<u8>>,
    last_resort_used: bool,
}

#[derive(FromRow)]
struct TakenRow {
    key_id: i64,
    public_key: Vec<u8>,
    signature: Option<Vec<u8>>,
}

pub(super) async fn take_one(
    pool: &PgPool,
    user: UserId,
    device: Option<&DeviceId>,
    onetime: OneTimeKeys,
) -> Result<Option<TakenBundle>, Error> {
    let mut tx = pool.begin().await?;
    let Some(owner) = owners(&mut tx, user, device, 1).await?.pop() else { return Ok(None) };
    let taken = take(&mut tx, owner, onetime).await?;
    tx.commit().await?;
    Ok(Some(taken))
}

pub(super) async fn take_all(
    pool: &PgPool,
    user: UserId,
    except: Option<DeviceNo>,
    onetime: OneTimeKeys,
) -> Result<Option<Vec<TakenBundle>>, Error> {
    let mut tx = pool.begin().await?;
    let owners = owners(&mut tx, user, None, i64::MAX).await?;
    if owners.is_empty() {
        return Ok(None);
    }
    let mut bundles = Vec::with_capacity(owners.len());
    for owner in owners {
        if Some(DeviceNo(owner.device_no)) != except {
            bundles.push(take(&mut tx, owner, onetime).await?);
        }
    }
    tx.commit().await?;
    Ok(Some(bundles))
}

async fn owners(
    tx: &mut PgConnection,
    user: UserId,
    device: Option<&DeviceId>,
    limit: i64,
) -> Result<Vec<OwnerRow>, Error> {
    sqlx::query_as(OWNERS)
        .bind(user.uuid())
        .bind(device.map(DeviceId::as_str))
        .bind(limit)
        .fetch_all(tx)
        .await
}

async fn take(tx: &mut PgConnection, owner: OwnerRow, onetime: OneTimeKeys) -> Result<TakenBundle, Error> {
    let (onetime_prekey, kem) = match onetime {
        OneTimeKeys::Given => (take_onetime(tx, &owner).await?, take_kem(tx, &owner).await?),
        OneTimeKeys::Withheld => (None, None),
    };
    let last_resort = last_resort(&owner)?;
    let last_resort_given = kem.is_none() && last_resort.is_some();
    if last_resort_given && !owner.last_resort_used {
        note_last_resort(tx, &owner).await?;
    }
    let (onetime_left, kem_left): (i64, i64) =
        sqlx::query_as(LEFT).bind(owner.device_no).fetch_one(tx).await?;
    Ok(TakenBundle {
        device_no: DeviceNo(owner.device_no),
        onetime_left: count(onetime_left),
        kem_left: count(kem_left),
        last_resort_given,
        bundle: Bundle {
            user_id: UserId::new(owner.user_id),
            device_id: device_id(&owner.device_id)?,
            device_number: device_number(owner.device_number)?,
            registration_id: registration_id(owner.registration_id)?,
            identity_key: identity_key(&owner.identity_key)?,
            linked_by: owner.linked_by.linked_by()?,
            signed_prekey: signed_prekey(
                owner.signed_prekey_id.ok_or_else(missing)?,
                owner.signed_prekey.ok_or_else(missing)?,
                &owner.signed_prekey_signature.ok_or_else(missing)?,
            )?,
            onetime_prekey,
            kem_prekey: kem.or(last_resort),
        },
    })
}

async fn take_onetime(tx: &mut PgConnection, owner: &OwnerRow) -> Result<Option<OneTimePreKey>, Error> {
    let taken = take_key(tx, owner.device_no, KeyKind::OneTime).await?;
    taken.map(|key| onetime_prekey(key.key_id, key.public_key)).transpose()
}

async fn take_kem(tx: &mut PgConnection, owner: &OwnerRow) -> Result<Option<SignedPreKey>, Error> {
    let Some(key) = take_key(tx, owner.device_no, KeyKind::Kem).await? else { return Ok(None) };
    signed_prekey(key.key_id, key.public_key, &key.signature.ok_or_else(missing)?).map(Some)
}

async fn take_key(tx: &mut PgConnection, device: i64, kind: KeyKind) -> Result<Option<TakenRow>, Error> {
    sqlx::query_as(TAKE).bind(device).bind(kind as i16).fetch_optional(tx).await
}

fn last_resort(owner: &OwnerRow) -> Result<Option<SignedPreKey>, Error> {
    let Some(id) = owner.last_resort_id else { return Ok(None) };
    let public_key = owner.last_resort.clone().ok_or_else(missing)?;
    let signature = owner.last_resort_signature.as_deref().ok_or_else(missing)?;
    signed_prekey(id, public_key, signature).map(Some)
}

/// Written once for each last-resort key, so that takers do not queue up for the device's row.
async fn note_last_resort(tx: &mut PgConnection, owner: &OwnerRow) -> Result<(), Error> {
    sqlx::query(
        "UPDATE devices SET last_resort_used = true \
         WHERE device_no = $1 AND last_resort_id = $2 AND NOT last_resort_used",
    )
    .bind(owner.device_no)
    .bind(owner.last_resort_id)
    .execute(tx)
    .await?;
    Ok(())
}
