//! Relays that share Postgres and a Redis Cluster of which nodes die.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind},
    cluster::PrivateCluster,
    faults::eventually,
    process::RelayProcess,
    relay::Backend,
    socket::{Incoming, Socket},
};

/// How long a connected device may wait for a message that nothing told it of.
const DELAY: Duration = Duration::from_secs(5);

/// What delivery takes at most when an event tells of it: less than any round of the reconciler.
const LIVE: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(15);

async fn sent(from: &Device, to: Uuid, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(from.send_opaque(to).await["message_id"].clone());
    }
    ids
}

/// Takes exactly these messages of a socket, in order, and acks them; how long that took.
async fn taken(socket: &mut Socket, ids: &[Value]) -> Duration {
    let since = Instant::now();
    let mut got = Vec::new();
    while got.len() < ids.len() {
        match socket.read(since + DELAY).await {
            Some(Incoming::Frame(frame)) if frame["type"] == "message" => {
                got.push(frame["message_id"].clone());
            }
            Some(Incoming::Frame(_)) => {}
            other => panic!("{other:?} after {} of {} messages", got.len(), ids.len()),
        }
    }
    assert_eq!(got, ids);
    socket.send(&json!({ "type": "ack", "message_ids": got })).await;
    since.elapsed()
}

async fn degraded(device: &Device) -> Value {
    device.get("/health/ready").await.is(200)["degraded"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_cluster_messages_arrive_live_between_relays_and_none_is_lost_with_a_master() {
    let Some(backend) = Backend::production().await else { return };
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let url = cluster.url();
    let settings = [("REDIS_URL", url.as_str())];
    let (one, two) =
        (RelayProcess::start(&backend, &settings).await, RelayProcess::start(&backend, &settings).await);
    let alice = Device::registered_at(&one.url(), Kind::Ed25519).await;
    let bob = Device::registered_at(&two.url(), Kind::Ed25519).await;
    let away = Device::registered_at(&two.url(), Kind::Ed25519).await;
    assert_eq!((degraded(&alice).await, degraded(&bob).await), (json!([]), json!([])));
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let ids = sent(&alice, bob.user_id, 20).await;
    assert!(taken(&mut socket, &ids).await < LIVE);
    let mut waiting = sent(&alice, away.user_id, 5).await;
    let meeting = cluster.owner(&backend.settings(&[])["REDIS_PREFIX"]).await;
    for dead in [(meeting + 1) % 3, meeting] {
        cluster.nodes[dead].kill();
        let since = Instant::now();
        for _ in 0..3 {
            let ids = sent(&alice, bob.user_id, 10).await;
            taken(&mut socket, &ids).await;
            waiting.extend(sent(&alice, away.user_id, 5).await);
        }
        assert!(since.elapsed() < 3 * DELAY, "sends do not wait for Redis");
        eventually("hot state is not whole", PATIENCE, async || {
            degraded(&alice).await == json!(["hot-state"])
        })
        .await;
        eventually("delivery is live without the master", PATIENCE, async || {
            let ids = sent(&alice, bob.user_id, 1).await;
            taken(&mut socket, &ids).await < LIVE
        })
        .await;
        cluster.nodes[dead].restart().await;
        eventually("hot state is whole again", PATIENCE, async || degraded(&alice).await == json!([])).await;
        eventually("delivery is live again", PATIENCE, async || {
            let ids = sent(&alice, bob.user_id, 1).await;
            taken(&mut socket, &ids).await < LIVE
        })
        .await;
    }
    cluster.flush_all().await;
    let mut late = Socket::open(&away).await;
    let frames = late.until("queue_drained").await;
    let came: Vec<_> = frames.iter().map(|frame| frame["message_id"].clone()).collect();
    assert_eq!(came, waiting);
    for node in &cluster.nodes {
        let address = format!(":{}", node.port);
        for relay in [&one, &two] {
            assert!(!relay.written().contains(&address), "no addresses of Redis in the log");
        }
    }
    backend.finish().await;
}
