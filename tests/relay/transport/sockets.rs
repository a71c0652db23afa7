//! What a socket's peer may not make the relay do.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, time::timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::support::{
    client::{Device, Kind},
    faults::resident,
    process::RelayProcess,
    relay::Backend,
    socket::{Door, Format, Socket},
    wait,
    wire::{Wire, masked},
};

const PING: &[u8] = br#"{"type":"ping"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_is_not_negotiated() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let mut request =
        format!("{}/ws/me/me", relay.url().replacen("http", "ws", 1)).into_client_request().unwrap();
    let headers = request.headers_mut();
    let token = HeaderValue::try_from(format!("Bearer {}", device.access_token)).unwrap();
    headers.insert("authorization", token);
    let offer = "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame";
    headers.insert("sec-websocket-extensions", HeaderValue::from_static(offer));
    let (_socket, answer) = connect_async(request).await.unwrap();
    assert!(!answer.headers().contains_key("sec-websocket-extensions"));
    // And a frame that is compressed all the same is none (RFC 7692, section 6).
    let mut wire = Wire::open(&device).await;
    wire.expect("queue_drained").await;
    wire.put(&masked(0xc1, PING)).await.unwrap();
    assert_eq!(wire.ended().await, Some(4400));
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_a_bounded_number_of_parts() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let mut wire = Wire::open(&device).await;
    wire.expect("queue_drained").await;
    let parts = |count: usize| {
        let (first, rest) = PING.split_at(1);
        let empty = masked(0x00, b"").repeat(count - 2);
        [masked(0x01, first), empty, masked(0x80, rest)].concat()
    };
    for _ in 0..2 {
        wire.put(&parts(4096)).await.unwrap();
        wire.expect("pong").await;
    }
    wire.put(&parts(4097)).await.unwrap();
    assert_eq!(wire.ended().await, Some(4400));
    backend.finish().await;
}

/// Memory that the relay may take beside what is tested.
const SLACK: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_answered_only_as_fast_as_the_answers_are_read() {
    let backend = Backend::embedded();
    let process = RelayProcess::start(&backend, &[("WS_STALL_TIMEOUT", "3")]).await;
    let device = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let mut wire = Wire::open(&device).await;
    wire.expect("queue_drained").await;
    let before = resident(process.id());
    let flood = masked(0x89, &[7; 125]).repeat(1000);
    let mut given = 0;
    while let Ok(Ok(())) = timeout(Duration::from_secs(1), wire.stream.write_all(&flood)).await {
        given += flood.len();
        assert!(given < 1 << 30, "the relay takes pings without end");
    }
    let grown = resident(process.id()).saturating_sub(before);
    assert!(grown < SLACK, "the relay grew by {grown} bytes by {given} bytes of pings");
    wait::until(Duration::from_secs(20), "who does not read is closed", async || {
        device.get("/health").await.is(200)["stats"]["active_connections"] == 0
    })
    .await;
    drop(wire);
    // Whoever reads has every answer.
    let mut wire = Wire::open(&device).await;
    wire.expect("queue_drained").await;
    wire.put(&masked(0x89, b"one").repeat(100)).await.unwrap();
    for _ in 0..100 {
        let pong = wire.next().await.unwrap();
        assert_eq!((pong.opcode, &pong.payload[..]), (10, &b"one"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_any_depth_are_refused_and_the_socket_lives() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let mut json = Socket::open(&device).await;
    let open = "[".repeat(200_000);
    for text in [open.clone(), format!(r#"{{"type":"send","ciphertext":{open}"#), r#"{"a":"#.repeat(100_000)]
    {
        json.send_raw(Message::text(text)).await.unwrap();
        let told = json.expect("error").await;
        assert!(["bad-json", "bad-field"].contains(&told["code"].as_str().unwrap()), "{told}");
    }
    json.send(&json!({ "type": "ping" })).await;
    json.expect("pong").await;
    json.close().await;

    let mut packed = Socket::connect(&device, Format::MessagePack, Door::Header).await.unwrap();
    packed.expect("hello").await;
    // Lists in lists, and maps in maps: {"type": {"type": …
    for level in [&b"\x91"[..], b"\x81\xa4type"] {
        packed.send_raw(Message::binary(level.repeat(150_000))).await.unwrap();
        let told = packed.expect("error").await;
        assert!(["bad-frame", "bad-field"].contains(&told["code"].as_str().unwrap()), "{told}");
    }
    packed.send(&json!({ "type": "ping" })).await;
    packed.expect("pong").await;
    backend.finish().await;
}
