//! Notices: items that the relay itself puts into mailboxes.

use std::sync::Arc;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{Context, rows};
use crate::{
    domain::{Delivery, DeviceNo, Item, ListedDevice, METADATA_LIFE, MessageId, Position, Timestamp, UserId},
    store::device_list,
};

/// What a notice says.
pub(super) enum Says {
    /// This message was deleted for everyone.
    Deleted(MessageId),
    /// These are the user's devices now, encoded.
    DevicesChanged(Vec<u8>),
}

/// A notice to be put into mailboxes.
pub(super) struct Notice {
    pub(super) id: MessageId,
    pub(super) says: Says,
    /// The sending incarnation; 0 for the relay's own word.
    pub(super) sender_no: DeviceNo,
    pub(super) sender: UserId,
    pub(super) recipient: UserId,
    pub(super) expires_at: Timestamp,
}

/// The relay's own word comes from no incarnation.
pub(super) const NO_DEVICE: DeviceNo = DeviceNo(0);

/// Tells a user's devices, but the newcomer, how the list of them looks now. In each mailbox the notice takes the place
/// of an older one that still waits; so even a full mailbox grows by one item at most.
pub(super) async fn devices_changed(
    tx: &mut SqliteConnection,
    user: UserId,
    newcomer: Option<DeviceNo>,
    context: &Context,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let (numbers, listed): (Vec<_>, Vec<_>) = active(tx, user).await?.into_iter().unzip();
    let told: Vec<_> = numbers.into_iter().filter(|device| Some(*device) != newcomer).collect();
    if told.is_empty() {
        return Ok(Vec::new());
    }
    erase_older(tx, user, &told).await?;
    let notice = Notice {
        id: MessageId::fresh(context.now),
        says: Says::DevicesChanged(device_list::encode(&listed)),
        sender_no: NO_DEVICE,
        sender: user,
        recipient: user,
        expires_at: context.now.plus(context.limits.notice_life),
    };
    let places = put(tx, &told, &notice, context.now).await?;
    let item =
        Item::DevicesChanged { message_id: notice.id, devices: listed.into(), expires_at: notice.expires_at };
    Ok(deliveries(places, item))
}

/// The user's active devices, oldest first.
async fn active(
    tx: &mut SqliteConnection,
    user: UserId,
) -> Result<Vec<(DeviceNo, ListedDevice)>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, device_id, device_number, registration_id FROM devices \
         WHERE user_id = ? AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .try_map(|row: SqliteRow| {
        let listed = ListedDevice {
            device_id: rows::device_id(&row, "device_id")?,
            device_number: rows::device_number(&row, "device_number")?,
            registration_id: rows::registration_id(&row, "registration_id")?,
        };
        Ok((rows::device_no(&row, "device_no")?, listed))
    })
    .fetch_all(tx)
    .await
}

async fn erase_older(
    tx: &mut SqliteConnection,
    user: UserId,
    devices: &[DeviceNo],
) -> Result<(), sqlx::Error> {
    // The cheap conditions leave next to nothing to be looked up in messages.
    sqlx::query(
        "DELETE FROM mailbox_items WHERE device_no IN (SELECT value FROM json_each(?)) \
         AND sender_id = ? AND envelope_type IS NULL AND body IS NOT NULL \
         AND EXISTS (SELECT 1 FROM messages m WHERE m.message_id = mailbox_items.message_id AND m.kind = 2)",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .bind(user.uuid())
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts a notice into those of these mailboxes that still exist, and says where.
pub(super) async fn put(
    tx: &mut SqliteConnection,
    devices: &[DeviceNo],
    notice: &Notice,
    now: Timestamp,
) -> Result<Vec<(DeviceNo, Position)>, sqlx::Error> {
    let mut places: Vec<(DeviceNo, Position)> = sqlx::query(
        "UPDATE mailboxes SET head = head + 1 WHERE device_no IN (SELECT value FROM json_each(?)) \
         RETURNING device_no, head",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .try_map(|row: SqliteRow| Ok((rows::device_no(&row, "device_no")?, rows::position(&row, "head")?)))
    .fetch_all(&mut *tx)
    .await?;
    places.sort_unstable();
    if !places.is_empty() {
        insert(tx, notice, rows::places(places.iter().copied()), now).await?;
    }
    Ok(places)
}

async fn insert(
    tx: &mut SqliteConnection,
    notice: &Notice,
    places: String,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (kind, deletes, body) = match &notice.says {
        Says::Deleted(message) => (1, Some(message.uuid()), None),
        Says::DevicesChanged(list) => (2, None, Some(list.as_slice())),
    };
    sqlx::query(
        "INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, deletes, accepted_at, \
         expires_at, due_at, places) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(notice.id.uuid())
    .bind(kind)
    .bind(notice.sender_no.0)
    .bind(notice.sender.uuid())
    .bind(notice.recipient.uuid())
    .bind(deletes)
    .bind(now.millis())
    .bind(notice.expires_at.millis())
    .bind(notice.expires_at.min(now.plus(METADATA_LIFE)).millis())
    .bind(&places)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, body) \
         SELECT value ->> 0, value ->> 1, ?, ?, ?, ? FROM json_each(?)",
    )
    .bind(notice.id.uuid())
    .bind(notice.sender.uuid())
    .bind(notice.expires_at.millis())
    .bind(body)
    .bind(&places)
    .execute(tx)
    .await?;
    Ok(())
}

/// The same item on its way to each of these places.
pub(super) fn deliveries(places: Vec<(DeviceNo, Position)>, item: Item) -> Vec<Delivery> {
    let item = Arc::new(item);
    let delivery = |(device_no, position)| Delivery { device_no, position, item: Arc::clone(&item) };
    places.into_iter().map(delivery).collect()
}
