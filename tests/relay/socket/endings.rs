//! How sockets end.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{messages, pair, pair_at, quiet, send_frame, sent};
use crate::support::{
    client::{Device, Kind},
    process::RelayProcess,
    relay::{Backend, on_both_backends},
    socket::{Door, Format, Incoming, PATIENCE, Socket},
};

on_both_backends! {
    a_newer_connection_replaces_the_older,
    deactivation_closes_the_socket,
    a_socket_that_opens_while_its_device_is_ended_does_not_stay,
    an_expired_token_closes_even_a_busy_socket,
    someone_elses_token_renews_nothing,
    a_close_is_answered,
}

async fn a_newer_connection_replaces_the_older(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut older = Socket::open(&bob).await;
    let mut newer = Socket::open(&bob).await;
    assert_eq!(older.closed().await, Some(4409));
    let ids = sent(&alice, bob.user_id, 1).await;
    assert_eq!(messages(&mut newer, 1).await, ids);
}

/// A device on one node of two.
async fn on_two_nodes(backend: &Backend) -> (Device, Device) {
    let nodes = backend.cluster(2, &[]).await;
    let here = Device::registered(&nodes[0], Kind::Ed25519).await;
    let mut there = Device::of(&nodes[1].url(), here.user_id, &here.device_id, here.kind);
    there.access_token.clone_from(&here.access_token);
    (here, there)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_on_another_node_replaces_the_older_every_time() {
    let Some(backend) = Backend::production().await else { return };
    let (here, there) = on_two_nodes(&backend).await;
    let mut older = Socket::open(&here).await;
    for round in 0..12 {
        let mut newer = Socket::open(if round % 2 == 0 { &there } else { &here }).await;
        assert_eq!(older.closed().await, Some(4409), "round {round}");
        newer.expect("queue_drained").await;
        quiet(&mut newer).await;
        older = newer;
    }
    older.close().await;
    backend.finish().await;
}

async fn deactivation_closes_the_socket(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let tablet = bob.linked("tablet").await;
    let (mut socket, mut other) = (Socket::open(&tablet).await, Socket::open(&bob).await);
    bob.deactivate(&tablet).await.is(200);
    assert_eq!(socket.closed().await, Some(4403));
    other.expect("queue_drained").await;
    assert!(Socket::connect(&tablet, Format::Json, Door::Header).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deactivation_closes_the_socket_on_another_node_within_a_second() {
    let Some(backend) = Backend::production().await else { return };
    // Once through Redis, once through the poll alone.
    for redis in [&[][..], &[("REDIS_URL", "")]] {
        let nodes = backend.cluster(2, redis).await;
        let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
        let mut tablet = bob.linked("tablet").await;
        tablet.base = nodes[1].url();
        let mut socket = Socket::open(&tablet).await;
        bob.deactivate(&tablet).await.is(200);
        let closed = tokio::time::timeout(Duration::from_millis(1500), socket.closed()).await;
        assert_eq!(closed.expect("closed within a second"), Some(4403));
    }
    backend.finish().await;
}

async fn a_socket_that_opens_while_its_device_is_ended_does_not_stay(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for round in 0..8 {
        let tablet = bob.linked(&format!("tablet-{round}")).await;
        let opening = Socket::connect(&tablet, Format::Json, Door::Header);
        let (opened, ended) = tokio::join!(opening, bob.deactivate(&tablet));
        ended.is(200);
        match opened {
            Ok(mut socket) => assert_eq!(socket.closed().await, Some(4403), "round {round}"),
            Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 401, "round {round}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_not_heard_of_a_deactivation_opens_no_socket_for_the_device() {
    let Some(backend) = Backend::production().await else { return };
    // Without Redis a node hears of it by its poll, twice a second.
    let nodes = backend.cluster(2, &[("REDIS_URL", "")]).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let mut unheard = 0;
    for round in 0..8 {
        let mut tablet = bob.linked(&format!("tablet-{round}")).await;
        tablet.base = nodes[1].url();
        bob.deactivate(&tablet).await.is(200);
        // A node that has heard refuses the opening.
        let Ok(mut socket) = Socket::connect(&tablet, Format::Json, Door::Header).await else { continue };
        let first = socket.read(Instant::now() + PATIENCE).await;
        assert!(matches!(first, Some(Incoming::Closed(Some(4403)))), "not even greeted: {first:?}");
        unheard += 1;
    }
    assert!(unheard > 0, "the second node was always told first");
    backend.finish().await;
}

async fn an_expired_token_closes_even_a_busy_socket(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&alice).await;
    clock.advance(Duration::from_secs(901));
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    // Only the relay's clock was moved, so that the session looks when it next has something to do.
    socket.raw().feed(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    for number in 0..50 {
        let frame = send_frame(&number.to_string(), bob.user_id);
        socket.raw().feed(Message::text(frame.to_string())).await.unwrap();
    }
    socket.raw().flush().await.unwrap();
    assert_eq!(socket.closed().await, Some(4401));
    assert!(bob.mailbox().await.is_empty(), "what came after the end of the token was not done");
}

async fn someone_elses_token_renews_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let mut socket = Socket::open(&bob).await;
    for token in [alice.access_token.as_str(), "nonsense"] {
        socket.send(&json!({ "type": "auth", "ref": "a", "token": token })).await;
        assert_eq!(socket.expect("error").await["ref"], "a");
    }
    socket.send(&json!({ "type": "auth", "token": bob.access_token })).await;
    socket.expect("queue_drained").await;
    quiet(&mut socket).await;
}

async fn a_close_is_answered(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.raw().close(None).await.unwrap();
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_is_in_flight_and_says_going_away() {
    let backend = Backend::embedded();
    let mut process = RelayProcess::start(&backend, &[]).await;
    let (alice, bob) = pair_at(&process.url()).await;
    let mut sockets = [Socket::open(&alice).await, Socket::open(&bob).await];
    for number in 0..20 {
        sockets[0].send(&send_frame(&number.to_string(), bob.user_id)).await;
    }
    sockets[0].expect("sent").await;
    process.terminate();
    let mut answered = 1;
    let code = loop {
        let deadline = Instant::now() + PATIENCE;
        match sockets[0].read(deadline).await.expect("the socket ends") {
            Incoming::Frame(frame) if frame["type"] == "sent" => answered += 1,
            Incoming::Frame(_) => {}
            Incoming::Closed(code) => break code,
        }
    };
    assert_eq!(code, Some(1001));
    assert_eq!(sockets[1].closed().await, Some(1001));
    drop(sockets);
    assert!(process.ended(Duration::from_secs(10)).await.success());
    process.restart().await;
    let kept = bob.mailbox().await.len();
    assert_eq!(kept, answered, "each send that was taken was answered");
}
