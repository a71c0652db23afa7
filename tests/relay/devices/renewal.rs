//! How long a socket lives: as long as the token it has last been shown.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use restante::domain::ManualClock;
use serde_json::{Value, json};

use crate::{
    devices::{closed_soon, lives, phone_and_tablet},
    support::{
        client::{Device, Kind, opaque_send},
        login::{self, log_in, log_out, refreshed},
        relay::{Backend, on_both_backends},
        socket::{Door, Format, Incoming, PATIENCE, Socket},
    },
};

on_both_backends! {
    a_socket_ends_by_itself_when_its_token_does,
    a_fresh_token_in_time_keeps_the_socket_to_its_own_end,
    a_renewed_socket_lives_by_the_new_session_alone,
    a_token_of_another_device_or_of_an_ended_session_renews_nothing,
    an_older_token_shortens_the_life_it_is_shown_for,
}

const MINUTE: &[(&str, &str)] = &[("ACCESS_TOKEN_TTL_SECONDS", "60")];

/// Shows a socket another token; the answer.
async fn renew(socket: &mut Socket, token: &str) -> Value {
    let reference = uuid::Uuid::new_v4().to_string();
    socket.send(&json!({ "type": "auth", "ref": reference, "token": token })).await;
    loop {
        let frame = socket.next().await;
        if frame["ref"] == reference.as_str() {
            return frame;
        }
    }
}

/// Asserts that a socket has ended by the relay's clock: it looks when it next has something to do.
async fn has_ended(socket: &mut Socket) {
    socket.send(&json!({ "type": "ping" })).await;
    assert_eq!(socket.closed().await, Some(4401));
}

async fn a_socket_ends_by_itself_when_its_token_does(backend: &Backend) {
    let relay = backend.relay(&[("ACCESS_TOKEN_TTL_SECONDS", "10")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let since = Instant::now();
    let mut short = Socket::open(&alice).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut long = Socket::open(&bob).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(renew(&mut long, &refreshed(&bob).await.access_token).await["type"], "acked");
    loop {
        match short.read(since + PATIENCE + Duration::from_secs(3)).await {
            Some(Incoming::Frame(_)) => {}
            Some(Incoming::Closed(code)) => break assert_eq!(code, Some(4401)),
            None => panic!("still open after {:?}", since.elapsed()),
        }
    }
    assert!(since.elapsed() > Duration::from_secs(8), "closed after {:?}", since.elapsed());
    lives(&mut long).await;
}

/// A writer whose own token never ends before the test does.
async fn write_to(device: &Device, clock: &Arc<ManualClock>) -> Value {
    let writer = Device::registered_at(&device.base, Kind::Ed25519).await;
    clock.advance(Duration::from_millis(1));
    writer.send(&opaque_send(device.user_id)).await.is(201)["message_id"].clone()
}

async fn a_fresh_token_in_time_keeps_the_socket_to_its_own_end(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(MINUTE).await;
    for format in [Format::Json, Format::MessagePack] {
        let bob = Device::registered(&relay, Kind::Ed25519).await;
        let mut renewed = Socket::connect(&bob, format, Door::Header).await.unwrap();
        renewed.expect("queue_drained").await;
        let carol = Device::registered(&relay, Kind::Ed25519).await;
        let mut left = Socket::connect(&carol, format, Door::Header).await.unwrap();
        clock.advance(Duration::from_secs(40));
        let fresh = refreshed(&bob).await;
        assert_eq!(renew(&mut renewed, &fresh.access_token).await["type"], "acked");
        clock.advance(Duration::from_secs(30));
        lives(&mut renewed).await;
        has_ended(&mut left).await;
        bob.queue("limit=1").await.refused(401, "bad-token");
        let id = write_to(&fresh, &clock).await;
        assert_eq!(renewed.expect("message").await["message_id"], id);
        renewed.ack(&[&id]).await;
        clock.advance(Duration::from_secs(31));
        has_ended(&mut renewed).await;
    }
}

async fn a_renewed_socket_lives_by_the_new_session_alone(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let first = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&first).await;
    let second = log_in(&first).await;
    assert_eq!(renew(&mut socket, &second.access_token).await["type"], "acked");
    log_out(&first).await.is(204);
    first.queue("limit=1").await.refused(401, "bad-token");
    // Long enough for the poll of every node.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    lives(&mut socket).await;
    log_out(&second).await.is(204);
    closed_soon(&mut socket, Instant::now(), 4401).await;
}

async fn a_token_of_another_device_or_of_an_ended_session_renews_nothing(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(MINUTE).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let stranger = Device::registered(&relay, Kind::Ed25519).await;
    let ended = log_in(&phone).await;
    log_out(&ended).await.is(204);
    let ticket = login::ticket(&phone).await;
    let mut socket = Socket::open(&phone).await;
    socket.expect("queue_drained").await;
    clock.advance(Duration::from_secs(40));
    let (tablets, strangers) = (refreshed(&tablet).await, refreshed(&stranger).await);
    for (token, code) in [
        (&tablets.access_token, "not-you"),
        (&strangers.access_token, "not-you"),
        (&ended.access_token, "bad-token"),
        (&phone.refresh_token, "bad-token"),
        (&ticket, "bad-token"),
    ] {
        let refused = renew(&mut socket, token).await;
        assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!(code)), "{refused}");
    }
    lives(&mut socket).await;
    clock.advance(Duration::from_secs(21));
    has_ended(&mut socket).await;
}

async fn an_older_token_shortens_the_life_it_is_shown_for(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(MINUTE).await;
    let old = Device::registered(&relay, Kind::Ed25519).await;
    clock.advance(Duration::from_secs(30));
    let fresh = refreshed(&old).await;
    let mut socket = Socket::open(&fresh).await;
    assert_eq!(renew(&mut socket, &old.access_token).await["type"], "acked");
    clock.advance(Duration::from_secs(31));
    has_ended(&mut socket).await;
}
