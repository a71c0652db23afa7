//! Keeping proposals for the next commit.

use std::sync::Arc;

use sqlx::{Error, PgConnection, PgPool};

use super::{
    super::rows::digest,
    entries::{self, NewEntry},
    founding::Handed,
    roster_rows,
    rows::{Locked, lock, may_write},
};
use crate::{
    domain::{DeviceNo, EntryKind, GroupId, LogEntry, Position, Timestamp},
    store::{
        NewProposal, NewProposals, Proposed,
        group_rules::{Proposal, Waiting, fresh_proposals, repeated},
    },
};

/// What became of the proposals, and what to hand to hot delivery; anything but new entries rolls back.
pub(super) async fn propose(
    pool: &PgPool,
    proposals: &NewProposals,
    now: Timestamp,
) -> Result<(Proposed, Handed), Error> {
    let nothing = |became| Ok((became, Handed::default()));
    let asked = |new: &NewProposal| Proposal { digest: blake3::hash(&new.body).into(), target: new.target };
    let asked: Vec<Proposal> = proposals.proposals.iter().map(asked).collect();
    let mut tx = pool.begin().await?;
    let locked = lock(&mut tx, proposals.group_id).await?;
    let Some(mut locked) = locked.filter(Locked::is_mls) else {
        return nothing(Proposed::NotMember);
    };
    let fresh = match fresh(&mut tx, &locked, proposals, &asked).await? {
        Ok(fresh) => fresh,
        Err(became) => return nothing(became),
    };
    let mut handed = Handed::default();
    let mut leaves = false;
    for index in fresh {
        let (Some(asked), Some(new)) = (asked.get(index), proposals.proposals.get(index)) else { continue };
        handed.entries.push(keep(&mut tx, &mut locked, proposals, (asked.digest, new), now).await?);
        leaves |= new.leaves;
    }
    if leaves {
        roster_rows::hand_over_if_left(&mut tx, locked.group_id, proposals.by.user_id).await?;
    }
    locked.write(&mut tx).await?;
    tx.commit().await?;
    Ok((Proposed::Accepted(locked.epoch, locked.head), handed))
}

/// Which are to be kept, by index; or what became of the request without them.
async fn fresh(
    tx: &mut PgConnection,
    locked: &Locked,
    proposals: &NewProposals,
    asked: &[Proposal],
) -> Result<Result<Vec<usize>, Proposed>, Error> {
    let is_current = (locked.generation, locked.epoch) == (proposals.generation, proposals.epoch);
    let (waiting, pending) = waiting(tx, locked.group_id, proposals.by.device_no).await?;
    if let Some(last) = repeated(asked, &waiting).filter(|_| is_current) {
        return Ok(Err(Proposed::Accepted(locked.epoch, last)));
    }
    if !may_write(tx, locked.group_id, proposals.by.device_no).await? {
        return Ok(Err(Proposed::NotMember));
    }
    if locked.rolled_back {
        return Ok(Err(Proposed::RolledBack));
    }
    if !is_current {
        return Ok(Err(Proposed::Stale(locked.epoch)));
    }
    Ok(fresh_proposals(asked, &waiting, pending))
}

/// The proposals of a device that wait, and how many wait in all.
async fn waiting(
    tx: &mut PgConnection,
    group: GroupId,
    sender: DeviceNo,
) -> Result<(Vec<Waiting>, usize), Error> {
    let rows: Vec<(i64, i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT position, sender_no, target_no, digest FROM group_proposals WHERE group_id = $1 \
         ORDER BY position",
    )
    .bind(group.uuid())
    .fetch_all(tx)
    .await?;
    let pending = rows.len();
    let mut waiting = Vec::new();
    for (position, by, target, bytes) in rows {
        if by == sender.0 {
            let target = (target != 0).then_some(DeviceNo(target));
            let proposal = Proposal { digest: digest(&bytes)?, target };
            waiting.push(Waiting { position: Position(position), proposal });
        }
    }
    Ok((waiting, pending))
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
