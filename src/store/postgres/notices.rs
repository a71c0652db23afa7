//! What the relay itself tells devices: an item in each mailbox, under an id that no send may take.

use std::sync::Arc;

use sqlx::{Error, FromRow, PgConnection};
use uuid::Uuid;

use super::rows::{Places, at, device_id, device_number, device_numbers, registration_id};
use crate::{
    domain::{Delivery, DeviceNo, Item, ListedDevice, METADATA_LIFE, MessageId, Position, Timestamp, UserId},
    store::{Limits, device_list},
};

/// A locked mailbox and the last position given in it.
pub(super) type Head = (DeviceNo, Position);

/// What a notice says.
pub(super) enum News {
    /// A message was deleted for everyone.
    Deleted(MessageId),
    /// The user has these devices now.
    Devices(Arc<[ListedDevice]>),
}

/// A notice about to be posted.
pub(super) struct Notice {
    message_id: MessageId,
    sender_id: Uuid,
    recipient_id: Uuid,
    news: News,
    expires_at: Timestamp,
}

impl Notice {
    /// A notice of something between two users, or of one alone.
    pub(super) fn new(
        (sender_id, recipient_id): (Uuid, Uuid),
        news: News,
        limits: Limits,
        now: Timestamp,
    ) -> Self {
        let expires_at = now.plus(limits.notice_life);
        Self { message_id: MessageId::fresh(now), sender_id, recipient_id, news, expires_at }
    }

    /// Puts the notice behind the last item of each of these mailboxes, whose rows are locked.
    pub(super) async fn post(
        self,
        tx: &mut PgConnection,
        heads: &[Head],
        now: Timestamp,
    ) -> Result<Vec<Delivery>, Error> {
        if heads.is_empty() {
            return Ok(Vec::new());
        }
        let (kind, deletes, body): (i16, _, _) = match &self.news {
            News::Deleted(deletes) => (1, Some(deletes.uuid()), None),
            News::Devices(devices) => (2, None, Some(device_list::encode(devices))),
        };
        let places = Places::sorted(heads.iter().map(|(device, head)| (*device, head.next())));
        sqlx::query(POST)
            .bind(&places.device_nos)
            .bind(&places.positions)
            .bind(self.message_id.uuid())
            .bind(kind)
            .bind(self.sender_id)
            .bind(self.recipient_id)
            .bind(deletes)
            .bind(at(now))
            .bind(at(self.expires_at))
            .bind(at(self.expires_at.min(now.plus(METADATA_LIFE))))
            .bind(body)
            .execute(tx)
            .await?;
        let item = Arc::new(self.item());
        let delivery = |(device_no, position)| Delivery { device_no, position, item: Arc::clone(&item) };
        Ok(places.iter().map(delivery).collect())
    }

    fn item(self) -> Item {
        let (message_id, expires_at) = (self.message_id, self.expires_at);
        match self.news {
            News::Deleted(deletes) => Item::Deleted { message_id, deletes, expires_at },
            News::Devices(devices) => Item::DevicesChanged { message_id, devices, expires_at },
        }
    }
}

/// A notice is no device's send: its `sender_no` is 0, which no incarnation has.
const POST: &str = "\
    WITH moved AS ( \
        UPDATE mailboxes m SET head = n.position FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, position) \
        WHERE m.device_no = n.device_no \
    ), noted AS ( \
        INSERT INTO messages (message_id, kind, sender_no, sender_id, recipient_id, deletes, accepted_at, \
            expires_at, due_at, device_nos, positions) \
        VALUES ($3, $4, 0, $5, $6, $7, $8, $9, $10, $1, $2) \
    ) \
    INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, body) \
    SELECT n.device_no, n.position, $3, $5, $9, $11 FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, position)";

/// Locks every mailbox of a user, in the order of locks.
pub(super) async fn lock_mailboxes(tx: &mut PgConnection, user: UserId) -> Result<Vec<Head>, Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT device_no, head FROM mailboxes WHERE user_id = $1 ORDER BY device_no FOR UPDATE",
    )
    .bind(user.uuid())
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|(device, head)| (DeviceNo(device), Position(head))).collect())
}

/// Where lists of devices lie in these mailboxes, which are locked. They are to be erased before a newer one is posted,
/// so that at most one stands above a mailbox's limit.
pub(super) async fn waiting_lists(
    tx: &mut PgConnection,
    heads: &[Head],
) -> Result<Vec<(DeviceNo, Position)>, Error> {
    let devices: Vec<DeviceNo> = heads.iter().map(|(device, _)| *device).collect();
    let rows: Vec<(i64, i64)> =
        sqlx::query_as(WAITING_LISTS).bind(device_numbers(&devices)).fetch_all(tx).await?;
    Ok(rows.into_iter().map(|(device, position)| (DeviceNo(device), Position(position))).collect())
}

pub(crate) const WAITING_LISTS: &str = "\
    SELECT i.device_no, i.position FROM mailbox_items i JOIN messages m ON m.message_id = i.message_id \
    WHERE i.device_no = ANY($1) AND i.envelope_type IS NULL AND i.body IS NOT NULL AND m.kind = 2 \
    ORDER BY i.device_no, i.position";

/// Erases the items at these places, in the order of locks, and tells in which mailboxes there were some.
pub(super) async fn erase(
    tx: &mut PgConnection,
    places: impl IntoIterator<Item = (DeviceNo, Position)>,
) -> Result<Vec<DeviceNo>, Error> {
    let places = Places::sorted(places);
    let rows: Vec<(i64, i64)> = sqlx::query_as(super::ack::ERASE)
        .bind(places.device_nos)
        .bind(places.positions)
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|(device, _)| DeviceNo(device)).collect())
}

#[derive(FromRow)]
struct ListedRow {
    device_id: String,
    device_number: i16,
    registration_id: i32,
}

impl ListedRow {
    fn listed(self) -> Result<ListedDevice, Error> {
        Ok(ListedDevice {
            device_id: device_id(&self.device_id)?,
            device_number: device_number(self.device_number)?,
            registration_id: registration_id(self.registration_id)?,
        })
    }
}

/// Tells the devices with these mailboxes, whose rows are locked, which devices the user has now.
pub(super) async fn announce_devices(
    tx: &mut PgConnection,
    user: UserId,
    heads: &[Head],
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ListedRow> = sqlx::query_as(
        "SELECT device_id, device_number, registration_id FROM devices \
         WHERE user_id = $1 AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .fetch_all(&mut *tx)
    .await?;
    let devices = rows.into_iter().map(ListedRow::listed).collect::<Result<Arc<[_]>, Error>>()?;
    let own = (user.uuid(), user.uuid());
    Notice::new(own, News::Devices(devices), limits, now).post(tx, heads, now).await
}
