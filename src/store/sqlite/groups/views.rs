//! Groups as they are looked at.

use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::rows,
    members, propose,
    rows::{self as columns, Kept, select_group},
    windows,
};
use crate::{
    domain::{Caller, Group, GroupId, Member, Membership, UserId},
    store::{HandshakeState, Standing},
};

/// How a device stands in a group. To be read as of one moment, like everything here.
pub(super) async fn standing(
    conn: &mut SqliteConnection,
    group: GroupId,
    caller: Caller,
) -> Result<Option<Standing>, sqlx::Error> {
    let Some(kept) = columns::find(conn, group).await? else { return Ok(None) };
    let leaf = sqlx::query("SELECT leaf_index FROM group_leaves WHERE group_id = ? AND device_no = ?")
        .bind(group.uuid())
        .bind(caller.device_no.0)
        .try_map(|row: SqliteRow| columns::leaf_index(&row))
        .fetch_optional(&mut *conn)
        .await?;
    let membership =
        sqlx::query("SELECT role, invited FROM group_members WHERE group_id = ? AND user_id = ?")
            .bind(group.uuid())
            .bind(caller.user_id.uuid())
            .try_map(|row: SqliteRow| Ok((columns::role(&row)?, row.try_get("invited")?)))
            .fetch_optional(&mut *conn)
            .await?;
    Ok(Some(Standing {
        role: membership.map(|(role, _)| role),
        invited: membership.is_some_and(|(_, invited)| invited),
        window: windows::newest(conn, group, caller.device_no).await?,
        leaf,
        reports: reports(conn, &kept.group).await?,
        version: kept.version,
        group: kept.group,
    }))
}

/// How many devices say that the commit that opened the current epoch is broken.
async fn reports(conn: &mut SqliteConnection, group: &Group) -> Result<u32, sqlx::Error> {
    let reports: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM group_reports WHERE group_id = ? AND generation = ? AND epoch = ?",
    )
    .bind(group.group_id.uuid())
    .bind(group.generation)
    .bind(group.epoch.0 - 1)
    .fetch_one(conn)
    .await?;
    Ok(rows::count(reports))
}

/// What commits and proposals are judged by.
pub(super) async fn handshake(
    conn: &mut SqliteConnection,
    group: GroupId,
) -> Result<Option<HandshakeState>, sqlx::Error> {
    let Some(kept) = columns::find(conn, group).await?.filter(Kept::is_mls) else { return Ok(None) };
    let state = sqlx::query("SELECT digest, group_info FROM mls_group_states WHERE group_id = ?")
        .bind(group.uuid())
        .fetch_one(&mut *conn)
        .await?;
    let digest: Option<&[u8]> = state.try_get("digest")?;
    Ok(Some(HandshakeState {
        version: kept.version,
        generation: kept.group.generation,
        epoch: kept.group.epoch,
        state_digest: digest.map(rows::digest).transpose()?,
        group_info: bytes::Bytes::copy_from_slice(state.try_get("group_info")?),
        proposals: propose::pending(conn, group).await?,
        members: members::all(conn, group, kept.group.handshake).await?,
    }))
}

/// Everybody in a group, the owner first.
pub(super) async fn members(
    conn: &mut SqliteConnection,
    group: GroupId,
) -> Result<Option<Vec<Member>>, sqlx::Error> {
    let Some(kept) = columns::find(conn, group).await? else { return Ok(None) };
    members::all(conn, group, kept.group.handshake).await.map(Some)
}

/// The groups of a user by id.
pub(super) async fn of_user(
    conn: &mut SqliteConnection,
    user: UserId,
    after: Option<GroupId>,
    limit: u32,
) -> Result<Vec<Membership>, sqlx::Error> {
    const OF_USER: &str = select_group!(
        ", m.role, m.invited",
        "JOIN group_members m ON m.group_id = g.group_id \
         WHERE m.user_id = ?1 AND (?2 IS NULL OR m.group_id > ?2) ORDER BY m.group_id LIMIT ?3"
    );
    sqlx::query(OF_USER)
        .bind(user.uuid())
        .bind(after.map(GroupId::uuid))
        .bind(i64::from(limit))
        .try_map(|row: SqliteRow| {
            let (group, role) = (columns::group(&row)?, columns::role(&row)?);
            Ok(Membership { group, role, invited: row.try_get("invited")? })
        })
        .fetch_all(conn)
        .await
}
