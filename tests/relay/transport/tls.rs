//! Certificates, versions, reloading; and that nothing falls back to the clear.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::select_all;
use rustls::version::{TLS12, TLS13};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{client::IntoClientRequest, http::HeaderValue},
};

use super::{borrowed, with_device};
use crate::support::{
    client::{Device, Kind},
    process::{self, RelayProcess},
    relay::Backend,
    tls::{ANY, BOTH, Credentials, HTTP1, PATIENCE, connect, exchange, exchanged, fresh, heard},
    wait,
};

const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_and_sockets_are_served_over_tls_of_both_versions() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let (relay, device) = with_device(&backend, &borrowed(&files.settings())).await;
    for version in [&TLS12, &TLS13] {
        let mut stream = connect(relay.address, &root, HTTP1, &[version]).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let answer = exchange(&mut stream, HEALTH).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // A socket's client offers what it can upgrade, or nothing.
        for offered in [HTTP1, &[]] {
            let stream = connect(relay.address, &root, offered, &[version]).await.unwrap();
            assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let url = format!("wss://localhost/ws/{}/{}", device.user_id, device.device_id);
            let mut request = url.into_client_request().unwrap();
            let token = HeaderValue::try_from(format!("Bearer {}", device.access_token)).unwrap();
            request.headers_mut().insert("authorization", token);
            let (mut socket, answer) = client_async(request, stream).await.unwrap();
            assert_eq!(answer.status(), 101);
            let hello = futures_util::StreamExt::next(&mut socket).await.unwrap().unwrap();
            assert!(hello.to_text().unwrap().contains(r#""type":"hello""#), "{hello}");
        }
    }
    let stream = connect(relay.address, &root, ANY, BOTH).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 is preferred");
    assert!(connect(relay.address, &root, &["http/0.9"], BOTH).await.is_err());
    backend.finish().await;
}

/// The opening of a client that knows nothing newer than this (RFC 5246, section 7.4.1.2).
fn hello_of(version: [u8; 2]) -> Vec<u8> {
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-128-GCM; no compression; the curve P-256, plain points, ECDSA with SHA-256.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

/// How the answer to such an opening begins.
async fn answer_to(address: SocketAddr, version: [u8; 2]) -> [u8; 7] {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello_of(version)).await.unwrap();
    let mut answer = [0; 7];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_versions_and_speech_in_the_clear_are_refused() {
    let backend = Backend::embedded();
    let (files, _) = Credentials::fresh();
    let relay = backend.relay(&borrowed(&files.settings())).await;
    for version in [[3, 0], [3, 1], [3, 2]] {
        let alert = answer_to(relay.address, version).await;
        // A fatal alert: protocol_version (RFC 8446, section 6.2).
        assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "{version:?}");
    }
    assert_eq!(answer_to(relay.address, [3, 3]).await[0], 22, "the version alone was wrong");
    let answer = exchanged(relay.address, HEALTH).await;
    assert!(!answer.contains("HTTP/"), "{answer}");
    backend.finish().await;
}

#[test]
fn a_relay_that_cannot_have_tls_does_not_start() {
    let (good, other) = (fresh(), fresh());
    let empty = String::new();
    let cases = [
        ("TLS_CERT_PATH: the file holds no certificate", &empty, &good.key),
        ("TLS_CERT_PATH: the file holds no certificate", &good.key, &good.key),
        ("TLS_KEY_PATH: the file holds no private key", &good.certificate, &empty),
        ("TLS_KEY_PATH: the file holds no private key", &good.certificate, &good.certificate),
        ("TLS_KEY_PATH: the key does not belong", &good.certificate, &other.key),
        (
            "TLS_CERT_PATH: the first entry is not",
            &"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".to_owned(),
            &good.key,
        ),
        (
            "TLS_KEY_PATH: the key is of a kind",
            &good.certificate,
            &"-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n".to_owned(),
        ),
    ];
    for (fault, certificate, key) in cases {
        let (files, _) = Credentials::fresh();
        files.write(certificate, key);
        let told = refused(&files.settings());
        assert!(told.starts_with(fault), "{fault}: {told}");
        assert!(!told.contains("PRIVATE") && !told.contains("aGVsbG8"), "{told}");
    }
    let (files, _) = Credentials::fresh();
    let [certificate, key] = files.settings();
    let missing = ("TLS_KEY_PATH", files.key().join("nowhere").display().to_string());
    assert!(
        refused(&[certificate.clone(), missing.clone()]).starts_with("TLS_KEY_PATH: the file cannot be read")
    );
    let both = refused(&[("TLS_CERT_PATH", missing.1.clone()), missing]);
    assert!(
        both.contains("TLS_CERT_PATH: the file cannot") && both.contains("TLS_KEY_PATH: the file cannot")
    );
    let only_one = refused(&[certificate]);
    assert!(only_one.contains("TLS_KEY_PATH is missing"), "{only_one}");
    let only_one = refused(&[key]);
    assert!(only_one.contains("TLS_CERT_PATH is missing"), "{only_one}");
}

/// What the program says when it refuses to start with these settings.
fn refused(own: &[(&'static str, String)]) -> String {
    let backend = Backend::embedded();
    let settings: BTreeMap<_, _> = backend.settings(&borrowed(own));
    let ended = process::run(&[], &settings);
    assert!(!ended.status.success());
    assert!(!String::from_utf8_lossy(&ended.stdout).contains("listens"), "it did listen");
    let told = String::from_utf8(ended.stderr).unwrap();
    told.strip_prefix("the settings have faults:\n").unwrap_or(&told).to_owned()
}

/// Whether a new connection is shown this certificate.
async fn shows(process: &RelayProcess, root: &rustls::pki_types::CertificateDer<'static>) -> bool {
    let Ok(mut stream) = connect(process.address, root, HTTP1, BOTH).await else { return false };
    exchange(&mut stream, HEALTH).await.starts_with("HTTP/1.1 200")
}

/// The value of a figure.
async fn figure(address: &str, name: &str) -> f64 {
    let page = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
    line.trim().parse().unwrap()
}

const OK: &str = r#"restante_tls_reloads_total{outcome="ok"}"#;
const FAILED: &str = r#"restante_tls_reloads_total{outcome="failed"}"#;
const EXPIRES: &str = "restante_tls_certificate_expires_seconds";

#[tokio::test]
async fn without_a_certificate_sighup_means_nothing() {
    let backend = Backend::embedded();
    let mut process = RelayProcess::start(&backend, &[]).await;
    process.hang_up();
    let device = Device::registered_at(&process.url(), Kind::Ed25519).await;
    device.send_opaque(device.user_id).await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_sighup_and_by_change_and_a_bad_one_is_not_taken() {
    let backend = Backend::embedded();
    let (files, first) = Credentials::fresh();
    let metrics = format!("127.0.0.1:{}", process::free_port());
    let mut settings = files.settings().to_vec();
    settings.push(("METRICS_ADDRESS", metrics.clone()));
    let mut process = RelayProcess::start(&backend, &borrowed(&settings)).await;
    assert!(shows(&process, &first).await);
    assert!(figure(&metrics, EXPIRES).await > 1_700_000_000.0);
    // A connection of before outlives its certificate.
    let mut before = connect(process.address, &first, HTTP1, BOTH).await.unwrap();

    let second = files.renew();
    process.hang_up();
    wait::until(PATIENCE, "SIGHUP renews it", async || shows(&process, &second).await).await;
    assert!(!shows(&process, &first).await);
    assert!(exchange(&mut before, HEALTH).await.starts_with("HTTP/1.1 200"));

    let third = files.renew();
    wait::until(PATIENCE, "a change renews it", async || shows(&process, &third).await).await;
    assert!(figure(&metrics, OK).await >= 2.0);
    let failed = figure(&metrics, FAILED).await;

    files.write(&fresh().certificate, &fresh().key);
    process.hang_up();
    wait::until(PATIENCE, "the failure is counted", async || figure(&metrics, FAILED).await > failed).await;
    assert!(shows(&process, &third).await, "the old one stays");
    let written = process.written();
    assert!(written.contains("the old one stays") && written.contains("TLS_KEY_PATH"), "{written}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_check_works_over_tls_and_tells_when_nobody_answers() {
    let backend = Backend::embedded();
    let (files, _) = Credentials::fresh();
    let mut process = RelayProcess::start(&backend, &borrowed(&files.settings())).await;
    let mut asked: BTreeMap<_, _> =
        files.settings().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    asked.insert("PORT".into(), process.address.port().to_string());
    assert!(process::run(&["healthcheck"], &asked).status.success());
    process.stop().await;
    assert_eq!(process::run(&["healthcheck"], &asked).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_come_to_an_end_are_given_up_and_keep_nobody_out_for_long() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.extend([("TLS_HANDSHAKE_TIMEOUT", "1".to_owned()), ("MAX_TLS_HANDSHAKES", "2".to_owned())]);
    let relay = backend.relay(&borrowed(&settings)).await;
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let mut trickling = TcpStream::connect(relay.address).await.unwrap();
    trickling.write_all(&hello_of([3, 3])[..20]).await.unwrap();
    let (one, other) = tokio::join!(heard(&mut silent), heard(&mut trickling));
    assert!(one.is_empty() && other.is_empty());
    let mut stream = connect(relay.address, &root, HTTP1, BOTH).await.unwrap();
    assert!(exchange(&mut stream, HEALTH).await.starts_with("HTTP/1.1 200"));
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_says_nothing_takes_no_place_of_those_who_do() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.extend([("TLS_HANDSHAKE_TIMEOUT", "120".to_owned()), ("MAX_TLS_HANDSHAKES", "2".to_owned())]);
    let relay = backend.relay(&borrowed(&settings)).await;
    let mut held = Vec::new();
    for silent in [true, false].repeat(5) {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        if !silent {
            stream.write_all(&hello_of([3, 3])[..20]).await.unwrap();
        }
        held.push(stream);
    }
    let honest = timeout(PATIENCE, connect(relay.address, &root, HTTP1, BOTH));
    let mut stream = honest.await.expect("there is a place").unwrap();
    assert!(exchange(&mut stream, HEALTH).await.starts_with("HTTP/1.1 200"));
    drop(held);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_cannot_hold_all_places_for_handshakes() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.extend([("TLS_HANDSHAKE_TIMEOUT", "120".to_owned()), ("MAX_TLS_HANDSHAKES", "4".to_owned())]);
    let relay = backend.relay(&borrowed(&settings)).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let other = TcpSocket::new_v4().unwrap();
        other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = other.connect(relay.address).await.unwrap();
        stream.write_all(&hello_of([3, 3])).await.unwrap();
        held.push(stream);
    }
    // One of them has been heard.
    let heard = select_all(held.iter().map(|stream| Box::pin(stream.readable())));
    timeout(PATIENCE, heard).await.unwrap().0.unwrap();
    for _ in 0..3 {
        let honest = timeout(PATIENCE, connect(relay.address, &root, HTTP1, BOTH));
        let mut stream = honest.await.expect("there is a place").unwrap();
        assert!(exchange(&mut stream, HEALTH).await.starts_with("HTTP/1.1 200"));
    }
    drop(held);
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_in_the_clear_that_others_can_reach_says_so_loudly() {
    let backend = Backend::embedded();
    let mut loud = RelayProcess::start(&backend, &[("HOST", "0.0.0.0")]).await;
    loud.stop().await;
    assert!(loud.written().contains("in the clear"), "{}", loud.written());
    let behind = [("HOST", "0.0.0.0"), ("TRUSTED_PROXIES", "192.0.2.1")];
    let mut quiet = RelayProcess::start(&backend, &behind).await;
    quiet.stop().await;
    assert!(!quiet.written().contains("in the clear"), "{}", quiet.written());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_over_tls_does_not_hold_up_a_stop() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.push(("SHUTDOWN_TIMEOUT", "30".to_owned()));
    let relay = backend.relay(&borrowed(&settings)).await;
    let stream = connect(relay.address, &root, ANY, BOTH).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driven = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/health").body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    let mut plain = connect(relay.address, &root, HTTP1, BOTH).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    plain.read_exact(&mut start).await.unwrap();
    assert!(timeout(Duration::from_secs(10), relay.stop()).await.is_ok(), "nothing is in flight");
    driven.await.unwrap().unwrap();
    backend.finish().await;
}
