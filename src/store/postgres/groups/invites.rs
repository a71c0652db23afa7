//! Join tokens, as digests.

use sqlx::{Error, FromRow, PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    super::rows::{at, moment},
    rows::{lock, role_of},
};
use crate::{
    domain::{Caller, GroupId, InviteId, Role, Timestamp},
    store::{Allowed, Invite, MOST_INVITES},
};

/// Locks the group and says why the caller may not do what an admin may; none when it may.
pub(super) async fn refused(
    tx: &mut PgConnection,
    group: GroupId,
    by: &Caller,
    least: Role,
) -> Result<Option<Allowed>, Error> {
    if lock(tx, group).await?.is_none() {
        return Ok(Some(Allowed::NotMember));
    }
    Ok(match role_of(tx, group, by.user_id).await? {
        None => Some(Allowed::NotMember),
        Some(role) => (role < least).then_some(Allowed::NotAllowed),
    })
}

pub(super) async fn make(
    pool: &PgPool,
    group: GroupId,
    by: &Caller,
    invite: Invite,
    token: [u8; 32],
) -> Result<Allowed, Error> {
    let mut tx = pool.begin().await?;
    if let Some(refused) = refused(&mut tx, group, by, Role::Admin).await? {
        return Ok(refused);
    }
    let others: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM group_invites WHERE group_id = $1 AND expires_at > $2 AND invite_id <> $3",
    )
    .bind(group.uuid())
    .bind(at(invite.created_at))
    .bind(invite.invite_id.uuid())
    .fetch_one(&mut *tx)
    .await?;
    if usize::try_from(others).unwrap_or(usize::MAX) >= MOST_INVITES {
        return Ok(Allowed::TooMany);
    }
    sqlx::query(
        "INSERT INTO group_invites (group_id, invite_id, token_hash, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (group_id, invite_id) DO NOTHING",
    )
    .bind(group.uuid())
    .bind(invite.invite_id.uuid())
    .bind(token.as_slice())
    .bind(at(invite.created_at))
    .bind(at(invite.expires_at))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Allowed::Done)
}

pub(super) async fn revoke(
    pool: &PgPool,
    group: GroupId,
    by: &Caller,
    invite: InviteId,
) -> Result<Allowed, Error> {
    let mut tx = pool.begin().await?;
    if let Some(refused) = refused(&mut tx, group, by, Role::Admin).await? {
        return Ok(refused);
    }
    let gone = sqlx::query("DELETE FROM group_invites WHERE group_id = $1 AND invite_id = $2")
        .bind(group.uuid())
        .bind(invite.uuid())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(if gone.rows_affected() == 0 { Allowed::Unknown } else { Allowed::Done })
}

#[derive(FromRow)]
struct InviteRow {
    invite_id: Uuid,
    created_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

pub(super) async fn list(pool: &PgPool, group: GroupId, now: Timestamp) -> Result<Vec<Invite>, Error> {
    let rows: Vec<InviteRow> = sqlx::query_as(
        "SELECT invite_id, created_at, expires_at FROM group_invites \
         WHERE group_id = $1 AND expires_at > $2 ORDER BY created_at, invite_id",
    )
    .bind(group.uuid())
    .bind(at(now))
    .fetch_all(pool)
    .await?;
    let invite = |row: InviteRow| Invite {
        invite_id: InviteId::new(row.invite_id),
        created_at: moment(row.created_at),
        expires_at: moment(row.expires_at),
    };
    Ok(rows.into_iter().map(invite).collect())
}

/// Whether this is a join token of the group that has not ended.
pub(super) async fn holds(
    executor: impl PgExecutor<'_>,
    group: GroupId,
    token: [u8; 32],
    now: Timestamp,
) -> Result<bool, Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM group_invites \
            WHERE group_id = $1 AND token_hash = $2 AND expires_at > $3)",
    )
    .bind(group.uuid())
    .bind(token.as_slice())
    .bind(at(now))
    .fetch_one(executor)
    .await
}
