//! Forgetting what groups and key packages leave behind.

use sqlx::{Error, PgConnection, PgPool};
use uuid::Uuid;

use super::super::rows::at;
use crate::{
    domain::Timestamp,
    store::{Expired, LOG_LIFE},
};

/// How long a key package is known after its leaf's end.
const PACKAGE_LIFE: std::time::Duration = std::time::Duration::from_hours(24);

pub(in super::super) const OLD_ENTRIES: &str =
    "SELECT group_id, position FROM group_log WHERE accepted_at <= $1 ORDER BY accepted_at LIMIT $2";

const LOCK_GROUPS: &str =
    "SELECT group_id FROM groups WHERE group_id = ANY($1) ORDER BY group_id FOR UPDATE SKIP LOCKED";

const LOCK_FIRST: &str = "SELECT group_id FROM groups WHERE group_id = $1 FOR UPDATE";

const TRIM: &str = "\
    DELETE FROM group_log l USING unnest($1::uuid[], $2::bigint[]) AS n(group_id, position) \
    WHERE l.group_id = n.group_id AND l.position = n.position";

const FORGET_COMMITS: &str = "\
    DELETE FROM group_commits c USING unnest($1::uuid[], $2::bigint[]) AS n(group_id, position) \
    WHERE c.group_id = n.group_id AND c.position = n.position";

const MOVE_TAILS: &str = "\
    UPDATE groups g SET tail = coalesce((SELECT l.position FROM group_log l WHERE l.group_id = g.group_id \
        ORDER BY l.position LIMIT 1), g.head + 1) \
    WHERE g.group_id = ANY($1)";

const FORGET_WINDOWS: &str = "\
    DELETE FROM group_windows w USING groups g \
    WHERE g.group_id = ANY($1) AND w.group_id = g.group_id AND w.closed_at IS NOT NULL AND w.closed_at < g.tail";

/// The last one of an MLS group who leaves stays in its roster, because nobody is left to commit it.
const FORGET_GROUPS: &str = "\
    DELETE FROM groups g WHERE g.group_id = ANY($1) AND g.tail > g.head AND CASE WHEN g.handshake = 2 \
        THEN NOT EXISTS (SELECT FROM group_members m WHERE m.group_id = g.group_id) \
        ELSE NOT EXISTS (SELECT FROM group_leaves l WHERE l.group_id = g.group_id AND NOT l.leaving) END";

pub(in super::super) const ENDED_BODIES: &str = "\
    UPDATE group_log SET body = NULL WHERE message_id = ANY(ARRAY(SELECT message_id FROM group_log \
        WHERE expires_at <= $1 AND expires_at IS NOT NULL AND body IS NOT NULL \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";

const ENDED_PACKAGES: &str = "\
    UPDATE key_packages SET body = NULL WHERE reference = ANY(ARRAY(SELECT reference FROM key_packages \
        WHERE not_after <= $1 AND body IS NOT NULL ORDER BY not_after LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_PACKAGES: &str = "\
    DELETE FROM key_packages WHERE reference = ANY(ARRAY(SELECT reference FROM key_packages \
        WHERE not_after <= $1 ORDER BY not_after LIMIT $2 FOR UPDATE SKIP LOCKED))";

const OLD_TREES: &str = "\
    DELETE FROM group_trees t USING (SELECT group_id, generation, epoch FROM group_trees \
        WHERE kept_from <= $1 ORDER BY kept_from LIMIT $2 FOR UPDATE SKIP LOCKED) AS n \
    WHERE t.group_id = n.group_id AND t.generation = n.generation AND t.epoch = n.epoch";

const ENDED_INVITES: &str = "\
    DELETE FROM group_invites i USING (SELECT group_id, invite_id FROM group_invites WHERE expires_at <= $1 \
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS n \
    WHERE i.group_id = n.group_id AND i.invite_id = n.invite_id";

const OLD_REPORTS: &str = "\
    DELETE FROM group_reports r USING (SELECT group_id, generation, epoch, reporter_no FROM group_reports \
        WHERE reported_at <= $1 ORDER BY reported_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS n \
    WHERE r.group_id = n.group_id AND r.generation = n.generation AND r.epoch = n.epoch \
        AND r.reporter_no = n.reporter_no";

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One round of expiry of what groups hold.
pub(in super::super) async fn expire(pool: &PgPool, now: Timestamp, limit: u32) -> Result<Expired, Error> {
    let mut expired = Expired::default();
    let ended = run(pool, ENDED_BODIES, now, limit).await?;
    expired.bodies = ended;
    expired.more = ended >= limit;
    let packages = run(pool, ENDED_PACKAGES, now, limit).await?;
    expired.more |= packages >= limit;
    let rest = [
        (OLD_PACKAGES, now.minus(PACKAGE_LIFE)),
        (OLD_TREES, now.minus(LOG_LIFE)),
        (ENDED_INVITES, now),
        (OLD_REPORTS, now.minus(LOG_LIFE)),
    ];
    for (statement, until) in rest {
        let gone = run(pool, statement, until, limit).await?;
        expired.forgotten = expired.forgotten.saturating_add(gone);
        expired.more |= gone >= limit;
    }
    let (found, trimmed) = trim(pool, now.minus(LOG_LIFE), limit).await?;
    expired.forgotten = expired.forgotten.saturating_add(trimmed);
    // What another act holds is for a later round.
    expired.more |= found >= limit && trimmed > 0;
    Ok(expired)
}

async fn run(pool: &PgPool, statement: &'static str, until: Timestamp, limit: u32) -> Result<u32, Error> {
    let done = sqlx::query(statement).bind(at(until)).bind(i64::from(limit)).execute(pool).await?;
    Ok(small(done.rows_affected()))
}

/// Forgets entries from before `until`, moves the tails of their logs, and forgets what goes with them. Returns how many
/// were found and how many are gone.
async fn trim(pool: &PgPool, until: Timestamp, limit: u32) -> Result<(u32, u32), Error> {
    let mut tx = pool.begin().await?;
    let old: Vec<(Uuid, i64)> =
        sqlx::query_as(OLD_ENTRIES).bind(at(until)).bind(i64::from(limit)).fetch_all(&mut *tx).await?;
    let Some((first, _)) = old.first() else { return Ok((0, 0)) };
    let mut groups: Vec<Uuid> = old.iter().map(|(group, _)| *group).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut locked: Vec<Uuid> = sqlx::query_scalar(LOCK_GROUPS).bind(groups).fetch_all(&mut *tx).await?;
    if locked.is_empty() {
        // All are busy. To pass them by every time would keep what is behind them for ever.
        locked = sqlx::query_scalar(LOCK_FIRST).bind(first).fetch_all(&mut *tx).await?;
    }
    let trimmed: Vec<(Uuid, i64)> =
        old.iter().filter(|(group, _)| locked.binary_search(group).is_ok()).copied().collect();
    let gone = forget(&mut tx, &trimmed, &locked).await?;
    tx.commit().await?;
    Ok((small(old.len() as u64), gone))
}

async fn forget(tx: &mut PgConnection, entries: &[(Uuid, i64)], locked: &[Uuid]) -> Result<u32, Error> {
    let (groups, positions): (Vec<Uuid>, Vec<i64>) = entries.iter().copied().unzip();
    let gone = sqlx::query(TRIM).bind(&groups).bind(&positions).execute(&mut *tx).await?;
    sqlx::query(FORGET_COMMITS).bind(&groups).bind(&positions).execute(&mut *tx).await?;
    for statement in [MOVE_TAILS, FORGET_WINDOWS, FORGET_GROUPS] {
        sqlx::query(statement).bind(locked).execute(&mut *tx).await?;
    }
    Ok(small(gone.rows_affected()))
}
