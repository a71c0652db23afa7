//! Ending a device, with everything that hung on it.

use std::time::Duration;

use sqlx::{Error, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit::{self, Event},
    groups,
    notices::{self, Head},
    revocations::revoke,
    rows::{at, device_number, moment},
    standing::lock_user,
};
use crate::{
    domain::{
        Caller, Delivery, DeviceId, DeviceNo, DeviceNumber, Position, Pseudonym, SecurityEvent, Timestamp,
        UserId,
    },
    store::{Deactivated, Limits, Revocation},
};

/// How long a linked device waits until it may end a device that is older than itself.
const PROBATION: Duration = Duration::from_hours(24);

/// What became of the device, and what to hand to hot delivery.
pub(super) async fn deactivate(
    pool: &PgPool,
    limits: Limits,
    subject: Pseudonym,
    by: &Caller,
    target: &DeviceId,
    now: Timestamp,
) -> Result<(Deactivated, Vec<Delivery>), Error> {
    let (mut tx, doomed) = loop {
        let mut tx = pool.begin().await?;
        match lock(&mut tx, by, target, now).await? {
            Ok(Some(doomed)) => break (tx, doomed),
            Ok(None) => tx.rollback().await?,
            Err(refused) => return Ok((refused, Vec::new())),
        }
    };
    let Doomed { device, number, groups, others } = doomed;
    let expelled = by.device_no != device;
    count_as_lost(&mut tx, device).await?;
    erase_items(&mut tx, device, &others).await?;
    groups::devices::leave_groups(&mut tx, device, &groups).await?;
    end(&mut tx, device, expelled, now).await?;
    let deliveries = notices::announce_devices(&mut tx, by.user_id, &others, limits, now).await?;
    revoke(&mut tx, Revocation::Device(device), now).await?;
    let ended = Event::of_device(SecurityEvent::DeviceDeactivated, number);
    let ended = ended.done_by(expelled.then_some(by.device_number));
    audit::enter(&mut *tx, subject, ended, now).await?;
    tx.commit().await?;
    Ok((Deactivated::Gone(device), deliveries))
}

/// A device that may be ended, with everything locked that the act touches.
struct Doomed {
    device: DeviceNo,
    number: DeviceNumber,
    groups: Vec<Uuid>,
    /// The mailboxes of the user's other devices.
    others: Vec<Head>,
}

/// Locks in the order of locks. None when the device was added to a group meanwhile, which is not locked: then everything
/// must be let go and locked anew.
async fn lock(
    tx: &mut PgConnection,
    by: &Caller,
    target: &DeviceId,
    now: Timestamp,
) -> Result<Result<Option<Doomed>, Deactivated>, Error> {
    lock_user(tx, by.user_id).await?;
    let Some((device, number)) = active_device(tx, by.user_id, target).await? else {
        return Ok(Err(Deactivated::Unknown));
    };
    if !may_end(tx, by, device, now).await? {
        return Ok(Err(Deactivated::NotAllowed));
    }
    let groups = groups::devices::lock_groups_of(tx, device).await?;
    let mut others = notices::lock_mailboxes(tx, by.user_id).await?;
    others.retain(|(other, _)| *other != device);
    let is_whole = groups::devices::are_all_groups_of(tx, device, &groups).await?;
    Ok(Ok(is_whole.then_some(Doomed { device, number, groups, others })))
}

async fn active_device(
    tx: &mut PgConnection,
    user: UserId,
    device: &DeviceId,
) -> Result<Option<(DeviceNo, DeviceNumber)>, Error> {
    let found: Option<(i64, i16)> = sqlx::query_as(
        "SELECT device_no, device_number FROM devices \
         WHERE user_id = $1 AND device_id = $2 AND deactivated_at IS NULL",
    )
    .bind(user.uuid())
    .bind(device.as_str())
    .fetch_optional(tx)
    .await?;
    found.map(|(device, number)| Ok((DeviceNo(device), device_number(number)?))).transpose()
}

/// Whether the caller may end this device of its user: itself, a younger one, or any once it is no newcomer. A caller
/// that was ended itself may end nobody.
async fn may_end(
    tx: &mut PgConnection,
    by: &Caller,
    device: DeviceNo,
    now: Timestamp,
) -> Result<bool, Error> {
    let created: Option<OffsetDateTime> = sqlx::query_scalar(
        "SELECT created_at FROM devices WHERE device_no = $1 AND user_id = $2 AND deactivated_at IS NULL",
    )
    .bind(by.device_no.0)
    .bind(by.user_id.uuid())
    .fetch_optional(tx)
    .await?;
    Ok(created.is_some_and(|created| by.device_no <= device || moment(created) <= now.minus(PROBATION)))
}

/// Messages that the device had not acked count as lost on it. Its mailbox must be locked.
async fn count_as_lost(tx: &mut PgConnection, device: DeviceNo) -> Result<(), Error> {
    sqlx::query(
        "UPDATE messages SET lost = true WHERE message_id = ANY(ARRAY( \
            SELECT m.message_id FROM messages m \
            WHERE m.message_id = ANY(ARRAY(SELECT message_id FROM mailbox_items WHERE device_no = $1)) \
            ORDER BY m.message_id FOR UPDATE))",
    )
    .bind(device.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Erases the device's items and, for the one that comes, the list of devices that still waits in each of the user's other
/// mailboxes. In one go, because a batch of acks may hold items of both.
async fn erase_items(tx: &mut PgConnection, device: DeviceNo, others: &[Head]) -> Result<(), Error> {
    let positions: Vec<i64> =
        sqlx::query_scalar("SELECT position FROM mailbox_items WHERE device_no = $1 ORDER BY position")
            .bind(device.0)
            .fetch_all(&mut *tx)
            .await?;
    let mut places = notices::waiting_lists(tx, others).await?;
    places.extend(positions.into_iter().map(|position| (device, Position(position))));
    notices::erase(tx, places).await?;
    Ok(())
}

/// What else belongs to one incarnation, erased in the order in which acts lock.
const ERASURE: [&str; 7] = [
    "DELETE FROM mailboxes WHERE device_no = $1",
    "UPDATE key_packages SET state = 3, body = NULL WHERE device_no = $1 AND state IN (0, 1)",
    "UPDATE mls_keys SET current = false, signature = NULL WHERE device_no = $1 AND current",
    "DELETE FROM prekeys WHERE device_no = $1",
    "DELETE FROM sessions WHERE device_no = $1",
    "DELETE FROM link_tokens WHERE linked_by_device_no = $1",
    "UPDATE devices SET device_name = NULL, signed_prekey_id = NULL, signed_prekey = NULL, \
        signed_prekey_signature = NULL, signed_prekey_at = NULL, last_resort_id = NULL, last_resort = NULL, \
        last_resort_signature = NULL WHERE device_no = $1",
];

async fn end(tx: &mut PgConnection, device: DeviceNo, expelled: bool, now: Timestamp) -> Result<(), Error> {
    for statement in ERASURE {
        sqlx::query(statement).bind(device.0).execute(&mut *tx).await?;
    }
    sqlx::query("UPDATE devices SET deactivated_at = $2, expelled = $3 WHERE device_no = $1")
        .bind(device.0)
        .bind(at(now))
        .bind(expelled)
        .execute(tx)
        .await?;
    Ok(())
}
