//! What is promised when something dies: a relay, Redis, Postgres, or the way to them.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    faults::{Line, PrivateRedis, Proxy, authority, eventually, moved, nowhere},
    process::RelayProcess,
    relay::{Backend, on_both_backends},
    socket::{Incoming, Socket},
};

on_both_backends! {
    what_was_accepted_survives_a_killed_relay_and_arrives_once,
    signal_sessions_survive_killed_relays,
}

/// How long a connected device may wait for a message that nothing told it of.
const DELAY: Duration = Duration::from_secs(5);

/// How long a store that is away may keep a caller, or a relay after it is back.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the relay goes by its last look at the store, and some more.
const REMEMBERED: Duration = Duration::from_millis(1100);

/// Waits until the relay tells that its hot state is away.
async fn degraded_soon(device: &Device) {
    eventually("the relay says what is missing", DELAY, async || {
        device.get("/health/ready").await.is(200)["degraded"] == json!(["hot-state"])
    })
    .await;
}

/// The same device as it speaks to another node.
fn at(base: &str, device: &Device) -> Device {
    let mut there = Device::of(base, device.user_id, &device.device_id, device.kind);
    there.access_token.clone_from(&device.access_token);
    there
}

/// Sends with its own ids until the relay is gone; the ids that were accepted, and all that were tried.
async fn send_until_it_breaks(sender: &Device, to: Uuid) -> (Vec<Value>, Vec<Value>) {
    let (mut accepted, mut tried) = (Vec::new(), Vec::new());
    let path = format!("/api/v1/messages/send/{}", sender.user_id);
    loop {
        let mut body = opaque_send(to);
        body["message_id"] = json!(Uuid::new_v4());
        tried.push(body.clone());
        let request = sender.request(reqwest::Method::POST, &path).bearer_auth(&sender.access_token);
        match request.json(&body).send().await {
            Ok(answer) if answer.status() == 201 => accepted.push(body["message_id"].clone()),
            Ok(answer) => panic!("{}", answer.status()),
            Err(_) => return (accepted, tried),
        }
    }
}

async fn what_was_accepted_survives_a_killed_relay_and_arrives_once(backend: &Backend) {
    let mut process = RelayProcess::start(backend, &[]).await;
    let url = process.url();
    let bob = Device::registered_at(&url, Kind::Ed25519).await;
    let mut arrived: Vec<Value> = Vec::new();
    for round in 0..3 {
        let mut senders = Vec::new();
        for _ in 0..4 {
            senders.push(Device::registered_at(&url, Kind::Ed25519).await);
        }
        let sending = futures_util::future::join_all(
            senders.iter().map(|sender| send_until_it_breaks(sender, bob.user_id)),
        );
        let killing = async {
            tokio::time::sleep(Duration::from_millis(400 + 130 * round)).await;
            process.kill().await;
        };
        let (sent, ()) = tokio::join!(sending, killing);
        process.restart().await;
        let mut socket = Socket::open(&bob).await;
        let mut now = Vec::new();
        for frame in drained(&mut socket).await {
            now.push(frame["message_id"].clone());
        }
        let once: HashSet<_> = now.iter().collect();
        assert_eq!(once.len(), now.len(), "a message came twice on one socket");
        for (accepted, _) in &sent {
            assert!(!accepted.is_empty());
            let theirs: Vec<_> = now.iter().filter(|id| accepted.contains(id)).collect();
            assert_eq!(theirs, accepted.iter().collect::<Vec<_>>(), "accepted, delivered, in order");
        }
        // What was accepted is remembered as such; what got no answer is stored once by its repeat.
        for (sender, (accepted, tried)) in senders.iter().zip(&sent) {
            for body in tried {
                let known = now.contains(&body["message_id"]);
                assert!(known || !accepted.contains(&body["message_id"]));
                sender.send(body).await.is(if known { 200 } else { 201 });
                if !known {
                    now.push(socket.expect("message").await["message_id"].clone());
                }
            }
        }
        socket.ack(&now.iter().collect::<Vec<_>>()).await;
        socket.close().await;
        assert!(now.iter().all(|id| !arrived.contains(id)), "what was acked came again");
        arrived.extend(now);
    }
    assert!(bob.mailbox().await.is_empty());
}

/// The backlog of a socket, acked on the way so that more than one window comes.
async fn drained(socket: &mut Socket) -> Vec<Value> {
    let mut messages = Vec::new();
    loop {
        let frame = socket.next().await;
        match frame["type"].as_str() {
            Some("message") => messages.push(frame),
            Some("queue_drained") => return messages,
            _ => continue,
        }
        if messages.len() % 100 == 0 {
            let ids: Vec<_> =
                messages[messages.len() - 100..].iter().map(|frame| &frame["message_id"]).collect();
            socket.send(&json!({ "type": "ack", "message_ids": ids })).await;
        }
    }
}

async fn signal_sessions_survive_killed_relays(backend: &Backend) {
    let mut process = RelayProcess::start(backend, &[]).await;
    let url = process.url();
    let mut alice = Device::registered_at(&url, Kind::Signal).await;
    let mut bob = Device::registered_at(&url, Kind::Signal).await;
    let mut expected = 0;
    for round in 0..3 {
        for number in 0..6 {
            let letter = format!("letter {}", round * 6 + number);
            alice.send_signal(bob.user_id, letter.as_bytes()).await.is(201);
        }
        process.kill().await;
        process.restart().await;
        let mut socket = Socket::open(&bob).await;
        for frame in socket.until("queue_drained").await {
            assert_eq!(bob.keys.decrypt(&frame), format!("letter {expected}").as_bytes());
            socket.ack(&[&frame["message_id"]]).await;
            expected += 1;
        }
        // And the other way, live, so that the ratchet turns.
        let mut hers = Socket::open(&alice).await;
        bob.send_signal(alice.user_id, b"noted").await.is(201);
        let answer = hers.expect("message").await;
        assert_eq!(alice.keys.decrypt(&answer), b"noted");
        hers.ack(&[&answer["message_id"]]).await;
    }
    assert_eq!(expected, 18);
}

/// Takes this many messages of a socket within [`DELAY`] of `since`, and acks them.
async fn within_the_delay(socket: &mut Socket, since: Instant, ids: &[Value]) {
    let mut got = Vec::new();
    while got.len() < ids.len() {
        match socket.read(since + DELAY).await {
            Some(Incoming::Frame(frame)) if frame["type"] == "message" => {
                got.push(frame["message_id"].clone());
            }
            Some(Incoming::Frame(_)) => {}
            other => {
                panic!("{other:?} after {:?} and {} of {} messages", since.elapsed(), got.len(), ids.len())
            }
        }
    }
    assert_eq!(got, ids);
    socket.send(&json!({ "type": "ack", "message_ids": got })).await;
}

async fn sent(from: &Device, to: Uuid, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(from.send_opaque(to).await["message_id"].clone());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_never_published_arrives_within_five_seconds() {
    let Some(backend) = Backend::production().await else { return };
    let redis = std::env::var("RESTANTE_TEST_REDIS_URL").unwrap();
    let proxy = Proxy::to(&authority(&redis)).await;
    let sending = backend.relay(&[("REDIS_URL", &moved(&redis, proxy.address))]).await;
    let receiving = backend.relay(&[]).await;
    let alice = Device::registered(&sending, Kind::Ed25519).await;
    let bob = Device::registered(&receiving, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let ids = sent(&alice, bob.user_id, 1).await;
    within_the_delay(&mut socket, Instant::now(), &ids).await;
    for line in [Line::Swallows, Line::Cut] {
        proxy.turn(line);
        let since = Instant::now();
        let ids = sent(&alice, bob.user_id, 20).await;
        assert!(since.elapsed() < DELAY, "sends do not wait for Redis");
        within_the_delay(&mut socket, Instant::now(), &ids).await;
        degraded_soon(&alice).await;
    }
    proxy.turn(Line::Open);
    eventually("hot state is back", Duration::from_secs(15), async || {
        alice.get("/health/ready").await.is(200)["degraded"] == json!([])
    })
    .await;
    let ids = sent(&alice, bob.user_id, 1).await;
    within_the_delay(&mut socket, Instant::now(), &ids).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_killed_in_the_middle_of_sends_delays_other_nodes_by_less_than_five_seconds() {
    let Some(backend) = Backend::production().await else { return };
    let mut sending = RelayProcess::start(&backend, &[]).await;
    let receiving = backend.relay(&[]).await;
    let bob = Device::registered(&receiving, Kind::Ed25519).await;
    let alice = Device::registered_at(&sending.url(), Kind::Ed25519).await;
    for round in 0..3 {
        let mut socket = Socket::open(&bob).await;
        socket.expect("queue_drained").await;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(300 + 70 * round)).await;
            sending.kill().await;
            Instant::now()
        };
        let ((accepted, _), killed) = tokio::join!(send_until_it_breaks(&alice, bob.user_id), killing);
        let mut missing: HashSet<_> = accepted.into_iter().collect();
        assert!(!missing.is_empty());
        while !missing.is_empty() {
            match socket.read(killed + DELAY).await {
                Some(Incoming::Frame(frame)) => {
                    missing.remove(&frame["message_id"]);
                    socket.send(&json!({ "type": "ack", "message_ids": [frame["message_id"]] })).await;
                }
                other => panic!("{other:?} with {} messages missing", missing.len()),
            }
        }
        socket.close().await;
        sending.restart().await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_killed_and_restarted_redis_loses_nothing() {
    let Some(backend) = Backend::production().await else { return };
    let Some(mut redis) = PrivateRedis::start().await else { return };
    let url = redis.url();
    let settings = [("REDIS_URL", url.as_str())];
    let nodes = backend.cluster(2, &settings).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let live = at(&nodes[1].url(), &Device::registered(&nodes[1], Kind::Ed25519).await);
    let away = Device::registered(&nodes[1], Kind::Ed25519).await;
    let mut socket = Socket::open(&live).await;
    socket.expect("queue_drained").await;
    let mut waiting = sent(&alice, away.user_id, 10).await;

    redis.flush_all().await;
    waiting.extend(sent(&alice, away.user_id, 10).await);
    let ids = sent(&alice, live.user_id, 10).await;
    within_the_delay(&mut socket, Instant::now(), &ids).await;

    redis.kill();
    let since = Instant::now();
    waiting.extend(sent(&alice, away.user_id, 10).await);
    let ids = sent(&alice, live.user_id, 10).await;
    assert!(since.elapsed() < DELAY, "sends do not wait for Redis");
    within_the_delay(&mut socket, Instant::now(), &ids).await;
    degraded_soon(&alice).await;

    redis.restart().await;
    waiting.extend(sent(&alice, away.user_id, 10).await);
    let ids = sent(&alice, live.user_id, 10).await;
    within_the_delay(&mut socket, Instant::now(), &ids).await;
    eventually("hot state is back", Duration::from_secs(15), async || {
        alice.get("/health/ready").await.is(200)["degraded"] == json!([])
    })
    .await;
    eventually("delivery is live again", Duration::from_secs(15), async || {
        let since = Instant::now();
        let ids = sent(&alice, live.user_id, 1).await;
        within_the_delay(&mut socket, since, &ids).await;
        since.elapsed() < Duration::from_millis(300)
    })
    .await;

    let mut late = Socket::open(&away).await;
    let came: Vec<_> =
        late.until("queue_drained").await.iter().map(|frame| frame["message_id"].clone()).collect();
    assert_eq!(came, waiting);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_never_there_only_degrades() {
    let Some(backend) = Backend::production().await else { return };
    let redis = format!("redis://{}", nowhere());
    let nodes = backend.cluster(2, &[("REDIS_URL", &redis)]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = Device::registered(&nodes[1], Kind::Ed25519).await;
    assert_eq!(alice.get("/health/ready").await.is(200)["degraded"], json!(["hot-state"]));
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let ids = sent(&alice, bob.user_id, 3).await;
    within_the_delay(&mut socket, Instant::now(), &ids).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgres_every_call_is_503_until_it_is_back() {
    let Some(backend) = Backend::production().await else { return };
    let database = backend.database().unwrap().url();
    let proxy = Proxy::to(&authority(&database)).await;
    let relay = backend.relay(&[("DATABASE_URL", &moved(&database, proxy.address))]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    for line in [Line::Cut, Line::Swallows] {
        let before = sent(&alice, bob.user_id, 2).await;
        within_the_delay(&mut socket, Instant::now(), &before).await;
        tokio::time::sleep(REMEMBERED).await;
        proxy.turn(line);
        let mut body = opaque_send(bob.user_id);
        body["message_id"] = json!(Uuid::new_v4());
        let asked = Instant::now();
        let (send, queue, ready) =
            tokio::join!(alice.send(&body), bob.queue("limit=1"), alice.get("/health/ready"));
        for answer in [&send, &queue, &ready] {
            assert_eq!(answer.status, 503, "{line:?}: {answer:?}");
            assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{line:?}: {answer:?}");
        }
        assert!(asked.elapsed() < PATIENCE, "{line:?}: the refusals took {:?}", asked.elapsed());
        alice.get("/health/live").await.is(200);
        proxy.turn(Line::Cut);
        proxy.turn(Line::Open);
        eventually("the relay is ready again", PATIENCE, async || {
            // Revocations are read again a moment after the store is back; until then callers wait.
            alice.get("/health/ready").await.status == 200 && alice.queue("limit=1").await.status == 200
        })
        .await;
        // The refused send was not taken, or it was and is known: a repeat settles it.
        let again = alice.send(&body).await;
        assert!(matches!(again.status, 200 | 201), "{line:?}: {again:?}");
        within_the_delay(&mut socket, Instant::now(), &[body["message_id"].clone()]).await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_in_flight_when_postgres_falls_silent_are_answered_and_the_relay_recovers() {
    let Some(backend) = Backend::production().await else { return };
    let database = backend.database().unwrap().url();
    let proxy = Proxy::to(&authority(&database)).await;
    let relay = backend.relay(&[("DATABASE_URL", &moved(&database, proxy.address))]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let sending = futures_util::future::join_all((0..8).map(|_| send_until_refused(&alice, bob.user_id)));
    let silence = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.turn(Line::Swallows);
    };
    let answered = tokio::time::timeout(2 * PATIENCE, async { tokio::join!(sending, silence).0 });
    let sent = answered.await.expect("every send is answered although Postgres says nothing");
    // Postgres is back at the same place; the connections from before never say another word.
    proxy.renew();
    eventually("the relay serves again", 2 * PATIENCE, async || bob.queue("limit=1").await.status == 200)
        .await;
    let mut socket = Socket::open(&bob).await;
    let came: HashSet<_> =
        drained(&mut socket).await.iter().map(|frame| frame["message_id"].clone()).collect();
    for (accepted, refused) in sent {
        assert!(accepted.iter().all(|id| came.contains(id)));
        let known = came.contains(&refused["message_id"]);
        alice.send(&refused).await.is(if known { 200 } else { 201 });
    }
    backend.finish().await;
}

/// Sends until the first refusal; what was accepted, and the body that was refused.
async fn send_until_refused(sender: &Device, to: Uuid) -> (Vec<Value>, Value) {
    let mut accepted = Vec::new();
    loop {
        let mut body = opaque_send(to);
        body["message_id"] = json!(Uuid::new_v4());
        let answer = sender.send(&body).await;
        if answer.status != 201 {
            assert_eq!(answer.status, 503, "{answer:?}");
            return (accepted, body);
        }
        accepted.push(answer["message_id"].clone());
    }
}
