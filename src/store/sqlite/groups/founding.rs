//! How groups begin: made, and made anew.

use std::collections::HashSet;

use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    super::{Context, Emitted},
    admit, epochs,
    log::{self, Entered},
    members,
    rows::{self as columns, Kept},
    windows::{self, Opening},
};
use crate::{
    domain::{DeviceNo, EntryKind, Epoch, Group, GroupId, Position, Role, UserId},
    store::{
        CannotAdd, Founding, GroupCreated, GroupReset, Joiner, MlsFounding, NewGroup,
        group_rules::is_of_a_pair, groups::oldest_epoch,
    },
};

pub(super) async fn create(
    tx: &mut SqliteConnection,
    new: NewGroup,
    context: Context,
) -> Result<(GroupCreated, Emitted), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Emitted::default()));
    if let Some(kept) = columns::find(tx, new.group_id).await? {
        let same = kept.founding == (new.by.device_no, new.digest);
        return refused(if same { GroupCreated::Repeated(kept.group) } else { GroupCreated::Exists });
    }
    if is_of_a_pair(new.group_id) || is_conversation(tx, new.group_id).await? {
        return refused(GroupCreated::Exists);
    }
    if admit::gone(tx, &[new.by.device_no]).await?.is_some() {
        return refused(GroupCreated::Gone);
    }
    let devices = match admitted(tx, &new, &context).await? {
        Ok(devices) => devices,
        Err(refusal) => return refused(GroupCreated::CannotAdd(refusal)),
    };
    insert(tx, &new, &context).await?;
    let emitted =
        begin(tx, &new, Start { generation: 0, after: Position::START }, &devices, &context).await?;
    Ok((GroupCreated::Created(columns::get(tx, new.group_id).await?), emitted))
}

async fn is_conversation(tx: &mut SqliteConnection, group: GroupId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM messages WHERE conversation_id = ?)")
        .bind(group.uuid())
        .fetch_one(tx)
        .await
}

/// The users of a roster group: the founder, and the others once each.
fn users(founder: UserId, others: &[UserId]) -> Vec<UserId> {
    let mut seen = HashSet::new();
    std::iter::once(founder).chain(others.iter().copied()).filter(|user| seen.insert(*user)).collect()
}

/// The devices whose windows open with a founding, or why not all can. Those that a Welcome is for are not among them.
async fn admitted(
    tx: &mut SqliteConnection,
    new: &NewGroup,
    context: &Context,
) -> Result<Result<Vec<DeviceNo>, CannotAdd>, sqlx::Error> {
    let (by, limits) = (new.by.user_id, &context.limits);
    let (devices, users) = match &new.founding {
        Founding::Roster(others) => {
            let users = users(by, others);
            if let Err(full) = admit::fits(users.len(), limits) {
                return Ok(Err(full));
            }
            match admit::devices_of(tx, &users).await? {
                Ok(devices) => (devices, users),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Founding::Mls(founding) => {
            if let Err(full) = admit::fits(founding.joiners.len() + 1, limits) {
                return Ok(Err(full));
            }
            if let Err(refusal) = admit::joiners(tx, by, &founding.joiners, limits).await? {
                return Ok(Err(refusal));
            }
            let joiners = founding.joiners.iter().map(|joiner| joiner.device_no);
            let all = std::iter::once(new.by.device_no).chain(joiners);
            (vec![new.by.device_no], admit::users_of(tx, all).await?)
        }
    };
    if let Err(full) = admit::room(tx, by, &devices, limits).await? {
        return Ok(Err(full));
    }
    Ok(admit::may_join(tx, new.group_id, &users, limits).await?.map(|()| devices))
}

async fn insert(tx: &mut SqliteConnection, new: &NewGroup, context: &Context) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO groups (group_id, handshake, external_join) VALUES (?, ?, ?)")
        .bind(new.group_id.uuid())
        .bind(new.handshake as i64)
        .bind(new.external_join as i64)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO group_profiles (group_id, name, description, created_by, created_at, founder_no, founding) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.group_id.uuid())
    .bind(new.name.as_deref())
    .bind(new.description.as_deref())
    .bind(new.by.user_id.uuid())
    .bind(context.now.millis())
    .bind(new.by.device_no.0)
    .bind(new.digest.to_vec())
    .execute(tx)
    .await?;
    Ok(())
}

/// Where a founding begins.
#[derive(Clone, Copy)]
struct Start {
    generation: i64,
    /// The position before its first entry.
    after: Position,
}

/// Fills a group without members.
async fn begin(
    tx: &mut SqliteConnection,
    new: &NewGroup,
    start: Start,
    devices: &[DeviceNo],
    context: &Context,
) -> Result<Emitted, sqlx::Error> {
    let (group, now) = (new.group_id, context.now);
    let Start { after, .. } = start;
    let mut emitted = Emitted::default();
    let window = |&device: &DeviceNo| Opening { device, group, after, epoch: Epoch(0), welcome: None };
    let mut openings: Vec<_> = devices.iter().map(window).collect();
    members::add(tx, group, &[new.by.user_id], Role::Owner, false, now).await?;
    match &new.founding {
        Founding::Roster(others) => {
            let others = users(new.by.user_id, others);
            members::add(tx, group, &others[1..], Role::Member, true, now).await?;
        }
        Founding::Mls(founding) => {
            openings.extend(begin_mls(tx, new, founding, start, &mut emitted, context).await?);
        }
    }
    emitted.items = windows::open(tx, &new.by, &openings, now).await?;
    Ok(emitted)
}

/// The MLS side of a founding; returns the windows of those who join by Welcomes.
async fn begin_mls(
    tx: &mut SqliteConnection,
    new: &NewGroup,
    founding: &MlsFounding,
    start: Start,
    emitted: &mut Emitted,
    context: &Context,
) -> Result<Vec<Opening>, sqlx::Error> {
    let (group, now) = (new.group_id, context.now);
    let Start { generation, after } = start;
    let (mut epoch, mut head) = (Epoch(0), after);
    if let Some(commit) = &founding.commit {
        head = after.next();
        let entered = Entered {
            group,
            position: head,
            kind: EntryKind::Commit,
            by: &new.by,
            digest: commit.digest,
            epoch,
            body: Some(commit.body.clone()),
            closes: Vec::new(),
        };
        emitted.entries.push(log::enter(tx, entered, now).await?);
        let of = epochs::Of { group, generation, epoch };
        epochs::end(tx, of, new.by.device_no, commit.digest, head).await?;
        epoch = epoch.next();
    }
    let joiners = &founding.joiners;
    let of = epochs::Of { group, generation, epoch };
    epochs::open(tx, of, &founding.epoch_state, !joiners.is_empty(), now).await?;
    let leaves = joiners.iter().map(|joiner| (joiner.device_no, joiner.leaf_index));
    members::add_leaves(tx, group, std::iter::once((new.by.device_no, Some(0))).chain(leaves)).await?;
    members::follow_leaves(tx, group, now).await?;
    admit::use_up(tx, joiners).await?;
    sqlx::query(
        "UPDATE groups SET cipher_suite = ?, epoch = ?, oldest_epoch = ?, head = ? WHERE group_id = ?",
    )
    .bind(i64::from(founding.cipher_suite.number()))
    .bind(epoch.0)
    .bind(oldest_epoch(Epoch(0), epoch, false, context.limits.past_epochs).0)
    .bind(head.0)
    .bind(group.uuid())
    .execute(tx)
    .await?;
    let window = |joiner: &Joiner| Opening {
        device: joiner.device_no,
        group,
        after: head,
        epoch,
        welcome: Some(joiner.welcome.clone()),
    };
    Ok(joiners.iter().map(window).collect())
}

pub(super) async fn reset(
    tx: &mut SqliteConnection,
    new: NewGroup,
    generation: i64,
    context: Context,
) -> Result<(GroupReset, Emitted), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Emitted::default()));
    let Some(kept) = columns::find(tx, new.group_id).await?.filter(Kept::is_mls) else {
        return refused(GroupReset::NotMember);
    };
    let Some(role) = columns::role_of(tx, new.group_id, new.by.user_id).await? else {
        return refused(GroupReset::NotMember);
    };
    let same = kept.reset == Some((new.by.device_no, new.digest));
    if same && kept.group.generation == generation + 1 {
        return refused(GroupReset::Repeated(kept.group, kept.reset_at));
    }
    if role != Role::Owner {
        return refused(GroupReset::NotAllowed);
    }
    let is_weaker = new.handshake as i64 > kept.group.handshake as i64;
    if kept.group.generation != generation || is_weaker {
        return refused(GroupReset::Changed);
    }
    if admit::gone(tx, &[new.by.device_no]).await?.is_some() {
        return refused(GroupReset::NotMember);
    }
    let devices = match admitted(tx, &new, &context).await? {
        Ok(devices) => devices,
        Err(refusal) => return refused(GroupReset::CannotAdd(refusal)),
    };
    let (position, emitted) = anew(tx, &new, &kept.group, &devices, &context).await?;
    Ok((GroupReset::Reset(columns::get(tx, new.group_id).await?, position), emitted))
}

/// Ends what a group was, and begins it anew after the entry that says so.
async fn anew(
    tx: &mut SqliteConnection,
    new: &NewGroup,
    old: &Group,
    devices: &[DeviceNo],
    context: &Context,
) -> Result<(Position, Emitted), sqlx::Error> {
    let (group, position) = (new.group_id, old.head.next());
    let entered = Entered {
        group,
        position,
        kind: EntryKind::Reset,
        by: &new.by,
        digest: new.digest,
        epoch: old.epoch,
        body: None,
        closes: windows::close_all(tx, group, position).await?,
    };
    let entry = log::enter(tx, entered, context.now).await?;
    for clear in [
        "DELETE FROM group_members WHERE group_id = ?",
        "DELETE FROM group_leaves WHERE group_id = ?",
        "DELETE FROM group_proposals WHERE group_id = ?",
        "DELETE FROM group_invites WHERE group_id = ?",
        "DELETE FROM group_reports WHERE group_id = ?",
        "DELETE FROM group_trees WHERE group_id = ?",
    ] {
        sqlx::query(clear).bind(group.uuid()).execute(&mut *tx).await?;
    }
    let generation = old.generation + 1;
    renew(tx, new, generation, position).await?;
    let mut emitted = begin(tx, new, Start { generation, after: position }, devices, context).await?;
    emitted.entries.insert(0, entry);
    Ok((position, emitted))
}

async fn renew(
    tx: &mut SqliteConnection,
    new: &NewGroup,
    generation: i64,
    reset_at: Position,
) -> Result<(), sqlx::Error> {
    let group: Uuid = new.group_id.uuid();
    sqlx::query(
        "UPDATE groups SET handshake = ?, external_join = ?, generation = ?, epoch = 0, oldest_epoch = 0, \
         version = version + 1, head = ?, rolled_back = 0 WHERE group_id = ?",
    )
    .bind(new.handshake as i64)
    .bind(new.external_join as i64)
    .bind(generation)
    .bind(reset_at.0)
    .bind(group)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE group_profiles SET name = coalesce(?, name), description = coalesce(?, description), \
         reset_by = ?, reset_digest = ?, reset_at = ? WHERE group_id = ?",
    )
    .bind(new.name.as_deref())
    .bind(new.description.as_deref())
    .bind(new.by.device_no.0)
    .bind(new.digest.to_vec())
    .bind(reset_at.0)
    .bind(group)
    .execute(tx)
    .await?;
    Ok(())
}

/// Where a generation of the group began by this request of this device.
pub(super) async fn founding_of(
    conn: &mut SqliteConnection,
    group: GroupId,
    by: DeviceNo,
    digest: [u8; 32],
) -> Result<Option<Position>, sqlx::Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "SELECT CASE WHEN reset_by = ?2 AND reset_digest = ?3 THEN reset_at ELSE 0 END FROM group_profiles \
         WHERE group_id = ?1 AND ((founder_no = ?2 AND founding = ?3) OR (reset_by = ?2 AND reset_digest = ?3))",
    )
    .bind(group.uuid().as_bytes().as_slice())
    .bind(by.0)
    .bind(digest.as_slice())
    .fetch_optional(conn)
    .await?;
    Ok(position.map(Position))
}
