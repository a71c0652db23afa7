//! How a socket opens, and what its frames are answered with.

use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};
use uuid::Uuid;

use super::{pair, quiet, send_frame};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    relay::{Backend, TestRelay, on_both_backends},
    socket::{Door, Format, Socket},
    told,
};

on_both_backends! {
    the_token_is_taken_from_either_place_and_the_subprotocol_selected,
    a_bad_token_is_refused_before_the_upgrade,
    another_ones_path_is_refused,
    me_stands_for_the_callers_own_ids,
    a_send_is_answered_like_the_route,
    refused_sends_name_their_ref_and_the_socket_lives,
    pings_are_answered,
    every_example_of_a_clients_frame_is_understood,
}

/// The status that the relay answered instead of the upgrade.
fn status(result: Result<Socket, tungstenite::Error>) -> u16 {
    match result {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("upgraded"),
    }
}

async fn the_token_is_taken_from_either_place_and_the_subprotocol_selected(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for door in [Door::Header, Door::Subprotocol] {
        for (format, name) in [(Format::Json, "restante.v1"), (Format::MessagePack, "restante.v1.msgpack")] {
            let mut socket = Socket::connect(&bob, format, door).await.unwrap();
            assert_eq!(socket.protocol.as_deref(), Some(name), "{door:?}");
            assert_eq!(socket.expect("hello").await["pending"], 0);
        }
    }
}

async fn a_bad_token_is_refused_before_the_upgrade(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let path = format!("/ws/{}/{}", bob.user_id, bob.device_id);
    let mut forged = bob.access_token.clone();
    forged.replace_range(forged.len() - 4.., "AAAA");
    for token in ["", "x", &bob.refresh_token, &forged] {
        for door in [Door::Header, Door::Subprotocol] {
            let refused = Socket::connect_to(&bob.base, &path, token, Format::Json, door).await;
            assert_eq!(status(refused), 401);
        }
    }
}

async fn another_ones_path_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let tablet = bob.linked("tablet").await;
    for path in [
        format!("/ws/{}/{}", alice.user_id, alice.device_id),
        format!("/ws/{}/{}", bob.user_id, tablet.device_id),
        format!("/ws/{}/nowhere", bob.user_id),
    ] {
        let refused =
            Socket::connect_to(&bob.base, &path, &bob.access_token, Format::Json, Door::Header).await;
        assert_eq!(status(refused), 403, "{path}");
    }
}

async fn me_stands_for_the_callers_own_ids(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket =
        Socket::connect_to(&bob.base, "/ws/me/me", &bob.access_token, Format::Json, Door::Header)
            .await
            .unwrap();
    socket.expect("hello").await;
}

async fn a_send_is_answered_like_the_route(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    for format in [Format::Json, Format::MessagePack] {
        let mut socket = Socket::connect(&alice, format, Door::Header).await.unwrap();
        let id = Uuid::new_v4();
        let mut frame = send_frame("first", bob.user_id);
        frame["message_id"] = json!(id);
        frame["device_id"] = json!(alice.device_id);
        socket.send(&frame).await;
        let sent = socket.expect("sent").await;
        assert_eq!((&sent["ref"], &sent["status"]), (&json!("first"), &json!("Sent")));
        assert_eq!(sent["message_id"], json!(id));
        let mut body = frame.clone();
        for own_to_frames in ["type", "ref"] {
            body.as_object_mut().unwrap().remove(own_to_frames);
        }
        let repeated = alice.send(&body).await.is(200);
        for field in ["message_id", "conversation_id", "sequence_number", "timestamp", "status"] {
            assert_eq!(repeated[field], sent[field], "{field}");
        }
    }
    assert_eq!(bob.mailbox().await.len(), 2);
}

async fn refused_sends_name_their_ref_and_the_socket_lives(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut socket = Socket::open(&alice).await;
    let mut cases = Vec::new();
    cases.push(("no-devices", send_frame("0", Uuid::new_v4())));
    let mut text = send_frame("1", bob.user_id);
    text["ciphertext"] = json!(b64("good morning, this is a readable text"));
    cases.push(("not-ciphertext", text));
    let mut other = send_frame("2", bob.user_id);
    other["device_id"] = json!("tablet");
    cases.push(("not-you", other));
    let mut stranger = send_frame("3", bob.user_id);
    let fields = stranger.as_object_mut().unwrap();
    let body = fields.remove("ciphertext").unwrap();
    fields.insert("envelopes".into(), json!([{ "device_id": "desk", "ciphertext": body }]));
    cases.push(("device-list-mismatch", stranger));
    for (code, frame) in cases {
        socket.send(&frame).await;
        let error = socket.expect("error").await;
        assert_eq!((&error["code"], &error["ref"]), (&json!(code), &frame["ref"]), "{error}");
        assert!(error["detail"].is_string());
        if code == "device-list-mismatch" {
            assert!(error["missing"].is_array() && error["extra"].is_array(), "{error}");
        }
    }
    socket.send(&send_frame("last", bob.user_id)).await;
    assert_eq!(socket.expect("sent").await["ref"], "last");
    assert_eq!(bob.mailbox().await.len(), 1);
}

async fn pings_are_answered(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    quiet(&mut socket).await;
    socket.send_raw(Message::Ping("near?".into())).await.unwrap();
    let answer = futures_util::StreamExt::next(socket.raw()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("near?".into()));
}

async fn bad(relay: &TestRelay, format: Format, frames: Vec<Message>) {
    let bob = Device::registered(relay, Kind::Ed25519).await;
    let mut socket = Socket::connect(&bob, format, Door::Header).await.unwrap();
    socket.expect("queue_drained").await;
    for (count, frame) in frames.iter().cycle().take(10).enumerate() {
        if count == 9 {
            socket.send(&json!({ "type": "ping" })).await;
            socket.expect("pong").await;
        }
        socket.send_raw(frame.clone()).await.unwrap();
        let error = socket.expect("error").await;
        assert!(error["code"].is_string() && error["detail"].is_string(), "{error}");
    }
    assert_eq!(socket.closed().await, Some(4400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tenth_bad_frame_in_a_minute_closes_the_socket() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let text = |frame: serde_json::Value| Message::text(frame.to_string());
    let ack = json!([Uuid::new_v4()]);
    let json_frames = vec![
        Message::binary(opaque(100)),
        Message::text("{"),
        Message::text("[]"),
        text(json!({ "type": "nothing" })),
        text(json!({ "type": 7 })),
        text(json!({ "type": "ack", "message_ids": "x" })),
        text(json!({ "type": "ack", "message_ids": ack, "more": 1 })),
        text(json!({ "type": "ping", "more": 1 })),
        text(json!({ "type": "send", "ref": "r".repeat(65) })),
        text(json!({ "type": "read", "message_id": "no" })),
    ];
    bad(&relay, Format::Json, json_frames).await;
    bad(&relay, Format::Json, vec![Message::binary(opaque(28))]).await;
    let deep = vec![0x91; 100_000];
    let packed_frames = vec![
        Message::binary(opaque(100)),
        Message::text("{\"type\":\"ping\"}"),
        Message::binary(deep),
        // A map whose list of ids announces 2^32 - 1 elements.
        Message::binary(b"\x82\xa4type\xa3ack\xabmessage_ids\xdd\xff\xff\xff\xff".to_vec()),
        Message::binary(Vec::new()),
    ];
    bad(&relay, Format::MessagePack, packed_frames).await;
    bad(&relay, Format::Json, vec![Message::text("[".repeat(100_000))]).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_is_no_bad_frame() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&alice).await;
    for number in 0..20 {
        socket.send(&send_frame(&number.to_string(), Uuid::new_v4())).await;
        assert_eq!(socket.expect("error").await["code"], "no-devices");
    }
    quiet_after_drain(&mut socket).await;
    backend.finish().await;
}

async fn quiet_after_drain(socket: &mut Socket) {
    socket.expect("queue_drained").await;
    quiet(socket).await;
}

/// The examples name users and messages that are not there, so some are refused; none because of how it is written.
async fn every_example_of_a_clients_frame_is_understood(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for format in [Format::Json, Format::MessagePack] {
        let mut socket = Socket::connect(&bob, format, Door::Header).await.unwrap();
        let mut answered = 0;
        for example in told::examples_of_clients() {
            socket.send(example).await;
            let answer = loop {
                let frame = socket.next().await;
                if frame["ref"] == example["ref"] {
                    break frame;
                }
            };
            let code = answer["code"].as_str().unwrap_or_default();
            assert!(!["bad-field", "bad-frame", "bad-json"].contains(&code), "{example}: {answer}");
            answered += 1;
        }
        assert!(answered > 4, "the examples were not found");
    }
}
