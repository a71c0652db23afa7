//! Keeping proposals for the next commit.

use std::{collections::HashSet, sync::Arc};

use sqlx::{Error, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    super::rows::digest,
    entries::{self, NewEntry},
    founding::Handed,
    rows::{Locked, lock, may_write},
};
use crate::{
    domain::{DeviceNo, EntryKind, LogEntry, Position, Timestamp, UserId},
    store::{MOST_PROPOSALS, NewProposal, NewProposals, Proposed},
};

/// A proposal that is kept.
struct Kept {
    position: Position,
    sender: i64,
    /// 0 for none.
    target: i64,
    digest: [u8; 32],
}

/// What became of the proposals, and what to hand to hot delivery; anything but new entries rolls back.
pub(super) async fn propose(
    pool: &PgPool,
    proposals: &NewProposals,
    now: Timestamp,
) -> Result<(Proposed, Handed), Error> {
    let nothing = |became| Ok((became, Handed::default()));
    let new: Vec<([u8; 32], &NewProposal)> =
        proposals.proposals.iter().map(|proposal| (blake3::hash(&proposal.body).into(), proposal)).collect();
    let mut tx = pool.begin().await?;
    let Some(mut locked) = lock(&mut tx, proposals.group_id).await? else {
        return nothing(Proposed::NotMember);
    };
    let kept = kept(&mut tx, &locked).await?;
    let fresh = match fresh(&mut tx, &locked, proposals, &new, &kept).await? {
        Ok(fresh) => fresh,
        Err(became) => return nothing(became),
    };
    let mut handed = Handed::default();
    for (digest, proposal) in &fresh {
        handed.entries.push(keep(&mut tx, &mut locked, proposals, (*digest, proposal), now).await?);
    }
    if fresh.iter().any(|(_, proposal)| proposal.leaves) {
        hand_over_if_gone(&mut tx, &locked, proposals.by.user_id).await?;
    }
    locked.write(&mut tx).await?;
    tx.commit().await?;
    Ok((Proposed::Accepted(locked.epoch, locked.head), handed))
}

async fn kept(tx: &mut PgConnection, locked: &Locked) -> Result<Vec<Kept>, Error> {
    let rows: Vec<(i64, i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT position, sender_no, target_no, digest FROM group_proposals WHERE group_id = $1 \
         ORDER BY position",
    )
    .bind(locked.group_id.uuid())
    .fetch_all(tx)
    .await?;
    let kept = |(position, sender, target, bytes): (i64, i64, i64, Vec<u8>)| {
        Ok(Kept { position: Position(position), sender, target, digest: digest(&bytes)? })
    };
    rows.into_iter().map(kept).collect()
}

type Fresh<'a> = Vec<([u8; 32], &'a NewProposal)>;

/// Those that are to be kept; or what became of the request without them.
async fn fresh<'a>(
    tx: &mut PgConnection,
    locked: &Locked,
    proposals: &NewProposals,
    new: &[([u8; 32], &'a NewProposal)],
    kept: &[Kept],
) -> Result<Result<Fresh<'a>, Proposed>, Error> {
    let device = proposals.by.device_no;
    let own: Vec<&Kept> = kept.iter().filter(|proposal| proposal.sender == device.0).collect();
    let place = |digest: &[u8; 32]| own.iter().find(|kept| kept.digest == *digest).map(|kept| kept.position);
    let is_current = (locked.generation, locked.epoch) == (proposals.generation, proposals.epoch);
    let places: Option<Vec<Position>> = new.iter().map(|(digest, _)| place(digest)).collect();
    if let Some(last) = places.and_then(|places| places.into_iter().max()).filter(|_| is_current) {
        return Ok(Err(Proposed::Accepted(locked.epoch, last)));
    }
    if !may_write(tx, locked.group_id, device).await? {
        return Ok(Err(Proposed::NotMember));
    }
    if locked.rolled_back {
        return Ok(Err(Proposed::RolledBack));
    }
    if !is_current {
        return Ok(Err(Proposed::Stale(locked.epoch)));
    }
    let mut seen: HashSet<[u8; 32]> = own.iter().map(|kept| kept.digest).collect();
    let mut targets: HashSet<DeviceNo> =
        own.iter().filter(|kept| kept.target != 0).map(|kept| DeviceNo(kept.target)).collect();
    let mut fresh = Vec::new();
    for (index, (digest, proposal)) in new.iter().enumerate() {
        if !seen.insert(*digest) {
            continue;
        }
        if proposal.target.is_some_and(|target| !targets.insert(target)) {
            return Ok(Err(Proposed::Exists(index)));
        }
        fresh.push((*digest, *proposal));
    }
    let too_many = kept.len() + fresh.len() > MOST_PROPOSALS;
    Ok(if too_many { Err(Proposed::TooMany) } else { Ok(fresh) })
}

/// Keeps a proposal and enters it into the log. Who leaves by it has no window after it.
async fn keep(
    tx: &mut PgConnection,
    locked: &mut Locked,
    proposals: &NewProposals,
    (digest, proposal): ([u8; 32], &NewProposal),
    now: Timestamp,
) -> Result<Arc<LogEntry>, Error> {
    let (group, position) = (locked.group_id, locked.next_position());
    let mut closes = Vec::new();
    if let Some(target) = proposal.target.filter(|_| proposal.leaves) {
        closes = entries::close_windows(tx, group, Some(&[target]), position).await?;
        sqlx::query("UPDATE group_leaves SET leaving = true WHERE group_id = $1 AND device_no = $2")
            .bind(group.uuid())
            .bind(target.0)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "INSERT INTO group_proposals (group_id, position, sender_no, target_no, digest, body) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(group.uuid())
    .bind(position.0)
    .bind(proposals.by.device_no.0)
    .bind(proposal.target.map_or(0, |target| target.0))
    .bind(digest.as_slice())
    .bind(&*proposal.body)
    .execute(&mut *tx)
    .await?;
    let body = Some(proposal.body.clone());
    let kind = EntryKind::Proposal;
    let entry = NewEntry { position, kind, epoch: locked.epoch, digest, body, closes };
    entries::enter(tx, group, &proposals.by, entry, now).await
}

/// Where the owner leaves with every device, gives the role to the oldest admin who stays, else to the oldest member.
async fn hand_over_if_gone(tx: &mut PgConnection, locked: &Locked, user: UserId) -> Result<(), Error> {
    let heir: Option<Uuid> = sqlx::query_scalar(
        "SELECT m.user_id FROM group_members m \
         WHERE m.group_id = $1 AND m.user_id <> $2 \
            AND EXISTS (SELECT FROM group_members WHERE group_id = $1 AND user_id = $2 AND role = 2) \
            AND NOT EXISTS (SELECT FROM group_leaves WHERE group_id = $1 AND user_id = $2 AND NOT leaving) \
            AND EXISTS (SELECT FROM group_leaves l \
                WHERE l.group_id = $1 AND l.user_id = m.user_id AND NOT l.leaving) \
         ORDER BY m.role DESC, m.joined LIMIT 1",
    )
    .bind(locked.group_id.uuid())
    .bind(user.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(heir) = heir else { return Ok(()) };
    for (user, role) in [(user.uuid(), 0_i16), (heir, 2)] {
        sqlx::query("UPDATE group_members SET role = $3 WHERE group_id = $1 AND user_id = $2")
            .bind(locked.group_id.uuid())
            .bind(user)
            .bind(role)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}
