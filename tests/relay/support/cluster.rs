//! A Redis Cluster of a test's own, whose nodes may be killed.

use std::{
    ops::Range,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use super::faults::eventually;

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

/// How long a node may be silent before the others call it dead.
const NODE_TIMEOUT: &str = "1000";

const PATIENCE: Duration = Duration::from_secs(20);

/// Masters, each with one replica or none, that keep nothing on disk but who they are.
pub(crate) struct PrivateCluster {
    pub(crate) nodes: Vec<ClusterNode>,
    masters: usize,
}

/// One server of a cluster.
pub(crate) struct ClusterNode {
    pub(crate) port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl PrivateCluster {
    /// Three masters; none, loudly, where there is no `redis-server` or tests are to do without Redis.
    pub(crate) async fn start() -> Option<Self> {
        Self::of(3, 3).await
    }

    /// Three masters and a replica of each.
    pub(crate) async fn with_replicas() -> Option<Self> {
        Self::of(3, 6).await
    }

    async fn of(masters: usize, nodes: usize) -> Option<Self> {
        if std::env::var_os("RESTANTE_TEST_REDIS_URL").is_none() {
            eprintln!("SKIPPED: RESTANTE_TEST_REDIS_URL is not set, so no Redis Cluster was tried");
            return None;
        }
        let mut cluster = Self { nodes: Vec::new(), masters };
        for _ in 0..nodes {
            let mut node = ClusterNode { port: 0, folder: tempfile::tempdir().unwrap(), child: None };
            node.start_somewhere().await;
            cluster.nodes.push(node);
        }
        cluster.join().await;
        Some(cluster)
    }

    async fn join(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let epoch = (at + 1).to_string();
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await.unwrap();
            if at < self.masters {
                let (first, last) = (at * SLOTS / self.masters, (at + 1) * SLOTS / self.masters - 1);
                let range = [first.to_string(), last.to_string()];
                node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]).await.unwrap();
            }
        }
        for node in &self.nodes {
            for other in &self.nodes {
                let port = other.port.to_string();
                node.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port]).await.unwrap();
            }
        }
        self.agreed(self.masters).await;
        for (at, replica) in self.nodes.iter().enumerate().skip(self.masters) {
            let master: String = self.nodes[at - self.masters].ask(&["CLUSTER", "MYID"]).await.unwrap();
            eventually("a replica knows its master", PATIENCE, async || {
                replica.ask::<()>(&["CLUSTER", "REPLICATE", &master]).await.is_ok()
            })
            .await;
        }
        for replica in &self.nodes[self.masters..] {
            eventually("a replica follows", PATIENCE, async || {
                let info: RedisResult<String> = replica.ask(&["INFO", "replication"]).await;
                info.is_ok_and(|info| info.contains("master_link_status:up"))
            })
            .await;
        }
    }

    /// Waits until every living node says that all is well and that so many masters have slots.
    pub(crate) async fn agreed(&self, masters: usize) {
        for node in self.nodes.iter().filter(|node| node.child.is_some()) {
            eventually("the cluster agrees", PATIENCE, async || {
                let info: RedisResult<String> = node.ask(&["CLUSTER", "INFO"]).await;
                info.is_ok_and(|info| {
                    let says = |line: &str| info.lines().any(|it| it == line);
                    says("cluster_state:ok")
                        && says(&format!("cluster_known_nodes:{}", self.nodes.len()))
                        && says(&format!("cluster_slots_ok:{SLOTS}"))
                        && says(&format!("cluster_size:{masters}"))
                })
            })
            .await;
        }
    }

    /// The URL that declares it, with all nodes as seeds.
    pub(crate) fn url(&self) -> String {
        self.url_of(0..self.nodes.len())
    }

    /// The URL with some nodes as seeds.
    pub(crate) fn url_of(&self, seeds: Range<usize>) -> String {
        let seeds: Vec<_> = self.nodes[seeds].iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// Which node has a key now, as the first living node says.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        let living = self.nodes.iter().find(|node| node.child.is_some()).unwrap();
        let slot: i64 = living.ask(&["CLUSTER", "KEYSLOT", key]).await.unwrap();
        let Value::Array(ranges) = living.ask(&["CLUSTER", "SLOTS"]).await.unwrap() else {
            panic!("no slots")
        };
        for range in ranges {
            let (first, last, master): (i64, i64, Value) =
                redis::from_redis_value(first_three(range)).unwrap();
            let Value::Array(master) = master else { panic!("no master") };
            let port: u16 = redis::from_redis_value(master[1].clone()).unwrap();
            if (first..=last).contains(&slot) {
                return self.nodes.iter().position(|node| node.port == port).unwrap();
            }
        }
        panic!("nobody has slot {slot}")
    }

    pub(crate) async fn flush_all(&self) {
        for node in &self.nodes[..self.masters] {
            node.ask::<()>(&["FLUSHALL"]).await.unwrap();
        }
    }
}

fn first_three(range: Value) -> Value {
    let Value::Array(mut parts) = range else { panic!("no range") };
    parts.truncate(3);
    Value::Array(parts)
}

impl ClusterNode {
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
    }

    /// Starts it on a port of which the bus, 10,000 further up, is free too.
    async fn start_somewhere(&mut self) {
        for _ in 0..20 {
            self.port = 20_000 + rand::random_range(0..12_000);
            self.spawn();
            if self.is_up().await {
                return;
            }
            self.kill();
        }
        panic!("no node of a cluster starts");
    }

    async fn is_up(&mut self) -> bool {
        for _ in 0..500 {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if self.ask::<()>(&["PING"]).await.is_ok() {
                // Another server may have had the port already.
                let info: String = self.ask(&["INFO", "server"]).await.unwrap();
                let own = format!("process_id:{}", self.child.as_ref().unwrap().id());
                return info.lines().any(|line| line == own);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn spawn(&mut self) {
        let child = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"])
            .args(["--cluster-node-timeout", NODE_TIMEOUT, "--cluster-require-full-coverage", "no"])
            .args(["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again where it was, as the node that it was.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        assert!(self.is_up().await, "a killed node starts again");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        self.kill();
    }
}
