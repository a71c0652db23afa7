//! Accepting messages for groups, a batch to a transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    super::{BEGIN, accept::fault, rows},
    log::{self, Row},
    rows as columns,
};
use crate::{
    domain::{Clock, DeviceNo, EntryKind, GroupId, GroupReceipt, GroupSend, Handshake, MessageId, UserId},
    store::{
        Committed, GroupAccepted,
        group_batch::{self, Known, LockedGroup, Snapshot, Verdict},
        lane::{Commit, Fault},
    },
};

/// Commits batches of messages for groups.
pub(in super::super) struct GroupAcceptance {
    pub(in super::super) writer: SqlitePool,
    pub(in super::super) committed: Committed,
    pub(in super::super) clock: Arc<dyn Clock>,
}

impl Commit<GroupSend, GroupAccepted> for GroupAcceptance {
    fn commit<'a>(&'a self, batch: &'a [GroupSend]) -> BoxFuture<'a, Result<Vec<GroupAccepted>, Fault>> {
        Box::pin(async move { self.accept(batch).await.map_err(fault) })
    }
}

impl GroupAcceptance {
    async fn accept(&self, batch: &[GroupSend]) -> Result<Vec<GroupAccepted>, sqlx::Error> {
        let mut writer = self.writer.acquire().await?;
        let mut tx = writer.begin_with(BEGIN).await?;
        let snapshot = snapshot(&mut tx, batch).await?;
        let verdict = group_batch::decide(batch, snapshot, self.clock.now());
        write(&mut tx, &verdict).await?;
        tx.commit().await?;
        // The writer is still held: what is emitted follows the order of commits.
        self.committed.hand_over_all(Vec::new(), verdict.entries);
        Ok(verdict.outcomes)
    }
}

async fn snapshot(tx: &mut SqliteConnection, batch: &[GroupSend]) -> Result<Snapshot, sqlx::Error> {
    Ok(Snapshot {
        groups: groups(tx, batch).await?,
        known: known(tx, batch).await?,
        writers: writers(tx, batch).await?,
        invited: invited(tx, batch).await?,
    })
}

/// The batch's groups, for `IN (SELECT unhex(value) FROM json_each(?))`.
fn ids(batch: &[GroupSend]) -> String {
    let groups: HashSet<_> = batch.iter().map(|send| send.group_id.uuid()).collect();
    rows::uuids(groups)
}

async fn groups(
    tx: &mut SqliteConnection,
    batch: &[GroupSend],
) -> Result<HashMap<GroupId, LockedGroup>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT group_id, handshake = ? AS is_roster, epoch, oldest_epoch, head, rolled_back FROM groups \
         WHERE group_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(Handshake::None as i64)
    .bind(ids(batch))
    .try_map(|row: SqliteRow| {
        let group = LockedGroup {
            is_roster: row.try_get("is_roster")?,
            epoch: columns::epoch(&row, "epoch")?,
            oldest_epoch: columns::epoch(&row, "oldest_epoch")?,
            head: rows::position(&row, "head")?,
            rolled_back: row.try_get("rolled_back")?,
        };
        Ok((columns::group_id(&row)?, group))
    })
    .fetch_all(tx)
    .await?;
    Ok(found.into_iter().collect())
}

/// Which of the batch's ids are taken, by entries or by what lies in mailboxes.
async fn known(
    tx: &mut SqliteConnection,
    batch: &[GroupSend],
) -> Result<HashMap<MessageId, Known>, sqlx::Error> {
    let ids = rows::uuids(batch.iter().map(|send| send.message_id.uuid()));
    let mailed = sqlx::query(
        "SELECT message_id, sender_no FROM messages WHERE message_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(&ids)
    .try_map(|row: SqliteRow| {
        let sender = rows::device_no(&row, "sender_no")?;
        Ok((MessageId::new(row.try_get("message_id")?), Known { sender, digest: [0; 32], receipt: None }))
    })
    .fetch_all(&mut *tx)
    .await?;
    let entered = sqlx::query(
        "SELECT message_id, group_id, position, kind, digest, sender_no, epoch, accepted_at FROM group_log \
         WHERE message_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(&ids)
    .try_map(|row: SqliteRow| entry(&row))
    .fetch_all(tx)
    .await?;
    Ok(mailed.into_iter().chain(entered).collect())
}

fn entry(row: &SqliteRow) -> Result<(MessageId, Known), sqlx::Error> {
    let message_id = MessageId::new(row.try_get("message_id")?);
    let receipt = GroupReceipt {
        message_id,
        group_id: columns::group_id(row)?,
        position: rows::position(row, "position")?,
        epoch: columns::epoch(row, "epoch")?,
        accepted_at: rows::timestamp(row, "accepted_at")?,
    };
    let is_message = row.try_get::<i64, _>("kind")? == EntryKind::Application as i64;
    let sender = rows::device_no(row, "sender_no")?;
    let digest = rows::digest(row.try_get("digest")?)?;
    Ok((message_id, Known { sender, digest, receipt: is_message.then_some(receipt) }))
}

/// Which of the batch's devices have a window that has not ended.
async fn writers(
    tx: &mut SqliteConnection,
    batch: &[GroupSend],
) -> Result<HashSet<(GroupId, DeviceNo)>, sqlx::Error> {
    let senders: HashSet<_> = batch.iter().map(|send| send.sender.device_no.0).collect();
    let found = sqlx::query(
        "SELECT group_id, device_no FROM group_windows \
         WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) \
         AND device_no IN (SELECT value FROM json_each(?)) AND closed_at IS NULL",
    )
    .bind(ids(batch))
    .bind(rows::numbers(senders))
    .try_map(|row: SqliteRow| Ok((columns::group_id(&row)?, rows::device_no(&row, "device_no")?)))
    .fetch_all(tx)
    .await?;
    Ok(found.into_iter().collect())
}

/// Which of the batch's senders are invited.
async fn invited(
    tx: &mut SqliteConnection,
    batch: &[GroupSend],
) -> Result<HashSet<(GroupId, UserId)>, sqlx::Error> {
    let senders: HashSet<_> = batch.iter().map(|send| send.sender.user_id.uuid()).collect();
    let found = sqlx::query(
        "SELECT group_id, user_id FROM group_members \
         WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) \
         AND user_id IN (SELECT unhex(value) FROM json_each(?)) AND invited",
    )
    .bind(ids(batch))
    .bind(rows::uuids(senders))
    .try_map(|row: SqliteRow| Ok((columns::group_id(&row)?, rows::user_id(&row, "user_id")?)))
    .fetch_all(tx)
    .await?;
    Ok(found.into_iter().collect())
}

async fn write(tx: &mut SqliteConnection, verdict: &Verdict<'_>) -> Result<(), sqlx::Error> {
    let new = verdict.entries.iter().zip(&verdict.writes.entries);
    let entries: Vec<_> = new
        .map(|(entry, new)| Row { entry, digest: new.send.digest, sender: new.send.sender.device_no })
        .collect();
    log::insert(tx, &entries).await?;
    for (group, head) in &verdict.writes.heads {
        sqlx::query("UPDATE groups SET head = ? WHERE group_id = ?")
            .bind(head.0)
            .bind(group.uuid())
            .execute(&mut *tx)
            .await?;
    }
    for (group, user) in &verdict.writes.joined {
        sqlx::query("UPDATE group_members SET invited = 0 WHERE group_id = ? AND user_id = ?")
            .bind(group.uuid())
            .bind(user.uuid())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}
