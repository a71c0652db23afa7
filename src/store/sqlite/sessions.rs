//! Sessions: opened, refreshed, ended, shown.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use subtle::ConstantTimeEq as _;

use super::{
    Context,
    audit::{self, Entry},
    revocations, rows, used,
};
use crate::{
    domain::{Caller, DeviceNo, SecurityEvent, SessionId, Timestamp, UserId},
    store::{
        LoggedIn, Login, NewSession, Principal, REFRESH_GRACE, Revocation, Rotated, Rotation,
        SESSIONS_PER_DEVICE, Session,
    },
};

pub(super) async fn open_session(
    tx: &mut SqliteConnection,
    login: Login,
    context: Context,
) -> Result<LoggedIn, sqlx::Error> {
    if used::is_used(tx, &login.challenge).await? {
        return Ok(LoggedIn::ChallengeUsed);
    }
    let Some(principal) = principal(tx, login.device_no).await? else { return Ok(LoggedIn::Gone) };
    used::use_once(tx, login.challenge).await?;
    evict(tx, login.device_no, context.now).await?;
    insert(tx, login.device_no, &login.session, context.now).await?;
    audit::enter(tx, event(&principal, SecurityEvent::LoggedIn), &context).await?;
    Ok(LoggedIn::LoggedIn(principal))
}

/// Something that a device did to its own sessions.
fn event(principal: &Principal, event: SecurityEvent) -> Entry {
    let Caller { user_id, device_number, .. } = principal.caller;
    Entry { user: user_id, event, device: Some(device_number), by: None }
}

/// An active device as a token names it.
async fn principal(tx: &mut SqliteConnection, device: DeviceNo) -> Result<Option<Principal>, sqlx::Error> {
    sqlx::query(
        "SELECT d.user_id, d.device_id, d.device_number, u.claimed_at \
         FROM devices d JOIN users u ON u.user_id = d.user_id \
         WHERE d.device_no = ? AND d.deactivated_at IS NULL",
    )
    .bind(device.0)
    .try_map(|row: SqliteRow| {
        Ok(Principal {
            caller: Caller {
                user_id: rows::user_id(&row, "user_id")?,
                device_id: rows::device_id(&row, "device_id")?,
                device_number: rows::device_number(&row, "device_number")?,
                device_no: device,
            },
            user_since: rows::timestamp(&row, "claimed_at")?,
        })
    })
    .fetch_optional(tx)
    .await
}

/// Makes room for one more session.
async fn evict(tx: &mut SqliteConnection, device: DeviceNo, now: Timestamp) -> Result<(), sqlx::Error> {
    let evicted = sqlx::query(
        "DELETE FROM sessions WHERE session_id IN (SELECT session_id FROM sessions \
         WHERE device_no = ? AND expires_at > ? ORDER BY rotated_at DESC, created_at DESC, rowid DESC LIMIT -1 OFFSET ?) \
         RETURNING session_id",
    )
    .bind(device.0)
    .bind(now.millis())
    .bind(i64::from(SESSIONS_PER_DEVICE) - 1)
    .try_map(|row: SqliteRow| row.try_get("session_id").map(SessionId::new))
    .fetch_all(&mut *tx)
    .await?;
    for session in evicted {
        revocations::revoke(tx, Revocation::Session(device, session), now).await?;
    }
    Ok(())
}

pub(super) async fn insert(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    session: &NewSession,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sessions \
         (session_id, device_no, refresh_hash, created_at, rotated_at, last_used, expires_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(session.session_id.uuid())
    .bind(device.0)
    .bind(session.refresh_hash.to_vec())
    .bind(now.millis())
    .bind(now.millis())
    .bind(now.day().millis())
    .bind(session.expires_at.millis())
    .execute(tx)
    .await?;
    Ok(())
}

/// What a refresh needs to know of its session.
struct Kept {
    device: DeviceNo,
    current: [u8; 32],
    previous: Option<[u8; 32]>,
    rotated_at: Timestamp,
    expires_at: Timestamp,
}

impl Kept {
    /// Whether the current token came.
    fn is_current(&self, rotation: &Rotation) -> bool {
        same(&self.current, &rotation.presented)
    }

    /// Whether the token before came in time, from someone to whom the same answer can be given.
    fn is_repeat(&self, rotation: &Rotation, now: Timestamp) -> bool {
        let presented = self.previous.is_some_and(|previous| same(&previous, &rotation.presented));
        presented && now.since(self.rotated_at) <= REFRESH_GRACE && same(&self.current, &rotation.next)
    }
}

fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.as_slice().ct_eq(other.as_slice()).into()
}

pub(super) async fn rotate_session(
    tx: &mut SqliteConnection,
    rotation: Rotation,
    context: Context,
) -> Result<Rotated, sqlx::Error> {
    let Some(kept) = kept(tx, rotation.session_id, context.now).await? else { return Ok(Rotated::Unknown) };
    let Some(principal) = principal(tx, kept.device).await? else { return Ok(Rotated::Unknown) };
    if kept.is_current(&rotation) {
        replace(tx, &rotation, context.now).await?;
        return Ok(Rotated::Rotated { principal, at: context.now, expires_at: rotation.expires_at });
    }
    if kept.is_repeat(&rotation, context.now) {
        return Ok(Rotated::Rotated { principal, at: kept.rotated_at, expires_at: kept.expires_at });
    }
    end(tx, kept.device, rotation.session_id, context.now).await?;
    audit::enter(tx, event(&principal, SecurityEvent::TokenReused), &context).await?;
    Ok(Rotated::Reused(kept.device))
}

async fn kept(
    tx: &mut SqliteConnection,
    session: SessionId,
    now: Timestamp,
) -> Result<Option<Kept>, sqlx::Error> {
    sqlx::query(
        "SELECT device_no, refresh_hash, previous_hash, rotated_at, expires_at FROM sessions \
         WHERE session_id = ? AND expires_at > ?",
    )
    .bind(session.uuid())
    .bind(now.millis())
    .try_map(|row: SqliteRow| {
        Ok(Kept {
            device: rows::device_no(&row, "device_no")?,
            current: rows::digest(row.try_get("refresh_hash")?)?,
            previous: row.try_get::<Option<&[u8]>, _>("previous_hash")?.map(rows::digest).transpose()?,
            rotated_at: rows::timestamp(&row, "rotated_at")?,
            expires_at: rows::timestamp(&row, "expires_at")?,
        })
    })
    .fetch_optional(tx)
    .await
}

async fn replace(tx: &mut SqliteConnection, rotation: &Rotation, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE sessions SET previous_hash = refresh_hash, refresh_hash = ?, rotated_at = ?, last_used = ?, \
         expires_at = ? WHERE session_id = ?",
    )
    .bind(rotation.next.to_vec())
    .bind(now.millis())
    .bind(now.day().millis())
    .bind(rotation.expires_at.millis())
    .bind(rotation.session_id.uuid())
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends and revokes a session; false when this device has no such session any more.
async fn end(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    session: SessionId,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query("DELETE FROM sessions WHERE session_id = ? AND device_no = ? AND expires_at > ?")
        .bind(session.uuid())
        .bind(device.0)
        .bind(now.millis())
        .execute(&mut *tx)
        .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    revocations::revoke(tx, Revocation::Session(device, session), now).await?;
    Ok(true)
}

pub(super) async fn end_session(
    tx: &mut SqliteConnection,
    device: DeviceNo,
    session: SessionId,
    context: Context,
) -> Result<bool, sqlx::Error> {
    let Some(principal) = principal(tx, device).await? else { return Ok(false) };
    if !end(tx, device, session, context.now).await? {
        return Ok(false);
    }
    audit::enter(tx, event(&principal, SecurityEvent::LoggedOut), &context).await?;
    Ok(true)
}

/// The sessions of a user's devices, oldest first.
pub(super) async fn sessions(
    conn: &mut SqliteConnection,
    user: UserId,
    now: Timestamp,
) -> Result<Vec<Session>, sqlx::Error> {
    sqlx::query(
        "SELECT s.session_id, d.device_id, d.device_number, s.created_at, s.last_used, s.expires_at \
         FROM devices d JOIN sessions s ON s.device_no = d.device_no \
         WHERE d.user_id = ? AND d.deactivated_at IS NULL AND s.expires_at > ? \
         ORDER BY s.created_at, s.rowid",
    )
    .bind(user.uuid())
    .bind(now.millis())
    .try_map(|row: SqliteRow| {
        Ok(Session {
            session_id: SessionId::new(row.try_get("session_id")?),
            device_id: rows::device_id(&row, "device_id")?,
            device_number: rows::device_number(&row, "device_number")?,
            created_at: rows::timestamp(&row, "created_at")?,
            last_used: rows::timestamp(&row, "last_used")?,
            expires_at: rows::timestamp(&row, "expires_at")?,
        })
    })
    .fetch_all(conn)
    .await
}
