//! Several nodes over one store: what must happen once happens once, and order holds, whoever is faster.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    crypto::{b64, opaque, unb64},
    process::RelayProcess,
    relay::Backend,
    socket::{Incoming, Socket},
};

/// The same device as it speaks to another node.
fn at(base: &str, device: &Device) -> Device {
    let mut there = Device::of(base, device.user_id, &device.device_id, device.kind);
    there.access_token.clone_from(&device.access_token);
    there
}

async fn devices(base: &str, count: usize) -> Vec<Device> {
    let mut devices = Vec::new();
    for _ in 0..count {
        devices.push(Device::registered_at(base, Kind::Ed25519).await);
    }
    devices
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_fetchers_over_two_relays_never_share_a_key_and_lose_none() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = [RelayProcess::start(&backend, &[]).await, RelayProcess::start(&backend, &[]).await];
    let mut target = Device::new(&nodes[0].url(), Kind::Ed25519);
    let mut body = target.registration();
    body["kem_prekeys"] = json!((1..=50).map(|id| target.keys.kem_prekey(id)).collect::<Vec<_>>());
    target.register(&body).await.is(201);
    let fetchers = devices(&nodes[0].url(), 16).await;
    let fetchers: Vec<_> = (0..64).map(|index| at(&nodes[index % 2].url(), &fetchers[index / 4])).collect();
    let bundles = join_all(fetchers.iter().map(|fetcher| fetcher.bundle(&target))).await;
    let (mut onetime, mut kem, mut without) = (HashSet::new(), HashSet::new(), 0);
    for bundle in bundles {
        let bundle = bundle.is(200);
        match bundle["onetime_prekey_id"].as_u64() {
            Some(id) => assert!(onetime.insert(id), "pre-key {id} was handed out twice"),
            None => without += 1,
        }
        if let Some(id) = bundle["kem_prekey_id"].as_u64() {
            assert!(kem.insert(id), "KEM pre-key {id} was handed out twice");
        }
    }
    // None is lost: what was not handed out is still there.
    let stats = target.get(&target.own("stats")).await.is(200);
    assert_eq!(onetime.len() as u64 + stats["unused_prekeys"].as_u64().unwrap(), 50, "{stats}");
    assert_eq!(kem.len() as u64 + stats["kem_prekeys"].as_u64().unwrap(), 50, "{stats}");
    assert_eq!(without, 64 - onetime.len());
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_race_one_message_id_store_it_once() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let there = at(&nodes[1].url(), &alice);
    for round in 0..60 {
        let mut body = opaque_send(bob.user_id);
        body["message_id"] = json!(Uuid::new_v4());
        let (one, other) = tokio::join!(alice.send(&body), there.send(&body));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201], "round {round}: {one:?} {other:?}");
        assert_eq!(one.body, other.body);
    }
    assert_eq!(bob.mailbox().await.len(), 60);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_id_with_two_bodies_has_one_winner() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let carol = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    // The same sender with another body, or another sender altogether.
    let others = [at(&nodes[1].url(), &alice), at(&nodes[1].url(), &carol)];
    let mut winners = Vec::new();
    for round in 0..40 {
        let id = Uuid::new_v4();
        let (mut one, mut two) = (opaque_send(bob.user_id), opaque_send(bob.user_id));
        one["message_id"] = json!(id);
        two["message_id"] = json!(id);
        let (first, second) = tokio::join!(alice.send(&one), others[round % 2].send(&two));
        let (won, lost, body) = if first.status == 201 { (first, second, one) } else { (second, first, two) };
        won.is(201);
        lost.refused(409, "message-id-reused");
        winners.push(body["ciphertext"].clone());
    }
    let stored: Vec<_> = bob.mailbox().await.iter().map(|message| message["ciphertext"].clone()).collect();
    assert_eq!(stored, winners);
    backend.finish().await;
}

/// What one sender says over two nodes in turn, each once the one before was accepted.
async fn speak(sender: &Device, nodes: [String; 2], to: Uuid, count: u32) {
    let seats = nodes.map(|node| at(&node, sender));
    for number in 0..count {
        let mut bytes = opaque(40);
        bytes[1..5].copy_from_slice(&number.to_be_bytes());
        let body = json!({ "recipient_id": to, "ciphertext": b64(bytes) });
        seats[number as usize % 2].send(&body).await.is(201);
    }
}

/// The last number of each sender.
type Numbers = HashMap<String, u32>;

/// One socket of a reader: what it was shown, and what it acked.
struct Reading<'a> {
    socket: Socket,
    acked: &'a mut Numbers,
    shown: Numbers,
    unacked: Vec<Value>,
    asked: Option<Numbers>,
}

impl Reading<'_> {
    /// Takes what comes next; false after a silence.
    async fn step(&mut self) -> bool {
        match self.socket.read(Instant::now() + Duration::from_millis(2500)).await {
            Some(Incoming::Frame(frame)) if frame["type"] == "message" => self.take(&frame),
            Some(Incoming::Frame(frame)) if frame["type"] == "acked" => {
                self.acked.extend(self.asked.take().unwrap());
            }
            Some(Incoming::Frame(_)) => {}
            Some(Incoming::Closed(code)) => panic!("closed with {code:?}"),
            None => return false,
        }
        true
    }

    /// A message must follow its sender's last one without a gap: on this socket, or among what was acked before.
    fn take(&mut self, frame: &Value) {
        let sender = frame["sender_id"].as_str().unwrap();
        let bytes = unb64(&frame["ciphertext"]);
        let number = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        let last = self.shown.get(sender).or_else(|| self.acked.get(sender));
        assert_eq!(
            number,
            last.map_or(0, |last| last + 1),
            "a gap, a repeat or a swap of one sender's messages"
        );
        self.shown.insert(sender.to_owned(), number);
        self.unacked.push(frame["message_id"].clone());
    }

    async fn ask(&mut self) {
        let ids = std::mem::take(&mut self.unacked);
        if !ids.is_empty() && self.asked.is_none() {
            self.asked = Some(self.shown.clone());
            self.socket.send(&json!({ "type": "ack", "ref": "a", "message_ids": ids })).await;
        }
    }
}

/// Reads on both nodes in turn until everything of every sender was acked; how often it connected.
async fn read_on_both(reader: [Device; 2], senders: usize, each: u32) -> usize {
    let mut acked = Numbers::new();
    let deadline = Instant::now() + Duration::from_secs(90);
    for connection in 0.. {
        assert!(Instant::now() < deadline, "acked so far: {acked:?}");
        let socket = Socket::open(&reader[connection % 2]).await;
        let (shown, unacked) = (Numbers::new(), Vec::new());
        let mut reading = Reading { socket, acked: &mut acked, shown, unacked, asked: None };
        // Each socket lives for some hundred frames and leaves the last of them without an ack.
        for count in 1..=330 {
            let more = reading.step().await;
            if (count % 50 == 0 || !more) && reading.asked.is_none() {
                reading.ask().await;
            }
            if !more {
                break;
            }
        }
        while reading.asked.is_some() {
            assert!(reading.step().await, "an ack was not answered");
        }
        reading.socket.close().await;
        if acked.len() == senders && acked.values().all(|last| last + 1 == each) {
            return connection + 1;
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnecting_reader_sees_each_senders_messages_in_order_without_gap() {
    const SENDERS: usize = 5;
    const EACH: u32 = 400;
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let urls = [nodes[0].url(), nodes[1].url()];
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let senders = devices(&urls[0], SENDERS).await;
    let reader = [at(&urls[0], &bob), at(&urls[1], &bob)];
    let speaking = join_all(senders.iter().map(|sender| speak(sender, urls.clone(), bob.user_id, EACH)));
    let (_, connections) = tokio::join!(speaking, read_on_both(reader, SENDERS, EACH));
    assert!(connections > 3, "the reader came back {connections} times");
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_sessions_over_two_nodes_decrypt_everything_once_and_in_order() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let mut bob = Device::registered(&nodes[0], Kind::Signal).await;
    let mut senders = Vec::new();
    for _ in 0..3 {
        senders.push(Device::registered(&nodes[0], Kind::Signal).await);
    }
    let urls = [nodes[0].url(), nodes[1].url()];
    let reader = at(&urls[1], &bob);
    let to = bob.user_id;
    let speaking = join_all(senders.iter_mut().map(|sender| {
        let urls = urls.clone();
        async move {
            for number in 0..20_usize {
                sender.base.clone_from(&urls[number % 2]);
                sender.send_signal(to, format!("letter {number}").as_bytes()).await.is(201);
            }
        }
    }));
    let reading = async {
        let mut next: HashMap<Value, usize> = HashMap::new();
        let mut seen = HashSet::new();
        let mut socket = Socket::open(&reader).await;
        for count in 0..60 {
            let frame = socket.expect("message").await;
            assert!(seen.insert(frame["message_id"].clone()), "repeated");
            let number = next.entry(frame["sender_id"].clone()).or_default();
            assert_eq!(bob.keys.decrypt(&frame), format!("letter {number}").as_bytes());
            *number += 1;
            socket.send(&json!({ "type": "ack", "ref": "a", "message_ids": [frame["message_id"]] })).await;
            socket.expect("acked").await;
            if count % 20 == 19 {
                socket.close().await;
                socket = Socket::open(&reader).await;
            }
        }
        socket.close().await;
    };
    tokio::join!(speaking, reading);
    assert!(reader.mailbox().await.is_empty());
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_sends_of_a_conversation_have_distinct_increasing_numbers() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = at(&nodes[1].url(), &Device::registered(&nodes[0], Kind::Ed25519).await);
    let speak = async |from: &Device, to: Uuid| {
        let mut numbers = Vec::new();
        for _ in 0..100 {
            let answer = from.send_opaque(to).await;
            numbers.push((answer["conversation_id"].clone(), answer["sequence_number"].as_i64().unwrap()));
        }
        numbers
    };
    let (hers, his) = tokio::join!(speak(&alice, bob.user_id), speak(&bob, alice.user_id));
    for own in [&hers, &his] {
        assert!(own.is_sorted_by(|one, next| one.1 < next.1), "a sender's numbers increase: {own:?}");
    }
    let conversations: HashSet<_> = hers.iter().chain(&his).map(|(id, _)| id.clone()).collect();
    assert_eq!(conversations.len(), 1, "the pair has one conversation");
    let numbers: HashSet<_> = hers.iter().chain(&his).map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), 200);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_registrations_of_one_device_have_one_winner() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    for round in 0..10 {
        let user = Uuid::new_v4();
        let (first, second) = if round % 2 == 0 { ("phone", "phone") } else { ("phone", "tablet") };
        let mut one = Device::of(&nodes[0].url(), user, first, Kind::Ed25519);
        let mut two = Device::of(&nodes[1].url(), user, second, Kind::Ed25519);
        let (here, there) = (one.registration(), two.registration());
        let (won, lost) = tokio::join!(one.register(&here), two.register(&there));
        let (winner, won, lost) = if won.status == 201 { (&one, won, lost) } else { (&two, lost, won) };
        won.is(201);
        // A second device needs the first one's word.
        assert!(
            matches!((lost.status, lost.code()), (409, "device-exists") | (403, "link-required")),
            "{lost:?}"
        );
        let listed = winner.get(&format!("/api/v1/keys/devices/{user}")).await.is(200);
        assert_eq!(listed["count"], 1);
        assert_eq!(listed["devices"][0]["identity_key"], json!(b64(winner.keys.identity())));
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_token_is_used_once_over_two_nodes() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    for round in 0..5 {
        let name = format!("tablet{round}");
        let mut tablet = Device::of(&nodes[0].url(), bob.user_id, &name, Kind::Ed25519);
        let token = bob.vouch_for(&tablet).await.is(201)["link_token"].clone();
        let mut body = tablet.registration();
        body["link_token"] = token;
        let mut there = Device::of(&nodes[1].url(), bob.user_id, &name, Kind::Ed25519);
        let (one, other) = tokio::join!(tablet.register(&body), there.register(&body));
        let accepted = [&one, &other].iter().filter(|answer| answer.status == 201).count();
        assert_eq!(accepted, 1, "{one:?} {other:?}");
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_that_race_a_deactivation_are_whole_or_refused() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    for _ in 0..5 {
        let bob = at(&nodes[1].url(), &Device::registered(&nodes[0], Kind::Ed25519).await);
        let begun = Notify::new();
        let sending = async {
            let mut accepted = Vec::new();
            loop {
                let answer = alice.send(&opaque_send(bob.user_id)).await;
                if answer.status != 201 {
                    answer.refused(422, "no-devices");
                    return accepted;
                }
                accepted.push(answer["message_id"].clone());
                begun.notify_one();
            }
        };
        let deactivating = async {
            begun.notified().await;
            bob.deactivate(&bob).await.is(200);
        };
        let (accepted, ()) = tokio::join!(sending, deactivating);
        assert!(!accepted.is_empty());
        // What was accepted before the end is remembered, and nothing can be sent after it.
        alice.send(&opaque_send(bob.user_id)).await.refused(422, "no-devices");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bob.queue("limit=1").await.status, 401);
    }
    backend.finish().await;
}
