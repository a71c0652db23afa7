//! What is full says so, takes nothing, and goes on: the lane of sends, a reader's window, a reader's outbox.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    crypto::{b64, opaque},
    faults::eventually,
    relay::{Backend, TestRelay, on_both_backends},
    socket::Socket,
    wire::Wire,
};

on_both_backends! {
    a_full_lane_refuses_over_rest_and_socket_stores_nothing_of_it_and_keeps_the_order_of_the_rest,
    a_drain_pauses_while_the_outbox_is_full_and_goes_on_in_order,
}

/// Sockets that fill the lane together: it holds 4096 sends, besides the 256 at most of the batch that is being committed.
const SOCKETS: usize = 72;

/// Sends of each; the relay reads no more from a socket until it has answered.
const EACH: usize = 64;

/// The writers of a store, kept waiting.
enum Held {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Held {
    async fn by(backend: &Backend) -> Self {
        if let Some(database) = backend.database() {
            let mut connection = PgConnection::connect(&database.url()).await.unwrap();
            connection.execute("BEGIN; LOCK TABLE mailbox_items IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
            return Self::Postgres(connection);
        }
        let options = SqliteConnectOptions::new().filename(backend.folder().join("restante.db"));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        Self::Sqlite(connection)
    }

    async fn release(self) {
        match self {
            Self::Postgres(connection) => connection.close().await.unwrap(),
            Self::Sqlite(mut connection) => {
                connection.execute("ROLLBACK").await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

fn named(mut body: Value) -> Value {
    body["message_id"] = json!(Uuid::new_v4());
    body
}

/// A sender, its socket, and its sends: the frames' `ref` is their place.
struct Sender {
    device: Device,
    socket: Socket,
    bodies: Vec<Value>,
    frames: Vec<Message>,
}

impl Sender {
    async fn of(relay: &TestRelay, to: Uuid) -> Self {
        let device = Device::registered(relay, Kind::Ed25519).await;
        let mut socket = Socket::open(&device).await;
        socket.expect("queue_drained").await;
        let bodies: Vec<_> = (0..EACH).map(|_| named(opaque_send(to))).collect();
        let frame = |(place, body): (usize, &Value)| {
            let mut frame = body.clone();
            frame["type"] = json!("send");
            frame["ref"] = json!(place.to_string());
            Message::text(frame.to_string())
        };
        let frames = bodies.iter().enumerate().map(frame).collect();
        Self { device, socket, bodies, frames }
    }

    async fn send_all(&mut self) {
        for frame in std::mem::take(&mut self.frames) {
            self.socket.send_raw(frame).await.unwrap();
        }
    }

    /// Which sends were accepted, and which refused, once all are answered.
    async fn answers(&mut self) -> (Vec<Value>, Vec<Value>) {
        let (mut sequences, mut refused) = (BTreeMap::new(), Vec::new());
        while sequences.len() + refused.len() < EACH {
            let frame = self.socket.next().await;
            let Some(place) = frame["ref"].as_str().map(|place| place.parse::<usize>().unwrap()) else {
                continue;
            };
            if frame["type"] == "sent" {
                sequences.insert(place, frame["sequence_number"].as_i64().unwrap());
                continue;
            }
            assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("overloaded")), "{frame}");
            assert!(frame["retry_after"].as_u64().is_some_and(|seconds| seconds >= 1), "{frame}");
            refused.push(self.bodies[place].clone());
        }
        assert!(sequences.values().is_sorted(), "{sequences:?}");
        (sequences.keys().map(|place| self.bodies[*place]["message_id"].clone()).collect(), refused)
    }
}

fn overloaded(page: &str) -> u64 {
    let told = page.lines().find_map(|line| line.strip_prefix("restante_overloaded_total{lane=\"sends\"} "));
    told.unwrap().parse().unwrap()
}

async fn a_full_lane_refuses_over_rest_and_socket_stores_nothing_of_it_and_keeps_the_order_of_the_rest(
    backend: &Backend,
) {
    let relay = backend.relay(&[("METRICS_ADDRESS", "127.0.0.1:0")]).await;
    let (carol, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let mut senders = Vec::new();
    for _ in 0..SOCKETS {
        senders.push(Sender::of(&relay, bob.user_id).await);
    }
    let late = named(opaque_send(bob.user_id));

    let held = Held::by(backend).await;
    join_all(senders.iter_mut().map(Sender::send_all)).await;
    eventually("the lane is full", Duration::from_secs(8), async || overloaded(&relay.metrics().await) > 0)
        .await;
    let refused = carol.send(&late).await;
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{refused:?}");
    refused.refused(503, "overloaded");
    held.release().await;

    let answers = join_all(senders.iter_mut().map(Sender::answers)).await;
    let accepted: usize = answers.iter().map(|(accepted, _)| accepted.len()).sum();
    let refused = SOCKETS * EACH - accepted;
    assert!(accepted >= 4096 && refused > 0, "{accepted} accepted, {refused} refused");
    assert_eq!(overloaded(&relay.metrics().await), refused as u64 + 1);
    let mailbox = bob.whole_mailbox().await;
    assert_eq!(mailbox.len(), accepted, "nothing of the refused was stored");
    for (sender, (accepted, _)) in senders.iter().zip(&answers) {
        let own = mailbox.iter().filter(|message| message["sender_id"] == json!(sender.device.user_id));
        let came: Vec<_> = own.map(|message| &message["message_id"]).collect();
        assert_eq!(came, accepted.iter().collect::<Vec<_>>(), "in the order in which they were sent");
    }
    // What was refused is new when it comes again.
    carol.send(&late).await.is(201);
    for (sender, (_, refused)) in senders.iter().zip(&answers) {
        if let Some(body) = refused.first() {
            sender.device.send(body).await.is(201);
        }
    }
}

/// The peer takes what its kernel takes, and the rest of the mailbox stays in the store until it reads.
async fn a_drain_pauses_while_the_outbox_is_full_and_goes_on_in_order(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "1024")]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let mut sent = Vec::new();
    for _ in 0..60 {
        let body = json!({ "recipient_id": bob.user_id, "ciphertext": b64(opaque(48 << 10)) });
        sent.push(alice.send(&body).await.is(201)["message_id"].clone());
    }
    let mut wire = Wire::open(&bob).await;
    wire.expect("message").await;
    // While it does not read, what it was not sent can be erased: it is not sent any more.
    let gone: Vec<_> = sent.drain(50..).collect();
    bob.ack(&gone.iter().collect::<Vec<_>>()).await.is(200);
    let live = alice.send_opaque(bob.user_id).await["message_id"].clone();
    sent.push(live);
    let mut came = vec![sent[0].clone()];
    while came.len() < sent.len() {
        let frame = wire.expect("message").await;
        came.push(frame["message_id"].clone());
    }
    assert_eq!(came, sent);
}
