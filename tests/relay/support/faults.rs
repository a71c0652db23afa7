//! What breaks: a Redis server of a test's own, memory that grows.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::process::free_port;
pub(crate) use super::proxy::{Line, Proxy};

/// A Redis server that a test may kill.
pub(crate) struct PrivateRedis {
    port: u16,
    folder: TempDir,
    child: Child,
}

impl PrivateRedis {
    /// Starts one that keeps nothing on disk; none where there is no `redis-server`.
    pub(crate) async fn start() -> Option<Self> {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let Some(child) = serve(port, &folder) else {
            eprintln!("SKIPPED: there is no redis-server to start");
            return None;
        };
        let mut redis = Self { port, folder, child };
        redis.ready().await;
        Some(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.child = serve(self.port, &self.folder).unwrap();
        self.ready().await;
    }

    pub(crate) async fn flush_all(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(b"FLUSHALL\r\n").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }

    /// How many keys it has.
    pub(crate) async fn keys(&self) -> u64 {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap());
        stream.write_all(b"DBSIZE\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        answer.trim_start_matches(':').trim_end().parse().unwrap()
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(port: u16, folder: &TempDir) -> Option<Child> {
    let port = port.to_string();
    Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

/// `host:port` of a URL like `redis://user@host:port/path`.
pub(crate) fn authority(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    let authority = rest.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}

/// The same URL at another place.
pub(crate) fn moved(url: &str, to: SocketAddr) -> String {
    url.replacen(&authority(url), &to.to_string(), 1)
}

/// An address where nobody listens.
pub(crate) fn nowhere() -> SocketAddr {
    StdListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Asks again and again until the answer is yes; panics after the deadline.
pub(crate) async fn eventually(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !ask().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
