//! Two nodes on one engine, each with a doorbell that remembers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use restante::{
    domain::{
        ConversationId, Delivery, DeviceId, DeviceNo, DeviceNumber, EntryKind, Envelope, EnvelopeType, Epoch,
        GroupId, Item, ListedDevice, LogEntry, Message, MessageId, MessageType, Position, RegistrationId,
        Sequence, Status, Timestamp, UserId,
    },
    hot::{
        Doorbell, Event, GroupEvent, Hot,
        local::{LocalHot, LocalHub},
        redis::RedisHot,
    },
};
use secrecy::SecretString;
use uuid::Uuid;

/// How long a test waits for something that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A doorbell that remembers what it was rung for.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<Vec<(DeviceNo, Event)>>,
    rung_for_groups: Mutex<Vec<(GroupId, GroupEvent)>>,
    resubscribed: AtomicUsize,
    answer: AtomicBool,
}

impl Doorbell for Bell {
    fn ring(&self, device: DeviceNo, event: Event) -> bool {
        self.rung.lock().unwrap().push((device, event));
        self.answer.load(Ordering::Relaxed)
    }

    fn ring_group(&self, group: GroupId, event: GroupEvent) -> bool {
        self.rung_for_groups.lock().unwrap().push((group, event));
        self.answer.load(Ordering::Relaxed)
    }

    fn resubscribed(&self) {
        self.resubscribed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(crate) fn heard(&self, device: DeviceNo) -> Vec<Event> {
        let rung = self.rung.lock().unwrap();
        rung.iter().filter(|(to, _)| *to == device).map(|(_, event)| event.clone()).collect()
    }

    pub(crate) fn heard_in_all(&self) -> usize {
        self.rung.lock().unwrap().len()
    }

    pub(crate) fn heard_of(&self, group: GroupId) -> Vec<GroupEvent> {
        let rung = self.rung_for_groups.lock().unwrap();
        rung.iter().filter(|(of, _)| *of == group).map(|(_, event)| event.clone()).collect()
    }

    pub(crate) fn heard_of_groups(&self) -> usize {
        self.rung_for_groups.lock().unwrap().len()
    }

    /// Waits until this many events of the group came, and gives them.
    pub(crate) async fn wait_for_group(&self, group: GroupId, count: usize) -> Vec<GroupEvent> {
        until("events of a group arrive", async || self.heard_of(group).len() >= count).await;
        self.heard_of(group)
    }

    pub(crate) fn resubscriptions(&self) -> usize {
        self.resubscribed.load(Ordering::SeqCst)
    }

    /// Waits until the device got this many events, and gives them.
    pub(crate) async fn wait_for(&self, device: DeviceNo, count: usize) -> Vec<Event> {
        until("events arrive", async || self.heard(device).len() >= count).await;
        self.heard(device)
    }
}

/// Asks until the answer is yes, for at most [`DEADLINE`].
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < DEADLINE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

pub(crate) struct Node {
    pub(crate) hot: Arc<dyn Hot>,
    pub(crate) bell: Arc<Bell>,
}

impl Node {
    pub(crate) fn on_redis(url: &str, prefix: &str) -> Self {
        let bell = Arc::new(Bell::default());
        let hot = RedisHot::connect(&SecretString::from(url), prefix, bell.clone()).unwrap();
        // What is promised of budgets holds by whichever time, and a test moves its own.
        Self { hot: Arc::new(hot.by_callers_time()), bell }
    }

    fn on_hub(hub: &Arc<LocalHub>) -> Self {
        let bell = Arc::new(Bell::default());
        Self { hot: Arc::new(LocalHot::join(hub, bell.clone())), bell }
    }
}

/// Two nodes of one relay.
pub(crate) struct Rig {
    pub(crate) one: Node,
    pub(crate) two: Node,
    next_device: AtomicI64,
}

impl Rig {
    pub(crate) fn local() -> Self {
        let hub = LocalHub::new();
        Self::of(Node::on_hub(&hub), Node::on_hub(&hub))
    }

    pub(crate) fn on_redis(url: &str) -> Self {
        let prefix = random_prefix();
        Self::of(Node::on_redis(url, &prefix), Node::on_redis(url, &prefix))
    }

    fn of(one: Node, two: Node) -> Self {
        Self { one, two, next_device: AtomicI64::new(1) }
    }

    /// A device that no test asked for before.
    pub(crate) fn device(&self) -> DeviceNo {
        DeviceNo(self.next_device.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends both nodes and leaves nothing behind.
    pub(crate) async fn finish(self) {
        for device in 1..self.next_device.load(Ordering::Relaxed) {
            self.one.hot.forget_device(DeviceNo(device)).await.unwrap();
        }
        self.one.hot.close().await;
        self.two.hot.close().await;
    }
}

pub(crate) fn random_prefix() -> String {
    format!("test-{}", Uuid::new_v4().simple())
}

/// The URL of the Redis for tests. Says loudly when there is none.
pub(crate) fn redis_url() -> Option<String> {
    let url = std::env::var("RESTANTE_TEST_REDIS_URL").ok();
    if url.is_none() {
        eprintln!("SKIPPED: RESTANTE_TEST_REDIS_URL is not set, so the Redis engine was not tried");
    }
    url
}

/// A message with every field set and a body of this many bytes.
pub(crate) fn message(body: usize) -> Arc<Item> {
    let envelope = Envelope {
        envelope_type: EnvelopeType::Sealed,
        ciphertext: (0..body).map(|at| u8::try_from(at % 251).unwrap()).collect(),
        ephemeral_key: Some(Bytes::from(vec![5; 33])),
    };
    Arc::new(Item::Message(Message {
        message_id: MessageId::new(Uuid::new_v4()),
        conversation_id: ConversationId::new(Uuid::new_v4()),
        sender_id: UserId::new(Uuid::new_v4()),
        sender_device_id: DeviceId::parse("old.phone-2_b").unwrap(),
        sender_device_number: DeviceNumber::new(127).unwrap(),
        recipient_id: UserId::new(Uuid::new_v4()),
        message_type: MessageType::Poll,
        envelope: Some(envelope),
        sequence: Some(Sequence(1_700_000_000_000_001)),
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        status: Status::Delivered,
        delivered_at: Some(Timestamp::from_millis(1_700_000_000_002)),
        read_at: Some(Timestamp::from_millis(1_700_000_000_003)),
        self_destructing: false,
        expires_at: Timestamp::from_millis(1_700_000_000_004),
    }))
}

/// A message with nothing in it that may be absent.
pub(crate) fn bare_message() -> Arc<Item> {
    let Item::Message(full) = (*message(0)).clone() else { unreachable!("a message is a message") };
    let bare = Message {
        envelope: None,
        sequence: None,
        delivered_at: None,
        read_at: None,
        self_destructing: true,
        ..full
    };
    Arc::new(Item::Message(bare))
}

pub(crate) fn notice() -> Arc<Item> {
    Arc::new(Item::Deleted {
        message_id: MessageId::new(Uuid::new_v4()),
        deletes: MessageId::new(Uuid::new_v4()),
        expires_at: Timestamp::from_millis(-7),
    })
}

/// A notice of two devices.
pub(crate) fn device_list() -> Arc<Item> {
    let listed = |id: &str, number, registration| ListedDevice {
        device_id: DeviceId::parse(id).unwrap(),
        device_number: DeviceNumber::new(number).unwrap(),
        registration_id: RegistrationId::new(registration).unwrap(),
    };
    Arc::new(Item::DevicesChanged {
        message_id: MessageId::new(Uuid::new_v4()),
        devices: [listed("phone", 1, 16_380), listed("desk.top", 127, 1)].into(),
        expires_at: Timestamp::from_millis(1_700_000_000_005),
    })
}

pub(crate) fn delivery(device_no: DeviceNo, position: i64, item: &Arc<Item>) -> Delivery {
    Delivery { device_no, position: Position(position), item: Arc::clone(item) }
}

pub(crate) fn group() -> GroupId {
    GroupId::new(Uuid::new_v4())
}

/// An entry with every field set and a body of this many bytes.
pub(crate) fn entry(group_id: GroupId, position: i64, body: usize) -> Arc<LogEntry> {
    Arc::new(LogEntry {
        group_id,
        position: Position(position),
        kind: EntryKind::Application,
        message_id: MessageId::new(Uuid::new_v4()),
        sender_id: UserId::new(Uuid::new_v4()),
        sender_device_id: DeviceId::parse("old.phone-2_b").unwrap(),
        message_type: Some(MessageType::Audio),
        epoch: Epoch((1 << 53) - 1),
        body: Some((0..body).map(|at| u8::try_from(at % 251).unwrap()).collect()),
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        expires_at: Some(Timestamp::from_millis(1_700_000_000_009)),
        closes: [DeviceNo(3), DeviceNo(1_000_000_007)].into(),
    })
}

/// An entry of this kind with nothing in it that may be absent.
pub(crate) fn bare_entry(group_id: GroupId, position: i64, kind: EntryKind) -> Arc<LogEntry> {
    let full = LogEntry::clone(&entry(group_id, position, 0));
    Arc::new(LogEntry { kind, message_type: None, body: None, expires_at: None, closes: [].into(), ..full })
}

/// Everything an event of a group says.
pub(crate) fn spell_group(event: &GroupEvent) -> String {
    match event {
        GroupEvent::Wake(position) => format!("wake {}", position.0),
        GroupEvent::Entry(entry) => format!(
            "entry {} {} {:?} {} {} {} {:?} {:?} {:?} {:?} {:?} {:?}",
            entry.group_id.uuid(),
            entry.position.0,
            entry.kind,
            entry.message_id.uuid(),
            entry.sender_id.uuid(),
            entry.sender_device_id.as_str(),
            entry.message_type,
            entry.epoch,
            entry.body,
            entry.accepted_at,
            entry.expires_at,
            entry.closes,
        ),
    }
}

/// Everything an event says, in words that can be compared: `Debug` hides ids and bodies.
pub(crate) fn spell(event: &Event) -> String {
    match event {
        Event::Item(position, item) => format!("item {} {}", position.0, spell_item(item)),
        Event::Wake(position) => format!("wake {}", position.0),
        Event::Fleeting(item) => format!("fleeting {}", spell_item(item)),
        Event::Receipt(receipt) => format!(
            "receipt {} {} {} {receipt:?}",
            receipt.message_id.uuid(),
            receipt.conversation_id.uuid(),
            receipt.by.uuid(),
        ),
        Event::KeysLow(low) => format!("{low:?}"),
        Event::Replaced(session) => format!("replaced {session}"),
        Event::Deactivated => "deactivated".to_owned(),
        Event::LoggedOut(login) => format!("logged out {}", login.uuid()),
    }
}

pub(crate) fn spell_item(item: &Item) -> String {
    match item {
        Item::Message(message) => format!(
            "{} {} {} {} {} {:?} {message:?}",
            message.message_id.uuid(),
            message.conversation_id.uuid(),
            message.sender_id.uuid(),
            message.sender_device_id.as_str(),
            message.recipient_id.uuid(),
            message.envelope.as_ref().map(|envelope| (&envelope.ciphertext, &envelope.ephemeral_key)),
        ),
        Item::Deleted { message_id, deletes, .. } => {
            format!("{} {} {item:?}", message_id.uuid(), deletes.uuid())
        }
        Item::DevicesChanged { message_id, devices, .. } => {
            let ids: Vec<_> = devices.iter().map(|device| device.device_id.as_str()).collect();
            format!("{} {ids:?} {item:?}", message_id.uuid())
        }
        Item::Welcome { message_id, group_id, welcome, .. } => {
            format!("{} {} {welcome:?} {item:?}", message_id.uuid(), group_id.uuid())
        }
        Item::Joined { message_id, group_id, .. } => {
            format!("{} {} {item:?}", message_id.uuid(), group_id.uuid())
        }
    }
}
