//! How devices come.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    audit::{self, Entry},
    groups, ledger,
    links::{self, Voucher},
    mls_keys, notices, packages, recovery, rows, sessions, used,
};
use crate::{
    domain::{
        Caller, Delivery, DeviceNo, DeviceNumber, IdentityKey, LinkedBy, SecurityEvent, Timestamp, UserId,
    },
    store::{
        Principal, Registered, Registration, Revival, SingleUse,
        ledger::{Key, keys_of_registration},
        package_ledger::{Offered, Refused, offered},
    },
};

pub(super) async fn register_device(
    tx: &mut SqliteConnection,
    registration: Registration,
    context: Context,
) -> Result<(Registered, Vec<Delivery>), sqlx::Error> {
    let user = registration.user_id;
    let refused = |outcome| Ok((outcome, Vec::new()));
    let incarnations = incarnations(tx, user).await?;
    let right = match right_to_register(tx, &registration, &incarnations, context.now).await? {
        Ok(right) => right,
        Err(outcome) => return refused(outcome),
    };
    if incarnations.iter().filter(|row| row.active).count() >= context.limits.max_devices as usize {
        return refused(Registered::TooManyDevices);
    }
    let Some(device_number) = lowest_number(&incarnations) else {
        return refused(Registered::TooManyDevices);
    };
    let keys = keys_of_registration(&registration);
    if let Some(refusal) = reused(tx, user, &keys).await? {
        return refused(refusal);
    }
    let offered = offered(&registration.packages);
    let packages = match new_packages(tx, &registration, &offered).await? {
        Ok(packages) => packages,
        Err(outcome) => return refused(outcome),
    };

    // What refuses must come before: a refusal is committed too, and must find nothing used up.
    let Right { user_since, voucher, uses_up } = right;
    claim(tx, user, user_since).await?;
    links::use_up(tx, user).await?;
    if let Some(token) = uses_up {
        used::use_once(tx, token).await?;
    }
    let linked_by = voucher.as_ref().map(|voucher| &voucher.linked_by);
    let device_no = insert_device(tx, &registration, device_number, linked_by, context.now).await?;
    ledger::enter(tx, user, device_no, &keys.iter().collect::<Vec<_>>()).await?;
    open_mailbox(tx, user, device_no).await?;
    for key in &registration.mls_signature_keys {
        mls_keys::insert(tx, device_no, key).await?;
    }
    packages::insert(tx, user, device_no, &packages).await?;
    sessions::insert(tx, device_no, &registration.session, context.now).await?;
    let by = voucher.map(|voucher| voucher.number);
    let entry = Entry { user, event: SecurityEvent::DeviceAdded, device: Some(device_number), by };
    audit::enter(tx, entry, &context).await?;
    let mut deliveries = notices::devices_changed(tx, user, Some(device_no), &context).await?;
    let device_id = registration.device_id.clone();
    let caller = Caller { user_id: user, device_id, device_number, device_no };
    deliveries.extend(groups::join_rosters(tx, &caller, context.now).await?);
    Ok((Registered::Registered(Principal { caller, user_since }), deliveries))
}

/// Why a device may be registered.
struct Right {
    /// When the user id was claimed, which may be now.
    user_since: Timestamp,
    /// Who vouches for it, if it is linked.
    voucher: Option<Voucher>,
    /// The admission token that its registration uses up.
    uses_up: Option<SingleUse>,
}

/// By what right the device may be registered, or why it may not.
async fn right_to_register(
    tx: &mut SqliteConnection,
    registration: &Registration,
    incarnations: &[Incarnation],
    now: Timestamp,
) -> Result<Result<Right, Registered>, sqlx::Error> {
    let bare = |user_since| Right { user_since, voucher: None, uses_up: None };
    let Some(user_since) = claimed_at(tx, registration.user_id).await? else {
        if !registration.may_claim {
            return Ok(Err(Registered::AdmissionRequired));
        }
        let Some(Revival::Admitted(token)) = registration.revival else { return Ok(Ok(bare(now))) };
        return Ok(unused(tx, token).await?.map(|uses_up| Right { uses_up: Some(uses_up), ..bare(now) }));
    };
    if !incarnations.iter().any(|row| row.active) {
        let revived = revived(tx, registration).await?;
        return Ok(revived.map(|uses_up| Right { uses_up, ..bare(user_since) }));
    }
    let device_id = registration.device_id.as_str();
    if incarnations.iter().any(|row| row.active && row.device_id == device_id) {
        return Ok(Err(Registered::DeviceExists));
    }
    let voucher = links::voucher(tx, registration, now).await?;
    Ok(match voucher {
        Some(voucher) => Ok(Right { voucher: Some(voucher), ..bare(user_since) }),
        None => Err(Registered::LinkRequired),
    })
}

/// Whether the user comes back, and what that uses up.
async fn revived(
    tx: &mut SqliteConnection,
    registration: &Registration,
) -> Result<Result<Option<SingleUse>, Registered>, sqlx::Error> {
    match &registration.revival {
        Some(Revival::Recovered(key)) => {
            let (user, new) = (registration.user_id, &registration.identity_key);
            let keys = recovery::keys(tx, user).await?;
            let is_clean = keys.contains(new) || !recovery::was_used(tx, user, new).await?;
            Ok(if keys.contains(key) && is_clean { Ok(None) } else { Err(Registered::LinkRequired) })
        }
        Some(Revival::Admitted(token)) => Ok(unused(tx, *token).await?.map(Some)),
        None => Ok(Err(Registered::LinkRequired)),
    }
}

/// An admission token that is still good.
async fn unused(
    tx: &mut SqliteConnection,
    token: SingleUse,
) -> Result<Result<SingleUse, Registered>, sqlx::Error> {
    let used = used::is_used(tx, &token).await?;
    Ok(if used { Err(Registered::AdmissionUsed) } else { Ok(token) })
}

/// The first key that this user uploaded before.
async fn reused(
    tx: &mut SqliteConnection,
    user: UserId,
    keys: &[Key<'_>],
) -> Result<Option<Registered>, sqlx::Error> {
    let ledger = ledger::read(tx, user, None, keys).await?;
    Ok(ledger.first_reused(keys).map(|key| Registered::KeyReused(key.kind, key.id)))
}

/// The packages of a registration, or the first MLS key or package that must not come.
async fn new_packages<'k, 'a>(
    tx: &mut SqliteConnection,
    registration: &Registration,
    offered: &'k [Offered<'a>],
) -> Result<Result<Vec<&'k Offered<'a>>, Registered>, sqlx::Error> {
    let keys = &registration.mls_signature_keys;
    if let Some(scheme) = mls_keys::taken(tx, keys).await? {
        return Ok(Err(Registered::MlsKeyReused(scheme)));
    }
    let known = packages::known(tx, registration.user_id, None, offered).await?;
    Ok(known.fresh(offered, keys).map_err(|refused| match refused {
        Refused::SignatureKeyUnknown(place) => Registered::PackageKeyUnknown(place),
        Refused::Reused(place) => Registered::PackageReused(place),
    }))
}

struct Incarnation {
    device_id: String,
    number: i64,
    active: bool,
}

async fn incarnations(tx: &mut SqliteConnection, user: UserId) -> Result<Vec<Incarnation>, sqlx::Error> {
    let parse = |row: SqliteRow| {
        Ok(Incarnation {
            device_id: row.try_get("device_id")?,
            number: row.try_get("device_number")?,
            active: row.try_get("active")?,
        })
    };
    sqlx::query(
        "SELECT device_id, device_number, deactivated_at IS NULL AS active FROM devices WHERE user_id = ?",
    )
    .bind(user.uuid())
    .try_map(parse)
    .fetch_all(tx)
    .await
}

/// The lowest number that the user never had, else the lowest that no active device has.
fn lowest_number(incarnations: &[Incarnation]) -> Option<DeviceNumber> {
    let lowest = |taken: &dyn Fn(i64) -> bool| {
        (1..=i64::from(DeviceNumber::MAX)).find(|&number| !taken(number)).map(DeviceNumber::new)
    };
    let ever = |number| incarnations.iter().any(|row| row.number == number);
    let now = |number| incarnations.iter().any(|row| row.active && row.number == number);
    lowest(&ever).or_else(|| lowest(&now))?.ok()
}

async fn claimed_at(tx: &mut SqliteConnection, user: UserId) -> Result<Option<Timestamp>, sqlx::Error> {
    sqlx::query("SELECT claimed_at FROM users WHERE user_id = ?")
        .bind(user.uuid())
        .try_map(|row: SqliteRow| rows::timestamp(&row, "claimed_at"))
        .fetch_optional(tx)
        .await
}

async fn claim(tx: &mut SqliteConnection, user: UserId, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO users (user_id, claimed_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(user.uuid())
        .bind(now.millis())
        .execute(tx)
        .await?;
    Ok(())
}

async fn insert_device(
    tx: &mut SqliteConnection,
    registration: &Registration,
    device_number: DeviceNumber,
    linked_by: Option<&LinkedBy>,
    now: Timestamp,
) -> Result<DeviceNo, sqlx::Error> {
    let signed = &registration.signed_prekey;
    let last_resort = registration.last_resort_kem_prekey.as_ref();
    let key_bytes = |key: &IdentityKey| key.as_bytes().to_vec();
    sqlx::query_scalar(
        "INSERT INTO devices (user_id, device_id, device_number, registration_id, device_name, created_at, \
         last_seen, identity_key, linked_by_device_id, linked_by_identity_key, linked_by_signature, \
         signed_prekey_id, signed_prekey, signed_prekey_signature, signed_prekey_at, \
         last_resort_id, last_resort, last_resort_signature) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING device_no",
    )
    .bind(registration.user_id.uuid())
    .bind(registration.device_id.as_str())
    .bind(i64::from(device_number.get()))
    .bind(i64::from(registration.registration_id.get()))
    .bind(registration.device_name.as_deref())
    .bind(now.millis())
    .bind(now.day().millis())
    .bind(key_bytes(&registration.identity_key))
    .bind(linked_by.map(|by| by.device_id.as_str()))
    .bind(linked_by.map(|by| key_bytes(&by.identity_key)))
    .bind(linked_by.map(|by| by.signature.to_vec()))
    .bind(i64::from(signed.id.get()))
    .bind(signed.public_key.to_vec())
    .bind(signed.signature.to_vec())
    .bind(now.millis())
    .bind(last_resort.map(|key| i64::from(key.id.get())))
    .bind(last_resort.map(|key| key.public_key.to_vec()))
    .bind(last_resort.map(|key| key.signature.to_vec()))
    .fetch_one(tx)
    .await
    .map(DeviceNo)
}

async fn open_mailbox(tx: &mut SqliteConnection, user: UserId, device: DeviceNo) -> Result<(), sqlx::Error> {
    // The highest sequence is the user's, not the device's: it must outlive the devices that saw it.
    sqlx::query(
        "INSERT INTO mailboxes (device_no, user_id, sequence) \
         SELECT ?1, ?2, coalesce(max(sequence), 0) FROM mailboxes WHERE user_id = ?2",
    )
    .bind(device.0)
    .bind(user.uuid())
    .execute(tx)
    .await?;
    Ok(())
}
