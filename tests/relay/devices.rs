//! Devices prove themselves: how they come, stay and go, over real HTTP and sockets, on one node and on several.

mod addresses;
mod contests;
mod fetching;
mod notices;
mod outages;
mod paces;
mod renewal;
mod revocation;
mod tickets;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use restante::domain::ManualClock;
use serde_json::{Value, json};

use crate::support::{
    client::{Device, Kind},
    engine::NOON,
    relay::{Backend, Settings, TestRelay},
    socket::{Incoming, Socket},
};

/// Within a second on every node, and a little for a busy machine.
const SOON: Duration = Duration::from_millis(1500);

/// A user with two devices, the older one first.
async fn phone_and_tablet(base: &str) -> (Device, Device) {
    let phone = Device::registered_at(base, Kind::Ed25519).await;
    let tablet = phone.linked("tablet").await;
    (phone, tablet)
}

/// Several nodes by one clock, which stands at noon.
pub(crate) async fn cluster_at_noon(
    backend: &Backend,
    nodes: usize,
    settings: Settings<'_>,
) -> (Vec<TestRelay>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOON));
    let mut relays = Vec::new();
    for _ in 0..nodes {
        relays.push(backend.start(settings, clock.clone()).await);
    }
    (relays, clock)
}

/// Asserts that a device's token is refused soon, and stays refused.
async fn refused_soon(device: &Device, since: Instant) {
    loop {
        let answer = device.queue("limit=1").await;
        if answer.status == 401 {
            answer.refused(401, "bad-token");
            break;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(since.elapsed() < SOON, "the token is still taken after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    device.queue("limit=1").await.refused(401, "bad-token");
}

/// Asserts that a socket is closed soon, with this code.
async fn closed_soon(socket: &mut Socket, since: Instant, code: u16) {
    loop {
        match socket.read(since + SOON).await {
            Some(Incoming::Closed(got)) => return assert_eq!(got, Some(code)),
            Some(Incoming::Frame(_)) => {}
            None => panic!("the socket is still open after {:?}", since.elapsed()),
        }
    }
}

/// Asserts that a socket is open and answers.
async fn lives(socket: &mut Socket) {
    socket.send(&json!({ "type": "ping" })).await;
    socket.expect("pong").await;
}

/// The names of the devices of a `devices_changed`, in its order.
fn names(notice: &Value) -> Vec<&str> {
    let devices = notice["devices"].as_array().unwrap_or_else(|| panic!("no devices: {notice}"));
    devices.iter().map(|device| device["device_id"].as_str().unwrap()).collect()
}

/// The status with which an opening is refused.
#[track_caller]
fn refusal(opened: Result<Socket, tokio_tungstenite::tungstenite::Error>) -> u16 {
    match opened {
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the socket was opened"),
    }
}
