//! Columns of the tables of groups as domain values.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::super::rows::{self, corrupt};
use crate::domain::{
    CipherSuite, DeviceNo, EntryKind, Epoch, ExternalJoin, Group, GroupId, Handshake, LogEntry, MessageId,
    Position, Role, UserId, Window,
};

type Read<T> = Result<T, sqlx::Error>;

/// `SELECT` the columns of a group, and more, `FROM groups g` and more.
macro_rules! select_group {
    ($more:literal, $from:literal) => {
        concat!(
            "SELECT g.group_id, p.name, p.description, p.created_by, p.created_at, g.handshake, \
             g.external_join, g.cipher_suite, g.generation, g.epoch, g.oldest_epoch, g.head, g.rolled_back, \
             (SELECT count(*) FROM group_members c WHERE c.group_id = g.group_id) AS member_count",
            $more,
            " FROM groups g JOIN group_profiles p ON p.group_id = g.group_id ",
            $from
        )
    };
}
pub(super) use select_group;

pub(super) fn group_id(row: &SqliteRow) -> Read<GroupId> {
    row.try_get("group_id").map(GroupId::new)
}

pub(super) fn epoch(row: &SqliteRow, column: &str) -> Read<Epoch> {
    row.try_get(column).map(Epoch)
}

pub(super) fn role(row: &SqliteRow) -> Read<Role> {
    match row.try_get::<i64, _>("role")? {
        0 => Ok(Role::Member),
        1 => Ok(Role::Admin),
        2 => Ok(Role::Owner),
        _ => Err(corrupt("a role lies between 0 and 2")),
    }
}

fn handshake(number: i64) -> Read<Handshake> {
    match number {
        0 => Ok(Handshake::Public),
        1 => Ok(Handshake::Private),
        2 => Ok(Handshake::None),
        _ => Err(corrupt("a handshake lies between 0 and 2")),
    }
}

fn external_join(number: i64) -> Read<ExternalJoin> {
    match number {
        0 => Ok(ExternalJoin::None),
        1 => Ok(ExternalJoin::Resync),
        2 => Ok(ExternalJoin::Siblings),
        3 => Ok(ExternalJoin::Token),
        _ => Err(corrupt("an external join lies between 0 and 3")),
    }
}

fn kind(number: i64) -> Read<EntryKind> {
    match number {
        0 => Ok(EntryKind::Application),
        1 => Ok(EntryKind::Commit),
        2 => Ok(EntryKind::Proposal),
        3 => Ok(EntryKind::Membership),
        4 => Ok(EntryKind::Reset),
        _ => Err(corrupt("the kind of an entry lies between 0 and 4")),
    }
}

/// The columns of [`select_group`].
pub(super) fn group(row: &SqliteRow) -> Read<Group> {
    let suite: Option<i64> = row.try_get("cipher_suite")?;
    Ok(Group {
        group_id: group_id(row)?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        created_by: rows::user_id(row, "created_by")?,
        created_at: rows::timestamp(row, "created_at")?,
        member_count: rows::count(row.try_get("member_count")?),
        handshake: handshake(row.try_get("handshake")?)?,
        external_join: external_join(row.try_get("external_join")?)?,
        cipher_suite: suite.map(|number| rows::valid(CipherSuite::new(number))).transpose()?,
        generation: row.try_get("generation")?,
        epoch: epoch(row, "epoch")?,
        oldest_epoch: epoch(row, "oldest_epoch")?,
        head: rows::position(row, "head")?,
        rolled_back: row.try_get("rolled_back")?,
    })
}

/// A group and what only the store knows of it.
pub(super) struct Kept {
    pub(super) group: Group,
    /// See [`crate::store::Standing::version`].
    pub(super) version: i64,
    /// The device that made the group, and the digest of its request.
    pub(super) founding: (DeviceNo, [u8; 32]),
    /// The device that made this generation, and the digest of its request; none for the first.
    pub(super) reset: Option<(DeviceNo, [u8; 32])>,
    /// The position of the entry that began this generation; 0 for the first.
    pub(super) reset_at: Position,
    /// The position of the last membership entry; 0 when there was none.
    pub(super) changed_at: Position,
}

impl Kept {
    /// Whether it is an MLS group.
    pub(super) const fn is_mls(&self) -> bool {
        match self.group.handshake {
            Handshake::Public | Handshake::Private => true,
            Handshake::None => false,
        }
    }
}

pub(super) async fn find(conn: &mut SqliteConnection, group_id: GroupId) -> Read<Option<Kept>> {
    const FIND: &str = select_group!(
        ", g.version, p.founder_no, p.founding, p.reset_by, p.reset_digest, p.reset_at, p.changed_at",
        "WHERE g.group_id = ?"
    );
    sqlx::query(FIND)
        .bind(group_id.uuid())
        .try_map(|row: SqliteRow| {
            Ok(Kept {
                group: group(&row)?,
                version: row.try_get("version")?,
                founding: (rows::device_no(&row, "founder_no")?, rows::digest(row.try_get("founding")?)?),
                reset: reset(&row)?,
                reset_at: rows::position(&row, "reset_at")?,
                changed_at: rows::position(&row, "changed_at")?,
            })
        })
        .fetch_optional(conn)
        .await
}

fn reset(row: &SqliteRow) -> Read<Option<(DeviceNo, [u8; 32])>> {
    let Some(digest) = row.try_get::<Option<&[u8]>, _>("reset_digest")? else { return Ok(None) };
    Ok(Some((rows::device_no(row, "reset_by")?, rows::digest(digest)?)))
}

/// A group as an act left it.
pub(super) async fn get(conn: &mut SqliteConnection, group_id: GroupId) -> Read<Group> {
    let kept = find(conn, group_id).await?;
    Ok(kept.ok_or_else(|| corrupt("a group that was made is there"))?.group)
}

/// The role of a user in a group; none when there is no such group, too.
pub(super) async fn role_of(conn: &mut SqliteConnection, group: GroupId, user: UserId) -> Read<Option<Role>> {
    sqlx::query("SELECT role FROM group_members WHERE group_id = ? AND user_id = ?")
        .bind(group.uuid())
        .bind(user.uuid())
        .try_map(|row: SqliteRow| role(&row))
        .fetch_optional(conn)
        .await
}

pub(super) fn window(row: &SqliteRow) -> Read<Window> {
    Ok(Window {
        group_id: group_id(row)?,
        opened_after: rows::position(row, "opened_after")?,
        closed_at: row.try_get::<Option<i64>, _>("closed_at")?.map(Position),
        cursor: rows::position(row, "cursor")?,
        gate: rows::position(row, "gate")?,
        joined_epoch: epoch(row, "joined_epoch")?,
    })
}

/// An entry; `device_id` is the sender's. Its body is left out where the statement left it out.
pub(super) fn entry(row: &SqliteRow) -> Read<LogEntry> {
    let message_type: Option<i64> = row.try_get("message_type")?;
    let body: Option<&[u8]> = row.try_get("body")?;
    Ok(LogEntry {
        group_id: group_id(row)?,
        position: rows::position(row, "position")?,
        kind: kind(row.try_get("kind")?)?,
        message_id: MessageId::new(row.try_get("message_id")?),
        sender_id: rows::user_id(row, "sender_id")?,
        sender_device_id: rows::device_id(row, "device_id")?,
        message_type: message_type.map(|_| rows::message_type(row)).transpose()?,
        epoch: epoch(row, "epoch")?,
        body: body.map(Bytes::copy_from_slice),
        accepted_at: rows::timestamp(row, "accepted_at")?,
        expires_at: rows::optional_timestamp(row, "expires_at")?,
        closes: closes(row)?,
    })
}

/// The `closes` column: a JSON array of device numbers, or null.
fn closes(row: &SqliteRow) -> Read<Arc<[DeviceNo]>> {
    let Some(text) = row.try_get::<Option<&str>, _>("closes")? else { return Ok(Arc::default()) };
    let numbers: Vec<i64> =
        serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(numbers.into_iter().map(DeviceNo).collect())
}

/// The `leaf_index` column; none where the relay does not know it.
pub(super) fn leaf_index(row: &SqliteRow) -> Read<Option<u32>> {
    let index: Option<i64> = row.try_get("leaf_index")?;
    index.map(|index| u32::try_from(index).map_err(|_| corrupt("a leaf has an index of 32 bits"))).transpose()
}
