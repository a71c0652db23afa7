//! The composition root: picks the engines, builds the features, listens, runs the jobs, stops gracefully.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix_cors::Cors;
use actix_web::{
    App, HttpServer,
    dev::ServerHandle,
    http::KeepAlive,
    middleware::{Condition, from_fn},
    web,
};
use tokio::{task::JoinHandle, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa_actix_web::AppExt;

mod backup;
mod blocks;
mod figures;
mod parts;
mod secrets;

pub use backup::{AfterRestore, backup, newest_schema, restored};
pub use blocks::{Which, blocks, lift_blocks};
use parts::{Ground, Parts};
use secrets::Secrets;

use crate::{
    api,
    auth::{AdmissionFault, Admissions, Authority, Tokens, recognise},
    config::{AuthMode, Config},
    domain::{Clock, Pseudonyms},
    hot::{Hot, HotError, Sessions, Switchboard, local, redis::RedisHot},
    http::{Recognise, frame, guard, service::Health, unknown_path},
    jobs,
    queue::routes::SocketFloor,
    store::{self, Committed, Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore},
};

/// Batches of committed items that may wait for hot delivery.
const COMMITTED_BATCHES: usize = 256;

/// Bytes of committed items that may be on their way to hot delivery.
const COMMITTED_BYTES: usize = 64 << 20;

/// How long a silent head of a request is waited for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle HTTP connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Bytes that the kernel keeps for a peer that does not read (it doubles the figure for its own overhead). Left to itself
/// it keeps megabytes, which a session does not see and nobody bounds.
const SEND_BUFFER: usize = 256 << 10;

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
    /// A secret is not one: which, and why.
    #[error("{0}: {1}")]
    Secret(String, String),
    /// The host application's keys cannot be used.
    #[error("admission tokens cannot be checked: {0}")]
    Admission(#[from] AdmissionFault),
}

fn reason(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(source) => source.to_string(),
        StoreError::Overloaded => error.to_string(),
    }
}

/// A running relay.
pub struct Relay {
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    engines: String,
    health: web::Data<Health>,
    floor: web::Data<SocketFloor>,
    server: ServerHandle,
    serving: JoinHandle<io::Result<()>>,
    jobs: TaskTracker,
    stop_sockets: CancellationToken,
    stop_jobs: CancellationToken,
    patience: Duration,
}

/// Starts a relay.
///
/// # Errors
/// A [`StartError`] in words for the operator; nothing is left running.
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Relay, StartError> {
    let (committed, commits) = store::committed(COMMITTED_BATCHES, COMMITTED_BYTES);
    let secrets = Secrets::load(&config)?;
    let admissions = Admissions::new(&config.admission)?.map(Arc::new);
    let pseudonyms = Pseudonyms::new(secrets.key_for(b"audit pseudonyms"));
    let (store, store_name) = open_store(&config, committed, &clock, pseudonyms).await?;
    let sessions = Arc::new(Sessions::default());
    let (engine, engine_name) = open_hot(&config, &sessions)?;
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

    let (stop_sockets, stop_jobs, jobs) =
        (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    jobs.spawn(Arc::clone(&switchboard).carry(commits, stop_jobs.clone()));
    jobs.spawn(Arc::clone(&switchboard).tidy(stop_jobs.clone()));
    jobs.spawn(jobs::reconcile(Arc::clone(&store), Arc::clone(&switchboard), stop_jobs.clone()));
    jobs.spawn(jobs::follow_revocations(Arc::clone(&authority), Arc::clone(&switchboard), stop_jobs.clone()));
    jobs.spawn(jobs::keep_figures(stop_jobs.clone()));
    jobs.spawn(jobs::expire(Arc::clone(&store), Arc::clone(&clock), stop_jobs.clone()));

    if let Some(admissions) = admissions.clone() {
        jobs.spawn(admissions.follow(stop_jobs.clone()));
    }

    let ground = Ground { store: Arc::clone(&store), switchboard, clock, authority, admissions, secrets };
    let parts = Parts::new(&config, &ground, &stop_sockets);
    let (health, floor) = (parts.health.clone(), parts.floor.clone());
    let blocks = parts.blocks.clone().into_inner();
    if let Err(error) = blocks.read().await {
        stop_jobs.cancel();
        store.close().await;
        return Err(error.into());
    }
    jobs.spawn(blocks.follow(stop_jobs.clone()));
    jobs.spawn(Arc::clone(&parts.crowds).keep(stop_jobs.clone()));
    let patience = config.shutdown_timeout;
    let figures = config.metrics_address.map(figures::bind).transpose();
    let listening = figures.and_then(|figures| Ok((figures, listen(config, parts)?)));
    let (figures, (server, addresses)) = match listening {
        Ok(listening) => listening,
        Err(error) => {
            stop_jobs.cancel();
            store.close().await;
            return Err(error);
        }
    };
    let handle = server.handle();
    let metrics_address = figures.map(|(listener, address)| {
        jobs.spawn(figures::serve(listener, health.clone(), stop_jobs.clone()));
        address
    });
    Ok(Relay {
        addresses,
        metrics_address,
        engines: format!("store: {store_name}, hot state: {engine_name}"),
        health,
        floor,
        server: handle,
        serving: tokio::spawn(server),
        jobs,
        stop_sockets,
        stop_jobs,
        patience,
    })
}

impl Relay {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
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
    /// finished, what is being committed is committed; all of it within the shutdown timeout.
    ///
    /// # Errors
    /// When the listener failed.
    pub async fn run_until(mut self, asked: impl Future<Output = ()>) -> io::Result<()> {
        let failed = tokio::select! {
            ended = &mut self.serving => Some(ended),
            () = asked => None,
        };
        self.stop().await;
        match failed {
            Some(ended) => ended.map_err(io::Error::other)?,
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
        self.stop_jobs.cancel();
        self.jobs.close();
        if timeout_at(deadline, self.jobs.wait()).await.is_err() {
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

fn open_hot(config: &Config, sessions: &Arc<Sessions>) -> Result<(Arc<dyn Hot>, &'static str), HotError> {
    let doorbell = Arc::clone(sessions);
    Ok(match &config.redis_url {
        Some(url) => (Arc::new(RedisHot::connect(url, &config.redis_prefix, doorbell)?), "Redis"),
        None => (Arc::new(local::LocalHot::join(&local::LocalHub::new(), doorbell)), "in-process"),
    })
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

fn listen(config: Config, parts: Parts) -> Result<(actix_web::dev::Server, Vec<SocketAddr>), StartError> {
    let address = config.address();
    let (workers, patience) = (config.workers, config.shutdown_timeout.as_secs());
    // The kernel gives up a peer that takes nothing, some time after the session has.
    let stalled = config.socket.stall + Duration::from_secs(5);
    let config = web::Data::new(config);
    let known = web::Data::new(api::known_paths());
    let recognise = web::Data::new(Recognise(recognise));
    let document = web::Data::new(api::DocumentText(api::document_text()));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(config.clone())
            .app_data(known.clone())
            .app_data(document.clone())
            .app_data(parts.health.clone())
            .app_data(parts.floor.clone())
            .app_data(parts.authority.clone())
            .app_data(parts.logins.clone())
            .app_data(parts.address_budgets.clone())
            .app_data(parts.paces.clone())
            .app_data(parts.blocks.clone())
            .app_data(recognise.clone())
            .app_data(parts.keys.clone())
            .app_data(parts.messages.clone())
            .app_data(parts.groups.clone())
            .app_data(parts.queue.clone())
            // Inside of CORS, so that a page can read why it was refused.
            .wrap(from_fn(guard))
            .wrap(Condition::new(!config.cors_allowed_origins.is_empty(), cors(&config)))
            .wrap(from_fn(frame))
            .into_utoipa_app()
            .configure(api::routes)
            .into_app()
            .default_service(web::to(unknown_path))
    });
    let server = if workers > 0 { server.workers(workers) } else { server };
    let server = server
        .keep_alive(KeepAlive::Timeout(IDLE_TIMEOUT))
        .client_request_timeout(HEAD_TIMEOUT)
        .shutdown_timeout(patience)
        .tcp_nodelay(true)
        .disable_signals()
        .on_connect(move |connection, _| {
            if let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                let socket = socket2::SockRef::from(stream);
                let bound = socket
                    .set_tcp_user_timeout(Some(stalled))
                    .and_then(|()| socket.set_send_buffer_size(SEND_BUFFER));
                if let Err(error) = bound {
                    tracing::debug!(%error, "a connection keeps the system's own bounds");
                }
            }
        })
        .bind(address)
        .map_err(|error| StartError::Io(format!("cannot listen on {address}"), error))?;
    let addresses = server.addrs();
    Ok((server.run(), addresses))
}

fn cors(config: &Config) -> Cors {
    let allowed = config.cors_allowed_origins.iter();
    let cors = allowed.fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    cors.allowed_methods(["GET", "POST", "PUT", "DELETE"])
        .allowed_headers(["authorization", "content-type", "x-join-token"])
        .expose_headers(["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"])
        .max_age(3600)
        .block_on_origin_mismatch(false)
}
