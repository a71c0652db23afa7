//! What a history is played on: relays, the lines between them and everybody else, and what goes wrong with them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use restante::domain::{Clock, SystemClock, Timestamp};
use tokio::{sync::Mutex, time::sleep};

use super::script::{Fault, Ground, Harm, Place, Trouble};
use crate::support::{
    faults::{PrivateRedis, authority, eventually, moved},
    limits::PACES,
    process::RelayProcess,
    proxy::{Line, Proxy},
    relay::{Backend, TestRelay},
};

/// The machine's clock, some time off.
#[derive(Debug, Default)]
pub(super) struct JumpingClock(AtomicI64);

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().millis() + self.0.load(Ordering::SeqCst))
    }
}

enum Program {
    Here(TestRelay),
    Process(RelayProcess),
}

/// A relay and its lines.
pub(super) struct Node {
    program: Mutex<Program>,
    settings: Vec<(&'static str, String)>,
    pub(super) clock: Arc<JumpingClock>,
    clients: Proxy,
    store: Option<Proxy>,
    hot: Option<Proxy>,
}

impl Node {
    /// Its address as clients dial it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.clients.address)
    }

    fn line(&self, place: Place) -> Option<&Proxy> {
        match place {
            Place::Clients => Some(&self.clients),
            Place::Store => self.store.as_ref(),
            Place::Hot => self.hot.as_ref(),
        }
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}

/// The relays of one ground; histories are played on it one after the other.
pub(super) struct World {
    pub(super) backend: Backend,
    pub(super) nodes: Vec<Node>,
    redis: Option<Mutex<PrivateRedis>>,
    /// How often a clock was moved.
    pub(super) jumps: AtomicUsize,
}

impl World {
    /// None, loudly, where there are no servers for it.
    pub(super) async fn make(ground: Ground) -> Option<Self> {
        let backend =
            if ground == Ground::Embedded { Backend::embedded() } else { Backend::production().await? };
        let redis = if backend.is_production() { Some(PrivateRedis::start().await?) } else { None };
        let mut nodes = Vec::new();
        for _ in 0..ground.nodes() {
            nodes.push(node(ground, &backend, redis.as_ref()).await);
        }
        Some(Self { backend, nodes, redis: redis.map(Mutex::new), jumps: AtomicUsize::new(0) })
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index % self.nodes.len()]
    }

    /// Every node's time: earliest, latest.
    pub(super) fn times(&self) -> (Timestamp, Timestamp) {
        let times = || self.nodes.iter().map(|node| node.clock.now());
        (times().min().unwrap(), times().max().unwrap())
    }

    /// A fault, from its beginning to its end.
    pub(super) async fn suffer(&self, trouble: &Trouble) {
        let lasts = Duration::from_millis(trouble.lasts);
        match trouble.fault {
            Fault::Line { node, place, harm } => {
                let Some(line) = self.node(node).line(place) else { return };
                harm_line(line, place, harm, lasts).await;
            }
            Fault::ConnectionsEnded => self.end_connections().await,
            Fault::Flushed => {
                if let Some(redis) = &self.redis {
                    redis.lock().await.flush_all().await;
                }
            }
            Fault::RedisKilled => {
                if let Some(redis) = &self.redis {
                    let mut redis = redis.lock().await;
                    redis.kill();
                    sleep(lasts).await;
                    redis.restart().await;
                }
            }
            Fault::Stopped { node } => self.restart(self.node(node), false, lasts).await,
            Fault::Killed { node } => self.restart(self.node(node), true, lasts).await,
            Fault::Clock { node, seconds } => {
                self.jumps.fetch_add(1, Ordering::SeqCst);
                self.node(node).clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
            }
        }
    }

    /// Postgres ends every connection of every node.
    async fn end_connections(&self) {
        let Some(database) = self.backend.database() else { return };
        database
            .on_server("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            .await;
    }

    /// Does something to every line to hot state, until the world is healed.
    pub(super) fn harm_hot_state(&self, harm: Harm) {
        for line in self.nodes.iter().filter_map(|node| node.hot.as_ref()) {
            line.turn(harm.line(Place::Hot));
        }
    }

    /// Passes nothing on that was swallowed in part.
    pub(super) async fn mend_hot_state(&self) {
        for line in self.nodes.iter().filter_map(|node| node.hot.as_ref()) {
            line.turn(Line::Cut);
            sleep(Duration::from_millis(20)).await;
            line.turn(Line::Open);
        }
    }

    /// Ends a node, by a signal or a kill, and brings it back.
    pub(super) async fn restart(&self, node: &Node, killed: bool, away: Duration) {
        let mut program = node.program.lock().await;
        match &mut *program {
            Program::Here(relay) => {
                relay.stop().await;
                sleep(away).await;
                *relay = self.backend.start(&node.settings(), node.clock.clone()).await;
                node.clients.lead_to(relay.address);
            }
            Program::Process(process) => {
                if killed {
                    process.kill().await;
                } else {
                    assert!(process.stop().await.success());
                }
                sleep(away).await;
                process.restart().await;
            }
        }
    }

    /// Repairs everything and waits until every node serves.
    pub(super) async fn heal(&self) {
        for node in &self.nodes {
            for place in [Place::Clients, Place::Store, Place::Hot] {
                if let Some(line) = node.line(place) {
                    line.turn(Line::Open);
                }
            }
            let ready = format!("{}/health/ready", node.url());
            eventually("a node is ready after the faults", Duration::from_secs(40), async || {
                reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
            })
            .await;
        }
    }

    /// Sets the clocks right again.
    pub(super) fn set_clocks(&self) {
        self.jumps.fetch_add(1, Ordering::SeqCst);
        for node in &self.nodes {
            node.clock.0.store(0, Ordering::SeqCst);
        }
    }
}

async fn node(ground: Ground, backend: &Backend, redis: Option<&PrivateRedis>) -> Node {
    let mut settings = vec![
        // Clocks jump by hours.
        ("ACCESS_TOKEN_TTL_SECONDS", "86400".to_owned()),
        ("WS_HEARTBEAT_INTERVAL", "1".to_owned()),
        ("WS_CLIENT_TIMEOUT", "3".to_owned()),
        ("MAX_DB_CONNECTIONS", "6".to_owned()),
        ("RUST_LOG", "error".to_owned()),
    ];
    // A node also counts by its own clock what it takes, and these clocks jump.
    settings.extend(PACES.map(|name| (name, "0".to_owned())));
    let (mut store, mut hot) = (None, None);
    if let (Some(database), Some(redis)) = (backend.database(), redis) {
        let to_store = Proxy::to(&authority(&database.url())).await;
        let to_hot = Proxy::to(&authority(&redis.url())).await;
        settings.push(("DATABASE_URL", moved(&database.url(), to_store.address)));
        settings.push(("REDIS_URL", moved(&redis.url(), to_hot.address)));
        (store, hot) = (Some(to_store), Some(to_hot));
    }
    let clock = Arc::<JumpingClock>::default();
    let told: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (program, address) = if ground == Ground::Processes {
        let process = RelayProcess::start(backend, &told).await;
        let address = process.address;
        (Program::Process(process), address)
    } else {
        let relay = backend.start(&told, clock.clone()).await;
        let address = relay.address;
        (Program::Here(relay), address)
    };
    let clients = Proxy::to(&address.to_string()).await;
    Node { program: Mutex::new(program), settings, clock, clients, store, hot }
}

impl Harm {
    /// What a line between these does then.
    fn line(self, place: Place) -> Line {
        match self {
            Self::Cut => Line::Cut,
            Self::Swallows => Line::Swallows,
            Self::Late => Line::Late(Duration::from_millis(15)),
            // Of the store's answers only those to a commit leave it open whether something happened.
            Self::Unanswered if matches!(place, Place::Store) => Line::Unanswered(b"COMMIT"),
            Self::Unanswered => Line::Unanswered(b""),
        }
    }
}

async fn harm_line(line: &Proxy, place: Place, harm: Harm, lasts: Duration) {
    line.turn(harm.line(place));
    sleep(lasts).await;
    if matches!(harm, Harm::Swallows) {
        // What was swallowed is missing: these connections cannot go on.
        line.turn(Line::Cut);
        sleep(Duration::from_millis(20)).await;
    }
    line.turn(Line::Open);
}
