//! Changing who is in a roster group.

use std::sync::Arc;

use sqlx::{Error, PgConnection, PgPool};

use super::{
    super::rows::uuids,
    entries::{self, NewEntry},
    founding::{Handed, lock_users, rooms_of},
    openings::{self, Opening},
    roster_rows,
    rows::{Admission, Locked, lock},
};
use crate::{
    domain::{Delivery, DeviceNo, EntryKind, LogEntry, Position, Role, Timestamp, UserId},
    store::{
        CannotAdd, Limits, RosterChange, RosterChanged, group_items::membership, group_rules::RosterPlan,
    },
};

/// What became of the change, and what to hand to hot delivery; anything but a new entry rolls back.
pub(super) async fn change(
    pool: &PgPool,
    limits: Limits,
    change: &RosterChange,
    now: Timestamp,
) -> Result<(RosterChanged, Handed), Error> {
    let nothing = |became| Ok((became, Handed::default()));
    let mut tx = pool.begin().await?;
    if !change.add.is_empty() {
        lock_users(&mut tx, &change.add).await?;
    }
    let Some(mut locked) = lock(&mut tx, change.group_id).await? else {
        return nothing(RosterChanged::NotMember);
    };
    let members = roster_rows::in_order(&mut tx, change.group_id).await?;
    let is_member = members.iter().any(|(user, _)| *user == change.by.user_id);
    if is_member && locked.is_mls() {
        return nothing(RosterChanged::CommitRequired);
    }
    let plan = match RosterPlan::of(change, &members) {
        Ok(plan) => plan,
        Err(refused) => return nothing(refused),
    };
    if plan.is_empty() {
        let position = last_change(&mut tx, &locked).await?;
        return nothing(RosterChanged::Changed(locked.epoch, position));
    }
    let rooms = match admit(&mut tx, limits, change, (&plan, members.len())).await? {
        Ok(rooms) => rooms,
        Err(refused) => return nothing(RosterChanged::CannotAdd(refused)),
    };
    let entry = enter(&mut tx, &mut locked, change, &plan, now).await?;
    let opening = Opening {
        group_id: change.group_id,
        by: change.by.user_id,
        after: entry.position,
        epoch: locked.epoch,
    };
    let deliveries = add(&mut tx, opening, &plan.added, rooms, now).await?;
    remove(&mut tx, &locked, &plan).await?;
    locked.write(&mut tx).await?;
    tx.commit().await?;
    let changed = RosterChanged::Changed(locked.epoch, entry.position);
    Ok((changed, Handed { deliveries, entries: vec![entry] }))
}

/// The last membership entry, as it was given.
async fn last_change(tx: &mut PgConnection, locked: &Locked) -> Result<Position, Error> {
    sqlx::query_scalar("SELECT changed_at FROM group_profiles WHERE group_id = $1")
        .bind(locked.group_id.uuid())
        .fetch_one(tx)
        .await
        .map(Position)
}

async fn admit(
    tx: &mut PgConnection,
    limits: Limits,
    change: &RosterChange,
    (plan, members): (&RosterPlan, usize),
) -> Result<Admission<Vec<openings::Room>>, Error> {
    if plan.added.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    if members + plan.added.len() - plan.removed.len() > limits.max_members as usize {
        return Ok(Err(CannotAdd::GroupFull));
    }
    let rooms = match rooms_of(tx, limits, change.by.user_id, &plan.added).await? {
        Ok(rooms) => rooms,
        Err(refused) => return Ok(Err(refused)),
    };
    Ok(roster_rows::may_join(tx, limits, change.group_id, &plan.added).await?.map(|()| rooms))
}

/// Enters the change, which ends the windows of those who go, and moves the row along; it is still to be written back.
async fn enter(
    tx: &mut PgConnection,
    locked: &mut Locked,
    change: &RosterChange,
    plan: &RosterPlan,
    now: Timestamp,
) -> Result<Arc<LogEntry>, Error> {
    let (position, epoch) = (locked.next_position(), locked.epoch);
    let leaving = devices_in(tx, locked, &plan.removed).await?;
    let closes = match leaving.as_slice() {
        [] => Vec::new(),
        leaving => entries::close_windows(tx, change.group_id, Some(leaving), position).await?,
    };
    let body = membership(&plan.added, &plan.removed);
    let entry = NewEntry {
        position,
        kind: EntryKind::Membership,
        epoch,
        digest: blake3::hash(&body).into(),
        body: Some(body),
        closes,
    };
    locked.epoch = epoch.next();
    sqlx::query("UPDATE group_profiles SET changed_at = $2 WHERE group_id = $1")
        .bind(change.group_id.uuid())
        .bind(position.0)
        .execute(&mut *tx)
        .await?;
    entries::enter(tx, change.group_id, &change.by, entry, now).await
}

/// The devices of these users that have a window.
async fn devices_in(
    tx: &mut PgConnection,
    locked: &Locked,
    users: &[UserId],
) -> Result<Vec<DeviceNo>, Error> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let devices: Vec<i64> = sqlx::query_scalar(
        "SELECT w.device_no FROM mailboxes b JOIN group_windows w ON w.group_id = $1 \
            AND w.device_no = b.device_no AND w.closed_at IS NULL \
         WHERE b.user_id = ANY($2) ORDER BY w.device_no",
    )
    .bind(locked.group_id.uuid())
    .bind(uuids(users.iter().copied(), UserId::uuid))
    .fetch_all(tx)
    .await?;
    Ok(devices.into_iter().map(DeviceNo).collect())
}

async fn add(
    tx: &mut PgConnection,
    opening: Opening,
    users: &[UserId],
    rooms: Vec<openings::Room>,
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    roster_rows::add_users(tx, opening.group_id, users, (Role::Member, true), now).await?;
    let rooms: Vec<_> = rooms.into_iter().map(|room| (room, None)).collect();
    openings::open(tx, opening, &rooms, now).await
}

async fn remove(tx: &mut PgConnection, locked: &Locked, plan: &RosterPlan) -> Result<(), Error> {
    if plan.removed.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM group_members WHERE group_id = $1 AND user_id = ANY($2)")
        .bind(locked.group_id.uuid())
        .bind(uuids(plan.removed.iter().copied(), UserId::uuid))
        .execute(&mut *tx)
        .await?;
    match plan.heir {
        Some(heir) => roster_rows::set_role(tx, locked.group_id, heir, Role::Owner).await,
        None => Ok(()),
    }
}
