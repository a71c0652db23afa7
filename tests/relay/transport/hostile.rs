//! Peers that are slow on purpose, or say two things at once, over HTTP/1.1 and by the byte.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::{
    client::{Device, Kind},
    relay::{Backend, TestRelay},
    tls::{PATIENCE, exchange, exchanged, heard},
    wait,
};

const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
const LAST: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// How many answers there are in what was heard.
fn answers(heard: &str) -> usize {
    heard.matches("HTTP/1.1 ").count()
}

async fn lives(relay: &TestRelay) {
    assert!(exchanged(relay.address, LAST).await.starts_with("HTTP/1.1 200 "));
}

/// Says a byte now and then, until the relay has heard enough; what it says to that.
async fn trickled(stream: TcpStream, mut byte: impl FnMut() -> Vec<u8>) -> String {
    let (mut from, mut to) = stream.into_split();
    let said = async {
        while to.write_all(&byte()).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = heard(&mut from) => answer,
        () = said => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_come_to_an_end_ends_the_connection_also_the_second_one() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("REQUEST_HEAD_TIMEOUT", "2"), ("IDLE_TIMEOUT", "3")]).await;
    let slow = async |before: &str| {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(before.as_bytes()).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        trickled(stream, || b"x".to_vec()).await
    };
    let begun = format!("{HEALTH}GET /health HTT");
    let (silent, first, second, paused, done) = tokio::join!(
        exchanged(relay.address, ""),
        slow(""),
        slow(HEALTH),
        // Begun in the same breath as the request before it, and then nothing.
        exchanged(relay.address, begun),
        // Nothing at all after an answer.
        exchanged(relay.address, HEALTH),
    );
    for refused in [silent, first] {
        assert!(refused.starts_with("HTTP/1.1 408 ") && answers(&refused) == 1, "{refused}");
    }
    for ended in [second, paused, done] {
        assert!(ended.starts_with("HTTP/1.1 200 ") && answers(&ended) == 1, "{ended}");
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_trickles_ends_in_time() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("REQUEST_BODY_TIMEOUT", "1"), ("REQUEST_HEAD_TIMEOUT", "2")]).await;
    for length in ["content-length: 60000", "transfer-encoding: chunked"] {
        let head = format!(
            "POST /api/v1/auth/challenge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = trickled(stream, || b"1\r\n \r\n".to_vec()).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains(r#""code":"request-timeout""#), "{answer}");
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_nobody_asked_for_does_not_keep_the_connection() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("REQUEST_HEAD_TIMEOUT", "2")]).await;
    // The last announces no length at all, as a socket would.
    let upgrade = "connection: upgrade\r\nupgrade: websocket";
    for length in ["content-length: 1000000000", "transfer-encoding: chunked", upgrade] {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let head = format!("GET /health HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer =
            trickled(stream, || b"400\r\n".iter().copied().chain([b'x'; 1024]).chain(*b"\r\n").collect());
        let answer = answer.await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answers(&answer) == 1, "{answer}");
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded_in_number_and_size() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let asked = |headers: &str| {
        let request = format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        exchanged(relay.address, request)
    };
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    assert!(asked(&many(60)).await.starts_with("HTTP/1.1 200 "));
    for told in [asked(&many(70)).await, asked(&format!("x: {}\r\n", "y".repeat(40_000))).await] {
        assert!(
            told.starts_with("HTTP/1.1 431 ") && told.contains(r#""code":"headers-too-large""#),
            "{told}"
        );
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "p".repeat(9000));
    let told = exchanged(relay.address, path).await;
    assert!(told.starts_with("HTTP/1.1 414 ") && told.contains(r#""code":"uri-too-long""#), "{told}");
    // What is too large to be read at all is refused without words.
    for told in [asked(&many(200)).await, asked(&format!("x: {}\r\n", "y".repeat(300_000))).await] {
        assert!(told.starts_with("HTTP/1.1 431 ") || told.starts_with("HTTP/1.1 400 "), "{told}");
        assert_eq!(answers(&told), 1);
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_end_is_in_doubt_is_refused_and_nothing_after_it_is_believed() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let doubtful = [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: 2\r\ncontent-length: 2",
        "content-length: 2, 2",
        "content-length: +2",
        "content-length: 0x2",
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 2",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: identity",
        "content-length : 2",
        "content-length: 2\r\n folded",
        "host: other",
    ];
    for headers in doubtful {
        let request = format!(
            "POST /api/v1/auth/challenge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n\r\n{{}}{HEALTH}"
        );
        let told = exchanged(relay.address, request).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{headers}: {told}");
        assert_eq!(answers(&told), 1, "{headers}: {told}");
    }
    let hidden = format!("POST /health HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HEALTH}");
    let told = exchanged(relay.address, hidden).await;
    assert!(told.contains(" 400 ") && !told.contains("healthy"), "{told}");
    for chunks in
        ["2;\n{}\r\n0\r\n\r\n", "0x2\r\n{}\r\n0\r\n\r\n", "-2\r\n{}\r\n0\r\n\r\n", "ffffffffffffffffff\r\n"]
    {
        let request = format!(
            "POST /api/v1/auth/challenge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n{chunks}{HEALTH}"
        );
        let told = exchanged(relay.address, request).await;
        // Without an answer where the request was waiting for hot state when the chunk came.
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{chunks:?}: {told}");
        assert!(!told.contains("healthy"), "{chunks:?}: {told}");
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies_are_not_taken_and_answers_are_not_compressed() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let send = format!("/api/v1/messages/send/{}", device.user_id);
    for coding in ["gzip", "br", "zstd", "deflate", "identity"] {
        let request = device.request(reqwest::Method::POST, &send).bearer_auth(&device.access_token);
        let request = request.header("content-encoding", coding).json(&json!({}));
        let refused = crate::support::client::Answer::of(request.send().await.unwrap()).await;
        refused.refused(415, "unsupported-media-type");
    }
    let request = device.request(reqwest::Method::GET, "/api/v1/openapi.json");
    let answer = request.header("accept-encoding", "gzip, br, zstd, deflate").send().await.unwrap();
    assert!(!answer.headers().contains_key("content-encoding"));
    assert!(answer.json::<serde_json::Value>().await.unwrap()["paths"].is_object());
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_any_depth_is_refused_without_harm() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let send = format!("/api/v1/messages/send/{}", device.user_id);
    let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
    let objects = r#"{"a":"#.repeat(100_000);
    for body in [
        format!("{open}{close}"),
        format!(r#"{{"ciphertext":{open}{close}}}"#),
        format!(r#"{{"unknown":{open}{close}}}"#),
        format!(r#"{{"envelopes":{open}"#),
        objects,
    ] {
        let request = device.request(reqwest::Method::POST, &send).bearer_auth(&device.access_token);
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert!(["bad-json", "bad-field"].contains(&problem["code"].as_str().unwrap()), "{problem}");
    }
    lives(&relay).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_are_taken_than_there_may_be_and_the_next_waits_its_turn() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("MAX_CONNECTIONS", "2"), ("WORKERS", "1")]).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut start)).await.unwrap().unwrap();
        kept.push(stream);
    }
    let mut third = TcpStream::connect(relay.address).await.unwrap();
    third.write_all(LAST.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    assert!(timeout(Duration::from_millis(500), third.read_exact(&mut start)).await.is_err(), "it must wait");
    kept.pop();
    timeout(PATIENCE, third.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // What was said before is still there.
    assert!(exchange(&mut third, "").await.contains("healthy"));
    backend.finish().await;
}

/// Whether the relay answers on a fresh connection, which is kept; one that is closed without a word is none.
async fn admitted(relay: &TestRelay) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    // The relay may have closed it already.
    stream.write_all(HEALTH.as_bytes()).await.ok()?;
    let mut start = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut start)).await.expect("an answer or an end").ok()?;
    assert_eq!(&start, b"HTTP/1.1 200");
    Some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_its_share_of_the_connections_and_a_trusted_proxy_as_many_as_it_likes() {
    let backend = Backend::embedded();
    let limited = ("MAX_CONNECTIONS_PER_ADDRESS", "3");
    // Two workers: it is the process that counts.
    let relay = backend.relay(&[limited, ("WORKERS", "2"), ("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(admitted(&relay).await.expect("a place"));
    }
    assert!(admitted(&relay).await.is_none(), "the fourth is closed at once");
    let tripped = r#"restante_limits_tripped_total{limit="tcp-connections",of="network"} "#;
    let page = relay.metrics().await;
    let count = page.lines().find_map(|line| line.strip_prefix(tripped)).expect("it is counted");
    assert!(count.parse::<u64>().unwrap() >= 1, "{count}");
    kept.pop();
    wait::until(PATIENCE, "the place is free again", async || admitted(&relay).await.is_some()).await;
    relay.stop().await;

    let relay = backend.relay(&[limited, ("TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let mut kept = Vec::new();
    for _ in 0..6 {
        kept.push(admitted(&relay).await.expect("a proxy's connection"));
    }
    backend.finish().await;
}
