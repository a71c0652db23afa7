//! What arrives, in which order, and how often.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{messages, pair, quiet, send_frame, sent};
use crate::support::{
    client::{Device, Kind, opaque_send},
    crypto::b64,
    relay::{Backend, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! {
    the_backlog_comes_in_order_then_one_queue_drained_then_what_is_live,
    an_empty_mailbox_is_drained_once_whatever_comes_first,
    a_full_window_of_backlog_is_drained_without_an_ack,
    both_formats_carry_the_same,
    what_is_unacked_comes_again_in_order_and_what_is_acked_never,
    no_more_than_the_window_is_in_flight_until_it_is_acked,
    a_burst_larger_than_the_window_arrives_whole_and_in_order,
    expired_items_are_not_pushed,
    online_only_reaches_connected_devices_alone,
    online_only_into_a_conversation_of_others_is_refused,
    deleting_for_everyone_takes_the_place_of_a_waiting_body,
    receipts_reach_the_sender,
    keys_low_is_told_on_exhaustion_and_at_connect,
}

async fn the_backlog_comes_in_order_then_one_queue_drained_then_what_is_live(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let waiting = sent(&alice, bob.user_id, 5).await;
    let mut socket = Socket::connect(&bob, Format::Json, Door::Header).await.unwrap();
    let hello = socket.next().await;
    assert_eq!((&hello["type"], &hello["pending"]), (&json!("hello"), &json!(5)), "{hello}");
    assert_eq!(hello["heartbeat_seconds"], 30);
    assert!(hello["session_id"].is_string() && hello["server_time"].is_string());
    let backlog = socket.until("queue_drained").await;
    let ids: Vec<_> = backlog.iter().map(|frame| frame["message_id"].clone()).collect();
    assert_eq!(ids, waiting);
    let live = sent(&alice, bob.user_id, 5).await;
    assert_eq!(messages(&mut socket, 5).await, live);
    socket.ack(&waiting.iter().chain(&live).collect::<Vec<_>>()).await;
    quiet(&mut socket).await;
}

async fn an_empty_mailbox_is_drained_once_whatever_comes_first(backend: &Backend) {
    // Without Redis the first item of a mailbox comes through the reconciler.
    let redis: &[_] = if backend.is_production() { &[("REDIS_URL", "")] } else { &[] };
    let near = backend.relay(redis).await;
    let (alice, mut bob) = pair(&near).await;
    if backend.is_production() {
        bob.base = backend.relay(redis).await.url();
    }
    let mut socket = Socket::open(&bob).await;
    assert_eq!(socket.next().await["type"], "queue_drained");
    let id = sent(&alice, bob.user_id, 1).await.remove(0);
    let frame = socket.expect("message").await;
    assert_eq!(frame["message_id"], id);
    socket.ack(&[&id]).await;
    quiet(&mut socket).await;
}

async fn a_full_window_of_backlog_is_drained_without_an_ack(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "3")]).await;
    let (alice, bob) = pair(&relay).await;
    sent(&alice, bob.user_id, 3).await;
    let mut socket = Socket::open(&bob).await;
    assert_eq!(socket.until("queue_drained").await.len(), 3);
}

async fn both_formats_carry_the_same(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut body = opaque_send(bob.user_id);
    body["ephemeral_key"] = json!(b64([0x91; 32]));
    alice.send(&body).await.is(201);
    let mut backlogs = Vec::new();
    for format in [Format::Json, Format::MessagePack] {
        let mut socket = Socket::connect(&bob, format, Door::Header).await.unwrap();
        socket.expect("hello").await;
        backlogs.push(socket.until("queue_drained").await);
        socket.close().await;
    }
    assert_eq!(backlogs[0], backlogs[1]);
    assert_eq!(backlogs[0][0]["ciphertext"], body["ciphertext"]);
    assert_eq!(backlogs[0][0]["ephemeral_key"], body["ephemeral_key"]);
}

async fn what_is_unacked_comes_again_in_order_and_what_is_acked_never(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let ids = sent(&alice, bob.user_id, 6).await;
    let mut socket = Socket::open(&bob).await;
    assert_eq!(socket.until("queue_drained").await.len(), 6);
    socket.ack(&[&ids[1], &ids[4]]).await;
    socket.close().await;
    let mut socket = Socket::open(&bob).await;
    let again: Vec<_> =
        socket.until("queue_drained").await.iter().map(|frame| frame["message_id"].clone()).collect();
    assert_eq!(again, [&ids[0], &ids[2], &ids[3], &ids[5]].map(Clone::clone));
    // What an earlier socket was given may be acked at this one, and unknown ids are ignored.
    let unknown = json!(uuid::Uuid::new_v4());
    socket.ack(&[&unknown, &ids[1], &ids[0], &ids[2], &ids[3], &ids[5]]).await;
    socket.close().await;
    let mut socket = Socket::open(&bob).await;
    assert!(socket.until("queue_drained").await.is_empty());
    assert!(bob.mailbox().await.is_empty());
}

async fn no_more_than_the_window_is_in_flight_until_it_is_acked(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "4")]).await;
    let (alice, bob) = pair(&relay).await;
    let ids = sent(&alice, bob.user_id, 9).await;
    let mut socket = Socket::open(&bob).await;
    assert_eq!(messages(&mut socket, 4).await, ids[..4]);
    quiet(&mut socket).await;
    socket.ack(&[&ids[2]]).await;
    assert_eq!(messages(&mut socket, 1).await, ids[4..5]);
    quiet(&mut socket).await;
    socket.ack(&[&ids[0], &ids[1], &ids[3], &ids[4]]).await;
    assert_eq!(messages(&mut socket, 4).await, ids[5..]);
    socket.ack(&ids[5..].iter().collect::<Vec<_>>()).await;
    socket.expect("queue_drained").await;
    quiet(&mut socket).await;
}

async fn a_burst_larger_than_the_window_arrives_whole_and_in_order(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "16")]).await;
    let (alice, bob) = pair(&relay).await;
    let mut receiver = Socket::open(&bob).await;
    let mut sender = Socket::open(&alice).await;
    for number in 0..300 {
        sender.send(&send_frame(&number.to_string(), bob.user_id)).await;
    }
    let mut ids = Vec::new();
    for _ in 0..300 {
        let sent = sender.expect("sent").await;
        assert_eq!(sent["ref"], ids.len().to_string(), "answers keep the order of a socket's sends");
        ids.push(sent["message_id"].clone());
    }
    let mut got = Vec::new();
    while got.len() < 300 {
        let id = receiver.expect("message").await["message_id"].clone();
        receiver.send(&json!({ "type": "ack", "message_ids": [id] })).await;
        got.push(id);
    }
    assert_eq!(got, ids);
}

async fn expired_items_are_not_pushed(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut brief = opaque_send(bob.user_id);
    brief["is_self_destructing"] = json!(true);
    brief["expires_in_seconds"] = json!(5);
    alice.send(&brief).await.is(201);
    let lasting = sent(&alice, bob.user_id, 1).await;
    clock.advance(Duration::from_secs(6));
    let mut socket = Socket::open(&bob).await;
    let frames = socket.until("queue_drained").await;
    let ids: Vec<_> = frames.iter().map(|frame| frame["message_id"].clone()).collect();
    assert_eq!(ids, lasting);
}

async fn online_only_reaches_connected_devices_alone(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let tablet = bob.linked("tablet").await;
    let mut fleeting = opaque_send(bob.user_id);
    fleeting["online_only"] = json!(true);
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let answer = alice.send(&fleeting).await.is(202);
    assert_eq!((&answer["status"], &answer["sequence_number"]), (&json!("Relayed"), &Value::Null));
    let frame = socket.expect("message").await;
    assert_eq!(frame["ciphertext"], fleeting["ciphertext"]);
    assert_eq!(frame["sequence_number"], Value::Null);
    assert!(bob.mailbox().await.is_empty());
    let mut late = Socket::open(&tablet).await;
    assert!(late.until("queue_drained").await.is_empty());
}

async fn online_only_into_a_conversation_of_others_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    let into = |to: &Device, conversation: &Value| {
        let mut body = opaque_send(to.user_id);
        body["conversation_id"] = conversation.clone();
        body
    };
    let live = |mut body: Value| {
        body["online_only"] = json!(true);
        body
    };
    let named = json!(Uuid::new_v4());
    let own = alice.send_opaque(bob.user_id).await["conversation_id"].clone();
    alice.send(&into(&bob, &named)).await.is(201);
    let mut socket = Socket::open(&alice).await;
    for conversation in [&named, &own] {
        carol.send(&live(into(&alice, conversation))).await.refused(404, "not-found");
        alice.send(&live(into(&carol, conversation))).await.refused(404, "not-found");
        let told = bob.send(&live(into(&alice, conversation))).await.is(202);
        let frame = socket.expect("message").await;
        assert_eq!((&frame["message_id"], &frame["conversation_id"]), (&told["message_id"], conversation));
    }
    socket.expect("queue_drained").await;
    quiet(&mut socket).await;
}

async fn deleting_for_everyone_takes_the_place_of_a_waiting_body(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let ids = sent(&alice, bob.user_id, 2).await;
    alice.delete_message(&ids[0], "everyone").await.is(200);
    let mut socket = Socket::open(&bob).await;
    let frames = socket.until("queue_drained").await;
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0]["message_id"], ids[1]);
    assert_eq!((&frames[1]["type"], &frames[1]["deletes"]), (&json!("deleted"), &ids[0]));
    alice.delete_message(&ids[1], "everyone").await.is(200);
    let live = socket.expect("deleted").await;
    assert_eq!(live["deletes"], ids[1]);
    socket.ack(&[&frames[0]["message_id"], &frames[1]["message_id"], &live["message_id"]]).await;
    socket.close().await;
    let mut socket = Socket::open(&bob).await;
    assert!(socket.until("queue_drained").await.is_empty());
}

async fn receipts_reach_the_sender(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut sender = Socket::open(&alice).await;
    let mut receiver = Socket::open(&bob).await;
    let id = sent(&alice, bob.user_id, 1).await.remove(0);
    let frame = receiver.expect("message").await;
    bob.mark("delivered", &id).await.is(200);
    let delivered = sender.expect("receipt").await;
    receiver.send(&json!({ "type": "read", "ref": "r", "message_id": id })).await;
    assert_eq!(receiver.expect("acked").await["ref"], "r");
    let read = sender.expect("receipt").await;
    for (receipt, status) in [(&delivered, "Delivered"), (&read, "Read")] {
        assert_eq!((&receipt["message_id"], &receipt["status"]), (&id, &json!(status)), "{receipt}");
        assert_eq!(receipt["by"], json!(bob.user_id));
        assert_eq!(receipt["conversation_id"], frame["conversation_id"]);
        assert!(receipt["at"].is_string());
    }
}

async fn keys_low_is_told_on_exhaustion_and_at_connect(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    // Several callers, since what one caller may take of one user is limited.
    for _ in 0..4 {
        let caller = Device::registered(&relay, Kind::Ed25519).await;
        for _ in 0..10 {
            caller.bundle(&bob).await.is(200);
        }
    }
    let low = socket.expect("keys_low").await;
    assert!(low["onetime_prekeys"].as_u64().unwrap() < 20, "{low}");
    socket.close().await;
    let mut socket = Socket::open(&bob).await;
    assert_eq!(socket.expect("keys_low").await["onetime_prekeys"], 10);
}
