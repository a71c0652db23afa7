//! Nodes are restarted one after the other under load, and clients that move on notice nothing else.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    process::RelayProcess,
    relay::Backend,
    socket::{Door, Format, Incoming, Socket},
};

/// Pairs of a sender and a receiver; every second one sends over its socket.
const PAIRS: usize = 6;

/// What a sender did.
#[derive(Default)]
struct Sent {
    accepted: Vec<Value>,
    /// Tries beyond the first, of all sends.
    retries: usize,
    /// Tries beyond the first, of the send that took most.
    most: usize,
}

/// A device that knows every node, and speaks to one until that fails it.
struct Client {
    device: Device,
    nodes: Vec<String>,
    at: usize,
    socket: Option<Socket>,
}

impl Client {
    fn of(device: Device, nodes: &[String], at: usize) -> Self {
        Self { device, nodes: nodes.to_vec(), at, socket: None }
    }

    fn node(&self) -> &str {
        &self.nodes[self.at % self.nodes.len()]
    }

    /// Opens a socket on the present node, or moves on.
    async fn connect(&mut self) {
        self.node().to_owned().clone_into(&mut self.device.base);
        match Socket::connect(&self.device, Format::Json, Door::Header).await {
            Ok(socket) => self.socket = Some(socket),
            Err(_) => self.at += 1,
        }
    }

    /// Whether the send was accepted over REST by the present node.
    async fn accepted_over_rest(&self, body: &Value) -> bool {
        let url = format!("{}/api/v1/messages/send/{}", self.node(), self.device.user_id);
        let request = reqwest::Client::new().post(url).bearer_auth(&self.device.access_token).json(body);
        let Ok(answer) = request.send().await else { return false };
        assert!(matches!(answer.status().as_u16(), 200 | 201 | 503), "{answer:?}");
        answer.status() != 503
    }

    /// Whether the send was accepted over the socket; a socket that ends without a word has lost the answer.
    async fn accepted_over_socket(&mut self, body: &Value) -> bool {
        while self.socket.is_none() {
            self.connect().await;
        }
        let socket = self.socket.as_mut().unwrap();
        let mut frame = body.clone();
        (frame["type"], frame["ref"]) = (json!("send"), body["message_id"].clone());
        let sent = socket.send_raw(tokio_tungstenite::tungstenite::Message::text(frame.to_string())).await;
        while sent.is_ok() {
            match socket.read(Instant::now() + Duration::from_secs(10)).await {
                Some(Incoming::Frame(frame)) if frame["ref"] == body["message_id"] => {
                    return frame["type"] == "sent";
                }
                Some(Incoming::Frame(_)) => {}
                Some(Incoming::Closed(_)) | None => break,
            }
        }
        self.socket = None;
        false
    }

    async fn send_steadily(mut self, to: Uuid, over_socket: bool, stop: &AtomicBool) -> Sent {
        let mut sent = Sent::default();
        while !stop.load(Ordering::SeqCst) {
            let mut body = opaque_send(to);
            body["message_id"] = json!(Uuid::new_v4());
            let mut tries = 0;
            loop {
                let accepted = if over_socket {
                    self.accepted_over_socket(&body).await
                } else {
                    self.accepted_over_rest(&body).await
                };
                if accepted {
                    break;
                }
                self.at += 1;
                tries += 1;
                assert!(tries < 20, "a send was refused by every node again and again");
            }
            sent.accepted.push(body["message_id"].clone());
            sent.retries += tries;
            sent.most = sent.most.max(tries);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        sent
    }

    /// Reads and acks until `done` says that it was enough; the messages in the order in which they came first.
    async fn receive_steadily(mut self, done: impl Fn(usize) -> bool) -> Vec<Value> {
        let (mut came, mut confirmed) = (Vec::new(), HashSet::new());
        let deadline = Instant::now() + Duration::from_secs(90);
        while !done(came.len()) {
            assert!(Instant::now() < deadline, "{} messages came, and no more", came.len());
            let Some(socket) = &mut self.socket else {
                self.connect().await;
                continue;
            };
            match socket.read(Instant::now() + Duration::from_millis(200)).await {
                Some(Incoming::Frame(frame)) if frame["type"] == "message" => {
                    let id = frame["message_id"].clone();
                    assert!(!confirmed.contains(&id), "came again after its ack was confirmed");
                    let ack = json!({ "type": "ack", "ref": id, "message_ids": [id] });
                    // A socket that is gone is found out by the next reading.
                    let _ =
                        socket.send_raw(tokio_tungstenite::tungstenite::Message::text(ack.to_string())).await;
                    if !came.contains(&id) {
                        came.push(id);
                    }
                }
                Some(Incoming::Frame(frame)) if frame["type"] == "acked" => {
                    confirmed.insert(frame["ref"].clone());
                }
                Some(Incoming::Frame(_)) | None => {}
                Some(Incoming::Closed(_)) => {
                    self.socket = None;
                    self.at += 1;
                }
            }
        }
        came
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_are_restarted_in_turn_and_no_send_takes_more_than_one_retry() {
    let Some(backend) = Backend::production().await else { return };
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(RelayProcess::start(&backend, &[]).await);
    }
    let urls: Vec<_> = nodes.iter().map(RelayProcess::url).collect();
    let stop = AtomicBool::new(false);
    let finals: Vec<_> = (0..PAIRS).map(|_| std::sync::OnceLock::<usize>::new()).collect();
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        senders.push(Client::of(Device::registered_at(&urls[0], Kind::Ed25519).await, &urls, pair));
        receivers.push(Client::of(Device::registered_at(&urls[0], Kind::Ed25519).await, &urls, pair + 1));
    }
    let targets: Vec<_> = receivers.iter().map(|receiver| receiver.device.user_id).collect();
    let sending = join_all(senders.into_iter().enumerate().map(async |(pair, sender)| {
        let sent = sender.send_steadily(targets[pair], pair % 2 == 1, &stop).await;
        finals[pair].set(sent.accepted.len()).unwrap();
        sent
    }));
    let receiving = join_all(receivers.into_iter().enumerate().map(async |(pair, receiver)| {
        receiver.receive_steadily(|came| finals[pair].get().is_some_and(|sent| came >= *sent)).await
    }));
    let rolling = async {
        for node in &mut nodes {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(node.stop().await.success());
            node.restart().await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        stop.store(true, Ordering::SeqCst);
    };
    let (sent, came, ()) = tokio::join!(sending, receiving, rolling);
    let mut total = 0;
    for (sent, came) in sent.iter().zip(&came) {
        assert_eq!(&sent.accepted, came, "accepted, delivered, in order");
        assert!(sent.most <= 1, "a send took {} retries", sent.most);
        total += sent.accepted.len();
    }
    let retries: usize = sent.iter().map(|sent| sent.retries).sum();
    assert!(total > 100 && retries > 0, "{total} messages and {retries} retries show nothing");
    backend.finish().await;
}
