//! Freshly made stores, each in a folder or database of its own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use restante::{
    domain::{
        AuditEntry, Batch, Caller, Clock as _, Delivery, DeviceNo, Item, ListedDevice, LogEntry, ManualClock,
        Message, Position, Pseudonyms, Receipt, Send, Timestamp, UserId,
    },
    store::{
        Accepted, Committed, Deactivated, HistoryQuery, Left, Limits, Registered, Registration, Revocation,
        Session, Store, sqlite::SqliteStore,
    },
};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::mothers::{self, LinkedRegistration};

/// Where tests begin: some noon in 2026.
pub(crate) const NOON: Timestamp = Timestamp::from_millis(1_780_000_000_000);

/// A store, the clock it accepts by, and what it emitted.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    deliveries: Mutex<mpsc::Receiver<Batch>>,
    /// Where the embedded engine lies.
    pub(crate) folder: Option<TempDir>,
    /// Where the database of the other one is.
    pub(crate) url: Option<SecretString>,
}

/// The names that users have in the audit trail of every test.
pub(crate) fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new([7; 32])
}

/// Limits that no test reaches by accident.
pub(crate) fn roomy() -> Limits {
    Limits {
        max_devices: 5,
        max_prekeys: 50,
        mailbox_items: 10_000,
        mailbox_items_per_sender: 1000,
        notice_life: Duration::from_hours(24),
        max_members: 1_500,
        max_groups: 2_000,
        past_epochs: 2,
    }
}

/// Limits that are reached soon.
pub(crate) fn tight() -> Limits {
    Limits { max_devices: 2, max_prekeys: 6, mailbox_items: 5, mailbox_items_per_sender: 3, ..roomy() }
}

/// Two groups for each user.
pub(crate) fn sparing() -> Limits {
    Limits { max_groups: 2, ..roomy() }
}

/// What a store is made with, and the ends of it that a test holds.
pub(crate) struct Parts {
    pub(crate) committed: Committed,
    pub(crate) clock: Arc<ManualClock>,
    deliveries: mpsc::Receiver<Batch>,
}

impl Parts {
    pub(crate) fn new() -> Self {
        let (committed, deliveries) = restante::store::committed(10_000, usize::MAX);
        Self { committed, clock: Arc::new(ManualClock::at(NOON)), deliveries }
    }

    /// The engine around a store that was made with these parts.
    pub(crate) fn around(self, store: Arc<dyn Store>, folder: Option<TempDir>) -> Engine {
        Engine { store, clock: self.clock, deliveries: Mutex::new(self.deliveries), folder, url: None }
    }
}

/// The embedded engine in a folder of its own.
pub(crate) async fn sqlite(limits: Limits) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::new();
    let store =
        SqliteStore::open(folder.path(), limits, parts.committed.clone(), parts.clock.clone(), pseudonyms())
            .await
            .unwrap();
    parts.around(Arc::new(store), Some(folder))
}

impl Engine {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn advance(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// Every item emitted for hot delivery since the last call.
    pub(crate) fn emitted(&self) -> Vec<Delivery> {
        self.emitted_all().0
    }

    /// Every item and every entry emitted for hot delivery since the last call.
    pub(crate) fn emitted_all(&self) -> (Vec<Delivery>, Vec<Arc<LogEntry>>) {
        let mut batches = self.deliveries.lock().unwrap();
        let mut emitted = (Vec::new(), Vec::new());
        while let Ok(batch) = batches.try_recv() {
            emitted.0.extend(batch.deliveries);
            emitted.1.extend(batch.entries);
        }
        emitted
    }

    pub(crate) async fn try_register(&self, registration: Registration) -> Registered {
        self.store.register_device(registration, self.now()).await.unwrap()
    }

    /// A registered device.
    pub(crate) async fn register(&self, registration: Registration) -> Caller {
        match self.try_register(registration).await {
            Registered::Registered(principal) => principal.caller,
            refused => panic!("not registered: {refused:?}"),
        }
    }

    /// The only device of a new user.
    pub(crate) async fn newcomer(&self) -> Caller {
        self.register(mothers::registration(mothers::user(), "phone")).await
    }

    /// A further device of a user, linked by `by`, when the user's older devices have acked the notice of it.
    pub(crate) async fn link(&self, by: &Caller, device: &str) -> Caller {
        let newcomer = self.link_unread(by, device).await;
        for older in self.store.devices(by.user_id).await.unwrap() {
            let notices = self.notices(older.device_no).await;
            let positions: Vec<i64> = notices.iter().map(|(position, _)| *position).collect();
            self.ack(older.device_no, &positions).await;
        }
        newcomer
    }

    /// A further device of a user, linked by `by`, of which the older devices have yet to read.
    pub(crate) async fn link_unread(&self, by: &Caller, device: &str) -> Caller {
        let LinkedRegistration { offer, registration } = mothers::linked(by, device, self.now());
        assert!(self.store.offer_link(offer, self.now()).await.unwrap());
        self.register(registration).await
    }

    /// Ends a device, which must be allowed.
    pub(crate) async fn deactivate(&self, by: &Caller, target: &Caller) {
        let gone = self.store.deactivate(by, &target.device_id, self.now()).await.unwrap();
        assert_eq!(gone, Deactivated::Gone(target.device_no));
    }

    /// The notices in a mailbox that a list of devices changed.
    pub(crate) async fn notices(&self, device: DeviceNo) -> Vec<(i64, Vec<ListedDevice>)> {
        let items = self.items(device).await.into_iter();
        let notice = |(position, item): (Position, Item)| match item {
            Item::DevicesChanged { devices, .. } => Some((position.0, devices.to_vec())),
            Item::Message(_) | Item::Deleted { .. } | Item::Welcome { .. } | Item::Joined { .. } => None,
        };
        items.filter_map(notice).collect()
    }

    /// A user's devices as a notice must list them.
    pub(crate) async fn listed(&self, user: UserId) -> Vec<ListedDevice> {
        let devices = self.store.devices(user).await.unwrap().into_iter();
        let listed = devices.map(|device| ListedDevice {
            device_id: device.device_id,
            device_number: device.device_number,
            registration_id: device.registration_id,
        });
        listed.collect()
    }

    pub(crate) async fn sessions(&self, user: UserId) -> Vec<Session> {
        self.store.sessions(user, self.now()).await.unwrap()
    }

    /// Everything that was ever revoked and is remembered.
    pub(crate) async fn revoked(&self) -> Vec<Revocation> {
        self.store.revocations(Timestamp::from_millis(0)).await.unwrap()
    }

    /// A user's whole audit trail, newest first.
    pub(crate) async fn audit(&self, user: UserId) -> Vec<AuditEntry> {
        self.store.audit(user, None, 1000).await.unwrap()
    }

    pub(crate) async fn accept(&self, send: Send) -> Accepted {
        self.store.accept_envelopes(send).await.unwrap()
    }

    /// The receipt of a send that must be stored.
    pub(crate) async fn stored(&self, send: Send) -> Receipt {
        match self.accept(send).await {
            Accepted::Stored(receipt) => receipt,
            refused => panic!("not stored: {refused:?}"),
        }
    }

    pub(crate) async fn left(&self, device: DeviceNo) -> Left {
        self.store.mailbox_left(device, Position::START, 100_000, self.now()).await.unwrap()
    }

    /// The positions left in a mailbox.
    pub(crate) async fn positions(&self, device: DeviceNo) -> Vec<i64> {
        self.left(device).await.positions().into_iter().map(|position| position.0).collect()
    }

    /// The items left in a mailbox.
    pub(crate) async fn items(&self, device: DeviceNo) -> Vec<(Position, Item)> {
        let positions = self.left(device).await.positions();
        self.store.mailbox_items(device, &positions, self.now()).await.unwrap()
    }

    pub(crate) async fn ack(&self, device: DeviceNo, positions: &[i64]) -> u32 {
        self.store.ack(device, positions.iter().copied().map(Position).collect()).await.unwrap()
    }

    pub(crate) async fn ack_all(&self, device: DeviceNo) {
        let positions = self.left(device).await.positions();
        self.store.ack(device, positions).await.unwrap();
    }

    /// The whole history of two users as one of their devices sees it.
    pub(crate) async fn history(&self, viewer: &Caller, other: UserId) -> Option<Vec<Message>> {
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
    pub(crate) async fn expire_all(&self) {
        for _ in 0..10 {
            self.store.expire(self.now(), 1000).await.unwrap();
        }
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
                let Some((engine, database)) = crate::support::postgres::make(crate::support::engine::$limits()).await else {
                    return;
                };
                let test = std::panic::AssertUnwindSafe(super::$test(engine));
                let result = futures_util::FutureExt::catch_unwind(test).await;
                database.drop().await;
                if let Err(panic) = result {
                    std::panic::resume_unwind(panic);
                }
            })+
        }
    };
}
pub(crate) use on_both_engines;
