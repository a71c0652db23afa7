//! Several senders, members that come and go, readers that reconnect on both nodes, and a Redis that forgets and dies: every
//! member device gets every entry of its windows, in order, once on each connection, none outside of them, and none before the
//! item that opened its window.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind},
    crypto::unb64,
    faults::PrivateRedis,
    relay::Backend,
    socket::{Incoming, Socket},
};

const SENDERS: usize = 3;
const EACH: usize = 60;
const CHANGES: usize = 12;

/// How long a connected device may wait for what nothing told it of.
const DELAY: Duration = Duration::from_secs(5);

/// The same device as it speaks to another node.
fn at(base: &str, device: &Device) -> Device {
    let mut there = Device::of(base, device.user_id, &device.device_id, device.kind);
    there.access_token.clone_from(&device.access_token);
    there
}

/// What a connection was given.
#[derive(Debug, Clone)]
enum Given {
    /// An item that opens a window.
    Joined(Value),
    Entry(i64, Value),
}

/// One connection of a reader.
#[derive(Debug)]
struct Connection {
    /// The last position whose ack had been answered before, and the last one that had been acked at all.
    answered: i64,
    asked: i64,
    given: Vec<Given>,
}

/// A device that reads, over any number of connections.
struct Reader {
    seats: [Device; 2],
    group: Value,
    answered: i64,
    asked: i64,
    connections: Vec<Connection>,
}

impl Reader {
    fn new(device: &Device, nodes: &[String; 2], group: Uuid) -> Self {
        let seats = nodes.each_ref().map(|node| at(node, device));
        Self { seats, group: json!(group), answered: 0, asked: 0, connections: Vec::new() }
    }

    async fn open(&mut self) -> Socket {
        let (answered, asked) = (self.answered, self.asked);
        self.connections.push(Connection { answered, asked, given: Vec::new() });
        Socket::open(&self.seats[self.connections.len() % 2]).await
    }

    /// Takes a frame; its type.
    fn take(&mut self, frame: &Value) -> String {
        let kind = frame["type"].as_str().unwrap().to_owned();
        let given = match kind.as_str() {
            "joined" => Given::Joined(frame["message_id"].clone()),
            "group_entry" => {
                assert_eq!(frame["group_id"], self.group);
                Given::Entry(frame["position"].as_i64().unwrap(), frame["message_id"].clone())
            }
            "acked" => {
                self.answered = self.answered.max(frame["ref"].as_str().unwrap().parse().unwrap());
                return kind;
            }
            "group_gap" | "error" => panic!("{frame}"),
            _ => return kind,
        };
        self.connections.last_mut().unwrap().given.push(given);
        kind
    }

    /// The last position that the present connection was given.
    fn last(&self) -> Option<i64> {
        let given = self.connections.last().unwrap().given.iter().rev();
        given
            .clone()
            .find_map(|given| if let Given::Entry(position, _) = given { Some(*position) } else { None })
    }

    async fn ack(&mut self, socket: &mut Socket) {
        let Some(last) = self.last() else { return };
        self.asked = self.asked.max(last);
        let groups = json!({ self.group.as_str().unwrap(): last });
        socket.send(&json!({ "type": "ack", "ref": last.to_string(), "groups": groups })).await;
    }

    /// Reads over short connections, acking now and then, until `over` and everything was given.
    async fn come_and_go(&mut self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            let mut socket = self.open().await;
            for count in 1..rand::random_range(5..80) {
                match socket.read(Instant::now() + Duration::from_millis(400)).await {
                    Some(Incoming::Frame(frame)) => drop(self.take(&frame)),
                    Some(Incoming::Closed(code)) => panic!("closed with {code:?}"),
                    None => break,
                }
                if count % 9 == 0 {
                    self.ack(&mut socket).await;
                }
            }
            socket.close().await;
        }
        let mut socket = self.open().await;
        while self.take(&socket.next().await) != "queue_drained" {}
        self.ack(&mut socket).await;
        if self.last().is_some() {
            socket.expect("acked").await;
        }
    }

    /// Reads on one connection until `over`, and then until nothing more comes for as long as it may take.
    async fn stay(&mut self, over: &AtomicBool) {
        let mut socket = self.open().await;
        let mut over_since = None;
        while over_since.is_none_or(|since: Instant| since.elapsed() < DELAY) {
            if let Some(Incoming::Frame(frame)) =
                socket.read(Instant::now() + Duration::from_millis(200)).await
            {
                self.take(&frame);
                if self.last().is_some_and(|last| last % 20 == 0) {
                    self.ack(&mut socket).await;
                }
            }
            if over.load(Ordering::SeqCst) {
                over_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

/// A part of the log that a user may read: after the first position, up to the last.
type Windows = Vec<(i64, i64)>;

/// The whole log as its owner reads it, and the windows of each user as the entries of changes tell them.
struct Log {
    ids: BTreeMap<i64, Value>,
    windows: BTreeMap<String, Windows>,
}

impl Log {
    /// `windows` are those that the founding opened, and `founded` is where it ended.
    async fn read(owner: &Device, group: Uuid, windows: BTreeMap<String, Windows>, founded: i64) -> Self {
        let mut log = Self { ids: BTreeMap::new(), windows };
        let mut after = 0;
        loop {
            let page =
                owner.get(&format!("/api/v1/groups/{group}/messages?after={after}&limit=100")).await.is(200);
            let entries = page["entries"].as_array().unwrap();
            let Some(last) = entries.last() else { return log };
            after = last["position"].as_i64().unwrap();
            for entry in entries {
                log.enter(entry, founded);
            }
        }
    }

    fn enter(&mut self, entry: &Value, founded: i64) {
        let position = entry["position"].as_i64().unwrap();
        self.ids.insert(position, entry["message_id"].clone());
        if entry["kind"] != "membership" || position <= founded {
            return;
        }
        let change: Value = serde_json::from_slice(&unb64(&entry["ciphertext"])).unwrap();
        let users = |name: &str| -> Vec<String> {
            change[name].as_array().unwrap().iter().map(|user| user.as_str().unwrap().to_owned()).collect()
        };
        for user in users("removed") {
            self.windows.get_mut(&user).unwrap().last_mut().unwrap().1 = position;
        }
        for user in users("added") {
            self.windows.entry(user).or_default().push((position, i64::MAX));
        }
    }

    /// Holds what a device was given against what it must be given.
    fn judge(&self, reader: &Reader) {
        let windows = &self.windows[&reader.seats[0].user_id.to_string()];
        let window_of =
            |position: i64| windows.iter().position(|(after, end)| *after < position && position <= *end);
        let owed: Vec<i64> =
            self.ids.keys().copied().filter(|position| window_of(*position).is_some()).collect();
        let next = |after: i64| owed.iter().copied().find(|position| *position > after);
        let (mut joined, mut ever) = (HashSet::new(), BTreeSet::new());
        for connection in &reader.connections {
            let mut before = None;
            for given in &connection.given {
                let (position, id) = match given {
                    Given::Joined(id) => {
                        joined.insert(id.to_string());
                        continue;
                    }
                    Given::Entry(position, id) => (*position, id),
                };
                assert_eq!(self.ids.get(&position), Some(id), "{position}");
                let window =
                    window_of(position).unwrap_or_else(|| panic!("{position} is outside of {windows:?}"));
                assert!(window < joined.len(), "{position} came before the item of its window");
                if let Some(before) = before {
                    assert_eq!(Some(position), next(before), "after {before}");
                } else {
                    assert!(position > connection.answered, "{position} had been acked");
                    assert!(
                        next(connection.asked).is_none_or(|first| position <= first),
                        "{position} is not the first of {windows:?} after {connection:?}"
                    );
                }
                before = Some(position);
                ever.insert(position);
            }
        }
        assert!(owed.iter().all(|position| ever.contains(position)), "not all was given: {owed:?} {ever:?}");
    }
}

/// The window that the founding opened for each of these, and the head after it.
async fn founding(group: Uuid, founders: &[&Device]) -> (BTreeMap<String, Windows>, i64) {
    let (mut windows, mut head) = (BTreeMap::new(), 0);
    for founder in founders {
        let page = founder.get(&format!("/api/v1/groups/{group}/messages")).await.is(200);
        head = page["head"].as_i64().unwrap();
        let first = page["entries"][0]["position"].as_i64().unwrap_or(head + 1);
        windows.insert(founder.user_id.to_string(), vec![(first - 1, i64::MAX)]);
    }
    (windows, head)
}

async fn speak(sender: &Device, nodes: &[String; 2], group: Uuid) -> Vec<(i64, Value)> {
    let seats = nodes.each_ref().map(|node| at(node, sender));
    let mut sent = Vec::new();
    for number in 0..EACH {
        let answer = seats[number % 2].says(group).await;
        sent.push((answer["position"].as_i64().unwrap(), answer["message_id"].clone()));
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..40))).await;
    }
    sent
}

async fn come_and_go(owner: &Device, group: Uuid, guests: [&Device; 2]) {
    for number in 0..CHANGES {
        let guest = guests[number % 2];
        owner.adds(group, guest.user_id).await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..150))).await;
        owner.removes(group, guest.user_id).await;
    }
    owner.adds(group, guests[0].user_id).await;
}

async fn trouble(redis: &mut PrivateRedis, over: &AtomicBool) {
    for round in 1.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        redis.flush_all().await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        if round % 4 == 0 {
            redis.kill();
            tokio::time::sleep(Duration::from_millis(600)).await;
            redis.restart().await;
        }
    }
}

async fn play(nodes: [String; 2], redis: Option<&mut PrivateRedis>) {
    let mut devices = Vec::new();
    for number in 0..=SENDERS + 2 {
        devices.push(Device::registered_at(&nodes[number % 2], Kind::Ed25519).await);
    }
    let (owner, rest) = devices.split_first().unwrap();
    let (guests, senders) = rest.split_at(2);
    let group = owner.founds(&senders.iter().collect::<Vec<_>>()).await;
    let founders: Vec<_> = std::iter::once(owner).chain(senders).collect();
    let (windows, founded) = founding(group, &founders).await;
    let over = AtomicBool::new(false);
    let mut steady = Reader::new(owner, &nodes, group);
    let mut fickle: Vec<_> = rest.iter().map(|device| Reader::new(device, &nodes, group)).collect();
    let acting = async {
        let speaking = join_all(senders.iter().map(|sender| speak(sender, &nodes, group)));
        let (sent, ()) = tokio::join!(speaking, come_and_go(owner, group, [&guests[0], &guests[1]]));
        over.store(true, Ordering::SeqCst);
        sent
    };
    let reading = join_all(fickle.iter_mut().map(|reader| reader.come_and_go(&over)));
    let troubling = async {
        if let Some(redis) = redis {
            trouble(redis, &over).await;
        }
    };
    let (sent, _, (), ()) = tokio::join!(acting, reading, steady.stay(&over), troubling);
    let log = Log::read(owner, group, windows, founded).await;
    for (position, id) in sent.into_iter().flatten() {
        assert_eq!(log.ids.get(&position), Some(&id), "what was accepted is in the log");
    }
    assert!(log.ids.keys().is_sorted_by(|one, next| **one + 1 == **next), "the log has no gap");
    for reader in fickle.iter().chain([&steady]) {
        log.judge(reader);
    }
    assert!(fickle.iter().map(|reader| reader.connections.len()).sum::<usize>() > 20);
    for reader in fickle {
        assert!(reader.seats[0].waiting_in(group).await.is_empty(), "all was acked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_gets_its_windows_whole_over_one_embedded_relay() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    play([relay.url(), relay.url()], None).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_gets_its_windows_whole_over_two_relays_whose_redis_forgets_and_dies() {
    let Some(backend) = Backend::production().await else { return };
    let Some(mut redis) = PrivateRedis::start().await else { return };
    let url = redis.url();
    let nodes = backend.cluster(2, &[("REDIS_URL", &url)]).await;
    play([nodes[0].url(), nodes[1].url()], Some(&mut redis)).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_gets_its_windows_whole_over_two_relays_that_never_tell_each_other() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[("REDIS_URL", "")]).await;
    play([nodes[0].url(), nodes[1].url()], None).await;
    backend.finish().await;
}
