//! Forgetting: bodies when they expire, metadata 30 days after acceptance, and what else has ended.

use std::{collections::HashSet, time::Duration};

use sqlx::{Error, FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::{Places, at, moment};
use crate::{
    domain::{BLOCK_MEMORY, METADATA_LIFE, Timestamp},
    store::{AUDIT_LIFE, Expired, REVOCATION_LIFE},
};

/// How long a use is remembered past the moment from which what was used is refused for its age (see `SingleUse`).
const USE_LIFE: Duration = Duration::from_mins(5);

pub(crate) const DUE: &str = "\
    SELECT message_id, accepted_at, device_nos, positions FROM messages \
    WHERE due_at <= $1 ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED";

const ERASE: &str = "\
    DELETE FROM mailbox_items i USING unnest($1::bigint[], $2::bigint[]) AS n(device_no, position) \
    WHERE i.device_no = n.device_no AND i.position = n.position RETURNING i.message_id";

const ENDED_TOKENS: &str = "\
    DELETE FROM link_tokens WHERE user_id = ANY(ARRAY(SELECT user_id FROM link_tokens WHERE expires_at <= $1 \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const ENDED_SESSIONS: &str = "\
    DELETE FROM sessions WHERE session_id = ANY(ARRAY(SELECT session_id FROM sessions WHERE expires_at <= $1 \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_REVOCATIONS: &str = "\
    DELETE FROM revocations WHERE revocation_id = ANY(ARRAY(SELECT revocation_id FROM revocations \
        WHERE revoked_at <= $1 ORDER BY revoked_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_USES: &str = "\
    DELETE FROM used_tokens WHERE token_hash = ANY(ARRAY(SELECT token_hash FROM used_tokens WHERE expires_at <= $1 \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_EVENTS: &str = "\
    DELETE FROM audit WHERE entry = ANY(ARRAY(SELECT entry FROM audit WHERE at <= $1 \
        ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_BLOCKS: &str = "\
    DELETE FROM blocks WHERE network = ANY(ARRAY(SELECT network FROM blocks WHERE blocked_until <= $1 \
        ORDER BY blocked_until LIMIT $2 FOR UPDATE SKIP LOCKED))";

#[derive(FromRow)]
struct DueRow {
    message_id: Uuid,
    accepted_at: OffsetDateTime,
    #[sqlx(flatten)]
    places: Places,
}

/// One round of expiry of messages. Other nodes pass by what this one has locked.
pub(super) async fn messages(pool: &PgPool, now: Timestamp, limit: u32) -> Result<Expired, Error> {
    let mut tx = pool.begin().await?;
    let due: Vec<DueRow> =
        sqlx::query_as(DUE).bind(at(now)).bind(i64::from(limit)).fetch_all(&mut *tx).await?;
    if due.is_empty() {
        return Ok(Expired::default());
    }
    let erased = erase(&mut tx, &due).await?;
    let is_old = |row: &DueRow| moment(row.accepted_at).plus(METADATA_LIFE) <= now;
    let (old, kept): (Vec<&DueRow>, Vec<&DueRow>) = due.iter().partition(|row| is_old(row));
    let forgotten = forget(&mut tx, &old).await?;
    postpone(&mut tx, &kept, &erased).await?;
    tx.commit().await?;
    let more = due.len() >= limit as usize;
    Ok(Expired { bodies: u32::try_from(erased.len()).unwrap_or(u32::MAX), forgotten, more })
}

/// Erases what is left of these messages in any mailbox, and tells of which there was something.
async fn erase(tx: &mut PgConnection, due: &[DueRow]) -> Result<HashSet<Uuid>, Error> {
    let places = Places::sorted(due.iter().flat_map(|row| row.places.iter()));
    let erased: Vec<Uuid> =
        sqlx::query_scalar(ERASE).bind(places.device_nos).bind(places.positions).fetch_all(tx).await?;
    Ok(erased.into_iter().collect())
}

async fn forget(tx: &mut PgConnection, old: &[&DueRow]) -> Result<u32, Error> {
    if old.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = old.iter().map(|row| row.message_id).collect();
    let gone = sqlx::query("DELETE FROM messages WHERE message_id = ANY($1)").bind(ids).execute(tx).await?;
    Ok(u32::try_from(gone.rows_affected()).unwrap_or(u32::MAX))
}

/// Leaves the metadata of these messages for the rest of its life.
async fn postpone(tx: &mut PgConnection, kept: &[&DueRow], erased: &HashSet<Uuid>) -> Result<(), Error> {
    if kept.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = kept.iter().map(|row| row.message_id).collect();
    let lost: Vec<bool> = ids.iter().map(|id| erased.contains(id)).collect();
    let ends: Vec<OffsetDateTime> =
        kept.iter().map(|row| at(moment(row.accepted_at).plus(METADATA_LIFE))).collect();
    sqlx::query(
        "UPDATE messages m SET lost = m.lost OR n.lost, due_at = n.due_at \
         FROM unnest($1::uuid[], $2::boolean[], $3::timestamptz[]) AS n(message_id, lost, due_at) \
         WHERE m.message_id = n.message_id",
    )
    .bind(ids)
    .bind(lost)
    .bind(ends)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets link tokens and sessions that ended, revocations that every node has seen, uses of what is refused for its age,
/// old security events, and blocks that make no later one longer.
pub(super) async fn the_rest(pool: &PgPool, now: Timestamp, limit: u32) -> Result<u32, Error> {
    let ended = [
        (ENDED_TOKENS, now),
        (ENDED_SESSIONS, now),
        (OLD_REVOCATIONS, now.minus(REVOCATION_LIFE)),
        (OLD_USES, now.minus(USE_LIFE)),
        (OLD_EVENTS, now.minus(AUDIT_LIFE)),
        (OLD_BLOCKS, now.minus(BLOCK_MEMORY)),
    ];
    let mut forgotten: u32 = 0;
    for (statement, until) in ended {
        let gone = sqlx::query(statement).bind(at(until)).bind(i64::from(limit)).execute(pool).await?;
        forgotten = forgotten.saturating_add(u32::try_from(gone.rows_affected()).unwrap_or(u32::MAX));
    }
    Ok(forgotten)
}
