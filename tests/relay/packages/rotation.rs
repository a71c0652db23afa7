//! MLS signature keys: one of a scheme, under the identity key, never anybody else's.

use serde_json::{Value, json};

use super::{Mls, key_body};
use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    packages::{HandKey, MlsKey},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_new_key_ends_the_packages_of_the_former,
    the_same_key_again_changes_nothing,
    a_device_has_a_key_of_each_scheme,
    a_key_belongs_to_one_device_for_ever,
    a_key_needs_the_word_of_the_identity_key,
    a_key_that_is_none_is_refused,
}

async fn listed(device: &Device) -> Value {
    device.get("/api/v1/keys/devices/me").await.is(200)["devices"][0]["mls_signature_keys"].clone()
}

async fn a_new_key_ends_the_packages_of_the_former(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    alice.upload(&alice.packages(3), Some(&alice.last_resort())).await.is(200);
    alice.claimed_by(&bob).await.is(200);
    let waiting = alice.package();
    alice.key = MlsKey::fresh(1);
    let told = alice.announce().await.is(200);
    assert_eq!(told["success"], true);
    assert!(told["dropped_packages"].as_u64().unwrap() >= 3, "{told}");
    assert_eq!(alice.count().await, 0);
    alice.claimed_by(&bob).await.refused(404, "not-found");
    alice.upload(&[waiting], None).await.refused(422, "unknown-signature-key");
    let expected = json!([key_body(&alice.device, 2055, &alice.key.public)]);
    assert_eq!(listed(&alice.device).await, expected);
    alice.upload(&alice.packages(1), None).await.is(200);
    alice.claimed_by(&bob).await.is(200);
    let trail = alice.device.get("/api/v1/auth/audit").await.is(200);
    assert!(trail.to_string().contains("key_rotated"), "{trail}");
}

async fn the_same_key_again_changes_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 2).await;
    alice.upload(&alice.packages(2), None).await.is(200);
    assert_eq!(alice.announce().await.is(200)["dropped_packages"], 0);
    assert_eq!(alice.count().await, 2);
}

async fn a_device_has_a_key_of_each_scheme(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    alice.upload(&alice.packages(2), None).await.is(200);
    let p256 = key_body(&alice.device, 1027, &HandKey::p256().public());
    let told = alice.device.put("/api/v1/keys/mls-keys/me/me", Some(&p256)).await.is(200);
    assert_eq!(told["dropped_packages"], 0);
    assert_eq!(alice.count().await, 2);
    let keys = listed(&alice.device).await;
    let ed25519 = key_body(&alice.device, 2055, &alice.key.public);
    let keys = keys.as_array().unwrap();
    assert!(keys.len() == 2 && keys.contains(&p256) && keys.contains(&ed25519), "{keys:?}");
}

async fn a_key_belongs_to_one_device_for_ever(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Mls::registered(&relay, 1).await;
    let mallory = Device::registered(&relay, Kind::Ed25519).await;
    let tablet = alice.device.linked("tablet").await;
    let former = std::mem::replace(&mut alice.key, MlsKey::fresh(1));
    alice.announce().await.is(200);
    for key in [&former.public, &alice.key.public] {
        for thief in [&mallory, &tablet] {
            let body = key_body(thief, 2055, key);
            let problem = thief.put(&thief.own("mls-keys"), Some(&body)).await;
            assert_eq!(problem.refused(422, "signature-key-reused")["field"], "public_key");
        }
    }
    let body = key_body(&alice.device, 2055, &former.public);
    alice.device.put(&alice.device.own("mls-keys"), Some(&body)).await.refused(422, "signature-key-reused");
    assert_eq!(listed(&alice.device).await, json!([key_body(&alice.device, 2055, &alice.key.public)]));
    assert_eq!(listed(&mallory).await, json!([]));
}

async fn a_key_needs_the_word_of_the_identity_key(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in [Kind::Ed25519, Kind::Signal] {
        let alice = Device::registered(&relay, kind).await;
        let other = Device::registered(&relay, kind).await;
        let (key, p256) = (MlsKey::fresh(1).public, HandKey::p256().public());
        let good = key_body(&alice, 2055, &key);
        let mut impostor = Device::of(&relay.url(), alice.user_id, "phone", kind);
        let mut sibling = Device::of(&relay.url(), alice.user_id, "tablet", kind);
        std::mem::swap(&mut impostor.keys, &mut sibling.keys);
        let signatures = [
            key_body(&other, 2055, &key),
            key_body(&impostor, 2055, &key),
            key_body(&alice, 1027, &key),
            key_body(&alice, 2055, &p256),
            json!({ "signature": b64([0; 64]) }),
            json!({ "signature": b64([7; 63]) }),
        ];
        for wrong in signatures {
            let mut body = good.clone();
            body["signature"] = wrong["signature"].clone();
            let problem = alice.put(&alice.own("mls-keys"), Some(&body)).await;
            assert_eq!(problem.refused(422, "invalid-signature")["field"], "signature");
        }
        assert_eq!(listed(&alice).await, json!([]));
        alice.put(&alice.own("mls-keys"), Some(&good)).await.is(200);
    }
}

async fn a_key_that_is_none_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let (ed25519, p256) = (MlsKey::fresh(1).public, HandKey::p256().public());
    let mut beside = p256.clone();
    *beside.last_mut().unwrap() ^= 1;
    let refused: [(u16, &[u8], &str); 7] = [
        (2055, &[0; 32], "public_key"),
        (2055, &ed25519[..31], "public_key"),
        (2055, &p256, "public_key"),
        (1027, &ed25519, "public_key"),
        (1027, &beside, "public_key"),
        (2056, &ed25519, "scheme"),
        (1, &ed25519, "scheme"),
    ];
    for (scheme, key, field) in refused {
        let body = key_body(&alice, scheme, key);
        let problem = alice.put(&alice.own("mls-keys"), Some(&body)).await.refused(422, "invalid-key");
        assert_eq!(problem["field"], field, "{problem}");
    }
    let body = json!({ "scheme": 2055, "public_key": b64(&ed25519) });
    let problem = alice.put(&alice.own("mls-keys"), Some(&body)).await.refused(400, "bad-field");
    assert_eq!(problem["field"], "signature");
    assert_eq!(listed(&alice).await, json!([]));
}
