//! Changing who is in a roster group.

use std::{collections::HashMap, sync::Arc};

use sqlx::{Error, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    super::rows::uuids,
    entries::{self, NewEntry},
    founding::{Handed, lock_users, rooms_of},
    openings::{self, Opening},
    roster_rows,
    rows::{Admission, Locked, lock, role},
};
use crate::{
    domain::{Delivery, DeviceNo, EntryKind, Handshake, LogEntry, Position, Role, Timestamp, UserId},
    store::{CannotAdd, Limits, RosterChange, RosterChanged, group_items::membership},
};

/// Who comes and who goes, each once.
struct Difference {
    added: Vec<UserId>,
    removed: Vec<UserId>,
}

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
    let difference = match difference(&mut tx, &locked, change).await? {
        Ok(difference) => difference,
        Err(refused) => return nothing(refused),
    };
    if difference.added.is_empty() && difference.removed.is_empty() {
        let position = last_change(&mut tx, &locked).await?;
        return nothing(RosterChanged::Changed(locked.epoch, position));
    }
    let rooms = match admit(&mut tx, limits, change, &difference).await? {
        Ok(rooms) => rooms,
        Err(refused) => return nothing(RosterChanged::CannotAdd(refused)),
    };
    let entry = enter(&mut tx, &mut locked, change, &difference, now).await?;
    let opening = Opening {
        group_id: change.group_id,
        by: change.by.user_id,
        after: entry.position,
        epoch: locked.epoch,
    };
    let deliveries = add(&mut tx, opening, &difference.added, rooms, now).await?;
    remove(&mut tx, &locked, &difference.removed).await?;
    locked.write(&mut tx).await?;
    tx.commit().await?;
    let changed = RosterChanged::Changed(locked.epoch, entry.position);
    Ok((changed, Handed { deliveries, entries: vec![entry] }))
}

/// What really changes, or why nothing may.
async fn difference(
    tx: &mut PgConnection,
    locked: &Locked,
    change: &RosterChange,
) -> Result<Result<Difference, RosterChanged>, Error> {
    let named = change.add.iter().chain(&change.remove).copied().chain([change.by.user_id]);
    let rows: Vec<(Uuid, i16)> =
        sqlx::query_as("SELECT user_id, role FROM group_members WHERE group_id = $1 AND user_id = ANY($2)")
            .bind(locked.group_id.uuid())
            .bind(uuids(named, UserId::uuid))
            .fetch_all(tx)
            .await?;
    let mut roles = HashMap::new();
    for (user, column) in rows {
        roles.insert(UserId::new(user), role(column)?);
    }
    let own = change.by.user_id;
    let Some(own_role) = roles.get(&own).copied() else { return Ok(Err(RosterChanged::NotMember)) };
    if locked.handshake != Handshake::None {
        return Ok(Err(RosterChanged::CommitRequired));
    }
    let others = change.remove.iter().any(|user| *user != own) || !change.add.is_empty();
    let the_owner = change.remove.iter().any(|user| *user != own && roles.get(user) == Some(&Role::Owner));
    if (others && own_role < Role::Admin) || the_owner {
        return Ok(Err(RosterChanged::NotAllowed));
    }
    if change.remove.iter().any(|user| !roles.contains_key(user)) {
        return Ok(Err(RosterChanged::Unknown));
    }
    let mut difference = Difference { added: Vec::new(), removed: change.remove.clone() };
    difference.removed.sort_unstable();
    difference.removed.dedup();
    for user in &change.add {
        if !roles.contains_key(user) && !difference.added.contains(user) {
            difference.added.push(*user);
        }
    }
    Ok(Ok(difference))
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
    difference: &Difference,
) -> Result<Admission<Vec<openings::Room>>, Error> {
    if difference.added.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM group_members WHERE group_id = $1")
        .bind(change.group_id.uuid())
        .fetch_one(&mut *tx)
        .await?;
    let number = |users: &[UserId]| i64::try_from(users.len()).unwrap_or(i64::MAX);
    let after = users.saturating_sub(number(&difference.removed)).saturating_add(number(&difference.added));
    if after > i64::from(limits.max_members) {
        return Ok(Err(CannotAdd::GroupFull));
    }
    rooms_of(tx, limits, change.by.user_id, &difference.added).await
}

/// Enters the change, which ends the windows of those who go, and moves the row along; it is still to be written back.
async fn enter(
    tx: &mut PgConnection,
    locked: &mut Locked,
    change: &RosterChange,
    difference: &Difference,
    now: Timestamp,
) -> Result<Arc<LogEntry>, Error> {
    let (position, epoch) = (locked.next_position(), locked.epoch);
    let leaving = devices_in(tx, locked, &difference.removed).await?;
    let closes = match leaving.as_slice() {
        [] => Vec::new(),
        leaving => entries::close_windows(tx, change.group_id, Some(leaving), position).await?,
    };
    let body = membership(&difference.added, &difference.removed);
    let entry = NewEntry {
        position,
        kind: EntryKind::Membership,
        epoch,
        digest: blake3::hash(&body).into(),
        body: Some(body),
        closes,
    };
    locked.epoch = epoch.next();
    locked.oldest_epoch = locked.epoch;
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

async fn remove(tx: &mut PgConnection, locked: &Locked, users: &[UserId]) -> Result<(), Error> {
    if users.is_empty() {
        return Ok(());
    }
    sqlx::query("DELETE FROM group_members WHERE group_id = $1 AND user_id = ANY($2)")
        .bind(locked.group_id.uuid())
        .bind(uuids(users.iter().copied(), UserId::uuid))
        .execute(&mut *tx)
        .await?;
    roster_rows::hand_over(tx, locked.group_id).await
}
