//! A conversation's history, and what a recipient says of a message.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{mailbox, rows};
use crate::{
    domain::{ConversationId, DeviceNo, Message, MessageId, Timestamp, UserId},
    store::{HistoryQuery, Mark, Marked},
};

pub(super) async fn history(
    conn: &mut SqliteConnection,
    query: HistoryQuery,
    now: Timestamp,
) -> Result<Option<Vec<Message>>, sqlx::Error> {
    let takes_part: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE conversation_id = ?1 AND ?2 IN (sender_id, recipient_id))",
    )
    .bind(query.conversation_id.uuid())
    .bind(query.user_id.uuid())
    .fetch_one(&mut *conn)
    .await?;
    if !takes_part {
        return Ok(None);
    }
    page(conn, query, now).await.map(Some)
}

async fn page(
    conn: &mut SqliteConnection,
    query: HistoryQuery,
    now: Timestamp,
) -> Result<Vec<Message>, sqlx::Error> {
    // Without a place (a note to self of an only device) nothing was ever delivered: it counts as waiting.
    sqlx::query(
        "SELECT m.message_id, m.conversation_id, m.sender_id, d.device_id AS sender_device_id, \
         d.device_number AS sender_device_number, m.recipient_id, m.message_type, m.sequence, \
         m.accepted_at, m.expires_at, m.self_destructing, m.delivered_at, m.read_at, m.lost, \
         i.envelope_type, i.ephemeral_key, i.body, \
         json_array_length(m.places) = 0 OR EXISTS (SELECT 1 FROM json_each(m.places) p \
             JOIN mailbox_items o ON o.device_no = p.value ->> 0 AND o.position = p.value ->> 1) AS waiting \
         FROM messages m JOIN devices d ON d.device_no = m.sender_no \
         LEFT JOIN mailbox_items i ON i.device_no = ?1 AND i.position = \
             (SELECT p.value ->> 1 FROM json_each(m.places) p WHERE p.value ->> 0 = ?1) \
         WHERE m.conversation_id = ?2 AND m.sequence < ?3 AND m.expires_at > ?4 AND m.deleted = 0 \
         AND ?5 IN (m.sender_id, m.recipient_id) \
         AND NOT (m.hidden_from_sender AND m.sender_id = ?5) \
         AND NOT (m.hidden_from_recipient AND m.recipient_id = ?5) \
         ORDER BY m.sequence DESC LIMIT ?6",
    )
    .bind(query.device_no.0)
    .bind(query.conversation_id.uuid())
    .bind(query.before.map_or(i64::MAX, |before| before.0))
    .bind(now.millis())
    .bind(query.user_id.uuid())
    .bind(i64::from(query.limit))
    .try_map(|row: SqliteRow| mailbox::message(&row))
    .fetch_all(conn)
    .await
}

/// How far back it is looked for what somebody wrote in a conversation.
const LOOKS_BACK: u32 = 200;

pub(super) async fn has_written(
    conn: &mut SqliteConnection,
    conversation: ConversationId,
    from: UserId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM (SELECT sender_id FROM messages WHERE conversation_id = ? \
             ORDER BY sequence DESC LIMIT ?) WHERE sender_id = ?)",
    )
    .bind(conversation.uuid())
    .bind(i64::from(LOOKS_BACK))
    .bind(from.uuid())
    .fetch_one(conn)
    .await
}

pub(super) async fn mark(
    tx: &mut SqliteConnection,
    recipient: UserId,
    message: MessageId,
    mark: Mark,
    now: Timestamp,
) -> Result<Option<Marked>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT conversation_id, sender_id, delivered_at, read_at FROM messages \
         WHERE message_id = ? AND recipient_id = ? AND kind = 0",
    )
    .bind(message.uuid())
    .bind(recipient.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = found else { return Ok(None) };
    let earlier = match mark {
        Mark::Delivered => rows::optional_timestamp(&row, "delivered_at")?,
        Mark::Read => rows::optional_timestamp(&row, "read_at")?,
    };
    if earlier.is_none() {
        set(tx, message, mark, now).await?;
    }
    Ok(Some(Marked {
        at: earlier.unwrap_or(now),
        newly: earlier.is_none(),
        conversation_id: ConversationId::new(row.try_get("conversation_id")?),
        sender_devices: active_devices(tx, rows::user_id(&row, "sender_id")?).await?,
    }))
}

async fn set(
    tx: &mut SqliteConnection,
    message: MessageId,
    mark: Mark,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let set = match mark {
        Mark::Delivered => "UPDATE messages SET delivered_at = ?1 WHERE message_id = ?2",
        Mark::Read => {
            "UPDATE messages SET read_at = ?1, delivered_at = coalesce(delivered_at, ?1) WHERE message_id = ?2"
        }
    };
    sqlx::query(set).bind(now.millis()).bind(message.uuid()).execute(tx).await?;
    Ok(())
}

async fn active_devices(tx: &mut SqliteConnection, user: UserId) -> Result<Vec<DeviceNo>, sqlx::Error> {
    sqlx::query("SELECT device_no FROM mailboxes WHERE user_id = ? ORDER BY device_no")
        .bind(user.uuid())
        .try_map(|row: SqliteRow| rows::device_no(&row, "device_no"))
        .fetch_all(tx)
        .await
}
