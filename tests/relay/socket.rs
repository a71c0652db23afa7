//! The promises of the socket (API.md, "WebSocket").

mod abuse;
mod delivery;
mod endings;
mod frames;
mod groups;
mod groups_race;
mod stalls;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Device, Kind, opaque_send},
    relay::TestRelay,
    socket::Socket,
};

/// Two registered devices of two users.
async fn pair(relay: &TestRelay) -> (Device, Device) {
    pair_at(&relay.url()).await
}

async fn pair_at(base: &str) -> (Device, Device) {
    (Device::registered_at(base, Kind::Ed25519).await, Device::registered_at(base, Kind::Ed25519).await)
}

/// Sends this many messages; their ids, in order.
async fn sent(from: &Device, to: Uuid, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(from.send_opaque(to).await["message_id"].clone());
    }
    ids
}

/// A `send` frame of opaque bytes.
fn send_frame(reference: &str, to: Uuid) -> Value {
    let mut frame = opaque_send(to);
    frame["type"] = json!("send");
    frame["ref"] = json!(reference);
    frame
}

/// The ids of this many `message` frames, as they come.
async fn messages(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(socket.expect("message").await["message_id"].clone());
    }
    ids
}

/// Asserts that the relay has nothing more to say: what it says to a ping comes next.
async fn quiet(socket: &mut Socket) {
    socket.send(&json!({ "type": "ping" })).await;
    let before = socket.until("pong").await;
    assert!(before.is_empty(), "{before:?}");
}
