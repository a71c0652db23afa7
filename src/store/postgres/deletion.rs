//! Deleting messages: for oneself, and for everyone with a notice in each mailbox.

use sqlx::{Error, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    notices::{Head, News, Notice, erase},
    rows::Places,
};
use crate::{
    domain::{Delivery, DeviceNo, MessageId, Position, Timestamp, UserId},
    store::{Deleted, Limits},
};

pub(super) async fn for_me(
    pool: &PgPool,
    user: UserId,
    message: MessageId,
) -> Result<Option<Vec<(DeviceNo, Position)>>, Error> {
    let mut tx = pool.begin().await?;
    let row: Option<AddressedRow> = sqlx::query_as(
        "UPDATE messages SET hidden_from_sender = hidden_from_sender OR sender_id = $2, \
            hidden_from_recipient = hidden_from_recipient OR recipient_id = $2 \
         WHERE message_id = $1 AND kind = 0 AND (sender_id = $2 OR recipient_id = $2) \
         RETURNING sender_id, recipient_id, deleted, device_nos, positions",
    )
    .bind(message.uuid())
    .bind(user.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.recipient_id != user.uuid() {
        tx.commit().await?;
        return Ok(Some(Vec::new()));
    }
    if !erase(&mut tx, row.places.iter()).await?.is_empty() {
        sqlx::query("UPDATE messages SET lost = true WHERE message_id = $1")
            .bind(message.uuid())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(Some(row.places.iter().collect()))
}

#[derive(FromRow)]
struct AddressedRow {
    sender_id: Uuid,
    recipient_id: Uuid,
    deleted: bool,
    #[sqlx(flatten)]
    places: Places,
}

/// What became of the deletion, and what to hand to hot delivery.
pub(super) async fn for_everyone(
    pool: &PgPool,
    limits: Limits,
    sender: UserId,
    message: MessageId,
    now: Timestamp,
) -> Result<(Deleted, Vec<Delivery>), Error> {
    let mut tx = pool.begin().await?;
    let Some(seen) = addressed(&mut tx, message, false).await? else {
        return Ok((Deleted::Unknown, Vec::new()));
    };
    if seen.sender_id != sender.uuid() {
        let recipient = seen.recipient_id == sender.uuid();
        return Ok((if recipient { Deleted::NotSender } else { Deleted::Unknown }, Vec::new()));
    }
    // The mailboxes come before the message in the order of locks; the places of a message never change.
    let heads = lock_heads(&mut tx, &seen.places.device_nos).await?;
    let Some(current) = addressed(&mut tx, message, true).await? else {
        return Ok((Deleted::Unknown, Vec::new()));
    };
    let places = current.places.iter().collect();
    if current.deleted {
        return Ok((Deleted::Deleted(places), Vec::new()));
    }
    sqlx::query("UPDATE messages SET deleted = true WHERE message_id = $1")
        .bind(message.uuid())
        .execute(&mut *tx)
        .await?;
    let erased = erase(&mut tx, current.places.iter()).await?;
    let heads = with_room(&mut tx, heads, &erased, limits).await?;
    let pair = (current.sender_id, current.recipient_id);
    let notice = Notice::new(pair, News::Deleted(message), limits, now);
    let deliveries = notice.post(&mut tx, &heads, now).await?;
    tx.commit().await?;
    Ok((Deleted::Deleted(places), deliveries))
}

async fn addressed(
    tx: &mut PgConnection,
    message: MessageId,
    lock: bool,
) -> Result<Option<AddressedRow>, Error> {
    let statement = if lock {
        "SELECT sender_id, recipient_id, deleted, device_nos, positions FROM messages \
         WHERE message_id = $1 AND kind = 0 FOR UPDATE"
    } else {
        "SELECT sender_id, recipient_id, deleted, device_nos, positions FROM messages \
         WHERE message_id = $1 AND kind = 0"
    };
    sqlx::query_as(statement).bind(message.uuid()).fetch_optional(tx).await
}

async fn lock_heads(tx: &mut PgConnection, devices: &[i64]) -> Result<Vec<Head>, Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT device_no, head FROM mailboxes WHERE device_no = ANY($1) ORDER BY device_no FOR UPDATE",
    )
    .bind(devices)
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|(device, head)| (DeviceNo(device), Position(head))).collect())
}

/// The mailboxes in which a notice takes the place of a body, or that are not full.
async fn with_room(
    tx: &mut PgConnection,
    mut heads: Vec<Head>,
    erased: &[DeviceNo],
    limits: Limits,
) -> Result<Vec<Head>, Error> {
    let full: Vec<i64> = sqlx::query_scalar(
        "SELECT device_no FROM mailbox_items WHERE device_no = ANY($1) GROUP BY device_no HAVING count(*) >= $2",
    )
    .bind(heads.iter().map(|(device, _)| device.0).collect::<Vec<_>>())
    .bind(i64::from(limits.mailbox_items))
    .fetch_all(tx)
    .await?;
    heads.retain(|(device, _)| erased.contains(device) || !full.contains(&device.0));
    Ok(heads)
}
