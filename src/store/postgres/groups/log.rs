//! The log of a group as its readers get it.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::{Error, FromRow, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    super::rows::{at, device_id, message_type, missing, moment},
    rows::entry_kind,
};
use crate::{
    domain::{DeviceNo, Epoch, GroupId, LogEntry, MessageId, Position, Timestamp, UserId},
    store::LogPage,
};

/// Groups in one question for heads.
const HEADS_AT_ONCE: usize = 2_000;

pub(in super::super) const HEADS: &str =
    "SELECT group_id, head FROM groups WHERE group_id = ANY($1) ORDER BY group_id";

/// One entry more than asked for tells whether there are more. The first one comes whatever its size. A weight is
/// `LogEntry::weight`; lengths are known without reading the bodies.
pub(in super::super) const PAGE: &str = "\
    SELECT g.head, g.tail, e.position, e.kind, e.message_id, e.sender_id, d.device_id, e.epoch, e.message_type, \
        e.accepted_at, e.expires_at, e.closes, e.above < $4 AS fits, \
        CASE WHEN e.above < $4 AND (e.expires_at IS NULL OR e.expires_at > $5) THEN e.body END AS body \
    FROM groups g LEFT JOIN LATERAL ( \
        SELECT l.*, coalesce( \
            sum(coalesce(octet_length(l.body), 0) + 8 * coalesce(cardinality(l.closes), 0) + 256) \
                OVER (ORDER BY l.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS above \
        FROM group_log l WHERE l.group_id = g.group_id AND l.position > $2 ORDER BY l.position LIMIT $3 \
    ) AS e ON true \
    LEFT JOIN devices d ON d.device_no = e.sender_no \
    WHERE g.group_id = $1 ORDER BY e.position";

#[derive(FromRow)]
struct PageRow {
    head: i64,
    tail: i64,
    fits: Option<bool>,
    position: Option<i64>,
    kind: Option<i16>,
    message_id: Option<Uuid>,
    sender_id: Option<Uuid>,
    device_id: Option<String>,
    epoch: Option<i64>,
    message_type: Option<i16>,
    accepted_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    closes: Option<Vec<i64>>,
    body: Option<Vec<u8>>,
}

impl PageRow {
    fn entry(self, group_id: GroupId) -> Result<LogEntry, Error> {
        let closes = self.closes.unwrap_or_default().into_iter().map(DeviceNo).collect::<Arc<[_]>>();
        Ok(LogEntry {
            group_id,
            position: self.position.map(Position).ok_or_else(missing)?,
            kind: entry_kind(self.kind.ok_or_else(missing)?)?,
            message_id: self.message_id.map(MessageId::new).ok_or_else(missing)?,
            sender_id: self.sender_id.map(UserId::new).ok_or_else(missing)?,
            sender_device_id: device_id(&self.device_id.ok_or_else(missing)?)?,
            message_type: self.message_type.map(message_type).transpose()?,
            epoch: self.epoch.map(Epoch).ok_or_else(missing)?,
            body: self.body.map(Bytes::from),
            accepted_at: self.accepted_at.map(moment).ok_or_else(missing)?,
            expires_at: self.expires_at.map(moment),
            closes,
        })
    }
}

pub(super) async fn page(
    pool: &PgPool,
    group: GroupId,
    after: Position,
    (limit, bytes): (u32, usize),
    now: Timestamp,
) -> Result<LogPage, Error> {
    let limit = limit.max(1);
    let rows: Vec<PageRow> = sqlx::query_as(PAGE)
        .bind(group.uuid())
        .bind(after.0)
        .bind(i64::from(limit) + 1)
        .bind(i64::try_from(bytes.max(1)).unwrap_or(i64::MAX))
        .bind(at(now))
        .fetch_all(pool)
        .await?;
    let mut page = LogPage { entries: Vec::new(), more: false, head: Position::START, oldest: Position(1) };
    for row in rows {
        (page.head, page.oldest) = (Position(row.head), Position(row.tail));
        match row.fits {
            None => {}
            Some(fits) if !fits || page.entries.len() >= limit as usize => page.more = true,
            Some(_) => page.entries.push(row.entry(group)?),
        }
    }
    Ok(page)
}

pub(super) async fn heads(pool: &PgPool, groups: &[GroupId]) -> Result<Vec<(GroupId, Position)>, Error> {
    let mut heads = Vec::with_capacity(groups.len());
    for chunk in groups.chunks(HEADS_AT_ONCE) {
        let ids: Vec<Uuid> = chunk.iter().map(|group| group.uuid()).collect();
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(HEADS).bind(ids).fetch_all(pool).await?;
        heads.extend(rows.into_iter().map(|(group, head)| (GroupId::new(group), Position(head))));
    }
    Ok(heads)
}
