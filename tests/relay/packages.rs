//! MLS signature keys and key packages: what is taken, and that each package is given once.

mod claims;
mod limits;
mod rotation;
mod rules;
mod uploads;

use restante::domain::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, statement},
    packages::MlsKey,
    relay::TestRelay,
};

/// By the machine's clock, because openmls goes by it too.
fn today() -> Timestamp {
    SystemClock.now()
}

/// A device with an MLS signature key of one suite.
struct Mls {
    device: Device,
    key: MlsKey,
}

impl Mls {
    async fn registered(relay: &TestRelay, suite: u16) -> Self {
        Self::with_key(Device::registered(relay, Kind::Ed25519).await, suite).await
    }

    async fn with_key(device: Device, suite: u16) -> Self {
        let mls = Self { device, key: MlsKey::fresh(suite) };
        mls.announce().await.is(200);
        mls
    }

    /// What every credential of the device says.
    fn identity(&self) -> String {
        identity(&self.device)
    }

    fn package(&self) -> Vec<u8> {
        self.key.package(&self.identity(), today())
    }

    fn packages(&self, count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.package()).collect()
    }

    fn last_resort(&self) -> Vec<u8> {
        self.key.last_resort(&self.identity(), today())
    }

    /// Registers the key.
    async fn announce(&self) -> Answer {
        let body = key_body(&self.device, self.key.scheme(), &self.key.public);
        self.device.put(&self.device.own("mls-keys"), Some(&body)).await
    }

    async fn upload(&self, packages: &[Vec<u8>], last_resort: Option<&[u8]>) -> Answer {
        upload(&self.device, packages, last_resort).await
    }

    /// What a claim of this device's user gives `caller`.
    async fn claimed_by(&self, caller: &Device) -> Answer {
        claim(caller, &self.device, self.key.suite).await
    }

    async fn count(&self) -> u64 {
        self.device.get(&self.device.own("stats")).await.is(200)["key_packages"].as_u64().unwrap()
    }
}

fn identity(device: &Device) -> String {
    format!("{}:{}", device.user_id, device.device_id)
}

/// A signature key under the statement, signed by the device.
pub(crate) fn key_body(device: &Device, scheme: u16, public_key: &[u8]) -> Value {
    let (user, number) = (device.user_id.to_string(), scheme.to_string());
    let parts: [&[u8]; 5] =
        [b"restante-mls-v1", user.as_bytes(), device.device_id.as_bytes(), number.as_bytes(), public_key];
    json!({
        "scheme": scheme,
        "public_key": b64(public_key),
        "signature": b64(device.keys.sign(&statement(&parts))),
    })
}

async fn upload(device: &Device, packages: &[Vec<u8>], last_resort: Option<&[u8]>) -> Answer {
    let mut body = json!({ "key_packages": packages.iter().map(b64).collect::<Vec<_>>() });
    if let Some(package) = last_resort {
        body["last_resort"] = json!(b64(package));
    }
    device.post(&device.own("packages"), &body).await
}

async fn claim(caller: &Device, of: &Device, suite: u16) -> Answer {
    let path = format!("/api/v1/keys/packages/{}/claim?cipher_suite={suite}", of.user_id);
    caller.post(&path, &json!({})).await
}

/// The packages of a claim as `(device_id, package, is_last_resort)`.
fn given(answer: &Value) -> Vec<(String, String, bool)> {
    let packages = answer["key_packages"].as_array().unwrap_or_else(|| panic!("no packages: {answer}"));
    packages
        .iter()
        .map(|package| {
            let text = |name: &str| package[name].as_str().unwrap().to_owned();
            (text("device_id"), text("key_package"), package["is_last_resort"].as_bool().unwrap())
        })
        .collect()
}
