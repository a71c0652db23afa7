//! A flood of peers that never read: memory is bounded, the others are served, nothing is lost.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    faults::{eventually, resident},
    login,
    process::RelayProcess,
    relay::Backend,
    socket::Socket,
    wire::Wire,
};

const USERS: usize = 30;

/// Devices of each user; one send reaches all of them.
const DEVICES: usize = 10;

const READERS: u64 = (USERS * DEVICES) as u64;

/// Messages to each reader.
const EACH: usize = 16;

/// How long a reader may refuse to read.
const STALL: Duration = Duration::from_secs(8);

const BODY: usize = 48 << 10;

/// What a reader that never reads may cost: 64 KiB and one frame in its outbox, as much again on its way into the
/// connection, and what the allocator makes of it. What waits for it is more than twice as much.
const CEILING: u64 = 4 * (64 << 10) + 3 * (BODY as u64 * 4 / 3);

struct Crowd {
    user: Uuid,
    readers: Vec<(Device, Wire)>,
}

async fn crowd(url: &str) -> Crowd {
    let first = Device::registered_at(url, Kind::Ed25519).await;
    let user = first.user_id;
    let mut devices = Vec::new();
    for number in 1..DEVICES {
        devices.push(first.linked(&format!("device-{number}")).await);
    }
    devices.push(first);
    let mut readers = Vec::new();
    for device in devices {
        let mut wire = Wire::open(&device).await;
        wire.expect("queue_drained").await;
        readers.push((device, wire));
    }
    Crowd { user, readers }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_peers_that_never_read_cost_bounded_memory_and_lose_nothing() {
    let backend = Backend::embedded();
    let process = RelayProcess::start(&backend, &[("WS_STALL_TIMEOUT", &STALL.as_secs().to_string())]).await;
    let url = process.url();
    let (alice, bob) =
        (Device::registered_at(&url, Kind::Ed25519).await, Device::registered_at(&url, Kind::Ed25519).await);
    let crowds = join_all((0..USERS).map(|_| crowd(&url))).await;
    let mut lively = Socket::open(&bob).await;
    let before = resident(process.id());
    let largest = AtomicU64::new(before);
    for _ in 0..EACH {
        for crowd in &crowds {
            let body = json!({ "recipient_id": crowd.user, "ciphertext": b64(opaque(BODY)) });
            alice.send(&body).await.is(201);
        }
        largest.fetch_max(resident(process.id()), Ordering::Relaxed);
        let id = alice.send_opaque(bob.user_id).await["message_id"].clone();
        assert_eq!(lively.expect("message").await["message_id"], id);
    }
    eventually("the stalled are closed", Duration::from_secs(30), async || {
        largest.fetch_max(resident(process.id()), Ordering::Relaxed);
        alice.get("/health").await.is(200)["stats"]["active_connections"] == 1
    })
    .await;
    let grown = largest.into_inner() - before;
    println!("the relay grew by {} MiB for {READERS} readers", grown >> 20);
    assert!(grown < READERS * CEILING, "the relay grew by {grown} bytes");
    // A few at a time: a client that is too busy to read its own answers would be cut off as a slow one.
    stream::iter(crowds).for_each_concurrent(2, lost_nothing).await;
    backend.finish().await;
}

async fn lost_nothing(crowd: Crowd) {
    for (device, wire) in crowd.readers {
        drop(wire);
        // Over a connection of its own: the one of the registration has been idle for as long as the relay keeps it.
        let device = login::at(&device.base, &device);
        assert_eq!(device.mailbox().await.len(), EACH);
    }
}
