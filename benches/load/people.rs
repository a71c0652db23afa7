//! Devices, registered as any client would: with an Ed25519 identity key, a proof and 50 one-time pre-keys.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use curve25519_dalek::MontgomeryPoint;
use ed25519_dalek::{Signer, SigningKey};
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::Rng;
use reqwest::Client;
use restante::{
    domain::{DeviceId, UserId},
    keys::signal::register_statement,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Outcome;

/// Registrations that run at a time.
const AT_A_TIME: usize = 16;

/// A user with one device.
pub(crate) struct Person {
    /// The user.
    pub(crate) user: Uuid,
    /// The device's access token.
    pub(crate) token: String,
}

/// Registers devices at one relay.
pub(crate) struct Registrar {
    client: Client,
    /// Where the relay listens.
    pub(crate) address: SocketAddr,
    signed_prekey: [u8; 32],
    /// The same for everybody: keys must be new within a user only.
    onetime_prekeys: Value,
}

impl Registrar {
    pub(crate) fn new(address: SocketAddr) -> Outcome<Self> {
        let key = || MontgomeryPoint::mul_base_clamped(rand::rng().random()).to_bytes();
        let onetime = (1..=50).map(|id| json!({ "id": id, "public_key": STANDARD.encode(key()) })).collect();
        let client = Client::builder().no_proxy().build()?;
        Ok(Self { client, address, signed_prekey: key(), onetime_prekeys: onetime })
    }

    /// Registers this many people.
    pub(crate) async fn register(&self, count: usize) -> Outcome<Vec<Person>> {
        stream::iter(0..count).map(|_| self.register_one()).buffer_unordered(AT_A_TIME).try_collect().await
    }

    async fn register_one(&self) -> Outcome<Person> {
        let user = Uuid::new_v4();
        let identity = SigningKey::from_bytes(&rand::rng().random());
        let sign = |message: &[u8]| STANDARD.encode(identity.sign(message).to_bytes());
        let device = DeviceId::parse("phone")?;
        let statement = register_statement("localhost", UserId::new(user), &device, &self.signed_prekey);
        let body = json!({
            "device_id": device.as_str(),
            "registration_id": 1,
            "identity_key": STANDARD.encode(identity.verifying_key().as_bytes()),
            "proof": sign(&statement),
            "signed_prekey": {
                "id": 1,
                "public_key": STANDARD.encode(self.signed_prekey),
                "signature": sign(&self.signed_prekey),
            },
            "onetime_prekeys": self.onetime_prekeys,
        });
        let url = format!("http://{}/api/v1/keys/register/{user}", self.address);
        let answer: Value = self.client.post(url).json(&body).send().await?.json().await?;
        match answer["access_token"].as_str() {
            Some(token) => Ok(Person { user, token: token.to_owned() }),
            None => Err(format!("a registration was refused: {answer}").into()),
        }
    }
}
