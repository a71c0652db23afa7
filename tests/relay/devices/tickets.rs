//! Tickets: what a browser opens a socket with.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::{
    devices::{closed_soon, cluster_at_noon, lives, refusal},
    support::{
        client::{Device, Kind},
        login::{self, at, log_in, log_out},
        relay::{Backend, on_both_backends},
        socket::{Door, Format, Socket},
    },
};

on_both_backends! {
    a_ticket_opens_one_socket_in_either_format,
    a_ticket_lives_for_thirty_seconds,
    a_refused_opening_leaves_the_ticket_as_it_was,
    a_ticket_dies_with_its_session,
    a_tickets_socket_ends_with_the_token_that_asked_for_it,
    a_ticket_is_no_token,
    of_racing_openings_with_one_ticket_one_wins,
}

/// Opens the caller's own socket by a ticket.
async fn open(
    base: &str,
    ticket: &str,
    format: Format,
) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    Socket::connect_to(base, "/ws/me/me", ticket, format, Door::Ticket).await
}

async fn a_ticket_opens_one_socket_in_either_format(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for (format, protocol) in [(Format::Json, "restante.v1"), (Format::MessagePack, "restante.v1.msgpack")] {
        let ticket = login::ticket(&bob).await;
        let mut socket = open(&relay.url(), &ticket, format).await.unwrap();
        assert_eq!(socket.protocol.as_deref(), Some(protocol), "the answer never echoes the ticket");
        socket.expect("queue_drained").await;
        let id = alice.send_opaque(bob.user_id).await["message_id"].clone();
        assert_eq!(socket.expect("message").await["message_id"], id);
        socket.ack(&[&id]).await;
        for again in [format, Format::Json] {
            assert_eq!(refusal(open(&relay.url(), &ticket, again).await), 401);
        }
        // The refused openings have not replaced the one that was accepted.
        lives(&mut socket).await;
    }
    let (one, other) = (login::ticket(&bob).await, login::ticket(&bob).await);
    assert_ne!(one, other);
    let mut older = open(&relay.url(), &other, Format::Json).await.unwrap();
    let mut newer = open(&relay.url(), &one, Format::Json).await.unwrap();
    assert_eq!(older.closed().await, Some(4409));
    lives(&mut newer).await;
}

async fn a_ticket_lives_for_thirty_seconds(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let (one, other) = (login::ticket(&bob).await, login::ticket(&bob).await);
    clock.advance(Duration::from_secs(29));
    let mut socket = open(&relay.url(), &one, Format::Json).await.unwrap();
    lives(&mut socket).await;
    clock.advance(Duration::from_secs(2));
    for expired in [&one, &other] {
        assert_eq!(refusal(open(&relay.url(), expired, Format::Json).await), 401);
    }
    // What was used up is still dead when an older relay has forgotten that it was.
    clock.advance(Duration::from_mins(10));
    assert_eq!(refusal(open(&relay.url(), &one, Format::Json).await), 401);
}

async fn a_refused_opening_leaves_the_ticket_as_it_was(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let ticket = login::ticket(&bob).await;
    let paths = [
        format!("/ws/{}/{}", alice.user_id, alice.device_id),
        format!("/ws/{}/tablet", bob.user_id),
        "/ws/me/tablet".to_owned(),
        format!("/ws/{}/me", alice.user_id),
    ];
    for path in paths {
        let opened = Socket::connect_to(&relay.url(), &path, &ticket, Format::Json, Door::Ticket).await;
        assert_eq!(refusal(opened), 403, "{path}");
    }
    let offered = format!("restante.v1, ticket.{ticket}");
    let plain = bob.request(reqwest::Method::GET, "/ws/me/me").header("sec-websocket-protocol", offered);
    assert_eq!(plain.send().await.unwrap().status(), 400, "no opening of a socket at all");
    let path = format!("/ws/{}/{}", bob.user_id, bob.device_id);
    let opened = Socket::connect_to(&relay.url(), &path, &ticket, Format::Json, Door::Ticket).await;
    lives(&mut opened.unwrap()).await;
}

async fn a_ticket_dies_with_its_session(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let second = log_in(&bob).await;
    let (dead, alive) = (login::ticket(&second).await, login::ticket(&bob).await);
    let open_now = login::ticket(&second).await;
    let mut socket = open(&relay.url(), &open_now, Format::Json).await.unwrap();
    log_out(&second).await.is(204);
    closed_soon(&mut socket, Instant::now(), 4401).await;
    assert_eq!(refusal(open(&relay.url(), &dead, Format::Json).await), 401);
    assert_eq!(login::ask_ticket(&second).await.status, 401);
    lives(&mut open(&relay.url(), &alive, Format::Json).await.unwrap()).await;
}

async fn a_tickets_socket_ends_with_the_token_that_asked_for_it(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("ACCESS_TOKEN_TTL_SECONDS", "60")]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    clock.advance(Duration::from_secs(50));
    let (used, late) = (login::ticket(&bob).await, login::ticket(&bob).await);
    let mut socket = open(&relay.url(), &used, Format::Json).await.unwrap();
    clock.advance(Duration::from_secs(8));
    lives(&mut socket).await;
    clock.advance(Duration::from_secs(3));
    socket.send(&serde_json::json!({ "type": "ping" })).await;
    assert_eq!(socket.closed().await, Some(4401));
    assert_eq!(refusal(open(&relay.url(), &late, Format::Json).await), 401, "no longer than its token");
}

async fn a_ticket_is_no_token(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let ticket = login::ticket(&bob).await;
    bob.call_as(&ticket, reqwest::Method::GET, "/api/v1/auth/sessions", None).await.refused(401, "bad-token");
    for (text, door) in [
        (&ticket, Door::Header),
        (&ticket, Door::Subprotocol),
        (&bob.access_token, Door::Ticket),
        (&bob.refresh_token, Door::Ticket),
    ] {
        let opened = Socket::connect_to(&relay.url(), "/ws/me/me", text, Format::Json, door).await;
        assert_eq!(refusal(opened), 401, "{door:?}");
    }
    lives(&mut open(&relay.url(), &ticket, Format::Json).await.unwrap()).await;
}

async fn of_racing_openings_with_one_ticket_one_wins(backend: &Backend) {
    let nodes = if backend.is_production() { 2 } else { 1 };
    let (nodes, clock) = cluster_at_noon(backend, nodes, &[]).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    for round in 0..10 {
        let bases: Vec<_> = (0..8).map(|index| nodes[index % nodes.len()].url()).collect();
        let ticket = login::ticket(&at(&bases[round % 2], &bob)).await;
        let opened = join_all(bases.iter().map(|base| open(base, &ticket, Format::Json))).await;
        let (won, lost): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}");
        for refused in lost {
            assert_eq!(refusal(refused), 401, "round {round}");
        }
        for mut socket in won.into_iter().flatten() {
            lives(&mut socket).await;
        }
        clock.advance(Duration::from_secs(1));
    }
}
