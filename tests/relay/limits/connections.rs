//! How many sockets a user, and a network, may have open at the same time.

use std::time::Duration;

use serde_json::json;

use super::{at, opens, registered};
use crate::support::{
    client::Device,
    faults::{Line, PrivateRedis, Proxy, nowhere},
    process::RelayProcess,
    relay::{Backend, Settings, TestRelay, on_both_backends},
    socket::{Door, Format, Socket},
    wait,
};

on_both_backends! {
    a_user_has_so_many_sockets_open,
    a_network_has_so_many_sockets_open,
    a_refused_opening_leaves_its_ticket_as_it_was,
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the device may open a socket, which some other one's end allows.
async fn opens_soon(device: &Device) -> Socket {
    let opened = std::sync::Mutex::new(None);
    wait::until(PATIENCE, "there is room for a socket", async || {
        let socket = opens(device).await.ok();
        let is_open = socket.is_some();
        *opened.lock().unwrap() = socket;
        is_open
    })
    .await;
    opened.into_inner().unwrap().unwrap()
}

async fn refused(device: &Device) {
    assert_eq!(opens(device).await.err().unwrap()["code"], "too-many-connections");
}

async fn a_user_has_so_many_sockets_open(backend: &Backend) {
    let relay = backend.relay(&[("RATE_LIMIT_CONNECTION_LIMIT_PER_USER", "2")]).await;
    let phone = registered(&relay.url()).await;
    let (tablet, laptop) = (phone.linked("tablet").await, phone.linked("laptop").await);
    let (first, _second) = (opens(&phone).await.unwrap(), opens(&tablet).await.unwrap());
    refused(&laptop).await;
    opens(&registered(&relay.url()).await).await.unwrap();
    first.close().await;
    opens_soon(&laptop).await;
}

async fn a_network_has_so_many_sockets_open(backend: &Backend) {
    let relay = backend.relay(&[("RATE_LIMIT_CONNECTION_LIMIT_PER_IP", "1")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let first = opens(&alice).await.unwrap();
    refused(&bob).await;
    first.close().await;
    opens_soon(&bob).await;
}

async fn a_refused_opening_leaves_its_ticket_as_it_was(backend: &Backend) {
    let relay = backend.relay(&[("RATE_LIMIT_CONNECTION_LIMIT_PER_IP", "1")]).await;
    let (alice, bob) = (registered(&relay.url()).await, registered(&relay.url()).await);
    let first = opens(&alice).await.unwrap();
    let ticket = bob.post("/api/v1/auth/ticket", &json!({})).await.is(201)["ticket"].clone();
    let ticket = ticket.as_str().unwrap();
    let open = async || Socket::connect_to(&bob.base, "/ws/me/me", ticket, Format::Json, Door::Ticket).await;
    assert!(open().await.is_err());
    first.close().await;
    wait::until(PATIENCE, "the ticket opens a socket", async || open().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_count_sockets_together() {
    let Some(backend) = Backend::production().await else { return };
    for limit in LIMITS {
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let nodes = backend.cluster(2, &[(limit, "2"), ("REDIS_PREFIX", &prefix)]).await;
        let phone = registered(&nodes[0].url()).await;
        let (tablet, laptop) = (phone.linked("tablet").await, phone.linked("laptop").await);
        let first = opens(&phone).await.unwrap();
        let _second = opens(&at(&tablet, &nodes[1].url())).await.unwrap();
        for node in &nodes {
            refused(&at(&laptop, &node.url())).await;
        }
        first.close().await;
        opens_soon(&at(&laptop, &nodes[1].url())).await;
    }
    backend.finish().await;
}

const LIMITS: [&str; 2] = ["RATE_LIMIT_CONNECTION_LIMIT_PER_USER", "RATE_LIMIT_CONNECTION_LIMIT_PER_IP"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_devices_of_a_killed_node_come_back_at_once_and_no_other_takes_their_places() {
    let Some(backend) = Backend::production().await else { return };
    for limit in LIMITS {
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let settings: Settings<'_> = &[(limit, "2"), ("REDIS_PREFIX", &prefix)];
        let mut killed = RelayProcess::start(&backend, settings).await;
        let other = backend.relay(settings).await;
        let phone = registered(&killed.url()).await;
        let (tablet, laptop) = (phone.linked("tablet").await, phone.linked("laptop").await);
        let _lost = (opens(&phone).await.unwrap(), opens(&tablet).await.unwrap());
        refused(&at(&laptop, &other.url())).await;
        killed.kill().await;
        let mut back = Vec::new();
        for device in [&phone, &tablet] {
            refused(&at(&laptop, &other.url())).await;
            back.push(opens(&at(device, &other.url())).await.unwrap());
        }
        refused(&at(&laptop, &other.url())).await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_moves_to_another_node_keeps_its_place_when_its_older_socket_ends() {
    let Some(backend) = Backend::production().await else { return };
    for limit in LIMITS {
        let prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
        let nodes = backend.cluster(2, &[(limit, "1"), ("REDIS_PREFIX", &prefix)]).await;
        let phone = registered(&nodes[0].url()).await;
        let laptop = phone.linked("laptop").await;
        let mut older = opens(&phone).await.unwrap();
        let newer = opens(&at(&phone, &nodes[1].url())).await.expect("it has one place, on whichever node");
        assert_eq!(older.closed().await, Some(4409));
        for _ in 0..20 {
            for node in &nodes {
                refused(&at(&laptop, &node.url())).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        newer.close().await;
        opens_soon(&at(&laptop, &nodes[0].url())).await;
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_gives_no_node_more_sockets_than_the_limit() {
    let Some(backend) = Backend::production().await else { return };
    let Some(redis) = PrivateRedis::start().await else { return };
    let url = redis.url();
    let nodes =
        backend.cluster(2, &[("RATE_LIMIT_CONNECTION_LIMIT_PER_USER", "1"), ("REDIS_URL", &url)]).await;
    let phone = registered(&nodes[0].url()).await;
    let (tablet, laptop) = (phone.linked("tablet").await, phone.linked("laptop").await);
    let _open = opens(&phone).await.unwrap();
    refused(&at(&tablet, &nodes[1].url())).await;
    redis.flush_all().await;
    refused(&tablet).await;
    // What is renewed within 20 seconds the other node may give once meanwhile.
    let _other = opens(&at(&tablet, &nodes[1].url())).await;
    refused(&at(&laptop, &nodes[1].url())).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_counts_sockets_by_itself() {
    let Some(backend) = Backend::production().await else { return };
    let silent = Proxy::to("127.0.0.1:1").await;
    silent.turn(Line::Swallows);
    let (gone, silent) = (format!("redis://{}", nowhere()), format!("redis://{}", silent.address));
    for redis in [&*gone, &*silent, ""] {
        let settings: Settings<'_> = &[("RATE_LIMIT_CONNECTION_LIMIT_PER_USER", "1"), ("REDIS_URL", redis)];
        let nodes = backend.cluster(2, settings).await;
        alone(&nodes).await;
    }
    backend.finish().await;
}

/// Asserts that each node gives one socket to a user, and no more.
async fn alone(nodes: &[TestRelay]) {
    let phone = registered(&nodes[0].url()).await;
    let tablet = phone.linked("tablet").await;
    let first = opens(&phone).await.unwrap();
    refused(&tablet).await;
    let there = at(&tablet, &nodes[1].url());
    let _second = opens(&there).await.unwrap();
    refused(&at(&phone, &nodes[1].url())).await;
    first.close().await;
    opens_soon(&phone).await;
}
