//! The logs of groups: entered, read.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sqlx::{QueryBuilder, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{ROWS_AT_ONCE, rows},
    rows as columns,
};
use crate::{
    domain::{Caller, DeviceNo, EntryKind, Epoch, GroupId, LogEntry, MessageId, Position, Timestamp},
    store::LogPage,
};

/// An entry that the store itself names.
pub(super) struct Entered<'a> {
    pub(super) group: GroupId,
    pub(super) position: Position,
    pub(super) kind: EntryKind,
    pub(super) by: &'a Caller,
    pub(super) digest: [u8; 32],
    pub(super) epoch: Epoch,
    pub(super) body: Option<Bytes>,
    /// The devices whose windows end with it, ascending.
    pub(super) closes: Vec<DeviceNo>,
}

impl Entered<'_> {
    /// The entry as every reader sees it.
    fn entry(self, now: Timestamp) -> LogEntry {
        LogEntry {
            group_id: self.group,
            position: self.position,
            kind: self.kind,
            message_id: MessageId::fresh(now),
            sender_id: self.by.user_id,
            sender_device_id: self.by.device_id.clone(),
            message_type: None,
            epoch: self.epoch,
            body: self.body,
            accepted_at: now,
            expires_at: None,
            closes: self.closes.into(),
        }
    }
}

/// Enters an entry.
pub(super) async fn enter(
    tx: &mut SqliteConnection,
    entered: Entered<'_>,
    now: Timestamp,
) -> Result<Arc<LogEntry>, sqlx::Error> {
    let (digest, sender) = (entered.digest, entered.by.device_no);
    let entry = Arc::new(entered.entry(now));
    insert(tx, &[Row { entry: &entry, digest, sender }]).await?;
    Ok(entry)
}

/// A row of the log.
pub(super) struct Row<'a> {
    pub(super) entry: &'a LogEntry,
    pub(super) digest: [u8; 32],
    pub(super) sender: DeviceNo,
}

pub(super) async fn insert(tx: &mut SqliteConnection, entries: &[Row<'_>]) -> Result<(), sqlx::Error> {
    for chunk in entries.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::new(
            "INSERT INTO group_log (group_id, position, kind, message_id, digest, sender_no, sender_id, epoch, \
             message_type, accepted_at, expires_at, closes, body) ",
        );
        insert.push_values(chunk, |mut row, Row { entry, digest, sender }| {
            row.push_bind(entry.group_id.uuid()).push_bind(entry.position.0).push_bind(entry.kind as i64);
            row.push_bind(entry.message_id.uuid()).push_bind(digest.to_vec()).push_bind(sender.0);
            row.push_bind(entry.sender_id.uuid()).push_bind(entry.epoch.0);
            row.push_bind(entry.message_type.map(|message_type| message_type as i64));
            row.push_bind(entry.accepted_at.millis()).push_bind(entry.expires_at.map(Timestamp::millis));
            let closes =
                (!entry.closes.is_empty()).then(|| rows::numbers(entry.closes.iter().map(|it| it.0)));
            row.push_bind(closes).push_bind(entry.body.as_ref().map(|body| body.to_vec()));
        });
        insert.build().persistent(false).execute(&mut *tx).await?;
    }
    Ok(())
}

/// A page of a log. To be read as of one moment.
pub(super) async fn page(
    conn: &mut SqliteConnection,
    group: GroupId,
    after: Position,
    limit: u32,
    bytes: usize,
    now: Timestamp,
) -> Result<LogPage, sqlx::Error> {
    let limit = limit.max(1);
    let (head, oldest) = ends(conn, group).await?;
    let mut found = sqlx::query(
        "SELECT l.group_id, l.position, l.kind, l.message_id, l.sender_id, d.device_id, l.epoch, \
         l.message_type, l.accepted_at, l.expires_at, l.closes, \
         CASE WHEN l.expires_at IS NULL OR l.expires_at > ?3 THEN l.body END AS body \
         FROM group_log l JOIN devices d ON d.device_no = l.sender_no \
         WHERE l.group_id = ?1 AND l.position > ?2 ORDER BY l.position LIMIT ?4",
    )
    .bind(group.uuid())
    .bind(after.0)
    .bind(now.millis())
    .bind(i64::from(limit) + 1)
    .try_map(|row: SqliteRow| columns::entry(&row))
    .fetch(conn);
    let mut page = LogPage { entries: Vec::new(), more: false, head, oldest };
    let mut weight = 0;
    while let Some(entry) = found.try_next().await? {
        // One entry more than asked for tells whether there are more.
        page.more = page.entries.len() >= limit as usize || weight >= bytes.max(1);
        if page.more {
            break;
        }
        weight += entry.weight();
        page.entries.push(entry);
    }
    Ok(page)
}

/// The last position that was given, and the first that is left.
async fn ends(conn: &mut SqliteConnection, group: GroupId) -> Result<(Position, Position), sqlx::Error> {
    let found: Option<(i64, Option<i64>)> = sqlx::query_as(
        "SELECT head, (SELECT min(position) FROM group_log WHERE group_id = ?1) FROM groups WHERE group_id = ?1",
    )
    .bind(group.uuid())
    .fetch_optional(conn)
    .await?;
    let (head, oldest) = found.unwrap_or_default();
    Ok((Position(head), Position(oldest.unwrap_or(head + 1))))
}

pub(super) async fn heads(
    conn: &mut SqliteConnection,
    groups: String,
) -> Result<Vec<(GroupId, Position)>, sqlx::Error> {
    sqlx::query(
        "SELECT group_id, head FROM groups WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) \
         ORDER BY group_id",
    )
    .bind(groups)
    .try_map(|row: SqliteRow| Ok((columns::group_id(&row)?, rows::position(&row, "head")?)))
    .fetch_all(conn)
    .await
}
