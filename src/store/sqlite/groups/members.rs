//! Who is in a group: users with their roles, and the leaves of MLS groups.

use std::collections::HashMap;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{super::rows, rows as columns};
use crate::{
    domain::{DeviceNo, GroupId, Handshake, Member, MemberDevice, Role, Timestamp, UserId},
    store::group_rules::heir,
};

/// Everybody in a group, in the order of joining.
pub(super) async fn in_order(
    tx: &mut SqliteConnection,
    group: GroupId,
) -> Result<Vec<(UserId, Role)>, sqlx::Error> {
    sqlx::query("SELECT user_id, role FROM group_members WHERE group_id = ? ORDER BY joined")
        .bind(group.uuid())
        .try_map(|row: SqliteRow| Ok((rows::user_id(&row, "user_id")?, columns::role(&row)?)))
        .fetch_all(tx)
        .await
}

/// Adds users, in order.
pub(super) async fn add(
    tx: &mut SqliteConnection,
    group: GroupId,
    users: &[UserId],
    role: Role,
    invited: bool,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO group_members (group_id, user_id, role, invited, joined_at) \
         SELECT ?, unhex(value), ?, ?, ? FROM json_each(?) ORDER BY key",
    )
    .bind(group.uuid())
    .bind(role as i64)
    .bind(invited)
    .bind(now.millis())
    .bind(rows::uuids(users.iter().map(|user| user.uuid())))
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes users.
pub(super) async fn remove(
    tx: &mut SqliteConnection,
    group: GroupId,
    users: &[UserId],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM group_members WHERE group_id = ? AND user_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(group.uuid())
    .bind(rows::uuids(users.iter().map(|user| user.uuid())))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn set_role(
    tx: &mut SqliteConnection,
    group: GroupId,
    user: UserId,
    role: Role,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE group_members SET role = ? WHERE group_id = ? AND user_id = ?")
        .bind(role as i64)
        .bind(group.uuid())
        .bind(user.uuid())
        .execute(tx)
        .await?;
    Ok(())
}

/// How many leaves a group has without those of these devices.
pub(super) async fn count_leaves(
    tx: &mut SqliteConnection,
    group: GroupId,
    removed: &[DeviceNo],
) -> Result<usize, sqlx::Error> {
    let leaves: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM group_leaves \
         WHERE group_id = ? AND device_no NOT IN (SELECT value FROM json_each(?))",
    )
    .bind(group.uuid())
    .bind(rows::numbers(removed.iter().map(|device| device.0)))
    .fetch_one(tx)
    .await?;
    Ok(rows::count(leaves) as usize)
}

/// Adds leaves, in order.
pub(super) async fn add_leaves(
    tx: &mut SqliteConnection,
    group: GroupId,
    leaves: impl IntoIterator<Item = (DeviceNo, Option<u32>)>,
) -> Result<(), sqlx::Error> {
    // -1 stands for an index that is not known.
    let leaves = leaves.into_iter().map(|(device, leaf)| [device.0, leaf.map_or(-1, i64::from)]);
    sqlx::query(
        "INSERT INTO group_leaves (group_id, device_no, user_id, leaf_index) \
         SELECT ?, d.device_no, d.user_id, nullif(v.value ->> 1, -1) FROM json_each(?) v \
         JOIN devices d ON d.device_no = v.value ->> 0 ORDER BY v.key",
    )
    .bind(group.uuid())
    .bind(rows::tuples(leaves))
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the leaves of these devices.
pub(super) async fn remove_leaves(
    tx: &mut SqliteConnection,
    group: GroupId,
    devices: &[DeviceNo],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM group_leaves WHERE group_id = ? AND device_no IN (SELECT value FROM json_each(?))",
    )
    .bind(group.uuid())
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes the users of an MLS group those who have a leaf; a group without an owner gets one, of whom an active
/// device stays if there is any.
pub(super) async fn follow_leaves(
    tx: &mut SqliteConnection,
    group: GroupId,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM group_members WHERE group_id = ?1 \
         AND user_id NOT IN (SELECT user_id FROM group_leaves WHERE group_id = ?1)",
    )
    .bind(group.uuid())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO group_members (group_id, user_id, role, joined_at) \
         SELECT ?1, user_id, 0, ?2 FROM group_leaves WHERE group_id = ?1 \
         AND user_id NOT IN (SELECT user_id FROM group_members WHERE group_id = ?1) \
         GROUP BY user_id ORDER BY min(leaf_no)",
    )
    .bind(group.uuid())
    .bind(now.millis())
    .execute(&mut *tx)
    .await?;
    let has_owner: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM group_members WHERE group_id = ? AND role = 2)")
            .bind(group.uuid())
            .fetch_one(&mut *tx)
            .await?;
    if has_owner {
        return Ok(());
    }
    let heir = match heir(staying(tx, group).await?) {
        Some(heir) => Some(heir),
        None => heir(in_order(tx, group).await?),
    };
    match heir {
        Some(heir) => set_role(tx, group, heir, Role::Owner).await,
        None => Ok(()),
    }
}

/// Those of whom an active device stays in the group, in the order of joining.
async fn staying(tx: &mut SqliteConnection, group: GroupId) -> Result<Vec<(UserId, Role)>, sqlx::Error> {
    sqlx::query(
        "SELECT m.user_id, m.role FROM group_members m WHERE m.group_id = ?1 AND m.user_id IN ( \
            SELECT l.user_id FROM group_leaves l JOIN mailboxes b ON b.device_no = l.device_no \
            WHERE l.group_id = ?1 AND NOT l.leaving) \
         ORDER BY m.joined",
    )
    .bind(group.uuid())
    .try_map(|row: SqliteRow| Ok((rows::user_id(&row, "user_id")?, columns::role(&row)?)))
    .fetch_all(tx)
    .await
}

/// Where the leaver is the owner, and no active device of it stays in the group, hands its role to a user of whom one does.
pub(super) async fn hand_over_if_left(
    tx: &mut SqliteConnection,
    group: GroupId,
    leaver: UserId,
) -> Result<(), sqlx::Error> {
    if columns::role_of(tx, group, leaver).await? != Some(Role::Owner) {
        return Ok(());
    }
    let staying = staying(tx, group).await?;
    if staying.iter().any(|(user, _)| *user == leaver) {
        return Ok(());
    }
    let Some(heir) = heir(staying) else { return Ok(()) };
    set_role(tx, group, leaver, Role::Member).await?;
    set_role(tx, group, heir, Role::Owner).await
}

/// Everybody in a group with their devices, the owner first. To be read as of one moment.
pub(super) async fn all(
    conn: &mut SqliteConnection,
    group: GroupId,
    handshake: Handshake,
) -> Result<Vec<Member>, sqlx::Error> {
    let mut devices = devices(conn, group, handshake).await?;
    let mut members = sqlx::query(
        "SELECT user_id, role, invited, joined_at FROM group_members WHERE group_id = ? \
         ORDER BY role = 2 DESC, joined",
    )
    .bind(group.uuid())
    .try_map(|row: SqliteRow| {
        Ok(Member {
            user_id: rows::user_id(&row, "user_id")?,
            role: columns::role(&row)?,
            invited: row.try_get("invited")?,
            joined_at: rows::timestamp(&row, "joined_at")?,
            devices: Vec::new(),
        })
    })
    .fetch_all(conn)
    .await?;
    for member in &mut members {
        member.devices = devices.remove(&member.user_id).unwrap_or_default();
    }
    Ok(members)
}

/// The devices in a group, oldest first: leaves of an MLS group, windows of a roster group.
async fn devices(
    conn: &mut SqliteConnection,
    group: GroupId,
    handshake: Handshake,
) -> Result<HashMap<UserId, Vec<MemberDevice>>, sqlx::Error> {
    let in_group = match handshake {
        Handshake::Public | Handshake::Private => {
            "SELECT d.user_id, d.device_no, d.device_id, d.deactivated_at IS NULL AS active, l.leaf_index, l.leaving \
             FROM group_leaves l JOIN devices d ON d.device_no = l.device_no \
             WHERE l.group_id = ? ORDER BY d.device_no"
        }
        Handshake::None => {
            "SELECT d.user_id, d.device_no, d.device_id, d.deactivated_at IS NULL AS active, \
             NULL AS leaf_index, 0 AS leaving \
             FROM group_windows w JOIN devices d ON d.device_no = w.device_no \
             WHERE w.group_id = ? AND w.closed_at IS NULL ORDER BY d.device_no"
        }
    };
    let found = sqlx::query(in_group)
        .bind(group.uuid())
        .try_map(|row: SqliteRow| {
            let device = MemberDevice {
                device_no: rows::device_no(&row, "device_no")?,
                device_id: rows::device_id(&row, "device_id")?,
                leaf_index: columns::leaf_index(&row)?,
                active: row.try_get("active")?,
                leaving: row.try_get("leaving")?,
            };
            Ok((rows::user_id(&row, "user_id")?, device))
        })
        .fetch_all(conn)
        .await?;
    let mut devices: HashMap<UserId, Vec<MemberDevice>> = HashMap::new();
    for (user, device) in found {
        devices.entry(user).or_default().push(device);
    }
    Ok(devices)
}
