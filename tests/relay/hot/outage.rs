//! What the Redis engine promises when Redis fails or lies. Whatever is flushed, stopped or killed here is a server of
//! the test's own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use restante::{
    domain::{DeviceNo, Drawn, Position, Quota, Timestamp},
    hot::{Budgets, Event, redis::RedisHot},
};
use secrecy::SecretString;

use super::{
    budgets::{NOW, budget},
    rig::{Bell, Node, delivery, notice, random_prefix, redis_url, spell, until},
};

const DEVICE: DeviceNo = DeviceNo(7);

/// A Redis server of this test alone.
struct Server {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Server {
    /// A server that is not started yet; none when the tests are to do without Redis.
    fn reserved() -> Option<Self> {
        redis_url()?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Some(Self { port, folder: tempfile::tempdir().unwrap(), child: None })
    }

    async fn started() -> Option<Self> {
        let mut server = Self::reserved()?;
        server.start().await;
        Some(server)
    }

    async fn start(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        until("redis starts", async || self.command("PING").await.is_ok()).await;
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn command(&self, name: &str) -> redis::RedisResult<()> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(name).exec_async(&mut connection).await
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pair(server: &Server) -> (Node, Node) {
    let (url, prefix) = (server.url(), random_prefix());
    (Node::on_redis(&url, &prefix), Node::on_redis(&url, &prefix))
}

/// Sends wakes until one arrives, and then makes sure that each further one does.
async fn assert_in_touch(from: &Node, to: &Node, device: DeviceNo) {
    let before = to.bell.heard(device).len();
    until("events travel", async || {
        let sent = from.hot.notify(device, Event::Wake(Position(1))).await;
        sent.is_ok() && to.bell.heard(device).len() > before
    })
    .await;
    from.hot.notify(device, Event::Deactivated).await.unwrap();
    until("the last event arrives", async || {
        matches!(to.bell.heard(device).last(), Some(Event::Deactivated))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_that_is_none_is_refused_at_once() {
    for bad in ["", "localhost", "http://localhost", "redis://"] {
        let bell = std::sync::Arc::new(Bell::default());
        let refused = RedisHot::connect(&SecretString::from(bad), "p", bell).is_err();
        assert!(refused, "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_payloads_on_a_channel_are_ignored() {
    let Some(url) = redis_url() else { return };
    let prefix = random_prefix();
    let (one, two) = (Node::on_redis(&url, &prefix), Node::on_redis(&url, &prefix));
    two.hot.subscribe(DEVICE).await.unwrap();
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let garbage: [&[u8]; 5] = [
        b"",
        b"\x01",
        b"\x02aaaaaaaaaaaaaaaa\xc0",
        b"\x01aaaaaaaaaaaaaaaa\xdd\xff\xff\xff\xff",
        &[0xff; 5_000],
    ];
    for payload in garbage {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(format!("{prefix}:d:7")).arg(payload);
        assert_eq!(publish.query_async::<u64>(&mut connection).await.unwrap(), 1);
    }
    // A good frame, but of another device.
    one.hot.deliver(&[delivery(DeviceNo(8), 1, &notice())]).await.unwrap();
    let entries: Vec<(String, Vec<Vec<u8>>)> = redis::cmd("XRANGE")
        .arg(format!("{prefix}:q:8"))
        .arg("-")
        .arg("+")
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(format!("{prefix}:d:7")).arg(&entries[0].1[1]);
    assert_eq!(publish.query_async::<u64>(&mut connection).await.unwrap(), 1);
    one.hot.forget_device(DeviceNo(8)).await.unwrap();
    one.hot.notify(DEVICE, Event::Wake(Position(3))).await.unwrap();
    let heard = two.bell.wait_for(DEVICE, 1).await;
    assert_eq!(heard.iter().map(spell).collect::<Vec<_>>(), ["wake 3"]);
    assert_eq!(two.bell.heard_in_all(), 1);
    assert_eq!(two.bell.resubscriptions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_and_misplaced_entries_of_a_queue_are_not_given_out() {
    let Some(url) = redis_url() else { return };
    let prefix = random_prefix();
    let node = Node::on_redis(&url, &prefix);
    node.hot.deliver(&[delivery(DEVICE, 1, &notice())]).await.unwrap();
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let own = format!("{prefix}:q:7");
    let entries: Vec<(String, Vec<Vec<u8>>)> =
        redis::cmd("XRANGE").arg(&own).arg("-").arg("+").query_async(&mut connection).await.unwrap();
    let payload = &entries[0].1[1];
    let other = format!("{prefix}:q:8");
    let misplaced: [(&str, &str, &[u8]); 3] =
        [(&own, "2-0", payload), (&own, "3-0", b"garbage"), (&other, "1-0", payload)];
    for (key, id, payload) in misplaced {
        let mut add = redis::cmd("XADD");
        add.arg(key).arg(id).arg("b").arg(payload).exec_async(&mut connection).await.unwrap();
    }
    let asked = [Position(1), Position(2), Position(3)];
    let own_items = node.hot.cached(DEVICE, &asked).await.unwrap();
    assert_eq!(own_items.into_keys().collect::<Vec<_>>(), [Position(1)]);
    assert!(node.hot.cached(DEVICE, &asked[1..]).await.unwrap().is_empty());
    assert!(node.hot.cached(DeviceNo(8), &asked).await.unwrap().is_empty());
    node.hot.forget_device(DEVICE).await.unwrap();
    node.hot.forget_device(DeviceNo(8)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_empties_the_cache_and_breaks_nothing_else() {
    let Some(server) = Server::started().await else { return };
    let (one, two) = pair(&server);
    two.hot.subscribe(DEVICE).await.unwrap();
    let absent = DeviceNo(8);
    one.hot.deliver(&[delivery(absent, 5, &notice())]).await.unwrap();
    assert_eq!(one.hot.cached(absent, &[Position(5)]).await.unwrap().len(), 1);
    server.command("FLUSHALL").await.unwrap();
    assert!(one.hot.cached(absent, &[Position(5)]).await.unwrap().is_empty());
    one.hot.forget(absent, &[Position(5)]).await.unwrap();
    one.hot.deliver(&[delivery(absent, 6, &notice())]).await.unwrap();
    assert_eq!(one.hot.cached(absent, &[Position(6)]).await.unwrap().len(), 1);
    one.hot.notify(DEVICE, Event::Deactivated).await.unwrap();
    two.bell.wait_for(DEVICE, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_redis_subscriptions_come_back_and_sessions_are_told() {
    let Some(mut server) = Server::started().await else { return };
    let (one, two) = pair(&server);
    let later = DeviceNo(8);
    two.hot.subscribe(DEVICE).await.unwrap();
    one.hot.check().await.unwrap();
    server.kill();
    until("the loss is noticed", async || two.hot.subscribe(later).await.is_err()).await;
    assert!(one.hot.check().await.is_err());
    let start = Instant::now();
    for _ in 0..1_000 {
        assert!(one.hot.notify(DEVICE, Event::Deactivated).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "acts piled up for {:?}", start.elapsed());
    assert_eq!(two.bell.resubscriptions(), 0);
    server.start().await;
    until("sessions are told", async || two.bell.resubscriptions() > 0).await;
    assert_in_touch(&one, &two, DEVICE).await;
    // Refused meanwhile, but remembered.
    assert_in_touch(&one, &two, later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_may_connect_while_redis_is_away() {
    let Some(mut server) = Server::reserved() else { return };
    let (one, two) = pair(&server);
    assert!(one.hot.check().await.is_err());
    until("a subscription is refused", async || two.hot.subscribe(DEVICE).await.is_err()).await;
    server.start().await;
    until("sessions are told", async || two.bell.resubscriptions() > 0).await;
    assert_in_touch(&one, &two, DEVICE).await;
    assert_eq!(one.bell.resubscriptions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_holds_up_no_act_for_long_and_is_noticed() {
    let Some(server) = Server::started().await else { return };
    let (one, two) = pair(&server);
    two.hot.subscribe(DEVICE).await.unwrap();
    one.hot.check().await.unwrap();
    server.signal("-STOP");
    let start = Instant::now();
    assert!(one.hot.check().await.is_err());
    assert!(two.hot.subscribe(DeviceNo(8)).await.is_err());
    for _ in 0..100 {
        assert!(one.hot.notify(DEVICE, Event::Deactivated).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(8), "acts hung for {:?}", start.elapsed());
    server.signal("-CONT");
    until("sessions are told", async || two.bell.resubscriptions() > 0).await;
    assert_in_touch(&one, &two, DEVICE).await;
    assert_in_touch(&one, &two, DeviceNo(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keepalive_notices_a_half_open_connection_by_itself() {
    let Some(server) = Server::started().await else { return };
    let (one, two) = pair(&server);
    two.hot.subscribe(DEVICE).await.unwrap();
    server.signal("-STOP");
    // Long enough for one keepalive to go unanswered; nothing else touches the connection meanwhile.
    tokio::time::sleep(Duration::from_secs(9)).await;
    server.signal("-CONT");
    until("sessions are told", async || two.bell.resubscriptions() > 0).await;
    assert_in_touch(&one, &two, DEVICE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_engine_refuses_acts_and_lets_its_connections_go() {
    let Some(server) = Server::started().await else { return };
    let (one, two) = pair(&server);
    two.hot.subscribe(DEVICE).await.unwrap();
    two.hot.check().await.unwrap();
    two.hot.close().await;
    assert!(two.hot.check().await.is_err());
    assert!(two.hot.notify(DEVICE, Event::Deactivated).await.is_err());
    drop(one);
    until("only the asking connection is left", async || {
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
        clients.lines().count() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_is_kept_exactly_under_a_key_that_expires_and_begins_full_on_a_new_server() {
    let Some(mut server) = Server::started().await else { return };
    let prefix = random_prefix();
    let node = Node::on_redis(&server.url(), &prefix);
    let (budget, quota) = (budget(), Quota::per_minute(1));
    assert_eq!(node.hot.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
    assert_ne!(node.hot.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = budget.0.iter().fold(format!("{prefix}:budget:"), |key, byte| format!("{key}{byte:02x}"));
    let kept: String = redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
    assert_eq!(kept, (NOW.millis() * 1000 + 60_000_000).to_string());
    let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    server.kill();
    server.start().await;
    until("redis is back", async || node.hot.check().await.is_ok()).await;
    assert_eq!(node.hot.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_node_counts_by_itself_and_a_time_redis_cannot_count_is_refused() {
    let Some(mut server) = Server::started().await else { return };
    let node = Node::on_redis(&server.url(), &random_prefix());
    let far = Timestamp::from_millis(i64::MAX);
    assert!(node.hot.draw(budget(), Quota::per_minute(1), far).await.is_err());
    let budgets = Budgets::new(node.hot.clone(), [1; 32]);
    let draw = async || budgets.draw("test", &[b"somebody"], Quota::per_minute(2), NOW).await;
    assert_eq!(draw().await, Drawn::Taken);
    server.kill();
    assert_eq!(draw().await, Drawn::Taken, "it knows of the place that Redis counted");
    assert_eq!(draw().await, Drawn::Empty(Duration::from_secs(30)));
}
