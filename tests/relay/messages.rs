//! The promises of `/api/v1/messages`: sends and their repeats, histories, receipts, deletion, the mailbox.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    crypto::{b64, opaque},
    relay::{Backend, TestRelay, on_both_backends},
    socket::Socket,
};

on_both_backends! {
    one_body_reaches_every_device_of_the_recipient,
    a_repeated_send_answers_as_the_first_and_changes_nothing,
    a_message_id_belongs_to_one_send_of_one_device,
    a_repeat_is_recognised_whatever_became_of_the_recipient,
    envelopes_reach_the_devices_they_name,
    envelopes_must_name_exactly_the_devices_there_are,
    a_note_to_self_reaches_the_siblings,
    a_recipient_without_devices_is_refused,
    online_only_is_never_stored,
    an_expired_body_is_erased,
    readable_text_is_refused_unless_the_guard_is_off,
    a_pair_has_its_own_conversation_and_may_name_others,
    a_conversation_of_others_does_not_exist,
    history_is_paged_newest_first,
    history_shows_each_device_its_own_body,
    the_first_mark_wins_and_the_sender_hears_of_it,
    a_message_is_deleted_for_me_alone,
    only_its_sender_deletes_a_message_for_everyone,
    the_mailbox_is_paged_in_order_and_acked_in_both_forms,
    a_full_mailbox_is_refused_with_a_time_to_come_back,
    signal_sessions_outlive_lost_prekeys,
}

struct Pair {
    relay: TestRelay,
    alice: Device,
    bob: Device,
}

async fn pair(backend: &Backend, settings: &[(&str, &str)]) -> Pair {
    let relay = backend.relay(settings).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    Pair { relay, alice, bob }
}

fn with(mut body: Value, name: &str, value: impl Into<Value>) -> Value {
    body[name] = value.into();
    body
}

fn ids(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["message_id"].as_str().unwrap()).collect()
}

async fn one_body_reaches_every_device_of_the_recipient(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let tablet = bob.linked("tablet").await;
    let body = with(opaque_send(bob.user_id), "message_type", "Media");
    let body = with(body, "ephemeral_key", b64(opaque(32)));
    let answer = alice.send(&body).await;
    let sent = answer.is(201);
    assert_eq!(sent["status"], "Sent");
    assert!(sent["timestamp"].is_string() && sent["sequence_number"].is_i64());
    for device in [&bob, &tablet] {
        let mailbox = device.mailbox().await;
        assert_eq!(mailbox.len(), 1);
        let message = &mailbox[0];
        let expected = json!({
            "id": sent["message_id"], "message_id": sent["message_id"], "conversation_id": sent["conversation_id"],
            "sender_id": alice.user_id, "sender_device_id": "phone", "sender_device_number": 1,
            "recipient_id": bob.user_id, "message_type": "Media", "envelope_type": "opaque",
            "ciphertext": body["ciphertext"], "ephemeral_key": body["ephemeral_key"],
            "sequence_number": sent["sequence_number"], "timestamp": sent["timestamp"], "status": "Sent",
            "delivered_at": null, "read_at": null, "is_self_destructing": false,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(message[name], *value, "{name}");
        }
        assert!(message["expires_at"].is_string());
    }
    assert!(alice.mailbox().await.is_empty());
}

async fn a_repeated_send_answers_as_the_first_and_changes_nothing(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let body = with(opaque_send(bob.user_id), "message_id", Uuid::new_v4().to_string());
    let first = alice.send(&body).await.is(201);
    assert_eq!(alice.send(&body).await.is(200), first);
    bob.ack(&[&first["message_id"]]).await.is(200);
    assert_eq!(alice.send(&body).await.is(200), first);
    assert!(bob.mailbox().await.is_empty(), "an acked message does not come back");

    let racing = with(opaque_send(bob.user_id), "message_id", Uuid::new_v4().to_string());
    let sends = futures_util::future::join_all((0..8).map(|_| alice.send(&racing))).await;
    assert_eq!(sends.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(sends.iter().all(|answer| answer.body == sends[0].body), "{sends:?}");
    assert_eq!(bob.mailbox().await.len(), 1);
}

async fn a_message_id_belongs_to_one_send_of_one_device(backend: &Backend) {
    let Pair { alice, bob, relay } = pair(backend, &[]).await;
    let laptop = alice.linked("laptop").await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    let body = with(opaque_send(bob.user_id), "message_id", Uuid::new_v4().to_string());
    alice.send(&body).await.is(201);
    let others = [
        with(body.clone(), "ciphertext", b64(opaque(64))),
        with(body.clone(), "message_type", "Text"),
        with(body.clone(), "recipient_id", carol.user_id.to_string()),
        with(body.clone(), "expires_in_seconds", 60),
    ];
    for other in &others {
        alice.send(other).await.refused(409, "message-id-reused");
    }
    laptop.send(&body).await.refused(409, "message-id-reused");
    carol.send(&body).await.refused(409, "message-id-reused");
    assert_eq!(bob.mailbox().await.len(), 1);
    assert!(carol.mailbox().await.is_empty());
}

async fn a_repeat_is_recognised_whatever_became_of_the_recipient(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let envelope = json!({ "device_id": "phone", "ciphertext": b64(opaque(64)) });
    let body = json!({
        "recipient_id": bob.user_id, "message_id": Uuid::new_v4(), "envelopes": [envelope],
    });
    let first = alice.send(&body).await.is(201);
    bob.linked("tablet").await;
    assert_eq!(alice.send(&body).await.is(200), first);
    alice.delete_message(&first["message_id"], "everyone").await.is(200);
    assert_eq!(alice.send(&body).await.is(200), first);
    bob.deactivate(&bob).await.is(200);
    assert_eq!(alice.send(&body).await.is(200), first);
}

async fn envelopes_reach_the_devices_they_name(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let tablet = bob.linked("tablet").await;
    let (one, two) = (b64(opaque(30)), b64(opaque(30)));
    let body = json!({ "recipient_id": bob.user_id, "envelopes": [
        { "device_number": tablet.device_number, "ciphertext": two, "registration_id": tablet.registration_id },
        { "device_id": "phone", "ciphertext": one, "ephemeral_key": b64(opaque(33)) },
    ] });
    alice.send(&body).await.is(201);
    let (phones, tablets) = (bob.mailbox().await, tablet.mailbox().await);
    assert_eq!((phones.len(), &phones[0]["ciphertext"]), (1, &json!(one)));
    assert!(phones[0]["ephemeral_key"].is_string() && tablets[0]["ephemeral_key"].is_null());
    assert_eq!((tablets.len(), &tablets[0]["ciphertext"]), (1, &json!(two)));
}

async fn envelopes_must_name_exactly_the_devices_there_are(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    bob.linked("tablet").await;
    let envelope = |device: &str| json!({ "device_id": device, "ciphertext": b64(opaque(30)) });
    let send = async |envelopes: Value| {
        let body = json!({ "recipient_id": bob.user_id, "envelopes": envelopes });
        alice.send(&body).await
    };
    let lists = |problem: &Value| -> [Vec<Value>; 3] {
        ["missing", "extra", "stale"].map(|name| problem[name].as_array().unwrap().clone())
    };
    let problem = send(json!([envelope("phone"), envelope("watch")])).await;
    let [missing, extra, stale] = lists(&problem.refused(409, "device-list-mismatch"));
    assert_eq!((missing.len(), &missing[0]["device_id"]), (1, &json!("tablet")));
    assert_eq!((extra.len(), &extra[0]["device_id"]), (1, &json!("watch")));
    assert!(stale.is_empty());

    let wrong = bob.registration_id % 16_383 + 1;
    let problem = send(json!([with(envelope("phone"), "registration_id", wrong), envelope("tablet")])).await;
    let [missing, extra, stale] = lists(&problem.refused(409, "device-list-mismatch"));
    assert!(missing.is_empty() && extra.is_empty());
    assert_eq!((stale.len(), &stale[0]["device_id"]), (1, &json!("phone")));

    send(json!([])).await.refused(409, "device-list-mismatch");
    let twice = send(json!([envelope("phone"), envelope("phone"), envelope("tablet")])).await;
    assert!(twice.status >= 400, "one envelope for each device: {twice:?}");
    let by_both_names = json!([
        envelope("phone"), { "device_number": 1, "ciphertext": b64(opaque(30)) }, envelope("tablet")
    ]);
    let twice = send(by_both_names).await;
    assert!(twice.status >= 400, "one envelope for each device: {twice:?}");
    assert!(bob.mailbox().await.is_empty(), "nothing is stored");
}

async fn a_note_to_self_reaches_the_siblings(backend: &Backend) {
    let Pair { alice, relay: _relay, .. } = pair(backend, &[]).await;
    let alone = alice.send_opaque(alice.user_id).await;
    assert_eq!(alone["status"], "Sent");
    let history = alice.history(&alone["conversation_id"], "").await.is(200);
    assert_eq!((&history["count"], &history["messages"][0]["status"]), (&json!(1), &json!("Sent")));

    let laptop = alice.linked("laptop").await;
    let note = alice.send_opaque(alice.user_id).await;
    assert_eq!(note["conversation_id"], alone["conversation_id"]);
    assert!(alice.mailbox().await.is_empty());
    assert_eq!(ids(&laptop.mailbox().await), [note["message_id"].as_str().unwrap()]);
    let envelopes = json!([{ "device_id": "laptop", "ciphertext": b64(opaque(30)) }]);
    alice.send(&json!({ "recipient_id": alice.user_id, "envelopes": envelopes })).await.is(201);
    assert_eq!(laptop.mailbox().await.len(), 2);
}

async fn a_recipient_without_devices_is_refused(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    alice.send(&opaque_send(Uuid::new_v4())).await.refused(422, "no-devices");
    bob.deactivate(&bob).await.is(200);
    alice.send(&opaque_send(bob.user_id)).await.refused(422, "no-devices");
    let online = with(opaque_send(bob.user_id), "online_only", true);
    alice.send(&online).await.refused(422, "no-devices");
}

async fn online_only_is_never_stored(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let body = with(opaque_send(bob.user_id), "online_only", true);
    let told = alice.send(&body).await.is(202);
    assert_eq!(told["status"], "Relayed");
    assert!(told["message_id"].is_string() && told["timestamp"].is_string());
    assert!(told.get("sequence_number").is_none() && told.get("conversation_id").is_none(), "{told}");
    let mut socket = Socket::open(&bob).await;
    assert!(socket.until("queue_drained").await.is_empty(), "what was dropped does not come later");
    let told = alice.send(&body).await.is(202);
    let frame = socket.expect("message").await;
    assert_eq!((&frame["message_id"], &frame["sequence_number"]), (&told["message_id"], &Value::Null));
    assert!(bob.mailbox().await.is_empty());
    let stored = alice.send_opaque(bob.user_id).await;
    let history = bob.history(&stored["conversation_id"], "").await.is(200);
    assert_eq!(history["count"], 1);
}

async fn an_expired_body_is_erased(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("ACCESS_TOKEN_TTL_SECONDS", "86400")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let short = with(opaque_send(bob.user_id), "is_self_destructing", true);
    let short = with(short, "expires_in_seconds", 60);
    let sent = alice.send(&short).await.is(201);
    let kept = alice.send_opaque(bob.user_id).await;
    let waiting = bob.mailbox().await;
    assert_eq!(waiting[0]["is_self_destructing"], true);
    clock.advance(Duration::from_secs(59));
    assert_eq!(bob.mailbox().await.len(), 2);
    clock.advance(Duration::from_secs(1));
    assert_eq!(ids(&bob.mailbox().await), [kept["message_id"].as_str().unwrap()]);
    let mut socket = Socket::open(&bob).await;
    let frames = socket.until("queue_drained").await;
    assert_eq!(ids(&frames), [kept["message_id"].as_str().unwrap()]);
    let history = alice.history(&sent["conversation_id"], "").await.is(200);
    assert_eq!(history["count"], 1, "an expired message is hidden");
    for bad in [json!(0), json!(2_592_001)] {
        let body = with(opaque_send(bob.user_id), "expires_in_seconds", bad);
        alice.send(&body).await.refused(422, "bad-expiry");
    }
    let body = with(opaque_send(bob.user_id), "is_self_destructing", true);
    alice.send(&body).await.refused(422, "bad-expiry");
}

async fn readable_text_is_refused_unless_the_guard_is_off(backend: &Backend) {
    let texts = [
        "the quick brown fox jumps over the lazy dog",
        "\u{00e9}t\u{00e9} \u{2014} na\u{00ef}ve caf\u{00e9}, d\u{00e9}j\u{00e0} vu, \u{00e0} bient\u{00f4}t",
    ];
    {
        let Pair { alice, bob, relay } = pair(backend, &[]).await;
        for text in texts {
            let body = with(opaque_send(bob.user_id), "ciphertext", b64(text));
            let problem = alice.send(&body).await.refused(422, "not-ciphertext");
            assert_eq!(problem["field"], "ciphertext");
        }
        let envelopes = json!([{ "device_id": "phone", "ciphertext": b64(texts[0]) }]);
        let body = json!({ "recipient_id": bob.user_id, "envelopes": envelopes });
        let problem = alice.send(&body).await.refused(422, "not-ciphertext");
        assert_eq!(problem["field"], "envelopes[0].ciphertext");
        assert!(bob.mailbox().await.is_empty());
        relay.stop().await;
    }
    let Pair { alice, bob, relay: _relay } = pair(backend, &[("PLAINTEXT_GUARD", "off")]).await;
    let body = with(opaque_send(bob.user_id), "ciphertext", b64(texts[0]));
    alice.send(&body).await.is(201);
    assert_eq!(bob.mailbox().await[0]["ciphertext"], body["ciphertext"]);
}

async fn a_pair_has_its_own_conversation_and_may_name_others(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let nil = Uuid::nil().to_string();
    let one = alice.send_opaque(bob.user_id).await;
    let two = alice.send(&with(opaque_send(bob.user_id), "conversation_id", nil)).await.is(201);
    let back = bob.send_opaque(alice.user_id).await;
    assert_eq!(one["conversation_id"], two["conversation_id"]);
    assert_eq!(one["conversation_id"], back["conversation_id"]);
    let numbers = [&one, &two, &back].map(|sent| sent["sequence_number"].as_i64().unwrap());
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");

    let named = Uuid::new_v4().to_string();
    let send = with(opaque_send(bob.user_id), "conversation_id", named.clone());
    assert_eq!(alice.send(&send).await.is(201)["conversation_id"], named);
    let back = with(opaque_send(alice.user_id), "conversation_id", named.clone());
    bob.send(&back).await.is(201);
    assert_eq!(alice.history(&json!(named), "").await.is(200)["count"], 2);
}

async fn a_conversation_of_others_does_not_exist(backend: &Backend) {
    let Pair { alice, bob, relay } = pair(backend, &[]).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    let own = alice.send_opaque(bob.user_id).await["conversation_id"].clone();
    let named = json!(Uuid::new_v4());
    alice.send(&with(opaque_send(bob.user_id), "conversation_id", named.clone())).await.is(201);
    for conversation in [&own, &named] {
        carol.history(conversation, "").await.refused(404, "not-found");
        let into = with(opaque_send(alice.user_id), "conversation_id", conversation.clone());
        carol.send(&into).await.refused(404, "not-found");
        let third = with(opaque_send(carol.user_id), "conversation_id", conversation.clone());
        alice.send(&third).await.refused(404, "not-found");
    }
    alice.history(&json!(Uuid::new_v4()), "").await.refused(404, "not-found");
    assert!(carol.mailbox().await.is_empty());
}

async fn history_is_paged_newest_first(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(alice.send_opaque(bob.user_id).await);
    }
    let conversation = sent[0]["conversation_id"].clone();
    sent.reverse();
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = bob.history(&conversation, &query).await.is(200);
        let messages = page["messages"].as_array().unwrap();
        assert_eq!(page["count"], messages.len());
        assert!(messages.len() <= 2);
        seen.extend(messages.clone());
        let Some(next) = page["next_before_sequence"].as_i64() else { break };
        query = format!("limit=2&before_sequence={next}");
    }
    assert_eq!(ids(&seen), ids(&sent));
    for bad in ["limit=0", "limit=101"] {
        bob.history(&conversation, bad).await.refused(400, "bad-field");
    }
}

async fn history_shows_each_device_its_own_body(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let tablet = bob.linked("tablet").await;
    let sent = alice.send_opaque(bob.user_id).await;
    let conversation = &sent["conversation_id"];
    let view = async |device: &Device| device.history(conversation, "").await.is(200)["messages"][0].clone();
    assert!(view(&bob).await["ciphertext"].is_string());
    assert!(view(&alice).await["ciphertext"].is_null(), "a sender has no body of it");
    bob.ack(&[&sent["message_id"]]).await.is(200);
    assert!(view(&bob).await["ciphertext"].is_null());
    assert!(view(&tablet).await["ciphertext"].is_string());
    assert_eq!(view(&alice).await["status"], "Sent", "one device has not got it yet");
    tablet.ack(&[&sent["message_id"]]).await.is(200);
    assert_eq!(view(&alice).await["status"], "Delivered");
}

async fn the_first_mark_wins_and_the_sender_hears_of_it(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    let sent = alice.send_opaque(bob.user_id).await;
    let id = &sent["message_id"];
    let mut socket = Socket::open(&alice).await;
    alice.mark("read", id).await.refused(404, "not-found");
    carol.mark("delivered", id).await.refused(404, "not-found");
    let delivered = bob.mark("delivered", id).await.is(200)["delivered_at"].clone();
    let receipt = socket.expect("receipt").await;
    let expected = json!({
        "message_id": id, "conversation_id": sent["conversation_id"], "by": bob.user_id, "status": "Delivered",
        "at": delivered,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(receipt[name], *value, "{name}");
    }
    clock.advance(Duration::from_secs(5));
    let read = bob.mark("read", id).await.is(200)["read_at"].clone();
    assert_eq!(socket.expect("receipt").await["status"], "Read");
    assert_ne!(read, delivered);
    clock.advance(Duration::from_secs(5));
    assert_eq!(bob.mark("read", id).await.is(200)["read_at"], read);
    assert_eq!(bob.mark("delivered", id).await.is(200)["delivered_at"], delivered);
    let history = alice.history(&sent["conversation_id"], "").await.is(200);
    let message = &history["messages"][0];
    assert_eq!((&message["delivered_at"], &message["read_at"]), (&delivered, &read));
    assert_eq!(message["status"], "Read");
    bob.mark("read", &json!(Uuid::new_v4())).await.refused(404, "not-found");
    bob.put(&format!("/api/v1/messages/read/{}/{}", alice.user_id, id.as_str().unwrap()), None)
        .await
        .refused(403, "not-you");
}

async fn a_message_is_deleted_for_me_alone(backend: &Backend) {
    let Pair { alice, bob, relay } = pair(backend, &[]).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    let sent = alice.send_opaque(bob.user_id).await;
    let (id, conversation) = (&sent["message_id"], &sent["conversation_id"]);
    carol.delete_message(id, "me").await.refused(404, "not-found");
    carol.delete_message(id, "everyone").await.refused(404, "not-found");
    bob.delete_message(id, "nobody").await.refused(400, "bad-field");
    bob.delete_message(id, "me").await.is(200);
    bob.delete_message(id, "me").await.is(200);
    assert!(bob.mailbox().await.is_empty(), "its body is erased");
    assert_eq!(bob.history(conversation, "").await.is(200)["count"], 0);
    assert_eq!(alice.history(conversation, "").await.is(200)["count"], 1);
}

async fn only_its_sender_deletes_a_message_for_everyone(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let tablet = bob.linked("tablet").await;
    let told = &bob.queue("").await.is(200)["notices"][0]["message_id"];
    assert_eq!(bob.ack(&[told]).await.is(200)["removed"], 1, "of the tablet");
    let sent = alice.send_opaque(bob.user_id).await;
    let id = &sent["message_id"];
    tablet.ack(&[id]).await.is(200);
    bob.delete_message(id, "everyone").await.refused(403, "not-allowed");
    assert_eq!(bob.mailbox().await.len(), 1);
    let mut socket = Socket::open(&tablet).await;
    alice.delete_message(id, "everyone").await.is(200);
    assert_eq!(socket.expect("deleted").await["deletes"], *id);
    for device in [&bob, &tablet] {
        let queue = device.queue("").await.is(200);
        assert_eq!(queue["messages"], json!([]));
        assert_eq!((queue["notices"].as_array().unwrap().len(), &queue["notices"][0]["deletes"]), (1, id));
        assert_eq!(queue["count"], 1);
        let notice = &queue["notices"][0]["message_id"];
        assert_eq!(device.ack(&[notice]).await.is(200)["removed"], 1);
        assert_eq!(device.queue("").await.is(200)["count"], 0);
    }
    for device in [&alice, &bob] {
        assert_eq!(device.history(&sent["conversation_id"], "").await.is(200)["count"], 0);
    }
    alice.delete_message(id, "everyone").await.is(200);
    assert_eq!(bob.queue("").await.is(200)["count"], 0, "a repeat puts no second notice");
}

async fn the_mailbox_is_paged_in_order_and_acked_in_both_forms(backend: &Backend) {
    let Pair { alice, bob, relay: _relay } = pair(backend, &[]).await;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(alice.send_opaque(bob.user_id).await);
    }
    let first = bob.queue("limit=2").await.is(200);
    assert_eq!((&first["count"], &first["more"]), (&json!(2), &json!(true)));
    assert_eq!(first["notices"], json!([]));
    let rest = bob.queue(&format!("limit=100&after={}", first["next_after"])).await.is(200);
    assert_eq!((&rest["count"], &rest["more"]), (&json!(3), &json!(false)));
    let mut all = first["messages"].as_array().unwrap().clone();
    all.extend(rest["messages"].as_array().unwrap().clone());
    assert_eq!(ids(&all), ids(&sent));
    let end = bob.queue(&format!("after={}", rest["next_after"])).await.is(200);
    assert_eq!(end["count"], 0);
    assert_eq!(bob.mailbox().await.len(), 5, "reading does not remove");

    let id = |index: usize| &sent[index]["message_id"];
    let unknown = json!(Uuid::new_v4());
    assert_eq!(bob.ack(&[id(0), id(2), &unknown]).await.is(200)["removed"], 2);
    assert_eq!(bob.ack(&[id(0)]).await.is(200)["removed"], 0);
    assert_eq!(bob.delete_queue(&[id(1), id(4)]).await.is(200)["removed"], 2);
    assert_eq!(ids(&bob.mailbox().await), [id(3).as_str().unwrap()]);
    alice.ack(&[id(3)]).await.is(200);
    assert_eq!(bob.mailbox().await.len(), 1, "nobody acks what lies in another's mailbox");
    let later = alice.send_opaque(bob.user_id).await;
    let new = bob.queue(&format!("after={}", end["next_after"])).await.is(200);
    assert_eq!(ids(new["messages"].as_array().unwrap()), [later["message_id"].as_str().unwrap()]);
    for bad in ["limit=0", "limit=101"] {
        bob.queue(bad).await.refused(400, "bad-field");
    }
}

async fn a_full_mailbox_is_refused_with_a_time_to_come_back(backend: &Backend) {
    let settings = [("MAX_MAILBOX_ITEMS", "5"), ("MAX_MAILBOX_ITEMS_PER_SENDER", "3")];
    let Pair { alice, bob, relay } = pair(backend, &settings).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..3 {
        alice.send_opaque(bob.user_id).await;
    }
    let full = alice.send(&opaque_send(bob.user_id)).await;
    assert!(full.header("retry-after").parse::<u64>().unwrap() > 0);
    full.refused(429, "mailbox-full");
    for _ in 0..2 {
        carol.send_opaque(bob.user_id).await;
    }
    carol.send(&opaque_send(bob.user_id)).await.refused(429, "mailbox-full");
    let waiting = bob.mailbox().await;
    assert_eq!(waiting.len(), 5);
    bob.ack(&[&waiting[0]["message_id"]]).await.is(200);
    alice.send_opaque(bob.user_id).await;
}

async fn signal_sessions_outlive_lost_prekeys(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let mut bob = Device::registered(&relay, Kind::Signal).await;
    let mut tablet = bob.linked("tablet").await;
    for text in ["one", "two", "three"] {
        alice.send_signal(bob.user_id, text.as_bytes()).await.is(201);
    }
    for device in [&mut bob, &mut tablet] {
        let mailbox = device.mailbox().await;
        let texts: Vec<_> = mailbox.iter().map(|message| device.keys.decrypt(message)).collect();
        assert_eq!(texts, [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        let acks: Vec<_> = mailbox.iter().map(|message| &message["message_id"]).collect();
        assert_eq!(device.ack(&acks).await.is(200)["removed"], 3);
    }
    bob.send_signal(alice.user_id, b"four").await.is(201);
    let answer = alice.mailbox().await.remove(0);
    assert_eq!(answer["envelope_type"], "whisper");
    assert_eq!(alice.keys.decrypt(&answer), b"four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_on_one_node_wakes_a_device_on_another() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = Device::registered(&nodes[1], Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(alice.send_opaque(bob.user_id).await);
    }
    for sent in &sent {
        assert_eq!(socket.expect("message").await["message_id"], sent["message_id"]);
    }
    let path = format!("/api/v1/messages/queue/{}/{}", bob.user_id, bob.device_id);
    alice.call(Method::GET, &path, None).await.refused(403, "not-you");
    backend.finish().await;
}
