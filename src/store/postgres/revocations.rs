//! What is worth nothing any more.

use sqlx::{Error, PgConnection, PgPool};
use uuid::Uuid;

use super::rows::at;
use crate::{
    domain::{DeviceNo, SessionId, Timestamp},
    store::Revocation,
};

/// Leaves word of it for every node.
pub(super) async fn revoke(
    tx: &mut PgConnection,
    revocation: Revocation,
    now: Timestamp,
) -> Result<(), Error> {
    let (device, session) = match revocation {
        Revocation::Device(device) => (device, None),
        Revocation::Session(device, session) => (device, Some(session.uuid())),
    };
    sqlx::query("INSERT INTO revocations (device_no, session_id, revoked_at) VALUES ($1, $2, $3)")
        .bind(device.0)
        .bind(session)
        .bind(at(now))
        .execute(tx)
        .await?;
    Ok(())
}

pub(crate) const SINCE: &str = "\
    SELECT device_no, session_id FROM revocations WHERE revoked_at >= $1 ORDER BY revoked_at, revocation_id";

pub(super) async fn since(pool: &PgPool, since: Timestamp) -> Result<Vec<Revocation>, Error> {
    let rows: Vec<(i64, Option<Uuid>)> = sqlx::query_as(SINCE).bind(at(since)).fetch_all(pool).await?;
    let revocation = |(device, session): (i64, Option<Uuid>)| {
        let whole = Revocation::Device(DeviceNo(device));
        session.map_or(whole, |session| Revocation::Session(DeviceNo(device), SessionId::new(session)))
    };
    Ok(rows.into_iter().map(revocation).collect())
}
