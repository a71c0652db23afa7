//! Sessions: a device's logins, refreshed by tokens that work once each.

use sqlx::{Error, FromRow, PgConnection, PgPool};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    audit::{self, Event},
    revocations::revoke,
    rows::{at, device_id, device_number, moment},
    single_use,
    standing::lock_user,
};
use crate::{
    domain::{Caller, DeviceNo, Pseudonyms, SecurityEvent, SessionId, Timestamp, UserId},
    store::{
        LoggedIn, Login, NewSession, Principal, REFRESH_GRACE, Revocation, Rotated, Rotation,
        SESSIONS_PER_DEVICE, Session,
    },
};

#[derive(FromRow)]
struct PrincipalRow {
    device_no: i64,
    user_id: Uuid,
    device_id: String,
    device_number: i16,
    claimed_at: OffsetDateTime,
}

impl PrincipalRow {
    fn principal(self) -> Result<Principal, Error> {
        let caller = Caller {
            user_id: UserId::new(self.user_id),
            device_id: device_id(&self.device_id)?,
            device_number: device_number(self.device_number)?,
            device_no: DeviceNo(self.device_no),
        };
        Ok(Principal { caller, user_since: moment(self.claimed_at) })
    }
}

pub(super) async fn open(
    pool: &PgPool,
    pseudonyms: &Pseudonyms,
    login: &Login,
    now: Timestamp,
) -> Result<LoggedIn, Error> {
    let mut tx = pool.begin().await?;
    let Some(principal) = lock_principal(&mut tx, login.device_no).await? else {
        let used = single_use::is_used(&mut *tx, &login.challenge).await?;
        return Ok(if used { LoggedIn::ChallengeUsed } else { LoggedIn::Gone });
    };
    if !single_use::use_up(&mut *tx, login.challenge).await? {
        return Ok(LoggedIn::ChallengeUsed);
    }
    make_room(&mut tx, login.device_no, now).await?;
    insert(&mut tx, login.device_no, &login.session, now).await?;
    let caller = &principal.caller;
    let entered = Event::of_device(SecurityEvent::LoggedIn, caller.device_number);
    audit::enter(&mut *tx, pseudonyms.of(caller.user_id), entered, now).await?;
    tx.commit().await?;
    Ok(LoggedIn::LoggedIn(principal))
}

/// The active device, under the lock of its user's row: logins come one after the other, and none while the device is
/// being ended.
async fn lock_principal(tx: &mut PgConnection, device: DeviceNo) -> Result<Option<Principal>, Error> {
    let user: Option<Uuid> = sqlx::query_scalar("SELECT user_id FROM devices WHERE device_no = $1")
        .bind(device.0)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(user) = user else { return Ok(None) };
    lock_user(tx, UserId::new(user)).await?;
    let row: Option<PrincipalRow> = sqlx::query_as(
        "SELECT d.device_no, d.user_id, d.device_id, d.device_number, u.claimed_at \
         FROM devices d JOIN users u ON u.user_id = d.user_id \
         WHERE d.device_no = $1 AND d.deactivated_at IS NULL",
    )
    .bind(device.0)
    .fetch_optional(tx)
    .await?;
    row.map(PrincipalRow::principal).transpose()
}

/// Ends the sessions refreshed longest ago, so that one more does not make too many.
async fn make_room(tx: &mut PgConnection, device: DeviceNo, now: Timestamp) -> Result<(), Error> {
    // Locked first, so that the next statement sees the refreshes that were waited for.
    sqlx::query("SELECT FROM sessions WHERE device_no = $1 ORDER BY session_id FOR UPDATE")
        .bind(device.0)
        .execute(&mut *tx)
        .await?;
    let ended: Vec<Uuid> = sqlx::query_scalar(
        "DELETE FROM sessions WHERE session_id = ANY(ARRAY(SELECT session_id FROM sessions \
            WHERE device_no = $1 AND expires_at > $2 \
            ORDER BY rotated_at DESC, created_at DESC OFFSET $3)) \
         RETURNING session_id",
    )
    .bind(device.0)
    .bind(at(now))
    .bind(i64::from(SESSIONS_PER_DEVICE) - 1)
    .fetch_all(&mut *tx)
    .await?;
    for session in ended {
        revoke(tx, Revocation::Session(device, SessionId::new(session)), now).await?;
    }
    Ok(())
}

/// Keeps a session of a device that has just proved itself. The user's row must be locked. Moments have milliseconds: the
/// microseconds of `created_at` number the sessions of one moment, so that they keep the order in which they came.
pub(super) async fn insert(
    tx: &mut PgConnection,
    device: DeviceNo,
    session: &NewSession,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO sessions (session_id, device_no, refresh_hash, created_at, rotated_at, last_used, expires_at) \
         VALUES ($1, $2, $3, \
            coalesce((SELECT max(created_at) + interval '1 microsecond' FROM sessions WHERE device_no = $2 \
                AND created_at >= $4 AND created_at < $4 + interval '1 millisecond'), $4), $4, $5, $6)",
    )
    .bind(session.session_id.uuid())
    .bind(device.0)
    .bind(session.refresh_hash.as_slice())
    .bind(at(now))
    .bind(at(now.day()))
    .bind(at(session.expires_at))
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct RefreshRow {
    refresh_hash: Vec<u8>,
    previous_hash: Option<Vec<u8>>,
    rotated_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    #[sqlx(flatten)]
    principal: PrincipalRow,
}

impl RefreshRow {
    /// Whether the current token came.
    fn is_current(&self, rotation: &Rotation) -> bool {
        self.refresh_hash.as_slice().ct_eq(&rotation.presented).into()
    }

    /// Whether the token before the current one came in time, and leads to the current one.
    fn is_repeat(&self, rotation: &Rotation, now: Timestamp) -> bool {
        let Some(previous) = &self.previous_hash else { return false };
        let same_answer = previous.as_slice().ct_eq(&rotation.presented)
            & self.refresh_hash.as_slice().ct_eq(&rotation.next);
        bool::from(same_answer) && now.since(moment(self.rotated_at)) <= REFRESH_GRACE
    }
}

/// A session of an active device that has not ended. Its row alone is locked: sessions come last.
pub(crate) const LOCK: &str = "\
    SELECT s.refresh_hash, s.previous_hash, s.rotated_at, s.expires_at, d.device_no, d.user_id, d.device_id, \
        d.device_number, u.claimed_at \
    FROM sessions s JOIN devices d ON d.device_no = s.device_no JOIN users u ON u.user_id = d.user_id \
    WHERE s.session_id = $1 AND s.expires_at > $2 AND d.deactivated_at IS NULL FOR UPDATE OF s";

pub(super) async fn rotate(
    pool: &PgPool,
    pseudonyms: &Pseudonyms,
    rotation: &Rotation,
    now: Timestamp,
) -> Result<Rotated, Error> {
    let mut tx = pool.begin().await?;
    let row: Option<RefreshRow> =
        sqlx::query_as(LOCK).bind(rotation.session_id.uuid()).bind(at(now)).fetch_optional(&mut *tx).await?;
    let Some(row) = row else { return Ok(Rotated::Unknown) };
    if row.is_repeat(rotation, now) {
        let (at, expires_at) = (moment(row.rotated_at), moment(row.expires_at));
        return Ok(Rotated::Rotated { principal: row.principal.principal()?, at, expires_at });
    }
    let is_current = row.is_current(rotation);
    let principal = row.principal.principal()?;
    let rotated = if is_current {
        replace(&mut tx, rotation, now).await?;
        Rotated::Rotated { principal, at: now, expires_at: rotation.expires_at }
    } else {
        end_stolen(&mut tx, pseudonyms, &principal.caller, rotation.session_id, now).await?;
        Rotated::Reused(principal.caller.device_no)
    };
    tx.commit().await?;
    Ok(rotated)
}

async fn replace(tx: &mut PgConnection, rotation: &Rotation, now: Timestamp) -> Result<(), Error> {
    sqlx::query(
        "UPDATE sessions SET previous_hash = refresh_hash, refresh_hash = $2, rotated_at = $3, last_used = $4, \
            expires_at = $5 WHERE session_id = $1",
    )
    .bind(rotation.session_id.uuid())
    .bind(rotation.next.as_slice())
    .bind(at(now))
    .bind(at(now.day()))
    .bind(at(rotation.expires_at))
    .execute(tx)
    .await?;
    Ok(())
}

/// A token that was used came again: one of the two that had it stole it, and nobody knows which.
async fn end_stolen(
    tx: &mut PgConnection,
    pseudonyms: &Pseudonyms,
    caller: &Caller,
    session: SessionId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM sessions WHERE session_id = $1").bind(session.uuid()).execute(&mut *tx).await?;
    revoke(tx, Revocation::Session(caller.device_no, session), now).await?;
    let reused = Event::of_device(SecurityEvent::TokenReused, caller.device_number);
    audit::enter(&mut *tx, pseudonyms.of(caller.user_id), reused, now).await
}

pub(super) async fn end(
    pool: &PgPool,
    pseudonyms: &Pseudonyms,
    device: DeviceNo,
    session: SessionId,
    now: Timestamp,
) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    let owner: Option<(Uuid, i16)> = sqlx::query_as(
        "DELETE FROM sessions s USING devices d \
         WHERE s.session_id = $1 AND s.device_no = $2 AND s.expires_at > $3 AND d.device_no = s.device_no \
         RETURNING d.user_id, d.device_number",
    )
    .bind(session.uuid())
    .bind(device.0)
    .bind(at(now))
    .fetch_optional(&mut *tx)
    .await?;
    let Some((user, number)) = owner else { return Ok(false) };
    revoke(&mut tx, Revocation::Session(device, session), now).await?;
    let ended = Event::of_device(SecurityEvent::LoggedOut, device_number(number)?);
    audit::enter(&mut *tx, pseudonyms.of(UserId::new(user)), ended, now).await?;
    tx.commit().await?;
    Ok(true)
}

#[derive(FromRow)]
struct SessionRow {
    session_id: Uuid,
    device_id: String,
    device_number: i16,
    created_at: OffsetDateTime,
    last_used: OffsetDateTime,
    expires_at: OffsetDateTime,
}

impl SessionRow {
    fn session(self) -> Result<Session, Error> {
        Ok(Session {
            session_id: SessionId::new(self.session_id),
            device_id: device_id(&self.device_id)?,
            device_number: device_number(self.device_number)?,
            created_at: moment(self.created_at),
            last_used: moment(self.last_used),
            expires_at: moment(self.expires_at),
        })
    }
}

pub(super) async fn list(pool: &PgPool, user: UserId, now: Timestamp) -> Result<Vec<Session>, Error> {
    let rows: Vec<SessionRow> = sqlx::query_as(
        "SELECT s.session_id, d.device_id, d.device_number, s.created_at, s.last_used, s.expires_at \
         FROM devices d JOIN sessions s ON s.device_no = d.device_no \
         WHERE d.user_id = $1 AND d.deactivated_at IS NULL AND s.expires_at > $2 \
         ORDER BY s.created_at, s.session_id",
    )
    .bind(user.uuid())
    .bind(at(now))
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(SessionRow::session).collect()
}
