//! What a restored store needs before it is served.

use sqlx::SqliteConnection;

use super::groups;
use crate::{
    domain::Timestamp,
    store::{Restored, restored::Jump},
};

const LAST_RESORTS: &str =
    "UPDATE devices SET last_resort_used = 1 WHERE last_resort_id IS NOT NULL AND NOT last_resort_used";

/// Of packages that were handed out it is not known any more which were used.
const PACKAGES: &str = "UPDATE key_packages SET state = 3, body = NULL WHERE state IN (0, 1)";

/// Tables that number their rows.
const NUMBERED: [&str; 3] = ["devices", "revocations", "audit"];

pub(super) async fn after(tx: &mut SqliteConnection, now: Timestamp) -> Result<Restored, sqlx::Error> {
    let jump = Jump::at(now);
    let mailboxes = sqlx::query("UPDATE mailboxes SET head = max(head + ?, ?), spare = 0")
        .bind(jump.by)
        .bind(jump.floor)
        .execute(&mut *tx)
        .await?;
    sqlx::query(LAST_RESORTS).execute(&mut *tx).await?;
    groups::roll_back(tx, jump).await?;
    sqlx::query(PACKAGES).execute(&mut *tx).await?;
    let keys = sqlx::query("DELETE FROM prekeys").execute(&mut *tx).await?;
    sqlx::query("DELETE FROM link_tokens").execute(&mut *tx).await?;
    let sessions = sqlx::query("DELETE FROM sessions").execute(&mut *tx).await?;
    for table in NUMBERED {
        advance(tx, table, jump).await?;
    }
    Ok(Restored {
        keys: keys.rows_affected(),
        sessions: sessions.rows_affected(),
        mailboxes: mailboxes.rows_affected(),
    })
}

/// `SQLite` keeps the last number of a table from its first row on.
async fn advance(tx: &mut SqliteConnection, table: &str, jump: Jump) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sqlite_sequence (name, seq) \
         SELECT ?1, 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
    )
    .bind(table)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE sqlite_sequence SET seq = max(seq + ?, ?) WHERE name = ?")
        .bind(jump.by)
        .bind(jump.floor)
        .bind(table)
        .execute(tx)
        .await?;
    Ok(())
}
