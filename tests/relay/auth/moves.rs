//! What a device does to prove itself, said shortly.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    client::{Answer, Device},
    crypto::{b64, statement},
};

impl Device {
    /// A challenge for this device.
    pub async fn challenge(&self) -> String {
        let body = json!({ "user_id": self.user_id, "device_id": self.device_id });
        let answer = self.anonymous(Method::POST, "/api/v1/auth/challenge", Some(&body)).await.is(200);
        answer["challenge"].as_str().unwrap().to_owned()
    }

    /// The signature over the login statement of these parts.
    pub fn login_signature(&self, relay_name: &str, user: &str, device_id: &str, challenge: &str) -> Vec<u8> {
        let parts = ["restante-auth-v1", relay_name, user, device_id, challenge];
        self.keys.sign(&statement(&parts.map(str::as_bytes)))
    }

    /// The right answer to a challenge.
    pub fn login(&self, challenge: &str) -> Value {
        let user = self.user_id.to_string();
        let signature = self.login_signature("localhost", &user, &self.device_id, challenge);
        json!({
            "user_id": user,
            "device_id": self.device_id,
            "challenge": challenge,
            "signature": b64(signature),
        })
    }

    /// Answers a challenge.
    pub async fn answer(&self, login: &Value) -> Answer {
        self.anonymous(Method::POST, "/api/v1/auth/token", Some(login)).await
    }

    /// Opens another session and goes on with it.
    pub async fn log_in(&mut self) -> Value {
        let login = self.login(&self.challenge().await);
        let answer = self.answer(&login).await;
        self.take_tokens(&answer);
        answer.is(200)
    }

    /// Logs out the session of this token.
    pub async fn log_out(&self, token: &str) -> Answer {
        self.call_as(token, Method::POST, "/api/v1/auth/logout", None).await
    }

    /// Shows a refresh token.
    pub async fn show(&self, refresh_token: &str) -> Answer {
        let body = json!({ "refresh_token": refresh_token });
        self.anonymous(Method::POST, "/api/v1/auth/refresh", Some(&body)).await
    }

    /// Refreshes the session and goes on with the new pair.
    pub async fn refresh(&mut self) -> Value {
        let answer = self.show(&self.refresh_token).await;
        self.take_tokens(&answer);
        answer.is(200)
    }

    /// Registers with an admission token and, if that is accepted, takes over the tokens.
    pub async fn register_by(&mut self, admission: &str, body: &Value) -> Answer {
        let path = format!("/api/v1/keys/register/{}", self.user_id);
        let answer = self.call_as(admission, Method::POST, &path, Some(body)).await;
        self.take_tokens(&answer);
        answer
    }

    /// A recovery proof by this device's key for a newcomer's.
    pub fn recovery_proof(&self, relay_name: &str, user: &str, new_identity: &[u8]) -> String {
        let parts = [b"restante-recover-v1", relay_name.as_bytes(), user.as_bytes(), new_identity];
        b64(self.keys.sign(&statement(&parts)))
    }

    /// A registration of a newcomer of the same user, brought back by this device's key.
    pub fn recovery_of(&self, newcomer: &mut Self) -> Value {
        let mut body = newcomer.registration();
        let user = self.user_id.to_string();
        body["recovery_proof"] = json!(self.recovery_proof("localhost", &user, &newcomer.keys.identity()));
        body
    }

    /// What a token opens: its own device's stock.
    pub async fn stats_as(&self, token: &str) -> Answer {
        self.call_as(token, Method::GET, &self.own("stats"), None).await
    }

    /// That the session is alive: its access token works.
    pub async fn is_alive(&self) {
        self.stats_as(&self.access_token).await.is(200);
    }

    pub async fn sessions(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/auth/sessions").await.is(200);
        let sessions = answer["sessions"].as_array().unwrap().clone();
        assert_eq!(answer["count"], sessions.len());
        sessions
    }

    /// The trail, newest first.
    pub async fn trail(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/auth/audit?limit=100").await.is(200);
        answer["events"].as_array().unwrap().clone()
    }

    /// The names of the events of the trail, oldest first.
    pub async fn events(&self) -> Vec<String> {
        let trail = self.trail().await;
        trail.iter().rev().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }

    fn take_tokens(&mut self, answer: &Answer) {
        if matches!(answer.status, 200 | 201) {
            answer["access_token"].as_str().unwrap().clone_into(&mut self.access_token);
            answer["refresh_token"].as_str().unwrap().clone_into(&mut self.refresh_token);
        }
    }
}
