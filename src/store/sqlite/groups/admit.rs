//! Whether devices and users can be added, looked at before anything is changed.

use std::collections::HashSet;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::super::{packages::usable, rows};
use crate::{
    domain::{DeviceNo, GroupId, KeyPackageRef, UserId},
    store::{CannotAdd, Joiner, Limits},
};

type Admitted<T> = Result<Result<T, CannotAdd>, sqlx::Error>;

/// Whether so many members or leaves are no more than a group may have.
pub(super) fn fits(number: usize, limits: &Limits) -> Result<(), CannotAdd> {
    if number > limits.max_members as usize { Err(CannotAdd::GroupFull) } else { Ok(()) }
}

/// Whether those who join by a Welcome are there, by packages that may enter a group, and can be told.
pub(super) async fn joiners(
    tx: &mut SqliteConnection,
    by: UserId,
    joiners: &[Joiner],
    limits: &Limits,
) -> Admitted<()> {
    let devices: Vec<_> = joiners.iter().map(|joiner| joiner.device_no).collect();
    if let Some(gone) = gone(tx, &devices).await? {
        return Ok(Err(CannotAdd::DeviceGone(gone)));
    }
    if let Some(used) = used(tx, joiners).await? {
        return Ok(Err(CannotAdd::PackageUsed(used)));
    }
    room(tx, by, &devices, limits).await
}

/// The devices of users who are to be added, in the order of the users.
pub(super) async fn devices_of(tx: &mut SqliteConnection, users: &[UserId]) -> Admitted<Vec<DeviceNo>> {
    let found = sqlx::query(
        "SELECT b.user_id, b.device_no FROM json_each(?) v JOIN mailboxes b ON b.user_id = unhex(v.value) \
         ORDER BY v.key, b.device_no",
    )
    .bind(rows::uuids(users.iter().map(|user| user.uuid())))
    .try_map(|row: SqliteRow| Ok((rows::user_id(&row, "user_id")?, rows::device_no(&row, "device_no")?)))
    .fetch_all(tx)
    .await?;
    let (there, devices): (HashSet<UserId>, Vec<DeviceNo>) = found.into_iter().unzip();
    let unknown = users.iter().find(|user| !there.contains(user));
    Ok(unknown.map_or(Ok(devices), |user| Err(CannotAdd::UserUnknown(*user))))
}

/// Whether the mailboxes of devices take an item each in the name of `by`.
pub(super) async fn room(
    tx: &mut SqliteConnection,
    by: UserId,
    devices: &[DeviceNo],
    limits: &Limits,
) -> Admitted<()> {
    let full: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM mailboxes b \
         WHERE b.device_no IN (SELECT value FROM json_each(?1)) AND b.head >= b.spare \
         AND ((SELECT count(*) FROM mailbox_items i WHERE i.device_no = b.device_no) >= ?2 \
           OR (SELECT count(*) FROM mailbox_items i WHERE i.device_no = b.device_no AND i.sender_id = ?3) >= ?4))",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .bind(i64::from(limits.mailbox_items))
    .bind(by.uuid())
    .bind(i64::from(limits.mailbox_items_per_sender))
    .fetch_one(tx)
    .await?;
    Ok(if full { Err(CannotAdd::MailboxFull) } else { Ok(()) })
}

/// Whether each of these users may come into a group: names the first that is in as many others as it may be.
pub(super) async fn may_join(
    tx: &mut SqliteConnection,
    group: GroupId,
    users: &[UserId],
    limits: &Limits,
) -> Admitted<()> {
    let full = sqlx::query(
        "SELECT unhex(v.value) AS user_id FROM json_each(?1) v \
         WHERE (SELECT count(*) FROM group_members m WHERE m.user_id = unhex(v.value) AND m.group_id <> ?2) >= ?3 \
         ORDER BY v.key LIMIT 1",
    )
    .bind(rows::uuids(users.iter().map(|user| user.uuid())))
    .bind(group.uuid())
    .bind(i64::from(limits.max_groups))
    .try_map(|row: SqliteRow| rows::user_id(&row, "user_id"))
    .fetch_optional(tx)
    .await?;
    Ok(full.map_or(Ok(()), |user| Err(CannotAdd::TooManyGroups(user))))
}

/// The users of devices, in the order of the devices.
pub(super) async fn users_of(
    tx: &mut SqliteConnection,
    devices: impl IntoIterator<Item = DeviceNo>,
) -> Result<Vec<UserId>, sqlx::Error> {
    sqlx::query("SELECT d.user_id FROM json_each(?) v JOIN devices d ON d.device_no = v.value ORDER BY v.key")
        .bind(rows::numbers(devices.into_iter().map(|device| device.0)))
        .try_map(|row: SqliteRow| rows::user_id(&row, "user_id"))
        .fetch_all(tx)
        .await
}

/// The first of these devices that is not active.
pub(super) async fn gone(
    tx: &mut SqliteConnection,
    devices: &[DeviceNo],
) -> Result<Option<DeviceNo>, sqlx::Error> {
    sqlx::query(
        "SELECT v.value AS device_no FROM json_each(?) v \
         WHERE NOT EXISTS (SELECT 1 FROM mailboxes b WHERE b.device_no = v.value) ORDER BY v.key LIMIT 1",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .try_map(|row: SqliteRow| rows::device_no(&row, "device_no"))
    .fetch_optional(tx)
    .await
}

/// The first of these packages that may not enter a group, as its joiner's.
async fn used(tx: &mut SqliteConnection, joiners: &[Joiner]) -> Result<Option<KeyPackageRef>, sqlx::Error> {
    const USABLE: &str = concat!(
        "SELECT p.reference, p.device_no FROM key_packages p \
         WHERE p.reference IN (SELECT unhex(value) FROM json_each(?)) AND ",
        usable!()
    );
    let usable = sqlx::query(USABLE)
        .bind(references(joiners))
        .try_map(|row: SqliteRow| {
            let reference = KeyPackageRef(rows::digest(row.try_get("reference")?)?);
            Ok((reference, rows::device_no(&row, "device_no")?))
        })
        .fetch_all(tx)
        .await?;
    let usable: HashSet<_> = usable.into_iter().collect();
    let bad = joiners.iter().find(|joiner| !usable.contains(&(joiner.reference, joiner.device_no)));
    Ok(bad.map(|joiner| joiner.reference))
}

fn references(joiners: &[Joiner]) -> String {
    rows::blobs(joiners.iter().map(|joiner| joiner.reference.0.as_slice()))
}

/// The packages have entered a group; a last-resort one may enter others.
pub(super) async fn use_up(tx: &mut SqliteConnection, joiners: &[Joiner]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE key_packages SET state = 2 \
         WHERE NOT last_resort AND reference IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(references(joiners))
    .execute(tx)
    .await?;
    Ok(())
}
