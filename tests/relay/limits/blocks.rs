//! Networks that go on although they are refused.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BELIEVED, at, call_from, note, opens, registered, send_frame};
use crate::{
    devices::cluster_at_noon,
    support::{
        client::{Answer, Device},
        faults::{Line, Proxy, authority, moved, nowhere},
        relay::{Backend, on_both_backends},
        socket::{Incoming, Socket},
        wait,
    },
};

on_both_backends! {
    a_network_that_goes_on_is_shut_out_longer_each_time,
    a_device_that_sends_ahead_earns_one_strike_however_often_it_is_refused,
    sockets_that_go_on_are_closed_once_their_network_is_shut_out,
    a_socket_that_goes_on_for_seconds_is_closed_too,
    an_operator_lists_and_lifts_blocks_while_the_relay_runs,
    with_zero_nobody_is_ever_blocked,
    whoever_has_no_token_earns_nothing,
}

const FIVE: (&str, &str) = ("RATE_LIMIT_BLOCK_AFTER", "5");
const OFFICE: &str = "198.51.100.7";
const PATH: &str = "/api/v1/messages/queue/me/me";
const PATIENCE: Duration = Duration::from_secs(10);

/// A call from the office with a token that is none.
async fn guess(device: &Device) -> Answer {
    call_from(device, OFFICE.parse().unwrap(), "wrong", PATH).await
}

/// Guesses until the network is shut out; tells for how many seconds it is.
async fn guess_until_blocked(device: &Device) -> u64 {
    for _ in 0..6 {
        guess(device).await.refused(401, "bad-token");
    }
    let blocked = guess(device).await;
    blocked.clone().refused(429, "blocked");
    blocked.header("retry-after").parse().unwrap()
}

/// Whether the device gets through from the office.
async fn gets_through(device: &Device) -> bool {
    let answer = call_from(device, OFFICE.parse().unwrap(), &device.access_token, PATH).await;
    if answer.status != 200 {
        answer.clone().refused(429, "blocked");
    }
    answer.status == 200
}

async fn a_network_that_goes_on_is_shut_out_longer_each_time(backend: &Backend) {
    let (relay, clock) =
        backend.relay_at_noon(&[FIVE, BELIEVED, ("ACCESS_TOKEN_TTL_SECONDS", "86400")]).await;
    let alice = registered(&relay.url()).await;
    for seconds in [60, 300, 1800, 21_600, 21_600] {
        assert_eq!(guess_until_blocked(&alice).await, seconds);
        assert!(!gets_through(&alice).await, "not with the right token either");
        let elsewhere = call_from(&alice, "198.51.100.8".parse().unwrap(), &alice.access_token, PATH).await;
        elsewhere.is(200);
        let health = call_from(&alice, OFFICE.parse().unwrap(), "", "/health/ready").await;
        health.is(200);
        clock.advance(Duration::from_secs(seconds));
        assert!(gets_through(&alice).await);
    }
}

/// A socket of a device that may send once a minute, and has.
async fn spent(device: &Device) -> Socket {
    let mut socket = Socket::open(device).await;
    socket.send(&send_frame(device.user_id, 0)).await;
    socket.expect("sent").await;
    socket
}

/// Sends a frame that is past the limit; the code of its refusal, or that with which the socket was closed.
async fn past_the_limit(socket: &mut Socket, recipient: Uuid) -> Value {
    socket.send(&send_frame(recipient, 1)).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read(deadline).await {
            Some(Incoming::Frame(frame)) if frame["type"] == "error" => return frame["code"].clone(),
            Some(Incoming::Frame(_)) => {}
            Some(Incoming::Closed(code)) => return json!(code),
            None => panic!("neither refused nor closed in {PATIENCE:?}"),
        }
    }
}

async fn a_device_that_sends_ahead_earns_one_strike_however_often_it_is_refused(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[FIVE, ("RATE_LIMIT_MESSAGE_LIMIT", "10")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let mut socket = Socket::open(&alice).await;
    for reference in 0..200 {
        socket.send(&send_frame(bob.user_id, reference)).await;
    }
    for reference in 10..200 {
        let refused = socket.expect_where("error", |frame| frame["ref"] == reference.to_string().as_str());
        assert_eq!(refused.await["code"], "rate-limited");
    }
    note(&bob).await.is(201);
    clock.advance(Duration::from_mins(1));
    socket.send(&send_frame(bob.user_id, 200)).await;
    socket.expect_where("sent", |frame| frame["ref"] == "200").await;
}

async fn sockets_that_go_on_are_closed_once_their_network_is_shut_out(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[FIVE, ("RATE_LIMIT_MESSAGE_LIMIT", "1")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let mut other = Socket::open(&bob).await;
    let mut sockets = Vec::new();
    for _ in 0..6 {
        sockets.push(spent(&registered(&relay.url()).await).await);
    }
    for socket in &mut sockets[..5] {
        assert_eq!(past_the_limit(socket, bob.user_id).await, "rate-limited");
    }
    assert_eq!(past_the_limit(&mut sockets[5], bob.user_id).await, 4429);
    assert_eq!(
        past_the_limit(&mut sockets[0], bob.user_id).await,
        4429,
        "the first one that goes on as well"
    );
    assert_eq!(opens(&alice).await.err().unwrap()["code"], "blocked");
    // Who keeps to the limits goes on with the socket it has.
    other.send(&json!({ "type": "ping", "ref": "p" })).await;
    other.expect("pong").await;
    clock.advance(Duration::from_mins(1));
    opens(&alice).await.unwrap();
    note(&alice).await.is(201);
}

async fn a_socket_that_goes_on_for_seconds_is_closed_too(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[FIVE, ("RATE_LIMIT_MESSAGE_LIMIT", "1")]).await;
    let alice = registered(&relay.url()).await;
    let mut socket = spent(&alice).await;
    for _ in 0..5 {
        for _ in 0..3 {
            assert_eq!(past_the_limit(&mut socket, alice.user_id).await, "rate-limited");
        }
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(past_the_limit(&mut socket, alice.user_id).await, 4429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_two_nodes_are_closed_once_their_network_is_shut_out() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &[FIVE, ("RATE_LIMIT_MESSAGE_LIMIT", "1")]).await;
    let mut sockets = Vec::new();
    for number in 0..6 {
        let device = registered(&nodes[0].url()).await;
        sockets.push((spent(&at(&device, &nodes[number % 2].url())).await, device));
    }
    for (socket, device) in &mut sockets[..5] {
        assert_eq!(past_the_limit(socket, device.user_id).await, "rate-limited");
    }
    let (socket, device) = &mut sockets[5];
    assert_eq!(
        past_the_limit(socket, device.user_id).await,
        4429,
        "strikes of both nodes are counted together"
    );
    for node in &nodes {
        let there = at(device, &node.url());
        let shut_out = async || opens(&there).await.is_err_and(|problem| problem["code"] == "blocked");
        wait::until(PATIENCE, "both nodes shut the network out", shut_out).await;
    }
    for number in [0, 1] {
        let (socket, device) = &mut sockets[number];
        assert_eq!(past_the_limit(socket, device.user_id).await, 4429, "wherever they are open");
    }
    backend.finish().await;
}

async fn with_zero_nobody_is_ever_blocked(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[("RATE_LIMIT_BLOCK_AFTER", "0"), BELIEVED]).await;
    let alice = registered(&relay.url()).await;
    for _ in 0..50 {
        guess(&alice).await.refused(401, "bad-token");
    }
}

/// A web page can make its visitors ask without a token.
async fn whoever_has_no_token_earns_nothing(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[FIVE, BELIEVED]).await;
    let alice = registered(&relay.url()).await;
    for _ in 0..20 {
        let request = alice.request(Method::GET, PATH).header("x-forwarded-for", OFFICE);
        Answer::of(request.send().await.unwrap()).await.refused(401, "no-token");
    }
    assert!(gets_through(&alice).await);
}

/// What `restante blocks …` writes, with the settings of a relay on this backend.
fn blocks(backend: &Backend, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_restante"));
    command.current_dir(folder.path()).env_clear().envs(backend.settings(&[]));
    let done = command.arg("blocks").args(arguments).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

async fn an_operator_lists_and_lifts_blocks_while_the_relay_runs(backend: &Backend) {
    let relay = backend.relay(&[("RATE_LIMIT_BLOCK_AFTER", "20"), BELIEVED]).await;
    let alice = registered(&relay.url()).await;
    let block = async || {
        wait::until(PATIENCE, "the network is shut out", async || guess(&alice).await.status == 429).await;
    };
    let freed = async || {
        wait::until(PATIENCE, "the block is lifted", async || gets_through(&alice).await).await;
    };
    assert_eq!(blocks(backend, &["list"]), "");
    block().await;
    let listed = blocks(backend, &["list"]);
    let (hash, rest) = listed.split_once(' ').unwrap();
    assert!(rest.starts_with("level=1 until=20") && listed.lines().count() == 1, "{listed}");
    assert!(!listed.contains(OFFICE));
    assert_eq!(blocks(backend, &["clear", hash]), "blocks lifted: 1\n");
    freed().await;
    assert_eq!(blocks(backend, &["list"]), "");
    for arguments in [["clear", OFFICE], ["clear", "--all"]] {
        block().await;
        assert_eq!(blocks(backend, &["clear", "203.0.113.1"]), "blocks lifted: 0\n");
        assert_eq!(blocks(backend, &arguments), "blocks lifted: 1\n");
        freed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_shuts_out_whom_one_does_with_redis_and_without() {
    let Some(backend) = Backend::production().await else { return };
    let gone = format!("redis://{}", nowhere());
    let redis: &[&[(&str, &str)]] = &[&[], &[("REDIS_URL", &gone)]];
    for (round, redis) in redis.iter().enumerate() {
        let settings: Vec<_> = [FIVE, BELIEVED].into_iter().chain(redis.iter().copied()).collect();
        let (nodes, clock) = cluster_at_noon(&backend, 2, &settings).await;
        // The block of the round before has ended.
        clock.advance(Duration::from_mins(1) * u32::try_from(round).unwrap());
        let here = registered(&nodes[0].url()).await;
        let there = at(&here, &nodes[1].url());
        let seconds = guess_until_blocked(&here).await;
        assert_eq!(seconds, [60, 300][round], "blocks outlive relays and do not need redis");
        wait::until(PATIENCE, "the other node follows", async || !gets_through(&there).await).await;
        clock.advance(Duration::from_secs(seconds));
        assert!(gets_through(&there).await);
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_by_two_nodes_are_counted_together() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &[FIVE, BELIEVED]).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    for seat in [&here, &there, &here, &there, &here, &there] {
        guess(seat).await.refused(401, "bad-token");
    }
    guess(&there).await.refused(429, "blocked");
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_store_shuts_out_by_itself() {
    let Some(backend) = Backend::production().await else { return };
    let database = backend.database().unwrap().url();
    let proxy = Proxy::to(&authority(&database)).await;
    let (nodes, _clock) =
        cluster_at_noon(&backend, 1, &[FIVE, BELIEVED, ("DATABASE_URL", &moved(&database, proxy.address))])
            .await;
    let alice = registered(&nodes[0].url()).await;
    proxy.turn(Line::Cut);
    for _ in 0..6 {
        guess(&alice).await.refused(401, "bad-token");
    }
    guess(&alice).await.refused(429, "blocked");
    backend.finish().await;
}
