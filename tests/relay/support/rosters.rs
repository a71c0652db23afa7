//! Roster groups over REST.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    client::{Answer, Device},
    crypto::{b64, opaque},
};

impl Device {
    /// Founds a roster group with these further members; its id.
    pub(crate) async fn founds(&self, members: &[&Self]) -> Uuid {
        let ids: Vec<_> = members.iter().map(|member| member.user_id).collect();
        let body = json!({ "member_ids": ids, "device_id": self.device_id });
        let group = self.post(&format!("/api/v1/groups/create/{}", self.user_id), &body).await.is(201);
        group["group_id"].as_str().unwrap().parse().unwrap()
    }

    /// Sends opaque bytes to a group; the answer to what must be accepted.
    pub(crate) async fn says(&self, group: Uuid) -> Value {
        self.send_to_group(group, &json!({ "ciphertext": b64(opaque(64)) })).await.is(201)
    }

    /// Sends this many messages to a group; their positions.
    pub(crate) async fn says_much(&self, group: Uuid, count: usize) -> Vec<i64> {
        let mut positions = Vec::new();
        for _ in 0..count {
            positions.push(self.says(group).await["position"].as_i64().unwrap());
        }
        positions
    }

    pub(crate) async fn send_to_group(&self, group: Uuid, body: &Value) -> Answer {
        self.post(&format!("/api/v1/groups/{group}/send/{}", self.user_id), body).await
    }

    /// Adds a user; the position of the entry that says so.
    pub(crate) async fn adds(&self, group: Uuid, user: Uuid) -> i64 {
        let path = format!("/api/v1/groups/{group}/members/{}", self.user_id);
        self.post(&path, &json!({ "user_id": user })).await.is(200)["position"].as_i64().unwrap()
    }

    /// Removes a user; the position of the entry that says so.
    pub(crate) async fn removes(&self, group: Uuid, user: Uuid) -> i64 {
        let path = format!("/api/v1/groups/{group}/members/{user}/{}", self.user_id);
        self.delete(&path, None).await.is(200)["position"].as_i64().unwrap()
    }

    /// Acks over REST.
    pub(crate) async fn ack_groups(&self, groups: &Value) -> Answer {
        let path = format!("/api/v1/messages/queue/{}/{}/ack", self.user_id, self.device_id);
        self.post(&path, &json!({ "groups": groups })).await
    }

    /// The positions that wait in a group, as the queue shows them.
    pub(crate) async fn waiting_in(&self, group: Uuid) -> Vec<i64> {
        let queue = self.queue("limit=100").await.is(200);
        let groups = queue["groups"].as_array().unwrap();
        let Some(page) = groups.iter().find(|page| page["group_id"] == json!(group)) else {
            return Vec::new();
        };
        positions(page["entries"].as_array().unwrap())
    }
}

/// The positions of these entries.
pub(crate) fn positions(entries: &[Value]) -> Vec<i64> {
    entries.iter().map(|entry| entry["position"].as_i64().unwrap()).collect()
}
