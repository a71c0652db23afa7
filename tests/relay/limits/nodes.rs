//! Budgets over several nodes: together through Redis, each alone while Redis is gone, silent or has forgotten.

use std::time::Duration;

use super::{at, limited, note, notes_taken, registered, send_frame};
use crate::{
    devices::cluster_at_noon,
    support::{
        faults::{Line, PrivateRedis, Proxy, nowhere},
        relay::Backend,
        socket::{PATIENCE, Socket},
        wait,
    },
};

const THREE: (&str, &str) = ("RATE_LIMIT_MESSAGE_LIMIT", "3");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_count_a_device_together_over_rest_and_sockets() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, clock) = cluster_at_noon(&backend, 2, &[THREE]).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    let mut socket = Socket::open(&there).await;
    note(&here).await.is(201);
    socket.send(&send_frame(here.user_id, 1)).await;
    socket.expect("sent").await;
    note(&there).await.is(201);
    for seat in [&here, &there] {
        assert_eq!(limited(&note(seat).await), 20);
    }
    socket.send(&send_frame(here.user_id, 2)).await;
    assert_eq!(socket.expect("error").await["retry_after"], 20);
    clock.advance(Duration::from_secs(20));
    note(&here).await.is(201);
    limited(&note(&there).await);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_spend_by_leases_never_give_more_than_the_limit() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, clock) = cluster_at_noon(&backend, 2, &[("RATE_LIMIT_MESSAGE_LIMIT", "40")]).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    for _ in 0..5 {
        note(&here).await.is(201);
    }
    let elsewhere = notes_taken(&there).await;
    assert_eq!(elsewhere, 30, "ten are leased to the first node");
    assert_eq!(notes_taken(&here).await, 5, "which spends them");
    // A lease that is not spent is not lost: it lapses when the budget is full without it.
    clock.advance(Duration::from_mins(1));
    note(&here).await.is(201);
    clock.advance(Duration::from_mins(1));
    assert_eq!(notes_taken(&there).await, 40);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_counts_a_device_by_itself() {
    let Some(backend) = Backend::production().await else { return };
    let silent = Proxy::to("127.0.0.1:1").await;
    silent.turn(Line::Swallows);
    let (gone, silent) = (format!("redis://{}", nowhere()), format!("redis://{}", silent.address));
    for redis in [&*gone, &*silent, ""] {
        let (nodes, clock) = cluster_at_noon(&backend, 2, &[THREE, ("REDIS_URL", redis)]).await;
        let here = registered(&nodes[0].url()).await;
        for node in &nodes {
            assert_eq!(notes_taken(&at(&here, &node.url())).await, 3, "{redis}");
        }
        clock.advance(Duration::from_secs(20));
        assert_eq!(notes_taken(&here).await, 1, "{redis}");
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_gives_no_node_more_than_the_limit() {
    let Some(backend) = Backend::production().await else { return };
    let Some(redis) = PrivateRedis::start().await else { return };
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &[THREE, ("REDIS_URL", &redis.url())]).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    assert_eq!(notes_taken(&here).await, 3);
    assert_eq!(notes_taken(&there).await, 0);
    redis.flush_all().await;
    assert_eq!(notes_taken(&here).await, 0, "a node knows what it gave");
    assert!(notes_taken(&there).await <= 3);
    assert_eq!(notes_taken(&there).await, 0);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_whose_place_in_a_budget_is_being_asked_for_is_answered_before_the_relay_goes() {
    let Some(backend) = Backend::production().await else { return };
    let Some(redis) = PrivateRedis::start().await else { return };
    let proxy = Proxy::to(redis.url().trim_start_matches("redis://")).await;
    let relay = backend.relay(&[("REDIS_URL", &format!("redis://{}", proxy.address))]).await;
    let device = registered(&relay.url()).await;
    let mut socket = Socket::open(&device).await;
    socket.until("queue_drained").await;

    proxy.turn(Line::Late(Duration::from_millis(100)));
    let before = redis.keys().await;
    socket.send(&send_frame(device.user_id, 1)).await;
    wait::until(PATIENCE, "the frame was read", async || redis.keys().await > before).await;
    let ((), answered) = tokio::join!(relay.stop(), async {
        let answered = socket.expect("sent").await["ref"] == "1";
        (answered, socket.closed().await)
    });
    assert_eq!(answered, (true, Some(1001)));
    backend.finish().await;
}
