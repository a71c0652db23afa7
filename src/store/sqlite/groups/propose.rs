//! Proposals that wait for the next commit.

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{Context, Emitted, rows},
    log::{self, Entered},
    members,
    rows::{self as columns, Kept},
    windows,
};
use crate::{
    domain::{DeviceNo, EntryKind, GroupId, Position},
    store::{
        NewProposals, PendingProposal, Proposed,
        group_rules::{Proposal, Waiting, fresh_proposals, repeated},
    },
};

pub(super) async fn propose(
    tx: &mut SqliteConnection,
    new: NewProposals,
    context: Context,
) -> Result<(Proposed, Emitted), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Emitted::default()));
    let Some(kept) = columns::find(tx, new.group_id).await?.filter(Kept::is_mls) else {
        return refused(Proposed::NotMember);
    };
    let group = &kept.group;
    let is_current = (group.generation, group.epoch) == (new.generation, new.epoch);
    let (waiting, pending) = waiting(tx, new.group_id, new.by.device_no).await?;
    let asked: Vec<_> = new
        .proposals
        .iter()
        .map(|it| Proposal { digest: blake3::hash(&it.body).into(), target: it.target })
        .collect();
    if is_current && let Some(last) = repeated(&asked, &waiting) {
        return refused(Proposed::Accepted(group.epoch, last));
    }
    if !windows::is_open(tx, new.group_id, new.by.device_no).await? {
        return refused(Proposed::NotMember);
    }
    if group.rolled_back {
        return refused(Proposed::RolledBack);
    }
    if !is_current {
        return refused(Proposed::Stale(group.epoch));
    }
    let fresh = match fresh_proposals(&asked, &waiting, pending) {
        Ok(fresh) => fresh,
        Err(refusal) => return refused(refusal),
    };
    let mut emitted = Emitted::default();
    let mut head = group.head;
    for &index in &fresh {
        head = head.next();
        enter(tx, &new, index, asked[index], head, &mut emitted, &context).await?;
    }
    sqlx::query("UPDATE groups SET head = ?, version = version + 1 WHERE group_id = ?")
        .bind(head.0)
        .bind(new.group_id.uuid())
        .execute(&mut *tx)
        .await?;
    if new.proposals.iter().any(|proposal| proposal.leaves) {
        members::hand_over_if_left(tx, new.group_id, new.by.user_id).await?;
    }
    Ok((Proposed::Accepted(group.epoch, head), emitted))
}

/// Enters one proposal.
async fn enter(
    tx: &mut SqliteConnection,
    new: &NewProposals,
    index: usize,
    Proposal { digest, target }: Proposal,
    position: Position,
    emitted: &mut Emitted,
    context: &Context,
) -> Result<(), sqlx::Error> {
    let (group, proposal) = (new.group_id, &new.proposals[index]);
    let leaver = target.filter(|_| proposal.leaves);
    let entered = Entered {
        group,
        position,
        kind: EntryKind::Proposal,
        by: &new.by,
        digest,
        epoch: new.epoch,
        body: Some(proposal.body.clone()),
        closes: windows::close(tx, group, leaver.as_slice(), position).await?,
    };
    emitted.entries.push(log::enter(tx, entered, context.now).await?);
    if let Some(device) = leaver {
        sqlx::query("UPDATE group_leaves SET leaving = 1 WHERE group_id = ? AND device_no = ?")
            .bind(group.uuid())
            .bind(device.0)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "INSERT INTO group_proposals (group_id, position, sender_no, target_no, digest, body) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(group.uuid())
    .bind(position.0)
    .bind(new.by.device_no.0)
    .bind(target.map_or(0, |device| device.0))
    .bind(digest.to_vec())
    .bind(proposal.body.to_vec())
    .execute(tx)
    .await?;
    Ok(())
}

/// The proposals of a device that wait, and how many wait in all.
async fn waiting(
    tx: &mut SqliteConnection,
    group: GroupId,
    sender: DeviceNo,
) -> Result<(Vec<Waiting>, usize), sqlx::Error> {
    let found = sqlx::query(
        "SELECT position, sender_no, target_no, digest FROM group_proposals WHERE group_id = ? ORDER BY position",
    )
    .bind(group.uuid())
    .try_map(|row: SqliteRow| {
        let proposal = Proposal { digest: rows::digest(row.try_get("digest")?)?, target: target(&row)? };
        let waiting = Waiting { position: rows::position(&row, "position")?, proposal };
        Ok((rows::device_no(&row, "sender_no")?, waiting))
    })
    .fetch_all(tx)
    .await?;
    let pending = found.len();
    let own = found.into_iter().filter(|(by, _)| *by == sender).map(|(_, waiting)| waiting);
    Ok((own.collect(), pending))
}

/// The `target_no` column: 0 for none.
fn target(row: &SqliteRow) -> Result<Option<DeviceNo>, sqlx::Error> {
    Ok(Some(rows::device_no(row, "target_no")?).filter(|device| device.0 != 0))
}

/// Every proposal that waits, in order of arrival.
pub(super) async fn pending(
    conn: &mut SqliteConnection,
    group: GroupId,
) -> Result<Vec<PendingProposal>, sqlx::Error> {
    sqlx::query("SELECT sender_no, target_no, body FROM group_proposals WHERE group_id = ? ORDER BY position")
        .bind(group.uuid())
        .try_map(|row: SqliteRow| {
            Ok(PendingProposal {
                sender: rows::device_no(&row, "sender_no")?,
                target: target(&row)?,
                body: Bytes::copy_from_slice(row.try_get("body")?),
            })
        })
        .fetch_all(conn)
        .await
}
