//! A device with a real MLS client, that speaks to a relay by REST as an application would.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, statement, unb64},
    mls::{Bundle, Change, MakeClient, Manner, MlsClient, Received},
};

/// One device in at most one group.
pub(super) struct Party {
    pub(super) device: Device,
    pub(super) mls: Box<dyn MlsClient>,
    pub(super) manner: Manner,
    pub(super) group: Uuid,
    /// The last entry of the log that was taken.
    pub(super) position: i64,
    /// Entries up to here are left out.
    skipped: i64,
    /// What was read, in order.
    pub(super) read: Vec<Vec<u8>>,
    /// Whether a commit took this device out.
    pub(super) removed: bool,
}

impl Party {
    /// A registered device of a new user, with its signature key, eight key packages and a last-resort one.
    pub(super) async fn new(base: &str, library: MakeClient, manner: Manner) -> Self {
        Self::with(Device::registered_at(base, Kind::Ed25519).await, library, manner).await
    }

    /// The MLS half of a registered device.
    pub(super) async fn with(device: Device, library: MakeClient, manner: Manner) -> Self {
        let mut party = Self::bare(device, library, manner).await;
        party.upload(8).await.is(200);
        party
    }

    /// One with a single key package, for crowds.
    pub(super) async fn one_of_many(base: &str, library: MakeClient, manner: Manner) -> Self {
        let device = Device::registered_at(base, Kind::Ed25519).await;
        let mut party = Self::bare(device, library, manner).await;
        let body = json!({"key_packages": [b64(party.mls.key_package(false))]});
        party.device.post(&party.device.own("packages"), &body).await.is(200);
        party
    }

    /// One without key packages.
    async fn bare(device: Device, library: MakeClient, manner: Manner) -> Self {
        let identity = format!("{}:{}", device.user_id, device.device_id);
        let mls = library(&identity, manner);
        let (group, position) = (Uuid::nil(), 0);
        let party = Self { device, mls, manner, group, position, skipped: 0, read: vec![], removed: false };
        party.register_signature_key().await.is(200);
        party
    }

    async fn register_signature_key(&self) -> Answer {
        let (scheme, key) = self.mls.signature_key();
        let (user, scheme_text) = (self.device.user_id.to_string(), scheme.to_string());
        let parts: [&[u8]; 5] = [
            b"restante-mls-v1",
            user.as_bytes(),
            self.device.device_id.as_bytes(),
            scheme_text.as_bytes(),
            &key,
        ];
        let signature = b64(self.device.keys.sign(&statement(&parts)));
        let body = json!({"scheme": scheme, "public_key": b64(key), "signature": signature});
        self.device.put(&self.device.own("mls-keys"), Some(&body)).await
    }

    /// Brings fresh key packages.
    pub(super) async fn upload(&mut self, count: usize) -> Answer {
        let packages: Vec<_> = (0..count).map(|_| b64(self.mls.key_package(false))).collect();
        let last_resort = b64(self.mls.key_package(true));
        let body = json!({"key_packages": packages, "last_resort": last_resort});
        self.device.post(&self.device.own("packages"), &body).await
    }

    /// Takes a key package of every device of a user.
    pub(super) async fn claim(&self, user: Uuid) -> Vec<Vec<u8>> {
        let suite = self.manner.suite;
        let path = format!("/api/v1/keys/packages/{user}/claim?cipher_suite={suite}");
        let claimed = self.device.post(&path, &json!({})).await.is(200);
        claimed["key_packages"].as_array().unwrap().iter().map(|one| unb64(&one["key_package"])).collect()
    }

    /// The path of a route of the group.
    pub(super) fn path(&self, what: &str) -> String {
        format!("/api/v1/groups/{}/{what}", self.group)
    }

    /// Makes a group of one.
    pub(super) async fn found(&mut self, external_join: &str) -> Value {
        self.group = Uuid::new_v4();
        let made = self.mls.create(self.group);
        let body = json!({
            "group_id": self.group,
            "handshake": if self.manner.private { "private" } else { "public" },
            "external_join": external_join,
            "group_info": b64(made.group_info),
            "ratchet_tree": b64(made.tree),
        });
        let path = format!("/api/v1/groups/create/{}", self.device.user_id);
        let group = self.device.post(&path, &body).await.is(201);
        assert_eq!(group["current_epoch"], 0);
        group
    }

    /// The body of a commit's request.
    pub(super) fn body_of(bundle: &Bundle) -> Value {
        let mut body = json!({"commit": b64(&bundle.commit), "group_info": b64(&bundle.group_info)});
        if let Some(welcome) = &bundle.welcome {
            body["welcome"] = b64(welcome).into();
        }
        body
    }

    /// Sends a commit; the client moves on when it was taken.
    pub(super) async fn publish(&mut self, body: &Value) -> Answer {
        let answer = self.device.post(&self.path(&format!("commits/{}", self.device.user_id)), body).await;
        if answer.status == 200 {
            self.mls.accepted();
        } else {
            self.mls.refused();
        }
        answer
    }

    /// Commits and sends it.
    pub(super) async fn commit(&mut self, change: Change) -> Answer {
        let bundle = self.mls.commit(change);
        let body = Self::body_of(&bundle);
        self.publish(&body).await
    }

    /// Adds every device of these users.
    pub(super) async fn add(&mut self, users: &[Uuid]) -> Answer {
        let mut packages = Vec::new();
        for user in users {
            packages.extend(self.claim(*user).await);
        }
        self.commit(Change::Add(packages)).await
    }

    /// Removes a member; in private mode with the declaration that the relay needs.
    pub(super) async fn remove(&mut self, other: &Self) -> Answer {
        let bundle = self.mls.commit(Change::Remove(vec![other.leaf_as_seen_by(self)]));
        let mut body = Self::body_of(&bundle);
        if self.manner.private {
            let (user, device) = (other.device.user_id, &other.device.device_id);
            body["removed"] = json!([{"user_id": user, "device_id": device}]);
        }
        self.publish(&body).await
    }

    fn leaf_as_seen_by(&self, other: &Self) -> u32 {
        let identity = format!("{}:{}", self.device.user_id, self.device.device_id);
        other.mls.members().into_iter().find(|(_, name)| *name == identity).unwrap().0
    }

    /// Joins by an external commit of its own, in place of an old leaf if there is one.
    pub(super) async fn join_externally(&mut self, group: Uuid, token: Option<&str>) -> Answer {
        self.group = group;
        let info = self.with_token(Method::GET, "info", None, token).await.is(200);
        let (group_info, tree) = (unb64(&info["group_info"]), unb64(&info["ratchet_tree"]));
        let old = self.own_leaf().await;
        let bundle = self.mls.join_externally(&group_info, &tree, old);
        let commits = format!("commits/{}", self.device.user_id);
        let answer = self.with_token(Method::POST, &commits, Some(&Self::body_of(&bundle)), token).await;
        self.removed &= answer.status != 200;
        answer
    }

    /// The leaf that this device has, as the relay knows it.
    async fn own_leaf(&self) -> Option<u32> {
        let members = self.device.get(&self.path("members")).await;
        let own = self.device.user_id.to_string();
        let member =
            members["members"].as_array()?.iter().find(|member| member["user_id"] == own.as_str())?;
        let devices = member["devices"].as_array()?;
        let device = devices.iter().find(|device| device["device_id"] == self.device.device_id.as_str())?;
        device["leaf_index"].as_u64().map(|leaf| u32::try_from(leaf).unwrap())
    }

    async fn with_token(
        &self,
        method: Method,
        what: &str,
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Answer {
        let request = self.device.request(method, &self.path(what)).bearer_auth(&self.device.access_token);
        let request = if let Some(token) = token { request.header("X-Join-Token", token) } else { request };
        let request = if let Some(body) = body { request.json(body) } else { request };
        Answer::of(request.send().await.unwrap()).await
    }

    /// Seals and sends a message.
    pub(super) async fn say(&mut self, text: &[u8]) -> Answer {
        let sealed = b64(self.mls.seal(text));
        let path = self.path(&format!("send/{}", self.device.user_id));
        self.device.post(&path, &json!({"ciphertext": sealed})).await
    }

    /// Reads what waits, in order, until nothing does; acks it.
    pub(super) async fn catch_up(&mut self) {
        loop {
            let path = format!("/api/v1/messages/queue/{}/{}", self.device.user_id, self.device.device_id);
            let queue = self.device.get(&format!("{path}?limit=100")).await.is(200);
            let mut ids: Vec<Value> = Vec::new();
            let logs = queue["groups"].as_array().unwrap();
            let entries: Vec<_> = logs.iter().flat_map(|log| log["entries"].as_array().unwrap()).collect();
            // A Welcome is for the group as it was made anew, not for what came before that.
            let former =
                entries.iter().rposition(|entry| entry["kind"] == "reset").map_or(0, |last| last + 1);
            for entry in &entries[..former] {
                self.take(entry);
            }
            for welcome in queue["welcomes"].as_array().unwrap() {
                self.take_welcome(welcome).await;
                ids.push(welcome["message_id"].clone());
            }
            for notice in queue["notices"].as_array().unwrap() {
                ids.push(notice["message_id"].clone());
            }
            for entry in &entries[former..] {
                self.take(entry);
            }
            let group_of = |entry: &&Value| entry["group_id"].as_str().unwrap().to_owned();
            let positions: BTreeMap<_, _> =
                entries.iter().map(|entry| (group_of(entry), entry["position"].clone())).collect();
            if ids.is_empty() && positions.is_empty() {
                return;
            }
            let acked = json!({"message_ids": ids, "groups": positions});
            self.device.post(&format!("{path}/ack"), &acked).await.is(200);
        }
    }

    async fn take_welcome(&mut self, welcome: &Value) {
        self.group = welcome["group_id"].as_str().unwrap().parse().unwrap();
        let tree = self.device.get(&self.path(&format!("tree?epoch={}", welcome["epoch"]))).await;
        assert_eq!(tree.status, if self.manner.private { 404 } else { 200 }, "{tree:?}");
        let tree = (!self.manner.private).then(|| unb64(&tree["ratchet_tree"]));
        self.mls.join(&unb64(&welcome["welcome"]), tree.as_deref());
        assert_eq!(self.mls.epoch(), welcome["epoch"].as_u64().unwrap());
        self.removed = false;
    }

    /// The same device with fresh MLS keys and packages.
    pub(super) async fn anew(self, library: MakeClient, identity: &str) -> Self {
        let mls = library(identity, self.manner);
        let mut party = Self { mls, ..self };
        party.register_signature_key().await.is(200);
        party.upload(2).await.is(200);
        party
    }

    /// Leaves out entries up to here.
    pub(super) fn skip_to(&mut self, position: &Value) {
        self.skipped = position.as_i64().unwrap();
    }

    /// Takes an entry of the log.
    pub(super) fn take(&mut self, entry: &Value) {
        let position = entry["position"].as_i64().unwrap();
        if position <= self.skipped {
            return;
        }
        assert!(position > self.position, "entries come in order");
        self.position = position;
        let is_own = entry["sender_id"] == self.device.user_id.to_string()
            && entry["sender_device_id"] == self.device.device_id.as_str();
        if is_own || self.removed {
            return;
        }
        if entry["kind"] == "reset" {
            self.removed = true;
            return;
        }
        match self.mls.receive(&unb64(&entry["ciphertext"])).unwrap() {
            Received::Application(text) => self.read.push(text),
            Received::Removed => self.removed = true,
            Received::Commit | Received::Proposal => {}
        }
    }
}

/// Everybody reads what waits; all are in one epoch with one secret, and know the same members.
pub(super) async fn all_agree(parties: &mut [&mut Party]) {
    for party in &mut *parties {
        party.catch_up().await;
    }
    let first = (parties[0].mls.epoch(), parties[0].mls.authenticator(), parties[0].mls.members());
    for party in parties {
        assert_eq!((party.mls.epoch(), party.mls.authenticator(), party.mls.members()), first);
    }
}
