//! Groups over HTTP: who makes, fills, leaves, writes to and reads them, and who learns nothing of them.

mod bad_input;
mod invites;
mod reading;
mod rosters;
mod sending;
mod strangers;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, opaque},
    relay::{Backend, Settings, TestRelay},
};

/// A roster group of three, and somebody who is not in it.
struct Scene {
    relay: TestRelay,
    owner: Device,
    bob: Device,
    carol: Device,
    stranger: Device,
    group: String,
}

impl Scene {
    async fn new(backend: &Backend, settings: Settings<'_>) -> Self {
        let relay = backend.relay(settings).await;
        let owner = Device::registered(&relay, Kind::Ed25519).await;
        let bob = Device::registered(&relay, Kind::Ed25519).await;
        let carol = Device::registered(&relay, Kind::Ed25519).await;
        let stranger = Device::registered(&relay, Kind::Ed25519).await;
        let group = roster(&owner, &[&bob, &carol]).await;
        Self { relay, owner, bob, carol, stranger, group }
    }

    /// The path of something of the group.
    fn at(&self, what: &str) -> String {
        format!("/api/v1/groups/{}{what}", self.group)
    }

    async fn send(&self, sender: &Device, body: &Value) -> Answer {
        sender.post(&self.at("/send/me"), body).await
    }

    async fn add(&self, by: &Device, user: Uuid) -> Answer {
        by.post(&self.at("/members/me"), &json!({ "user_id": user })).await
    }

    async fn remove(&self, by: &Device, user: Uuid) -> Answer {
        by.delete(&self.at(&format!("/members/{user}/me")), None).await
    }

    async fn log(&self, reader: &Device, query: &str) -> Answer {
        reader.get(&self.at(&format!("/messages?{query}"))).await
    }

    async fn give_role(&self, by: &Device, user: Uuid, role: &str) -> Answer {
        by.put(&self.at(&format!("/roles/{user}")), Some(&json!({ "role": role }))).await
    }

    /// The epoch, as a member sees it.
    async fn epoch(&self, member: &Device) -> i64 {
        member.get(&self.at("")).await.is(200)["current_epoch"].as_i64().unwrap()
    }

    /// Everything its members can see of the group.
    async fn seen(&self) -> Value {
        let mut seen = Vec::new();
        for device in [&self.owner, &self.bob, &self.carol] {
            seen.push(device.get(&self.at("")).await.is(200));
            seen.push(device.get(&self.at("/members")).await.is(200));
            seen.push(self.log(device, "limit=100").await.is(200));
            seen.push(device.get("/api/v1/groups").await.is(200));
        }
        json!(seen)
    }
}

/// The id of a new roster group.
async fn roster(owner: &Device, members: &[&Device]) -> String {
    let ids: Vec<_> = members.iter().map(|member| member.user_id).collect();
    let body = json!({ "name": sealed(), "member_ids": ids });
    let group = owner.post(&format!("/api/v1/groups/create/{}", owner.user_id), &body).await.is(201);
    group["group_id"].as_str().unwrap().to_owned()
}

/// A name or description that nobody can read.
fn sealed() -> String {
    b64(opaque(48))
}

fn message() -> Value {
    json!({ "ciphertext": b64(opaque(64)) })
}

/// The front of a `PublicMessage` (RFC 9420 §6.2) of a member at this leaf, with nothing behind it that could be judged.
fn public_message(group: &str, epoch: u64, leaf: u32, content_type: u8) -> String {
    let mut bytes = framed(1, group, epoch);
    bytes.push(1);
    bytes.extend(leaf.to_be_bytes());
    bytes.extend([0, content_type]);
    bytes.extend([0; 40]);
    b64(bytes)
}

/// A `PrivateMessage` (RFC 9420 §6.3) with nothing sealed in it.
fn private_message(group: &str, epoch: u64, content_type: u8) -> String {
    let mut bytes = framed(2, group, epoch);
    bytes.extend([content_type, 0, 4, 1, 2, 3, 4, 32]);
    bytes.extend(opaque(32));
    b64(bytes)
}

fn framed(wire_format: u8, group: &str, epoch: u64) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0, wire_format, 16];
    bytes.extend(Uuid::parse_str(group).unwrap().as_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes
}

/// Every act on a group but its creation, as a member would do it.
fn every_act(group: &str, other: Uuid) -> Vec<(Method, String, Option<Value>)> {
    let at = |what: &str| format!("/api/v1/groups/{group}{what}");
    let commit = public_message(group, 0, 0, 3);
    let bundle = json!({ "commit": commit, "group_info": b64(opaque(40)) });
    vec![
        (Method::GET, at(""), None),
        (Method::PUT, at(""), Some(json!({ "name": sealed() }))),
        (Method::GET, at("/members"), None),
        (Method::POST, at("/members/me"), Some(json!({ "user_id": other }))),
        (Method::POST, at("/members/me"), Some(bundle.clone())),
        (Method::DELETE, at(&format!("/members/{other}/me")), None),
        (Method::DELETE, at("/members/me/me"), None),
        (Method::POST, at(&format!("/members/{other}/me/remove")), None),
        (Method::DELETE, at(&format!("/members/{other}/me")), Some(bundle.clone())),
        (
            Method::POST,
            at("/members/me/me/remove"),
            Some(json!({ "proposals": [public_message(group, 0, 0, 2)] })),
        ),
        (Method::POST, at("/commits/me"), Some(bundle)),
        (Method::POST, at("/proposals/me"), Some(json!({ "proposal": public_message(group, 0, 0, 2) }))),
        (Method::POST, at("/send/me"), Some(message())),
        (Method::POST, at("/send/me"), Some(json!({ "ciphertext": private_message(group, 0, 1) }))),
        (Method::PUT, at(&format!("/roles/{other}")), Some(json!({ "role": "admin" }))),
        (Method::POST, at("/invites"), None),
        (Method::GET, at("/invites"), None),
        (Method::DELETE, at(&format!("/invites/{other}")), None),
        (Method::GET, at("/messages"), None),
        (Method::GET, at("/tree"), None),
        (Method::GET, at("/tree?epoch=0"), None),
        (Method::GET, at("/info"), None),
        (
            Method::POST,
            at("/reports"),
            Some(json!({ "epoch": 0, "commit_blake3": b64([7; 32]), "reason": "it does not decrypt" })),
        ),
        (Method::POST, at("/reset"), Some(json!({ "group_info": b64(opaque(60)) }))),
    ]
}
