//! What is kept of an MLS group's epochs: the current state, trees for joiners, and which commit opened which.

use bytes::Bytes;
use sqlx::{Error, PgConnection, PgPool};

use super::super::rows::{at, digest as digest_of};
use crate::{
    domain::{Caller, Epoch, GroupId, Position, Timestamp},
    store::{EpochState, StoredCommit},
};

/// An epoch's state with its digest, which is made before a transaction begins.
pub(super) struct Digested<'a> {
    epoch_state: &'a EpochState,
    digest: Option<[u8; 32]>,
}

impl<'a> Digested<'a> {
    pub(super) fn of(epoch_state: &'a EpochState) -> Self {
        let digest = epoch_state.state.as_deref().map(|state| blake3::hash(state).into());
        Self { epoch_state, digest }
    }
}

/// Puts this state in place of the former one. Of trees, those at which somebody joined stay, from now on for
/// their time; `joined` says whether somebody joins at this one.
pub(super) async fn write(
    tx: &mut PgConnection,
    group: GroupId,
    (generation, epoch): (i64, Epoch),
    state: &Digested<'_>,
    joined: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let Digested { epoch_state, digest } = state;
    sqlx::query(
        "INSERT INTO mls_group_states (group_id, digest, state, group_info) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (group_id) DO UPDATE SET digest = excluded.digest, state = excluded.state, \
            group_info = excluded.group_info",
    )
    .bind(group.uuid())
    .bind(digest.as_ref().map(<[u8; 32]>::as_slice))
    .bind(epoch_state.state.as_deref())
    .bind(&*epoch_state.group_info)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM group_trees WHERE group_id = $1 AND NOT joined")
        .bind(group.uuid())
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE group_trees SET kept_from = $2 WHERE group_id = $1 AND kept_from = 'infinity'")
        .bind(group.uuid())
        .bind(at(now))
        .execute(&mut *tx)
        .await?;
    let Some(tree) = &epoch_state.tree else { return Ok(()) };
    sqlx::query(
        "INSERT INTO group_trees (group_id, generation, epoch, joined, tree, kept_from) \
         VALUES ($1, $2, $3, $4, $5, 'infinity')",
    )
    .bind(group.uuid())
    .bind(generation)
    .bind(epoch.0)
    .bind(joined)
    .bind(&**tree)
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes which commit ended an epoch.
pub(super) async fn note_commit(
    tx: &mut PgConnection,
    group: GroupId,
    (generation, epoch): (i64, Epoch),
    (by, digest): (&Caller, [u8; 32]),
    position: Position,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO group_commits (group_id, generation, epoch, position, sender_no, digest) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(group.uuid())
    .bind(generation)
    .bind(epoch.0)
    .bind(position.0)
    .bind(by.device_no.0)
    .bind(digest.as_slice())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn commit_of(
    executor: impl sqlx::PgExecutor<'_>,
    group: GroupId,
    generation: i64,
    epoch: Epoch,
) -> Result<Option<StoredCommit>, Error> {
    let row: Option<(i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT sender_no, digest, position FROM group_commits \
         WHERE group_id = $1 AND generation = $2 AND epoch = $3",
    )
    .bind(group.uuid())
    .bind(generation)
    .bind(epoch.0)
    .fetch_optional(executor)
    .await?;
    let commit = |(sender, digest, position): (i64, Vec<u8>, i64)| {
        let sender = crate::domain::DeviceNo(sender);
        Ok(StoredCommit { sender, digest: digest_of(&digest)?, epoch, position: Position(position) })
    };
    row.map(commit).transpose()
}

pub(super) async fn state(pool: &PgPool, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, Error> {
    let state: Option<Option<Vec<u8>>> =
        sqlx::query_scalar("SELECT state FROM mls_group_states WHERE group_id = $1 AND digest = $2")
            .bind(group.uuid())
            .bind(digest.as_slice())
            .fetch_optional(pool)
            .await?;
    Ok(state.flatten().map(Bytes::from))
}

pub(super) async fn tree(
    pool: &PgPool,
    group: GroupId,
    generation: i64,
    epoch: Epoch,
) -> Result<Option<Bytes>, Error> {
    let tree: Option<Vec<u8>> = sqlx::query_scalar(
        "SELECT tree FROM group_trees WHERE group_id = $1 AND generation = $2 AND epoch = $3",
    )
    .bind(group.uuid())
    .bind(generation)
    .bind(epoch.0)
    .fetch_optional(pool)
    .await?;
    Ok(tree.map(Bytes::from))
}
