//! Deleting messages, for oneself and for everyone.

use std::{collections::HashSet, sync::Arc};

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

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
) -> Result<Option<Vec<(DeviceNo, Position)>>, sqlx::Error> {
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
        return Ok(None);
    }
    // Every place of a message lies in a mailbox of its recipient.
    let Some(target) = find(tx, message).await?.filter(|target| target.recipient == user) else {
        return Ok(Some(Vec::new()));
    };
    if !erase(tx, target.places.iter().copied()).await?.is_empty() {
        sqlx::query("UPDATE messages SET lost = 1 WHERE message_id = ?")
            .bind(message.uuid())
            .execute(tx)
            .await?;
    }
    Ok(Some(target.places))
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
        return refused(Deleted::Deleted(target.places));
    }
    sqlx::query("UPDATE messages SET deleted = 1 WHERE message_id = ?")
        .bind(message.uuid())
        .execute(&mut *tx)
        .await?;
    let erased: HashSet<_> =
        erase(tx, target.places.iter().copied()).await?.into_keys().map(|(device, _)| device).collect();
    let deliveries = give_notice(tx, &target, &erased, limits, now).await?;
    Ok((Deleted::Deleted(target.places), deliveries))
}

/// Puts a notice into every mailbox that the message was put into and that still exists, unless it is full and nothing
/// was erased in it: then a notice would not take the place of a body.
async fn give_notice(
    tx: &mut SqliteConnection,
    target: &Target,
    erased: &HashSet<DeviceNo>,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let notice = MessageId::fresh(now);
    let expires_at = now.plus(limits.notice_life);
    let mut addressed = Vec::new();
    for (device, _) in &target.places {
        if erased.contains(device) || count(tx, *device).await? < i64::from(limits.mailbox_items) {
            addressed.push(device.0);
        }
    }
    let addressed = rows::numbers(addressed);
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

async fn count(tx: &mut SqliteConnection, device: DeviceNo) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM mailbox_items WHERE device_no = ?")
        .bind(device.0)
        .fetch_one(tx)
        .await
}
