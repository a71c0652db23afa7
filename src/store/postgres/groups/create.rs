//! Making a group, and making it anew.

use sqlx::{Error, FromRow, PgConnection, PgPool};

use super::{
    super::{accept, rows::at},
    entries::{self, NewEntry},
    founding::{self, FIRST, Handed},
    rows::{Locked, lock, read_group, role_of},
};
use crate::{
    domain::{DeviceNo, EntryKind, Group, GroupId, Position, Role, Timestamp},
    store::{CannotAdd, Founding, GroupCreated, GroupReset, Limits, NewGroup, group_rules::is_of_a_pair},
};

/// What became of the group, and what to hand to hot delivery; anything but `Created` rolls back.
pub(super) async fn create(
    pool: &PgPool,
    limits: Limits,
    new: &NewGroup,
    now: Timestamp,
) -> Result<(GroupCreated, Handed), Error> {
    let state = founding::digested(new);
    if is_of_a_pair(new.group_id) {
        return Ok((GroupCreated::Exists, Handed::default()));
    }
    let mut tx = pool.begin().await?;
    if matches!(new.founding, Founding::Roster(_)) {
        let mut users = founding::further_members(new);
        users.push(new.by.user_id);
        founding::lock_users(&mut tx, &users).await?;
    }
    accept::lock_conversation(&mut tx, new.group_id.uuid()).await?;
    if let Some(taken) = taken(&mut tx, new).await? {
        return Ok((taken, Handed::default()));
    }
    let mut locked = insert(&mut tx, new, now).await?;
    match founding::found(&mut tx, limits, &mut locked, new, state.as_ref(), now).await? {
        Ok(handed) => {
            locked.write(&mut tx).await?;
            let group = read_group(&mut tx, new.group_id).await?;
            tx.commit().await?;
            Ok((GroupCreated::Created(group), handed))
        }
        Err(refused) if is_founder(refused, new) => Ok((GroupCreated::Gone, Handed::default())),
        Err(refused) => Ok((GroupCreated::CannotAdd(refused), Handed::default())),
    }
}

/// Whether it is the founder's own device that is gone.
fn is_founder(refused: CannotAdd, new: &NewGroup) -> bool {
    match refused {
        CannotAdd::DeviceGone(device) => device == new.by.device_no,
        CannotAdd::UserUnknown(user) => user == new.by.user_id,
        CannotAdd::PackageUsed(_)
        | CannotAdd::MailboxFull
        | CannotAdd::GroupFull
        | CannotAdd::TooManyGroups(_) => false,
    }
}

#[derive(FromRow)]
struct FoundingRow {
    founder_no: i64,
    founding: Vec<u8>,
}

/// What the id is already, under the lock of its name.
async fn taken(tx: &mut PgConnection, new: &NewGroup) -> Result<Option<GroupCreated>, Error> {
    let row: Option<FoundingRow> =
        sqlx::query_as("SELECT founder_no, founding FROM group_profiles WHERE group_id = $1")
            .bind(new.group_id.uuid())
            .fetch_optional(&mut *tx)
            .await?;
    if let Some(row) = row {
        let same = row.founder_no == new.by.device_no.0 && row.founding == new.digest;
        if !same {
            return Ok(Some(GroupCreated::Exists));
        }
        return Ok(Some(GroupCreated::Repeated(read_group(tx, new.group_id).await?)));
    }
    let is_conversation: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM messages WHERE conversation_id = $1)")
            .bind(new.group_id.uuid())
            .fetch_one(tx)
            .await?;
    Ok(is_conversation.then_some(GroupCreated::Exists))
}

fn suite(new: &NewGroup) -> Option<i16> {
    match &new.founding {
        Founding::Roster(_) => None,
        Founding::Mls(mls) => i16::try_from(mls.cipher_suite.number()).ok(),
    }
}

async fn insert(tx: &mut PgConnection, new: &NewGroup, now: Timestamp) -> Result<Locked, Error> {
    sqlx::query(
        "INSERT INTO groups (group_id, handshake, external_join, cipher_suite) VALUES ($1, $2, $3, $4)",
    )
    .bind(new.group_id.uuid())
    .bind(new.handshake as i16)
    .bind(new.external_join as i16)
    .bind(suite(new))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO group_profiles (group_id, name, description, created_by, created_at, founder_no, founding) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.group_id.uuid())
    .bind(new.name.as_deref())
    .bind(new.description.as_deref())
    .bind(new.by.user_id.uuid())
    .bind(at(now))
    .bind(new.by.device_no.0)
    .bind(new.digest.as_slice())
    .execute(tx)
    .await?;
    Ok(Locked {
        group_id: new.group_id,
        handshake: new.handshake,
        generation: 0,
        epoch: FIRST,
        oldest_epoch: FIRST,
        version: 0,
        head: Position::START,
        rolled_back: false,
    })
}

/// What became of the reset, and what to hand to hot delivery; anything but `Reset` rolls back.
pub(super) async fn reset(
    pool: &PgPool,
    limits: Limits,
    new: &NewGroup,
    generation: i64,
    now: Timestamp,
) -> Result<(GroupReset, Handed), Error> {
    let nothing = |became| Ok((became, Handed::default()));
    let state = founding::digested(new);
    let mut tx = pool.begin().await?;
    let locked = lock(&mut tx, new.group_id).await?;
    let Some(mut locked) = locked.filter(Locked::is_mls) else {
        return nothing(GroupReset::NotMember);
    };
    let Some(role) = role_of(&mut tx, new.group_id, new.by.user_id).await? else {
        return nothing(GroupReset::NotMember);
    };
    if let Some((group, position)) = repeated(&mut tx, &locked, new, generation).await? {
        return nothing(GroupReset::Repeated(group, position));
    }
    if role != Role::Owner {
        return nothing(GroupReset::NotAllowed);
    }
    let weaker = new.handshake as i16 > locked.handshake as i16;
    if locked.generation != generation || weaker || state.is_none() {
        return nothing(GroupReset::Changed);
    }
    let (position, mut handed) = end_generation(&mut tx, &mut locked, new, now).await?;
    match founding::found(&mut tx, limits, &mut locked, new, state.as_ref(), now).await? {
        Ok(founded) => {
            handed.deliveries.extend(founded.deliveries);
            handed.entries.extend(founded.entries);
            locked.write(&mut tx).await?;
            let group = read_group(&mut tx, new.group_id).await?;
            tx.commit().await?;
            Ok((GroupReset::Reset(group, position), handed))
        }
        Err(refused) if is_founder(refused, new) => nothing(GroupReset::NotMember),
        Err(refused) => nothing(GroupReset::CannotAdd(refused)),
    }
}

/// The group and its reset entry, if the same device did this very reset.
async fn repeated(
    tx: &mut PgConnection,
    locked: &Locked,
    new: &NewGroup,
    generation: i64,
) -> Result<Option<(Group, Position)>, Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "SELECT reset_at FROM group_profiles WHERE group_id = $1 AND reset_by = $2 AND reset_digest = $3",
    )
    .bind(new.group_id.uuid())
    .bind(new.by.device_no.0)
    .bind(new.digest.as_slice())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(position) = position.filter(|_| locked.generation == generation + 1) else { return Ok(None) };
    Ok(Some((read_group(tx, new.group_id).await?, Position(position))))
}

/// What hangs on one generation. Commits stay: they are numbered by generation, and go with their entries.
const WIPE: [&str; 6] = [
    "DELETE FROM group_leaves WHERE group_id = $1",
    "DELETE FROM group_members WHERE group_id = $1",
    "DELETE FROM group_proposals WHERE group_id = $1",
    "DELETE FROM group_invites WHERE group_id = $1",
    "DELETE FROM group_reports WHERE group_id = $1",
    "DELETE FROM group_trees WHERE group_id = $1",
];

/// Writes the reset entry, which ends every window, and leaves the group empty in epoch 0 of the next generation.
async fn end_generation(
    tx: &mut PgConnection,
    locked: &mut Locked,
    new: &NewGroup,
    now: Timestamp,
) -> Result<(Position, Handed), Error> {
    let group: GroupId = locked.group_id;
    let position = locked.next_position();
    let closes = entries::close_windows(tx, group, None, position).await?;
    let entry = NewEntry {
        position,
        kind: EntryKind::Reset,
        epoch: locked.epoch,
        digest: new.digest,
        body: None,
        closes,
    };
    let entry = entries::enter(tx, group, &new.by, entry, now).await?;
    for statement in WIPE {
        sqlx::query(statement).bind(group.uuid()).execute(&mut *tx).await?;
    }
    sqlx::query(
        "UPDATE group_profiles SET name = coalesce($2, name), description = coalesce($3, description), \
            reset_by = $4, reset_digest = $5, reset_at = $6 WHERE group_id = $1",
    )
    .bind(group.uuid())
    .bind(new.name.as_deref())
    .bind(new.description.as_deref())
    .bind(new.by.device_no.0)
    .bind(new.digest.as_slice())
    .bind(position.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE groups SET handshake = $2, external_join = $3, cipher_suite = $4 WHERE group_id = $1",
    )
    .bind(group.uuid())
    .bind(new.handshake as i16)
    .bind(new.external_join as i16)
    .bind(suite(new))
    .execute(tx)
    .await?;
    locked.generation += 1;
    locked.handshake = new.handshake;
    (locked.epoch, locked.oldest_epoch) = (FIRST, FIRST);
    locked.rolled_back = false;
    Ok((position, Handed { deliveries: Vec::new(), entries: vec![entry] }))
}

/// Where a generation of the group began by this request of this device.
pub(super) async fn founding_of(
    pool: &PgPool,
    group: GroupId,
    by: DeviceNo,
    digest: [u8; 32],
) -> Result<Option<Position>, Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "SELECT CASE WHEN reset_by = $2 AND reset_digest = $3 THEN reset_at ELSE 0 END FROM group_profiles \
         WHERE group_id = $1 AND ((founder_no = $2 AND founding = $3) OR (reset_by = $2 AND reset_digest = $3))",
    )
    .bind(group.uuid())
    .bind(by.0)
    .bind(digest.as_slice())
    .fetch_optional(pool)
    .await?;
    Ok(position.map(Position))
}
