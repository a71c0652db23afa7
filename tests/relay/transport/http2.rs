//! HTTP/2: by a client, and by the byte.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::borrowed;
use crate::support::{
    client::{Device, Kind, opaque_send},
    relay::{Backend, TestRelay},
    tls::{BOTH, Credentials, HTTP2, PATIENCE, connect},
};

const QUEUE: &str = "/api/v1/messages/queue/me/me";

/// A relay with TLS and these settings, and what its clients trust.
async fn secured(
    backend: &Backend,
    own: &[(&'static str, &str)],
) -> (TestRelay, rustls::pki_types::CertificateDer<'static>, Credentials) {
    let (files, root) = Credentials::fresh();
    let mut settings = files.settings().to_vec();
    settings.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
    (backend.relay(&borrowed(&settings)).await, root, files)
}

/// Asks, and hears the whole answer.
async fn ask(
    sender: &mut SendRequest<Bytes>,
    method: Method,
    path: &str,
    token: &str,
    body: Option<&Value>,
) -> (Response<()>, Vec<u8>) {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    let request = request.header("authorization", format!("Bearer {token}"));
    let request = request.header("content-type", "application/json").body(()).unwrap();
    let mut ready = sender.clone().ready().await.unwrap();
    let (answer, mut stream) = ready.send_request(request, body.is_none()).unwrap();
    if let Some(body) = body {
        stream.send_data(body.to_string().into(), true).unwrap();
    }
    let (head, mut body) = timeout(PATIENCE, answer).await.unwrap().unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    (Response::from_parts(head, ()), bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_of_rest_is_spoken_over_http2() {
    let backend = Backend::embedded();
    let (files, root) = Credentials::fresh();
    let plain = backend.relay(&[]).await;
    let alice = Device::registered(&plain, Kind::Ed25519).await;
    let bob = Device::registered(&plain, Kind::Ed25519).await;
    plain.stop().await;
    let relay = backend.relay(&borrowed(&files.settings())).await;
    let stream = connect(relay.address, &root, HTTP2, BOTH).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (sender, token) = (&mut sender, alice.access_token.as_str());

    let path = format!("/api/v1/messages/send/{}", alice.user_id);
    let mut body = opaque_send(bob.user_id);
    // Longer than a frame, so that it comes in several.
    body["ciphertext"] = Value::String(crate::support::crypto::b64(crate::support::crypto::opaque(60_000)));
    let (sent, told) = ask(sender, Method::POST, &path, token, Some(&body)).await;
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(sent.status(), 201, "{told}");
    assert_eq!(sent.headers()["cache-control"], "no-store");
    assert_eq!(sent.headers()["x-content-type-options"], "nosniff");
    assert!(!sent.headers().contains_key("connection") && !sent.headers().contains_key("server"));
    let (queue, told) = ask(sender, Method::GET, QUEUE, &bob.access_token, None).await;
    assert_eq!(queue.status(), 200);
    assert!(queue.headers()["date"].to_str().unwrap().ends_with(" GMT"));
    assert_eq!(queue.headers()["content-length"], told.len().to_string().as_str());
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains(body["ciphertext"].as_str().unwrap()), "it came and went whole");

    let (head, told) = ask(sender, Method::HEAD, "/health", token, None).await;
    assert_eq!((head.status().as_u16(), told.len()), (200, 0));
    for (method, path, status, code) in [
        (Method::GET, "/nowhere", 404, "not-found"),
        (Method::PUT, "/health", 405, "method-not-allowed"),
        // A socket needs HTTP/1.1: RFC 8441 is not offered.
        (Method::GET, "/ws/me/me", 400, "bad-handshake"),
    ] {
        let (refused, told) = ask(sender, method, path, token, None).await;
        assert_eq!(refused.status(), status, "{path}");
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
        assert_eq!(serde_json::from_slice::<Value>(&told).unwrap()["code"], code, "{path}");
    }
    let many = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move { ask(&mut sender, Method::GET, "/health", "", None).await.0.status().as_u16() }
    });
    assert_eq!(futures_util::future::join_all(many).await, [200; 50], "at the same time");
    backend.finish().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method`, `:scheme`, `:path`, `:authority`, without the table (RFC 7541).
fn fields(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87];
    block.extend(literal(4, path));
    block.extend(literal(1, "localhost"));
    block
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// A field whose name is that of an entry of the static table.
fn literal(name: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    // Four bits of the first byte are the index; what does not fit follows.
    let index = if name < 15 { vec![name] } else { vec![15, name - 15] };
    [&index[..], &[length], value.as_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame of the relay.
#[derive(Debug)]
struct Heard {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Heard {
    /// The error of a reset or of a farewell.
    fn error(&self) -> Option<u32> {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        Some(u32::from_be_bytes(*self.payload.get(at..)?.first_chunk()?))
    }

    /// A setting that it tells.
    fn setting(&self, id: u16) -> Option<u32> {
        let found = self.payload.chunks(6).find(|setting| setting[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(*found[2..].first_chunk()?))
    }
}

/// A peer that speaks HTTP/2 by the byte.
struct Peer(TlsStream<TcpStream>);

impl Peer {
    async fn open(
        relay: &TestRelay,
        root: &rustls::pki_types::CertificateDer<'static>,
        settings: &[u8],
    ) -> Self {
        let mut peer = Self(connect(relay.address, root, HTTP2, BOTH).await.unwrap());
        peer.say(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await.unwrap();
        peer
    }

    async fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The next frame; none at the end of the connection.
    async fn hear(&mut self) -> Option<Heard> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.0.read_exact(&mut head)).await.expect("the relay says something").ok()?;
        let mut payload =
            vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Heard {
            kind: head[3],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of this kind.
    async fn expect(&mut self, kind: u8) -> Heard {
        while let Some(heard) = self.hear().await {
            if heard.kind == kind {
                return heard;
            }
        }
        panic!("the connection ended before a frame of kind {kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_headers_are_bounded_and_peers_are_told() {
    let backend = Backend::embedded();
    let (relay, root, _files) = secured(&backend, &[]).await;
    let mut peer = Peer::open(&relay, &root, &[]).await;
    let told = peer.expect(SETTINGS).await;
    assert_eq!(told.setting(3), Some(100), "streams at a time");
    assert_eq!(told.setting(6), Some(32 << 10), "bytes of headers");
    assert_eq!(told.setting(8), None, "sockets are not offered (RFC 8441)");

    // Requests whose bodies do not come.
    for stream in 0..101 {
        let block = [fields(POST, "/api/v1/auth/challenge"), literal(31, "application/json")].concat();
        peer.say(&frame(HEADERS, END_HEADERS, stream * 2 + 1, &block)).await.unwrap();
    }
    let refused = peer.expect(RESET).await;
    assert_eq!((refused.stream, refused.error()), (201, Some(7)), "REFUSED_STREAM");

    let stream = connect(relay.address, &root, HTTP2, BOTH).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // The one is refused by what the peer was told, the other by the relay's own rule for every protocol.
    for (count, length) in [(400, 100), (70, 10)] {
        let mut request = Request::get("https://localhost/health");
        for at in 0..count {
            request = request.header(format!("x-{at}"), "x".repeat(length));
        }
        let mut ready = sender.clone().ready().await.unwrap();
        let (answer, _) = ready.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 431);
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_or_of_headers_without_end_ends_the_connection() {
    let backend = Backend::embedded();
    let (relay, root, _files) = secured(&backend, &[]).await;
    let mut peer = Peer::open(&relay, &root, &[]).await;
    let mut flood = Vec::new();
    for stream in 0..5000 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, &fields(GET, "/health")));
        flood.extend(frame(RESET, 0, stream * 2 + 1, &[0, 0, 0, 8]));
    }
    // The relay may have ended it already.
    peer.say(&flood).await.ok();
    assert_eq!(peer.expect(GOAWAY).await.error(), Some(11), "ENHANCE_YOUR_CALM");
    while peer.hear().await.is_some() {}

    let mut peer = Peer::open(&relay, &root, &[]).await;
    peer.say(&frame(HEADERS, END_STREAM, 1, &fields(GET, "/health"))).await.unwrap();
    let more = frame(CONTINUATION, 0, 1, &literal(58, "x")).repeat(1000);
    let mut given = 0;
    while peer.say(&more).await.is_ok() {
        given += more.len();
        assert!(given < 64 << 20, "the relay takes headers without end");
    }
    let mut honest = Peer::open(&relay, &root, &[]).await;
    honest.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(GET, "/health"))).await.unwrap();
    assert_eq!(honest.expect(HEADERS).await.payload.first(), Some(&0x88), ":status 200");
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_peers_lose_their_streams_and_idle_ones_their_connections() {
    let backend = Backend::embedded();
    let own = [("REQUEST_BODY_TIMEOUT", "1"), ("WS_STALL_TIMEOUT", "1"), ("IDLE_TIMEOUT", "3")];
    let (relay, root, _files) = secured(&backend, &own).await;
    // A window of nothing: answers cannot be given.
    let mut peer = Peer::open(&relay, &root, &[0, 4, 0, 0, 0, 0]).await;
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(GET, "/api/v1/openapi.json"));
    peer.say(&request).await.unwrap();
    let reset = peer.expect(RESET).await;
    assert_eq!((reset.stream, reset.error()), (1, Some(8)), "CANCEL");

    let mut peer = Peer::open(&relay, &root, &[]).await;
    let block = [fields(POST, "/api/v1/auth/challenge"), literal(31, "application/json")].concat();
    peer.say(&frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
    let told = loop {
        let heard = peer.hear().await.expect("an answer");
        if heard.kind == 0 {
            break String::from_utf8(heard.payload).unwrap();
        }
    };
    assert!(told.contains(r#""code":"request-timeout""#), "{told}");

    // Whoever asks nothing more is told to go, and gone.
    assert_eq!(peer.expect(GOAWAY).await.error(), Some(0));
    while peer.hear().await.is_some() {}
    backend.finish().await;
}
