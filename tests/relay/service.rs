//! The promises about the relay itself: health, problems, request ids, settings, stopping, the program.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite;

use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    faults::PrivateRedis,
    process::{self, RelayProcess},
    relay::{Backend, TestRelay, on_both_backends},
    socket::{Door, Format, Socket},
    wait,
};

on_both_backends! {
    the_relay_tells_its_name_health_and_limits,
    limits_are_those_in_force,
    every_answer_carries_a_request_id,
    every_problem_has_all_its_members,
    origins_on_the_list_may_call_and_others_may_not,
    a_graceful_stop_finishes_what_is_in_flight,
    an_idle_connection_does_not_hold_up_a_stop,
    tokens_end_in_time,
}

async fn get(relay: &TestRelay, path: &str) -> Answer {
    Answer::of(reqwest::get(format!("{}{path}", relay.url())).await.unwrap()).await
}

async fn the_relay_tells_its_name_health_and_limits(backend: &Backend) {
    let relay = backend.relay(&[("MAX_MAILBOX_ITEMS", "4321")]).await;
    let about = get(&relay, "/").await.is(200);
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert!(about["service"].is_string() && about["links"].is_object());
    let page = reqwest::Client::new().get(relay.url()).header("accept", "text/html").send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let health = get(&relay, "/health").await.is(200);
    assert_eq!((&health["status"], &health["version"]), (&json!("healthy"), &about["version"]));
    assert!(health["stats"]["uptime_seconds"].is_u64() && health["timestamp"].is_string());
    for path in ["/health/live", "/healthz"] {
        get(&relay, path).await.is(200);
    }
    for path in ["/health/ready", "/readyz"] {
        assert_eq!(get(&relay, path).await.is(200)["degraded"], json!([]));
    }
    assert_eq!(get(&relay, "/api/v1/limits").await.is(200)["max_mailbox_items"], 4321);
    let document = get(&relay, "/api/v1/openapi.json").await.is(200);
    assert!(document["paths"]["/api/v1/messages/send/{sender_id}"]["post"].is_object());
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let _socket = Socket::open(&device).await;
    assert_eq!(get(&relay, "/health").await.is(200)["stats"]["active_connections"], 1);
}

async fn limits_are_those_in_force(backend: &Backend) {
    let own = [
        ("MAX_CONNECTIONS_PER_ADDRESS", "123"),
        ("MAX_UNREAD_BYTES", "16777217"),
        ("MIN_ANSWER_PACE", "1025"),
    ];
    let limits = get(&backend.relay(&own).await, "/api/v1/limits").await.is(200);
    for (name, value) in own {
        assert_eq!(limits[name.to_ascii_lowercase()].to_string(), value, "{name}");
    }
    let fixed = ["logins", "links", "rotations", "mls_key_changes", "package_uploads"];
    for name in fixed.map(|act| format!("{act}_per_hour")) {
        assert_eq!(limits[&name], 60, "{name}");
    }
}

async fn every_answer_carries_a_request_id(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let answers = [
        get(&relay, "/").await,
        get(&relay, "/health").await,
        get(&relay, "/nowhere").await,
        device.get(&device.own("stats")).await,
        device.get("/api/v1/keys/devices/not-a-uuid").await,
        device.post("/health", &json!({})).await,
        device.anonymous(Method::GET, &device.own("stats"), None).await,
    ];
    let mut ids: Vec<_> = answers.iter().map(|answer| answer.header("x-request-id").to_owned()).collect();
    assert!(ids.iter().all(|id| !id.is_empty()), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), answers.len());
}

async fn every_problem_has_all_its_members(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let send = format!("/api/v1/messages/send/{}", device.user_id);
    let plain = |content_type: &'static str, body: String| {
        let request = device.request(Method::POST, &send).bearer_auth(&device.access_token);
        async move {
            Answer::of(request.header("content-type", content_type).body(body).send().await.unwrap()).await
        }
    };
    let wrong_method = device.get(&send).await;
    assert_eq!(wrong_method.header("allow"), "POST");
    let queue = "/api/v1/messages/queue/me/me";
    assert_eq!(device.put(queue, None).await.header("allow"), "GET, DELETE, HEAD");
    let cases = [
        (get(&relay, "/nowhere").await, 404, "not-found"),
        (get(&relay, "/api/v1/nowhere").await, 404, "not-found"),
        (wrong_method, 405, "method-not-allowed"),
        (device.anonymous(Method::POST, &send, Some(&json!({}))).await, 401, "no-token"),
        (device.call_as("nonsense", Method::POST, &send, Some(&json!({}))).await, 401, "bad-token"),
        (plain("text/plain", "{}".into()).await, 415, "unsupported-media-type"),
        (plain("application/json", "{".into()).await, 400, "bad-json"),
        (plain("application/json", "\u{1}".into()).await, 400, "bad-json"),
        (plain("application/json", " ".repeat((1 << 20) + 1)).await, 413, "too-large"),
        (device.post(&send, &json!({ "surprise": 1 })).await, 400, "bad-field"),
        (device.get(&format!("{queue}?surprise=1")).await, 400, "bad-field"),
        (device.get("/api/v1/keys/stats/x/y").await, 400, "bad-field"),
    ];
    for (answer, status, code) in cases {
        let id = answer.header("x-request-id").to_owned();
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.refused(status, code);
        assert_eq!((&problem["status"], &problem["request_id"]), (&json!(status), &json!(id)));
        assert_eq!(problem["error"], problem["detail"]);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
    }
}

async fn origins_on_the_list_may_call_and_others_may_not(backend: &Backend) {
    let relay = backend.relay(&[("CORS_ALLOWED_ORIGINS", "https://app.example.org")]).await;
    let preflight = async |origin: &str| {
        let url = format!("{}/api/v1/limits", relay.url());
        let request = reqwest::Client::new().request(Method::OPTIONS, url).header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        Answer::of(request.header("access-control-request-headers", "authorization").send().await.unwrap())
            .await
    };
    let allowed = preflight("https://app.example.org").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.org");
    let refused = preflight("https://evil.example.org").await;
    assert_eq!(refused.header("access-control-allow-origin"), "");
}

async fn a_graceful_stop_finishes_what_is_in_flight(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    let body = opaque_send(bob.user_id).to_string();
    let head = format!(
        "POST /api/v1/messages/send/{} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        alice.user_id,
        alice.access_token,
        body.len(),
    );
    let mut slow = TcpStream::connect(relay.address).await.unwrap();
    let (first, second) = body.split_at(20);
    slow.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
    // The handler must have the head before the stop begins: an answer on a later connection shows that it had time.
    get(&relay, "/health").await.is(200);
    let finish = async {
        assert_eq!(socket.closed().await, Some(1001));
        slow.write_all(second.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(Duration::from_secs(4), slow.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 201");
        drop(slow);
    };
    tokio::join!(relay.stop(), finish);
    let again = backend.relay(&[]).await;
    let mut bob = bob;
    bob.base = again.url();
    assert_eq!(bob.mailbox().await.len(), 1, "what was answered 201 is there");
}

async fn an_idle_connection_does_not_hold_up_a_stop(backend: &Backend) {
    let relay = backend.relay(&[("SHUTDOWN_TIMEOUT", "20")]).await;
    let mut idle = TcpStream::connect(relay.address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert!(
        timeout(Duration::from_secs(8), relay.stop()).await.is_ok(),
        "an idle connection has nothing in flight"
    );
}

async fn tokens_end_in_time(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    clock.advance(Duration::from_secs(899));
    device.get(&device.own("stats")).await.is(200);
    clock.advance(Duration::from_secs(1));
    device.get(&device.own("stats")).await.refused(401, "bad-token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_store_the_relay_is_not_ready_and_says_so() {
    let Some(backend) = Backend::production().await else { return };
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let database = backend.database().unwrap();
    database.on_server("ALTER DATABASE {name} ALLOW_CONNECTIONS false").await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'";
    database.on_server(end).await;
    let ready = wait_for_status(&relay, 503).await;
    assert!(ready.header("retry-after").parse::<u64>().is_ok());
    let problem = ready.refused(503, "store-unavailable");
    assert!(!problem.to_string().contains("postgres"), "nothing about the inside: {problem}");
    get(&relay, "/health/live").await.is(200);
    let refused = alice.send(&opaque_send(alice.user_id)).await;
    assert!(refused.header("retry-after").parse::<u64>().is_ok(), "{refused:?}");
    assert_eq!(refused.status, 503);
    wait::until(Duration::from_secs(10), "authenticated calls are answered 503", async || {
        alice.get(&alice.own("stats")).await.status == 503
    })
    .await;
    database.on_server("ALTER DATABASE {name} ALLOW_CONNECTIONS true").await;
    wait_for_status(&relay, 200).await;
    wait::until(Duration::from_secs(10), "calls are answered again", async || {
        alice.get(&alice.own("stats")).await.status == 200
    })
    .await;
    alice.send_opaque(alice.user_id).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_relay_says_so_and_gives_its_last_answers() {
    let Some(backend) = Backend::production().await else { return };
    let relay = backend.relay(&[("SHUTDOWN_TIMEOUT", "30")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut socket = Socket::open(&alice).await;
    let mut blocking = PgConnection::connect(&backend.database().unwrap().url()).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE messages").execute(&mut blocking).await.unwrap();
    let mut last = opaque_send(alice.user_id);
    (last["type"], last["ref"]) = (json!("send"), json!("last"));
    socket.send(&last).await;
    socket.send(&json!({ "type": "ping" })).await;
    socket.expect("pong").await;

    let goodbye = async {
        let draining = wait_for_status(&relay, 503).await;
        draining.refused(503, "draining");
        get(&relay, "/health/live").await.is(200);
        let refused = Socket::connect(&alice, Format::Json, Door::Header).await.err().unwrap();
        assert!(matches!(refused, tungstenite::Error::Http(answer) if answer.status() == 503));
        sqlx::raw_sql("COMMIT").execute(&mut blocking).await.unwrap();
        let sent = socket.expect("sent").await;
        assert_eq!(socket.closed().await, Some(1001));
        sent
    };
    let ((), sent) = tokio::join!(relay.stop(), goodbye);
    let again = backend.relay(&[]).await;
    let mut alice = alice;
    alice.base = again.url();
    let history = alice.history(&sent["conversation_id"], "").await.is(200);
    assert_eq!(history["messages"][0]["message_id"], sent["message_id"]);
    blocking.close().await.unwrap();
    backend.finish().await;
}

async fn wait_for_status(relay: &TestRelay, status: u16) -> Answer {
    wait::until(Duration::from_secs(15), "readiness turns", async || {
        get(relay, "/health/ready").await.status == status
    })
    .await;
    get(relay, "/health/ready").await
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_process_drains_and_ends_well() {
    let backend = Backend::embedded();
    let mut process = RelayProcess::start(&backend, &[]).await;
    let bob = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    // A request without its end keeps the relay stopping, so that its draining can be seen.
    let mut slow = TcpStream::connect(process.address).await.unwrap();
    let head =
        "POST /api/v1/keys/check/me/me HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let head = format!("{head}authorization: Bearer {}\r\ncontent-length: 2\r\n\r\n", bob.access_token);
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut early = TcpStream::connect(process.address).await.unwrap();
    early.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    assert!(early.read(&mut answer).await.unwrap() > 0);
    process.terminate();
    assert_eq!(socket.closed().await, Some(1001));
    drop(slow);
    drop(early);
    let status = process.ended(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}: {}", process.written());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_check_tells_whether_the_relay_is_ready() {
    let backend = Backend::embedded();
    let mut process = RelayProcess::start(&backend, &[]).await;
    let port = process.address.port().to_string();
    let asked = settings(&[("PORT", &port)]);
    assert!(process::run(&["healthcheck"], &asked).status.success());
    process.stop().await;
    let away = process::run(&["healthcheck"], &asked);
    assert_eq!(away.status.code(), Some(1));
    let told = String::from_utf8(away.stderr).unwrap();
    assert!(told.contains(&format!("http://127.0.0.1:{port}/health/ready does not answer")), "{told}");
}

#[test]
fn the_program_migrates_a_fresh_folder_and_prints_its_document() {
    let backend = Backend::embedded();
    let folder = backend.folder().join("fresh");
    let told = settings(&[("DATA_DIR", folder.to_str().unwrap())]);
    for _ in 0..2 {
        let done = process::run(&["migrate"], &told);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(folder.is_dir());
    let document = process::run(&["openapi"], &BTreeMap::new());
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
}

#[test]
fn faulty_settings_are_all_told_and_end_the_program_with_2() {
    let faulty = settings(&[
        ("PORT", "high"),
        ("REDIS_URL", "redis://localhost"),
        ("AUTH_MODE", "no"),
        ("RESTANTE_X", "1"),
    ]);
    for command in [&[][..], &["migrate"], &["healthcheck"]] {
        let ended = process::run(command, &faulty);
        assert_eq!(ended.status.code(), Some(2));
        let told = String::from_utf8(ended.stderr).unwrap();
        for name in ["PORT", "REDIS_URL", "AUTH_MODE", "RESTANTE_X"] {
            assert!(told.lines().any(|line| line.contains(name)), "{name} in {told}");
        }
    }
    let secret =
        settings(&[("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d"), ("MASTER_SECRET", "hunter2")]);
    let ended = process::run(&[], &secret);
    assert_eq!(ended.status.code(), Some(2));
    assert!(!String::from_utf8(ended.stderr).unwrap().contains("hunter2"));
}

#[test]
fn an_unreachable_store_ends_the_program_without_its_password() {
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI=";
    let told = settings(&[
        ("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d"),
        ("MASTER_SECRET", secret),
        ("TOKEN_SIGNING_KEY", secret),
        ("PORT", "0"),
    ]);
    let ended = process::run(&[], &told);
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    let text =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(!text.contains("hunter2") && !text.contains(secret), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_relay_on_the_same_folder_does_not_start() {
    let backend = Backend::embedded();
    let _first = backend.relay(&[]).await;
    let second = process::run(&[], &backend.settings(&[]));
    assert_eq!(second.status.code(), Some(1), "{}", String::from_utf8_lossy(&second.stdout));
    backend.finish().await;
}

/// How often Redis was asked whether it is there.
async fn pings(redis: &PrivateRedis) -> u64 {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let told: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    let calls = told.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_probes_is_answered_by_one_look_a_second() {
    let Some(backend) = Backend::production().await else { return };
    let Some(redis) = PrivateRedis::start().await else { return };
    let relay = backend.relay(&[("REDIS_URL", &redis.url())]).await;
    let (begun, before) = (Instant::now(), pings(&redis).await);
    for _ in 0..10 {
        let probes = (0..40).map(|number| get(&relay, ["/readyz", "/health/ready"][number % 2]));
        for answer in futures_util::future::join_all(probes).await {
            answer.is(200);
        }
    }
    let (asked, seconds) = (pings(&redis).await - before, begun.elapsed().as_secs());
    assert!((1..=seconds + 1).contains(&asked), "{asked} times in {seconds} s");
    backend.finish().await;
}
