//! One statement for a batch, over UNNEST arrays, on copies of the relay's tables.

use sqlx::{Connection, Executor, PgConnection};
use time::OffsetDateTime;

use super::{Row, heads};
use crate::Outcome;

/// The copies have the indexes and defaults of the originals; the fill factor has to be said again.
const TABLES: &str = "\
    CREATE TABLE bench_mailboxes (LIKE mailboxes INCLUDING ALL) WITH (fillfactor = 50); \
    CREATE TABLE bench_messages (LIKE messages INCLUDING ALL); \
    CREATE TABLE bench_items (LIKE mailbox_items INCLUDING ALL)";

/// As the relay's own connections.
const SETTINGS: &str = "\
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off";

const MAILBOXES: &str = "\
    INSERT INTO bench_mailboxes (device_no, user_id) SELECT n, gen_random_uuid() FROM generate_series(1, $1) AS n";

const WRITE: &str = "\
    WITH moved AS ( \
        UPDATE bench_mailboxes m SET head = n.head, sequence = n.head \
        FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, head) WHERE m.device_no = n.device_no \
    ), noted AS ( \
        INSERT INTO bench_messages (message_id, kind, digest, sender_no, sender_id, recipient_id, conversation_id, \
            sequence, message_type, accepted_at, expires_at, due_at, self_destructing, device_nos, positions) \
        SELECT n.message_id, 0, n.digest, n.mailbox, n.sender_id, n.recipient_id, n.conversation_id, n.position, \
            10, $11, $12, $12, false, ARRAY[n.mailbox], ARRAY[n.position] \
        FROM unnest($3::uuid[], $4::bytea[], $5::bigint[], $6::uuid[], $7::uuid[], $8::uuid[], $9::bigint[]) \
        AS n(message_id, digest, mailbox, sender_id, recipient_id, conversation_id, position) \
    ) \
    INSERT INTO bench_items (device_no, position, message_id, sender_id, expires_at, envelope_type, body) \
    SELECT n.device_no, n.position, n.message_id, n.sender_id, $12, 5, n.body \
    FROM unnest($5::bigint[], $9::bigint[], $3::uuid[], $6::uuid[], $10::bytea[]) \
    AS n(device_no, position, message_id, sender_id, body)";

/// A connection of its own.
pub(super) struct Postgres(PgConnection);

impl Postgres {
    pub(super) async fn open(url: &str, mailboxes: i64) -> Outcome<Self> {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(TABLES).await?;
        connection.execute(SETTINGS).await?;
        sqlx::query(MAILBOXES).bind(mailboxes).execute(&mut connection).await?;
        Ok(Self(connection))
    }

    pub(super) async fn write(&mut self, rows: &[Row], body: &[u8]) -> Outcome<()> {
        let moment = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let column = |of: fn(&Row) -> uuid::Uuid| rows.iter().map(of).collect::<Vec<_>>();
        let heads = heads(rows);
        let digest: &[u8] = &[7; 32];
        sqlx::query(WRITE)
            .bind(heads.keys().copied().collect::<Vec<_>>())
            .bind(heads.values().copied().collect::<Vec<_>>())
            .bind(column(|row| row.id))
            .bind(vec![digest; rows.len()])
            .bind(rows.iter().map(|row| row.mailbox).collect::<Vec<_>>())
            .bind(column(|row| row.sender))
            .bind(column(|row| row.recipient))
            .bind(column(|row| row.conversation))
            .bind(rows.iter().map(|row| row.position).collect::<Vec<_>>())
            .bind(vec![body; rows.len()])
            .bind(moment)
            .bind(moment + time::Duration::days(30))
            .execute(&mut self.0)
            .await?;
        Ok(())
    }
}
