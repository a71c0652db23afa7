//! Windows: opened with an item in the mailbox of their device, read, moved, ended.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use sqlx::{QueryBuilder, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        ROWS_AT_ONCE,
        rows::{self, corrupt},
    },
    rows as columns,
};
use crate::{
    domain::{
        Caller, Delivery, DeviceNo, Epoch, GroupId, Item, METADATA_LIFE, MessageId, Position, Timestamp,
        UserId, Window,
    },
    store::group_items::{self, ITEM_LIFE, JOINED, WELCOME},
};

/// A window to be opened to a device whose mailbox has room.
pub(super) struct Opening {
    pub(super) device: DeviceNo,
    pub(super) group: GroupId,
    /// The entry before the first one it holds.
    pub(super) after: Position,
    /// The epoch that the device joins at.
    pub(super) epoch: Epoch,
    /// The Welcome for it; without one the item is `joined`.
    pub(super) welcome: Option<Bytes>,
}

/// An opening, and the item that goes before its entries.
struct Gate<'a> {
    opening: &'a Opening,
    user: UserId,
    position: Position,
    id: MessageId,
    expires_at: Timestamp,
}

impl Gate<'_> {
    fn kind(&self) -> i16 {
        if self.opening.welcome.is_some() { WELCOME } else { JOINED }
    }

    fn body(&self) -> Vec<u8> {
        let Opening { group, epoch, welcome, .. } = self.opening;
        match welcome {
            Some(welcome) => group_items::encode_welcome(*group, *epoch, welcome),
            None => group_items::encode_joined(*group),
        }
    }

    fn delivery(&self) -> Delivery {
        let (message_id, group_id, expires_at) = (self.id, self.opening.group, self.expires_at);
        let item = match &self.opening.welcome {
            Some(welcome) => {
                let (epoch, welcome) = (self.opening.epoch, welcome.clone());
                Item::Welcome { message_id, group_id, epoch, welcome, expires_at }
            }
            None => Item::Joined { message_id, group_id, expires_at },
        };
        Delivery { device_no: self.opening.device, position: self.position, item: Arc::new(item) }
    }
}

/// Opens windows, each with its item, in the name of `by`.
pub(super) async fn open(
    tx: &mut SqliteConnection,
    by: &Caller,
    openings: &[Opening],
    now: Timestamp,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let mut gates = Vec::with_capacity(openings.len());
    let mut mailboxes = mailboxes(tx, openings).await?;
    for opening in openings {
        let mailbox = mailboxes.get_mut(&opening.device);
        let (user, head) = mailbox.ok_or_else(|| corrupt("a window's device has a mailbox"))?;
        *head = head.next();
        let (id, expires_at) = (MessageId::fresh(now), now.plus(ITEM_LIFE));
        gates.push(Gate { opening, user: *user, position: *head, id, expires_at });
    }
    move_heads(tx, &mailboxes).await?;
    for chunk in gates.chunks(ROWS_AT_ONCE) {
        insert_messages(tx, by, chunk, now).await?;
        insert_items(tx, by, chunk).await?;
        insert_windows(tx, chunk).await?;
    }
    Ok(gates.iter().map(Gate::delivery).collect())
}

/// Whose the devices' mailboxes are, and the last positions given in them.
async fn mailboxes(
    tx: &mut SqliteConnection,
    openings: &[Opening],
) -> Result<HashMap<DeviceNo, (UserId, Position)>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT device_no, user_id, head FROM mailboxes WHERE device_no IN (SELECT value FROM json_each(?))",
    )
    .bind(rows::numbers(openings.iter().map(|opening| opening.device.0)))
    .try_map(|row: SqliteRow| {
        let mailbox = (rows::user_id(&row, "user_id")?, rows::position(&row, "head")?);
        Ok((rows::device_no(&row, "device_no")?, mailbox))
    })
    .fetch_all(tx)
    .await?;
    Ok(found.into_iter().collect())
}

async fn move_heads(
    tx: &mut SqliteConnection,
    mailboxes: &HashMap<DeviceNo, (UserId, Position)>,
) -> Result<(), sqlx::Error> {
    let heads = mailboxes.iter().map(|(device, (_, head))| (*device, *head));
    sqlx::query(
        "UPDATE mailboxes SET head = v.value ->> 1 FROM json_each(?) v \
         WHERE mailboxes.device_no = v.value ->> 0",
    )
    .bind(rows::places(heads))
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_messages(
    tx: &mut SqliteConnection,
    by: &Caller,
    gates: &[Gate<'_>],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, accepted_at, \
         expires_at, due_at, places) ",
    );
    insert.push_values(gates, |mut row, gate| {
        row.push_bind(gate.id.uuid()).push_bind(gate.kind()).push_bind(by.device_no.0);
        row.push_bind(by.user_id.uuid()).push_bind(gate.user.uuid()).push_bind(now.millis());
        row.push_bind(gate.expires_at.millis());
        row.push_bind(gate.expires_at.min(now.plus(METADATA_LIFE)).millis());
        row.push_bind(rows::places([(gate.opening.device, gate.position)]));
    });
    insert.build().persistent(false).execute(tx).await?;
    Ok(())
}

async fn insert_items(tx: &mut SqliteConnection, by: &Caller, gates: &[Gate<'_>]) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, body) ",
    );
    insert.push_values(gates, |mut row, gate| {
        row.push_bind(gate.opening.device.0).push_bind(gate.position.0).push_bind(gate.id.uuid());
        row.push_bind(by.user_id.uuid()).push_bind(gate.expires_at.millis()).push_bind(gate.body());
    });
    insert.build().persistent(false).execute(tx).await?;
    Ok(())
}

async fn insert_windows(tx: &mut SqliteConnection, gates: &[Gate<'_>]) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO group_windows (device_no, group_id, opened_after, cursor, gate, joined_epoch) ",
    );
    insert.push_values(gates, |mut row, gate| {
        let Opening { device, group, after, epoch, .. } = gate.opening;
        row.push_bind(device.0).push_bind(group.uuid()).push_bind(after.0).push_bind(after.0);
        row.push_bind(gate.position.0).push_bind(epoch.0);
    });
    insert.build().persistent(false).execute(tx).await?;
    Ok(())
}

/// Ends the windows of these devices with the entry at a position; tells which there were, ascending.
pub(super) async fn close(
    tx: &mut SqliteConnection,
    group: GroupId,
    devices: &[DeviceNo],
    position: Position,
) -> Result<Vec<DeviceNo>, sqlx::Error> {
    let closed = sqlx::query(
        "UPDATE group_windows SET closed_at = ? WHERE group_id = ? AND closed_at IS NULL \
         AND device_no IN (SELECT value FROM json_each(?)) RETURNING device_no",
    )
    .bind(position.0)
    .bind(group.uuid())
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .try_map(|row: SqliteRow| rows::device_no(&row, "device_no"))
    .fetch_all(tx)
    .await?;
    Ok(ascending(closed))
}

/// Like [`close`], for every device in the group.
pub(super) async fn close_all(
    tx: &mut SqliteConnection,
    group: GroupId,
    position: Position,
) -> Result<Vec<DeviceNo>, sqlx::Error> {
    let closed = sqlx::query(
        "UPDATE group_windows SET closed_at = ? WHERE group_id = ? AND closed_at IS NULL RETURNING device_no",
    )
    .bind(position.0)
    .bind(group.uuid())
    .try_map(|row: SqliteRow| rows::device_no(&row, "device_no"))
    .fetch_all(tx)
    .await?;
    Ok(ascending(closed))
}

fn ascending(mut devices: Vec<DeviceNo>) -> Vec<DeviceNo> {
    devices.sort_unstable();
    devices
}

/// Whether a device has a window that has not ended.
pub(super) async fn is_open(
    tx: &mut SqliteConnection,
    group: GroupId,
    device: DeviceNo,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM group_windows WHERE group_id = ? AND device_no = ? AND closed_at IS NULL)",
    )
    .bind(group.uuid())
    .bind(device.0)
    .fetch_one(tx)
    .await
}

/// The newest window of a device.
pub(super) async fn newest(
    conn: &mut SqliteConnection,
    group: GroupId,
    device: DeviceNo,
) -> Result<Option<Window>, sqlx::Error> {
    sqlx::query(
        "SELECT group_id, opened_after, closed_at, cursor, gate, joined_epoch FROM group_windows \
         WHERE group_id = ? AND device_no = ? ORDER BY opened_after DESC LIMIT 1",
    )
    .bind(group.uuid())
    .bind(device.0)
    .try_map(|row: SqliteRow| columns::window(&row))
    .fetch_optional(conn)
    .await
}

/// What is still to be read by a device, with the heads of the logs.
pub(super) async fn unread(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    group: Option<GroupId>,
) -> Result<Vec<(Window, Position)>, sqlx::Error> {
    sqlx::query(
        "SELECT w.group_id, w.opened_after, w.closed_at, w.cursor, w.gate, w.joined_epoch, g.head \
         FROM group_windows w JOIN groups g ON g.group_id = w.group_id \
         WHERE w.device_no = ?1 AND (?2 IS NULL OR w.group_id = ?2) \
         AND (w.closed_at IS NULL OR w.closed_at > w.cursor) ORDER BY w.group_id, w.opened_after",
    )
    .bind(device.0)
    .bind(group.map(GroupId::uuid))
    .try_map(|row: SqliteRow| Ok((columns::window(&row)?, rows::position(&row, "head")?)))
    .fetch_all(conn)
    .await
}

/// The windows of a device that hold an entry or have not ended, oldest first.
pub(super) async fn held(
    conn: &mut SqliteConnection,
    device: DeviceNo,
    group: GroupId,
) -> Result<Vec<Window>, sqlx::Error> {
    sqlx::query(
        "SELECT group_id, opened_after, closed_at, cursor, gate, joined_epoch FROM group_windows w \
         WHERE device_no = ? AND group_id = ? AND (closed_at IS NULL OR EXISTS (SELECT 1 FROM group_log l \
             WHERE l.group_id = w.group_id AND l.position > w.opened_after AND l.position <= w.closed_at)) \
         ORDER BY opened_after",
    )
    .bind(device.0)
    .bind(group.uuid())
    .try_map(|row: SqliteRow| columns::window(&row))
    .fetch_all(conn)
    .await
}

/// Moves cursors, each device's of each group at most once.
pub(in super::super) async fn ack(
    tx: &mut SqliteConnection,
    cursors: &[(DeviceNo, GroupId, Position)],
) -> Result<(), sqlx::Error> {
    if cursors.is_empty() {
        return Ok(());
    }
    let place = |(device, group, to): &(DeviceNo, GroupId, Position)| {
        format!("[{},\"{}\",{}]", device.0, group.uuid().simple(), to.0)
    };
    let places = format!("[{}]", cursors.iter().map(place).collect::<Vec<_>>().join(","));
    sqlx::query(
        "UPDATE group_windows SET cursor = max(cursor, min(a.position, g.head, coalesce(closed_at, g.head))) \
         FROM (SELECT value ->> 0 AS device_no, unhex(value ->> 1) AS group_id, value ->> 2 AS position \
               FROM json_each(?)) a \
         JOIN groups g ON g.group_id = a.group_id \
         WHERE group_windows.device_no = a.device_no AND group_windows.group_id = a.group_id",
    )
    .bind(places)
    .execute(tx)
    .await?;
    Ok(())
}
