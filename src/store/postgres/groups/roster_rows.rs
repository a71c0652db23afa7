//! Who is in a group: users with their roles, and the leaves of their devices.

use sqlx::{Error, PgConnection};
use uuid::Uuid;

use super::{
    super::rows::at,
    rows::{Admission, role, role_of},
};
use crate::{
    domain::{DeviceNo, GroupId, Role, Timestamp, UserId},
    store::{CannotAdd, Limits, group_rules::heir},
};

/// Adds users who are not in the group yet, in this order.
pub(super) async fn add_users(
    tx: &mut PgConnection,
    group: GroupId,
    users: &[UserId],
    (role, invited): (Role, bool),
    now: Timestamp,
) -> Result<(), Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    sqlx::query(
        "INSERT INTO group_members (group_id, user_id, role, invited, joined_at) \
         SELECT $1, n.user_id, $3, $4, $5 FROM unnest($2::uuid[]) WITH ORDINALITY AS n(user_id, place) \
         ORDER BY n.place ON CONFLICT (group_id, user_id) DO NOTHING",
    )
    .bind(group.uuid())
    .bind(users)
    .bind(role as i16)
    .bind(invited)
    .bind(at(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether each of these users may come into a group: names the first that is in as many others as it may be.
pub(super) async fn may_join(
    tx: &mut PgConnection,
    limits: Limits,
    group: GroupId,
    users: &[UserId],
) -> Result<Admission<()>, Error> {
    let full: Option<Uuid> = sqlx::query_scalar(CROWDED)
        .bind(group.uuid())
        .bind(users.iter().map(|user| user.uuid()).collect::<Vec<_>>())
        .bind(i64::from(limits.max_groups) - 1)
        .fetch_optional(tx)
        .await?;
    Ok(full.map_or(Ok(()), |user| Err(CannotAdd::TooManyGroups(UserId::new(user)))))
}

/// Counts no further than the limit.
pub(in super::super) const CROWDED: &str = "\
    SELECT n.user_id FROM unnest($2::uuid[]) WITH ORDINALITY AS n(user_id, place) \
    WHERE EXISTS (SELECT FROM group_members m WHERE m.user_id = n.user_id AND m.group_id <> $1 OFFSET $3) \
    ORDER BY n.place LIMIT 1";

/// A leaf of the coming epoch.
pub(super) struct Leaf {
    pub(super) device_no: DeviceNo,
    pub(super) user_id: UserId,
    pub(super) index: Option<u32>,
}

pub(super) async fn add_leaves(tx: &mut PgConnection, group: GroupId, leaves: &[Leaf]) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO group_leaves (group_id, device_no, user_id, leaf_index) \
         SELECT $1, n.device_no, n.user_id, n.leaf_index \
         FROM unnest($2::bigint[], $3::uuid[], $4::bigint[]) AS n(device_no, user_id, leaf_index)",
    )
    .bind(group.uuid())
    .bind(leaves.iter().map(|leaf| leaf.device_no.0).collect::<Vec<_>>())
    .bind(leaves.iter().map(|leaf| leaf.user_id.uuid()).collect::<Vec<_>>())
    .bind(leaves.iter().map(|leaf| leaf.index.map(i64::from)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the leaves of these devices, and returns the users they belonged to.
pub(super) async fn remove_leaves(
    tx: &mut PgConnection,
    group: GroupId,
    devices: &[DeviceNo],
) -> Result<Vec<Uuid>, Error> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "DELETE FROM group_leaves WHERE group_id = $1 AND device_no = ANY($2) RETURNING user_id",
    )
    .bind(group.uuid())
    .bind(devices.iter().map(|device| device.0).collect::<Vec<_>>())
    .fetch_all(tx)
    .await
}

/// Removes those of these users who have no leaf left.
pub(super) async fn remove_leafless(
    tx: &mut PgConnection,
    group: GroupId,
    users: &[Uuid],
) -> Result<(), Error> {
    if users.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM group_members m WHERE m.group_id = $1 AND m.user_id = ANY($2) AND NOT EXISTS ( \
            SELECT FROM group_leaves l WHERE l.group_id = m.group_id AND l.user_id = m.user_id)",
    )
    .bind(group.uuid())
    .bind(users)
    .execute(tx)
    .await?;
    Ok(())
}

/// Everybody in a group, in the order of joining.
pub(super) async fn in_order(tx: &mut PgConnection, group: GroupId) -> Result<Vec<(UserId, Role)>, Error> {
    let rows: Vec<(Uuid, i16)> =
        sqlx::query_as("SELECT user_id, role FROM group_members WHERE group_id = $1 ORDER BY joined")
            .bind(group.uuid())
            .fetch_all(tx)
            .await?;
    rows.into_iter().map(|(user, column)| Ok((UserId::new(user), role(column)?))).collect()
}

pub(super) async fn set_role(
    tx: &mut PgConnection,
    group: GroupId,
    user: UserId,
    role: Role,
) -> Result<(), Error> {
    sqlx::query("UPDATE group_members SET role = $3 WHERE group_id = $1 AND user_id = $2")
        .bind(group.uuid())
        .bind(user.uuid())
        .bind(role as i16)
        .execute(tx)
        .await?;
    Ok(())
}

/// Gives the owner's role to an heir, where nobody has it: to one of whom an active device stays, if there is any.
pub(super) async fn hand_over(tx: &mut PgConnection, group: GroupId) -> Result<(), Error> {
    let has_owner: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM group_members WHERE group_id = $1 AND role = 2)")
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
async fn staying(tx: &mut PgConnection, group: GroupId) -> Result<Vec<(UserId, Role)>, Error> {
    let rows: Vec<(Uuid, i16)> = sqlx::query_as(
        "SELECT m.user_id, m.role FROM group_members m WHERE m.group_id = $1 AND m.user_id IN ( \
            SELECT l.user_id FROM group_leaves l JOIN mailboxes b ON b.device_no = l.device_no \
            WHERE l.group_id = $1 AND NOT l.leaving) \
         ORDER BY m.joined",
    )
    .bind(group.uuid())
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(user, column)| Ok((UserId::new(user), role(column)?))).collect()
}

/// Where the leaver is the owner, and no active device of it stays in the group, hands its role to a user of whom one does.
pub(super) async fn hand_over_if_left(
    tx: &mut PgConnection,
    group: GroupId,
    leaver: UserId,
) -> Result<(), Error> {
    if role_of(tx, group, leaver).await? != Some(Role::Owner) {
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
