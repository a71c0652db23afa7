//! Join tokens, and reports of broken commits.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{super::rows, epochs, roster::needs, rows as columns, windows};
use crate::{
    domain::{Caller, GroupId, InviteId, Role, Timestamp},
    store::{Allowed, Invite, MOST_INVITES, Report},
};

pub(super) async fn make(
    tx: &mut SqliteConnection,
    group: GroupId,
    by: Caller,
    invite: Invite,
    token: [u8; 32],
) -> Result<Allowed, sqlx::Error> {
    if let Some(refusal) = needs(tx, group, &by, Role::Admin).await? {
        return Ok(refusal);
    }
    let there = invites(tx, group, invite.created_at).await?;
    if there.iter().any(|other| other.invite_id == invite.invite_id) {
        return Ok(Allowed::Done);
    }
    if there.len() >= MOST_INVITES {
        return Ok(Allowed::TooMany);
    }
    sqlx::query(
        "INSERT INTO group_invites (group_id, invite_id, token_hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT DO NOTHING",
    )
    .bind(group.uuid())
    .bind(invite.invite_id.uuid())
    .bind(token.to_vec())
    .bind(invite.created_at.millis())
    .bind(invite.expires_at.millis())
    .execute(tx)
    .await?;
    Ok(Allowed::Done)
}

pub(super) async fn revoke(
    tx: &mut SqliteConnection,
    group: GroupId,
    by: Caller,
    invite: InviteId,
) -> Result<Allowed, sqlx::Error> {
    if let Some(refusal) = needs(tx, group, &by, Role::Admin).await? {
        return Ok(refusal);
    }
    let revoked = sqlx::query("DELETE FROM group_invites WHERE group_id = ? AND invite_id = ?")
        .bind(group.uuid())
        .bind(invite.uuid())
        .execute(tx)
        .await?;
    Ok(if revoked.rows_affected() == 0 { Allowed::Unknown } else { Allowed::Done })
}

/// Those that have not ended, oldest first.
pub(super) async fn invites(
    conn: &mut SqliteConnection,
    group: GroupId,
    now: Timestamp,
) -> Result<Vec<Invite>, sqlx::Error> {
    sqlx::query(
        "SELECT invite_id, created_at, expires_at FROM group_invites \
         WHERE group_id = ? AND expires_at > ? ORDER BY created_at, invite_id",
    )
    .bind(group.uuid())
    .bind(now.millis())
    .try_map(|row: SqliteRow| {
        Ok(Invite {
            invite_id: InviteId::new(row.try_get("invite_id")?),
            created_at: rows::timestamp(&row, "created_at")?,
            expires_at: rows::timestamp(&row, "expires_at")?,
        })
    })
    .fetch_all(conn)
    .await
}

/// Whether this is the hash of a token that has not ended.
pub(super) async fn holds(
    conn: &mut SqliteConnection,
    group: GroupId,
    token: [u8; 32],
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM group_invites WHERE group_id = ? AND token_hash = ? AND expires_at > ?)",
    )
    .bind(group.uuid())
    .bind(token.to_vec())
    .bind(now.millis())
    .fetch_one(conn)
    .await
}

pub(super) async fn report(
    tx: &mut SqliteConnection,
    report: Report,
    now: Timestamp,
) -> Result<Allowed, sqlx::Error> {
    let Some(kept) = columns::find(tx, report.group_id).await? else { return Ok(Allowed::NotMember) };
    if !windows::is_open(tx, report.group_id, report.by.device_no).await? {
        return Ok(Allowed::NotMember);
    }
    let generation = kept.group.generation;
    let of = epochs::Of { group: report.group_id, generation, epoch: report.epoch };
    let commit = epochs::commit(tx, of).await?;
    if commit.is_none_or(|commit| commit.digest != report.commit) {
        return Ok(Allowed::Unknown);
    }
    sqlx::query(
        "INSERT INTO group_reports (group_id, generation, epoch, reporter_no, commit_digest, reason, reported_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(report.group_id.uuid())
    .bind(generation)
    .bind(report.epoch.0)
    .bind(report.by.device_no.0)
    .bind(report.commit.to_vec())
    .bind(report.reason)
    .bind(now.millis())
    .execute(tx)
    .await?;
    Ok(Allowed::Done)
}
