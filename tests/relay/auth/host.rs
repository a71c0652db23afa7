//! The host application: it admits users by signed tokens.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::jwt;
use crate::support::engine::NOON;

/// Whole seconds of the time at which the relays of these tests stand.
pub(super) const NOW: i64 = NOON.seconds();

pub(super) struct Host {
    pub(super) key: SigningKey,
    folder: TempDir,
}

impl Host {
    pub(super) fn new() -> Self {
        Self { key: jwt::fresh_key(), folder: tempfile::tempdir().unwrap() }
    }

    /// What a good token says.
    pub(super) fn claims(user: Uuid) -> Value {
        json!({ "sub": user, "aud": "restante", "exp": NOW + 600 })
    }

    pub(super) fn header() -> Value {
        json!({ "alg": "EdDSA", "typ": "JWT" })
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        jwt::signed(&Self::header(), claims, &self.key)
    }

    /// A good token.
    pub(super) fn admit(&self, user: Uuid) -> String {
        self.token(&Self::claims(user))
    }

    /// A token that brings a user back; no two are the same.
    pub(super) fn bring_back(&self, user: Uuid) -> String {
        let claims = jwt::with(&Self::claims(user), "recover", json!(true));
        self.token(&jwt::with(&claims, "jti", json!(Uuid::new_v4())))
    }

    /// A key set with this host's key under the id `main`, in a file.
    pub(super) fn jwks(&self) -> String {
        let key = |id: &str, key: &SigningKey| {
            let public = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
            json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": public })
        };
        let keys = json!({ "keys": [key("other", &jwt::fresh_key()), key("main", &self.key)] });
        self.file("jwks.json", &keys.to_string())
    }

    /// A file of the host application; its path.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}
