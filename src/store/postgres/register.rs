//! A new incarnation of a device.

use std::collections::HashSet;

use sqlx::{Error, PgConnection, PgPool};

use super::{
    audit::{self, Event},
    groups, ledger,
    notices::{self, Head},
    rows::{at, device_number},
    sessions,
    standing::{self, ActiveRow},
    stock,
};
use crate::{
    domain::{
        Caller, Delivery, DeviceNo, DeviceNumber, LinkedBy, Pseudonym, SecurityEvent, SignedPreKey,
        Timestamp, UserId,
    },
    store::{
        Limits, Principal, Registered, Registration,
        ledger::keys_of_registration,
        package_ledger::{Refused, offered},
    },
};

/// What became of the registration, and what to hand to hot delivery; anything but `Registered` rolls back.
pub(super) async fn register(
    pool: &PgPool,
    limits: Limits,
    subject: Pseudonym,
    registration: &Registration,
    now: Timestamp,
) -> Result<(Registered, Vec<Delivery>), Error> {
    let mut tx = pool.begin().await?;
    match run(&mut tx, limits, subject, registration, now).await? {
        Ok((principal, deliveries)) => {
            tx.commit().await?;
            Ok((Registered::Registered(principal), deliveries))
        }
        Err(refused) => {
            tx.rollback().await?;
            Ok((refused, Vec::new()))
        }
    }
}

async fn run(
    tx: &mut PgConnection,
    limits: Limits,
    subject: Pseudonym,
    new: &Registration,
    now: Timestamp,
) -> Result<Result<(Principal, Vec<Delivery>), Registered>, Error> {
    let Some(claim) = standing::claim(tx, new, now).await? else {
        return Ok(Err(Registered::AdmissionRequired));
    };
    let active = standing::active_devices(tx, new.user_id).await?;
    let voucher = match standing::entitled(tx, new, &claim, &active, now).await? {
        Ok(voucher) => voucher,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(number) = next_number(tx, new.user_id, &active).await? else {
        return Ok(Err(Registered::TooManyDevices));
    };
    if active.len() >= limits.max_devices as usize {
        return Ok(Err(Registered::TooManyDevices));
    }
    let keys = keys_of_registration(new);
    let ledger = ledger::read(tx, new.user_id, None, &keys).await?;
    if let Some(reused) = ledger.first_reused(&keys) {
        return Ok(Err(Registered::KeyReused(reused.kind, reused.id)));
    }
    let (linked_by, by) = voucher.map(|voucher| (voucher.linked_by, voucher.by)).unzip();
    let device = insert_device(tx, new, number, linked_by.as_ref(), now).await?;
    ledger::enter(tx, new.user_id, device, &keys.iter().collect::<Vec<_>>()).await?;
    if let Some(refused) = enter_mls(tx, new, device).await? {
        return Ok(Err(refused));
    }
    let roster_groups = groups::devices::lock_roster_groups(tx, new.user_id).await?;
    let others = open_mailbox(tx, new.user_id, device).await?;
    let outdated = notices::waiting_lists(tx, &others).await?;
    notices::erase(tx, outdated).await?;
    let mut deliveries = notices::announce_devices(tx, new.user_id, &others, limits, now).await?;
    let newcomer = (new.user_id, device);
    deliveries.extend(groups::devices::join_roster_groups(tx, newcomer, &roster_groups, now).await?);
    sessions::insert(tx, device, &new.session, now).await?;
    let added = Event::of_device(SecurityEvent::DeviceAdded, number).done_by(by);
    audit::enter(&mut *tx, subject, added, now).await?;
    let caller = Caller {
        user_id: new.user_id,
        device_id: new.device_id.clone(),
        device_number: number,
        device_no: device,
    };
    Ok(Ok((Principal { caller, user_since: claim.since }, deliveries)))
}

/// Enters the device's MLS keys and packages, or tells the first that must not come.
async fn enter_mls(
    tx: &mut PgConnection,
    new: &Registration,
    device: DeviceNo,
) -> Result<Option<Registered>, Error> {
    for key in &new.mls_signature_keys {
        if !stock::enter_key(tx, device, key).await? {
            return Ok(Some(Registered::MlsKeyReused(key.scheme)));
        }
    }
    let offered = offered(&new.packages);
    Ok(match stock::fresh(tx, new.user_id, device, &offered).await? {
        Ok(fresh) => {
            stock::enter(tx, new.user_id, device, &fresh).await?;
            None
        }
        Err(Refused::SignatureKeyUnknown(place)) => Some(Registered::PackageKeyUnknown(place)),
        Err(Refused::Reused(place)) => Some(Registered::PackageReused(place)),
    })
}

/// The lowest number that the user never had, else the lowest that no active device has.
async fn next_number(
    tx: &mut PgConnection,
    user: UserId,
    active: &[ActiveRow],
) -> Result<Option<DeviceNumber>, Error> {
    let ever: Vec<i16> = sqlx::query_scalar("SELECT DISTINCT device_number FROM devices WHERE user_id = $1")
        .bind(user.uuid())
        .fetch_all(tx)
        .await?;
    let ever: HashSet<i16> = ever.into_iter().collect();
    let taken: HashSet<i16> = active.iter().map(|device| device.device_number).collect();
    let all = 1..=i16::from(DeviceNumber::MAX);
    let fresh = all.clone().find(|number| !ever.contains(number));
    let lowest = fresh.or_else(|| all.clone().find(|number| !taken.contains(number)));
    lowest.map(device_number).transpose()
}

async fn insert_device(
    tx: &mut PgConnection,
    new: &Registration,
    number: DeviceNumber,
    linked_by: Option<&LinkedBy>,
    now: Timestamp,
) -> Result<DeviceNo, Error> {
    let id = |key: &SignedPreKey| i64::from(key.id.get());
    let last_resort = new.last_resort_kem_prekey.as_ref();
    sqlx::query_scalar(
        "INSERT INTO devices (user_id, device_id, device_number, registration_id, device_name, created_at, \
            last_seen, identity_key, linked_by_device_id, linked_by_identity_key, linked_by_signature, \
            signed_prekey_id, signed_prekey, signed_prekey_signature, signed_prekey_at, last_resort_id, \
            last_resort, last_resort_signature) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $6, $15, $16, $17) \
         RETURNING device_no",
    )
    .bind(new.user_id.uuid())
    .bind(new.device_id.as_str())
    .bind(i16::from(number.get()))
    .bind(i32::from(new.registration_id.get()))
    .bind(new.device_name.as_deref())
    .bind(at(now))
    .bind(at(now.day()))
    .bind(new.identity_key.as_bytes())
    .bind(linked_by.map(|by| by.device_id.as_str()))
    .bind(linked_by.map(|by| by.identity_key.as_bytes()))
    .bind(linked_by.map(|by| by.signature.as_slice()))
    .bind(id(&new.signed_prekey))
    .bind(&*new.signed_prekey.public_key)
    .bind(new.signed_prekey.signature.as_slice())
    .bind(last_resort.map(id))
    .bind(last_resort.map(|key| &*key.public_key))
    .bind(last_resort.map(|key| key.signature.as_slice()))
    .fetch_one(tx)
    .await
    .map(DeviceNo)
}

/// The highest sequence is the user's rather than the device's: a new mailbox goes on where the others are. Those are
/// locked, because a send that runs now would move the number after it was read; and returned.
async fn open_mailbox(tx: &mut PgConnection, user: UserId, device: DeviceNo) -> Result<Vec<Head>, Error> {
    let others = notices::lock_mailboxes(tx, user).await?;
    sqlx::query(
        "INSERT INTO mailboxes (device_no, user_id, sequence) \
         SELECT $1, $2, coalesce(max(sequence), 0) FROM mailboxes WHERE user_id = $2",
    )
    .bind(device.0)
    .bind(user.uuid())
    .execute(tx)
    .await?;
    Ok(others)
}
