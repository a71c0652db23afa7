//! Who is in a group that is made or made anew, and its first entries.

use std::{collections::HashSet, sync::Arc};

use sqlx::{Error, PgConnection};
use uuid::Uuid;

use super::{
    entries::{self, NewEntry},
    epochs::{self, Digested},
    joining,
    openings::{self, Opening, Room},
    roster_rows,
    rows::{Admission, Locked},
};
use crate::{
    domain::{Delivery, DeviceNo, EntryKind, Epoch, LogEntry, Role, Timestamp, UserId},
    store::{CannotAdd, Founding, Limits, MlsFounding, NewGroup, groups::oldest_epoch},
};

/// What to hand to hot delivery once committed.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) entries: Vec<Arc<LogEntry>>,
}

/// The further members of a roster group, each once; none of an MLS group.
pub(super) fn further_members(new: &NewGroup) -> Vec<UserId> {
    let Founding::Roster(users) = &new.founding else { return Vec::new() };
    let mut seen = HashSet::from([new.by.user_id]);
    users.iter().copied().filter(|user| seen.insert(*user)).collect()
}

/// The state of an MLS group's first epoch, digested.
pub(super) fn digested(new: &NewGroup) -> Option<Digested<'_>> {
    match &new.founding {
        Founding::Roster(_) => None,
        Founding::Mls(mls) => Some(Digested::of(&mls.epoch_state)),
    }
}

/// Fills the group, whose row is locked and in epoch 0, and moves the row along; it is still to be written back. In a roster
/// group the users' rows must be locked.
pub(super) async fn found(
    tx: &mut PgConnection,
    limits: Limits,
    locked: &mut Locked,
    new: &NewGroup,
    state: Option<&Digested<'_>>,
    now: Timestamp,
) -> Result<Admission<Handed>, Error> {
    match (&new.founding, state) {
        (Founding::Mls(mls), Some(state)) => found_mls(tx, limits, locked, new, (mls, state), now).await,
        (Founding::Mls(_) | Founding::Roster(_), _) => found_roster(tx, limits, locked, new, now).await,
    }
}

async fn found_mls(
    tx: &mut PgConnection,
    limits: Limits,
    locked: &mut Locked,
    new: &NewGroup,
    (mls, state): (&MlsFounding, &Digested<'_>),
    now: Timestamp,
) -> Result<Admission<Handed>, Error> {
    if mls.joiners.len() >= limits.max_members as usize {
        return Ok(Err(CannotAdd::GroupFull));
    }
    let (group_id, by) = (locked.group_id, &new.by);
    let admitted = match joining::admit(tx, limits, by.user_id, Some(by.device_no), &mls.joiners).await? {
        Ok(admitted) => admitted,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(own) = admitted.own else { return Ok(Err(CannotAdd::DeviceGone(by.device_no))) };
    if let Err(refused) = roster_rows::may_join(tx, limits, group_id, &admitted.users()).await? {
        return Ok(Err(refused));
    }
    let opening = Opening { group_id, by: by.user_id, after: locked.head, epoch: locked.epoch };
    let deliveries = joining::seat_caller(tx, opening, by, (own, Some(0), Role::Owner), now).await?;
    let mut handed = Handed { deliveries, ..Handed::default() };
    if let Some(commit) = &mls.commit {
        let (position, epoch) = (locked.next_position(), locked.epoch);
        let entry = NewEntry {
            position,
            kind: EntryKind::Commit,
            epoch,
            digest: commit.digest,
            body: Some(commit.body.clone()),
            closes: Vec::new(),
        };
        handed.entries.push(entries::enter(tx, group_id, by, entry, now).await?);
        let of = (locked.generation, epoch);
        epochs::note_commit(tx, group_id, of, (by, commit.digest), position).await?;
        locked.epoch = epoch.next();
        locked.oldest_epoch = oldest_epoch(locked.oldest_epoch, locked.epoch, false, limits.past_epochs);
        let opening = Opening { after: position, epoch: locked.epoch, ..opening };
        handed.deliveries.extend(admitted.seat(tx, opening, now).await?);
    }
    let of = (locked.generation, locked.epoch);
    epochs::write(tx, group_id, of, state, admitted.any(), now).await?;
    Ok(Ok(handed))
}

async fn found_roster(
    tx: &mut PgConnection,
    limits: Limits,
    locked: &Locked,
    new: &NewGroup,
    now: Timestamp,
) -> Result<Admission<Handed>, Error> {
    let further = further_members(new);
    if further.len() >= limits.max_members as usize {
        return Ok(Err(CannotAdd::GroupFull));
    }
    let users: Vec<UserId> = std::iter::once(new.by.user_id).chain(further.iter().copied()).collect();
    let rooms = match rooms_of(tx, limits, new.by.user_id, &users).await? {
        Ok(rooms) => rooms,
        Err(refused) => return Ok(Err(refused)),
    };
    if !rooms.iter().any(|room| room.device_no == new.by.device_no) {
        return Ok(Err(CannotAdd::DeviceGone(new.by.device_no)));
    }
    let group = locked.group_id;
    if let Err(refused) = roster_rows::may_join(tx, limits, group, &users).await? {
        return Ok(Err(refused));
    }
    roster_rows::add_users(tx, group, &[new.by.user_id], (Role::Owner, false), now).await?;
    roster_rows::add_users(tx, group, &further, (Role::Member, true), now).await?;
    let opening = Opening { group_id: group, by: new.by.user_id, after: locked.head, epoch: locked.epoch };
    let rooms: Vec<_> = rooms.into_iter().map(|room| (room, None)).collect();
    let deliveries = openings::open(tx, opening, &rooms, now).await?;
    Ok(Ok(Handed { deliveries, entries: Vec::new() }))
}

/// Locks the mailboxes of all devices of these users, whose rows are locked, and sees that an item fits into each.
pub(super) async fn rooms_of(
    tx: &mut PgConnection,
    limits: Limits,
    by: UserId,
    users: &[UserId],
) -> Result<Admission<Vec<Room>>, Error> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    let devices: Vec<i64> =
        sqlx::query_scalar("SELECT device_no FROM mailboxes WHERE user_id = ANY($1) ORDER BY device_no")
            .bind(ids)
            .fetch_all(&mut *tx)
            .await?;
    let devices: Vec<DeviceNo> = devices.into_iter().map(DeviceNo).collect();
    let mut rooms = openings::lock_mailboxes(tx, &devices).await?;
    let there: HashSet<UserId> = rooms.iter().map(|room| room.user_id).collect();
    if let Some(unknown) = users.iter().find(|user| !there.contains(user)) {
        return Ok(Err(CannotAdd::UserUnknown(*unknown)));
    }
    let fits = openings::have_room(tx, &mut rooms, by, limits).await?;
    Ok(if fits { Ok(rooms) } else { Err(CannotAdd::MailboxFull) })
}

/// Locks the rows of these users against devices that come and go, in the order of locks.
pub(super) async fn lock_users(tx: &mut PgConnection, users: &[UserId]) -> Result<(), Error> {
    let ids: Vec<Uuid> = users.iter().map(|user| user.uuid()).collect();
    sqlx::query("SELECT FROM users WHERE user_id = ANY($1) ORDER BY user_id FOR KEY SHARE")
        .bind(ids)
        .execute(tx)
        .await?;
    Ok(())
}

/// The beginning of a group's epochs.
pub(super) const FIRST: Epoch = Epoch(0);
