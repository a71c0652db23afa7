//! How often one device, and one network, may do what.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BELIEVED, attempt, call_from, limited, note, notes_taken, opens, registered, send_frame};
use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    relay::{Backend, on_both_backends},
    socket::Socket,
};

on_both_backends! {
    a_device_sends_so_many_messages_a_minute_and_is_told_what_is_left,
    a_socket_and_rest_spend_one_budget,
    frames_past_the_limit_are_refused_without_losing_order_and_nothing_is_stored_for_them,
    every_verb_has_a_budget_of_its_own,
    sockets_are_opened_so_often,
    pings_and_acks_have_a_budget_too,
    a_network_may_do_as_much_as_some_devices,
    who_has_no_token_counts_against_the_network_alone,
    no_spelling_of_a_path_leads_around_its_budget,
    whether_the_relay_lives_is_always_told,
}

async fn a_device_sends_so_many_messages_a_minute_and_is_told_what_is_left(backend: &Backend) {
    let (relay, clock) = backend
        .relay_at_noon(&[("RATE_LIMIT_MESSAGE_LIMIT", "3"), ("ACCESS_TOKEN_TTL_SECONDS", "86400")])
        .await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    for state in ["\"message-per-device\";r=2;t=20", "\"message-per-device\";r=1;t=40"] {
        let taken = note(&alice).await;
        assert_eq!(taken.header("ratelimit-policy"), "\"message-per-device\";q=3;w=60");
        assert_eq!(taken.header("ratelimit"), state);
        taken.is(201);
    }
    note(&alice).await.is(201);
    let refused = note(&alice).await;
    assert_eq!(limited(&refused), 20);
    assert_eq!(refused.header("ratelimit-policy"), "\"message-per-device\";q=3;w=60");
    assert_eq!(refused.header("ratelimit"), "\"message-per-device\";r=0;t=20");
    note(&bob).await.is(201);
    clock.advance(Duration::from_secs(20));
    assert_eq!(notes_taken(&alice).await, 1);
    clock.advance(Duration::from_hours(1));
    assert_eq!(notes_taken(&alice).await, 3, "an idle budget is not fuller than full");
}

async fn a_socket_and_rest_spend_one_budget(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("RATE_LIMIT_MESSAGE_LIMIT", "4")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let mut socket = Socket::open(&alice).await;
    note(&alice).await.is(201);
    for reference in 0..3 {
        socket.send(&send_frame(bob.user_id, reference)).await;
        socket.expect("sent").await;
    }
    // Refusals are no bad frames: many of them do not end the socket.
    for reference in 10..40 {
        socket.send(&send_frame(bob.user_id, reference)).await;
        let error = socket.expect("error").await;
        assert_eq!((&error["code"], &error["retry_after"]), (&json!("rate-limited"), &json!(15)), "{error}");
        assert_eq!(error["ref"], reference.to_string());
    }
    assert_eq!(limited(&note(&alice).await), 15);
    socket.send(&json!({ "type": "ping", "ref": "p" })).await;
    socket.expect("pong").await;
    clock.advance(Duration::from_secs(15));
    socket.send(&send_frame(bob.user_id, 99)).await;
    assert_eq!(socket.expect("sent").await["ref"], "99");
    limited(&note(&alice).await);
    assert_eq!(bob.whole_mailbox().await.len(), 4);
}

async fn frames_past_the_limit_are_refused_without_losing_order_and_nothing_is_stored_for_them(
    backend: &Backend,
) {
    let (relay, _clock) = backend.relay_at_noon(&[("RATE_LIMIT_MESSAGE_LIMIT", "40")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let mut socket = Socket::open(&alice).await;
    let mut ids = Vec::new();
    for reference in 0..60 {
        let mut frame = send_frame(bob.user_id, reference);
        ids.push(Uuid::new_v4().to_string());
        frame["message_id"] = json!(ids[reference]);
        socket.send(&frame).await;
    }
    for reference in 40..60 {
        let error =
            socket.expect_where("error", |frame| frame["ref"] == reference.to_string().as_str()).await;
        assert_eq!(error["code"], "rate-limited");
    }
    for reference in 0..40 {
        socket.expect_where("sent", |frame| frame["ref"] == reference.to_string().as_str()).await;
    }
    let mailbox: Vec<_> = bob.whole_mailbox().await.iter().map(|item| item["message_id"].clone()).collect();
    assert_eq!(mailbox, ids[..40], "in the order in which they were sent");
}

async fn every_verb_has_a_budget_of_its_own(backend: &Backend) {
    let verbs = ["MESSAGE", "ACK", "READ", "KEYS", "GROUP", "JOIN", "ACCOUNT"];
    let names = verbs.map(|verb| format!("RATE_LIMIT_{verb}_LIMIT"));
    let settings: Vec<_> = names.iter().map(|name| (name.as_str(), "2")).collect();
    // A registration counts against the network alone, among whatever changes accounts.
    let (relay, clock) = backend.relay_at_noon(&settings).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    for device in [&alice, &bob] {
        for verb in verbs {
            for _ in 0..2 {
                assert_ne!(attempt(device, verb).await.status, 429, "{verb}");
            }
            let refused = attempt(device, verb).await;
            assert_eq!(limited(&refused), 30, "{verb}");
            let policy = format!("\"{}-per-device\";q=2;w=60", verb.to_lowercase());
            assert_eq!(refused.header("ratelimit-policy"), policy);
        }
    }
    clock.advance(Duration::from_secs(30));
    for verb in verbs {
        assert_ne!(attempt(&alice, verb).await.status, 429, "{verb}");
        limited(&attempt(&alice, verb).await);
    }
}

async fn sockets_are_opened_so_often(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("RATE_LIMIT_OPEN_LIMIT", "2")]).await;
    let alice = registered(&relay.url()).await;
    let _first = opens(&alice).await.unwrap();
    let _second = opens(&alice).await.unwrap();
    assert_eq!(opens(&alice).await.err().unwrap()["code"], "rate-limited");
    clock.advance(Duration::from_secs(30));
    opens(&alice).await.unwrap();
}

async fn pings_and_acks_have_a_budget_too(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[("RATE_LIMIT_ACK_LIMIT", "3")]).await;
    let alice = registered(&relay.url()).await;
    let mut socket = Socket::open(&alice).await;
    for (reference, frame) in [
        json!({ "type": "ping", "ref": "1" }),
        json!({ "type": "ack", "ref": "2", "message_ids": [Uuid::new_v4()] }),
        json!({ "type": "read", "ref": "3", "message_id": Uuid::new_v4() }),
    ]
    .into_iter()
    .enumerate()
    {
        socket.send(&frame).await;
        let kind = ["pong", "acked", "error"][reference];
        assert_ne!(socket.expect(kind).await["code"], "rate-limited");
    }
    for kind in ["ping", "ping"] {
        socket.send(&json!({ "type": kind, "ref": "4" })).await;
        assert_eq!(socket.expect("error").await["code"], "rate-limited");
    }
    limited(&attempt(&alice, "ACK").await);
}

async fn a_network_may_do_as_much_as_some_devices(backend: &Backend) {
    let settings = [BELIEVED, ("RATE_LIMIT_READ_LIMIT", "4"), ("RATE_LIMIT_DEVICES_PER_IP", "2")];
    let (relay, clock) = backend.relay_at_noon(&settings).await;
    let (alice, bob, carol) =
        (registered(&relay.url()).await, registered(&relay.url()).await, registered(&relay.url()).await);
    let path = "/api/v1/messages/queue/me/me";
    let (office, home) = ("198.51.100.7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    for device in [&alice, &bob] {
        for _ in 0..4 {
            call_from(device, office, &device.access_token, path).await.is(200);
        }
    }
    let refused = call_from(&carol, office, &carol.access_token, path).await;
    assert_eq!(limited(&refused), 8, "eight in a minute");
    assert_eq!(refused.header("ratelimit-policy"), "\"read-per-network\";q=8;w=60");
    let elsewhere = call_from(&carol, home, &carol.access_token, path).await;
    assert_eq!(
        elsewhere.header("ratelimit"),
        "\"read-per-device\";r=3;t=15",
        "nothing of the network's is told"
    );
    limited(&call_from(&alice, home, &alice.access_token, path).await);
    clock.advance(Duration::from_secs(8));
    call_from(&carol, office, &carol.access_token, path).await.is(200);
}

async fn who_has_no_token_counts_against_the_network_alone(backend: &Backend) {
    let settings = [BELIEVED, ("RATE_LIMIT_READ_LIMIT", "3"), ("RATE_LIMIT_DEVICES_PER_IP", "1")];
    let (relay, _clock) = backend.relay_at_noon(&settings).await;
    let alice = registered(&relay.url()).await;
    let (office, home) = ("198.51.100.7".parse().unwrap(), "198.51.100.8".parse().unwrap());
    let path = "/api/v1/messages/queue/me/me";
    for _ in 0..3 {
        call_from(&alice, office, "wrong", path).await.refused(401, "bad-token");
    }
    limited(&call_from(&alice, office, "wrong", path).await);
    limited(&call_from(&alice, office, &alice.access_token, path).await);
    call_from(&alice, home, &alice.access_token, path).await.is(200);
}

async fn no_spelling_of_a_path_leads_around_its_budget(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[("RATE_LIMIT_MESSAGE_LIMIT", "1")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let body: Value = opaque_send(bob.user_id);
    alice.send(&body).await.is(201);
    for path in ["/api/v1/messages/%73end/me", "/api/v1/%6dessages/send/me", "/api/v1/messages/send/%6De"] {
        let request = alice.request(Method::POST, path).bearer_auth(&alice.access_token).json(&body);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert!(answer.status == 429 || answer.status == 404, "{path}: {answer:?}");
    }
    assert_eq!(bob.whole_mailbox().await.len(), 1);
}

async fn whether_the_relay_lives_is_always_told(backend: &Backend) {
    let settings = [("RATE_LIMIT_READ_LIMIT", "1"), ("RATE_LIMIT_DEVICES_PER_IP", "1")];
    let (relay, _clock) = backend.relay_at_noon(&settings).await;
    let device = Device::new(&relay.url(), Kind::Ed25519);
    for path in ["/health", "/health/live", "/healthz"] {
        for _ in 0..5 {
            device.anonymous(Method::GET, path, None).await.is(200);
        }
    }
    device.anonymous(Method::GET, "/health/ready", None).await.is(200);
    limited(&device.anonymous(Method::GET, "/readyz", None).await);
    device.anonymous(Method::GET, "/api/v1/limits", None).await.is(200);
    limited(&device.anonymous(Method::GET, "/api/v1/limits", None).await);
}
