//! With what a user comes back that has no device left.

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::rows;
use crate::domain::{IdentityKey, UserId};

/// The keys that may sign for a newcomer. None while a device is active. A key counts if one incarnation with it ended
/// itself, whichever others had it.
pub(super) async fn keys(conn: &mut SqliteConnection, user: UserId) -> Result<Vec<IdentityKey>, sqlx::Error> {
    sqlx::query(
        "SELECT identity_key FROM devices WHERE user_id = ?1 \
         AND NOT EXISTS (SELECT 1 FROM devices WHERE user_id = ?1 AND deactivated_at IS NULL) \
         GROUP BY identity_key HAVING min(expelled) = 0 ORDER BY max(device_no) DESC LIMIT 16",
    )
    .bind(user.uuid())
    .try_map(|row: SqliteRow| rows::identity_key(sqlx::Row::try_get(&row, "identity_key")?))
    .fetch_all(conn)
    .await
}

/// Whether a device of the user, whichever and however it ended, had this identity key.
pub(super) async fn was_used(
    conn: &mut SqliteConnection,
    user: UserId,
    key: &IdentityKey,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM devices WHERE user_id = ? AND identity_key = ?)")
        .bind(user.uuid())
        .bind(key.as_bytes().to_vec())
        .fetch_one(conn)
        .await
}
