//! Conversations as their participants see them, and what recipients say.

use sqlx::{Error, FromRow, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    message_row::MessageRow,
    rows::{BodyRow, at, missing, moment},
};
use crate::{
    domain::{ConversationId, DeviceNo, Message, MessageId, Status, Timestamp, UserId},
    store::{HistoryQuery, Mark, Marked},
};

/// All messages of a conversation have the same two participants, so that any one tells.
const TAKES_PART: &str = "\
    SELECT sender_id = $2 OR recipient_id = $2 FROM messages WHERE conversation_id = $1 \
    ORDER BY sequence LIMIT 1";

pub(crate) const PAGE: &str = "\
    SELECT m.message_id, m.conversation_id, m.sender_id, m.recipient_id, m.message_type, m.sequence, \
        m.accepted_at, m.expires_at, m.delivered_at, m.read_at, m.self_destructing, d.device_id, d.device_number, \
        i.envelope_type, i.ephemeral_key, i.body, \
        NOT m.lost AND cardinality(m.device_nos) > 0 AND NOT EXISTS ( \
            SELECT FROM unnest(m.device_nos, m.positions) AS p(device_no, position) \
            JOIN mailbox_items w ON w.device_no = p.device_no AND w.position = p.position) AS acked \
    FROM messages m LEFT JOIN devices d ON d.device_no = m.sender_no \
    LEFT JOIN mailbox_items i ON i.device_no = $3 \
        AND i.position = m.positions[array_position(m.device_nos, $3)] \
    WHERE m.conversation_id = $1 AND m.sequence < $4 AND m.expires_at > $5 AND NOT m.deleted \
        AND NOT (m.sender_id = $2 AND m.hidden_from_sender) \
        AND NOT (m.recipient_id = $2 AND m.hidden_from_recipient) \
    ORDER BY m.sequence DESC LIMIT $6";

#[derive(FromRow)]
struct PageRow {
    #[sqlx(flatten)]
    message: MessageRow,
    #[sqlx(flatten)]
    body: BodyRow,
    acked: bool,
}

impl PageRow {
    fn message(self, now: Timestamp) -> Result<Message, Error> {
        let mut message = self.message.message(now)?;
        message.envelope = self.body.envelope()?;
        if self.acked && message.status == Status::Sent {
            message.status = Status::Delivered;
        }
        Ok(message)
    }
}

pub(super) async fn page(
    pool: &PgPool,
    query: HistoryQuery,
    now: Timestamp,
) -> Result<Option<Vec<Message>>, Error> {
    let takes_part: Option<bool> = sqlx::query_scalar(TAKES_PART)
        .bind(query.conversation_id.uuid())
        .bind(query.user_id.uuid())
        .fetch_optional(pool)
        .await?;
    if takes_part != Some(true) {
        return Ok(None);
    }
    let rows: Vec<PageRow> = sqlx::query_as(PAGE)
        .bind(query.conversation_id.uuid())
        .bind(query.user_id.uuid())
        .bind(query.device_no.0)
        .bind(query.before.map_or(i64::MAX, |before| before.0))
        .bind(at(now))
        .bind(i64::from(query.limit))
        .fetch_all(pool)
        .await?;
    let messages: Result<_, Error> = rows.into_iter().map(|row| row.message(now)).collect();
    messages.map(Some)
}

/// How far back a conversation is looked at for who wrote in it.
const LATEST: i64 = 200;

pub(crate) const HAS_WRITTEN: &str = "\
    SELECT EXISTS (SELECT FROM (SELECT sender_id FROM messages WHERE conversation_id = $1 \
        ORDER BY sequence DESC LIMIT $3) AS latest WHERE latest.sender_id = $2)";

pub(super) async fn has_written(
    pool: &PgPool,
    conversation: ConversationId,
    from: UserId,
) -> Result<bool, Error> {
    sqlx::query_scalar(HAS_WRITTEN)
        .bind(conversation.uuid())
        .bind(from.uuid())
        .bind(LATEST)
        .fetch_one(pool)
        .await
}

#[derive(FromRow)]
struct MarksRow {
    conversation_id: Option<Uuid>,
    sender_id: Uuid,
    delivered_at: Option<OffsetDateTime>,
    read_at: Option<OffsetDateTime>,
}

pub(super) async fn mark(
    pool: &PgPool,
    recipient: UserId,
    message: MessageId,
    mark: Mark,
    now: Timestamp,
) -> Result<Option<Marked>, Error> {
    let mut tx = pool.begin().await?;
    let row: Option<MarksRow> = sqlx::query_as(
        "SELECT conversation_id, sender_id, delivered_at, read_at FROM messages \
         WHERE message_id = $1 AND recipient_id = $2 AND kind = 0 FOR UPDATE",
    )
    .bind(message.uuid())
    .bind(recipient.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let earlier = match mark {
        Mark::Delivered => row.delivered_at,
        Mark::Read => row.read_at,
    };
    if earlier.is_none() {
        sqlx::query(
            "UPDATE messages SET delivered_at = coalesce(delivered_at, $2), \
                read_at = CASE WHEN $3 THEN $2 ELSE read_at END WHERE message_id = $1",
        )
        .bind(message.uuid())
        .bind(at(now))
        .bind(mark == Mark::Read)
        .execute(&mut *tx)
        .await?;
    }
    let sender_devices: Vec<i64> =
        sqlx::query_scalar("SELECT device_no FROM mailboxes WHERE user_id = $1 ORDER BY device_no")
            .bind(row.sender_id)
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    Ok(Some(Marked {
        at: earlier.map_or(now, moment),
        newly: earlier.is_none(),
        conversation_id: row.conversation_id.map(ConversationId::new).ok_or_else(missing)?,
        sender_devices: sender_devices.into_iter().map(DeviceNo).collect(),
    }))
}
