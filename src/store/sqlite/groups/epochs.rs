//! The epochs of MLS groups: their commits, states and trees.

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{super::rows, rows as columns};
use crate::{
    domain::{DeviceNo, Epoch, GroupId, Position, Timestamp},
    store::{EpochState, StoredCommit},
};

/// An epoch of a group's generation.
#[derive(Clone, Copy)]
pub(super) struct Of {
    pub(super) group: GroupId,
    pub(super) generation: i64,
    pub(super) epoch: Epoch,
}

/// What `kept_from` of the current epoch's tree is, so that expiry does not come by it.
const CURRENT: i64 = i64::MAX;

/// Keeps the state of an epoch in place of the former one, whose tree is kept from now on for its time. `joined`: whether somebody joins at it by a Welcome.
pub(super) async fn open(
    tx: &mut SqliteConnection,
    of: Of,
    state: &EpochState,
    joined: bool,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO mls_group_states (group_id, digest, state, group_info) VALUES (?, ?, ?, ?) \
         ON CONFLICT (group_id) DO UPDATE SET digest = excluded.digest, state = excluded.state, \
         group_info = excluded.group_info",
    )
    .bind(of.group.uuid())
    .bind(state.state.as_ref().map(|state| blake3::hash(state).as_bytes().to_vec()))
    .bind(state.state.as_ref().map(|state| state.to_vec()))
    .bind(state.group_info.to_vec())
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM group_trees WHERE group_id = ? AND NOT joined")
        .bind(of.group.uuid())
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE group_trees SET kept_from = ? WHERE group_id = ? AND kept_from = ?")
        .bind(now.millis())
        .bind(of.group.uuid())
        .bind(CURRENT)
        .execute(&mut *tx)
        .await?;
    let Some(tree) = &state.tree else { return Ok(()) };
    sqlx::query(
        "INSERT INTO group_trees (group_id, generation, epoch, joined, tree, kept_from) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(of.group.uuid())
    .bind(of.generation)
    .bind(of.epoch.0)
    .bind(joined)
    .bind(tree.to_vec())
    .bind(CURRENT)
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes the commit that ended an epoch.
pub(super) async fn end(
    tx: &mut SqliteConnection,
    of: Of,
    sender: DeviceNo,
    digest: [u8; 32],
    position: Position,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO group_commits (group_id, generation, epoch, position, sender_no, digest) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(of.group.uuid())
    .bind(of.generation)
    .bind(of.epoch.0)
    .bind(position.0)
    .bind(sender.0)
    .bind(digest.to_vec())
    .execute(tx)
    .await?;
    Ok(())
}

/// The commit that ended an epoch.
pub(super) async fn commit(conn: &mut SqliteConnection, of: Of) -> Result<Option<StoredCommit>, sqlx::Error> {
    sqlx::query(
        "SELECT sender_no, digest, epoch, position FROM group_commits \
         WHERE group_id = ? AND generation = ? AND epoch = ?",
    )
    .bind(of.group.uuid())
    .bind(of.generation)
    .bind(of.epoch.0)
    .try_map(|row: SqliteRow| {
        Ok(StoredCommit {
            sender: rows::device_no(&row, "sender_no")?,
            digest: rows::digest(row.try_get("digest")?)?,
            epoch: columns::epoch(&row, "epoch")?,
            position: rows::position(&row, "position")?,
        })
    })
    .fetch_optional(conn)
    .await
}

/// The state of the current epoch, if it is the one with this digest.
pub(super) async fn state(
    conn: &mut SqliteConnection,
    group: GroupId,
    digest: [u8; 32],
) -> Result<Option<Bytes>, sqlx::Error> {
    sqlx::query("SELECT state FROM mls_group_states WHERE group_id = ? AND digest = ?")
        .bind(group.uuid())
        .bind(digest.to_vec())
        .try_map(|row: SqliteRow| Ok(Bytes::copy_from_slice(row.try_get("state")?)))
        .fetch_optional(conn)
        .await
}

/// The tree of an epoch, while it is kept.
pub(super) async fn tree(conn: &mut SqliteConnection, of: Of) -> Result<Option<Bytes>, sqlx::Error> {
    sqlx::query("SELECT tree FROM group_trees WHERE group_id = ? AND generation = ? AND epoch = ?")
        .bind(of.group.uuid())
        .bind(of.generation)
        .bind(of.epoch.0)
        .try_map(|row: SqliteRow| Ok(Bytes::copy_from_slice(row.try_get("tree")?)))
        .fetch_optional(conn)
        .await
}
