//! What a device does to stay logged in, and to be logged out.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    client::{Answer, Device},
    crypto::{b64, statement},
};

/// The same device with the same tokens, as it speaks to another node.
pub fn at(base: &str, device: &Device) -> Device {
    let mut there = Device::of(base, device.user_id, &device.device_id, device.kind);
    there.access_token.clone_from(&device.access_token);
    there.refresh_token.clone_from(&device.refresh_token);
    there
}

/// The same device at the same node, with the tokens of an answer.
pub fn with_tokens(device: &Device, tokens: &Value) -> Device {
    let mut other = at(&device.base, device);
    tokens["access_token"].as_str().unwrap().clone_into(&mut other.access_token);
    tokens["refresh_token"].as_str().unwrap().clone_into(&mut other.refresh_token);
    other
}

/// A challenge for a device.
pub async fn challenge(device: &Device) -> Answer {
    let body = json!({ "user_id": device.user_id, "device_id": device.device_id });
    device.anonymous(Method::POST, "/api/v1/auth/challenge", Some(&body)).await
}

/// The device's answer to a challenge.
pub fn response(device: &Device, challenge: &str) -> Value {
    let user = device.user_id.to_string();
    let parts: [&[u8]; 5] = [
        b"restante-auth-v1",
        b"localhost",
        user.as_bytes(),
        device.device_id.as_bytes(),
        challenge.as_bytes(),
    ];
    json!({
        "user_id": device.user_id,
        "device_id": device.device_id,
        "challenge": challenge,
        "signature": b64(device.keys.sign(&statement(&parts))),
    })
}

/// Answers a challenge.
pub async fn answer(device: &Device, challenge: &str) -> Answer {
    let body = response(device, challenge);
    device.anonymous(Method::POST, "/api/v1/auth/token", Some(&body)).await
}

/// A new session of a device: the same device with that session's tokens.
pub async fn log_in(device: &Device) -> Device {
    let challenge = challenge(device).await.is(200);
    let tokens = answer(device, challenge["challenge"].as_str().unwrap()).await.is(200);
    with_tokens(device, &tokens)
}

/// Uses a device's refresh token.
pub async fn refresh(device: &Device) -> Answer {
    let body = json!({ "refresh_token": device.refresh_token });
    device.anonymous(Method::POST, "/api/v1/auth/refresh", Some(&body)).await
}

/// The same device with the next pair of tokens of its session.
pub async fn refreshed(device: &Device) -> Device {
    with_tokens(device, &refresh(device).await.is(200))
}

/// Ends the session of a device's tokens.
pub async fn log_out(device: &Device) -> Answer {
    device.call(Method::POST, "/api/v1/auth/logout", None).await
}

/// Asks for a ticket.
pub async fn ask_ticket(device: &Device) -> Answer {
    device.call(Method::POST, "/api/v1/auth/ticket", None).await
}

/// A ticket.
pub async fn ticket(device: &Device) -> String {
    ask_ticket(device).await.is(201)["ticket"].as_str().unwrap().to_owned()
}

/// What happened to a device's user, newest first.
pub async fn audit(device: &Device) -> Vec<String> {
    let page = device.get("/api/v1/auth/audit?limit=100").await.is(200);
    let events = page["events"].as_array().unwrap();
    events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}
