//! Peers that are gone before their requests were answered.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};
use uuid::Uuid;

use super::borrowed;
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    login,
    relay::{Backend, TestRelay, on_both_backends},
    tls::{BOTH, Credentials, HTTP2, connect},
};

const SENDS: u64 = 40;

fn send(recipient: &Device) -> Value {
    json!({ "recipient_id": recipient.user_id, "message_id": Uuid::new_v4(), "ciphertext": b64(opaque(64)) })
}

/// Sends, and breaks the connection off some time after.
async fn sent_and_gone(relay: &TestRelay, sender: &Device, body: &Value, after: Duration) {
    let body = body.to_string();
    let (path, token) = (format!("/api/v1/messages/send/{}", sender.user_id), &sender.access_token);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    sleep(after).await;
    // A reset, not an end.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The same over HTTP/2.
async fn streamed_and_gone(
    relay: &TestRelay,
    root: &rustls::pki_types::CertificateDer<'static>,
    sender: &Device,
    body: &Value,
    after: Duration,
) {
    let stream = connect(relay.address, root, HTTP2, BOTH).await.unwrap();
    let (asking, connection) = h2::client::handshake(stream).await.unwrap();
    let driven = tokio::spawn(connection);
    let path = format!("https://localhost/api/v1/messages/send/{}", sender.user_id);
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {}", sender.access_token));
    let mut ready = asking.ready().await.unwrap();
    let (_answer, mut stream) = ready.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(body.to_string().into(), true).unwrap();
    sleep(after).await;
    driven.abort();
}

/// Repeats what nobody heard the answer of; then each is there once.
async fn each_is_there_once(relay: &TestRelay, sender: &Device, recipient: &Device, sends: &[Value]) {
    let (sender, recipient) = (login::at(&relay.url(), sender), login::at(&relay.url(), recipient));
    let path = format!("/api/v1/messages/send/{}", sender.user_id);
    for body in sends {
        let status = sender.call(Method::POST, &path, Some(body)).await.status;
        assert!([200, 201].contains(&status), "{status}");
    }
    let mut stored: Vec<_> =
        recipient.whole_mailbox().await.iter().map(|message| message["message_id"].to_string()).collect();
    let mut sent: Vec<_> = sends.iter().map(|body| body["message_id"].to_string()).collect();
    stored.sort();
    sent.sort();
    assert_eq!(stored, sent);
}

async fn a_send_whose_peer_is_gone_took_place_whole_or_not_at_all(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let mut sends = Vec::new();
    for at in 0..SENDS {
        sends.push(send(&bob));
        let after = Duration::from_micros(at % 20 * 300);
        sent_and_gone(&relay, &alice, sends.last().unwrap(), after).await;
    }
    relay.stop().await;
    let (files, root) = Credentials::fresh();
    let secured = backend.relay(&borrowed(&files.settings())).await;
    for at in 0..SENDS {
        sends.push(send(&bob));
        let after = Duration::from_micros(at % 20 * 300);
        streamed_and_gone(&secured, &root, &alice, sends.last().unwrap(), after).await;
    }
    secured.stop().await;
    let relay = backend.relay(&[]).await;
    each_is_there_once(&relay, &alice, &bob, &sends).await;
}

on_both_backends!(a_send_whose_peer_is_gone_took_place_whole_or_not_at_all);
