//! The trail of security events.

use sqlx::{Error, FromRow, PgExecutor, PgPool};
use time::OffsetDateTime;

use super::rows::{at, corrupt, device_number, moment};
use crate::domain::{AuditEntry, DeviceNumber, Pseudonym, SecurityEvent, Timestamp, UserId};

/// What is to be entered.
#[derive(Clone, Copy)]
pub(super) struct Event {
    what: SecurityEvent,
    device: Option<DeviceNumber>,
    by: Option<DeviceNumber>,
}

impl Event {
    /// Something that happened to the user as a whole.
    const fn of_user(what: SecurityEvent) -> Self {
        Self { what, device: None, by: None }
    }

    /// Something that happened to a device.
    pub(super) const fn of_device(what: SecurityEvent, device: DeviceNumber) -> Self {
        Self { what, device: Some(device), by: None }
    }

    /// The same, done by another device.
    pub(super) const fn done_by(self, by: Option<DeviceNumber>) -> Self {
        Self { by, ..self }
    }
}

/// Enters what no other act enters, unless nobody claimed the user id.
pub(super) async fn note(
    pool: &PgPool,
    user: UserId,
    subject: Pseudonym,
    event: SecurityEvent,
    now: Timestamp,
) -> Result<(), Error> {
    let claimed =
        sqlx::query("SELECT FROM users WHERE user_id = $1").bind(user.uuid()).fetch_optional(pool).await?;
    if claimed.is_none() {
        return Ok(());
    }
    // A claim is for ever, so it still holds.
    enter(pool, subject, Event::of_user(event), now).await
}

pub(super) async fn enter(
    executor: impl PgExecutor<'_>,
    subject: Pseudonym,
    event: Event,
    now: Timestamp,
) -> Result<(), Error> {
    let number = |device: DeviceNumber| i16::from(device.get());
    sqlx::query(
        "INSERT INTO audit (subject, event, device_number, by_number, at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(subject.0.as_slice())
    .bind(event.what as i16)
    .bind(event.device.map(number))
    .bind(event.by.map(number))
    .bind(at(now))
    .execute(executor)
    .await?;
    Ok(())
}

pub(crate) const PAGE: &str = "\
    SELECT entry, event, device_number, by_number, at FROM audit \
    WHERE subject = $1 AND entry < $2 ORDER BY entry DESC LIMIT $3";

#[derive(FromRow)]
struct EntryRow {
    entry: i64,
    event: i16,
    device_number: Option<i16>,
    by_number: Option<i16>,
    at: OffsetDateTime,
}

impl EntryRow {
    fn entry(self) -> Result<AuditEntry, Error> {
        let unknown = || corrupt("an unknown security event");
        Ok(AuditEntry {
            entry: self.entry,
            event: SecurityEvent::from_number(self.event.into()).ok_or_else(unknown)?,
            device_number: self.device_number.map(device_number).transpose()?,
            by: self.by_number.map(device_number).transpose()?,
            at: moment(self.at),
        })
    }
}

pub(super) async fn page(
    pool: &PgPool,
    subject: Pseudonym,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<AuditEntry>, Error> {
    let rows: Vec<EntryRow> = sqlx::query_as(PAGE)
        .bind(subject.0.as_slice())
        .bind(before.unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.into_iter().map(EntryRow::entry).collect()
}
