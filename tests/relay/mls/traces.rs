//! Traces tell what the relay does, and of nobody for whom.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::party::{Party, all_agree};
use crate::support::{
    client::{Device, Kind},
    faults::nowhere,
    mls::{Change, LIBRARIES, Manner},
    process::{RelayProcess, free_port},
    relay::{Backend, on_both_backends},
    wait,
};

on_both_backends! {
    requests_batches_and_checks_are_traced_and_nobody_is_named,
    a_collector_that_is_away_or_silent_costs_spans_alone,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Spans are sent soon.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "100");

/// A collector of traces that keeps what it is sent.
struct Collector {
    address: SocketAddr,
    batches: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, batches) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let kept = Arc::clone(&batches);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut connection = connection.unwrap();
                    while let Some(batch) = one_request(&mut connection) {
                        kept.lock().unwrap().push(batch);
                        // The exporter may be gone already.
                        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                    }
                });
            }
        });
        Self { address, batches }
    }

    /// Everything that was sent, each byte as a letter, because texts are searched easily.
    fn collected(&self) -> String {
        self.batches.lock().unwrap().concat().iter().copied().map(char::from).collect()
    }
}

/// The head and the body of a request; none when the connection ends.
fn one_request(connection: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
            let whole = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap()
                + 4
                + length.trim().parse::<usize>().unwrap();
            if request.len() >= whole {
                assert!(head.starts_with("post /v1/traces "), "{head}");
                return Some(request);
            }
        }
        let mut some = [0; 4096];
        match connection.read(&mut some) {
            Ok(0) | Err(_) => return None,
            Ok(read) => request.extend_from_slice(&some[..read]),
        }
    }
}

async fn requests_batches_and_checks_are_traced_and_nobody_is_named(backend: &Backend) {
    let collector = Collector::start();
    let endpoint = format!("http://{}/", collector.address);
    let settings =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", "post-office"), SOON];
    let mut process = RelayProcess::start(backend, &settings).await;
    let mut a = Party::new(&process.url(), LIBRARIES[0], Manner::default()).await;
    let mut b = Party::new(&process.url(), LIBRARIES[1], Manner::default()).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    b.commit(Change::Update).await.is(200);
    a.device.send_opaque(b.device.user_id).await;
    a.device.get(&format!("/nowhere/{}", a.device.access_token)).await.refused(404, "not-found");
    assert!(process.stop().await.success());

    let collected = collector.collected();
    for told in [
        "post-office",
        "request",
        "http.route",
        "/api/v1/messages/send/{sender_id}",
        "http.response.status_code",
        "batch",
        "sends",
        "mls check",
    ] {
        assert!(collected.contains(told), "{told} in {collected}");
    }
    for party in [&a, &b] {
        let device = &party.device;
        for name in [
            device.user_id.to_string(),
            device.user_id.simple().to_string(),
            device.user_id.into_bytes().map(char::from).iter().collect(),
            device.device_id.clone(),
            device.access_token.clone(),
            device.refresh_token.clone(),
            party.group.to_string(),
            party.group.simple().to_string(),
            party.group.into_bytes().map(char::from).iter().collect(),
        ] {
            assert!(!collected.contains(&name), "{name} in {collected}");
        }
    }
    // Only the collector's own address: the head of each request to it names it.
    let addresses = collected.matches("127.0.0.1").count();
    assert_eq!(addresses, collector.batches.lock().unwrap().len(), "{collected}");
}

async fn a_collector_that_is_away_or_silent_costs_spans_alone(backend: &Backend) {
    // It takes connections, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [nowhere().to_string(), silent.local_addr().unwrap().to_string()] {
        let (endpoint, figures) = (format!("http://{collector}"), format!("127.0.0.1:{}", free_port()));
        let settings =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("METRICS_ADDRESS", &figures), SOON];
        let mut process = RelayProcess::start(backend, &settings).await;
        let alice = Device::registered_at(&process.url(), Kind::Ed25519).await;
        let send = async || alice.send_opaque(alice.user_id).await;
        send().await;
        wait::until(PATIENCE, "the loss is counted", async || {
            let page = reqwest::get(format!("http://{figures}/metrics")).await.unwrap().text().await.unwrap();
            page.lines().any(|line| {
                line.strip_prefix("restante_trace_export_failures_total ").is_some_and(|count| count != "0")
            })
        })
        .await;
        send().await;
        assert!(process.stop().await.success(), "{}", process.written());
    }
}
