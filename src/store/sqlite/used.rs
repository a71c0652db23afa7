//! Things that work once, and were used.

use sqlx::SqliteConnection;

use crate::store::SingleUse;

pub(super) async fn is_used(tx: &mut SqliteConnection, token: &SingleUse) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM used_tokens WHERE token_hash = ?)")
        .bind(token.hash.to_vec())
        .fetch_one(tx)
        .await
}

/// Uses something up; false when it was used before.
pub(super) async fn use_once(tx: &mut SqliteConnection, token: SingleUse) -> Result<bool, sqlx::Error> {
    let used =
        sqlx::query("INSERT INTO used_tokens (token_hash, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(token.hash.to_vec())
            .bind(token.expires_at.millis())
            .execute(tx)
            .await?;
    Ok(used.rows_affected() == 1)
}
