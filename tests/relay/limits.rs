//! What keeps abuse away, over real HTTP and sockets, on one node and on several: budgets by verb, limits of sockets,
//! blocks.
//!
//! Each refusal comes from a node although another one used up what there was:
//!
//! | Refusal | Test |
//! |---|---|
//! | each verb's budget of a device, by request | `shared::what_a_device_did_on_one_node_is_refused_on_another` |
//! | each verb's budget of a network, by request | `shared::what_a_network_did_on_one_node_is_refused_on_another` |
//! | both, by frames | `shared::frames_on_one_node_are_refused_on_another`, `nodes::two_nodes_count_a_device_together_over_rest_and_sockets` |
//! | registrations, logins, refreshes of a network | `shared::registrations_logins_and_refreshes_are_counted_over_all_nodes` |
//! | acts of a device that are counted by the hour | `shared::what_a_device_did_this_hour_is_counted_over_all_nodes` |
//! | one-time keys | `devices::fetching::two_nodes_share_a_budget_over_redis` |
//! | `too-many-connections` of a user, of a network | `connections::two_nodes_count_sockets_together` |
//! | the same with a node killed, or a device moved | `connections::the_devices_of_a_killed_node_…`, `connections::a_device_that_moves_to_another_node_…` |
//! | `blocked` | `blocks::every_node_shuts_out_whom_one_does_…`, `blocks::refusals_by_two_nodes_are_counted_together` |
//! | 4429 | `blocks::sockets_of_two_nodes_are_closed_once_their_network_is_shut_out` |
//! | any of them with Redis flushed | `nodes::a_redis_that_forgot_…`, `shared::a_redis_that_forgot_…`, `connections::a_redis_that_forgot_…` |
//! | any of them without Redis | `…::without_redis_each_node_counts_…` |

mod blocks;
mod connections;
mod nodes;
mod paces;
mod shared;

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

/// A request that counts as this verb, from this address if proxies are believed; what becomes of it besides is no matter.
async fn attempt_from(device: &Device, verb: &str, address: &str) -> Answer {
    let nobody = Uuid::new_v4();
    let group = format!("/api/v1/groups/{nobody}");
    let (method, path) = match verb {
        "MESSAGE" => (Method::POST, format!("{group}/send/me")),
        "ACK" => (Method::PUT, format!("/api/v1/messages/read/me/{nobody}")),
        "READ" => (Method::GET, "/api/v1/messages/queue/me/me?limit=1".to_owned()),
        "KEYS" => (Method::GET, format!("/api/v1/keys/bundle/{nobody}")),
        "GROUP" => (Method::PUT, group),
        "JOIN" => (Method::POST, format!("{group}/invites")),
        "ACCOUNT" => (Method::POST, "/api/v1/auth/ticket".to_owned()),
        // It lacks the headers of an opening, which nobody looks at before it is counted.
        "OPEN" => (Method::GET, "/ws/me/me".to_owned()),
        "PROBE" => (Method::GET, "/health/ready".to_owned()),
        other => panic!("{other}"),
    };
    let request = device.request(method.clone(), &path).bearer_auth(&device.access_token);
    let request = request.header("x-forwarded-for", address);
    let request = if method == Method::GET { request } else { request.json(&json!({})) };
    Answer::of(request.send().await.unwrap()).await
}

async fn attempt(device: &Device, verb: &str) -> Answer {
    attempt_from(device, verb, "198.51.100.99").await
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
