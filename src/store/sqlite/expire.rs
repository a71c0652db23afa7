//! What ends by itself.

use std::{collections::HashSet, time::Duration};

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{accept::erase, groups, rows};
use crate::{
    domain::{BLOCK_MEMORY, DeviceNo, METADATA_LIFE, MessageId, Position, Timestamp},
    store::{AUDIT_LIFE, Expired, REVOCATION_LIFE},
};

/// How far the clocks of two nodes may lie apart: what one refuses for its age another may still take.
const CLOCKS_DISAGREE: Duration = Duration::from_mins(5);

struct Due {
    message: Uuid,
    accepted_at: Timestamp,
    places: Vec<(DeviceNo, Position)>,
}

impl Due {
    fn is_forgotten(&self, now: Timestamp) -> bool {
        self.accepted_at.plus(METADATA_LIFE) <= now
    }
}

/// Does one round.
pub(super) async fn expire(
    tx: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Expired, sqlx::Error> {
    let due = due(tx, now, limit).await?;
    let erased = erase(tx, due.iter().flat_map(|message| message.places.iter().copied())).await?;
    let erased: HashSet<Uuid> = erased.into_values().map(MessageId::uuid).collect();
    let (over, kept): (Vec<_>, Vec<_>) = due.iter().partition(|message| message.is_forgotten(now));
    forget_messages(tx, &over).await?;
    postpone(tx, &kept, &erased).await?;

    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut room = limit.saturating_sub(number(due.len()));
    let mut expired = Expired { bodies: number(erased.len()), forgotten: number(over.len()), more: false };
    let bodies = groups::expire_bodies(tx, now, room).await?;
    expired.bodies = expired.bodies.saturating_add(bodies);
    room = room.saturating_sub(bodies);
    let entries = groups::expire_entries(tx, now, room).await?;
    expired.forgotten = expired.forgotten.saturating_add(entries);
    room = room.saturating_sub(entries);
    for (forget, moment) in ended(now).into_iter().chain(groups::ended(now)) {
        let gone = sqlx::query(forget).bind(moment.millis()).bind(i64::from(room)).execute(&mut *tx).await?;
        let gone = u32::try_from(gone.rows_affected()).unwrap_or(u32::MAX);
        expired.forgotten = expired.forgotten.saturating_add(gone);
        room = room.saturating_sub(gone);
    }
    expired.more = room == 0;
    Ok(expired)
}

/// What is forgotten once it has ended, and the moment before which it must have.
fn ended(now: Timestamp) -> [(&'static str, Timestamp); 6] {
    [
        (
            "DELETE FROM link_tokens WHERE rowid IN (SELECT rowid FROM link_tokens \
             WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM sessions WHERE rowid IN (SELECT rowid FROM sessions \
             WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now,
        ),
        (
            "DELETE FROM revocations WHERE revocation_id IN (SELECT revocation_id FROM revocations \
             WHERE revoked_at <= ? ORDER BY revoked_at LIMIT ?)",
            now.minus(REVOCATION_LIFE),
        ),
        (
            "DELETE FROM used_tokens WHERE token_hash IN (SELECT token_hash FROM used_tokens \
             WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            now.minus(CLOCKS_DISAGREE),
        ),
        (
            "DELETE FROM audit WHERE entry IN (SELECT entry FROM audit \
             WHERE at <= ? ORDER BY at LIMIT ?)",
            now.minus(AUDIT_LIFE),
        ),
        (
            "DELETE FROM blocks WHERE network IN (SELECT network FROM blocks \
             WHERE blocked_until <= ? ORDER BY blocked_until LIMIT ?)",
            now.minus(BLOCK_MEMORY),
        ),
    ]
}

async fn due(tx: &mut SqliteConnection, now: Timestamp, limit: u32) -> Result<Vec<Due>, sqlx::Error> {
    sqlx::query(
        "SELECT message_id, accepted_at, places FROM messages WHERE due_at <= ? \
         ORDER BY due_at, message_id LIMIT ?",
    )
    .bind(now.millis())
    .bind(i64::from(limit))
    .try_map(|row: SqliteRow| {
        Ok(Due {
            message: row.try_get("message_id")?,
            accepted_at: rows::timestamp(&row, "accepted_at")?,
            places: rows::read_places(&row)?,
        })
    })
    .fetch_all(tx)
    .await
}

async fn forget_messages(tx: &mut SqliteConnection, over: &[&Due]) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM messages WHERE message_id IN (SELECT unhex(value) FROM json_each(?))")
        .bind(rows::uuids(over.iter().map(|due| due.message)))
        .execute(tx)
        .await?;
    Ok(())
}

/// The bodies are gone; the row is due again when its id may be forgotten.
async fn postpone(
    tx: &mut SqliteConnection,
    kept: &[&Due],
    erased: &HashSet<Uuid>,
) -> Result<(), sqlx::Error> {
    let lost = kept.iter().map(|due| due.message).filter(|message| erased.contains(message));
    sqlx::query("UPDATE messages SET lost = 1 WHERE message_id IN (SELECT unhex(value) FROM json_each(?))")
        .bind(rows::uuids(lost))
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE messages SET due_at = accepted_at + ? \
         WHERE message_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(Timestamp::from_millis(0).plus(METADATA_LIFE).millis())
    .bind(rows::uuids(kept.iter().map(|due| due.message)))
    .execute(tx)
    .await?;
    Ok(())
}
