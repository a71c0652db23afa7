//! Messages to a group: stored once, in one order, and only what may be one.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, message, private_message, roster};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_sent_message_is_told_of_and_found_by_everyone,
    a_send_that_is_repeated_is_stored_once,
    an_id_belongs_to_one_send,
    positions_are_without_a_gap_whoever_sends,
    what_cannot_be_a_sealed_message_is_refused,
    a_roster_group_takes_nothing_of_mls,
    a_message_that_is_to_be_erased_loses_its_body_in_time,
}

async fn a_sent_message_is_told_of_and_found_by_everyone(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let body = json!({ "ciphertext": b64(opaque(64)), "message_type": "Poll", "device_id": "phone" });
    let path = scene.at(&format!("/send/{}", scene.bob.user_id));
    let sent = scene.bob.post(&path, &body).await.is(201);
    let keys: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["epoch", "group_id", "message_id", "position", "sequence_number", "status", "timestamp"];
    assert_eq!(keys, expected);
    assert_eq!((&sent["group_id"], &sent["status"]), (&json!(scene.group), &json!("Sent")));
    assert_eq!((&sent["sequence_number"], &sent["epoch"]), (&sent["position"], &json!(0)));
    for reader in [&scene.owner, &scene.bob, &scene.carol] {
        let log = scene.log(reader, "").await.is(200);
        let entry = log["entries"].as_array().unwrap().last().unwrap().clone();
        let expected = json!({
            "group_id": scene.group,
            "position": sent["position"],
            "sequence_number": sent["position"],
            "kind": "application",
            "message_id": sent["message_id"],
            "sender_id": scene.bob.user_id,
            "sender_device_id": "phone",
            "message_type": "Poll",
            "epoch": 0,
            "ciphertext": body["ciphertext"],
            "timestamp": sent["timestamp"],
            "expires_at": null,
        });
        assert_eq!(entry, expected);
    }
}

async fn a_send_that_is_repeated_is_stored_once(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let mut body = message();
    body["message_id"] = json!(Uuid::new_v4());
    body["expires_in_seconds"] = json!(3600);
    let first = scene.send(&scene.bob, &body).await.is(201);
    let before = scene.seen().await;
    for _ in 0..3 {
        assert_eq!(scene.send(&scene.bob, &body).await.is(200), first);
    }
    scene.send(&scene.owner, &message()).await.is(201);
    assert_eq!(scene.send(&scene.bob, &body).await.is(200), first);
    assert_ne!(scene.seen().await, before, "the other message is there");
    let log = scene.log(&scene.bob, "").await.is(200);
    let same = |entry: &&Value| entry["message_id"] == body["message_id"];
    assert_eq!(log["entries"].as_array().unwrap().iter().filter(same).count(), 1);
}

async fn an_id_belongs_to_one_send(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let elsewhere = roster(&scene.owner, &[&scene.bob]).await;
    let mut body = message();
    body["message_id"] = json!(Uuid::new_v4());
    scene.send(&scene.bob, &body).await.is(201);
    let before = scene.seen().await;
    let others = [
        ("ciphertext", json!(b64(opaque(64)))),
        ("message_type", json!("Text")),
        ("expires_in_seconds", json!(60)),
    ];
    for (field, value) in others {
        let mut other = body.clone();
        other[field] = value;
        scene.send(&scene.bob, &other).await.refused(409, "message-id-reused");
    }
    scene.send(&scene.owner, &body).await.refused(409, "message-id-reused");
    let there = format!("/api/v1/groups/{elsewhere}/send/me");
    scene.bob.post(&there, &body).await.refused(409, "message-id-reused");
    assert_eq!(scene.seen().await, before);
}

async fn positions_are_without_a_gap_whoever_sends(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let bodies: Vec<_> = (0..10).map(|_| message()).collect();
    let sends = bodies.iter().flat_map(|body| [scene.send(&scene.owner, body), scene.send(&scene.bob, body)]);
    let answers = futures_util::future::join_all(sends).await;
    let mut positions: Vec<_> =
        answers.into_iter().map(|answer| answer.is(201)["position"].as_i64().unwrap()).collect();
    positions.sort_unstable();
    let first = positions[0];
    assert_eq!(positions, (first..first + 20).collect::<Vec<_>>());
    let log = scene.log(&scene.carol, "limit=100").await.is(200);
    let read = log["entries"].as_array().unwrap().iter().map(|entry| entry["position"].as_i64().unwrap());
    assert_eq!(read.filter(|position| *position >= first).collect::<Vec<_>>(), positions);
}

async fn what_cannot_be_a_sealed_message_is_refused(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let text = b64("is anybody there, and can anybody read this line of text?");
    let cases = [
        ("ciphertext", json!(b64(opaque(27))), 422, "bad-envelope"),
        ("ciphertext", json!(b64([])), 422, "bad-envelope"),
        ("ciphertext", json!(text), 422, "not-ciphertext"),
        ("ciphertext", json!(b64(opaque((96 << 10) + 1))), 413, "too-large"),
        ("expires_in_seconds", json!(0), 422, "bad-expiry"),
        ("expires_in_seconds", json!(2_592_001), 422, "bad-expiry"),
    ];
    for (field, value, status, code) in cases {
        let mut body = message();
        body[field] = value;
        let problem = scene.send(&scene.bob, &body).await.refused(status, code);
        assert_eq!(problem["field"], field);
    }
    assert_eq!(scene.seen().await, before);
    scene.send(&scene.bob, &json!({ "ciphertext": b64(opaque(96 << 10)) })).await.is(201);
    scene.send(&scene.bob, &json!({ "ciphertext": b64(opaque(28)) })).await.is(201);
}

async fn a_roster_group_takes_nothing_of_mls(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let application = json!({ "ciphertext": private_message(&scene.group, 0, 1) });
    let problem = scene.send(&scene.bob, &application).await.refused(422, "not-mls");
    assert_eq!(problem["field"], "ciphertext");
    let of_mls = super::every_act(&scene.group, scene.bob.user_id).into_iter().filter(|(_, path, body)| {
        let mls = ["/commits/me", "/proposals/me", "/tree", "/tree?epoch=5", "/info", "/reports", "/reset"];
        let holds = |field: &str| body.as_ref().is_some_and(|body| body.get(field).is_some());
        mls.iter().any(|end| path.ends_with(end)) || holds("commit") || holds("proposals")
    });
    for (method, path, body) in of_mls {
        scene.owner.call(method.clone(), &path, body.as_ref()).await.refused(422, "not-mls");
    }
    scene.owner.post(&scene.at("/invites"), &json!({})).await.refused(403, "not-allowed");
    scene.owner.post(&scene.at("/reset"), &json!({})).await.refused(422, "not-mls");
    assert_eq!(scene.seen().await, before);
}

async fn a_message_that_is_to_be_erased_loses_its_body_in_time(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let owner = Device::registered(&relay, Kind::Ed25519).await;
    let group = roster(&owner, &[]).await;
    let mut body = message();
    body["expires_in_seconds"] = json!(60);
    let sent = owner.post(&format!("/api/v1/groups/{group}/send/me"), &body).await.is(201);
    let path = format!("/api/v1/groups/{group}/messages");
    let last = async || owner.get(&path).await.is(200)["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last().await["ciphertext"], body["ciphertext"]);
    clock.advance(Duration::from_secs(61));
    let entry = last().await;
    assert_eq!((&entry["message_id"], &entry["ciphertext"]), (&sent["message_id"], &Value::Null));
    assert_eq!(owner.post(&format!("/api/v1/groups/{group}/send/me"), &message()).await.status, 201);
}
