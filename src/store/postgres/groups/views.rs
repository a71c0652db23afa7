//! Groups, rosters and what handshakes are judged by, as of one moment.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::{Error, Executor, FromRow, PgConnection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    super::rows::{count, device_id, digest, moment},
    rows::{GroupRow, WindowRow, group_columns, handshake, leaf_index, role},
};
use crate::{
    domain::{Caller, DeviceNo, Epoch, GroupId, Handshake, Member, MemberDevice, Membership, UserId},
    store::{HandshakeState, PendingProposal, Standing},
};

#[derive(FromRow)]
struct StandingRow {
    #[sqlx(flatten)]
    group: GroupRow,
    version: i64,
    role: Option<i16>,
    invited: Option<bool>,
    #[sqlx(flatten)]
    window: WindowRow,
    is_leaf: bool,
    leaf_index: Option<i64>,
    reports: i64,
}

/// A report is about the commit that opened the current epoch, and so for the one before.
pub(in super::super) const STANDING: &str = concat!(
    "SELECT ",
    group_columns!(),
    ", g.version, m.role, m.invited, w.opened_after, w.closed_at, w.cursor, w.gate, w.joined_epoch, \
        l.device_no IS NOT NULL AS is_leaf, l.leaf_index, \
        (SELECT count(*) FROM group_reports r WHERE r.group_id = g.group_id AND r.generation = g.generation \
            AND r.epoch = g.epoch - 1) AS reports \
     FROM groups g JOIN group_profiles p ON p.group_id = g.group_id \
     LEFT JOIN group_members m ON m.group_id = g.group_id AND m.user_id = $2 \
     LEFT JOIN group_leaves l ON l.group_id = g.group_id AND l.device_no = $3 \
     LEFT JOIN LATERAL (SELECT * FROM group_windows v WHERE v.device_no = $3 AND v.group_id = g.group_id \
        ORDER BY v.opened_after DESC LIMIT 1) AS w ON true \
     WHERE g.group_id = $1"
);

pub(super) async fn standing(
    pool: &PgPool,
    group: GroupId,
    caller: &Caller,
) -> Result<Option<Standing>, Error> {
    let row: Option<StandingRow> = sqlx::query_as(STANDING)
        .bind(group.uuid())
        .bind(caller.user_id.uuid())
        .bind(caller.device_no.0)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let index = row.leaf_index.map(leaf_index).transpose()?;
    Ok(Some(Standing {
        group: row.group.group()?,
        version: row.version,
        role: row.role.map(role).transpose()?,
        invited: row.invited.unwrap_or(false),
        window: row.window.window(group)?,
        leaf: row.is_leaf.then_some(index),
        reports: count(row.reports),
    }))
}

#[derive(FromRow)]
struct OwnRow {
    #[sqlx(flatten)]
    group: GroupRow,
    role: i16,
    invited: bool,
}

pub(in super::super) const GROUPS_OF: &str = concat!(
    "SELECT ",
    group_columns!(),
    ", m.role, m.invited FROM group_members m JOIN groups g ON g.group_id = m.group_id \
     JOIN group_profiles p ON p.group_id = g.group_id \
     WHERE m.user_id = $1 AND m.group_id > $2 ORDER BY m.group_id LIMIT $3"
);

pub(super) async fn groups_of(
    pool: &PgPool,
    user: UserId,
    after: Option<GroupId>,
    limit: u32,
) -> Result<Vec<Membership>, Error> {
    // No group has the nil id, which stands for none.
    let rows: Vec<OwnRow> = sqlx::query_as(GROUPS_OF)
        .bind(user.uuid())
        .bind(after.map_or(Uuid::nil(), GroupId::uuid))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    let membership = |row: OwnRow| {
        Ok(Membership { group: row.group.group()?, role: role(row.role)?, invited: row.invited })
    };
    rows.into_iter().map(membership).collect()
}

/// Several statements that see one moment.
async fn one_moment(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Error> {
    let mut tx = pool.begin().await?;
    tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    Ok(tx)
}

pub(super) async fn members(pool: &PgPool, group: GroupId) -> Result<Option<Vec<Member>>, Error> {
    let mut tx = one_moment(pool).await?;
    let kind: Option<i16> = sqlx::query_scalar("SELECT handshake FROM groups WHERE group_id = $1")
        .bind(group.uuid())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(kind) = kind else { return Ok(None) };
    read_members(&mut tx, group, handshake(kind)?).await.map(Some)
}

#[derive(FromRow)]
struct MemberRow {
    user_id: Uuid,
    role: i16,
    invited: bool,
    joined_at: OffsetDateTime,
}

#[derive(FromRow)]
struct DeviceRow {
    user_id: Uuid,
    device_no: i64,
    device_id: String,
    leaf_index: Option<i64>,
    active: bool,
    leaving: bool,
}

impl DeviceRow {
    fn device(self) -> Result<MemberDevice, Error> {
        Ok(MemberDevice {
            device_no: DeviceNo(self.device_no),
            device_id: device_id(&self.device_id)?,
            leaf_index: self.leaf_index.map(leaf_index).transpose()?,
            active: self.active,
            leaving: self.leaving,
        })
    }
}

const LEAVES: &str = "\
    SELECT l.user_id, l.device_no, d.device_id, l.leaf_index, d.deactivated_at IS NULL AS active, l.leaving \
    FROM group_leaves l JOIN devices d ON d.device_no = l.device_no WHERE l.group_id = $1 ORDER BY l.device_no";

const READERS: &str = "\
    SELECT d.user_id, w.device_no, d.device_id, NULL::bigint AS leaf_index, true AS active, false AS leaving \
    FROM group_windows w JOIN devices d ON d.device_no = w.device_no \
    WHERE w.group_id = $1 AND w.closed_at IS NULL ORDER BY w.device_no";

async fn read_members(
    tx: &mut PgConnection,
    group: GroupId,
    handshake: Handshake,
) -> Result<Vec<Member>, Error> {
    let devices = match handshake {
        Handshake::Public | Handshake::Private => LEAVES,
        Handshake::None => READERS,
    };
    let rows: Vec<DeviceRow> = sqlx::query_as(devices).bind(group.uuid()).fetch_all(&mut *tx).await?;
    let mut devices: HashMap<Uuid, Vec<MemberDevice>> = HashMap::new();
    for row in rows {
        devices.entry(row.user_id).or_default().push(row.device()?);
    }
    let rows: Vec<MemberRow> = sqlx::query_as(
        "SELECT user_id, role, invited, joined_at FROM group_members WHERE group_id = $1 \
         ORDER BY (role = 2) DESC, joined",
    )
    .bind(group.uuid())
    .fetch_all(tx)
    .await?;
    let mut members = Vec::with_capacity(rows.len());
    for row in rows {
        members.push(Member {
            user_id: UserId::new(row.user_id),
            role: role(row.role)?,
            invited: row.invited,
            joined_at: moment(row.joined_at),
            devices: devices.remove(&row.user_id).unwrap_or_default(),
        });
    }
    Ok(members)
}

#[derive(FromRow)]
struct StateRow {
    handshake: i16,
    version: i64,
    generation: i64,
    epoch: i64,
    digest: Option<Vec<u8>>,
    group_info: Vec<u8>,
}

pub(super) async fn handshake_state(pool: &PgPool, group: GroupId) -> Result<Option<HandshakeState>, Error> {
    let mut tx = one_moment(pool).await?;
    let row: Option<StateRow> = sqlx::query_as(
        "SELECT g.handshake, g.version, g.generation, g.epoch, s.digest, s.group_info \
         FROM groups g JOIN mls_group_states s ON s.group_id = g.group_id WHERE g.group_id = $1",
    )
    .bind(group.uuid())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let proposals: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT sender_no, target_no, body FROM group_proposals WHERE group_id = $1 ORDER BY position",
    )
    .bind(group.uuid())
    .fetch_all(&mut *tx)
    .await?;
    let proposal = |(sender, target, body): (i64, i64, Vec<u8>)| PendingProposal {
        sender: DeviceNo(sender),
        target: (target != 0).then_some(DeviceNo(target)),
        body: Bytes::from(body),
    };
    Ok(Some(HandshakeState {
        version: row.version,
        generation: row.generation,
        epoch: Epoch(row.epoch),
        state_digest: row.digest.as_deref().map(digest).transpose()?,
        group_info: Bytes::from(row.group_info),
        proposals: proposals.into_iter().map(proposal).collect(),
        members: read_members(&mut tx, group, handshake(row.handshake)?).await?,
    }))
}
