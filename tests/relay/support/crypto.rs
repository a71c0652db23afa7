//! The private halves: keys of both identity kinds, and real Signal sessions.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use curve25519_dalek::MontgomeryPoint;
use ed25519_dalek::{Signer, SigningKey};
use futures_util::FutureExt;
use libsignal_protocol::{
    CiphertextMessage, CiphertextMessageType, DeviceId, GenericSignedPreKey, IdentityKey, IdentityKeyPair,
    InMemSignalProtocolStore, KeyPair, KyberPreKeyRecord, KyberPreKeyStore, PreKeyBundle, PreKeyRecord,
    PreKeyStore, ProtocolAddress, PublicKey, SessionStore, SignedPreKeyRecord, SignedPreKeyStore, Timestamp,
    kem, message_decrypt, message_encrypt, process_prekey_bundle,
};
use rand::{TryRngCore, rngs::OsRng};
use serde_json::{Value, json};
use uuid::Uuid;

use super::mothers;

/// Which identity a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ed25519,
    Signal,
}

/// The private keys of a device.
pub enum Keys {
    Ed25519(Box<SigningKey>),
    Signal(Box<SignalKeys>),
}

/// A Signal client's store.
pub struct SignalKeys {
    identity: IdentityKeyPair,
    store: InMemSignalProtocolStore,
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

pub fn unb64(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_else(|| panic!("no base64: {value}"))).unwrap()
}

/// Sealed-looking bytes that no guard takes for text.
pub fn opaque(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::Rng::fill(&mut rand::rng(), bytes.as_mut_slice());
    if let Some(first) = bytes.first_mut() {
        *first = 0xFF;
    }
    bytes
}

/// The parts of a signed statement, as API.md joins them.
pub fn statement(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&0)
}

impl Keys {
    pub fn fresh(kind: Kind, registration_id: u16) -> Self {
        match kind {
            Kind::Ed25519 => Self::Ed25519(Box::new(SigningKey::from_bytes(&mothers::bytes()))),
            Kind::Signal => {
                let identity = IdentityKeyPair::generate(&mut OsRng.unwrap_err());
                let store = InMemSignalProtocolStore::new(identity, registration_id.into()).unwrap();
                Self::Signal(Box::new(SignalKeys { identity, store }))
            }
        }
    }

    /// The public identity key as it stands on the wire.
    pub fn identity(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Self::Signal(keys) => keys.identity.identity_key().serialize().to_vec(),
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
            Self::Signal(keys) => {
                let secret = keys.identity.private_key();
                secret.calculate_signature(message, &mut OsRng.unwrap_err()).unwrap().to_vec()
            }
        }
    }

    /// The private bytes of the identity, to search for where they must not be.
    pub fn identity_secret(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.to_bytes().to_vec(),
            Self::Signal(keys) => keys.identity.private_key().serialize(),
        }
    }

    /// A fresh one-time pre-key, `{id, public_key}`.
    pub fn onetime_prekey(&mut self, id: u32) -> Value {
        let public = match self {
            Self::Ed25519(_) => x25519(),
            Self::Signal(keys) => {
                let pair = KeyPair::generate(&mut OsRng.unwrap_err());
                let record = PreKeyRecord::new(id.into(), &pair);
                now(keys.store.save_pre_key(id.into(), &record));
                pair.public_key.serialize().to_vec()
            }
        };
        json!({ "id": id, "public_key": b64(public) })
    }

    /// A fresh signed pre-key, `{id, public_key, signature}`.
    pub fn signed_prekey(&mut self, id: u32) -> Value {
        let (public, signature) = match self {
            Self::Ed25519(_) => {
                let public = x25519();
                let signature = self.sign(&public);
                (public, signature)
            }
            Self::Signal(keys) => {
                let rng = &mut OsRng.unwrap_err();
                let pair = KeyPair::generate(rng);
                let public = pair.public_key.serialize();
                let signature = keys.identity.private_key().calculate_signature(&public, rng).unwrap();
                let at = Timestamp::from_epoch_millis(0);
                let record = SignedPreKeyRecord::new(id.into(), at, &pair, &signature);
                now(keys.store.save_signed_pre_key(id.into(), &record));
                (public.to_vec(), signature.to_vec())
            }
        };
        json!({ "id": id, "public_key": b64(public), "signature": b64(signature) })
    }

    /// A fresh Kyber1024 pre-key, `{id, public_key, signature}`.
    pub fn kem_prekey(&mut self, id: u32) -> Value {
        let rng = &mut OsRng.unwrap_err();
        let pair = kem::KeyPair::generate(kem::KeyType::Kyber1024, rng);
        let public = pair.public_key.serialize();
        let signature = self.sign(&public);
        if let Self::Signal(keys) = self {
            let record =
                KyberPreKeyRecord::new(id.into(), Timestamp::from_epoch_millis(0), &pair, &signature);
            now(keys.store.save_kyber_pre_key(id.into(), &record));
        }
        json!({ "id": id, "public_key": b64(public), "signature": b64(signature) })
    }

    fn signal(&mut self) -> &mut SignalKeys {
        match self {
            Self::Signal(keys) => keys,
            Self::Ed25519(_) => panic!("sessions are for Signal devices"),
        }
    }

    /// Opens a session with the device of a bundle (PQXDH).
    pub fn open_session(&mut self, bundle: &Value) {
        let parsed = parse_bundle(bundle);
        let address = address_of(&bundle["user_id"], &bundle["device_number"]);
        let store = &mut self.signal().store;
        now(process_prekey_bundle(
            &address,
            &mut store.session_store,
            &mut store.identity_store,
            &parsed,
            SystemTime::UNIX_EPOCH,
            &mut OsRng.unwrap_err(),
        ));
    }

    /// Whether a session with that device is open.
    pub fn has_session(&mut self, user_id: Uuid, device_number: u8) -> bool {
        let address = address(user_id, device_number);
        now(self.signal().store.session_store.load_session(&address)).is_some()
    }

    /// A body for a device with an open session: its `type` on the wire, and the bytes.
    pub fn encrypt(&mut self, user_id: Uuid, device_number: u8, plaintext: &[u8]) -> (&'static str, Vec<u8>) {
        let address = address(user_id, device_number);
        let store = &mut self.signal().store;
        let sealed = now(message_encrypt(
            plaintext,
            &address,
            &mut store.session_store,
            &mut store.identity_store,
            SystemTime::UNIX_EPOCH,
            &mut OsRng.unwrap_err(),
        ));
        let kind = match sealed.message_type() {
            CiphertextMessageType::PreKey => "prekey",
            CiphertextMessageType::Whisper => "whisper",
            other => panic!("unexpected {other:?}"),
        };
        (kind, sealed.serialize().to_vec())
    }

    /// The plaintext of a `Message` as the relay delivers it.
    pub fn decrypt(&mut self, message: &Value) -> Vec<u8> {
        self.try_decrypt(message).unwrap()
    }

    pub fn try_decrypt(&mut self, message: &Value) -> Result<Vec<u8>, String> {
        let body = unb64(&message["ciphertext"]);
        let sealed = match message["envelope_type"].as_str() {
            Some("prekey") => CiphertextMessage::PreKeySignalMessage(body.as_slice().try_into().unwrap()),
            Some("whisper") => CiphertextMessage::SignalMessage(body.as_slice().try_into().unwrap()),
            other => panic!("no session message: {other:?}"),
        };
        let address = address_of(&message["sender_id"], &message["sender_device_number"]);
        let store = &mut self.signal().store;
        message_decrypt(
            &sealed,
            &address,
            &mut store.session_store,
            &mut store.identity_store,
            &mut store.pre_key_store,
            &store.signed_pre_key_store,
            &mut store.kyber_pre_key_store,
            &mut OsRng.unwrap_err(),
        )
        .now_or_never()
        .expect("the in-memory store never waits")
        .map_err(|error| error.to_string())
    }
}

/// The result of an act on libsignal's in-memory store, which never waits.
fn now<T, E: std::fmt::Debug>(act: impl Future<Output = Result<T, E>>) -> T {
    act.now_or_never().expect("the in-memory store never waits").unwrap()
}

/// A public X25519 key.
pub fn x25519() -> Vec<u8> {
    MontgomeryPoint::mul_base_clamped(mothers::bytes()).to_bytes().to_vec()
}

fn address(user_id: Uuid, device_number: u8) -> ProtocolAddress {
    ProtocolAddress::new(user_id.to_string(), DeviceId::new(device_number).unwrap())
}

fn address_of(user_id: &Value, device_number: &Value) -> ProtocolAddress {
    let number = u8::try_from(device_number.as_u64().unwrap()).unwrap();
    address(user_id.as_str().unwrap().parse().unwrap(), number)
}

fn parse_bundle(bundle: &Value) -> PreKeyBundle {
    let number = |name: &str| u32::try_from(bundle[name].as_u64().unwrap()).unwrap();
    let onetime = bundle["onetime_prekey"].is_string().then(|| {
        let key = PublicKey::deserialize(&unb64(&bundle["onetime_prekey"])).unwrap();
        (number("onetime_prekey_id").into(), key)
    });
    PreKeyBundle::new(
        number("registration_id"),
        DeviceId::new(u8::try_from(number("device_number")).unwrap()).unwrap(),
        onetime,
        number("signed_prekey_id").into(),
        PublicKey::deserialize(&unb64(&bundle["signed_prekey"])).unwrap(),
        unb64(&bundle["signed_prekey_signature"]),
        number("kem_prekey_id").into(),
        kem::PublicKey::deserialize(&unb64(&bundle["kem_prekey"])).unwrap(),
        unb64(&bundle["kem_prekey_signature"]),
        IdentityKey::decode(&unb64(&bundle["identity_key"])).unwrap(),
    )
    .unwrap()
}
