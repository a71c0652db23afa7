//! A group moves into its next epoch.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::{
    super::{Context, Emitted},
    admit, epochs, invites,
    log::{self, Entered},
    members,
    rows::{self as columns, Kept},
    windows::{self, Opening},
};
use crate::{
    domain::{EntryKind, Epoch, Group, Position, UserId},
    store::{Advance, Advanced, CannotAdd, groups::oldest_epoch},
};

pub(super) async fn advance(
    tx: &mut SqliteConnection,
    advance: Advance,
    context: Context,
) -> Result<(Advanced, Emitted), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Emitted::default()));
    let of = epochs::Of { group: advance.group_id, generation: advance.generation, epoch: advance.epoch };
    if let Some(stored) = epochs::commit(tx, of).await?
        && (stored.sender, stored.digest) == (advance.by.device_no, advance.commit.digest)
    {
        return refused(Advanced::Repeated(stored.epoch.next(), stored.position));
    }
    let Some(kept) = columns::find(tx, advance.group_id).await?.filter(Kept::is_mls) else {
        return refused(Advanced::NotMember);
    };
    if !has_part(tx, &advance, &context).await? {
        return refused(Advanced::NotMember);
    }
    let group = &kept.group;
    let is_left_behind = group.rolled_back && advance.external.is_none();
    if (group.generation, group.epoch) != (advance.generation, advance.epoch) || is_left_behind {
        return refused(Advanced::Stale(group.epoch));
    }
    if kept.version != advance.version {
        return refused(Advanced::Changed);
    }
    if let Err(refusal) = admitted(tx, &advance, &context).await? {
        return refused(Advanced::CannotAdd(refusal));
    }
    let (epoch, position, emitted) = write(tx, &advance, group, &context).await?;
    Ok((Advanced::Advanced(epoch, position), emitted))
}

/// Whether the caller is in the group, or comes by an external commit that is still let in.
async fn has_part(
    tx: &mut SqliteConnection,
    advance: &Advance,
    context: &Context,
) -> Result<bool, sqlx::Error> {
    let (group, device) = (advance.group_id, advance.by.device_no);
    let Some(external) = advance.external else { return windows::is_open(tx, group, device).await };
    let is_let_in = match external.invite {
        Some(token) => invites::holds(tx, group, token, context.now).await?,
        None => columns::role_of(tx, group, advance.by.user_id).await?.is_some(),
    };
    Ok(is_let_in && admit::gone(tx, &[device]).await?.is_none())
}

async fn admitted(
    tx: &mut SqliteConnection,
    advance: &Advance,
    context: &Context,
) -> Result<Result<(), CannotAdd>, sqlx::Error> {
    let (by, limits) = (advance.by.user_id, &context.limits);
    let added = advance.joiners.len() + usize::from(advance.external.is_some());
    if added == 0 {
        return Ok(Ok(()));
    }
    let leaves = members::count_leaves(tx, advance.group_id, &advance.removed).await? + added;
    if let Err(full) = admit::fits(leaves, limits) {
        return Ok(Err(full));
    }
    if let Err(refusal) = admit::joiners(tx, by, &advance.joiners, limits).await? {
        return Ok(Err(refusal));
    }
    let own = advance.external.map(|_| advance.by.device_no);
    if let Err(full) = admit::room(tx, by, own.as_slice(), limits).await? {
        return Ok(Err(full));
    }
    let devices = own.into_iter().chain(advance.joiners.iter().map(|joiner| joiner.device_no));
    let mut users = admit::users_of(tx, devices).await?;
    let members = members::in_order(tx, advance.group_id).await?;
    let members: HashSet<UserId> = members.into_iter().map(|(user, _)| user).collect();
    users.retain(|user| !members.contains(user));
    admit::may_join(tx, advance.group_id, &users, limits).await
}

async fn write(
    tx: &mut SqliteConnection,
    advance: &Advance,
    group: &Group,
    context: &Context,
) -> Result<(Epoch, Position, Emitted), sqlx::Error> {
    let Advance { group_id, generation, commit, by, joiners, removed, .. } = advance;
    let (epoch, position, now) = (group.epoch.next(), group.head.next(), context.now);
    let of = |epoch| epochs::Of { group: *group_id, generation: *generation, epoch };
    let entered = Entered {
        group: *group_id,
        position,
        kind: EntryKind::Commit,
        by,
        digest: commit.digest,
        epoch: group.epoch,
        body: Some(commit.body.clone()),
        closes: windows::close(tx, *group_id, removed, position).await?,
    };
    let entry = log::enter(tx, entered, now).await?;
    epochs::end(tx, of(group.epoch), by.device_no, commit.digest, position).await?;
    epochs::open(tx, of(epoch), &advance.epoch_state, !joiners.is_empty(), now).await?;
    sqlx::query("DELETE FROM group_proposals WHERE group_id = ?")
        .bind(group_id.uuid())
        .execute(&mut *tx)
        .await?;
    members::remove_leaves(tx, *group_id, removed).await?;
    let leaves = joiners.iter().map(|joiner| (joiner.device_no, joiner.leaf_index));
    let external = advance.external.map(|external| (by.device_no, external.leaf_index));
    members::add_leaves(tx, *group_id, leaves.chain(external)).await?;
    members::follow_leaves(tx, *group_id, now).await?;
    admit::use_up(tx, joiners).await?;
    let oldest = oldest_epoch(group.oldest_epoch, epoch, !removed.is_empty(), context.limits.past_epochs);
    move_on(tx, &Group { epoch, oldest_epoch: oldest, head: position, ..group.clone() }).await?;
    let items = windows::open(tx, by, &openings(advance, epoch, position), now).await?;
    Ok((epoch, position, Emitted { items, entries: vec![entry] }))
}

async fn move_on(tx: &mut SqliteConnection, group: &Group) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE groups SET epoch = ?, oldest_epoch = ?, head = ?, rolled_back = 0, version = version + 1 \
         WHERE group_id = ?",
    )
    .bind(group.epoch.0)
    .bind(group.oldest_epoch.0)
    .bind(group.head.0)
    .bind(group.group_id.uuid())
    .execute(tx)
    .await?;
    Ok(())
}

/// The windows that open after the commit's entry.
fn openings(advance: &Advance, epoch: Epoch, after: Position) -> Vec<Opening> {
    let group = advance.group_id;
    let joiners = advance.joiners.iter().map(|joiner| (joiner.device_no, Some(joiner.welcome.clone())));
    let external = advance.external.map(|_| (advance.by.device_no, None));
    let window = |(device, welcome)| Opening { device, group, after, epoch, welcome };
    joiners.chain(external).map(window).collect()
}
