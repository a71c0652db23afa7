//! Tokens taken apart and put together again, as an attacker does it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{crypto::b64, mothers};

/// A fresh Ed25519 key.
pub(super) fn fresh_key() -> SigningKey {
    SigningKey::from_bytes(&mothers::bytes())
}

/// The setting that makes a relay sign with this key.
pub(super) fn setting(key: &SigningKey) -> String {
    b64(key.to_bytes())
}

/// The three parts of a token as they stand.
pub(super) fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().expect("a token has three parts")
}

pub(super) fn header(token: &str) -> Value {
    json_of(parts(token)[0])
}

pub(super) fn payload(token: &str) -> Value {
    json_of(parts(token)[1])
}

fn json_of(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// What is signed.
fn input(header: &Value, payload: &Value) -> String {
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encoded(header), encoded(payload))
}

/// A token by this key.
pub(super) fn signed(header: &Value, payload: &Value, key: &SigningKey) -> String {
    let input = input(header, payload);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).to_bytes());
    format!("{input}.{signature}")
}

/// A token with the algorithm `HS256` and this secret.
pub(super) fn by_hmac(header: &Value, payload: &Value, secret: &[u8]) -> String {
    let input = input(&with(header, "alg", json!("HS256")), payload);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A token that says it needs no signature.
pub(super) fn unsigned(header: &Value, payload: &Value, none: &str) -> String {
    format!("{}.", input(&with(header, "alg", json!(none)), payload))
}

/// The object with one member set; `null` takes it away.
pub(super) fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut changed = object.clone();
    if value.is_null() {
        changed.as_object_mut().unwrap().remove(name);
    } else {
        changed[name] = value;
    }
    changed
}

/// A public key in PEM (SPKI, RFC 8410).
pub(super) fn pem(key: &SigningKey) -> String {
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let spki = [&prefix[..], key.verifying_key().as_bytes()].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", b64(spki))
}
