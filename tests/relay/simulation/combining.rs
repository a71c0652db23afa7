//! What the store combines into one commit stays each sender's own: who goes away takes nobody along.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    faults::authority,
    proxy::{Line, Proxy},
    relay::{Backend, TestRelay, on_both_backends},
};

on_both_backends! {
    a_request_that_goes_away_does_not_take_the_commit_of_the_others_along,
    a_lost_answer_is_given_again,
    sends_keep_their_order_around_requests_that_went_away,
}

fn named(to: Uuid) -> Value {
    let mut body = opaque_send(to);
    body["message_id"] = json!(Uuid::new_v4());
    body
}

/// Writes a send and closes the connection.
async fn abandoned(sender: &Device, body: &Value) {
    let (address, body) = (authority(&sender.base), body.to_string());
    let head = format!(
        "POST /api/v1/messages/send/{} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        sender.user_id,
        sender.access_token,
        body.len()
    );
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
}

async fn registered(relay: &TestRelay, count: usize) -> Vec<Device> {
    join_all((0..count).map(|_| Device::registered(relay, Kind::Ed25519))).await
}

async fn a_request_that_goes_away_does_not_take_the_commit_of_the_others_along(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (bob, senders) = (&registered(&relay, 1).await[0], registered(&relay, 12).await);
    let (mut stayed, mut left) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let sending = senders.iter().enumerate().map(async |(index, sender)| {
            let body = named(bob.user_id);
            if index % 2 == 0 {
                abandoned(sender, &body).await;
            } else {
                sender.send(&body).await.is(201);
            }
            (index, body)
        });
        for (index, body) in join_all(sending).await {
            if index % 2 == 0 { left.push((index, body)) } else { stayed.push(body) }
        }
    }
    for (index, body) in &left {
        let settled = senders[*index].send(body).await;
        assert!(matches!(settled.status, 200 | 201), "{settled:?}");
    }
    let came: Vec<_> =
        bob.whole_mailbox().await.iter().map(|message| message["message_id"].clone()).collect();
    assert_eq!(came.len(), stayed.len() + left.len(), "each was stored once");
    for body in stayed.iter().chain(left.iter().map(|(_, body)| body)) {
        assert!(came.contains(&body["message_id"]));
    }
}

async fn a_lost_answer_is_given_again(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let proxy = Proxy::to(&authority(&relay.url())).await;
    proxy.turn(Line::Unanswered(b"POST"));
    let url = format!("http://{}/api/v1/messages/send/{}", proxy.address, alice.user_id);
    let mut lost = Vec::new();
    for _ in 0..10 {
        let body = named(bob.user_id);
        let send = reqwest::Client::new().post(&url).bearer_auth(&alice.access_token).json(&body);
        assert!(send.send().await.is_err(), "the answer is lost");
        lost.push(body);
    }
    let before = bob.whole_mailbox().await;
    assert_eq!(before.len(), lost.len(), "and the message is not");
    for (body, message) in lost.iter().zip(&before) {
        let again = alice.send(body).await.is(200);
        for field in ["message_id", "conversation_id", "sequence_number", "timestamp"] {
            assert_eq!(again[field], message[field]);
        }
    }
    assert_eq!(bob.whole_mailbox().await, before);
}

async fn sends_keep_their_order_around_requests_that_went_away(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (bob, senders) = (&registered(&relay, 1).await[0], registered(&relay, 6).await);
    let sent = join_all(senders.iter().map(async |sender| {
        let mut accepted = Vec::new();
        for _ in 0..12 {
            abandoned(sender, &named(bob.user_id)).await;
            accepted.push(sender.send(&named(bob.user_id)).await.is(201)["message_id"].clone());
        }
        accepted
    }))
    .await;
    let came = bob.whole_mailbox().await;
    for (sender, accepted) in senders.iter().zip(&sent) {
        let theirs: Vec<_> =
            came.iter().filter(|message| message["sender_id"] == json!(sender.user_id)).collect();
        let numbers: Vec<_> = theirs.iter().map(|message| message["sequence_number"].as_i64()).collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        let ids = theirs.iter().map(|message| &message["message_id"]);
        assert!(
            ids.filter(|id| accepted.contains(id)).eq(accepted.iter()),
            "in the order in which they were made"
        );
    }
}
