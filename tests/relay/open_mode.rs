//! `AUTH_MODE=open`: trusting, and therefore for direct local callers only.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    process,
    relay::{Backend, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! {
    the_path_is_trusted_and_proofs_are_optional,
    only_direct_local_requests_are_answered,
    remote_callers_are_let_in_when_that_is_really_meant,
}

const OPEN: &[(&str, &str)] = &[("AUTH_MODE", "open")];

async fn the_path_is_trusted_and_proofs_are_optional(backend: &Backend) {
    let relay = backend.relay(OPEN).await;
    let mut alice = Device::new(&relay.url(), Kind::Ed25519);
    let mut body = alice.registration();
    body.as_object_mut().unwrap().remove("proof");
    alice.register(&body).await.is(201);
    let mut forged = Device::new(&relay.url(), Kind::Ed25519);
    let mut body = forged.registration();
    body["proof"] = json!(crate::support::crypto::b64([1; 64]));
    forged.register(&body).await.refused(422, "invalid-proof");
    let laptop = alice.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;

    let as_bob = format!("/api/v1/messages/send/{}", bob.user_id);
    let sent = alice.anonymous(Method::POST, &as_bob, Some(&opaque_send(alice.user_id))).await.is(201);
    for device in [&alice, &laptop] {
        let queue = format!("/api/v1/messages/queue/{}/{}", device.user_id, device.device_id);
        let page = device.anonymous(Method::GET, &queue, None).await.is(200);
        assert_eq!(page["messages"][0]["message_id"], sent["message_id"]);
        assert_eq!(page["messages"][0]["sender_device_id"], "phone", "the oldest device where none is named");
    }
    let mut named = opaque_send(bob.user_id);
    named["device_id"] = json!("laptop");
    let as_alice = format!("/api/v1/messages/send/{}", alice.user_id);
    alice.anonymous(Method::POST, &as_alice, Some(&named)).await.is(201);
    assert_eq!(bob.mailbox().await[0]["sender_device_id"], "laptop");
    named["device_id"] = json!("watch");
    alice.anonymous(Method::POST, &as_alice, Some(&named)).await.refused(404, "not-found");
    let nobody = format!("/api/v1/messages/send/{}", Uuid::new_v4());
    alice.anonymous(Method::POST, &nobody, Some(&opaque_send(bob.user_id))).await.refused(404, "not-found");
    let me = alice.anonymous(Method::GET, "/api/v1/messages/queue/me/me", None).await;
    assert_eq!(me.status, 400, "nobody is me without a token");
    let mut socket = Socket::connect(&laptop, Format::Json, Door::Header).await.unwrap();
    socket.expect("message").await;
}

async fn asks(relay: &crate::support::relay::TestRelay, header: &str, value: &str) -> Answer {
    let request = reqwest::Client::new().get(format!("{}/api/v1/limits", relay.url())).header(header, value);
    Answer::of(request.send().await.unwrap()).await
}

const STRANGE: [(&str, &str); 7] = [
    ("forwarded", "for=192.0.2.1"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-host", "localhost"),
    ("via", "1.1 proxy"),
    ("host", "relay.example.org"),
    ("host", "localhost.example.org:8091"),
    ("origin", "https://evil.example.org"),
];

async fn only_direct_local_requests_are_answered(backend: &Backend) {
    let own = [OPEN[0], ("CORS_ALLOWED_ORIGINS", "https://app.example.org")];
    let relay = backend.relay(&own).await;
    for (header, value) in STRANGE {
        asks(&relay, header, value).await.refused(403, "open-mode-local-only");
    }
    asks(&relay, "origin", "null").await.refused(403, "open-mode-local-only");
    asks(&relay, "origin", "https://app.example.org").await.is(200);
    for host in ["localhost", "localhost:1", "127.0.0.1:80", "[::1]:8091"] {
        asks(&relay, "host", host).await.is(200);
    }
}

async fn remote_callers_are_let_in_when_that_is_really_meant(backend: &Backend) {
    let relay = backend.relay(&[OPEN[0], ("AUTH_OPEN_ALLOW_REMOTE", "true")]).await;
    asks(&relay, "x-forwarded-for", "192.0.2.1").await.is(200);
    asks(&relay, "origin", "https://evil.example.org").await.refused(403, "open-mode-local-only");
}

#[test]
fn an_open_relay_does_not_start_on_a_foreign_address() {
    let told = [("AUTH_MODE", "open"), ("HOST", "0.0.0.0"), ("PORT", "0")];
    let told = told.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let ended = process::run(&[], &told);
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("AUTH_OPEN_ALLOW_REMOTE"));
}
