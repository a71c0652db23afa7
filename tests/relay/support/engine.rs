//! Freshly made stores, each in a folder or database of its own.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use restante::{
    domain::{
        Caller, Clock as _, Delivery, DeviceNo, Item, ManualClock, Message, Position, Receipt, Send,
        Timestamp, UserId,
    },
    store::{
        Accepted, Committed, HistoryQuery, Left, Limits, Registered, Registration, Store, sqlite::SqliteStore,
    },
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::mothers::{self, LinkedRegistration};

/// Where tests begin: some noon in 2026.
pub const NOON: Timestamp = Timestamp::from_millis(1_780_000_000_000);

/// A store, the clock it accepts by, and what it emitted.
pub struct Engine {
    pub store: Arc<dyn Store>,
    pub clock: Arc<ManualClock>,
    committed: Mutex<mpsc::Receiver<Vec<Delivery>>>,
    pub folder: Option<TempDir>,
}

/// Limits that no test reaches by accident.
pub fn roomy() -> Limits {
    Limits {
        max_devices: 5,
        max_prekeys: 50,
        mailbox_items: 10_000,
        mailbox_items_per_sender: 1000,
        notice_life: Duration::from_hours(24),
    }
}

/// Limits that are reached soon.
pub fn tight() -> Limits {
    Limits { max_devices: 2, max_prekeys: 6, mailbox_items: 5, mailbox_items_per_sender: 3, ..roomy() }
}

/// The embedded engine in a folder of its own.
pub async fn sqlite(limits: Limits) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let (sender, committed) = mpsc::channel(10_000);
    let clock = Arc::new(ManualClock::at(NOON));
    let store = open_sqlite(folder.path(), limits, sender, Arc::clone(&clock)).await;
    Engine { store, clock, committed: Mutex::new(committed), folder: Some(folder) }
}

pub async fn open_sqlite(
    folder: &Path,
    limits: Limits,
    committed: Committed,
    clock: Arc<ManualClock>,
) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(folder, limits, committed, clock).await.unwrap())
}

impl Engine {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// Everything emitted for hot delivery since the last call.
    pub fn emitted(&self) -> Vec<Delivery> {
        let mut committed = self.committed.lock().unwrap();
        let mut deliveries = Vec::new();
        while let Ok(batch) = committed.try_recv() {
            deliveries.extend(batch);
        }
        deliveries
    }

    pub async fn try_register(&self, registration: Registration) -> Registered {
        self.store.register_device(registration, self.now()).await.unwrap()
    }

    /// A registered device.
    pub async fn register(&self, registration: Registration) -> Caller {
        match self.try_register(registration).await {
            Registered::Registered(caller) => caller,
            refused => panic!("not registered: {refused:?}"),
        }
    }

    /// The only device of a new user.
    pub async fn newcomer(&self) -> Caller {
        self.register(mothers::registration(mothers::user(), "phone")).await
    }

    /// A further device of a user, linked by `by`.
    pub async fn link(&self, by: &Caller, device: &str) -> Caller {
        let LinkedRegistration { offer, registration } = mothers::linked(by, device, self.now());
        assert!(self.store.offer_link(offer, self.now()).await.unwrap());
        self.register(registration).await
    }

    pub async fn accept(&self, send: Send) -> Accepted {
        self.store.accept_envelopes(send).await.unwrap()
    }

    /// The receipt of a send that must be stored.
    pub async fn stored(&self, send: Send) -> Receipt {
        match self.accept(send).await {
            Accepted::Stored(receipt) => receipt,
            refused => panic!("not stored: {refused:?}"),
        }
    }

    pub async fn left(&self, device: DeviceNo) -> Left {
        self.store.mailbox_left(device, Position::START, 100_000, self.now()).await.unwrap()
    }

    /// The positions left in a mailbox.
    pub async fn positions(&self, device: DeviceNo) -> Vec<i64> {
        self.left(device).await.positions.into_iter().map(|position| position.0).collect()
    }

    /// The items left in a mailbox.
    pub async fn items(&self, device: DeviceNo) -> Vec<(Position, Item)> {
        let positions = self.left(device).await.positions;
        self.store.mailbox_items(device, &positions, self.now()).await.unwrap()
    }

    pub async fn ack(&self, device: DeviceNo, positions: &[i64]) -> u32 {
        self.store.ack(device, positions.iter().copied().map(Position).collect()).await.unwrap()
    }

    pub async fn ack_all(&self, device: DeviceNo) {
        let positions = self.left(device).await.positions;
        self.store.ack(device, positions).await.unwrap();
    }

    /// The whole history of two users as one of their devices sees it.
    pub async fn history(&self, viewer: &Caller, other: UserId) -> Option<Vec<Message>> {
        let query = HistoryQuery {
            user_id: viewer.user_id,
            device_no: viewer.device_no,
            conversation_id: mothers::conversation(viewer.user_id, other),
            before: None,
            limit: 100,
        };
        self.store.history(query, self.now()).await.unwrap()
    }

    /// Expires until there is nothing to do.
    pub async fn expire_all(&self) {
        for _ in 0..10 {
            self.store.expire(self.now(), 1000).await.unwrap();
        }
    }
}

/// Postgres, in a database made for one test.
pub mod postgres {
    use super::{Engine, Limits};

    /// None, loudly, without a server to test against.
    pub async fn make(_limits: Limits) -> Option<(Engine, Database)> {
        if std::env::var_os("RESTANTE_TEST_DATABASE_URL").is_none() {
            eprintln!("SKIPPED on postgres: RESTANTE_TEST_DATABASE_URL is not set");
            return None;
        }
        eprintln!("SKIPPED on postgres: the engine is not there yet");
        None
    }

    /// A database to be dropped after its test.
    pub struct Database;

    impl Database {
        pub async fn drop(self) {}
    }
}

/// Runs each test function on a fresh store of both engines.
macro_rules! on_both_engines {
    ($limits:ident => $($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::support::engine::sqlite(crate::support::engine::$limits()).await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some((engine, database)) = crate::support::engine::postgres::make(crate::support::engine::$limits()).await else {
                    return;
                };
                let result = tokio::spawn(super::$test(engine)).await;
                database.drop().await;
                result.unwrap();
            })+
        }
    };
}
pub(crate) use on_both_engines;
