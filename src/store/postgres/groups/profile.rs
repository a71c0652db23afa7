//! What a group is called, who may do what in it, and what its members report.

use sqlx::{Error, PgPool};

use super::{
    super::rows::at,
    epochs,
    invites::refused,
    roster_rows,
    rows::{lock, may_write, role_of},
};
use crate::{
    domain::{Caller, GroupId, Role, Timestamp, UserId},
    store::{Allowed, Report},
};

pub(super) async fn describe(
    pool: &PgPool,
    group: GroupId,
    by: &Caller,
    name: Option<&str>,
    description: Option<&str>,
) -> Result<Allowed, Error> {
    let mut tx = pool.begin().await?;
    if let Some(refused) = refused(&mut tx, group, by, Role::Admin).await? {
        return Ok(refused);
    }
    sqlx::query(
        "UPDATE group_profiles SET name = coalesce($2, name), description = coalesce($3, description) \
         WHERE group_id = $1",
    )
    .bind(group.uuid())
    .bind(name)
    .bind(description)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Allowed::Done)
}

pub(super) async fn set_role(
    pool: &PgPool,
    group: GroupId,
    by: &Caller,
    user: UserId,
    role: Role,
) -> Result<Allowed, Error> {
    let mut tx = pool.begin().await?;
    let Some(locked) = lock(&mut tx, group).await? else { return Ok(Allowed::NotMember) };
    match role_of(&mut tx, group, by.user_id).await? {
        None => return Ok(Allowed::NotMember),
        Some(Role::Member | Role::Admin) => return Ok(Allowed::NotAllowed),
        Some(Role::Owner) => {}
    }
    let Some(current) = role_of(&mut tx, group, user).await? else { return Ok(Allowed::Unknown) };
    if current == role {
        return Ok(Allowed::Done);
    }
    if user == by.user_id {
        return Ok(Allowed::NotAllowed);
    }
    // The former owner first: there is never a second one.
    let former = (role == Role::Owner).then_some((by.user_id, Role::Admin));
    for (user, role) in former.into_iter().chain([(user, role)]) {
        roster_rows::set_role(&mut tx, group, user, role).await?;
    }
    locked.write(&mut tx).await?;
    tx.commit().await?;
    Ok(Allowed::Done)
}

pub(super) async fn report(pool: &PgPool, report: &Report, now: Timestamp) -> Result<Allowed, Error> {
    let mut tx = pool.begin().await?;
    let Some(locked) = lock(&mut tx, report.group_id).await? else { return Ok(Allowed::NotMember) };
    if !may_write(&mut tx, report.group_id, report.by.device_no).await? {
        return Ok(Allowed::NotMember);
    }
    let stored = epochs::commit_of(&mut *tx, report.group_id, locked.generation, report.epoch).await?;
    if stored.is_none_or(|stored| stored.digest != report.commit) {
        return Ok(Allowed::Unknown);
    }
    sqlx::query(
        "INSERT INTO group_reports (group_id, generation, epoch, reporter_no, commit_digest, reason, reported_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (group_id, generation, epoch, reporter_no) DO NOTHING",
    )
    .bind(report.group_id.uuid())
    .bind(locked.generation)
    .bind(report.epoch.0)
    .bind(report.by.device_no.0)
    .bind(report.commit.as_slice())
    .bind(&report.reason)
    .bind(at(now))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Allowed::Done)
}
