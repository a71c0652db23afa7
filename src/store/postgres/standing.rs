//! Whether a device may be registered, decided under the lock of its user's row.

use sqlx::{Error, FromRow, PgConnection, PgExecutor};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use super::{
    rows::{LinkedByRow, at, device_number, identity_key, moment},
    single_use,
};
use crate::{
    domain::{DeviceNumber, IdentityKey, LinkedBy, Timestamp, UserId},
    store::{Registered, Registration, Revival, SingleUse},
};

/// A claimed user id whose row is locked.
pub(super) struct Claim {
    /// When it was claimed.
    pub(super) since: Timestamp,
    /// Whether this act claimed it.
    newly: bool,
}

/// Finds the user's row and locks it, so that registrations of one user come one after the other. Makes the row if
/// nobody has it and this registration may; none if it may not.
pub(super) async fn claim(
    tx: &mut PgConnection,
    new: &Registration,
    now: Timestamp,
) -> Result<Option<Claim>, Error> {
    let newly = new.may_claim && make_user(tx, new.user_id, now).await?;
    let since: Option<OffsetDateTime> =
        sqlx::query_scalar("SELECT claimed_at FROM users WHERE user_id = $1 FOR UPDATE")
            .bind(new.user_id.uuid())
            .fetch_optional(tx)
            .await?;
    Ok(since.map(|since| Claim { since: moment(since), newly }))
}

async fn make_user(tx: &mut PgConnection, user: UserId, now: Timestamp) -> Result<bool, Error> {
    let made = sqlx::query("INSERT INTO users (user_id, claimed_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(user.uuid())
        .bind(at(now))
        .execute(tx)
        .await?;
    Ok(made.rows_affected() == 1)
}

/// Locks the row that stands for the user's list of devices and ledger of keys. False when nobody claimed the id.
pub(super) async fn lock_user(tx: &mut PgConnection, user: UserId) -> Result<bool, Error> {
    let locked = sqlx::query("SELECT FROM users WHERE user_id = $1 FOR UPDATE")
        .bind(user.uuid())
        .fetch_optional(tx)
        .await?;
    Ok(locked.is_some())
}

#[derive(FromRow)]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
pub(super) struct ActiveRow {
    pub(super) device_no: i64,
    pub(super) device_id: String,
    pub(super) device_number: i16,
}

pub(super) async fn active_devices(tx: &mut PgConnection, user: UserId) -> Result<Vec<ActiveRow>, Error> {
    sqlx::query_as(
        "SELECT device_no, device_id, device_number FROM devices \
         WHERE user_id = $1 AND deactivated_at IS NULL ORDER BY device_no",
    )
    .bind(user.uuid())
    .fetch_all(tx)
    .await
}

/// An active device's word for the newcomer.
pub(super) struct Voucher {
    pub(super) linked_by: LinkedBy,
    pub(super) by: DeviceNumber,
}

/// Who vouches for the newcomer: nobody for the first device and one that comes back. Or why it is refused. What it
/// brought is used up.
pub(super) async fn entitled(
    tx: &mut PgConnection,
    new: &Registration,
    claim: &Claim,
    active: &[ActiveRow],
    now: Timestamp,
) -> Result<Result<Option<Voucher>, Registered>, Error> {
    if claim.newly {
        let Some(Revival::Admitted(token)) = &new.revival else { return Ok(Ok(None)) };
        return Ok(admitted(tx, *token).await?.map_or(Ok(None), Err));
    }
    if active.iter().any(|device| device.device_id == new.device_id.as_str()) {
        return Ok(Err(Registered::DeviceExists));
    }
    if active.is_empty() {
        return Ok(revived(tx, new).await?.map_or(Ok(None), Err));
    }
    let voucher = use_link_token(tx, new, active, now).await?;
    Ok(voucher.map(Some).ok_or(Registered::LinkRequired))
}

/// Why a user that has no device left may not come back like this; none when it may.
async fn revived(tx: &mut PgConnection, new: &Registration) -> Result<Option<Registered>, Error> {
    Ok(match &new.revival {
        None => Some(Registered::LinkRequired),
        Some(Revival::Recovered(key)) => {
            let keys = recovery_keys(&mut *tx, new.user_id).await?;
            let is_clean = keys.contains(&new.identity_key) || !was_used(tx, new).await?;
            (!keys.contains(key) || !is_clean).then_some(Registered::LinkRequired)
        }
        Some(Revival::Admitted(token)) => admitted(tx, *token).await?,
    })
}

/// Uses an admission token up, or says why it is refused.
async fn admitted(tx: &mut PgConnection, token: SingleUse) -> Result<Option<Registered>, Error> {
    let fresh = single_use::use_up(&mut *tx, token).await?;
    Ok((!fresh).then_some(Registered::AdmissionUsed))
}

/// Whether a device of the user, whichever and however it ended, had the newcomer's identity key.
async fn was_used(tx: &mut PgConnection, new: &Registration) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM devices WHERE user_id = $1 AND identity_key = $2)")
        .bind(new.user_id.uuid())
        .bind(new.identity_key.as_bytes())
        .fetch_one(tx)
        .await
}

/// A key counts if one incarnation with it ended itself, whoever else had it.
const RECOVERY_KEYS: &str = "\
    SELECT identity_key FROM devices WHERE user_id = $1 \
    GROUP BY identity_key HAVING NOT bool_and(expelled) \
        AND NOT EXISTS (SELECT FROM devices WHERE user_id = $1 AND deactivated_at IS NULL) \
    ORDER BY max(device_no) DESC LIMIT 16";

pub(super) async fn recovery_keys(
    executor: impl PgExecutor<'_>,
    user: UserId,
) -> Result<Vec<IdentityKey>, Error> {
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(RECOVERY_KEYS).bind(user.uuid()).fetch_all(executor).await?;
    keys.iter().map(|key| identity_key(key)).collect()
}

#[derive(FromRow)]
struct TokenRow {
    token_hash: Vec<u8>,
    device_id: String,
    identity_key: Vec<u8>,
    linked_by_device_no: i64,
    expires_at: OffsetDateTime,
    #[sqlx(flatten)]
    linked_by: LinkedByRow,
}

/// Uses the user's link token up if it is valid for exactly this device and key.
async fn use_link_token(
    tx: &mut PgConnection,
    new: &Registration,
    active: &[ActiveRow],
    now: Timestamp,
) -> Result<Option<Voucher>, Error> {
    let Some(hash) = new.link_token_hash else { return Ok(None) };
    let row: Option<TokenRow> = sqlx::query_as(
        "SELECT token_hash, device_id, identity_key, linked_by_device_no, expires_at, linked_by_device_id, \
            linked_by_identity_key, linked_by_signature \
         FROM link_tokens WHERE user_id = $1 FOR UPDATE",
    )
    .bind(new.user_id.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(token) = row else { return Ok(None) };
    let valid = bool::from(token.token_hash.as_slice().ct_eq(&hash))
        && token.device_id == new.device_id.as_str()
        && token.identity_key == new.identity_key.as_bytes()
        && token.expires_at > at(now);
    let by = active.iter().find(|device| device.device_no == token.linked_by_device_no);
    let (true, Some(by), Some(linked_by)) = (valid, by, token.linked_by.linked_by()?) else {
        return Ok(None);
    };
    sqlx::query("DELETE FROM link_tokens WHERE user_id = $1").bind(new.user_id.uuid()).execute(tx).await?;
    Ok(Some(Voucher { linked_by, by: device_number(by.device_number)? }))
}
