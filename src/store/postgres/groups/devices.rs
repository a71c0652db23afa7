//! What groups have to do with devices that come and go.

use std::sync::Arc;

use sqlx::{Error, FromRow, PgConnection};
use uuid::Uuid;

use super::super::rows::at;
use crate::{
    domain::{Delivery, DeviceNo, GroupId, Item, METADATA_LIFE, MessageId, Position, Timestamp, UserId},
    store::group_items::{ITEM_LIFE, JOINED, encode_joined},
};

/// A locked roster group of a user.
#[derive(FromRow)]
pub(in super::super) struct RosterGroup {
    group_id: Uuid,
    head: i64,
    epoch: i64,
}

/// Locks the roster groups of a user, whose row is locked, in the order of locks.
pub(in super::super) async fn lock_roster_groups(
    tx: &mut PgConnection,
    user: UserId,
) -> Result<Vec<RosterGroup>, Error> {
    sqlx::query(
        "SELECT FROM groups g JOIN group_members m ON m.group_id = g.group_id \
         WHERE m.user_id = $1 AND g.handshake = 2 ORDER BY g.group_id FOR UPDATE OF g",
    )
    .bind(user.uuid())
    .execute(&mut *tx)
    .await?;
    // Nobody adds the user while its row is locked; it may have been removed while a group's was waited for.
    sqlx::query_as(
        "SELECT g.group_id, g.head, g.epoch FROM groups g JOIN group_members m ON m.group_id = g.group_id \
         WHERE m.user_id = $1 AND g.handshake = 2 ORDER BY g.group_id",
    )
    .bind(user.uuid())
    .fetch_all(tx)
    .await
}

const JOIN: &str = "\
    WITH moved AS ( \
        UPDATE mailboxes SET head = cardinality($3::uuid[]) WHERE device_no = $1 \
    ), changed AS ( \
        UPDATE groups SET version = version + 1 WHERE group_id = ANY($3) \
    ), noted AS ( \
        INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, accepted_at, expires_at, \
            due_at, device_nos, positions) \
        SELECT n.message_id, $10, 0, $2, $2, $7, $8, $9, ARRAY[$1], ARRAY[n.place] \
        FROM unnest($5::uuid[]) WITH ORDINALITY AS n(message_id, place) \
    ), opened AS ( \
        INSERT INTO group_windows (device_no, group_id, opened_after, cursor, gate, joined_epoch) \
        SELECT $1, n.group_id, n.head, n.head, n.place, n.epoch \
        FROM unnest($3::uuid[], $4::bigint[], $11::bigint[]) WITH ORDINALITY AS n(group_id, head, epoch, place) \
    ) \
    INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, body) \
    SELECT $1, n.place, n.message_id, $2, $8, n.body \
    FROM unnest($5::uuid[], $6::bytea[]) WITH ORDINALITY AS n(message_id, body, place)";

/// Lets a new device, whose mailbox is empty, read these groups from their heads on.
pub(in super::super) async fn join_roster_groups(
    tx: &mut PgConnection,
    (user, device_no): (UserId, DeviceNo),
    groups: &[RosterGroup],
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<MessageId> = groups.iter().map(|_| MessageId::fresh(now)).collect();
    ids.sort_unstable();
    let expires_at = now.plus(ITEM_LIFE);
    let group_ids: Vec<GroupId> = groups.iter().map(|group| GroupId::new(group.group_id)).collect();
    sqlx::query(JOIN)
        .bind(device_no.0)
        .bind(user.uuid())
        .bind(groups.iter().map(|group| group.group_id).collect::<Vec<_>>())
        .bind(groups.iter().map(|group| group.head).collect::<Vec<_>>())
        .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
        .bind(group_ids.iter().map(|group| encode_joined(*group)).collect::<Vec<_>>())
        .bind(at(now))
        .bind(at(expires_at))
        .bind(at(expires_at.min(now.plus(METADATA_LIFE))))
        .bind(JOINED)
        .bind(groups.iter().map(|group| group.epoch).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    let mut position = Position::START;
    let mut deliveries = Vec::with_capacity(groups.len());
    for (message_id, group_id) in ids.into_iter().zip(group_ids) {
        position = position.next();
        let item = Arc::new(Item::Joined { message_id, group_id, expires_at });
        deliveries.push(Delivery { device_no, position, item });
    }
    Ok(deliveries)
}

const GROUPS_OF_DEVICE: &str = "\
    SELECT group_id FROM group_windows WHERE device_no = $1 UNION \
    SELECT group_id FROM group_leaves WHERE device_no = $1";

/// Locks every group that a device has a window or a leaf in, in the order of locks.
pub(in super::super) async fn lock_groups_of(
    tx: &mut PgConnection,
    device: DeviceNo,
) -> Result<Vec<Uuid>, Error> {
    let groups: Vec<Uuid> = sqlx::query_scalar(GROUPS_OF_DEVICE).bind(device.0).fetch_all(&mut *tx).await?;
    sqlx::query_scalar("SELECT group_id FROM groups WHERE group_id = ANY($1) ORDER BY group_id FOR UPDATE")
        .bind(groups)
        .fetch_all(tx)
        .await
}

/// Whether these, in ascending order, are all groups of a device, whose mailbox is locked: nothing adds it to another one now.
pub(in super::super) async fn are_all_groups_of(
    tx: &mut PgConnection,
    device: DeviceNo,
    locked: &[Uuid],
) -> Result<bool, Error> {
    let groups: Vec<Uuid> = sqlx::query_scalar(GROUPS_OF_DEVICE).bind(device.0).fetch_all(tx).await?;
    Ok(groups.iter().all(|group| locked.binary_search(group).is_ok()))
}

/// Ends every window of a device whose groups are locked. Its leaves stay, dead.
pub(in super::super) async fn leave_groups(
    tx: &mut PgConnection,
    device: DeviceNo,
    locked: &[Uuid],
) -> Result<(), Error> {
    sqlx::query("UPDATE groups SET version = version + 1 WHERE group_id = ANY($1)")
        .bind(locked)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM group_windows WHERE device_no = $1").bind(device.0).execute(tx).await?;
    Ok(())
}
