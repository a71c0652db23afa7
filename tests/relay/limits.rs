//! What keeps abuse away, over real HTTP and sockets, on one node and on several: budgets by verb, limits of sockets,
//! blocks.

mod blocks;
mod connections;
mod nodes;
mod paces;

use std::net::IpAddr;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    socket::{Door, Format, Socket},
};

/// Says that proxies on this machine are believed, so that a test may call from anywhere.
const BELIEVED: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.1/32");

/// The refusal of somebody who asks too often; tells after how many seconds to come back.
#[track_caller]
fn limited(answer: &Answer) -> u64 {
    answer.clone().refused(429, "rate-limited");
    answer.header("retry-after").parse().unwrap()
}

/// A send of this device to its own user, which reaches its other devices; alone it is stored all the same.
async fn note(device: &Device) -> Answer {
    device.send(&opaque_send(device.user_id)).await
}

/// How many notes are taken until one is refused.
async fn notes_taken(device: &Device) -> usize {
    let mut taken = 0;
    loop {
        let answer = note(device).await;
        if answer.status != 201 {
            limited(&answer);
            return taken;
        }
        taken += 1;
    }
}

/// The same device, calling another node.
fn at(device: &Device, base: &str) -> Device {
    let mut there = Device::of(base, device.user_id, &device.device_id, device.kind);
    there.access_token.clone_from(&device.access_token);
    there
}

/// A frame that sends opaque bytes.
fn send_frame(recipient: Uuid, reference: usize) -> Value {
    let mut frame = opaque_send(recipient);
    frame["type"] = json!("send");
    frame["ref"] = json!(reference.to_string());
    frame
}

/// A call with this token from this address.
async fn call_from(device: &Device, address: IpAddr, token: &str, path: &str) -> Answer {
    let request = device.request(Method::GET, path).header("x-forwarded-for", address.to_string());
    Answer::of(request.bearer_auth(token).send().await.unwrap()).await
}

/// Opens a socket, or gives the problem that came instead.
async fn opens(device: &Device) -> Result<Socket, Value> {
    match Socket::connect(device, Format::Json, Door::Header).await {
        Ok(socket) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            assert_eq!(answer.status(), 429);
            assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
            Err(serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap_or(Value::Null))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn registered(base: &str) -> Device {
    Device::registered_at(base, Kind::Ed25519).await
}
