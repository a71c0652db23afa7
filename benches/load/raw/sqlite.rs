//! Multi-row INSERTs on the relay's schema, in a scratch file on the same disk, with the relay's settings.

use std::path::Path;

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{Row, heads};
use crate::Outcome;

const SCHEMA: &str = include_str!("../../../migrations/sqlite/0001_core.sql");

const MESSAGES: &str = "\
    INSERT INTO messages (message_id, kind, digest, sender_no, sender_id, recipient_id, conversation_id, sequence, \
    message_type, accepted_at, expires_at, due_at, places) VALUES ";

const ITEMS: &str = "\
    INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, envelope_type, body) VALUES ";

const UPDATE: &str = "\
    UPDATE mailboxes SET head = v.value ->> 1, sequence = v.value ->> 1 \
    FROM json_each(?) v WHERE mailboxes.device_no = v.value ->> 0";

const ACCEPTED: i64 = 1_800_000_000_000;
const EXPIRES: i64 = ACCEPTED + 30 * 86_400_000;

/// A connection of its own.
pub(super) struct Sqlite(SqliteConnection);

impl Sqlite {
    pub(super) async fn open(path: &Path, mailboxes: i64) -> Outcome<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .pragma("secure_delete", "ON")
            .pragma("journal_size_limit", "67108864");
        let mut connection = options.connect().await?;
        connection.execute(SCHEMA).await?;
        for device_no in 1..=mailboxes {
            sqlx::query("INSERT INTO mailboxes (device_no, user_id) VALUES (?, randomblob(16))")
                .bind(device_no)
                .execute(&mut connection)
                .await?;
        }
        Ok(Self(connection))
    }

    pub(super) async fn write(&mut self, rows: &[Row], body: &[u8]) -> Outcome<()> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        let sql = values(MESSAGES, "(?,0,?,?,?,?,?,?,10,?,?,?,?)", rows.len());
        let mut insert = sqlx::query(AssertSqlSafe(sql));
        for row in rows {
            insert = insert
                .bind(row.id)
                .bind(&[7_u8; 32][..])
                .bind(row.mailbox)
                .bind(row.sender)
                .bind(row.recipient)
                .bind(row.conversation)
                .bind(row.position)
                .bind(ACCEPTED)
                .bind(EXPIRES)
                .bind(EXPIRES)
                .bind(format!("[[{},{}]]", row.mailbox, row.position));
        }
        insert.execute(&mut *tx).await?;
        let mut insert = sqlx::query(AssertSqlSafe(values(ITEMS, "(?,?,?,?,?,5,?)", rows.len())));
        for row in rows {
            insert = insert.bind(row.mailbox).bind(row.position).bind(row.id).bind(row.sender);
            insert = insert.bind(EXPIRES).bind(body.to_vec());
        }
        insert.execute(&mut *tx).await?;
        let heads: Vec<_> = heads(rows).into_iter().collect();
        sqlx::query(UPDATE).bind(serde_json::to_string(&heads)?).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

/// The same text for the same size of batch, so that it is prepared once.
fn values(head: &str, row: &str, rows: usize) -> String {
    let mut sql = String::with_capacity(head.len() + (row.len() + 1) * rows);
    sql.push_str(head);
    for index in 0..rows {
        sql.push_str(if index == 0 { "" } else { "," });
        sql.push_str(row);
    }
    sql
}
