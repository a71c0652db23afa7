//! What acts write into a group's log, and the windows that end with it.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::{Error, PgConnection};

use super::super::rows::at;
use crate::domain::{Caller, DeviceNo, EntryKind, Epoch, GroupId, LogEntry, MessageId, Position, Timestamp};

/// An entry that an act writes: a handshake, a change of the roster, a reset.
pub(super) struct NewEntry {
    pub(super) position: Position,
    pub(super) kind: EntryKind,
    pub(super) epoch: Epoch,
    pub(super) digest: [u8; 32],
    pub(super) body: Option<Bytes>,
    /// The devices whose windows end with it, ascending.
    pub(super) closes: Vec<DeviceNo>,
}

/// Writes an entry of this device, under the group's lock, and returns it for hot delivery.
pub(super) async fn enter(
    tx: &mut PgConnection,
    group: GroupId,
    by: &Caller,
    new: NewEntry,
    now: Timestamp,
) -> Result<Arc<LogEntry>, Error> {
    let message_id = MessageId::fresh(now);
    let closes: Vec<i64> = new.closes.iter().map(|device| device.0).collect();
    sqlx::query(
        "INSERT INTO group_log (group_id, position, kind, message_id, digest, sender_no, sender_id, epoch, \
            accepted_at, closes, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(group.uuid())
    .bind(new.position.0)
    .bind(new.kind as i16)
    .bind(message_id.uuid())
    .bind(new.digest.as_slice())
    .bind(by.device_no.0)
    .bind(by.user_id.uuid())
    .bind(new.epoch.0)
    .bind(at(now))
    .bind((!closes.is_empty()).then_some(closes))
    .bind(new.body.as_deref())
    .execute(tx)
    .await?;
    Ok(Arc::new(LogEntry {
        group_id: group,
        position: new.position,
        kind: new.kind,
        message_id,
        sender_id: by.user_id,
        sender_device_id: by.device_id.clone(),
        message_type: None,
        epoch: new.epoch,
        body: new.body,
        accepted_at: now,
        expires_at: None,
        closes: new.closes.into(),
    }))
}

/// Ends the windows of these devices, or of all, with the entry at this position. Returns those that had one, ascending.
pub(super) async fn close_windows(
    tx: &mut PgConnection,
    group: GroupId,
    devices: Option<&[DeviceNo]>,
    position: Position,
) -> Result<Vec<DeviceNo>, Error> {
    let devices: Option<Vec<i64>> = devices.map(|devices| devices.iter().map(|device| device.0).collect());
    let mut ended: Vec<i64> = sqlx::query_scalar(
        "WITH ended AS ( \
            SELECT device_no, opened_after FROM group_windows \
            WHERE group_id = $1 AND closed_at IS NULL AND ($2::bigint[] IS NULL OR device_no = ANY($2)) \
            ORDER BY device_no FOR UPDATE) \
         UPDATE group_windows w SET closed_at = $3 FROM ended e \
         WHERE w.group_id = $1 AND w.device_no = e.device_no AND w.opened_after = e.opened_after \
         RETURNING w.device_no",
    )
    .bind(group.uuid())
    .bind(devices)
    .bind(position.0)
    .fetch_all(tx)
    .await?;
    ended.sort_unstable();
    Ok(ended.into_iter().map(DeviceNo).collect())
}
