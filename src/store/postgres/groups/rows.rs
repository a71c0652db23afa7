//! Groups between columns and the words of the domain.

use sqlx::{Error, FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::rows::{corrupt, count, missing, moment};
use crate::{
    domain::{
        CipherSuite, DeviceNo, EntryKind, Epoch, ExternalJoin, Group, GroupId, Handshake, Position, Role,
        UserId, Window,
    },
    store::CannotAdd,
};

/// The columns of [`GroupRow`], of `groups g` and `group_profiles p`.
macro_rules! group_columns {
    () => {
        "g.group_id, p.name, p.description, p.created_by, p.created_at, g.handshake, g.external_join, \
         g.cipher_suite, g.generation, g.epoch, g.oldest_epoch, g.head, g.rolled_back, \
         (SELECT count(*) FROM group_members c WHERE c.group_id = g.group_id) AS member_count"
    };
}
pub(super) use group_columns;

#[derive(FromRow)]
pub(super) struct GroupRow {
    group_id: Uuid,
    name: Option<String>,
    description: Option<String>,
    created_by: Uuid,
    created_at: OffsetDateTime,
    member_count: i64,
    handshake: i16,
    external_join: i16,
    cipher_suite: Option<i16>,
    generation: i64,
    epoch: i64,
    oldest_epoch: i64,
    head: i64,
    rolled_back: bool,
}

impl GroupRow {
    pub(super) fn group(self) -> Result<Group, Error> {
        let suite = |number: i16| CipherSuite::new(number.into()).map_err(corrupt);
        Ok(Group {
            group_id: GroupId::new(self.group_id),
            name: self.name,
            description: self.description,
            created_by: UserId::new(self.created_by),
            created_at: moment(self.created_at),
            member_count: count(self.member_count),
            handshake: handshake(self.handshake)?,
            external_join: external_join(self.external_join)?,
            cipher_suite: self.cipher_suite.map(suite).transpose()?,
            generation: self.generation,
            epoch: Epoch(self.epoch),
            oldest_epoch: Epoch(self.oldest_epoch),
            head: Position(self.head),
            rolled_back: self.rolled_back,
        })
    }
}

/// The group as it is in this transaction.
pub(super) async fn read_group(tx: &mut PgConnection, group: GroupId) -> Result<Group, Error> {
    const GROUP: &str = concat!(
        "SELECT ",
        group_columns!(),
        " FROM groups g JOIN group_profiles p ON p.group_id = g.group_id WHERE g.group_id = $1"
    );
    let row: GroupRow = sqlx::query_as(GROUP).bind(group.uuid()).fetch_one(tx).await?;
    row.group()
}

pub(super) fn handshake(column: i16) -> Result<Handshake, Error> {
    Ok(match column {
        0 => Handshake::Public,
        1 => Handshake::Private,
        2 => Handshake::None,
        _ => return Err(corrupt("an unknown kind of handshake")),
    })
}

fn external_join(column: i16) -> Result<ExternalJoin, Error> {
    Ok(match column {
        0 => ExternalJoin::None,
        1 => ExternalJoin::Resync,
        2 => ExternalJoin::Siblings,
        3 => ExternalJoin::Token,
        _ => return Err(corrupt("an unknown way to join")),
    })
}

pub(super) fn role(column: i16) -> Result<Role, Error> {
    Ok(match column {
        0 => Role::Member,
        1 => Role::Admin,
        2 => Role::Owner,
        _ => return Err(corrupt("an unknown role")),
    })
}

pub(super) fn entry_kind(column: i16) -> Result<EntryKind, Error> {
    Ok(match column {
        0 => EntryKind::Application,
        1 => EntryKind::Commit,
        2 => EntryKind::Proposal,
        3 => EntryKind::Membership,
        4 => EntryKind::Reset,
        _ => return Err(corrupt("an unknown kind of entry")),
    })
}

pub(super) fn leaf_index(column: i64) -> Result<u32, Error> {
    u32::try_from(column).map_err(corrupt)
}

/// A window; every column null where an outer join found none.
#[derive(FromRow)]
pub(super) struct WindowRow {
    opened_after: Option<i64>,
    closed_at: Option<i64>,
    cursor: Option<i64>,
    gate: Option<i64>,
    joined_epoch: Option<i64>,
}

impl WindowRow {
    pub(super) fn window(self, group_id: GroupId) -> Result<Option<Window>, Error> {
        let Some(opened_after) = self.opened_after else { return Ok(None) };
        Ok(Some(Window {
            group_id,
            opened_after: Position(opened_after),
            closed_at: self.closed_at.map(Position),
            cursor: self.cursor.map(Position).ok_or_else(missing)?,
            gate: self.gate.map(Position).ok_or_else(missing)?,
            joined_epoch: self.joined_epoch.map(Epoch).ok_or_else(missing)?,
        }))
    }
}

/// A group whose row is locked, as it is to be written back.
pub(super) struct Locked {
    pub(super) group_id: GroupId,
    pub(super) handshake: Handshake,
    pub(super) generation: i64,
    pub(super) epoch: Epoch,
    pub(super) oldest_epoch: Epoch,
    pub(super) version: i64,
    pub(super) head: Position,
    pub(super) rolled_back: bool,
}

#[derive(FromRow)]
struct LockedRow {
    handshake: i16,
    generation: i64,
    epoch: i64,
    oldest_epoch: i64,
    version: i64,
    head: i64,
    rolled_back: bool,
}

/// Locks a group's row. What else is read under the lock needs a statement of its own, for a fresh snapshot.
pub(super) async fn lock(tx: &mut PgConnection, group_id: GroupId) -> Result<Option<Locked>, Error> {
    let row: Option<LockedRow> = sqlx::query_as(
        "SELECT handshake, generation, epoch, oldest_epoch, version, head, rolled_back FROM groups \
         WHERE group_id = $1 FOR UPDATE",
    )
    .bind(group_id.uuid())
    .fetch_optional(tx)
    .await?;
    let locked = |row: LockedRow| {
        Ok(Locked {
            group_id,
            handshake: handshake(row.handshake)?,
            generation: row.generation,
            epoch: Epoch(row.epoch),
            oldest_epoch: Epoch(row.oldest_epoch),
            version: row.version,
            head: Position(row.head),
            rolled_back: row.rolled_back,
        })
    };
    row.map(locked).transpose()
}

impl Locked {
    /// Whether it is an MLS group.
    pub(super) const fn is_mls(&self) -> bool {
        match self.handshake {
            Handshake::Public | Handshake::Private => true,
            Handshake::None => false,
        }
    }

    /// Gives the next position.
    pub(super) fn next_position(&mut self) -> Position {
        self.head = self.head.next();
        self.head
    }

    /// Writes the row back, with the next version.
    pub(super) async fn write(&self, tx: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "UPDATE groups SET generation = $2, epoch = $3, oldest_epoch = $4, version = $5, head = $6, \
                rolled_back = $7 WHERE group_id = $1",
        )
        .bind(self.group_id.uuid())
        .bind(self.generation)
        .bind(self.epoch.0)
        .bind(self.oldest_epoch.0)
        .bind(self.version + 1)
        .bind(self.head.0)
        .bind(self.rolled_back)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// The role of a user in a group; none when it is not in it.
pub(super) async fn role_of(
    tx: &mut PgConnection,
    group: GroupId,
    user: UserId,
) -> Result<Option<Role>, Error> {
    let found: Option<i16> =
        sqlx::query_scalar("SELECT role FROM group_members WHERE group_id = $1 AND user_id = $2")
            .bind(group.uuid())
            .bind(user.uuid())
            .fetch_optional(tx)
            .await?;
    found.map(role).transpose()
}

/// Whether a device has a window that has not ended.
pub(super) async fn may_write(
    tx: &mut PgConnection,
    group: GroupId,
    device: DeviceNo,
) -> Result<bool, Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM group_windows \
            WHERE group_id = $1 AND device_no = $2 AND closed_at IS NULL)",
    )
    .bind(group.uuid())
    .bind(device.0)
    .fetch_one(tx)
    .await
}

/// What an act did, or why it did nothing: then it must roll back.
pub(super) type Admission<T> = Result<T, CannotAdd>;
