//! A REST client with real keys.

use std::{fmt, ops::Index};

use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use super::crypto::Kind;
use super::{
    crypto::{Keys, b64, opaque, statement, unb64},
    relay::TestRelay,
};

/// What the relay answered.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: HeaderMap,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Self { status, body, headers }
    }

    /// The body, of an answer with this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    /// The problem, of a refusal with this status and code.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        self.body
    }

    /// The slug of a problem, empty when it is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

impl Index<&str> for Answer {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        &self.body[name]
    }
}

#[expect(clippy::struct_field_names, reason = "the names are the wire's own")]
/// A device: its keys, its name, and once it is registered its tokens.
pub struct Device {
    http: reqwest::Client,
    pub base: String,
    pub user_id: Uuid,
    pub device_id: String,
    pub device_number: u8,
    pub registration_id: u16,
    pub kind: Kind,
    pub keys: Keys,
    pub access_token: String,
    pub refresh_token: String,
}

impl Device {
    /// An unregistered device of a new user.
    pub fn new(base: &str, kind: Kind) -> Self {
        Self::of(base, Uuid::new_v4(), "phone", kind)
    }

    /// An unregistered device of a user.
    pub fn of(base: &str, user_id: Uuid, device_id: &str, kind: Kind) -> Self {
        let registration_id = rand::random_range(1..=16_383);
        Self {
            http: reqwest::Client::new(),
            base: base.to_owned(),
            user_id,
            device_id: device_id.to_owned(),
            device_number: 0,
            registration_id,
            kind,
            keys: Keys::fresh(kind, registration_id),
            access_token: String::new(),
            refresh_token: String::new(),
        }
    }

    /// The only device of a new user.
    pub async fn registered(relay: &TestRelay, kind: Kind) -> Self {
        Self::registered_at(&relay.url(), kind).await
    }

    /// [`Device::registered`] at a relay of this address.
    pub async fn registered_at(base: &str, kind: Kind) -> Self {
        let mut device = Self::new(base, kind);
        let body = device.registration();
        device.register(&body).await.is(201);
        device
    }

    /// A second device of the same user and kind, vouched for by this one.
    pub async fn linked(&self, device_id: &str) -> Self {
        let mut newcomer = Self::of(&self.base, self.user_id, device_id, self.kind);
        let token = self.vouch_for(&newcomer).await.is(201)["link_token"].clone();
        let mut body = newcomer.registration();
        body["link_token"] = token;
        newcomer.register(&body).await.is(201);
        newcomer
    }

    /// A registration that has nothing to object to: 50 one-time pre-keys, and for Signal the KEM pre-keys 1 and
    /// (last resort) 1000.
    pub fn registration(&mut self) -> Value {
        let signed_prekey = self.keys.signed_prekey(1);
        let onetime: Vec<_> = (1..=50).map(|id| self.keys.onetime_prekey(id)).collect();
        let proof = self.proof("localhost", &signed_prekey);
        let mut body = json!({
            "device_id": self.device_id,
            "registration_id": self.registration_id,
            "identity_key": b64(self.keys.identity()),
            "proof": proof,
            "signed_prekey": signed_prekey,
            "onetime_prekeys": onetime,
        });
        if self.kind == Kind::Signal {
            body["kem_prekeys"] = json!([self.keys.kem_prekey(1)]);
            body["last_resort_kem_prekey"] = self.keys.kem_prekey(1000);
        }
        body
    }

    /// The proof of possession for a relay of this name.
    pub fn proof(&self, relay_name: &str, signed_prekey: &Value) -> String {
        let digest = Sha256::digest(unb64(&signed_prekey["public_key"]));
        let user = self.user_id.to_string();
        let parts: [&[u8]; 5] = [
            b"restante-register-v1",
            relay_name.as_bytes(),
            user.as_bytes(),
            self.device_id.as_bytes(),
            &digest,
        ];
        b64(self.keys.sign(&statement(&parts)))
    }

    /// Registers and, if that is accepted, takes over number and tokens.
    pub async fn register(&mut self, body: &Value) -> Answer {
        let path = format!("/api/v1/keys/register/{}", self.user_id);
        let answer = self.anonymous(Method::POST, &path, Some(body)).await;
        if answer.status == 201 {
            self.device_number = u8::try_from(answer["device_number"].as_u64().unwrap()).unwrap();
            answer["access_token"].as_str().unwrap().clone_into(&mut self.access_token);
            answer["refresh_token"].as_str().unwrap().clone_into(&mut self.refresh_token);
        }
        answer
    }

    /// The link statement about a newcomer, signed by this device.
    pub fn vouch(&self, newcomer: &Self) -> Value {
        let (user, identity) = (self.user_id.to_string(), newcomer.keys.identity());
        let parts: [&[u8]; 4] =
            [b"restante-link-v1", user.as_bytes(), newcomer.device_id.as_bytes(), &identity];
        json!({
            "device_id": newcomer.device_id,
            "identity_key": b64(&identity),
            "signature": b64(self.keys.sign(&statement(&parts))),
        })
    }

    pub async fn vouch_for(&self, newcomer: &Self) -> Answer {
        self.post(&format!("/api/v1/keys/link/{}", self.user_id), &self.vouch(newcomer)).await
    }

    /// The path of a key route about this device.
    pub fn own(&self, what: &str) -> String {
        format!("/api/v1/keys/{what}/{}/{}", self.user_id, self.device_id)
    }

    pub async fn bundle(&self, of: &Self) -> Answer {
        self.get(&format!("/api/v1/keys/bundle/{}?device_id={}", of.user_id, of.device_id)).await
    }

    pub async fn bundles(&self, user: Uuid) -> Answer {
        self.get(&format!("/api/v1/keys/bundles/{user}")).await
    }

    pub async fn deactivate(&self, device: &Self) -> Answer {
        self.delete(&device.own("deactivate"), None).await
    }

    /// Sends a body as it stands.
    pub async fn send(&self, body: &Value) -> Answer {
        self.post(&format!("/api/v1/messages/send/{}", self.user_id), body).await
    }

    /// Sends opaque bytes to every device of a user; the answer to what must be accepted.
    pub async fn send_opaque(&self, recipient: Uuid) -> Value {
        self.send(&opaque_send(recipient)).await.is(201)
    }

    /// Opens sessions where there are none, encrypts for every device of the recipient and sends.
    pub async fn send_signal(&mut self, recipient: Uuid, plaintext: &[u8]) -> Answer {
        let devices = self.get(&format!("/api/v1/keys/devices/{recipient}")).await.is(200);
        let mut envelopes = Vec::new();
        for device in devices["devices"].as_array().unwrap() {
            if recipient == self.user_id && device["device_id"] == self.device_id {
                continue;
            }
            let number = u8::try_from(device["device_number"].as_u64().unwrap()).unwrap();
            if !self.keys.has_session(recipient, number) {
                let id = device["device_id"].as_str().unwrap();
                let path = format!("/api/v1/keys/bundle/{recipient}?device_id={id}");
                let bundle = self.get(&path).await.is(200);
                self.keys.open_session(&bundle);
            }
            let (kind, ciphertext) = self.keys.encrypt(recipient, number, plaintext);
            envelopes.push(json!({
                "device_number": number,
                "registration_id": device["registration_id"],
                "type": kind,
                "ciphertext": b64(ciphertext),
            }));
        }
        self.send(&json!({ "recipient_id": recipient, "envelopes": envelopes })).await
    }

    fn queue_path(&self) -> String {
        format!("/api/v1/messages/queue/{}/{}", self.user_id, self.device_id)
    }

    /// One page of the mailbox.
    pub async fn queue(&self, query: &str) -> Answer {
        self.get(&format!("{}?{query}", self.queue_path())).await
    }

    /// The messages of the first page of the mailbox (at most 100).
    pub async fn mailbox(&self) -> Vec<Value> {
        self.queue("limit=100").await.is(200)["messages"].as_array().unwrap().clone()
    }

    /// The messages of the mailbox, page by page to its end.
    pub async fn whole_mailbox(&self) -> Vec<Value> {
        let (mut messages, mut after) = (Vec::new(), json!(0));
        loop {
            let page = self.queue(&format!("limit=100&after={after}")).await.is(200);
            messages.extend(page["messages"].as_array().unwrap().clone());
            if page["more"] != true {
                return messages;
            }
            after = page["next_after"].clone();
        }
    }

    pub async fn ack(&self, message_ids: &[&Value]) -> Answer {
        self.post(&format!("{}/ack", self.queue_path()), &json!({ "message_ids": message_ids })).await
    }

    /// The older form of an ack.
    pub async fn delete_queue(&self, message_ids: &[&Value]) -> Answer {
        self.delete(&self.queue_path(), Some(&json!(message_ids))).await
    }

    pub async fn history(&self, conversation: &Value, query: &str) -> Answer {
        let id = conversation.as_str().unwrap();
        let path = format!("/api/v1/messages/conversation/{}?conversation_id={id}&{query}", self.user_id);
        self.get(&path).await
    }

    /// PUT `delivered` or `read`.
    pub async fn mark(&self, mark: &str, message: &Value) -> Answer {
        let id = message.as_str().unwrap();
        self.put(&format!("/api/v1/messages/{mark}/{}/{id}", self.user_id), None).await
    }

    pub async fn delete_message(&self, message: &Value, whom: &str) -> Answer {
        let id = message.as_str().unwrap();
        self.delete(&format!("/api/v1/messages/delete/{}/{id}?for={whom}", self.user_id), None).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Option<&Value>) -> Answer {
        self.call(Method::PUT, path, body).await
    }

    pub async fn delete(&self, path: &str, body: Option<&Value>) -> Answer {
        self.call(Method::DELETE, path, body).await
    }

    /// With this device's token.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        self.call_as(&self.access_token, method, path, body).await
    }

    /// With some other token.
    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path).bearer_auth(token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        Answer::of(request.send().await.unwrap()).await
    }

    /// Without a token.
    pub async fn anonymous(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.request(method, path);
        let request = if let Some(body) = body { request.json(body) } else { request };
        Answer::of(request.send().await.unwrap()).await
    }

    /// A request to be built by hand.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }
}

/// A send of opaque bytes to every device of a user.
pub fn opaque_send(recipient: Uuid) -> Value {
    json!({ "recipient_id": recipient, "ciphertext": b64(opaque(64)) })
}
