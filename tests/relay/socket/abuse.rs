//! Peers that break the protocol.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::pair_at;
use crate::support::{
    client::{Device, Kind},
    crypto::opaque,
    faults::resident,
    process::RelayProcess,
    relay::Backend,
    wire::{Wire, announced, masked},
};

const PING: &[u8] = br#"{"type":"ping"}"#;

/// Memory that the relay may take beside what is tested.
const SLACK: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_over_the_limit_is_refused_and_the_socket_lives() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut wire = Wire::open(&bob).await;
    wire.expect("queue_drained").await;
    let large = opaque((1 << 20) + 1);
    for first in [0x81, 0x82] {
        wire.put(&masked(first, &large)).await.unwrap();
        assert_eq!(wire.expect("error").await["code"], "too-large");
        wire.put(&masked(0x81, PING)).await.unwrap();
        wire.expect("pong").await;
    }
    // In parts, each within the limit.
    wire.put(&masked(0x01, &large[..1 << 19])).await.unwrap();
    wire.put(&masked(0x00, &large[..1 << 19])).await.unwrap();
    wire.put(&masked(0x80, &large[..1])).await.unwrap();
    assert_eq!(wire.expect("error").await["code"], "too-large");
    // In parts that are a frame together, with a control frame between.
    wire.put(&masked(0x01, &PING[..4])).await.unwrap();
    wire.put(&masked(0x89, b"")).await.unwrap();
    wire.put(&masked(0x80, &PING[4..])).await.unwrap();
    wire.expect("pong").await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_and_endless_frames_are_not_kept_in_memory() {
    let backend = Backend::embedded();
    let process = RelayProcess::start(&backend, &[]).await;
    let (alice, bob) = pair_at(&process.url()).await;
    let (mut announcing, mut endless) = (Wire::open(&alice).await, Wire::open(&bob).await);
    announcing.expect("queue_drained").await;
    endless.expect("queue_drained").await;
    let before = resident(process.id());
    let chunk = vec![0x5a; 1 << 18];
    announcing.put(&announced(0x82, 1 << 30)).await.unwrap();
    endless.put(&masked(0x02, &chunk)).await.unwrap();
    for _ in 0..400 {
        // The relay has closed this one, and may refuse to take more.
        announcing.put(&chunk).await.ok();
        endless.put(&masked(0x00, &chunk)).await.unwrap();
    }
    let grown = resident(process.id()).saturating_sub(before);
    assert!(grown < SLACK, "the relay grew by {grown} bytes while 100 MiB came on each of two sockets");
    endless.put(&masked(0x80, &chunk)).await.unwrap();
    assert_eq!(endless.expect("error").await["code"], "too-large");
    backend.finish().await;
}

/// Puts these bytes on a fresh socket, which must be closed as a protocol error.
async fn ends_the_socket(device: &Device, what: &str, bytes: &[u8]) {
    let mut wire = Wire::open(device).await;
    wire.expect("queue_drained").await;
    wire.put(bytes).await.unwrap();
    assert_eq!(wire.ended().await, Some(4400), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_none_end_the_socket() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let unmasked = [&[0x81, 15][..], PING].concat();
    let cases = [
        ("unmasked", unmasked),
        ("reserved bit", masked(0xc1, PING)),
        ("reserved opcode", masked(0x83, PING)),
        ("reserved control opcode", masked(0x8b, b"")),
        ("fragmented ping", masked(0x09, b"")),
        ("last part without a first", masked(0x80, PING)),
        ("first part twice", [masked(0x01, b"{"), masked(0x01, b"{")].concat()),
        ("whole frame between parts", [masked(0x01, b"{"), masked(0x81, PING)].concat()),
    ];
    for (what, bytes) in cases {
        ends_the_socket(&bob, what, &bytes).await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_oversized_by_itself_ends_the_socket() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    // Announced alone: the relay does not wait for what it will not take.
    let oversized = |first| announced(first, (1 << 20) + 1);
    let cases = [
        ("first part", oversized(0x02)),
        ("middle part", [masked(0x01, b"{"), oversized(0x00)].concat()),
        ("last part", [masked(0x01, b"{"), oversized(0x80)].concat()),
    ];
    for (what, bytes) in cases {
        ends_the_socket(&bob, what, &bytes).await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_control_frame_ends_the_socket() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    ends_the_socket(&bob, "oversized ping", &masked(0x89, &[0; 126])).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_are_closed() {
    let backend = Backend::embedded();
    let settings = [("WS_HEARTBEAT_INTERVAL", "1"), ("WS_CLIENT_TIMEOUT", "2")];
    let relay = backend.relay(&settings).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    // The one says nothing at all; the other sends a frame without end, which is no sign of life.
    let (mut silent, mut trickling) = (Wire::open(&bob).await, Wire::open(&carol).await);
    trickling.put(&announced(0x81, 1000)).await.unwrap();
    let started = std::time::Instant::now();
    assert_eq!(silent.ended().await, Some(4408));
    assert_eq!(trickling.ended().await, Some(4408));
    assert!(started.elapsed() < Duration::from_secs(5));
    let health = bob.get("/health").await.is(200);
    assert_eq!(health["stats"]["active_connections"], 0);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_pings_is_not_silent() {
    let backend = Backend::embedded();
    let settings = [("WS_HEARTBEAT_INTERVAL", "1"), ("WS_CLIENT_TIMEOUT", "2")];
    let relay = backend.relay(&settings).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut wire = Wire::open(&bob).await;
    let mut pings = 0;
    while pings < 4 {
        let frame = wire.next().await.expect("the socket stays open");
        assert_ne!(frame.opcode, 8, "closed after {pings} pings");
        if frame.opcode == 9 {
            pings += 1;
            wire.put(&masked(0x8a, &frame.payload)).await.unwrap();
        }
    }
    let ack = json!({ "type": "ack", "ref": "1", "message_ids": [Uuid::new_v4()] });
    wire.put(&masked(0x81, ack.to_string().as_bytes())).await.unwrap();
    wire.expect("acked").await;
    backend.finish().await;
}
