//! Changes of roster groups, roles and profiles.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{Context, Emitted, rows},
    admit,
    log::{self, Entered},
    members, rows as columns,
    windows::{self, Opening},
};
use crate::{
    domain::{
        Caller, Delivery, DeviceNo, EntryKind, Epoch, Group, GroupId, Position, Role, Timestamp, UserId,
    },
    store::{Allowed, RosterChange, RosterChanged, group_items::membership, group_rules::RosterPlan},
};

pub(super) async fn change(
    tx: &mut SqliteConnection,
    change: RosterChange,
    context: Context,
) -> Result<(RosterChanged, Emitted), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Emitted::default()));
    let Some(kept) = columns::find(tx, change.group_id).await? else {
        return refused(RosterChanged::NotMember);
    };
    let members = members::in_order(tx, change.group_id).await?;
    if !members.iter().any(|(user, _)| *user == change.by.user_id) {
        return refused(RosterChanged::NotMember);
    }
    if kept.is_mls() {
        return refused(RosterChanged::CommitRequired);
    }
    let plan = match RosterPlan::of(&change, &members) {
        Ok(plan) => plan,
        Err(refusal) => return refused(refusal),
    };
    if plan.is_empty() {
        return refused(RosterChanged::Changed(kept.group.epoch, kept.changed_at));
    }
    let after = members.len() + plan.added.len() - plan.removed.len();
    if let (false, Err(full)) = (plan.added.is_empty(), admit::fits(after, &context.limits)) {
        return refused(RosterChanged::CannotAdd(full));
    }
    let devices = match admit::devices_of(tx, &plan.added).await? {
        Ok(devices) => devices,
        Err(refusal) => return refused(RosterChanged::CannotAdd(refusal)),
    };
    if let Err(full) = admit::room(tx, change.by.user_id, &devices, &context.limits).await? {
        return refused(RosterChanged::CannotAdd(full));
    }
    if let Err(full) = admit::may_join(tx, change.group_id, &plan.added, &context.limits).await? {
        return refused(RosterChanged::CannotAdd(full));
    }
    let (epoch, position, emitted) = write(tx, &change.by, &kept.group, &plan, &devices, &context).await?;
    Ok((RosterChanged::Changed(epoch, position), emitted))
}

async fn write(
    tx: &mut SqliteConnection,
    by: &Caller,
    group: &Group,
    plan: &RosterPlan,
    devices: &[DeviceNo],
    context: &Context,
) -> Result<(Epoch, Position, Emitted), sqlx::Error> {
    let (id, now) = (group.group_id, context.now);
    let (epoch, position) = (group.epoch.next(), group.head.next());
    let body = membership(&plan.added, &plan.removed);
    let leavers = devices_of_members(tx, id, &plan.removed).await?;
    let entered = Entered {
        group: id,
        position,
        kind: EntryKind::Membership,
        by,
        digest: blake3::hash(&body).into(),
        epoch: group.epoch,
        body: Some(body),
        closes: windows::close(tx, id, &leavers, position).await?,
    };
    let entry = log::enter(tx, entered, now).await?;
    members::remove(tx, id, &plan.removed).await?;
    members::add(tx, id, &plan.added, Role::Member, true, now).await?;
    if let Some(heir) = plan.heir {
        members::set_role(tx, id, heir, Role::Owner).await?;
    }
    move_on(tx, id, epoch, position).await?;
    let window = |&device: &DeviceNo| Opening { device, group: id, after: position, epoch, welcome: None };
    let openings: Vec<_> = devices.iter().map(window).collect();
    let items = windows::open(tx, by, &openings, now).await?;
    Ok((epoch, position, Emitted { items, entries: vec![entry] }))
}

async fn move_on(
    tx: &mut SqliteConnection,
    group: GroupId,
    epoch: Epoch,
    position: Position,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE groups SET epoch = ?1, head = ?2, version = version + 1 WHERE group_id = ?3")
        .bind(epoch.0)
        .bind(position.0)
        .bind(group.uuid())
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE group_profiles SET changed_at = ? WHERE group_id = ?")
        .bind(position.0)
        .bind(group.uuid())
        .execute(tx)
        .await?;
    Ok(())
}

/// The devices of these users that have a window of the group.
async fn devices_of_members(
    tx: &mut SqliteConnection,
    group: GroupId,
    users: &[UserId],
) -> Result<Vec<DeviceNo>, sqlx::Error> {
    sqlx::query(
        "SELECT w.device_no FROM group_windows w JOIN devices d ON d.device_no = w.device_no \
         WHERE w.group_id = ? AND w.closed_at IS NULL AND d.user_id IN (SELECT unhex(value) FROM json_each(?)) \
         ORDER BY w.device_no",
    )
    .bind(group.uuid())
    .bind(rows::uuids(users.iter().map(|user| user.uuid())))
    .try_map(|row: SqliteRow| rows::device_no(&row, "device_no"))
    .fetch_all(tx)
    .await
}

/// A new device comes into the roster groups of its user, at their heads.
pub(in super::super) async fn join_all(
    tx: &mut SqliteConnection,
    newcomer: &Caller,
    now: Timestamp,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let openings = sqlx::query(
        "SELECT g.group_id, g.head, g.epoch FROM group_members m JOIN groups g ON g.group_id = m.group_id \
         WHERE m.user_id = ? AND g.handshake = 2 ORDER BY g.group_id",
    )
    .bind(newcomer.user_id.uuid())
    .try_map(|row: SqliteRow| {
        Ok(Opening {
            device: newcomer.device_no,
            group: columns::group_id(&row)?,
            after: rows::position(&row, "head")?,
            epoch: columns::epoch(&row, "epoch")?,
            welcome: None,
        })
    })
    .fetch_all(&mut *tx)
    .await?;
    let groups = rows::uuids(openings.iter().map(|opening| opening.group.uuid()));
    sqlx::query(
        "UPDATE groups SET version = version + 1 WHERE group_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(groups)
    .execute(&mut *tx)
    .await?;
    windows::open(tx, newcomer, &openings, now).await
}

/// A device that is deactivated has no windows any more; its leaves are dead.
pub(in super::super) async fn leave_all(
    tx: &mut SqliteConnection,
    device: DeviceNo,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE groups SET version = version + 1 WHERE group_id IN \
         (SELECT group_id FROM group_leaves WHERE device_no = ?1 UNION \
          SELECT group_id FROM group_windows WHERE device_no = ?1)",
    )
    .bind(device.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM group_windows WHERE device_no = ?").bind(device.0).execute(tx).await?;
    Ok(())
}

/// Whether a user has at least this role; if not, what to answer.
pub(super) async fn needs(
    tx: &mut SqliteConnection,
    group: GroupId,
    by: &Caller,
    least: Role,
) -> Result<Option<Allowed>, sqlx::Error> {
    Ok(match columns::role_of(tx, group, by.user_id).await? {
        None => Some(Allowed::NotMember),
        Some(role) => (role < least).then_some(Allowed::NotAllowed),
    })
}

pub(super) async fn describe(
    tx: &mut SqliteConnection,
    group: GroupId,
    by: Caller,
    name: Option<String>,
    description: Option<String>,
) -> Result<Allowed, sqlx::Error> {
    if let Some(refusal) = needs(tx, group, &by, Role::Admin).await? {
        return Ok(refusal);
    }
    sqlx::query(
        "UPDATE group_profiles SET name = coalesce(?, name), description = coalesce(?, description) \
         WHERE group_id = ?",
    )
    .bind(name)
    .bind(description)
    .bind(group.uuid())
    .execute(tx)
    .await?;
    Ok(Allowed::Done)
}

pub(super) async fn set_role(
    tx: &mut SqliteConnection,
    group: GroupId,
    by: Caller,
    user: UserId,
    role: Role,
) -> Result<Allowed, sqlx::Error> {
    if let Some(refusal) = needs(tx, group, &by, Role::Owner).await? {
        return Ok(refusal);
    }
    let Some(former) = columns::role_of(tx, group, user).await? else { return Ok(Allowed::Unknown) };
    if former == role {
        return Ok(Allowed::Done);
    }
    if former == Role::Owner {
        return Ok(Allowed::NotAllowed);
    }
    if role == Role::Owner {
        members::set_role(tx, group, by.user_id, Role::Admin).await?;
    }
    members::set_role(tx, group, user, role).await?;
    sqlx::query("UPDATE groups SET version = version + 1 WHERE group_id = ?")
        .bind(group.uuid())
        .execute(tx)
        .await?;
    Ok(Allowed::Done)
}
