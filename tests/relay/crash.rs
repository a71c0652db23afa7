//! Accepted means durable: what a killed process answered 201 is there when it comes back.

use std::{collections::BTreeSet, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    process::RelayProcess,
    relay::{Backend, on_both_backends},
};

on_both_backends! { what_was_answered_201_survives_a_kill }

/// Sends one message after the other until the relay is gone; tells the bodies that were accepted.
async fn send_until_gone(alice: &Device, bob: Uuid, accepted: mpsc::UnboundedSender<Value>) {
    let path = format!("/api/v1/messages/send/{}", alice.user_id);
    loop {
        let mut body = opaque_send(bob);
        body["message_id"] = json!(Uuid::new_v4());
        let request = alice.request(Method::POST, &path).bearer_auth(&alice.access_token).json(&body);
        match request.timeout(Duration::from_secs(5)).send().await {
            Ok(answer) if answer.status() == 201 => accepted.send(body).unwrap(),
            Ok(answer) => panic!("refused: {}", answer.status()),
            Err(_) => return,
        }
    }
}

async fn what_was_answered_201_survives_a_kill(backend: &Backend) {
    let mut process = RelayProcess::start(backend, &[]).await;
    let alice = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let bob = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let (sender, mut accepted) = mpsc::unbounded_channel();
    let senders = (0..8).map(|_| send_until_gone(&alice, bob.user_id, sender.clone()));
    let mut bodies = Vec::new();
    let kill = async {
        while bodies.len() < 60 {
            bodies.push(accepted.recv().await.unwrap());
        }
        process.kill().await;
    };
    tokio::join!(futures_util::future::join_all(senders), kill);
    drop(sender);
    while let Some(body) = accepted.recv().await {
        bodies.push(body);
    }
    process.restart().await;

    let mut found = Vec::new();
    let mut after = json!(0);
    loop {
        let page = bob.queue(&format!("limit=100&after={after}")).await.is(200);
        found.extend(page["messages"].as_array().unwrap().clone());
        after = page["next_after"].clone();
        if page["more"] == false {
            break;
        }
    }
    let ids: BTreeSet<_> = found.iter().map(|message| message["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), found.len(), "once");
    for body in &bodies {
        let id = body["message_id"].as_str().unwrap();
        let message = found.iter().find(|message| message["message_id"] == id);
        assert_eq!(message.expect("accepted means durable")["ciphertext"], body["ciphertext"]);
    }
    assert!(found.len() <= bodies.len() + 8, "at most the unanswered ones came through as well");
    for body in bodies.iter().take(5) {
        alice.send(body).await.is(200);
    }
    assert!(process.stop().await.success());
}
