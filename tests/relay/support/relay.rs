//! Relays in this process, on either set of engines.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use restante::{
    app,
    config::Config,
    domain::{Clock, ManualClock, SystemClock},
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::{
    database::Database,
    engine::NOON,
    limits::{OTHERS, PACES, PLENTY},
    mothers,
};

/// Settings as a test writes them.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// What outlives a relay: its store, and where its hot state is. Made for one test.
pub struct Backend {
    folder: TempDir,
    production: Option<Production>,
    running: Mutex<Vec<Arc<Running>>>,
}

struct Production {
    database: Database,
    settings: BTreeMap<String, String>,
}

impl Backend {
    /// SQLite and in-process hot state.
    pub fn embedded() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), production: None, running: Mutex::default() }
    }

    /// Postgres and Redis; none, loudly, without servers to test against.
    pub async fn production() -> Option<Self> {
        let (Some(server), Ok(redis)) = (super::database::server(), std::env::var("RESTANTE_TEST_REDIS_URL"))
        else {
            eprintln!(
                "SKIPPED on Postgres and Redis: RESTANTE_TEST_DATABASE_URL or RESTANTE_TEST_REDIS_URL is not set"
            );
            return None;
        };
        let database = Database::make(&server).await;
        let settings = [
            ("DATABASE_URL", database.url()),
            ("REDIS_URL", redis),
            ("REDIS_PREFIX", format!("test-{}", Uuid::new_v4().simple())),
            ("MASTER_SECRET", STANDARD.encode(mothers::bytes::<32>())),
            ("TOKEN_SIGNING_KEY", STANDARD.encode(mothers::bytes::<32>())),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Self { production: Some(Production { database, settings }), ..Self::embedded() })
    }

    /// Whether several nodes can share it.
    pub fn is_production(&self) -> bool {
        self.production.is_some()
    }

    /// Its database, in production.
    pub fn database(&self) -> Option<&Database> {
        self.production.as_ref().map(|production| &production.database)
    }

    /// The data folder; empty in production.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Everything a relay on this backend is told, a test's own settings last.
    pub fn settings(&self, own: Settings<'_>) -> BTreeMap<String, String> {
        let basic = [
            ("PORT", "0".to_owned()),
            ("WORKERS", "1".to_owned()),
            ("SHUTDOWN_TIMEOUT", "5".to_owned()),
            ("MAX_DB_CONNECTIONS", "6".to_owned()),
            ("DATA_DIR", self.folder.path().display().to_string()),
        ];
        // Every test device calls from one address and is younger than a day: tests of the limits set their own.
        let lifted = PACES.into_iter().chain(OTHERS);
        let mut all: BTreeMap<_, _> =
            basic.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        all.extend(lifted.map(|name| (name.to_owned(), PLENTY.to_owned())));
        all.extend(self.production.iter().flat_map(|production| production.settings.clone()));
        all.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    }

    /// A relay by the machine's clock.
    pub async fn relay(&self, settings: Settings<'_>) -> TestRelay {
        self.start(settings, Arc::new(SystemClock)).await
    }

    /// A relay whose clock stands at [`NOON`] until it is moved.
    pub async fn relay_at_noon(&self, settings: Settings<'_>) -> (TestRelay, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(NOON));
        (self.start(settings, clock.clone()).await, clock)
    }

    /// Several nodes on the same store; production only.
    pub async fn cluster(&self, nodes: usize, settings: Settings<'_>) -> Vec<TestRelay> {
        assert!(self.is_production(), "an embedded relay has one node");
        let mut relays = Vec::new();
        for _ in 0..nodes {
            relays.push(self.relay(settings).await);
        }
        relays
    }

    pub async fn start(&self, settings: Settings<'_>, clock: Arc<dyn Clock>) -> TestRelay {
        let config = Config::from_vars(&BTreeMap::new(), &self.settings(settings)).unwrap();
        let relay = app::start(config, clock).await.unwrap_or_else(|error| panic!("not started: {error}"));
        let (address, metrics) = (relay.address(), relay.metrics_address());
        let (stop, asked) = oneshot::channel::<()>();
        let ended = tokio::spawn(relay.run_until(async {
            // A dropped sender asks as well.
            let _ = asked.await;
        }));
        let running = Arc::new(Running(Mutex::new(Some((stop, ended)))));
        self.running.lock().unwrap().push(Arc::clone(&running));
        TestRelay { address, metrics, running }
    }

    /// Stops what still runs.
    pub async fn finish(self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap());
        for relay in running {
            relay.stop().await.unwrap();
        }
    }
}

/// How to stop a relay and how to learn its end, until it was stopped.
type Stopper = (oneshot::Sender<()>, JoinHandle<io::Result<()>>);

struct Running(Mutex<Option<Stopper>>);

impl Running {
    async fn stop(&self) -> io::Result<()> {
        let Some((stop, ended)) = self.0.lock().unwrap().take() else { return Ok(()) };
        // A relay that failed by itself does not listen any more.
        let _ = stop.send(());
        timeout(Duration::from_secs(20), ended).await.expect("the relay stops in time").unwrap()
    }
}

/// A running relay.
pub struct TestRelay {
    pub address: SocketAddr,
    metrics: Option<SocketAddr>,
    running: Arc<Running>,
}

impl TestRelay {
    /// Its address as clients dial it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it tells its figures.
    pub fn metrics_url(&self) -> String {
        let address = self.metrics.expect("METRICS_ADDRESS is set");
        format!("http://{address}/metrics")
    }

    /// Its figures as Prometheus is told them.
    pub async fn metrics(&self) -> String {
        let page = reqwest::get(self.metrics_url()).await.unwrap();
        assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        page.text().await.unwrap()
    }

    /// Stops it gracefully and waits for the end.
    pub async fn stop(&self) {
        self.running.stop().await.unwrap();
    }
}

/// Runs each test function on a fresh backend of both sets of engines.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let backend = crate::support::relay::Backend::embedded();
                super::$test(&backend).await;
                backend.finish().await;
            })+
        }

        mod production {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some(backend) = crate::support::relay::Backend::production().await else { return };
                super::$test(&backend).await;
                backend.finish().await;
            })+
        }
    };
}
pub(crate) use on_both_backends;
