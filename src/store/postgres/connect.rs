//! Connections, and the schema they find.

use std::{
    io,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, Error, Executor, PgConnection, PgPool,
    migrate::{MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::fault::{answered, unavailable};
use crate::store::StoreError;

/// What every connection is told. The planner is held to index nested loops: over UNNEST arrays it guesses, and takes
/// sequential scans and hash joins over whole tables, which costs four times the time and grows with them. Where there
/// is no index, the price that forbids a sequential scan would set off the JIT compiler, which takes 100 ms for a
/// statement of 1 ms.
const SETTINGS: &str = "\
    SET default_transaction_isolation = 'read committed'; \
    SET statement_timeout = '10s'; \
    SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '15s'; \
    SET jit = off; \
    SET enable_seqscan = off; \
    SET enable_hashjoin = off; \
    SET enable_mergejoin = off; \
    SET enable_bitmapscan = off";

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens a pool for plain acts or for what is polled; the engine must be reachable.
pub(super) async fn pool(url: &SecretString, connections: u32) -> Result<PgPool, StoreError> {
    pooled(connections).connect_with(options(url)?).await.map_err(unavailable)
}

/// The one connection of a lane, made anew after any fault. No other act waits for it, and nothing is asked over it but
/// the batch: a lane finds out that it is dead by running the batch again.
pub(super) struct LaneConnection {
    options: PgConnectOptions,
    idle: Mutex<Option<PgConnection>>,
    closed: AtomicBool,
}

impl LaneConnection {
    /// A connection to be made when it is needed first.
    pub(super) fn new(url: &SecretString) -> Result<Self, StoreError> {
        Ok(Self { options: options(url)?, idle: Mutex::default(), closed: AtomicBool::new(false) })
    }

    /// Takes the connection. It is closed by being dropped, and kept by [`LaneConnection::keep`].
    pub(super) async fn take(&self) -> Result<PgConnection, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::PoolClosed);
        }
        if let Some(connection) = self.lock().take() {
            return Ok(connection);
        }
        let mut connection = timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&self.options))
            .await
            .map_err(|_| Error::Io(io::ErrorKind::TimedOut.into()))??;
        connection.execute(SETTINGS).await?;
        Ok(connection)
    }

    /// Keeps a connection, whose last act was committed, for the next batch.
    pub(super) fn keep(&self, connection: PgConnection) {
        *self.lock() = Some(connection);
    }

    /// Refuses every later batch. One that runs is run to its end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pooled(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| Box::pin(answers(connection)))
        .after_connect(|connection, _| Box::pin(async move { connection.execute(SETTINGS).await.map(drop) }))
}

/// Whether a connection that is given back still answers. Without this bound one that fell silent keeps its place in the
/// pool, until none is left.
async fn answers(connection: &mut PgConnection) -> Result<bool, Error> {
    match timeout(ANSWER_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(Error::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// Brings the schema up to date, one node at a time. On a connection of its own, because a migration may take longer
/// than any act may.
pub(super) async fn migrate(url: &SecretString) -> Result<(), StoreError> {
    let mut connection = PgConnection::connect_with(&options(url)?).await.map_err(unavailable)?;
    migrator().run(&mut connection).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)
}

/// One connection for a short errand beside the relay.
pub(super) async fn alone(url: &SecretString) -> Result<PgConnection, StoreError> {
    let mut connection = timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&options(url)?))
        .await
        .map_err(unavailable)?
        .map_err(unavailable)?;
    connection.execute(SETTINGS).await.map_err(unavailable)?;
    Ok(connection)
}

/// Whether the engine answers and every migration that this relay knows is applied as it knows it.
pub(super) async fn check(pool: &PgPool) -> Result<(), StoreError> {
    let applied = "SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version";
    let applied: Vec<(i64, Vec<u8>)> =
        answered(sqlx::query_as(applied).fetch_all(pool)).await.map_err(unavailable)?;
    for known in migrator().iter().filter(|known| known.migration_type != MigrationType::ReversibleDown) {
        let matches =
            |(version, checksum): &(i64, Vec<u8>)| *version == known.version && **checksum == *known.checksum;
        if !applied.iter().any(matches) {
            return Err(unavailable("the schema is not the one this relay knows"));
        }
    }
    Ok(())
}

/// The embedded migrations. Later ones that an older relay does not know are left alone: schemas only grow.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/postgres");
    migrator.set_ignore_missing(true);
    migrator
}

pub(super) fn is_address(url: &SecretString) -> bool {
    options(url).is_ok()
}

fn options(url: &SecretString) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(unavailable)?;
    Ok(options.application_name("restante").disable_statement_logging())
}
