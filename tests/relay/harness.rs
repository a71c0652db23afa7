//! That the harness itself works: real clients over a real relay, on both sets of engines.

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    client::{Device, Kind, opaque_send},
    process::RelayProcess,
    relay::{Backend, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! { signal_clients_talk_through_the_relay, frames_are_the_same_in_both_formats, raw_frames_reach_the_relay_as_they_are }

async fn signal_clients_talk_through_the_relay(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let mut bob = Device::registered(&relay, Kind::Signal).await;
    alice.send_signal(bob.user_id, b"until tomorrow").await.is(201);
    let message = bob.mailbox().await.remove(0);
    assert_eq!(message["envelope_type"], "prekey");
    assert_eq!(bob.keys.decrypt(&message), b"until tomorrow");
    bob.ack(&[&message["message_id"]]).await.is(200);

    let mut socket = Socket::open(&alice).await;
    socket.expect("queue_drained").await;
    bob.send_signal(alice.user_id, b"gladly").await.is(201);
    let frame = socket.expect("message").await;
    assert_eq!(alice.keys.decrypt(&frame), b"gladly");
    socket.ack(&[&frame["message_id"]]).await;
    assert!(alice.mailbox().await.is_empty());
}

async fn frames_are_the_same_in_both_formats(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut packed = Socket::connect(&alice, Format::MessagePack, Door::Subprotocol).await.unwrap();
    assert_eq!(packed.protocol.as_deref(), Some("restante.v1.msgpack"));
    packed.expect("hello").await;
    let mut frame = opaque_send(bob.user_id);
    frame["type"] = json!("send");
    frame["ref"] = json!("1");
    packed.send(&frame).await;
    let sent = packed.expect("sent").await;
    let mut plain = Socket::open(&bob).await;
    let got = plain.expect("message").await;
    assert_eq!((&got["message_id"], &got["ciphertext"]), (&sent["message_id"], &frame["ciphertext"]));
}

async fn raw_frames_reach_the_relay_as_they_are(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&alice).await;
    socket.send_raw(Message::text("{")).await.unwrap();
    assert_eq!(socket.expect("error").await["code"], "bad-json");
    socket.raw().send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(socket.expect("error").await["code"], "bad-frame");
    socket.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_comes_back_with_its_data() {
    let backend = Backend::embedded();
    let mut process = RelayProcess::start(&backend, &[]).await;
    let alice = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let bob = Device::registered_at(&process.url(), Kind::Ed25519).await;
    alice.send_opaque(bob.user_id).await;
    process.kill().await;
    process.restart().await;
    assert_eq!(bob.mailbox().await.len(), 1);
    assert!(process.stop().await.success());
}
