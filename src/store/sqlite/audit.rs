//! The trail of security events.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Context,
    rows::{self, corrupt},
};
use crate::domain::{AuditEntry, DeviceNumber, Pseudonym, SecurityEvent, UserId};

/// What is to be entered.
pub(super) struct Entry {
    pub(super) user: UserId,
    pub(super) event: SecurityEvent,
    /// The device it happened to, if it was one.
    pub(super) device: Option<DeviceNumber>,
    /// The device that did it, where that is another.
    pub(super) by: Option<DeviceNumber>,
}

pub(super) async fn enter(
    tx: &mut SqliteConnection,
    entry: Entry,
    context: &Context,
) -> Result<(), sqlx::Error> {
    let number = |device: DeviceNumber| i64::from(device.get());
    sqlx::query("INSERT INTO audit (subject, event, device_number, by_number, at) VALUES (?, ?, ?, ?, ?)")
        .bind(subject(context.pseudonyms.of(entry.user)))
        .bind(entry.event as i64)
        .bind(entry.device.map(number))
        .bind(entry.by.map(number))
        .bind(context.now.millis())
        .execute(tx)
        .await?;
    Ok(())
}

/// Enters what no other act enters, unless nobody claimed the user id.
pub(super) async fn note(
    tx: &mut SqliteConnection,
    entry: Entry,
    context: &Context,
) -> Result<(), sqlx::Error> {
    let claimed: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE user_id = ?)")
        .bind(entry.user.uuid())
        .fetch_one(&mut *tx)
        .await?;
    if claimed { enter(tx, entry, context).await } else { Ok(()) }
}

/// The entries before `before`, or the newest, newest first.
pub(super) async fn entries(
    conn: &mut SqliteConnection,
    of: Pseudonym,
    before: Option<i64>,
    limit: u32,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    sqlx::query(
        "SELECT entry, event, device_number, by_number, at FROM audit \
         WHERE subject = ? AND entry < ? ORDER BY entry DESC LIMIT ?",
    )
    .bind(subject(of))
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit))
    .try_map(|row: SqliteRow| {
        Ok(AuditEntry {
            entry: row.try_get("entry")?,
            event: SecurityEvent::from_number(row.try_get("event")?)
                .ok_or_else(|| corrupt("a security event has a known number"))?,
            device_number: rows::optional_device_number(&row, "device_number")?,
            by: rows::optional_device_number(&row, "by_number")?,
            at: rows::timestamp(&row, "at")?,
        })
    })
    .fetch_all(conn)
    .await
}

fn subject(pseudonym: Pseudonym) -> Vec<u8> {
    pseudonym.0.to_vec()
}
