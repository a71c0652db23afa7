//! The composition root: picks the engines, builds the features, listens, runs the jobs, stops gracefully.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix_server::ServerHandle;
use actix_web::web;
use tokio::{task::JoinHandle, time::timeout_at};
use tokio_util::sync::CancellationToken;

mod backup;
mod blocks;
mod crew;
mod figures;
mod files;
mod listen;
mod outfit;
mod parts;
mod secrets;

pub use backup::{AfterRestore, backup, newest_schema, restored};
pub use blocks::{Which, blocks, lift_blocks};
use crew::Crew;
pub use files::{TooFewFiles, allow_open_files, too_few_files};
use listen::listen;
pub use outfit::Outfit;
use parts::{Ground, Parts};
use secrets::Secrets;

use crate::{
    auth::{Authority, Tokens},
    config::{AuthMode, Config, Faults, Reading},
    domain::{Clock, Pseudonyms},
    hot::{Hot, HotError, Sessions, Switchboard, local, redis::RedisHot},
    http::{metrics::Guard, service::Health},
    jobs,
    queue::routes::SocketFloor,
    store::{self, Committed, Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore},
};

/// Batches of committed items that may wait for hot delivery.
const COMMITTED_BATCHES: usize = 256;

/// Bytes of committed items that may be on their way to hot delivery.
const COMMITTED_BYTES: usize = 64 << 20;

/// Why the relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be opened.
    #[error("the store cannot be opened: {}", reason(.0))]
    Store(#[from] StoreError),
    /// The hot engine's address cannot be used.
    #[error("hot state cannot be set up: {}", .0.0)]
    Hot(#[from] HotError),
    /// The address cannot be listened on, or the data folder cannot be used.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// What is asked for is done for the embedded store alone.
    #[error("DATABASE_URL chooses Postgres, which is copied by its own programs: use scripts/backup")]
    NotEmbedded,
    /// Something that every relay has is not where the settings say: what, and where.
    #[error("there is no {0} at {1}: run this with the relay's own settings")]
    NoRelay(&'static str, String),
    /// A secret is not one: which, and why.
    #[error("{0}: {1}")]
    Secret(String, String),
    /// What the settings name cannot be used.
    #[error(transparent)]
    Settings(#[from] Faults),
}

fn reason(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(source) => source.to_string(),
        StoreError::Overloaded => error.to_string(),
    }
}

/// A running relay.
pub struct Relay {
    address: SocketAddr,
    scheme: &'static str,
    metrics_address: Option<SocketAddr>,
    engines: String,
    health: web::Data<Health>,
    floor: web::Data<SocketFloor>,
    server: ServerHandle,
    serving: JoinHandle<io::Result<()>>,
    crew: Crew,
    stop_sockets: CancellationToken,
    patience: Duration,
}

/// Loads what the settings name, and starts a relay.
///
/// # Errors
/// As [`Outfit::load`] and [`start_with`].
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Relay, StartError> {
    start_with(Outfit::load(Reading::from(config))?, clock).await
}

/// Starts a relay.
///
/// # Errors
/// A [`StartError`] in words for the operator; nothing is left running.
pub async fn start_with(outfit: Outfit, clock: Arc<dyn Clock>) -> Result<Relay, StartError> {
    let Outfit { config, certificate, signing, admissions } = outfit;
    let (committed, commits) = store::committed(COMMITTED_BATCHES, COMMITTED_BYTES);
    let secrets = Secrets::load(&config, signing)?;
    let pseudonyms = Pseudonyms::new(secrets.key_for(b"audit pseudonyms"));
    let (store, store_name) = open_store(&config, committed, &clock, pseudonyms).await?;
    let sessions = Arc::new(Sessions::default());
    let (engine, engine_name) = open_hot(&config, &sessions, clock.as_ref())?;
    let switchboard = Switchboard::new(sessions, engine);
    let tokens = Tokens::new(&config.relay_name, &secrets.signing, config.access_token_life);
    let open = config.auth_mode == AuthMode::Open;
    let authority = match Authority::new(tokens, open, Arc::clone(&store), Arc::clone(&clock)).await {
        Ok(authority) => authority,
        Err(error) => {
            store.close().await;
            return Err(error.into());
        }
    };

    let (stop_sockets, crew) = (CancellationToken::new(), Crew::new());
    let stop = || crew.stop_signal();
    crew.spawn("carry", Arc::clone(&switchboard).carry(commits, stop()));
    crew.spawn("tidy", Arc::clone(&switchboard).tidy(stop()));
    crew.spawn("reconcile", jobs::reconcile(Arc::clone(&store), Arc::clone(&switchboard), stop()));
    let following = jobs::follow_revocations(Arc::clone(&authority), Arc::clone(&switchboard), stop());
    crew.spawn("revocations", following);
    crew.spawn("figures", jobs::keep_figures(stop()));
    crew.spawn("expire", jobs::expire(Arc::clone(&store), Arc::clone(&clock), stop()));
    if let Some(admissions) = admissions.clone() {
        crew.spawn("admissions", admissions.follow(stop()));
    }
    if let Some(certificate) = certificate.clone() {
        crew.spawn("certificate", certificate.follow(stop()));
    }

    let ground = Ground { store: Arc::clone(&store), switchboard, clock, authority, admissions, secrets };
    let parts = Parts::new(&config, &ground, &stop_sockets);
    let (health, floor) = (parts.health.clone(), parts.floor.clone());
    let blocks = parts.blocks.clone().into_inner();
    if let Err(error) = blocks.read().await {
        crew.stop();
        store.close().await;
        return Err(error.into());
    }
    crew.spawn("blocks", jobs::follow_blocks(blocks, stop()));
    crew.spawn("crowds", Arc::clone(&parts.crowds).keep(stop()));
    let patience = config.shutdown_timeout;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let figures = config.metrics_address.map(figures::bind).transpose();
    let guard = web::Data::new(Guard(config.metrics_token.clone()));
    let listening = figures.and_then(|figures| Ok((figures, listen(config, parts, certificate)?)));
    let (figures, (server, address)) = match listening {
        Ok(listening) => listening,
        Err(error) => {
            crew.stop();
            store.close().await;
            return Err(error);
        }
    };
    let handle = server.handle();
    let metrics_address = figures.map(|(listener, address)| {
        crew.spawn("metrics", figures::serve(listener, health.clone(), guard, crew.stop_signal()));
        address
    });
    Ok(Relay {
        address,
        scheme,
        metrics_address,
        engines: format!("store: {store_name}, hot state: {engine_name}"),
        health,
        floor,
        server: handle,
        serving: tokio::spawn(server),
        crew,
        stop_sockets,
        patience,
    })
}

impl Relay {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is dialled there: `https` or `http`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Where it tells its figures, if it does.
    #[must_use]
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Which engines it runs on, in words.
    #[must_use]
    pub fn engines(&self) -> &str {
        &self.engines
    }

    /// Runs until `asked` is ready, then stops gracefully: sockets get 1001 after the answers in flight, requests are
    /// finished, what is being committed is committed; all of it within the shutdown timeout. It stops by itself when it
    /// cannot go on whole: without the listener, or without one of its jobs.
    ///
    /// # Errors
    /// When it stopped by itself.
    pub async fn run_until(mut self, asked: impl Future<Output = ()>) -> io::Result<()> {
        let failed = tokio::select! {
            ended = &mut self.serving => Some(ended),
            () = self.crew.incomplete() => Some(Ok(Err(io::Error::other("a job of the relay ended by itself")))),
            () = asked => None,
        };
        self.stop().await;
        match failed {
            Some(ended) => ended.map_err(io::Error::from)?,
            None => Ok(()),
        }
    }

    async fn stop(&self) {
        tracing::info!("stopping");
        let deadline = tokio::time::Instant::now() + self.patience;
        self.health.draining.store(true, Ordering::SeqCst);
        self.stop_sockets.cancel();
        if timeout_at(deadline, self.floor.emptied()).await.is_err() {
            tracing::warn!("some sockets did not end in time");
        }
        if timeout_at(deadline, self.server.stop(true)).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        // Nobody asks any more. What was committed is handed to hot delivery before that closes.
        self.crew.stop();
        if timeout_at(deadline, self.crew.ended()).await.is_err() {
            tracing::warn!("hot delivery was cut off; the store has everything");
        }
        self.health.switchboard.engine().close().await;
        if timeout_at(deadline, self.health.store.close()).await.is_err() {
            tracing::warn!("the store did not close in time");
        }
        tracing::info!("stopped");
    }
}

async fn open_store(
    config: &Config,
    committed: Committed,
    clock: &Arc<dyn Clock>,
    pseudonyms: Pseudonyms,
) -> Result<(Arc<dyn Store>, String), StartError> {
    let limits = config.store_limits;
    if let Some(url) = &config.database_url {
        let (connections, clock) = (config.max_db_connections, Arc::clone(clock));
        let store = PostgresStore::connect(url, connections, limits, committed, clock, pseudonyms).await?;
        return Ok((Arc::new(store), "Postgres".to_owned()));
    }
    let store = SqliteStore::open(&config.data_dir, limits, committed, Arc::clone(clock), pseudonyms).await?;
    Ok((Arc::new(store), format!("SQLite in {}", config.data_dir.display())))
}

fn open_hot(
    config: &Config,
    sessions: &Arc<Sessions>,
    clock: &dyn Clock,
) -> Result<(Arc<dyn Hot>, &'static str), HotError> {
    let doorbell = Arc::clone(sessions);
    let Some(url) = &config.redis_url else {
        return Ok((Arc::new(local::LocalHot::join(&local::LocalHub::new(), doorbell)), "in-process"));
    };
    let redis = RedisHot::connect(url, &config.redis_prefix, doorbell)?;
    let redis = if clock.is_common() { redis.by_callers_time() } else { redis };
    Ok((Arc::new(redis), "Redis"))
}

/// Applies the migrations that are missing, and nothing else.
///
/// # Errors
/// When the store cannot be opened.
pub async fn migrate(config: &Config) -> Result<(), StartError> {
    match &config.database_url {
        Some(url) => PostgresStore::migrate(url).await?,
        None => SqliteStore::migrate(&config.data_dir).await?,
    }
    Ok(())
}
