//! What lies in a mailbox, as its device sees it.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::rows::{self, corrupt};
use crate::{
    domain::{ConversationId, DeviceNo, Item, Message, MessageId, Position, Sequence, Status, Timestamp},
    store::{Left, group_items},
};

pub(super) async fn positions_of(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    ids: String,
) -> Result<Vec<Position>, sqlx::Error> {
    sqlx::query(
        "SELECT p.value ->> 1 AS position FROM messages m, json_each(m.places) p \
         WHERE m.message_id IN (SELECT unhex(value) FROM json_each(?)) AND p.value ->> 0 = ? \
         ORDER BY position",
    )
    .bind(ids)
    .bind(device.0)
    .try_map(|row: SqliteRow| rows::position(&row, "position"))
    .fetch_all(conn)
    .await
}

pub(super) async fn heads(
    conn: &mut SqliteConnection,
    devices: String,
) -> Result<Vec<(DeviceNo, Position)>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, head FROM mailboxes WHERE device_no IN (SELECT value FROM json_each(?)) \
         ORDER BY device_no",
    )
    .bind(devices)
    .try_map(|row: SqliteRow| Ok((rows::device_no(&row, "device_no")?, rows::position(&row, "head")?)))
    .fetch_all(conn)
    .await
}

pub(super) async fn left(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    after: Position,
    limit: u32,
    now: Timestamp,
) -> Result<Left, sqlx::Error> {
    // One statement, one moment: an item committed in between must not be passed over by a newer head.
    let found = sqlx::query(
        "SELECT b.head, i.position, i.message_id FROM mailboxes b LEFT JOIN mailbox_items i \
         ON i.device_no = b.device_no AND i.position > ? AND i.expires_at > ? \
         WHERE b.device_no = ? ORDER BY i.position LIMIT ?",
    )
    .bind(after.0)
    .bind(now.millis())
    .bind(device.0)
    .bind(i64::from(limit.max(1)))
    .fetch_all(conn)
    .await?;
    let mut left = Left { items: Vec::with_capacity(found.len()), head: Position::START };
    for row in found {
        left.head = rows::position(&row, "head")?;
        if let (Some(position), Some(id)) = (row.try_get("position")?, row.try_get("message_id")?) {
            left.items.push((Position(position), MessageId::new(id)));
        }
    }
    left.items.truncate(limit as usize);
    Ok(left)
}

pub(super) async fn count(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    limit: u32,
    now: Timestamp,
) -> Result<u32, sqlx::Error> {
    let waiting: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM mailbox_items \
         WHERE device_no = ? AND expires_at > ? ORDER BY position LIMIT ?)",
    )
    .bind(device.0)
    .bind(now.millis())
    .bind(i64::from(limit))
    .fetch_one(conn)
    .await?;
    Ok(rows::count(waiting))
}

pub(super) async fn items(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    positions: String,
    now: Timestamp,
) -> Result<Vec<(Position, Item)>, sqlx::Error> {
    sqlx::query(
        "SELECT i.position, i.envelope_type, i.ephemeral_key, i.body, m.message_id, m.kind, m.deletes, \
         m.conversation_id, m.sender_id, d.device_id AS sender_device_id, \
         d.device_number AS sender_device_number, m.recipient_id, m.message_type, m.sequence, \
         m.accepted_at, m.expires_at, m.self_destructing, m.delivered_at, m.read_at, m.lost, \
         1 AS waiting \
         FROM mailbox_items i JOIN messages m ON m.message_id = i.message_id \
         LEFT JOIN devices d ON d.device_no = m.sender_no \
         WHERE i.device_no = ? AND i.position IN (SELECT value FROM json_each(?)) AND i.expires_at > ? \
         ORDER BY i.position",
    )
    .bind(device.0)
    .bind(positions)
    .bind(now.millis())
    .try_map(|row: SqliteRow| Ok((rows::position(&row, "position")?, item(&row)?)))
    .fetch_all(conn)
    .await
}

fn item(row: &SqliteRow) -> Result<Item, sqlx::Error> {
    let message_id = MessageId::new(row.try_get("message_id")?);
    let expires_at = rows::timestamp(row, "expires_at")?;
    match row.try_get::<i64, _>("kind")? {
        0 => message(row).map(Item::Message),
        1 => Ok(Item::Deleted { message_id, deletes: MessageId::new(row.try_get("deletes")?), expires_at }),
        2 => Ok(Item::DevicesChanged { message_id, devices: rows::device_list(row)?, expires_at }),
        3 => {
            let body = group_items::decode_welcome(row.try_get("body")?);
            let (group_id, epoch, welcome) = body.ok_or_else(|| corrupt("a Welcome is well-formed"))?;
            Ok(Item::Welcome { message_id, group_id, epoch, welcome, expires_at })
        }
        4 => {
            let body = group_items::decode_joined(row.try_get("body")?);
            let group_id = body.ok_or_else(|| corrupt("a joined item is well-formed"))?;
            Ok(Item::Joined { message_id, group_id, expires_at })
        }
        _ => Err(corrupt("the kind of a message lies between 0 and 4")),
    }
}

/// A message with the body of one device's item, if that is there. `waiting`: whether an item of any device is left.
pub(super) fn message(row: &SqliteRow) -> Result<Message, sqlx::Error> {
    Ok(Message {
        message_id: MessageId::new(row.try_get("message_id")?),
        conversation_id: ConversationId::new(row.try_get("conversation_id")?),
        sender_id: rows::user_id(row, "sender_id")?,
        sender_device_id: rows::device_id(row, "sender_device_id")?,
        sender_device_number: rows::device_number(row, "sender_device_number")?,
        recipient_id: rows::user_id(row, "recipient_id")?,
        message_type: rows::message_type(row)?,
        envelope: rows::envelope(row)?,
        sequence: row.try_get::<Option<i64>, _>("sequence")?.map(Sequence),
        accepted_at: rows::timestamp(row, "accepted_at")?,
        status: status(row)?,
        delivered_at: rows::optional_timestamp(row, "delivered_at")?,
        read_at: rows::optional_timestamp(row, "read_at")?,
        self_destructing: row.try_get("self_destructing")?,
        expires_at: rows::timestamp(row, "expires_at")?,
    })
}

/// What became of a message that has not expired.
fn status(row: &SqliteRow) -> Result<Status, sqlx::Error> {
    if rows::optional_timestamp(row, "read_at")?.is_some() {
        return Ok(Status::Read);
    }
    let waiting: bool = row.try_get("waiting")?;
    let lost: bool = row.try_get("lost")?;
    if rows::optional_timestamp(row, "delivered_at")?.is_some() || (!waiting && !lost) {
        return Ok(Status::Delivered);
    }
    Ok(Status::Sent)
}
