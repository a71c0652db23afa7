//! The data folder: its permissions, its lock, and the connections to the database in it.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::store::StoreError;

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("./migrations/sqlite");

pub(super) const DATABASE: &str = "restante.db";
const LOCK: &str = "restante.lock";
const READERS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a checkpoint waits for readers, while no act can write: a backup reads for long, and the next round of expiry
/// tries again.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(250);

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
enum FolderError {
    #[error("the data folder is in use by another relay")]
    InUse,
    #[error("the data folder cannot be used")]
    Unusable(#[source] io::Error),
    #[error("the database in the data folder cannot be opened")]
    Database(#[source] sqlx::Error),
    #[error("the database in the data folder cannot be migrated")]
    Schema(#[source] MigrateError),
}

impl From<FolderError> for StoreError {
    fn from(error: FolderError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A data folder that belongs to this process until it is dropped or closed.
pub(super) struct Folder {
    lock: File,
    /// One connection, for every act that writes.
    pub(super) writer: SqlitePool,
    /// Connections that cannot write.
    pub(super) readers: SqlitePool,
}

impl Folder {
    /// Makes the folder if it is missing, takes its lock, opens the database and brings its schema up to date.
    pub(super) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let lock = take(folder)?;
        let path = folder.join(DATABASE);
        private_file(&path).map_err(FolderError::Unusable)?;
        let writer = pool(1).connect_with(writing(&path)).await.map_err(FolderError::Database)?;
        MIGRATOR.run(&writer).await.map_err(FolderError::Schema)?;
        let readers = pool(READERS).connect_with(reading(&path)).await.map_err(FolderError::Database)?;
        Ok(Self { lock, writer, readers })
    }

    /// Waits for running acts, closes the connections and gives the folder back.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the data folder's lock could not be given back");
        }
    }
}

fn take(folder: &Path) -> Result<File, FolderError> {
    make_private(folder).map_err(FolderError::Unusable)?;
    let lock = private_file(&folder.join(LOCK)).map_err(FolderError::Unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse),
        Err(TryLockError::Error(error)) => Err(FolderError::Unusable(error)),
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

pub(super) fn writing(path: &PathBuf) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(PATIENCE)
        // Erased bodies are overwritten, and the write-ahead log, where copies of them lie, is cut short.
        .pragma("secure_delete", "ON")
        .pragma("journal_size_limit", "67108864")
}

/// Moves what was committed into the database file and cuts the log, unless somebody reads it for long.
pub(super) async fn checkpoint(writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    busy_timeout(writer, CHECKPOINT_PATIENCE).await?;
    let done = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *writer).await;
    busy_timeout(writer, PATIENCE).await?;
    done.map(drop)
}

async fn busy_timeout(writer: &mut SqliteConnection, patience: Duration) -> Result<(), sqlx::Error> {
    let set = format!("PRAGMA busy_timeout = {}", patience.as_millis());
    sqlx::query(AssertSqlSafe(set)).execute(writer).await.map(drop)
}

pub(super) fn reading(path: &PathBuf) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(PATIENCE)
}

/// Makes the folder, for its owner alone, if it is missing.
pub(super) fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a file that only its owner may read, and makes it if it is missing.
fn private_file(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().create(true).truncate(false))
}

/// Makes a file that only its owner may read; it must not be there.
pub(super) fn new_private_file(path: &Path) -> io::Result<File> {
    open_private(path, OpenOptions::new().create_new(true))
}

fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}
