//! Linking: one device vouches for one newcomer and one key of it, and everybody can see that for ever.

use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use libsignal_protocol::IdentityKey;
use serde_json::{Value, json};

use super::{a_second_less_than, bent};
use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, statement, unb64},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_link_token_is_for_one_device_and_one_key,
    a_link_token_works_once,
    a_link_token_ends_after_ten_minutes,
    a_refused_registration_uses_no_link_token_up,
    a_newer_link_token_replaces_the_older,
    a_deactivated_device_vouches_for_nobody,
    a_vouching_that_does_not_verify_gives_no_token,
    the_chain_verifies_for_ever,
    a_fresh_device_ends_no_older_one,
}

const BOTH: [Kind; 2] = [Kind::Ed25519, Kind::Signal];

fn newcomer(of: &Device, device_id: &str) -> Device {
    Device::of(&of.base, of.user_id, device_id, of.kind)
}

async fn comes_with(newcomer: &mut Device, token: &Value) -> Answer {
    let mut body = newcomer.registration();
    body["link_token"] = token.clone();
    newcomer.register(&body).await
}

async fn token_for(by: &Device, newcomer: &Device) -> Value {
    let answer = by.vouch_for(newcomer).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.is(201)["link_token"].clone()
}

async fn a_link_token_is_for_one_device_and_one_key(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let alice = Device::registered(&relay, kind).await;
        let bob = Device::registered(&relay, kind).await;
        let mut laptop = newcomer(&alice, "laptop");
        let token = token_for(&alice, &laptop).await;
        let mut other_key = newcomer(&alice, "laptop");
        let mut other_id = newcomer(&alice, "tablet");
        // A newcomer of its id has other keys, and one with its keys another id.
        comes_with(&mut other_key, &token).await.refused(403, "link-required");
        comes_with(&mut other_id, &token).await.refused(403, "link-required");
        std::mem::swap(&mut laptop.keys, &mut other_id.keys);
        comes_with(&mut other_id, &token).await.refused(403, "link-required");
        std::mem::swap(&mut laptop.keys, &mut other_id.keys);
        let mut of_bob = newcomer(&bob, "laptop");
        comes_with(&mut of_bob, &token).await.refused(403, "link-required");
        let text = token.as_str().unwrap();
        let garbage = [
            String::new(),
            "garbage".to_owned(),
            text[..text.len() - 1].to_owned(),
            format!("{text}A"),
            bent(text, 0),
            alice.refresh_token.clone(),
        ];
        for token in garbage {
            let answer = comes_with(&mut laptop, &json!(token)).await;
            assert!(
                matches!((answer.status, answer.code()), (403, "link-required") | (400, "bad-field")),
                "{answer:?}"
            );
        }
        comes_with(&mut laptop, &json!(null)).await.refused(403, "link-required");
        comes_with(&mut laptop, &token).await.is(201);
        laptop.is_alive().await;
        let seen = bob.get(&format!("/api/v1/keys/devices/{}", alice.user_id)).await.is(200);
        assert_eq!(seen["count"], 2);
    }
}

async fn a_link_token_works_once(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = newcomer(&alice, "laptop");
    let token = token_for(&alice, &laptop).await;
    let mut body = laptop.registration();
    body["link_token"] = token.clone();
    laptop.register(&body).await.is(201);
    laptop.register(&body).await.refused(409, "device-exists");
    alice.deactivate(&laptop).await.is(200);
    comes_with(&mut laptop, &token).await.refused(403, "link-required");
    let again = token_for(&alice, &laptop).await;
    comes_with(&mut laptop, &again).await.is(201);
}

async fn a_link_token_ends_after_ten_minutes(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let (mut laptop, mut tablet) = (newcomer(&alice, "laptop"), newcomer(&alice, "tablet"));
    let token = token_for(&alice, &laptop).await;
    clock.advance(Duration::from_millis(599_999));
    comes_with(&mut laptop, &token).await.is(201);
    let token = token_for(&alice, &tablet).await;
    clock.advance(Duration::from_mins(10));
    comes_with(&mut tablet, &token).await.refused(403, "link-required");
    let mut alice = alice;
    alice.refresh().await;
    let token = token_for(&alice, &tablet).await;
    comes_with(&mut tablet, &token).await.is(201);
}

async fn a_refused_registration_uses_no_link_token_up(backend: &Backend) {
    let relay = backend.relay(&[("MAX_DEVICES", "2")]).await;
    for kind in BOTH {
        let alice = Device::registered(&relay, kind).await;
        let tablet = alice.linked("tablet").await;
        let mut laptop = newcomer(&alice, "laptop");
        let token = token_for(&alice, &laptop).await;
        let mut good = laptop.registration();
        good["link_token"] = token;
        laptop.register(&good).await.refused(409, "too-many-devices");
        alice.deactivate(&tablet).await.is(200);
        let few = json!(good["onetime_prekeys"].as_array().unwrap()[..49]);
        for (field, value, status, code) in [
            ("proof", json!(b64([0; 64])), 422, "invalid-proof"),
            ("onetime_prekeys", few, 422, "too-few-prekeys"),
            ("registration_id", json!(0), 400, "bad-field"),
            ("surprise", json!(1), 400, "bad-field"),
        ] {
            let mut body = good.clone();
            body[field] = value;
            laptop.register(&body).await.refused(status, code);
        }
        laptop.register(&good).await.is(201);
        laptop.is_alive().await;
    }
}

async fn a_newer_link_token_replaces_the_older(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let (mut laptop, mut tablet) = (newcomer(&alice, "laptop"), newcomer(&alice, "tablet"));
    let first = token_for(&alice, &laptop).await;
    let second = token_for(&alice, &laptop).await;
    comes_with(&mut laptop, &first).await.refused(403, "link-required");
    let for_tablet = token_for(&alice, &tablet).await;
    comes_with(&mut laptop, &second).await.refused(403, "link-required");
    comes_with(&mut tablet, &for_tablet).await.is(201);
    // One of the user's, not of each device's.
    let by_alice = token_for(&alice, &laptop).await;
    let watch = newcomer(&alice, "watch");
    token_for(&tablet, &watch).await;
    comes_with(&mut laptop, &by_alice).await.refused(403, "link-required");
}

async fn a_deactivated_device_vouches_for_nobody(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = alice.linked("laptop").await;
    let mut tablet = newcomer(&alice, "tablet");
    let token = token_for(&laptop, &tablet).await;
    alice.deactivate(&laptop).await.is(200);
    comes_with(&mut tablet, &token).await.refused(403, "link-required");
    laptop.vouch_for(&tablet).await.refused(401, "bad-token");
    let token = token_for(&alice, &tablet).await;
    comes_with(&mut tablet, &token).await.is(201);
}

async fn a_vouching_that_does_not_verify_gives_no_token(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let alice = Device::registered(&relay, kind).await;
        let bob = Device::registered(&relay, kind).await;
        let (mut laptop, tablet) = (newcomer(&alice, "laptop"), newcomer(&alice, "tablet"));
        let good = token_for(&alice, &laptop).await;
        let vouched = alice.vouch(&laptop);
        let foreign = Device::of(&relay.url(), bob.user_id, "laptop", kind);
        let wrong = [
            ("by another user", bob.vouch(&laptop)["signature"].clone()),
            ("by the newcomer itself", laptop.vouch(&laptop)["signature"].clone()),
            ("over another device", alice.vouch(&tablet)["signature"].clone()),
            ("over a device of another user", bob.vouch(&foreign)["signature"].clone()),
            ("of zeros", json!(b64([0; 64]))),
            ("too short", json!(b64([1; 63]))),
        ];
        for (name, signature) in wrong {
            let mut body = vouched.clone();
            body["signature"] = signature;
            let answer = alice.post("/api/v1/keys/link/me", &body).await;
            assert_eq!((answer.status, answer.code()), (422, "invalid-signature"), "{name}: {answer:?}");
        }
        bob.post(&format!("/api/v1/keys/link/{}", alice.user_id), &vouched).await.refused(403, "not-you");
        comes_with(&mut laptop, &good).await.is(201);
    }
}

/// Whether an identity key made this signature.
fn verifies(identity: &[u8], statement: &[u8], signature: &[u8]) -> bool {
    if identity.len() == 33 {
        let key = IdentityKey::decode(identity).unwrap();
        return key.public_key().verify_signature(statement, signature);
    }
    let key = VerifyingKey::from_bytes(identity.try_into().unwrap()).unwrap();
    key.verify_strict(statement, &Signature::from_slice(signature).unwrap()).is_ok()
}

/// That `linked_by` in what everybody sees of a device names its linker and verifies by the linker's key.
fn is_vouched_for(seen: &Value, newcomer: &Device, linker: &Device) {
    let link = &seen["linked_by"];
    assert_eq!(link["device_id"], linker.device_id, "{seen}");
    assert_eq!(unb64(&link["identity_key"]), linker.keys.identity());
    assert_eq!(unb64(&seen["identity_key"]), newcomer.keys.identity());
    let (user, identity) = (newcomer.user_id.to_string(), newcomer.keys.identity());
    let parts = [b"restante-link-v1", user.as_bytes(), newcomer.device_id.as_bytes(), &identity];
    assert!(verifies(&linker.keys.identity(), &statement(&parts), &unb64(&link["signature"])));
}

async fn everybody_sees_the_chain(bob: &Device, newcomer: &Device, linker: &Device) {
    let seen = bob.get(&format!("/api/v1/keys/devices/{}", newcomer.user_id)).await.is(200);
    let devices = seen["devices"].as_array().unwrap();
    let device = devices.iter().find(|device| device["device_id"] == newcomer.device_id).unwrap();
    is_vouched_for(device, newcomer, linker);
    is_vouched_for(&bob.bundle(newcomer).await.is(200), newcomer, linker);
    let bundles = bob.bundles(newcomer.user_id).await.is(200);
    let bundles = bundles["bundles"].as_array().unwrap();
    let bundle = bundles.iter().find(|bundle| bundle["device_id"] == newcomer.device_id).unwrap();
    is_vouched_for(bundle, newcomer, linker);
}

async fn the_chain_verifies_for_ever(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let bob = Device::registered(&relay, kind).await;
        let phone = Device::registered(&relay, kind).await;
        let laptop = phone.linked("laptop").await;
        let tablet = laptop.linked("tablet").await;
        assert_eq!(bob.bundle(&phone).await.is(200)["linked_by"], Value::Null);
        everybody_sees_the_chain(&bob, &laptop, &phone).await;
        everybody_sees_the_chain(&bob, &tablet, &laptop).await;
        phone.deactivate(&laptop).await.is(200);
        phone.linked("laptop").await;
        everybody_sees_the_chain(&bob, &tablet, &laptop).await;
        phone.deactivate(&phone).await.is(200);
        everybody_sees_the_chain(&bob, &tablet, &laptop).await;
    }
}

async fn a_fresh_device_ends_no_older_one(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = phone.linked("laptop").await;
    laptop.deactivate(&phone).await.refused(403, "not-allowed");
    phone.is_alive().await;
    clock.advance(a_second_less_than(Duration::from_hours(24)));
    laptop.refresh().await;
    laptop.deactivate(&phone).await.refused(403, "not-allowed");
    let tablet = laptop.linked("tablet").await;
    clock.advance(Duration::from_secs(2));
    tablet.deactivate(&laptop).await.refused(403, "not-allowed");
    laptop.deactivate(&tablet).await.is(200);
    laptop.deactivate(&phone).await.is(200);
    phone.show(&phone.refresh_token).await.refused(401, "bad-token");
    laptop.is_alive().await;
    let seen = laptop.get("/api/v1/keys/devices/me").await.is(200);
    assert_eq!(seen["count"], 1);
}
