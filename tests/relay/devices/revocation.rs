//! What was revoked on one node is dead on every node within a second, and nothing else is.

use std::time::Instant;

use serde_json::json;

use crate::{
    devices::{SOON, closed_soon, lives, phone_and_tablet, refusal, refused_soon},
    support::{
        client::{Device, Kind},
        faults::{Line, Proxy, authority, moved, nowhere},
        login::{self, at, log_in, log_out, refreshed},
        relay::{Backend, TestRelay, on_both_backends},
        socket::{Door, Format, Socket},
    },
};

on_both_backends! { a_device_linked_anew_inherits_nothing }

/// How nodes may hear of each other.
#[derive(Debug, Clone, Copy)]
enum Hot {
    /// By Redis.
    Redis,
    /// There is no Redis.
    Absent,
    /// Redis is configured, and nobody listens there.
    Gone,
    /// Redis takes what is said to it, and says nothing.
    Silent,
}

/// Two nodes, and the proxy that stands before their Redis.
async fn two_nodes(backend: &Backend, hot: Hot) -> (Vec<TestRelay>, Option<Proxy>) {
    match hot {
        Hot::Redis => (backend.cluster(2, &[]).await, None),
        Hot::Absent => (backend.cluster(2, &[("REDIS_URL", "")]).await, None),
        Hot::Gone => {
            let url = format!("redis://{}", nowhere());
            (backend.cluster(2, &[("REDIS_URL", &url)]).await, None)
        }
        Hot::Silent => {
            let url = std::env::var("RESTANTE_TEST_REDIS_URL").unwrap();
            let proxy = Proxy::to(&authority(&url)).await;
            let nodes = backend.cluster(2, &[("REDIS_URL", &moved(&url, proxy.address))]).await;
            (nodes, Some(proxy))
        }
    }
}

/// Runs a test over two nodes for each way in which they may hear of each other.
macro_rules! over_two_nodes {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            over_two_nodes!(@one $test by_redis Redis);
            over_two_nodes!(@one $test without_redis Absent);
            over_two_nodes!(@one $test while_redis_is_gone Gone);
            over_two_nodes!(@one $test while_redis_is_silent Silent);
        })+
    };
    (@one $test:ident $name:ident $hot:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let Some(backend) = super::Backend::production().await else { return };
            let (nodes, proxy) = super::two_nodes(&backend, super::Hot::$hot).await;
            super::$test(&nodes, proxy.as_ref()).await;
            backend.finish().await;
        }
    };
}

over_two_nodes! {
    a_deactivated_device_is_dead_on_the_other_node,
    a_session_that_was_logged_out_is_dead_on_the_other_node,
    a_session_whose_refresh_token_was_reused_is_dead_on_the_other_node,
    a_renewed_socket_ends_with_its_new_session_on_the_other_node,
}

/// From here on Redis says nothing, if that is what is tried.
fn silence(proxy: Option<&Proxy>) {
    if let Some(proxy) = proxy {
        proxy.turn(Line::Swallows);
    }
}

async fn a_deactivated_device_is_dead_on_the_other_node(nodes: &[TestRelay], proxy: Option<&Proxy>) {
    let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
    let second = log_in(&tablet).await;
    let ticket = login::ticket(&tablet).await;
    let there = nodes[1].url();
    let (phone_there, tablet_there, second_there) =
        (at(&there, &phone), at(&there, &tablet), at(&there, &second));
    let (mut hers, mut its) = (Socket::open(&phone_there).await, Socket::open(&tablet_there).await);
    silence(proxy);
    phone.deactivate(&tablet).await.is(200);
    let since = Instant::now();
    closed_soon(&mut its, since, 4403).await;
    refused_soon(&tablet_there, since).await;
    refused_soon(&second_there, since).await;
    for dead in [&tablet, &second, &tablet_there, &second_there] {
        dead.queue("limit=1").await.refused(401, "bad-token");
        assert_eq!(login::refresh(dead).await.status, 401);
    }
    let path = format!("/ws/{}/tablet", phone.user_id);
    assert_eq!(
        refusal(Socket::connect_to(&there, &path, &ticket, Format::Json, Door::Ticket).await),
        401,
        "a ticket of a dead device"
    );
    phone_there.queue("limit=1").await.is(200);
    lives(&mut hers).await;
}

async fn a_session_that_was_logged_out_is_dead_on_the_other_node(nodes: &[TestRelay], proxy: Option<&Proxy>) {
    let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
    let second = log_in(&tablet).await;
    let phones_other = log_in(&phone).await;
    let there = nodes[1].url();
    let (tablet_there, second_there) = (at(&there, &tablet), at(&there, &second));
    // The tablet's socket lives by the session that ends, the phone's by one whose sibling ends.
    let mut its = Socket::open(&tablet_there).await;
    let mut hers = Socket::open(&at(&there, &phone)).await;
    silence(proxy);
    log_out(&tablet).await.is(204);
    log_out(&phones_other).await.is(204);
    let since = Instant::now();
    closed_soon(&mut its, since, 4401).await;
    refused_soon(&tablet_there, since).await;
    refused_soon(&at(&there, &phones_other), since).await;
    assert_eq!(login::refresh(&tablet_there).await.status, 401);
    second_there.queue("limit=1").await.is(200);
    at(&there, &phone).queue("limit=1").await.is(200);
    lives(&mut hers).await;
    // The device itself goes on, by its other session and by a new one.
    lives(&mut Socket::open(&second_there).await).await;
    let again = log_in(&tablet).await;
    at(&there, &again).queue("limit=1").await.is(200);
    refreshed(&at(&there, &second)).await;
}

async fn a_session_whose_refresh_token_was_reused_is_dead_on_the_other_node(
    nodes: &[TestRelay],
    proxy: Option<&Proxy>,
) {
    let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
    let other_session = log_in(&tablet).await;
    let next = refreshed(&tablet).await;
    let last = refreshed(&next).await;
    let there = nodes[1].url();
    let mut its = Socket::open(&at(&there, &last)).await;
    let mut hers = Socket::open(&at(&there, &phone)).await;
    silence(proxy);
    login::refresh(&tablet).await.refused(401, "token-reused");
    let since = Instant::now();
    closed_soon(&mut its, since, 4401).await;
    for dead in [&tablet, &next, &last] {
        refused_soon(&at(&there, dead), since).await;
        assert_eq!(login::refresh(&at(&there, dead)).await.status, 401);
    }
    at(&there, &other_session).queue("limit=1").await.is(200);
    lives(&mut hers).await;
    assert_eq!(login::audit(&at(&there, &phone)).await[0], "token_reused");
}

async fn a_renewed_socket_ends_with_its_new_session_on_the_other_node(
    nodes: &[TestRelay],
    proxy: Option<&Proxy>,
) {
    let phone = Device::registered(&nodes[0], Kind::Ed25519).await;
    let second = log_in(&phone).await;
    let mut socket = Socket::open(&at(&nodes[1].url(), &phone)).await;
    socket.send(&json!({ "type": "auth", "ref": "a", "token": second.access_token })).await;
    socket.expect("acked").await;
    silence(proxy);
    log_out(&phone).await.is(204);
    refused_soon(&at(&nodes[1].url(), &phone), Instant::now()).await;
    tokio::time::sleep(SOON).await;
    lives(&mut socket).await;
    log_out(&second).await.is(204);
    closed_soon(&mut socket, Instant::now(), 4401).await;
}

async fn a_device_linked_anew_inherits_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let former = log_in(&tablet).await;
    let ticket = login::ticket(&tablet).await;
    bob.send_opaque(phone.user_id).await;
    assert_eq!(tablet.mailbox().await.len(), 1);
    phone.deactivate(&tablet).await.is(200);
    let anew = phone.linked("tablet").await;
    let queue = anew.queue("limit=100").await.is(200);
    assert_eq!(queue["count"], 0, "{queue}");
    let mut socket = Socket::open(&anew).await;
    assert!(socket.until("queue_drained").await.is_empty());
    for dead in [&tablet, &former] {
        dead.queue("limit=1").await.refused(401, "bad-token");
        assert_eq!(login::refresh(dead).await.status, 401);
        assert_eq!(login::ask_ticket(dead).await.status, 401);
    }
    let opened = Socket::connect_to(&relay.url(), "/ws/me/me", &ticket, Format::Json, Door::Ticket).await;
    assert_eq!(refusal(opened), 401);
    let challenge = login::challenge(&tablet).await.is(200);
    let refused = login::answer(&tablet, challenge["challenge"].as_str().unwrap()).await;
    refused.refused(401, "bad-proof");
    // None of these attempts touched the newcomer.
    lives(&mut socket).await;
    bob.send_opaque(phone.user_id).await;
    assert_eq!(anew.mailbox().await.len(), 1);
    tokio::time::sleep(SOON).await;
    lives(&mut socket).await;
    login::refreshed(&anew).await.queue("limit=1").await.is(200);
}
