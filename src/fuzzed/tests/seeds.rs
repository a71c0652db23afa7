//! Seeds of everything but MLS messages.

use std::{collections::BTreeMap, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use libsignal_protocol::{IdentityKeyPair, KeyPair, kem};
use mls_rs::{
    Client, ExtensionList, extension::recommended::LastResortKeyPackageExt,
    identity::basic::BasicIdentityProvider,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use rand::{TryRngCore, rngs::OsRng};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    device::{Device, Manner},
    mls::LIFE,
};
use crate::{
    auth::{Challenges, RefreshTokens, SigningKeys, Tokens},
    domain::{CipherSuite, SessionId, SignatureScheme},
    fuzzed::{NOW, caller, user},
    keys::signal::{mls_key_statement, register_statement},
    messages::structure::signal_bodies,
    store::Principal,
    wire::B64,
};

/// Target, name and input.
type Seed = (&'static str, &'static str, Vec<u8>);

const SUITES: [CipherSuite; 3] =
    [CipherSuite::X25519Aes128, CipherSuite::P256Aes128, CipherSuite::X25519ChaCha20];

pub(super) fn made() -> Vec<Seed> {
    let mut seeds = Vec::new();
    signal(&mut seeds);
    packages(&mut seeds);
    registrations(&mut seeds);
    keys(&mut seeds);
    sends(&mut seeds);
    groups(&mut seeds);
    frames(&mut seeds);
    socket(&mut seeds);
    tokens(&mut seeds);
    addresses(&mut seeds);
    for (name, event) in crate::hot::redis::fuzzed::samples() {
        seeds.push(("events", name, event));
    }
    seeds
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn signal(seeds: &mut Vec<Seed>) {
    let bodies = signal_bodies::make();
    seeds.extend([
        ("signal_body", "prekey", bodies.prekey),
        ("signal_body", "whisper", bodies.whisper),
        ("signal_body", "sender-key", bodies.sender_key),
        ("signal_body", "sealed-v1", bodies.sealed_v1),
        ("signal_body", "sealed-v2", bodies.sealed_v2),
        ("signal_body", "plaintext-content", bodies.plaintext_content),
    ]);
    let random = &mut OsRng.unwrap_err();
    let pair = IdentityKeyPair::generate(random);
    let prekey = KeyPair::generate(random).public_key.serialize();
    let signature = pair.private_key().calculate_signature(&prekey, random).unwrap();
    seeds.push((
        "signal_keys",
        "xeddsa",
        [&pair.identity_key().serialize()[..], &signature, &prekey].concat(),
    ));
    let signer = SigningKey::from_bytes(&[7; 32]);
    let message = [9; 32];
    let signature = signer.sign(&message).to_bytes();
    let input = [&signer.verifying_key().as_bytes()[..], &signature, &message].concat();
    seeds.push(("signal_keys", "ed25519", input));
}

fn device(suite: CipherSuite) -> Device {
    Device::new(user(1), "phone", Manner { suite, lifetime: LIFE, ..Manner::default() })
}

fn packages(seeds: &mut Vec<Seed>) {
    for (name, suite) in ["suite-1", "suite-2", "suite-3"].into_iter().zip(SUITES) {
        seeds.push(("key_package", name, device(suite).package().to_bytes().unwrap()));
    }
    seeds.push(("key_package", "last-resort", last_resort(&device(CipherSuite::X25519Aes128))));
}

fn last_resort(device: &Device) -> Vec<u8> {
    let leaf = device.leaf.clone();
    let suite = CipherSuite::X25519Aes128.number().into();
    let client = Client::builder()
        .identity_provider(BasicIdentityProvider::new())
        .crypto_provider(RustCryptoProvider::default())
        .key_package_lifetime(LIFE)
        .extension_type(10.into())
        .signing_identity(leaf.identity, leaf.secret, suite)
        .build();
    let mut extensions = ExtensionList::default();
    extensions.set_from(LastResortKeyPackageExt).unwrap();
    let message = client.generate_key_package_message(extensions, ExtensionList::default(), None);
    message.unwrap().to_bytes().unwrap()
}

/// Registrations of a Signal client and of one with an Ed25519 identity that speaks MLS too.
fn registrations(seeds: &mut Vec<Seed>) {
    let random = &mut OsRng.unwrap_err();
    let pair = IdentityKeyPair::generate(random);
    let signal = |key: &[u8]| {
        let signature = pair.private_key().calculate_signature(key, &mut OsRng.unwrap_err()).unwrap();
        signature.to_vec()
    };
    let kem = |id: u32| {
        let key =
            kem::KeyPair::generate(kem::KeyType::Kyber1024, &mut OsRng.unwrap_err()).public_key.serialize();
        json!({ "id": id, "public_key": b64(&key), "signature": b64(signal(&key)) })
    };
    let mut body = registration(&pair.identity_key().serialize(), &signal, &|| {
        KeyPair::generate(&mut OsRng.unwrap_err()).public_key.serialize().to_vec()
    });
    body["kem_prekeys"] = json!([kem(1)]);
    body["last_resort_kem_prekey"] = kem(2);
    seeds.push(("register_body", "signal", json(&body)));

    let signer = SigningKey::from_bytes(&[7; 32]);
    let sign = |message: &[u8]| signer.sign(message).to_bytes().to_vec();
    let mut body = registration(signer.verifying_key().as_bytes(), &sign, &|| {
        KeyPair::generate(&mut OsRng.unwrap_err()).public_key.public_key_bytes().to_vec()
    });
    let device = device(CipherSuite::X25519Aes128);
    body["mls_signature_keys"] = json!([mls_key(&device, &sign)]);
    body["key_packages"] = json!([b64(device.package().to_bytes().unwrap())]);
    body["last_resort_key_package"] = json!(b64(last_resort(&device)));
    seeds.push(("register_body", "ed25519-mls", json(&body)));
}

fn registration(identity: &[u8], sign: &dyn Fn(&[u8]) -> Vec<u8>, fresh: &dyn Fn() -> Vec<u8>) -> Value {
    let signed = fresh();
    let caller = caller(1, "phone");
    let statement = register_statement("localhost", caller.user_id, &caller.device_id, &signed);
    let onetime: Vec<_> = (0..50).map(|id| json!({ "id": id, "public_key": b64(fresh()) })).collect();
    json!({
        "device_id": "phone", "device_name": "Phone", "registration_id": 4711,
        "identity_key": b64(identity), "proof": b64(sign(&statement)),
        "signed_prekey": { "id": 1, "public_key": b64(&signed), "signature": b64(sign(&signed)) },
        "onetime_prekeys": onetime,
    })
}

fn mls_key(device: &Device, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> Value {
    let caller = caller(1, "phone");
    let key = &device.keys[0].public_key;
    let statement = mls_key_statement(caller.user_id, &caller.device_id, SignatureScheme::Ed25519, key);
    json!({ "scheme": 2055, "public_key": b64(key), "signature": b64(sign(&statement)) })
}

/// By the device whose identity key has the seed 32 times 7.
fn keys(seeds: &mut Vec<Seed>) {
    let own = SigningKey::from_bytes(&[7; 32]);
    let sign = |message: &[u8]| own.sign(message).to_bytes().to_vec();
    let fresh = || KeyPair::generate(&mut OsRng.unwrap_err()).public_key.public_key_bytes().to_vec();
    let onetime = || json!({ "id": 77, "public_key": b64(fresh()) });
    let signed = |key: &[u8]| json!({ "id": 78, "public_key": b64(key), "signature": b64(sign(key)) });
    let kem = kem::KeyPair::generate(kem::KeyType::Kyber1024, &mut OsRng.unwrap_err()).public_key.serialize();
    let device = device(CipherSuite::X25519Aes128);
    let package = b64(device.package().to_bytes().unwrap());
    for (name, body) in [
        ("prekeys-list", json!([onetime()])),
        ("prekeys-by-kind", json!({ "onetime_prekeys": [onetime()], "kem_prekeys": [signed(&kem)] })),
        ("rotate", signed(&fresh())),
        ("rotate-more", json!({ "new_signed_prekey": signed(&fresh()), "new_onetime_prekeys": [onetime()] })),
        (
            "link",
            json!({ "device_id": "tablet", "identity_key": b64(own.verifying_key()), "signature": b64([1; 64]) }),
        ),
        ("check", json!({ "digest": b64([3; 32]) })),
        ("mls-key", mls_key(&device, &sign)),
        ("packages", json!({ "key_packages": [package], "last_resort": b64(last_resort(&device)) })),
    ] {
        seeds.push(("keys_body", name, json(&body)));
    }
}

fn sends(seeds: &mut Vec<Seed>) {
    let bodies = signal_bodies::make();
    let to = Uuid::from_u128(2);
    let each = json!([
        { "device_id": "phone", "registration_id": 4711, "type": "prekey", "ciphertext": b64(&bodies.prekey) },
        { "device_number": 2, "type": "whisper", "ciphertext": b64(&bodies.whisper), "ephemeral_key": b64([5; 33]) },
    ]);
    for (name, body) in [
        ("opaque", json!({ "recipient_id": to, "ciphertext": b64([0x80; 40]) })),
        ("each", json!({ "recipient_id": to, "envelopes": each, "message_id": Uuid::from_u128(9) })),
        (
            "sealed",
            json!({ "recipient_id": to, "type": "sealed", "ciphertext": b64(&bodies.sealed_v2),
            "message_type": "Text", "is_self_destructing": true, "expires_in_seconds": 60 }),
        ),
        (
            "online-only",
            json!({ "recipient_id": to, "conversation_id": Uuid::nil(), "device_id": "phone",
            "online_only": true, "ciphertext": b64([0x81; 28]), "ephemeral_key": b64([1; 32]) }),
        ),
    ] {
        seeds.push(("send_body", name, json(&body)));
    }
}

fn groups(seeds: &mut Vec<Seed>) {
    let user = Uuid::from_u128(2);
    let sealed = b64([0x80; 40]);
    for (name, body) in [
        ("create-roster", json!({ "name": sealed, "member_ids": [user], "group_id": Uuid::from_u128(7) })),
        (
            "create-mls",
            json!({ "group_info": sealed, "ratchet_tree": sealed, "commit": sealed,
            "commit_group_info": sealed, "welcome": sealed, "handshake": "public", "external_join": "siblings" }),
        ),
        ("add-users", json!({ "user_ids": [user], "device_id": "phone" })),
        (
            "add-by-commit",
            json!({ "commit": sealed, "group_info": sealed, "welcome": sealed, "user_ids": [user] }),
        ),
        (
            "remove",
            json!({ "commit": sealed, "group_info": sealed,
            "removed": [{ "user_id": user, "device_id": "phone" }] }),
        ),
        ("leave", json!({ "proposals": [sealed, sealed] })),
        ("propose", json!({ "proposal": sealed })),
        (
            "send",
            json!({ "ciphertext": sealed, "message_id": user, "expires_in_seconds": 60, "message_type": "Text" }),
        ),
        ("role", json!({ "role": "admin" })),
        ("invite", json!({ "expires_in_seconds": 3600 })),
        ("report", json!({ "epoch": 3, "commit_blake3": b64([3; 32]), "reason": "bad tag" })),
    ] {
        seeds.push(("group_body", name, json(&body)));
    }
}

/// A value of a frame, in either format.
#[derive(Serialize)]
#[serde(untagged)]
enum Part {
    Text(&'static str),
    Number(i64),
    Id(String),
    Bytes(B64),
    List(Vec<Part>),
    Map(BTreeMap<String, Part>),
}

fn frames(seeds: &mut Vec<Seed>) {
    let id = |number: u128| Part::Id(Uuid::from_u128(number).to_string());
    let sealed = || Part::Bytes(B64(Bytes::from(vec![0x80; 40])));
    let envelope = Part::Map(BTreeMap::from([
        ("device_number".to_owned(), Part::Number(1)),
        ("registration_id".to_owned(), Part::Number(4711)),
        ("ciphertext".to_owned(), sealed()),
    ]));
    let group = Part::Map(BTreeMap::from([(Uuid::from_u128(7).to_string(), Part::Number(5))]));
    let frames: [(&'static str, Vec<(&'static str, Part)>); 7] = [
        (
            "send",
            vec![("recipient_id", id(2)), ("ciphertext", sealed()), ("envelope_type", Part::Text("opaque"))],
        ),
        ("send-each", vec![("recipient_id", id(2)), ("envelopes", Part::List(vec![envelope]))]),
        ("group-send", vec![("group_id", id(7)), ("ciphertext", sealed()), ("message_id", id(9))]),
        ("ack", vec![("message_ids", Part::List(vec![id(3), id(4)])), ("groups", group)]),
        ("read", vec![("message_id", id(3))]),
        ("auth", vec![("token", Part::Text("eyJ.eyJ.c2ln"))]),
        ("ping", vec![]),
    ];
    for (name, parts) in frames {
        let kind = match name {
            "send-each" => "send",
            "group-send" => "group_send",
            other => other,
        };
        let mut frame = BTreeMap::from([("type", Part::Text(kind)), ("ref", Part::Text("r1"))]);
        frame.extend(parts);
        seeds.push(("frames_json", name, serde_json::to_vec(&frame).unwrap()));
        seeds.push(("frames_msgpack", name, rmp_serde::to_vec(&frame).unwrap()));
    }
}

/// Masked frames, as a client sends them (RFC 6455 §5.2); the first byte says in what pieces they come.
fn socket(seeds: &mut Vec<Seed>) {
    let frame = |first: u8, payload: &[u8]| {
        let mut frame = vec![first];
        let length = u16::try_from(payload.len()).unwrap();
        if length < 126 {
            frame.push(0x80 | length.to_be_bytes()[1]);
        } else {
            frame.push(0xfe);
            frame.extend(length.to_be_bytes());
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(payload.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    };
    let with = |frames: &[Vec<u8>]| [vec![3], frames.concat()].concat();
    let (ping, close) = (frame(0x89, b"beat"), frame(0x88, &1000_u16.to_be_bytes()));
    let parts = [frame(0x01, b"{\"type\":"), ping.clone(), frame(0x80, b"\"ping\"}")];
    let text = frame(0x81, b"{\"type\":\"ping\"}");
    seeds.extend([
        ("socket", "text", with(&[text.clone(), ping, close])),
        ("socket", "parts", with(&parts)),
        ("socket", "long", with(&[frame(0x82, &[7; 400]), frame(0x82, &[7; 700]), text])),
    ]);
}

fn tokens(seeds: &mut Vec<Seed>) {
    let keys = SigningKeys::parse(&STANDARD.encode([7; 32])).unwrap();
    let tokens = Tokens::new("localhost", &keys, Duration::from_mins(15));
    let session = SessionId::new(Uuid::from_u128(8));
    let phone = caller(1, "phone");
    let principal = Principal { caller: phone.clone(), user_since: NOW };
    let access = tokens.issue(&principal, session, NOW).unwrap();
    let claims = tokens.check(&access, NOW).unwrap();
    let ticket = tokens.issue_ticket(&claims, NOW).unwrap();
    let payload = |token: &str| URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let refresh = RefreshTokens::new([1; 32]).first(session).unwrap().text();
    let challenges = Challenges::new([2; 32], "localhost");
    let (challenge, _) = challenges.issue(phone.user_id, &phone.device_id, NOW).unwrap();
    let admission = json!({ "sub": phone.user_id.uuid(), "aud": ["restante"], "recover": true,
        "exp": NOW.seconds() + 600, "nbf": NOW.seconds() });
    for (name, input) in [
        ("access-payload", payload(&access)),
        ("ticket-payload", payload(&ticket)),
        ("access", access.into_bytes()),
        ("ticket", ticket.into_bytes()),
        ("refresh", refresh.into_bytes()),
        ("challenge", challenge.into_bytes()),
        ("admission-payload", json(&admission)),
        ("jwks", json(&jwks())),
    ] {
        seeds.push(("tokens", name, input));
    }
}

fn jwks() -> Value {
    let url = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let ed25519 = SigningKey::from_bytes(&[8; 32]).verifying_key();
    let p256 = device(CipherSuite::P256Aes128).keys[0].public_key.clone();
    json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "1", "use": "sig", "alg": "EdDSA", "x": url(ed25519.as_bytes()) },
        { "kty": "EC", "crv": "P-256", "kid": "2", "x": url(&p256[1..33]), "y": url(&p256[33..]) },
        { "kty": "RSA", "kid": "3", "key_ops": ["verify"], "n": url(&[0xd1; 256]), "e": "AQAB" },
    ] })
}

fn addresses(seeds: &mut Vec<Seed>) {
    for (name, lines) in [
        ("x-forwarded-for", "6.6.6.6, 192.0.2.7:443 , 10.9.9.9\n[2001:db8::7]:80, 10.0.0.2"),
        ("mapped", "::ffff:192.0.2.7"),
        ("forwarded", "for=6.6.6.6;proto=https, For=\"[2001:db8::7]:_p\";by=_hidden"),
        ("forwarded-escaped", "for=\"192.0.2.\\7\";host=\"a,b;c\""),
    ] {
        seeds.push(("forwarded", name, lines.as_bytes().to_vec()));
    }
}
