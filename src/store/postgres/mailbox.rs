//! A mailbox as its device reads it.

use sqlx::{Error, FromRow, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    message_row::MessageRow,
    rows::{BodyRow, at, corrupt, count, device_numbers, missing, moment, uuids},
};
use crate::{
    domain::{DeviceNo, Item, MessageId, Position, Timestamp},
    store::{
        Left, device_list,
        group_items::{self, JOINED, WELCOME},
    },
};

/// Mailboxes in one question for heads.
const HEADS_AT_ONCE: usize = 2_000;

pub(crate) const HEADS: &str =
    "SELECT device_no, head FROM mailboxes WHERE device_no = ANY($1) ORDER BY device_no";

pub(crate) const LEFT: &str = "\
    SELECT m.head, ARRAY(SELECT i.position FROM mailbox_items i \
        WHERE i.device_no = m.device_no AND i.position > $2 AND i.expires_at > $3 \
        ORDER BY i.position LIMIT $4), \
    ARRAY(SELECT i.message_id FROM mailbox_items i \
        WHERE i.device_no = m.device_no AND i.position > $2 AND i.expires_at > $3 \
        ORDER BY i.position LIMIT $4) \
    FROM mailboxes m WHERE m.device_no = $1";

pub(crate) const COUNT: &str = "\
    SELECT count(*) FROM (SELECT FROM mailbox_items WHERE device_no = $1 AND expires_at > $2 \
        ORDER BY position LIMIT $3) AS waiting";

pub(crate) const ITEMS: &str = "\
    SELECT i.position, i.envelope_type, i.ephemeral_key, i.body, m.kind, m.deletes, m.message_id, \
        m.conversation_id, m.sender_id, m.recipient_id, m.message_type, m.sequence, m.accepted_at, m.expires_at, \
        m.delivered_at, m.read_at, m.self_destructing, d.device_id, d.device_number \
    FROM mailbox_items i JOIN messages m ON m.message_id = i.message_id \
    LEFT JOIN devices d ON d.device_no = m.sender_no \
    WHERE i.device_no = $1 AND i.position = ANY($2) AND i.expires_at > $3 ORDER BY i.position";

pub(crate) const POSITIONS_OF: &str = "\
    SELECT positions[array_position(device_nos, $1)] FROM messages \
    WHERE message_id = ANY($2) AND array_position(device_nos, $1) IS NOT NULL ORDER BY 1";

pub(super) async fn heads(pool: &PgPool, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, Position)>, Error> {
    let mut heads = Vec::with_capacity(devices.len());
    for chunk in devices.chunks(HEADS_AT_ONCE) {
        let rows: Vec<(i64, i64)> = sqlx::query_as(HEADS).bind(device_numbers(chunk)).fetch_all(pool).await?;
        heads.extend(rows.into_iter().map(|(device, head)| (DeviceNo(device), Position(head))));
    }
    Ok(heads)
}

pub(super) async fn left(
    pool: &PgPool,
    device: DeviceNo,
    after: Position,
    limit: u32,
    now: Timestamp,
) -> Result<Left, Error> {
    let row: Option<(i64, Vec<i64>, Vec<Uuid>)> = sqlx::query_as(LEFT)
        .bind(device.0)
        .bind(after.0)
        .bind(at(now))
        .bind(i64::from(limit))
        .fetch_optional(pool)
        .await?;
    let (head, positions, ids) = row.unwrap_or_default();
    let item = |(position, id)| (Position(position), MessageId::new(id));
    Ok(Left { items: positions.into_iter().zip(ids).map(item).collect(), head: Position(head) })
}

pub(super) async fn waiting(
    pool: &PgPool,
    device: DeviceNo,
    limit: u32,
    now: Timestamp,
) -> Result<u32, Error> {
    let waiting: i64 =
        sqlx::query_scalar(COUNT).bind(device.0).bind(at(now)).bind(i64::from(limit)).fetch_one(pool).await?;
    Ok(count(waiting))
}

pub(super) async fn positions_of(
    pool: &PgPool,
    device: DeviceNo,
    ids: &[MessageId],
) -> Result<Vec<Position>, Error> {
    let ids = uuids(ids.iter().copied(), MessageId::uuid);
    let positions: Vec<i64> =
        sqlx::query_scalar(POSITIONS_OF).bind(device.0).bind(ids).fetch_all(pool).await?;
    Ok(positions.into_iter().map(Position).collect())
}

#[derive(FromRow)]
struct ItemRow {
    position: i64,
    kind: i16,
    deletes: Option<Uuid>,
    #[sqlx(flatten)]
    body: BodyRow,
    #[sqlx(flatten)]
    message: MessageRow,
}

impl ItemRow {
    fn item(self, now: Timestamp) -> Result<(Position, Item), Error> {
        let message_id = MessageId::new(self.message.message_id);
        let expires_at = moment(self.message.expires_at);
        let item = match self.kind {
            0 => {
                let mut message = self.message.message(now)?;
                message.envelope = self.body.envelope()?;
                Item::Message(message)
            }
            1 => {
                let deletes = self.deletes.map(MessageId::new).ok_or_else(missing)?;
                Item::Deleted { message_id, deletes, expires_at }
            }
            2 => {
                let devices = device_list::decode(&self.body.bytes().ok_or_else(missing)?);
                let devices = devices.ok_or_else(|| corrupt("a list of devices that cannot be read"))?;
                Item::DevicesChanged { message_id, devices, expires_at }
            }
            WELCOME => {
                let body = self.body.bytes().ok_or_else(missing)?;
                let welcome = group_items::decode_welcome(&body);
                let (group_id, epoch, welcome) =
                    welcome.ok_or_else(|| corrupt("a Welcome that cannot be read"))?;
                Item::Welcome { message_id, group_id, epoch, welcome, expires_at }
            }
            JOINED => {
                let group_id = group_items::decode_joined(&self.body.bytes().ok_or_else(missing)?);
                let group_id = group_id.ok_or_else(|| corrupt("a joined item that cannot be read"))?;
                Item::Joined { message_id, group_id, expires_at }
            }
            _ => return Err(corrupt("an unknown kind of item")),
        };
        Ok((Position(self.position), item))
    }
}

pub(super) async fn items(
    pool: &PgPool,
    device: DeviceNo,
    positions: &[Position],
    now: Timestamp,
) -> Result<Vec<(Position, Item)>, Error> {
    let positions: Vec<i64> = positions.iter().map(|position| position.0).collect();
    let now_column: OffsetDateTime = at(now);
    let rows: Vec<ItemRow> =
        sqlx::query_as(ITEMS).bind(device.0).bind(positions).bind(now_column).fetch_all(pool).await?;
    rows.into_iter().map(|row| row.item(now)).collect()
}
