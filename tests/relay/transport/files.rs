//! Connections are open files, of which the system allows a process only so many.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{process::RelayProcess, relay::Backend};

const PATIENCE: Duration = Duration::from_mins(1);

/// A connection that was answered once and is kept.
async fn answered(process: &RelayProcess) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(process.address).await.ok()?;
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.ok()?.ok()?;
    (&answer == b"HTTP/1.1 200").then_some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soft_limit_of_open_files_bounds_no_connections() {
    let backend = Backend::embedded();
    let own = [("MAX_CONNECTIONS", "200"), ("IDLE_TIMEOUT", "3600")];
    let mut process = RelayProcess::start_after("ulimit -Sn 128", &backend, &own).await;
    let mut open = Vec::new();
    for number in 0..160 {
        open.push(answered(&process).await.unwrap_or_else(|| panic!("number {number} is not served")));
    }
    assert!(!process.written().contains("files may be open"), "{}", process.written());
    drop(open);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_low_a_limit_of_open_files_is_warned_of_with_figures() {
    let backend = Backend::embedded();
    let own = [("MAX_CONNECTIONS", "5000"), ("MAX_DB_CONNECTIONS", "10"), ("WORKERS", "2")];
    let mut process = RelayProcess::start_after("ulimit -n 512", &backend, &own).await;
    process.stop().await;
    let written = process.written();
    for part in
        ["512 files may be open", "MAX_CONNECTIONS=5000 needs 5154", "LimitNOFILE", "MAX_CONNECTIONS to 358"]
    {
        assert!(written.contains(part), "{part} in {written}");
    }
}
