//! What the Redis engine promises over a cluster of which nodes die, come back and change their roles.

use std::time::{Duration, Instant};

use restante::{
    domain::{DeviceNo, Drawn, Position, Quota},
    hot::{Event, redis::RedisHot},
};
use secrecy::SecretString;

use super::{
    budgets::{NOW, budget},
    rig::{Bell, Node, delivery, notice, random_prefix, redis_url, until},
};
use crate::support::cluster::PrivateCluster;

/// The longest an act may take, whatever its node does.
const LONGEST_ACT: Duration = Duration::from_millis(2_500);

/// Two nodes of a relay on a cluster, and the devices whose queues are with each of its masters.
struct Pair {
    prefix: String,
    one: Node,
    two: Node,
}

impl Pair {
    fn on(cluster: &PrivateCluster) -> Self {
        let (url, prefix) = (cluster.url(), random_prefix());
        Self { one: Node::on_redis(&url, &prefix), two: Node::on_redis(&url, &prefix), prefix }
    }

    /// The first device whose queue is with this node.
    async fn device_with(&self, cluster: &PrivateCluster, node: usize) -> DeviceNo {
        for number in 1.. {
            if cluster.owner(&format!("{}:q:{number}", self.prefix)).await == node {
                return DeviceNo(number);
            }
        }
        unreachable!("numbers do not end")
    }

    /// Whether an item put at this position of a device's queue comes back.
    async fn keeps(&self, device: DeviceNo, position: i64) -> bool {
        // A failure of the whole is no news of this device.
        let _ = self.one.hot.deliver(&[delivery(device, position, &notice())]).await;
        self.two.hot.cached(device, &[Position(position)]).await.is_ok_and(|items| items.len() == 1)
    }

    /// Waits until each of many events in a row arrives.
    async fn in_touch(&self, device: DeviceNo) {
        let mut number = 0;
        let mut arrived = 0;
        until("events travel", async || {
            number += 1;
            let before = self.two.bell.heard(device).len();
            let sent = self.one.hot.notify(device, Event::Wake(Position(number))).await.is_ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.two.bell.heard(device).len();
            arrived = if sent && now == before + 1 { arrived + 1 } else { 0 };
            arrived == 10
        })
        .await;
    }
}

async fn timed<T>(act: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let outcome = act.await;
    assert!(start.elapsed() < LONGEST_ACT, "an act took {:?}", start.elapsed());
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_url_that_is_none_is_refused_at_once() {
    for bad in ["", "host:x", "a/0", "a,,b", "user:secret@"] {
        let bell = std::sync::Arc::new(Bell::default());
        let url = SecretString::from(format!("redis+cluster://{bad}"));
        let Err(refused) = RedisHot::connect(&url, "p", bell) else { panic!("{bad:?}") };
        assert!(!format!("{refused} {refused:?}").contains("secret"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_master_takes_its_own_slots_along_and_nothing_else_until_it_is_back() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let meeting = cluster.owner(&pair.prefix).await;
    let dead = (meeting + 1) % 3;
    let live = DeviceNo(1_000_000);
    pair.two.hot.subscribe(live).await.unwrap();
    let lost = pair.device_with(&cluster, dead).await;
    let kept = [pair.device_with(&cluster, meeting).await, pair.device_with(&cluster, (dead + 1) % 3).await];
    let mut position = 1;
    for device in [lost, kept[0], kept[1]] {
        assert!(pair.keeps(device, position).await);
    }
    pair.one.hot.check().await.unwrap();
    cluster.nodes[dead].kill();
    let since = Instant::now();
    let mut rounds = 0;
    while since.elapsed() < Duration::from_secs(4) {
        (position, rounds) = (position + 1, rounds + 1);
        // One batch for all of them: what can be done is done.
        let batch = [lost, kept[0], kept[1]].map(|device| delivery(device, position, &notice()));
        assert!(timed(pair.one.hot.deliver(&batch)).await.is_err());
        for device in kept {
            let items = timed(pair.one.hot.cached(device, &[Position(position)])).await.unwrap();
            assert_eq!(items.len(), 1);
        }
        assert!(timed(pair.one.hot.cached(lost, &[Position(1)])).await.is_err());
        timed(pair.one.hot.notify(live, Event::Wake(Position(position)))).await.unwrap();
        assert!(timed(pair.one.hot.check()).await.is_err());
    }
    assert!(rounds > 20, "the living are not held up: {rounds} rounds");
    assert_eq!(pair.two.bell.wait_for(live, rounds).await.len(), rounds);
    assert_eq!(pair.two.bell.resubscriptions(), 0);
    cluster.nodes[dead].restart().await;
    until("its slots work again", async || {
        position += 1;
        pair.keeps(lost, position).await
    })
    .await;
    until("all is well", async || pair.one.hot.check().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_node_where_they_meet_dies_nodes_meet_elsewhere_and_return_when_it_is_back() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let meeting = cluster.owner(&pair.prefix).await;
    let devices: Vec<_> = (1..=2_000).map(|number| DeviceNo(1_000_000 + number)).collect();
    for subscribed in
        futures_util::future::join_all(devices.iter().map(|it| pair.two.hot.subscribe(*it))).await
    {
        subscribed.unwrap();
    }
    let at_the_meeting = async |cluster: &PrivateCluster| {
        let channels: Vec<String> = cluster.nodes[meeting].ask(&["PUBSUB", "CHANNELS"]).await.unwrap();
        channels.iter().filter(|name| name.starts_with(&pair.prefix)).count()
    };
    assert_eq!(at_the_meeting(&cluster).await, devices.len(), "subscribers are where publishers go");
    cluster.nodes[meeting].kill();
    until("sessions are told", async || pair.two.bell.resubscriptions() == 1).await;
    for device in [devices[0], devices[1_999]] {
        pair.in_touch(device).await;
    }
    let later = DeviceNo(3_000_000);
    timed(pair.two.hot.subscribe(later)).await.unwrap();
    pair.in_touch(later).await;
    cluster.nodes[meeting].restart().await;
    until("subscribers are back at the meeting place", async || {
        at_the_meeting(&cluster).await == devices.len() + 1
    })
    .await;
    until("sessions are told", async || pair.two.bell.resubscriptions() >= 2).await;
    for device in [devices[0], devices[1_999], later] {
        pair.in_touch(device).await;
    }
}

/// That nobody listens at the node that was asked says nothing of the other nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_for_a_listener_at_another_node_arrives_and_is_cached_as_well() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let meeting = cluster.owner(&pair.prefix).await;
    let device = pair.device_with(&cluster, (meeting + 1) % 3).await;
    pair.two.hot.subscribe(device).await.unwrap();
    let (mut position, mut both) = (0, false);
    for round in 1..=5 {
        // The listener flees to another node and stays there for some seconds after the first one is back.
        cluster.nodes[meeting].kill();
        until("the listener is elsewhere", async || pair.two.bell.resubscriptions() >= round).await;
        cluster.nodes[meeting].restart().await;
        let since = Instant::now();
        while !both && since.elapsed() < Duration::from_secs(4) {
            position += 1;
            let sent = pair.one.hot.deliver(&[delivery(device, position, &notice())]).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let heard = pair.two.bell.heard(device);
            let arrived = heard.iter().any(|it| matches!(it, Event::Item(at, _) if at.0 == position));
            let cached = pair.one.hot.cached(device, &[Position(position)]).await;
            both = sent.is_ok() && arrived && cached.is_ok_and(|items| items.len() == 1);
        }
        if both {
            break;
        }
    }
    assert!(both, "never was an item heard at one node and kept because nobody listened at another");
    pair.one.hot.forget(device, &[Position(position)]).await.unwrap();
    assert!(pair.one.hot.cached(device, &[Position(position)]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_master_holds_up_no_act_for_long() {
    let Some(cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let silent = (cluster.owner(&pair.prefix).await + 1) % 3;
    let (lost, kept) =
        (pair.device_with(&cluster, silent).await, pair.device_with(&cluster, (silent + 1) % 3).await);
    assert!(pair.keeps(lost, 1).await && pair.keeps(kept, 1).await);
    cluster.nodes[silent].signal("-STOP");
    let start = Instant::now();
    assert!(timed(pair.one.hot.cached(lost, &[Position(1)])).await.is_err());
    for position in 2..100 {
        assert!(timed(pair.keeps(kept, position)).await);
        assert!(timed(pair.one.hot.cached(lost, &[Position(1)])).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(10), "acts hung for {:?}", start.elapsed());
    cluster.nodes[silent].signal("-CONT");
    let mut position = 1;
    until("its slots work again", async || {
        position += 1;
        pair.keeps(lost, position).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_are_followed_and_a_flush_of_all_nodes_breaks_nothing() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let device = pair.device_with(&cluster, 0).await;
    let key = format!("{}:q:{}", pair.prefix, device.0);
    let slot: i64 = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", &key]).await.unwrap();
    let slot = slot.to_string();
    assert!(pair.keeps(device, 1).await);
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        ids.push(node.ask::<String>(&["CLUSTER", "MYID"]).await.unwrap());
    }
    // While the slot is on its way, keys that are not here any more are asked for there (ASK).
    cluster.nodes[1].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await.unwrap();
    cluster.nodes[0].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await.unwrap();
    assert!(pair.keeps(device, 2).await);
    let port = cluster.nodes[1].port.to_string();
    cluster.nodes[0].ask::<()>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "1000"]).await.unwrap();
    assert!(pair.keeps(device, 3).await, "ASK is followed");
    assert_eq!(pair.two.hot.cached(device, &[Position(1), Position(2)]).await.unwrap().len(), 2);
    for node in [1, 0, 2] {
        cluster.nodes[node].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]).await.unwrap();
    }
    assert!(pair.keeps(device, 4).await, "MOVED is followed");
    assert_eq!(pair.two.hot.cached(device, &[Position(1), Position(4)]).await.unwrap().len(), 2);
    cluster.flush_all().await;
    assert!(pair.two.hot.cached(device, &[Position(4)]).await.unwrap().is_empty());
    assert!(pair.keeps(device, 1).await);
    cluster.nodes[0].kill();
    let mut position = 1;
    // The nodes ask where the slots are at most once a second.
    until("the old owner is not needed any more", async || {
        position += 1;
        pair.keeps(device, position).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_shared_over_a_cluster_and_begins_full_where_a_server_is_new() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    let pair = Pair::on(&cluster);
    let quota = Quota::per_minute(1);
    let budgets: Vec<_> = (0..30).map(|_| budget()).collect();
    for budget in &budgets {
        assert_eq!(pair.one.hot.draw(*budget, quota, NOW).await.unwrap(), Drawn::Taken);
        assert_ne!(pair.two.hot.draw(*budget, quota, NOW).await.unwrap(), Drawn::Taken);
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].restart().await;
    let mut taken = 0;
    for budget in &budgets {
        until("the budget is drawn from", async || match pair.one.hot.draw(*budget, quota, NOW).await {
            Ok(drawn) => {
                taken += usize::from(drawn == Drawn::Taken);
                true
            }
            Err(_) => false,
        })
        .await;
    }
    assert!((1..30).contains(&taken), "only what the new server had begins anew: {taken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_may_begin_with_seeds_of_which_some_are_dead_or_before_there_is_a_cluster() {
    let Some(mut cluster) = PrivateCluster::start().await else { return };
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let (url, prefix) = (cluster.url_of(0..2), random_prefix());
    let node = Node::on_redis(&url, &prefix);
    assert!(timed(node.hot.check()).await.is_err());
    let start = Instant::now();
    for _ in 0..200 {
        assert!(node.hot.notify(DeviceNo(1), Event::Deactivated).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "acts piled up for {:?}", start.elapsed());
    cluster.nodes[1].restart().await;
    until("a seed is enough to listen", async || node.hot.subscribe(DeviceNo(1)).await.is_ok()).await;
    assert!(node.hot.check().await.is_err(), "a master is away");
    cluster.nodes[0].restart().await;
    until("all is well", async || node.hot.check().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_from_a_dead_master() {
    let Some(mut cluster) = PrivateCluster::with_replicas().await else { return };
    let pair = Pair::on(&cluster);
    let meeting = cluster.owner(&pair.prefix).await;
    let (device, live) = (pair.device_with(&cluster, meeting).await, DeviceNo(1_000_000));
    pair.two.hot.subscribe(live).await.unwrap();
    assert!(pair.keeps(device, 1).await);
    let start = Instant::now();
    cluster.nodes[meeting].kill();
    let mut position = 1;
    until("the queue is kept by the replica", async || {
        position += 1;
        pair.keeps(device, position).await
    })
    .await;
    eprintln!("failover took {:?}", start.elapsed());
    assert_eq!(cluster.owner(&pair.prefix).await, meeting + 3);
    pair.in_touch(live).await;
    // The old master comes back as a replica, which says so.
    cluster.nodes[meeting].restart().await;
    cluster.agreed(3).await;
    assert!(pair.keeps(device, position + 1).await);
    until("all is well", async || pair.one.hot.check().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_declared_is_never_guessed() {
    let Some(cluster) = PrivateCluster::start().await else { return };
    let Some(server) = redis_url() else { return };
    // A node of a cluster taken for a lone server has a third of the keys.
    let prefix = random_prefix();
    let alone = Node::on_redis(&format!("redis://127.0.0.1:{}", cluster.nodes[0].port), &prefix);
    let elsewhere = (1..).map(DeviceNo);
    let mut refused = 0;
    for device in elsewhere.take(30) {
        refused += usize::from(alone.hot.deliver(&[delivery(device, 1, &notice())]).await.is_err());
    }
    assert!((1..30).contains(&refused), "{refused}");
    let declared = Node::on_redis(&server.replacen("redis://", "redis+cluster://", 1), &prefix);
    assert!(timed(declared.hot.check()).await.is_err());
    assert!(declared.hot.subscribe(DeviceNo(1)).await.is_err());
}
