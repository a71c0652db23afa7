//! What devices that may read a group's log are given: an item in the mailbox, and a window behind it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use sqlx::{Error, PgConnection};
use uuid::Uuid;

use super::super::{
    accept,
    rows::{at, count},
};
use crate::{
    domain::{
        Delivery, DeviceNo, Epoch, GroupId, Item, METADATA_LIFE, MessageId, Position, Timestamp, UserId,
    },
    store::{
        Limits,
        group_items::{ITEM_LIFE, JOINED, WELCOME, encode_joined, encode_welcome},
    },
};

/// A locked mailbox of an active device.
#[derive(Clone, Copy)]
pub(in super::super) struct Room {
    pub(in super::super) device_no: DeviceNo,
    pub(in super::super) user_id: UserId,
    /// The last position given.
    pub(in super::super) head: Position,
    /// See the schema.
    pub(in super::super) spare: Position,
}

/// Locks the mailboxes of these devices, in the order of locks; those of devices that are gone are left out.
pub(super) async fn lock_mailboxes(tx: &mut PgConnection, devices: &[DeviceNo]) -> Result<Vec<Room>, Error> {
    let devices: Vec<i64> = devices.iter().map(|device| device.0).collect();
    let rows: Vec<(i64, Uuid, i64, i64)> = sqlx::query_as(
        "SELECT device_no, user_id, head, spare FROM mailboxes WHERE device_no = ANY($1) \
         ORDER BY device_no FOR UPDATE",
    )
    .bind(devices)
    .fetch_all(tx)
    .await?;
    let room = |(device, user, head, spare)| Room {
        device_no: DeviceNo(device),
        user_id: UserId::new(user),
        head: Position(head),
        spare: Position(spare),
    };
    Ok(rows.into_iter().map(room).collect())
}

/// Whether each of these mailboxes has room for an item of this user. Those that may be near a limit are counted.
pub(super) async fn have_room(
    tx: &mut PgConnection,
    rooms: &mut [Room],
    by: UserId,
    limits: Limits,
) -> Result<bool, Error> {
    let near: Vec<i64> =
        rooms.iter().filter(|room| room.head >= room.spare).map(|room| room.device_no.0).collect();
    if near.is_empty() {
        return Ok(true);
    }
    let rows: Vec<(i64, Uuid, i64)> = sqlx::query_as(accept::COUNTS).bind(&near).fetch_all(tx).await?;
    let mut counts: HashMap<i64, HashMap<Uuid, u32>> =
        near.into_iter().map(|device| (device, HashMap::new())).collect();
    for (device, sender, items) in rows {
        counts.entry(device).or_default().insert(sender, count(items));
    }
    for room in rooms {
        let Some(counts) = counts.get(&room.device_no.0) else { continue };
        let total: u32 = counts.values().sum();
        let busiest = counts.values().copied().max().unwrap_or(0);
        let own = counts.get(&by.uuid()).copied().unwrap_or(0);
        if total >= limits.mailbox_items || own >= limits.mailbox_items_per_sender {
            return Ok(false);
        }
        let left = limits.mailbox_items.saturating_sub(total);
        let left = left.min(limits.mailbox_items_per_sender.saturating_sub(busiest));
        room.spare = Position(room.head.0 + i64::from(left));
    }
    Ok(true)
}

/// Why windows are opened.
#[derive(Clone, Copy)]
pub(super) struct Opening {
    pub(super) group_id: GroupId,
    /// Who brought it about.
    pub(super) by: UserId,
    /// The entry before the first one that the windows hold.
    pub(super) after: Position,
    /// The epoch that the devices join at.
    pub(super) epoch: Epoch,
}

/// Gives each of these devices an item, its Welcome or else `joined`, and a window behind it.
pub(super) async fn open(
    tx: &mut PgConnection,
    opening: Opening,
    rooms: &[(Room, Option<&Bytes>)],
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    let mut deliveries = Vec::with_capacity(rooms.len());
    for welcomed in [false, true] {
        let chosen: Vec<_> =
            rooms.iter().filter(|(_, welcome)| welcome.is_some() == welcomed).copied().collect();
        if !chosen.is_empty() {
            deliveries.extend(post(tx, opening, &chosen, welcomed, now).await?);
        }
    }
    deliveries.sort_by_key(|delivery| (delivery.device_no, delivery.position));
    let (devices, gates): (Vec<i64>, Vec<i64>) =
        deliveries.iter().map(|delivery| (delivery.device_no.0, delivery.position.0)).unzip();
    sqlx::query(
        "INSERT INTO group_windows (device_no, group_id, opened_after, cursor, gate, joined_epoch) \
         SELECT n.device_no, $1, $2, $2, n.gate, $3 FROM unnest($4::bigint[], $5::bigint[]) AS n(device_no, gate)",
    )
    .bind(opening.group_id.uuid())
    .bind(opening.after.0)
    .bind(opening.epoch.0)
    .bind(devices)
    .bind(gates)
    .execute(tx)
    .await?;
    Ok(deliveries)
}

/// No device's send, like a notice: its `sender_no` is 0.
pub(in super::super) const POST: &str = "\
    WITH moved AS ( \
        UPDATE mailboxes m SET head = n.position, spare = n.spare \
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS n(device_no, position, spare) \
        WHERE m.device_no = n.device_no \
    ), noted AS ( \
        INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, accepted_at, expires_at, \
            due_at, device_nos, positions) \
        VALUES ($4, $5, 0, $6, $6, $7, $8, $9, $1, $2) \
    ) \
    INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, body) \
    SELECT n.device_no, n.position, $4, $6, $8, n.body \
    FROM unnest($1::bigint[], $2::bigint[], $10::bytea[]) AS n(device_no, position, body)";

/// Puts an item behind the last one of each of these mailboxes.
async fn post(
    tx: &mut PgConnection,
    opening: Opening,
    rooms: &[(Room, Option<&Bytes>)],
    welcomed: bool,
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    let Opening { group_id, epoch, .. } = opening;
    let (message_id, expires_at) = (MessageId::fresh(now), now.plus(ITEM_LIFE));
    let body = |welcome: Option<&Bytes>| match welcome {
        Some(welcome) => encode_welcome(group_id, epoch, welcome),
        None => encode_joined(group_id),
    };
    sqlx::query(POST)
        .bind(rooms.iter().map(|(room, _)| room.device_no.0).collect::<Vec<_>>())
        .bind(rooms.iter().map(|(room, _)| room.head.next().0).collect::<Vec<_>>())
        .bind(rooms.iter().map(|(room, _)| room.spare.0).collect::<Vec<_>>())
        .bind(message_id.uuid())
        .bind(if welcomed { WELCOME } else { JOINED })
        .bind(opening.by.uuid())
        .bind(at(now))
        .bind(at(expires_at))
        .bind(at(expires_at.min(now.plus(METADATA_LIFE))))
        .bind(rooms.iter().map(|(_, welcome)| body(*welcome)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    let joined = Arc::new(Item::Joined { message_id, group_id, expires_at });
    let item = |welcome: Option<&Bytes>| match welcome {
        None => Arc::clone(&joined),
        Some(welcome) => {
            Arc::new(Item::Welcome { message_id, group_id, epoch, welcome: welcome.clone(), expires_at })
        }
    };
    let delivery = |(room, welcome): &(Room, Option<&Bytes>)| Delivery {
        device_no: room.device_no,
        position: room.head.next(),
        item: item(*welcome),
    };
    Ok(rooms.iter().map(delivery).collect())
}
