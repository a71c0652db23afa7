//! Peers that ask for much, and do not take it, or take it drop by drop.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{RecvStream, client::SendRequest};
use http::{Request, Response};
use reqwest::Method;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::{sleep, timeout},
};

use super::borrowed;
use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, opaque},
    relay::{Backend, TestRelay, on_both_backends},
    tls::{BOTH, Credentials, HTTP2, PATIENCE, connect},
    wait,
    wire::Wire,
};

const PAGE: &str = "/api/v1/messages/queue/me/me?limit=100";

/// As much as a sealed body may have.
const BODY: usize = 90_000;

/// Bodies of a page that is longer than what the kernels on the way keep of it.
const BODIES: usize = 24;

/// A device with a long page in its mailbox.
async fn with_page(relay: &TestRelay) -> Device {
    let device = Device::registered(relay, Kind::Ed25519).await;
    let sender = Device::registered(relay, Kind::Ed25519).await;
    for _ in 0..BODIES {
        let send = json!({ "recipient_id": device.user_id, "ciphertext": b64(opaque(BODY)) });
        sender.send(&send).await.is(201);
    }
    device
}

/// Two such devices, and a relay on the same store that speaks HTTP/2.
async fn secured(
    backend: &Backend,
    own: &[(&'static str, &str)],
) -> ([Device; 2], TestRelay, CertificateDer<'static>, Credentials) {
    let plain = backend.relay(&[]).await;
    let devices = [with_page(&plain).await, with_page(&plain).await];
    plain.stop().await;
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
    (devices, backend.relay(&borrowed(&settings)).await, root, files)
}

async fn dialled(relay: &TestRelay, root: &CertificateDer<'static>) -> SendRequest<Bytes> {
    let stream = connect(relay.address, root, HTTP2, BOTH).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Asks for a page; the head of the answer, its body not taken.
async fn asked(sender: &SendRequest<Bytes>, device: &Device) -> Response<RecvStream> {
    let request = Request::get(format!("https://localhost{PAGE}"));
    let request = request.header("authorization", format!("Bearer {}", device.access_token));
    let mut ready = sender.clone().ready().await.unwrap();
    let (answer, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
    timeout(PATIENCE, answer).await.expect("an answer").unwrap()
}

/// Takes a body to its end, or to where it is cut off.
async fn taken(answer: Response<RecvStream>, pause: Duration) -> (usize, Option<h2::Error>) {
    let (mut body, mut length) = (answer.into_body(), 0);
    while let Some(chunk) = timeout(PATIENCE, body.data()).await.expect("more, or an end") {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return (length, Some(error)),
        };
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        sleep(pause).await;
    }
    (length, None)
}

async fn a_device_that_reads_nothing_holds_two_pages_and_others_get_theirs(backend: &Backend) {
    let ([greedy, other], relay, root, _files) = secured(backend, &[]).await;
    let sender = dialled(&relay, &root).await;
    // On several connections just as on one.
    let second = dialled(&relay, &root).await;
    let answers =
        join_all((0..50).map(|at| asked(if at % 2 == 0 { &sender } else { &second }, &greedy))).await;
    let (pages, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status().is_success());
    assert_eq!(pages.len(), 2, "more than the device's share");
    for refused in refused {
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
    }
    let neighbour = dialled(&relay, &root).await;
    // On a connection whose window is not full of what nobody reads.
    let told = asked(&neighbour, &greedy).await.into_body().data().await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&told).unwrap()["code"], "overloaded");
    let (length, cut) = taken(asked(&neighbour, &other).await, Duration::ZERO).await;
    assert!(cut.is_none() && length > BODIES * BODY, "{length} {cut:?}");
    // What is given up gives its place back.
    drop(pages);
    let (length, cut) = taken(asked(&neighbour, &greedy).await, Duration::ZERO).await;
    assert!(cut.is_none() && length > BODIES * BODY, "{length} {cut:?}");
}

on_both_backends!(a_device_that_reads_nothing_holds_two_pages_and_others_get_theirs);

/// Asks for a page over HTTP/1.1, and takes no more than how the answer begins.
async fn asked_in_the_clear(relay: &TestRelay, device: &Device) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let token = &device.access_token;
    let request = format!("GET {PAGE} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut start)).await.expect("an answer").unwrap();
    (stream, String::from_utf8(start.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_http1_count_like_streams_and_small_answers_go_by() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = with_page(&relay).await;
    let answers = join_all((0..4).map(|_| asked_in_the_clear(&relay, &device))).await;
    let count = |status: &str| answers.iter().filter(|(_, start)| start.ends_with(status)).count();
    assert_eq!((count("200"), count("503")), (2, 2));
    // Sends are no answers, and go on.
    device.send_opaque(device.user_id).await;
    // Nor do keys wait for pages.
    device.bundle(&device).await.is(200);
    drop(answers);
    wait::until(PATIENCE, "the turns are free", async || device.queue("limit=1").await.status == 200).await;
    let many = join_all((0..40).map(|_| device.get("/api/v1/groups"))).await;
    assert!(many.iter().all(|answer| answer.status == 200), "by turns");
    backend.finish().await;
}

/// The page of a device as it comes through a proxy from this address.
async fn page_from(device: &Device, address: &str) -> reqwest::Response {
    let request = device.request(Method::GET, PAGE).bearer_auth(&device.access_token);
    request.header("x-forwarded-for", address).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_reads_nothing_leaves_most_of_the_memory_to_others() {
    let backend = Backend::embedded();
    let own = [
        ("MAX_UNREAD_BYTES", "41943040"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("METRICS_ADDRESS", "127.0.0.1:0"),
    ];
    let relay = backend.relay(&own).await;
    let (greedy, neighbour) = (with_page(&relay).await, with_page(&relay).await);
    let held = [page_from(&greedy, "192.0.2.1").await, page_from(&greedy, "192.0.2.1").await];
    Answer::of(page_from(&greedy, "192.0.2.3").await).await.is(200);
    assert!(held.iter().all(|page| page.status() == 200));
    Answer::of(page_from(&neighbour, "192.0.2.1").await).await.refused(503, "overloaded");
    let page = relay.metrics().await;
    assert!(page.contains(r#"restante_limits_tripped_total{limit="answers",of="network"} "#), "{page}");
    Answer::of(page_from(&neighbour, "192.0.2.2").await).await.is(200);
    drop(held);
    wait::until(PATIENCE, "the bytes are free", async || {
        page_from(&neighbour, "192.0.2.1").await.status() == 200
    })
    .await;
    backend.finish().await;
}

/// What makes a page of two megabytes due after a few seconds.
const HASTE: [(&str, &str); 2] = [("MIN_ANSWER_PACE", "1048576"), ("WS_STALL_TIMEOUT", "2")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_an_answer_drop_by_drop_is_cut_off() {
    let backend = Backend::embedded();
    let ([device, _], relay, root, _files) = secured(&backend, &HASTE).await;
    let sender = dialled(&relay, &root).await;
    let (length, cut) = taken(asked(&sender, &device).await, Duration::ZERO).await;
    assert!(cut.is_none() && length > BODIES * BODY, "who reads is not");
    let (dripped, cut) = taken(asked(&sender, &device).await, Duration::from_millis(200)).await;
    assert_eq!(cut.and_then(|error| error.reason()), Some(h2::Reason::CANCEL));
    assert!(dripped < length, "{dripped}");
    relay.stop().await;

    let relay = backend.relay(&HASTE).await;
    let (mut stream, start) = asked_in_the_clear(&relay, &device).await;
    assert!(start.ends_with("200"));
    let (mut dripped, mut drop) = (0, [0; 16 << 10]);
    // Its end, or that it was broken off.
    while let Ok(some @ 1..) = timeout(PATIENCE, stream.read(&mut drop)).await.expect("more, or an end") {
        dripped += some;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(dripped < length, "the whole answer came: {dripped} of {length}");
    backend.finish().await;
}

/// Takes so little that all of it would take minutes, but enough for the kernel to see that something is taken. Whether the
/// relay broke off in the end.
async fn is_broken_off(mut from: OwnedReadHalf) -> bool {
    let mut drop = [0; 512];
    loop {
        if from.as_ref().take_error().unwrap().is_some() {
            return true;
        }
        match from.read(&mut drop).await {
            Ok(0) => return false,
            Ok(_) => sleep(Duration::from_millis(500)).await,
            Err(_) => return true,
        }
    }
}

const APP: &str = "https://app.example.org";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_without_end_and_takes_hardly_an_answer_is_cut_off() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("CORS_ALLOWED_ORIGINS", APP), ("WS_STALL_TIMEOUT", "2")]).await;
    let stream = TcpStream::connect(relay.address).await.unwrap();
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    let (from, mut to) = stream.into_split();
    // Nothing waits for these, and their answers have no body.
    let preflight = format!(
        "OPTIONS /api/v1/groups HTTP/1.1\r\nhost: localhost\r\norigin: {APP}\r\n\
         access-control-request-method: GET\r\n\r\n"
    );
    let many = preflight.repeat(100);
    let asking = async { while to.write_all(many.as_bytes()).await.is_ok() {} };
    let cut_off = async {
        tokio::select! {
            () = asking => true,
            broken_off = is_broken_off(from) => broken_off,
        }
    };
    assert!(timeout(2 * PATIENCE, cut_off).await.expect("an end"));
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_whose_session_has_ended_is_not_kept_by_a_peer_that_drips() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("WS_STALL_TIMEOUT", "2")]).await;
    let device = with_page(&relay).await;
    let wire = Wire::open(&device).await;
    let looker = Device::registered(&relay, Kind::Ed25519).await;
    wait::until(PATIENCE, "the session ends", async || {
        looker.get("/health").await.is(200)["stats"]["active_connections"] == 0
    })
    .await;
    let (from, _to) = wire.stream.into_split();
    let broken_off = timeout(2 * PATIENCE, is_broken_off(from)).await.expect("an end");
    assert!(broken_off);
    backend.finish().await;
}
