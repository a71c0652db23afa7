//! Deleting messages, for oneself and for everyone.

use std::sync::Arc;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::{NoContext, Uuid};

use super::{accept::erase, rows};
use crate::{
    domain::{Delivery, DeviceNo, Item, METADATA_LIFE, MessageId, Position, Timestamp, UserId},
    store::{Deleted, Limits},
};

/// What deleting needs to know of a message.
struct Target {
    message: MessageId,
    sender_no: DeviceNo,
    sender: UserId,
    recipient: UserId,
    deleted: bool,
    places: Vec<(DeviceNo, Position)>,
}

async fn find(tx: &mut SqliteConnection, message: MessageId) -> Result<Option<Target>, sqlx::Error> {
    sqlx::query(
        "SELECT sender_no, sender_id, recipient_id, deleted, places FROM messages \
         WHERE message_id = ? AND kind = 0",
    )
    .bind(message.uuid())
    .try_map(|row: SqliteRow| {
        Ok(Target {
            message,
            sender_no: rows::device_no(&row, "sender_no")?,
            sender: rows::user_id(&row, "sender_id")?,
            recipient: rows::user_id(&row, "recipient_id")?,
            deleted: row.try_get("deleted")?,
            places: rows::read_places(&row)?,
        })
    })
    .fetch_optional(tx)
    .await
}

pub(super) async fn delete_for_me(
    tx: &mut SqliteConnection,
    user: UserId,
    message: MessageId,
) -> Result<bool, sqlx::Error> {
    let hidden = sqlx::query(
        "UPDATE messages SET hidden_from_sender = hidden_from_sender OR sender_id = ?2, \
         hidden_from_recipient = hidden_from_recipient OR recipient_id = ?2 \
         WHERE message_id = ?1 AND kind = 0 AND ?2 IN (sender_id, recipient_id)",
    )
    .bind(message.uuid())
    .bind(user.uuid())
    .execute(&mut *tx)
    .await?;
    if hidden.rows_affected() == 0 {
        return Ok(false);
    }
    // Every place of a message lies in a mailbox of its recipient.
    if let Some(target) = find(tx, message).await?.filter(|target| target.recipient == user) {
        erase(tx, target.places).await?;
    }
    Ok(true)
}

pub(super) async fn delete_for_everyone(
    tx: &mut SqliteConnection,
    sender: UserId,
    message: MessageId,
    limits: Limits,
    now: Timestamp,
) -> Result<(Deleted, Vec<Delivery>), sqlx::Error> {
    let refused = |outcome| Ok((outcome, Vec::new()));
    let Some(target) = find(tx, message).await? else { return refused(Deleted::Unknown) };
    if target.sender != sender {
        let seen = target.recipient == sender;
        return refused(if seen { Deleted::NotSender } else { Deleted::Unknown });
    }
    if target.deleted {
        return refused(Deleted::Deleted);
    }
    sqlx::query("UPDATE messages SET deleted = 1 WHERE message_id = ?")
        .bind(message.uuid())
        .execute(&mut *tx)
        .await?;
    erase(tx, target.places.iter().copied()).await?;
    let deliveries = give_notice(tx, &target, limits, now).await?;
    Ok((Deleted::Deleted, deliveries))
}

/// Puts a notice into every mailbox that the message was put into and that still exists, full or not: a notice takes
/// the place of a message.
async fn give_notice(
    tx: &mut SqliteConnection,
    target: &Target,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let notice = MessageId::new(new_id(now));
    let expires_at = now.plus(limits.notice_life);
    let addressed = rows::numbers(target.places.iter().map(|(device, _)| device.0));
    let mut places: Vec<(DeviceNo, Position)> = sqlx::query(
        "UPDATE mailboxes SET head = head + 1 WHERE device_no IN (SELECT value FROM json_each(?)) \
         RETURNING device_no, head",
    )
    .bind(addressed)
    .try_map(|row: SqliteRow| Ok((rows::device_no(&row, "device_no")?, rows::position(&row, "head")?)))
    .fetch_all(&mut *tx)
    .await?;
    if places.is_empty() {
        return Ok(Vec::new());
    }
    places.sort_unstable();
    sqlx::query(
        "INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, deletes, accepted_at, \
         expires_at, due_at, places) VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(notice.uuid())
    .bind(target.sender_no.0)
    .bind(target.sender.uuid())
    .bind(target.recipient.uuid())
    .bind(target.message.uuid())
    .bind(now.millis())
    .bind(expires_at.millis())
    .bind(expires_at.min(now.plus(METADATA_LIFE)).millis())
    .bind(rows::places(places.iter().copied()))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at) \
         SELECT value ->> 0, value ->> 1, ?, ?, ? FROM json_each(?)",
    )
    .bind(notice.uuid())
    .bind(target.sender.uuid())
    .bind(expires_at.millis())
    .bind(rows::places(places.iter().copied()))
    .execute(tx)
    .await?;
    let item = Arc::new(Item::Deleted { message_id: notice, deletes: target.message, expires_at });
    let delivery = |(device_no, position)| Delivery { device_no, position, item: Arc::clone(&item) };
    Ok(places.into_iter().map(delivery).collect())
}

fn new_id(now: Timestamp) -> Uuid {
    let seconds = u64::try_from(now.seconds()).unwrap_or_default();
    let millis = u32::try_from(now.millis().rem_euclid(1000)).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, seconds, millis * 1_000_000))
}
