//! The embedded engine: one `SQLite` database in the data folder, for a relay of one process.
//!
//! Every act that writes runs alone, on the one writing connection and under `BEGIN IMMEDIATE`, and in a task of its
//! own, so that dropping the caller's future leaves no transaction open. Reads use other connections and see what was
//! committed before they began. A commit is on the disk when it returns.

mod accept;
mod acts;
mod audit;
mod backup;
mod blocks;
mod bundles;
mod delete;
mod devices;
mod expire;
mod folder;
mod groups;
mod history;
mod keys;
mod ledger;
mod links;
mod mailbox;
mod mls_keys;
mod notices;
mod packages;
mod recovery;
mod register;
mod restore;
mod revocations;
mod rows;
mod sessions;
#[cfg(test)]
mod tests;
mod used;

use std::{io, path::Path, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{Connection as _, SqliteConnection};

use self::{
    accept::{Acceptance, EntryAcks, ItemAcks},
    folder::Folder,
    groups::GroupAcceptance,
};
use super::{
    Accepted, Committed, GroupAccepted, Limits, StoreError,
    ack::{EntryAck, ItemAck},
    lane::{Bounds, Lane},
};
use crate::domain::{Block, Clock, Delivery, GroupSend, LogEntry, NetworkKey, Pseudonyms, Send, Timestamp};

const BEGIN: &str = "BEGIN IMMEDIATE";

/// Rows of one INSERT: `SQLite` binds at most 32,766 values.
const ROWS_AT_ONCE: usize = 1000;

const SENDS: Bounds = Bounds { items: 4096, bytes: 64 << 20, batch: 256 };
const ACKS: Bounds = Bounds { items: 4096, bytes: 64 << 20, batch: 256 };
const GROUP_SENDS: Bounds = Bounds { items: 4096, bytes: 64 << 20, batch: 256 };

/// What a writing act hands back: its outcome and what it committed for hot delivery.
type Act<'c, T, E> = BoxFuture<'c, Result<(T, E), sqlx::Error>>;

/// What an act committed for hot delivery.
#[derive(Default)]
struct Emitted {
    items: Vec<Delivery>,
    entries: Vec<Arc<LogEntry>>,
}

impl From<Vec<Delivery>> for Emitted {
    fn from(items: Vec<Delivery>) -> Self {
        Self { items, entries: Vec::new() }
    }
}

/// What acts need besides what they are asked.
#[derive(Clone)]
struct Context {
    limits: Limits,
    pseudonyms: Pseudonyms,
    now: Timestamp,
}

/// The durable store in a data folder.
pub struct SqliteStore {
    pseudonyms: Pseudonyms,
    folder: Folder,
    limits: Limits,
    committed: Committed,
    sends: Lane<Send, Accepted>,
    acks: Lane<ItemAck, u32>,
    group_sends: Lane<GroupSend, GroupAccepted>,
    group_acks: Lane<EntryAck, ()>,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made if it is missing and belongs to this process from now on, and brings
    /// its schema up to date. Sends are accepted at the time of `clock`; security events are entered under `pseudonyms`.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// When the folder or the database in it cannot be used, or another relay uses it.
    pub async fn open(
        folder: &Path,
        limits: Limits,
        committed: Committed,
        clock: Arc<dyn Clock>,
        pseudonyms: Pseudonyms,
    ) -> Result<Self, StoreError> {
        let folder = Folder::open(folder).await?;
        let writer = folder.writer.clone();
        let acceptance = Acceptance {
            writer: writer.clone(),
            limits,
            committed: committed.clone(),
            clock: Arc::clone(&clock),
        };
        let group_acceptance = GroupAcceptance {
            writer: writer.clone(),
            committed: committed.clone(),
            clock: Arc::clone(&clock),
        };
        Ok(Self {
            pseudonyms,
            folder,
            limits,
            committed,
            sends: Lane::start("sends", SENDS, acceptance),
            acks: Lane::start("acks", ACKS, ItemAcks { writer: writer.clone() }),
            group_sends: Lane::start("group sends", GROUP_SENDS, group_acceptance),
            group_acks: Lane::start("group acks", ACKS, EntryAcks { writer }),
        })
    }

    /// Brings the schema of the database in `folder` up to date, and nothing else.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn migrate(folder: &Path) -> Result<(), StoreError> {
        Folder::open(folder).await?.close().await;
        Ok(())
    }

    /// Copies the database in `folder` to a new file, for its owner alone, as of one moment and without what was erased;
    /// tells the copy's schema. A relay may serve the folder meanwhile.
    ///
    /// # Errors
    /// When there is no database, the file exists, or the copy cannot be made.
    pub async fn backup(folder: &Path, file: &Path) -> Result<i64, StoreError> {
        backup::copy(folder, file).await
    }

    /// The blocks of the database in `folder` that have not ended at `now`. A relay may serve the folder meanwhile.
    ///
    /// # Errors
    /// When there is no database, or it is of an older schema.
    pub async fn blocks_beside(folder: &Path, now: Timestamp) -> Result<Vec<Block>, StoreError> {
        blocks::present_beside(folder, now).await
    }

    /// Ends and forgets the block of one network, or all, and tells how many there were. A relay may serve the folder
    /// meanwhile, and learns of it within seconds.
    ///
    /// # Errors
    /// As [`SqliteStore::blocks_beside`].
    pub async fn lift_blocks_beside(folder: &Path, network: Option<NetworkKey>) -> Result<u64, StoreError> {
        blocks::lift_beside(folder, network).await
    }

    /// The newest schema that this relay knows; both engines number theirs alike.
    #[must_use]
    pub fn newest_schema() -> i64 {
        folder::MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default()
    }

    /// Whether there is a database in `folder`.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(folder::DATABASE).is_file()
    }

    /// Makes the folder, for its owner alone, if it is missing: for whoever keeps something in it before the store is
    /// opened. Takes no lock.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn make_folder(folder: &Path) -> io::Result<()> {
        folder::make_private(folder)
    }

    fn context(&self, now: Timestamp) -> Context {
        Context { limits: self.limits, pseudonyms: self.pseudonyms.clone(), now }
    }

    /// Runs a writing act to its end, whatever becomes of the caller, and emits what it committed in commit order.
    async fn write_and_emit<T, E, F>(&self, act: F) -> Result<T, StoreError>
    where
        T: std::marker::Send + 'static,
        E: Into<Emitted> + std::marker::Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Act<'c, T, E> + std::marker::Send + 'static,
    {
        let (pool, committed) = (self.folder.writer.clone(), self.committed.clone());
        let run = async move {
            let mut writer = pool.acquire().await?;
            let mut tx = writer.begin_with(BEGIN).await?;
            let (outcome, emitted) = act(&mut tx).await?;
            tx.commit().await?;
            let Emitted { items, entries } = emitted.into();
            committed.hand_over_all(items, entries);
            Ok::<_, sqlx::Error>(outcome)
        };
        match tokio::spawn(run).await {
            Ok(done) => done.map_err(unavailable),
            // Without the words of a panic, which may hold what a client sent.
            Err(ended) => Err(unavailable(io::Error::from(ended))),
        }
    }

    async fn write<T, F>(&self, act: F) -> Result<T, StoreError>
    where
        T: std::marker::Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + std::marker::Send
            + 'static,
    {
        self.write_and_emit(move |tx| {
            act(tx).map(|outcome| outcome.map(|done| (done, Emitted::default()))).boxed()
        })
        .await
    }

    async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        let mut reader = self.folder.readers.acquire().await.map_err(unavailable)?;
        look(&mut reader).await.map_err(unavailable)
    }

    /// Reads in several statements, all as of one moment.
    async fn look<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        let mut reader = self.folder.readers.acquire().await.map_err(unavailable)?;
        let mut moment = reader.begin().await.map_err(unavailable)?;
        let found = look(&mut moment).await.map_err(unavailable)?;
        moment.commit().await.map_err(unavailable)?;
        Ok(found)
    }

    /// Moves what was committed into the database file and cuts the log, so that no erased body lingers there.
    async fn checkpoint(&self) -> Result<(), StoreError> {
        let mut writer = self.folder.writer.acquire().await.map_err(unavailable)?;
        folder::checkpoint(&mut writer).await.map_err(unavailable)
    }
}

fn unavailable(error: impl Into<Box<dyn std::error::Error + std::marker::Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}
