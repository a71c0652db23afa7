//! What ends by itself in groups.

use std::{collections::HashSet, time::Duration};

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::super::rows;
use crate::{
    domain::Timestamp,
    store::{LOG_LIFE, restored::Jump},
};

/// How long a package is known after its leaf's end, so that what was handed out shortly before is recognised.
const PACKAGE_GRACE: Duration = Duration::from_hours(24);

/// Erases up to `limit` expired bodies; tells how many.
pub(in super::super) async fn bodies(
    tx: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<u32, sqlx::Error> {
    let erased = sqlx::query(
        "UPDATE group_log SET body = NULL WHERE rowid IN (SELECT rowid FROM group_log \
         WHERE expires_at <= ? AND expires_at IS NOT NULL AND body IS NOT NULL ORDER BY expires_at LIMIT ?)",
    )
    .bind(now.millis())
    .bind(i64::from(limit))
    .execute(tx)
    .await?;
    Ok(u32::try_from(erased.rows_affected()).unwrap_or(u32::MAX))
}

/// Forgets up to `limit` entries that are old, and what hangs on them; tells how many.
pub(in super::super) async fn entries(
    tx: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<u32, sqlx::Error> {
    let gone = sqlx::query(
        "DELETE FROM group_log WHERE rowid IN (SELECT rowid FROM group_log \
         WHERE accepted_at <= ? ORDER BY accepted_at, rowid LIMIT ?) RETURNING group_id",
    )
    .bind(now.minus(LOG_LIFE).millis())
    .bind(i64::from(limit))
    .try_map(|row: SqliteRow| row.try_get::<Uuid, _>("group_id"))
    .fetch_all(&mut *tx)
    .await?;
    let number = u32::try_from(gone.len()).unwrap_or(u32::MAX);
    if number > 0 {
        let groups: HashSet<Uuid> = gone.into_iter().collect();
        trim(tx, rows::uuids(groups)).await?;
    }
    Ok(number)
}

/// The tails of logs follow what is left of them; what lies before a tail has no use any more.
async fn trim(tx: &mut SqliteConnection, groups: String) -> Result<(), sqlx::Error> {
    for follow in [
        "UPDATE groups SET tail = coalesce((SELECT min(position) FROM group_log l \
             WHERE l.group_id = groups.group_id), head + 1) \
         WHERE group_id IN (SELECT unhex(value) FROM json_each(?))",
        "DELETE FROM group_commits WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) \
         AND position < (SELECT tail FROM groups g WHERE g.group_id = group_commits.group_id)",
        "DELETE FROM group_windows WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) \
         AND closed_at < (SELECT tail FROM groups g WHERE g.group_id = group_windows.group_id)",
        // The last one of an MLS group who leaves stays in its roster, because nobody is left to commit it.
        "DELETE FROM groups WHERE group_id IN (SELECT unhex(value) FROM json_each(?)) AND tail > head \
         AND CASE WHEN handshake = 2 \
             THEN NOT EXISTS (SELECT 1 FROM group_members m WHERE m.group_id = groups.group_id) \
             ELSE NOT EXISTS (SELECT 1 FROM group_leaves l WHERE l.group_id = groups.group_id AND NOT l.leaving) END",
    ] {
        sqlx::query(follow).bind(&groups).execute(&mut *tx).await?;
    }
    Ok(())
}

/// What is forgotten once it has ended, and the moment before which it must have.
pub(in super::super) fn ended(now: Timestamp) -> [(&'static str, Timestamp); 5] {
    [
        (
            "UPDATE key_packages SET body = NULL WHERE package_no IN (SELECT package_no FROM key_packages \
             WHERE not_after <= ? AND body IS NOT NULL ORDER BY not_after LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM group_trees WHERE rowid IN (SELECT rowid FROM group_trees \
             WHERE kept_from <= ? ORDER BY kept_from LIMIT ?)",
            now.minus(LOG_LIFE),
        ),
        (
            "DELETE FROM group_invites WHERE rowid IN (SELECT rowid FROM group_invites \
             WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM group_reports WHERE rowid IN (SELECT rowid FROM group_reports \
             WHERE reported_at <= ? ORDER BY reported_at LIMIT ?)",
            now.minus(LOG_LIFE),
        ),
        (
            "DELETE FROM key_packages WHERE package_no IN (SELECT package_no FROM key_packages \
             WHERE not_after <= ? ORDER BY not_after LIMIT ?)",
            now.minus(PACKAGE_GRACE),
        ),
    ]
}

/// After a restore: positions go on beyond any that may have been given, and MLS groups may be behind their members.
pub(in super::super) async fn roll_back(tx: &mut SqliteConnection, jump: Jump) -> Result<(), sqlx::Error> {
    // The tail of an empty log stays behind its head.
    sqlx::query(
        "UPDATE groups SET head = max(head + ?1, ?2), version = max(version + ?1, ?2), \
         tail = CASE WHEN tail > head THEN max(head + ?1, ?2) + 1 ELSE tail END, rolled_back = handshake <> 2",
    )
    .bind(jump.by)
    .bind(jump.floor)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM group_invites").execute(tx).await?;
    Ok(())
}
