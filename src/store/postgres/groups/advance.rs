//! Moving an MLS group into its next epoch.

use std::{collections::HashSet, sync::Arc};

use sqlx::{Error, PgConnection, PgPool};

use super::{
    entries::{self, NewEntry},
    epochs::{self, Digested},
    founding::Handed,
    joining::{self, Admitted},
    openings::Opening,
    roster_rows,
    rows::{Admission, Locked, lock, may_write, role_of},
};
use crate::{
    domain::{EntryKind, LogEntry, Role, Timestamp, UserId},
    store::{Advance, Advanced, CannotAdd, Limits, groups::oldest_epoch},
};

/// What became of the commit, and what to hand to hot delivery; anything but `Advanced` rolls back.
pub(super) async fn advance(
    pool: &PgPool,
    limits: Limits,
    advance: &Advance,
    now: Timestamp,
) -> Result<(Advanced, Handed), Error> {
    let nothing = |became| Ok((became, Handed::default()));
    let state = Digested::of(&advance.epoch_state);
    let mut tx = pool.begin().await?;
    let locked = lock(&mut tx, advance.group_id).await?;
    let Some(mut locked) = locked.filter(Locked::is_mls) else {
        return nothing(Advanced::NotMember);
    };
    if let Some(refused) = refusal(&mut tx, &locked, advance, now).await? {
        return nothing(refused);
    }
    let admitted = match admit(&mut tx, limits, advance).await? {
        Ok(admitted) => admitted,
        Err(CannotAdd::DeviceGone(device)) if device == advance.by.device_no => {
            return nothing(Advanced::NotMember);
        }
        Err(refused) => return nothing(Advanced::CannotAdd(refused)),
    };
    let entry = commit(&mut tx, limits, &mut locked, advance, now).await?;
    let mut handed = Handed::default();
    let position = entry.position;
    handed.entries.push(entry);
    let left = roster_rows::remove_leaves(&mut tx, advance.group_id, &advance.removed).await?;
    let opening =
        Opening { group_id: advance.group_id, by: advance.by.user_id, after: position, epoch: locked.epoch };
    handed.deliveries = admitted.seat(&mut tx, opening, now).await?;
    if let (Some(external), Some(room)) = (advance.external, admitted.own) {
        let seat = (room, external.leaf_index, Role::Member);
        handed.deliveries.extend(joining::seat_caller(&mut tx, opening, &advance.by, seat, now).await?);
    }
    roster_rows::remove_leafless(&mut tx, advance.group_id, &left).await?;
    roster_rows::hand_over(&mut tx, advance.group_id).await?;
    sqlx::query("DELETE FROM group_proposals WHERE group_id = $1")
        .bind(advance.group_id.uuid())
        .execute(&mut *tx)
        .await?;
    let of = (locked.generation, locked.epoch);
    epochs::write(&mut tx, advance.group_id, of, &state, admitted.any(), now).await?;
    locked.write(&mut tx).await?;
    tx.commit().await?;
    Ok((Advanced::Advanced(locked.epoch, position), handed))
}

/// Why the commit is not made true, apart from whom it adds.
async fn refusal(
    tx: &mut PgConnection,
    locked: &Locked,
    advance: &Advance,
    now: Timestamp,
) -> Result<Option<Advanced>, Error> {
    let stored = epochs::commit_of(&mut *tx, advance.group_id, advance.generation, advance.epoch).await?;
    if let Some(stored) = stored
        && (stored.sender, stored.digest) == (advance.by.device_no, advance.commit.digest)
    {
        return Ok(Some(Advanced::Repeated(advance.epoch.next(), stored.position)));
    }
    if !has_part(tx, advance, now).await? {
        return Ok(Some(Advanced::NotMember));
    }
    let left_behind = locked.rolled_back && advance.external.is_none();
    if (locked.generation, locked.epoch) != (advance.generation, advance.epoch) || left_behind {
        return Ok(Some(Advanced::Stale(locked.epoch)));
    }
    Ok((locked.version != advance.version).then_some(Advanced::Changed))
}

/// Whether the device is in the group; where it joins by itself, whether its user is, or its join token still holds.
async fn has_part(tx: &mut PgConnection, advance: &Advance, now: Timestamp) -> Result<bool, Error> {
    let Some(external) = advance.external else {
        return may_write(tx, advance.group_id, advance.by.device_no).await;
    };
    match external.invite {
        None => Ok(role_of(tx, advance.group_id, advance.by.user_id).await?.is_some()),
        Some(token) => super::invites::holds(tx, advance.group_id, token, now).await,
    }
}

async fn admit<'a>(
    tx: &mut PgConnection,
    limits: Limits,
    advance: &'a Advance,
) -> Result<Admission<Admitted<'a>>, Error> {
    let own = advance.external.map(|_| advance.by.device_no);
    let leaves: i64 =
        sqlx::query_scalar("SELECT count(*) FROM group_leaves WHERE group_id = $1 AND device_no <> ALL($2)")
            .bind(advance.group_id.uuid())
            .bind(advance.removed.iter().map(|device| device.0).collect::<Vec<_>>())
            .fetch_one(&mut *tx)
            .await?;
    let adds = advance.joiners.len() + usize::from(own.is_some());
    let adds = i64::try_from(adds).unwrap_or(i64::MAX);
    if adds > 0 && leaves.saturating_add(adds) > i64::from(limits.max_members) {
        return Ok(Err(CannotAdd::GroupFull));
    }
    let admitted = match joining::admit(tx, limits, advance.by.user_id, own, &advance.joiners).await? {
        Ok(admitted) if adds > 0 => admitted,
        unasked => return Ok(unasked),
    };
    let members = roster_rows::in_order(tx, advance.group_id).await?;
    let members: HashSet<UserId> = members.into_iter().map(|(user, _)| user).collect();
    let mut users = admitted.users();
    users.retain(|user| !members.contains(user));
    Ok(roster_rows::may_join(tx, limits, advance.group_id, &users).await?.map(|()| admitted))
}

/// Enters the commit, ends the windows of those it removes, and moves the row along; it is still to be written back.
async fn commit(
    tx: &mut PgConnection,
    limits: Limits,
    locked: &mut Locked,
    advance: &Advance,
    now: Timestamp,
) -> Result<Arc<LogEntry>, Error> {
    let (group, position) = (advance.group_id, locked.next_position());
    let closes = match advance.removed.as_slice() {
        [] => Vec::new(),
        removed => entries::close_windows(tx, group, Some(removed), position).await?,
    };
    let entry = NewEntry {
        position,
        kind: EntryKind::Commit,
        epoch: advance.epoch,
        digest: advance.commit.digest,
        body: Some(advance.commit.body.clone()),
        closes,
    };
    let entry = entries::enter(tx, group, &advance.by, entry, now).await?;
    let of = (locked.generation, advance.epoch);
    epochs::note_commit(tx, group, of, (&advance.by, advance.commit.digest), position).await?;
    let removes = !advance.removed.is_empty();
    locked.epoch = advance.epoch.next();
    locked.oldest_epoch = oldest_epoch(locked.oldest_epoch, locked.epoch, removes, limits.past_epochs);
    locked.rolled_back = false;
    Ok(entry)
}
