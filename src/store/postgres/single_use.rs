//! Things that work once.

use sqlx::{Error, PgExecutor};

use super::rows::at;
use crate::store::SingleUse;

/// Whether something was used before.
pub(super) async fn is_used(executor: impl PgExecutor<'_>, token: &SingleUse) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM used_tokens WHERE token_hash = $1)")
        .bind(token.hash.as_slice())
        .fetch_one(executor)
        .await
}

/// Uses something up; false when it was used before. One that is being used by another act is waited for.
pub(super) async fn use_up(executor: impl PgExecutor<'_>, token: SingleUse) -> Result<bool, Error> {
    let used = sqlx::query(
        "INSERT INTO used_tokens (token_hash, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    )
    .bind(token.hash.as_slice())
    .bind(at(token.expires_at))
    .execute(executor)
    .await?;
    Ok(used.rows_affected() == 1)
}
