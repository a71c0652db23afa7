//! Windows as their device sees them, and the cursors in them.

use sqlx::{Error, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::{super::rows::missing, rows::WindowRow};
use crate::domain::{DeviceNo, GroupId, Position, Window};

#[derive(FromRow)]
struct ReadableRow {
    group_id: Uuid,
    head: i64,
    #[sqlx(flatten)]
    window: WindowRow,
}

pub(in super::super) const READABLE: &str = "\
    SELECT w.group_id, g.head, w.opened_after, w.closed_at, w.cursor, w.gate, w.joined_epoch \
    FROM group_windows w JOIN groups g ON g.group_id = w.group_id \
    WHERE w.device_no = $1 AND (w.closed_at IS NULL OR w.closed_at > w.cursor) \
    ORDER BY w.group_id, w.opened_after";

/// One group of one device.
pub(in super::super) const READABLE_IN: &str = "\
    SELECT w.group_id, g.head, w.opened_after, w.closed_at, w.cursor, w.gate, w.joined_epoch \
    FROM group_windows w JOIN groups g ON g.group_id = w.group_id \
    WHERE w.device_no = $1 AND w.group_id = $2 AND (w.closed_at IS NULL OR w.closed_at > w.cursor) \
    ORDER BY w.opened_after";

pub(super) async fn readable(
    pool: &PgPool,
    device: DeviceNo,
    group: Option<GroupId>,
) -> Result<Vec<(Window, Position)>, Error> {
    let rows: Vec<ReadableRow> = match group {
        None => sqlx::query_as(READABLE).bind(device.0).fetch_all(pool).await?,
        Some(group) => sqlx::query_as(READABLE_IN).bind(device.0).bind(group.uuid()).fetch_all(pool).await?,
    };
    let readable = |row: ReadableRow| {
        let window = row.window.window(GroupId::new(row.group_id))?.ok_or_else(missing)?;
        Ok((window, Position(row.head)))
    };
    rows.into_iter().map(readable).collect()
}

pub(super) async fn in_group(pool: &PgPool, device: DeviceNo, group: GroupId) -> Result<Vec<Window>, Error> {
    let rows: Vec<WindowRow> = sqlx::query_as(
        "SELECT w.opened_after, w.closed_at, w.cursor, w.gate, w.joined_epoch \
         FROM group_windows w JOIN groups g ON g.group_id = w.group_id \
         WHERE w.device_no = $1 AND w.group_id = $2 AND (w.closed_at IS NULL OR w.closed_at >= g.tail) \
         ORDER BY w.opened_after",
    )
    .bind(device.0)
    .bind(group.uuid())
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(|row| row.window(group)?.ok_or_else(missing)).collect()
}

/// Windows are locked by device and group, as everywhere.
pub(in super::super) const ACK: &str = "\
    WITH held AS ( \
        SELECT w.device_no, w.group_id, w.opened_after, n.position, g.head \
        FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS n(device_no, group_id, position) \
        JOIN group_windows w ON w.device_no = n.device_no AND w.group_id = n.group_id \
        JOIN groups g ON g.group_id = w.group_id \
        WHERE w.cursor < LEAST(n.position, g.head, coalesce(w.closed_at, g.head)) \
        ORDER BY w.device_no, w.group_id, w.opened_after FOR UPDATE OF w) \
    UPDATE group_windows w \
    SET cursor = LEAST(h.position, h.head, coalesce(w.closed_at, h.head)) FROM held h \
    WHERE w.device_no = h.device_no AND w.group_id = h.group_id AND w.opened_after = h.opened_after \
        AND w.cursor < LEAST(h.position, h.head, coalesce(w.closed_at, h.head))";

/// Moves cursors, each device's of each group at most once.
pub(in super::super) async fn ack(
    connection: &mut PgConnection,
    cursors: &[(DeviceNo, GroupId, Position)],
) -> Result<(), Error> {
    if cursors.is_empty() {
        return Ok(());
    }
    let devices: Vec<i64> = cursors.iter().map(|(device, ..)| device.0).collect();
    let groups: Vec<Uuid> = cursors.iter().map(|(_, group, _)| group.uuid()).collect();
    let positions: Vec<i64> = cursors.iter().map(|(.., position)| position.0).collect();
    sqlx::query(ACK).bind(devices).bind(groups).bind(positions).execute(connection).await?;
    Ok(())
}
