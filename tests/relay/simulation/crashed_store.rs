//! Postgres itself crashes and recovers in the middle of sends.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    faults::eventually,
    private_postgres::PrivatePostgres,
    relay::Backend,
};

/// Sends until told to stop, each again with the same id until it is accepted; the ids in order.
async fn send_until(stop: &AtomicBool, nodes: &[String], sender: &Device, to: Uuid) -> Vec<Value> {
    let (mut accepted, mut tries) = (Vec::new(), 0);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    while !stop.load(Ordering::SeqCst) {
        let mut body = opaque_send(to);
        body["message_id"] = json!(Uuid::new_v4());
        loop {
            let node = &nodes[tries % nodes.len()];
            tries += 1;
            let url = format!("{node}/api/v1/messages/send/{}", sender.user_id);
            let answer = http.post(url).bearer_auth(&sender.access_token).json(&body).send().await;
            match answer.map(|answer| answer.status().as_u16()) {
                Ok(200 | 201) => break,
                Ok(503) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok(other) => panic!("a send was answered {other}"),
            }
        }
        accepted.push(body["message_id"].clone());
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_crashes_and_recovers_loses_nothing_that_was_accepted() {
    let Some(backend) = Backend::production().await else { return };
    let Some(postgres) = PrivatePostgres::start() else { return };
    let nodes = backend.cluster(2, &[("DATABASE_URL", &postgres.url())]).await;
    let urls: Vec<_> = nodes.iter().map(crate::support::relay::TestRelay::url).collect();
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let senders = join_all((0..4).map(|_| Device::registered(&nodes[1], Kind::Ed25519))).await;
    let stop = AtomicBool::new(false);
    let sending = join_all(senders.iter().map(|sender| send_until(&stop, &urls, sender, bob.user_id)));
    let crashing = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            tokio::task::block_in_place(|| postgres.crash());
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        stop.store(true, Ordering::SeqCst);
    };
    let (sent, ()) = tokio::join!(sending, crashing);
    let accepted: usize = sent.iter().map(Vec::len).sum();
    assert!(accepted > 20, "{accepted} sends show nothing");
    eventually("the relays serve again", Duration::from_secs(20), async || {
        bob.queue("limit=1").await.status == 200
    })
    .await;
    let (mut came, mut after) = (Vec::new(), json!(0));
    loop {
        let page = bob.queue(&format!("limit=100&after={after}")).await.is(200);
        came.extend(page["messages"].as_array().unwrap().iter().map(|message| message["message_id"].clone()));
        if page["more"] != true {
            break;
        }
        after = page["next_after"].clone();
    }
    assert_eq!(came.len(), accepted, "each was stored once");
    for ids in &sent {
        let theirs: Vec<_> = came.iter().filter(|id| ids.contains(id)).collect();
        assert_eq!(theirs, ids.iter().collect::<Vec<_>>(), "in order");
    }
    backend.finish().await;
}
