//! Peers that never read.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{messages, pair, pair_at, sent};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    faults::{eventually, resident},
    process::RelayProcess,
    relay::Backend,
    socket::Socket,
    wire::Wire,
};

const READERS: usize = 100;

/// Messages to each reader; together they do not fit into what the kernel keeps for a connection.
const EACH: usize = 10;

/// Messages of which a kernel left to itself keeps most.
const ROOMY: usize = 30;

const BODY: usize = 48 << 10;

/// What a stalled session may hold: its outbox with one frame over it, and the bodies it read ahead.
const PER_SESSION: u64 = (64 << 10) + (BODY as u64) * (4 + 16);

async fn connected(device: &Device) -> u64 {
    device.get("/health").await.is(200)["stats"]["active_connections"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_never_read_are_closed_in_time_and_lose_nothing() {
    let backend = Backend::embedded();
    let process = RelayProcess::start(&backend, &[("WS_STALL_TIMEOUT", "3")]).await;
    let (alice, bob) = pair_at(&process.url()).await;
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        let device = Device::registered_at(&process.url(), Kind::Ed25519).await;
        let mut wire = Wire::open(&device).await;
        wire.expect("queue_drained").await;
        stalled.push((device, wire));
    }
    let mut lively = Socket::open(&bob).await;
    let before = resident(process.id());
    let mut largest = before;
    for _ in 0..EACH {
        for (device, _) in &stalled {
            let body = json!({ "recipient_id": device.user_id, "ciphertext": b64(opaque(BODY)) });
            alice.send(&body).await.is(201);
        }
        largest = largest.max(resident(process.id()));
        // The others do not notice.
        let began = Instant::now();
        let ids = sent(&alice, bob.user_id, 1).await;
        assert_eq!(messages(&mut lively, 1).await, ids);
        assert!(began.elapsed() < Duration::from_secs(2), "a lively reader waited {:?}", began.elapsed());
    }
    eventually("the stalled are closed", Duration::from_secs(10), async || connected(&alice).await == 1)
        .await;
    largest = largest.max(resident(process.id()));
    let grown = largest - before;
    assert!(grown < READERS as u64 * PER_SESSION, "the relay grew by {grown} bytes");
    for (device, wire) in stalled {
        drop(wire);
        let left = device.mailbox().await;
        assert_eq!(left.len(), EACH);
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_live_only_does_not_pile_up_for_a_reader_that_never_reads() {
    let backend = Backend::embedded();
    let process = RelayProcess::start(&backend, &[]).await;
    let (alice, bob) = pair_at(&process.url()).await;
    let mut wire = Wire::open(&bob).await;
    wire.expect("queue_drained").await;
    let before = resident(process.id());
    let body =
        json!({ "recipient_id": bob.user_id, "ciphertext": b64(opaque(90 << 10)), "online_only": true });
    for _ in 0..800 {
        alice.send(&body).await.is(202);
    }
    let grown = resident(process.id()).saturating_sub(before);
    assert!(grown < 40 << 20, "the relay grew by {grown} bytes of 96 MB that it was to forget");
    backend.finish().await;
}

/// What the kernel would keep for such a peer hides from the session that it does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_behind_roomy_buffers_is_told_why_it_was_closed() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("WS_STALL_TIMEOUT", "2"), ("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let (alice, bob) = pair(&relay).await;
    let mut wire = Wire::open_with(&bob, |_| {}).await;
    wire.expect("queue_drained").await;
    for _ in 0..ROOMY {
        let body = json!({ "recipient_id": bob.user_id, "ciphertext": b64(opaque(90 << 10)) });
        alice.send(&body).await.is(201);
    }
    eventually("the stalled is closed", Duration::from_secs(10), async || connected(&alice).await == 0).await;
    let page = relay.metrics().await;
    assert!(page.contains("restante_sockets_closed_total{reason=\"stalled\"} 1"), "{page}");
    assert_eq!(wire.ended().await, Some(4408));
    assert_eq!(bob.whole_mailbox().await.len(), ROOMY);
    backend.finish().await;
}
