//! What was revoked, for as long as tokens of it could come.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::rows;
use crate::{
    domain::{SessionId, Timestamp},
    store::Revocation,
};

pub(super) async fn revoke(
    tx: &mut SqliteConnection,
    what: Revocation,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let (device, session) = match what {
        Revocation::Device(device) => (device, None),
        Revocation::Session(device, session) => (device, Some(session.uuid())),
    };
    sqlx::query("INSERT INTO revocations (device_no, session_id, revoked_at) VALUES (?, ?, ?)")
        .bind(device.0)
        .bind(session)
        .bind(now.millis())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn since(
    conn: &mut SqliteConnection,
    since: Timestamp,
) -> Result<Vec<Revocation>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, session_id FROM revocations WHERE revoked_at >= ? \
         ORDER BY revoked_at, revocation_id",
    )
    .bind(since.millis())
    .try_map(|row: SqliteRow| {
        let device = rows::device_no(&row, "device_no")?;
        let session = row.try_get::<Option<Uuid>, _>("session_id")?.map(SessionId::new);
        Ok(session.map_or(Revocation::Device(device), |session| Revocation::Session(device, session)))
    })
    .fetch_all(conn)
    .await
}
