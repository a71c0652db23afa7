//! What a restored store needs before it is served.

use sqlx::{AssertSqlSafe, Error, Executor as _, PgConnection, PgPool};

use crate::{
    domain::Timestamp,
    store::{Restored, restored::Jump},
};

/// Whole tables are rewritten, by a process that does nothing else: neither the bounds nor the plans of a serving relay.
const UNBOUND: &str = "\
    SET LOCAL statement_timeout = 0; \
    SET LOCAL idle_in_transaction_session_timeout = 0; \
    SET LOCAL enable_seqscan = on";

const MAILBOXES: &str = "UPDATE mailboxes SET head = GREATEST(head + $1, $2), spare = 0";

/// The tail of an empty log stays behind its head.
const GROUPS: &str = "\
    UPDATE groups SET head = GREATEST(head + $1, $2), version = GREATEST(version + $1, $2), \
        tail = CASE WHEN tail > head THEN GREATEST(head + $1, $2) + 1 ELSE tail END, \
        rolled_back = handshake <> 2";

/// Of packages that were handed out it is not known any more which were used.
const PACKAGES: &str = "UPDATE key_packages SET state = 3, body = NULL WHERE state IN (0, 1)";

const LAST_RESORTS: &str =
    "UPDATE devices SET last_resort_used = true WHERE last_resort_id IS NOT NULL AND NOT last_resort_used";

/// Columns that number their rows.
const NUMBERED: [(&str, &str); 3] =
    [("devices", "device_no"), ("revocations", "revocation_id"), ("audit", "entry")];

/// One transaction. Sequences do not roll back: tried again, they jump again.
pub(super) async fn after(pool: &PgPool, now: Timestamp) -> Result<Restored, Error> {
    let jump = Jump::at(now);
    let mut tx = pool.begin().await?;
    tx.execute(UNBOUND).await?;
    let mailboxes = sqlx::query(MAILBOXES).bind(jump.by).bind(jump.floor).execute(&mut *tx).await?;
    sqlx::query(GROUPS).bind(jump.by).bind(jump.floor).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM group_invites").execute(&mut *tx).await?;
    sqlx::query(PACKAGES).execute(&mut *tx).await?;
    sqlx::query(LAST_RESORTS).execute(&mut *tx).await?;
    let keys = sqlx::query("DELETE FROM prekeys").execute(&mut *tx).await?;
    sqlx::query("DELETE FROM link_tokens").execute(&mut *tx).await?;
    let sessions = sqlx::query("DELETE FROM sessions").execute(&mut *tx).await?;
    for (table, column) in NUMBERED {
        advance(&mut tx, table, column, jump).await?;
    }
    tx.commit().await?;
    Ok(Restored {
        keys: keys.rows_affected(),
        sessions: sessions.rows_affected(),
        mailboxes: mailboxes.rows_affected(),
    })
}

async fn advance(tx: &mut PgConnection, table: &str, column: &str, jump: Jump) -> Result<(), Error> {
    let statement = format!(
        "SELECT setval(numbers, GREATEST(COALESCE(pg_sequence_last_value(numbers), 0) + $1, $2)) \
         FROM (SELECT pg_get_serial_sequence('{table}', '{column}')::regclass AS numbers) AS s"
    );
    sqlx::query(AssertSqlSafe(statement)).bind(jump.by).bind(jump.floor).execute(tx).await?;
    Ok(())
}
