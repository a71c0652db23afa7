//! The private keys of a device and the folder they are kept in.

use std::{fs, io::Write, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use curve25519_dalek::MontgomeryPoint;
use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Outcome;

/// The file of a device in its folder.
pub(crate) const FILE: &str = "device.json";

/// A device with its private keys, as kept on disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeviceKeys {
    pub(crate) user_id: Uuid,
    pub(crate) device_id: String,
    pub(crate) registration_id: u16,
    identity_secret: String,
    pub(crate) signed_prekey: SecretKey,
    onetime_prekeys: Vec<SecretKey>,
}

/// The private half of a pre-key.
#[derive(Serialize, Deserialize)]
pub(crate) struct SecretKey {
    pub(crate) id: u32,
    secret: String,
}

impl SecretKey {
    pub(crate) fn new(id: u32) -> Outcome<Self> {
        Ok(Self { id, secret: random_secret()? })
    }

    pub(crate) fn public(&self) -> Outcome<[u8; 32]> {
        Ok(MontgomeryPoint::mul_base_clamped(decode_secret(&self.secret)?).to_bytes())
    }
}

impl DeviceKeys {
    pub(crate) fn new(user_id: Uuid, device_id: String) -> Outcome<Self> {
        Ok(Self {
            user_id,
            device_id,
            registration_id: random_registration_id()?,
            identity_secret: random_secret()?,
            signed_prekey: SecretKey::new(1)?,
            onetime_prekeys: Vec::new(),
        })
    }

    pub(crate) fn load(folder: &Path) -> Outcome<Self> {
        let path = folder.join(FILE);
        let text = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Writes the whole file beside the old one and then takes its place, so that no key is ever lost half-way.
    pub(crate) fn save(&self, folder: &Path) -> Outcome<()> {
        let fresh = folder.join("device.json.new");
        let mut file = open_private(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(fresh, folder.join(FILE))?;
        Ok(())
    }

    pub(crate) fn identity(&self) -> Outcome<SigningKey> {
        Ok(SigningKey::from_bytes(&decode_secret(&self.identity_secret)?))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Outcome<String> {
        Ok(STANDARD.encode(self.identity()?.sign(message).to_bytes()))
    }

    /// Makes one-time pre-keys with ids that were never used, and tells their public halves.
    pub(crate) fn add_prekeys(&mut self, count: u16) -> Outcome<Value> {
        let first = self.onetime_prekeys.last().map_or(1, |last| last.id + 1);
        let mut public_halves = Vec::new();
        for id in first..first + u32::from(count) {
            let prekey = SecretKey::new(id)?;
            public_halves.push(json!({ "id": id, "public_key": STANDARD.encode(prekey.public()?) }));
            self.onetime_prekeys.push(prekey);
        }
        Ok(Value::Array(public_halves))
    }

    pub(crate) fn signed_prekey_body(&self) -> Outcome<Value> {
        let public_key = self.signed_prekey.public()?;
        Ok(json!({
            "id": self.signed_prekey.id,
            "public_key": STANDARD.encode(public_key),
            "signature": self.sign(&public_key)?,
        }))
    }
}

fn open_private(path: &Path) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn random_secret() -> Result<String, getrandom::Error> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(STANDARD.encode(secret))
}

fn decode_secret(text: &str) -> Outcome<[u8; 32]> {
    STANDARD.decode(text)?.try_into().map_err(|_| "a private key in the folder has not 32 bytes".into())
}

/// A number from 1 to 16383.
fn random_registration_id() -> Result<u16, getrandom::Error> {
    let number = getrandom::u32()? % 16_383;
    Ok(u16::try_from(number).unwrap_or_default() + 1)
}
