//! Deleting messages, for oneself and for everyone.

use std::collections::HashSet;

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    accept::erase,
    notices::{self, Notice, Says},
    rows,
};
use crate::{
    domain::{Delivery, DeviceNo, Item, MessageId, Position, Timestamp, UserId},
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
    let mut addressed = Vec::new();
    for &(device, _) in &target.places {
        if erased.contains(&device) || count(tx, device).await? < i64::from(limits.mailbox_items) {
            addressed.push(device);
        }
    }
    let notice = Notice {
        id: MessageId::fresh(now),
        says: Says::Deleted(target.message),
        sender_no: target.sender_no,
        sender: target.sender,
        recipient: target.recipient,
        expires_at: now.plus(limits.notice_life),
    };
    let places = notices::put(tx, &addressed, &notice, now).await?;
    let item =
        Item::Deleted { message_id: notice.id, deletes: target.message, expires_at: notice.expires_at };
    Ok(notices::deliveries(places, item))
}

async fn count(tx: &mut SqliteConnection, device: DeviceNo) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM mailbox_items WHERE device_no = ?")
        .bind(device.0)
        .fetch_one(tx)
        .await
}
