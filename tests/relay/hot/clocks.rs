//! Budgets of nodes whose clocks are apart: Redis counts by its own time, and every node is told by its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use restante::{
    domain::{Drawn, Quota, Timestamp},
    hot::{Budgets, Hot, redis::RedisHot},
};
use secrecy::SecretString;

use super::{
    budgets::{NOW, budget},
    rig::{Bell, random_prefix, redis_url},
};
use crate::support::cluster::PrivateCluster;

/// By how much the clocks are apart: of a budget of a minute nearly all.
const APART: Duration = Duration::from_secs(50);

/// How long a place takes to come back.
const QUOTA: Quota = Quota::per_minute(40);
const REFILL: Duration = Duration::from_millis(1500);

fn node(url: &str, prefix: &str) -> Arc<dyn Hot> {
    Arc::new(RedisHot::connect(&SecretString::from(url), prefix, Arc::new(Bell::default())).unwrap())
}

/// Spends from a budget until it is empty, or so many places are taken.
async fn spent(budgets: &Budgets, of: &[u8], most: u32, now: Timestamp) -> u32 {
    let (budget, mut spent) = (budgets.name("test", &[of]), 0);
    while spent < most && budgets.spend(budget, QUOTA, now).await.drawn == Drawn::Taken {
        spent += 1;
    }
    spent
}

async fn a_budget_is_shared(url: &str) {
    let prefix = random_prefix();
    let engines = [node(url, &prefix), node(url, &prefix)];
    let nodes = [0, 1].map(|node| Budgets::new(engines[node].clone(), [1; 32]));
    let clocks = [NOW, NOW.plus(APART)];
    for (first, second) in [(0, 1), (1, 0)] {
        let (of, begun) = ([u8::try_from(first).unwrap()], Instant::now());
        assert_eq!(spent(&nodes[first], &of, 20, clocks[first]).await, 20);
        let rest = spent(&nodes[second], &of, 40, clocks[second]).await;
        let refilled = begun.elapsed().as_millis().div_ceil(REFILL.as_millis());
        assert!((20..=20 + refilled).contains(&rest.into()), "{rest} of 20, and {refilled} came back");
    }
    for engine in engines {
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_clocks_are_apart_share_a_budget() {
    let Some(url) = redis_url() else { return };
    a_budget_is_shared(&url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_clocks_are_apart_share_a_budget_over_a_cluster() {
    let Some(cluster) = PrivateCluster::start().await else { return };
    a_budget_is_shared(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_tells_how_long_to_wait_by_whichever_clock() {
    let Some(url) = redis_url() else { return };
    let (hot, budget, quota) = (node(&url, &random_prefix()), budget(), Quota::per_hour(1));
    assert_eq!(hot.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
    let far = Duration::from_mins(30);
    for now in [NOW, NOW.plus(far), NOW.minus(far)] {
        let Drawn::Empty(wait) = hot.draw(budget, quota, now).await.unwrap() else {
            panic!("a second place")
        };
        assert!(wait <= Duration::from_hours(1) && wait > Duration::from_mins(50), "{wait:?}");
    }
    hot.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_comes_back_as_redis_time_goes_by_although_a_nodes_clock_stands_still() {
    let Some(url) = redis_url() else { return };
    let hot = node(&url, &random_prefix());
    // One every two seconds, and Redis remembers that all are taken for an hour.
    let (budget, quota) = (budget(), Quota::per_hour(1800));
    assert_eq!(hot.lease(budget, quota, 1800, NOW).await.unwrap().places, 1800);
    super::rig::until("a place comes back", async || {
        hot.draw(budget, quota, NOW).await.unwrap() == Drawn::Taken
    })
    .await;
    hot.close().await;
}
