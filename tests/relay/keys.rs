//! The promises of `/api/v1/keys`: registration, links, bundles, rotation, counts, deactivation.

use std::{collections::BTreeSet, time::Duration};

use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    crypto::{b64, opaque, statement, unb64},
    relay::{Backend, on_both_backends},
    socket::Socket,
    wait,
};

on_both_backends! {
    a_registration_answers_with_all_that_a_device_needs,
    a_refused_registration_names_what_is_wrong_and_changes_nothing,
    a_proof_holds_for_one_relay_user_device_and_prekey,
    a_claimed_user_needs_a_link_token_that_fits,
    a_link_token_lives_ten_minutes_and_once,
    a_link_needs_the_word_of_the_calling_device,
    a_bundle_is_signed_and_shows_who_vouched,
    a_onetime_prekey_is_given_once_and_then_the_last_resort_remains,
    bundles_hold_every_device_and_of_oneself_every_other,
    a_rotation_is_taken_in_both_forms,
    a_refused_rotation_names_its_field_as_it_stands_on_the_wire,
    prekeys_are_taken_as_array_and_object_and_again,
    an_upload_is_all_or_nothing,
    a_used_prekey_is_known_but_its_id_never_taken_for_another,
    a_device_checks_its_keys_by_digest,
    stats_tell_when_to_bring_and_to_rotate,
    strangers_see_less_of_a_device_than_its_owner,
    a_deactivated_device_is_shut_out_and_gone,
    a_relinked_device_inherits_nothing,
    a_young_device_cannot_end_an_older_one,
    me_stands_for_the_caller,
    device_numbers_are_used_up_before_they_return,
    racing_registrations_of_a_user_have_one_winner,
    an_owner_hears_when_its_keys_run_low,
}

const ODD_MINUTES: &[(&str, &str)] = &[("ACCESS_TOKEN_TTL_SECONDS", "86400")];

async fn a_registration_answers_with_all_that_a_device_needs(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for (kind, kem) in [(Kind::Ed25519, 0), (Kind::Signal, 1)] {
        let mut device = Device::new(&relay.url(), kind);
        let body = device.registration();
        let answer = device.register(&body).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let told = answer.is(201);
        let expected = json!({
            "user_id": device.user_id, "device_id": "phone", "device_number": 1,
            "registration_id": device.registration_id, "onetime_prekey_count": 50, "kem_prekey_count": kem,
            "token_type": "Bearer", "expires_in": 900, "refresh_expires_in": 7 * 86_400,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(told[name], *value, "{name}");
        }
        assert!(told["created_at"].as_str().unwrap().ends_with('Z'));
        device.get(&device.own("stats")).await.is(200);
    }
}

/// A change to a good registration, and the refusal it deserves.
type Fault = (fn(&mut Device, &mut Value), u16, &'static str, &'static str, Option<u64>);

const FAULTS: &[Fault] = &[
    (|_, body| body["proof"] = json!(b64([7; 64])), 422, "invalid-proof", "proof", None),
    (|_, body| body["proof"] = json!(b64([7; 63])), 422, "invalid-proof", "proof", None),
    (|_, body| drop(body.as_object_mut().unwrap().remove("proof")), 422, "invalid-proof", "proof", None),
    (
        |_, body| body["signed_prekey"]["signature"] = json!(b64([7; 64])),
        422,
        "invalid-signature",
        "signed_prekey",
        None,
    ),
    (|_, body| truncate(body, 49), 422, "too-few-prekeys", "onetime_prekeys", None),
    (
        |device, body| {
            let more = (51..=201).map(|id| device.keys.onetime_prekey(id));
            body["onetime_prekeys"].as_array_mut().unwrap().extend(more);
        },
        422,
        "too-many-prekeys",
        "onetime_prekeys",
        None,
    ),
    (
        |_, body| body["onetime_prekeys"][49]["id"] = json!(1),
        422,
        "duplicate-prekey-id",
        "onetime_prekeys",
        Some(49),
    ),
    (
        |_, body| body["onetime_prekeys"][7]["public_key"] = json!(b64([5; 31])),
        422,
        "invalid-key",
        "onetime_prekeys",
        Some(7),
    ),
    (
        |_, body| body["onetime_prekeys"][3]["id"] = json!(1_i64 << 31),
        422,
        "invalid-key",
        "onetime_prekeys",
        Some(3),
    ),
    (|_, body| body["identity_key"] = json!(b64([1; 31])), 422, "invalid-key", "identity_key", None),
    (|_, body| body["registration_id"] = json!(0), 400, "bad-field", "registration_id", None),
    (|_, body| body["registration_id"] = json!(16_384), 400, "bad-field", "registration_id", None),
    (|_, body| body["device_id"] = json!("me"), 400, "bad-field", "device_id", None),
    (|_, body| body["device_id"] = json!("a/b"), 400, "bad-field", "device_id", None),
];

const SIGNAL_FAULTS: &[Fault] = &[
    (
        |_, body| drop(body.as_object_mut().unwrap().remove("last_resort_kem_prekey")),
        422,
        "kem-required",
        "last_resort_kem_prekey",
        None,
    ),
    (
        |_, body| body["kem_prekeys"][0]["signature"] = json!(b64([7; 64])),
        422,
        "invalid-signature",
        "kem_prekeys",
        Some(0),
    ),
    (
        |_, body| body["last_resort_kem_prekey"]["signature"] = json!(b64([7; 64])),
        422,
        "invalid-signature",
        "last_resort_kem_prekey",
        None,
    ),
    (
        |_, body| {
            let key = body["kem_prekeys"][0].clone();
            body["kem_prekeys"].as_array_mut().unwrap().push(key);
        },
        422,
        "duplicate-prekey-id",
        "kem_prekeys",
        Some(1),
    ),
    (
        |_, body| {
            let mut key = unb64(&body["kem_prekeys"][0]["public_key"]);
            key[0] = 0x05;
            body["kem_prekeys"][0]["public_key"] = json!(b64(key));
        },
        422,
        "invalid-key",
        "kem_prekeys",
        Some(0),
    ),
    (
        |_, body| {
            let mut key = unb64(&body["onetime_prekeys"][9]["public_key"]);
            key[0] = 0x06;
            body["onetime_prekeys"][9]["public_key"] = json!(b64(key));
        },
        422,
        "invalid-key",
        "onetime_prekeys",
        Some(9),
    ),
    (
        // All keys of a device are of one kind.
        |_, body| {
            let key = unb64(&body["onetime_prekeys"][9]["public_key"]);
            body["onetime_prekeys"][9]["public_key"] = json!(b64(&key[1..]));
        },
        422,
        "invalid-key",
        "onetime_prekeys",
        Some(9),
    ),
];

fn truncate(body: &mut Value, length: usize) {
    body["onetime_prekeys"].as_array_mut().unwrap().truncate(length);
}

#[track_caller]
fn names(problem: &Value, field: &str, index: Option<u64>) {
    let named = problem["field"].as_str().unwrap_or_default();
    assert!(named.starts_with(field), "{field} should be named in {problem}");
    assert_eq!(problem["index"].as_u64(), index, "{problem}");
}

async fn a_refused_registration_names_what_is_wrong_and_changes_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for (kind, faults) in [(Kind::Ed25519, FAULTS), (Kind::Signal, FAULTS), (Kind::Signal, SIGNAL_FAULTS)] {
        let mut device = Device::new(&relay.url(), kind);
        let good = device.registration();
        for (spoil, status, code, field, index) in faults {
            let mut body = good.clone();
            spoil(&mut device, &mut body);
            let problem = device.register(&body).await.refused(*status, code);
            names(&problem, field, *index);
        }
        device.register(&good).await.is(201);
    }
}

async fn a_proof_holds_for_one_relay_user_device_and_prekey(backend: &Backend) {
    let relay = backend.relay(&[("RELAY_NAME", "relay.example.org")]).await;
    for kind in [Kind::Ed25519, Kind::Signal] {
        let mut device = Device::new(&relay.url(), kind);
        let mut body = device.registration();
        let signed = body["signed_prekey"].clone();
        let (user, name) = (device.user_id, device.device_id.clone());
        body["proof"] = json!(device.proof("localhost", &signed));
        device.register(&body).await.refused(422, "invalid-proof");
        device.user_id = Uuid::new_v4();
        body["proof"] = json!(device.proof("relay.example.org", &signed));
        device.user_id = user;
        device.register(&body).await.refused(422, "invalid-proof");
        device.device_id = "tablet".into();
        body["proof"] = json!(device.proof("relay.example.org", &signed));
        device.device_id = name;
        device.register(&body).await.refused(422, "invalid-proof");
        let other = device.keys.signed_prekey(2);
        body["proof"] = json!(device.proof("relay.example.org", &other));
        device.register(&body).await.refused(422, "invalid-proof");
        body["proof"] = json!(device.proof("relay.example.org", &signed));
        device.register(&body).await.is(201);
    }
}

async fn a_claimed_user_needs_a_link_token_that_fits(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Signal).await;
    let mut again = Device::of(&relay.url(), phone.user_id, "phone", Kind::Signal);
    let body = again.registration();
    again.register(&body).await.refused(409, "device-exists");

    let mut laptop = Device::of(&relay.url(), phone.user_id, "laptop", Kind::Signal);
    let mut body = laptop.registration();
    laptop.register(&body).await.refused(403, "link-required");
    body["link_token"] = json!("no such token");
    laptop.register(&body).await.refused(403, "link-required");

    let mut other_name = Device::of(&relay.url(), phone.user_id, "watch", Kind::Signal);
    let mut other_body = other_name.registration();
    let token = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    other_body["link_token"] = token.clone();
    other_name.register(&other_body).await.refused(403, "link-required");
    let mut other_key = Device::of(&relay.url(), phone.user_id, "laptop", Kind::Signal);
    let mut other_body = other_key.registration();
    other_body["link_token"] = token.clone();
    other_key.register(&other_body).await.refused(403, "link-required");

    body["link_token"] = token;
    let told = laptop.register(&body).await.is(201);
    assert_eq!(told["device_number"], 2);
}

async fn a_link_token_lives_ten_minutes_and_once(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = Device::of(&relay.url(), phone.user_id, "laptop", Kind::Ed25519);
    let mut body = laptop.registration();

    body["link_token"] = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    clock.advance(Duration::from_secs(601));
    laptop.register(&body).await.refused(403, "link-required");

    body["link_token"] = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    let second = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    laptop.register(&body).await.refused(403, "link-required");
    body["link_token"] = second;
    laptop.register(&body).await.is(201);
    phone.deactivate(&laptop).await.is(200);
    laptop.register(&body).await.refused(403, "link-required");
}

async fn a_link_needs_the_word_of_the_calling_device(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let newcomer = Device::of(&relay.url(), alice.user_id, "laptop", Kind::Signal);
    let path = format!("/api/v1/keys/link/{}", alice.user_id);
    let mut offer = alice.vouch(&newcomer);
    offer["device_id"] = json!("tablet");
    let problem = alice.post(&path, &offer).await.refused(422, "invalid-signature");
    names(&problem, "signature", None);
    bob.post(&path, &alice.vouch(&newcomer)).await.refused(403, "not-you");
    bob.anonymous(Method::POST, &path, Some(&alice.vouch(&newcomer))).await.refused(401, "no-token");
}

async fn a_bundle_is_signed_and_shows_who_vouched(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Signal).await;

    let path = format!("/api/v1/keys/bundle/{}", phone.user_id);
    let answer = bob.get(&path).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let oldest = answer.is(200);
    assert_eq!((&oldest["device_id"], &oldest["linked_by"]), (&json!("phone"), &Value::Null));
    assert_eq!((&oldest["kem_prekey"], &oldest["kem_prekey_id"]), (&Value::Null, &Value::Null));
    assert!(oldest["onetime_prekey_id"].is_u64() && oldest["onetime_prekey"].is_string());

    let linked = bob.bundle(&laptop).await.is(200);
    assert_eq!(linked["device_number"], 2);
    assert_eq!(linked["registration_id"], laptop.registration_id);
    assert_eq!(unb64(&linked["identity_key"]), laptop.keys.identity());
    verify(&laptop.keys.identity(), &unb64(&linked["signed_prekey"]), &linked["signed_prekey_signature"]);
    let by = &linked["linked_by"];
    assert_eq!((&by["device_id"], unb64(&by["identity_key"])), (&json!("phone"), phone.keys.identity()));
    let user = phone.user_id.to_string();
    let word = statement(&[b"restante-link-v1", user.as_bytes(), b"laptop", &unb64(&linked["identity_key"])]);
    verify(&phone.keys.identity(), &word, &by["signature"]);

    bob.get(&format!("{path}?device_id=watch")).await.refused(404, "not-found");
    bob.get(&format!("/api/v1/keys/bundle/{}", Uuid::new_v4())).await.refused(404, "not-found");
    bob.anonymous(Method::GET, &path, None).await.refused(401, "no-token");
}

fn verify(identity: &[u8], message: &[u8], signature: &Value) {
    let key = VerifyingKey::from_bytes(identity.try_into().unwrap()).unwrap();
    key.verify_strict(message, &Signature::from_slice(&unb64(signature)).unwrap()).unwrap();
}

async fn a_onetime_prekey_is_given_once_and_then_the_last_resort_remains(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Signal).await;
    let mut bob = Device::registered(&relay, Kind::Signal).await;
    let fetches = futures_util::future::join_all((0..50).map(|_| bob.bundle(&alice))).await;
    let bundles: Vec<_> = fetches.into_iter().map(|fetch| fetch.is(200)).collect();
    let ids: BTreeSet<_> = bundles.iter().map(|bundle| bundle["onetime_prekey_id"].as_u64()).collect();
    assert_eq!(ids, (1..=50).map(Some).collect());
    let kem: Vec<_> = bundles.iter().filter(|bundle| bundle["kem_prekey_id"] == 1).collect();
    assert_eq!(kem.len(), 1, "the one-time KEM pre-key went once");

    let last = bob.bundle(&alice).await.is(200);
    assert_eq!((&last["onetime_prekey_id"], &last["onetime_prekey"]), (&Value::Null, &Value::Null));
    assert_eq!(last["kem_prekey_id"], 1000);
    bob.keys.open_session(&last);
}

async fn bundles_hold_every_device_and_of_oneself_every_other(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let devices = |answer: Value| -> Vec<String> {
        let bundles = answer["bundles"].as_array().unwrap().clone();
        bundles.iter().map(|bundle| bundle["device_id"].as_str().unwrap().to_owned()).collect()
    };
    let laptop = phone.linked("laptop").await;
    assert_eq!(devices(bob.bundles(phone.user_id).await.is(200)), ["phone", "laptop"]);
    assert_eq!(devices(laptop.bundles(phone.user_id).await.is(200)), ["phone"]);
    bob.bundles(Uuid::new_v4()).await.refused(404, "not-found");
    assert!(devices(bob.bundles(bob.user_id).await.is(200)).is_empty(), "no sibling is no fault");
}

async fn a_rotation_is_taken_in_both_forms(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let flat = alice.keys.signed_prekey(2);
    let told = alice.put(&alice.own("rotate"), Some(&flat)).await.is(200);
    assert_eq!(told["success"], true);
    assert!(told["rotated_at"].is_string());
    let bundle = bob.bundle(&alice).await.is(200);
    assert_eq!((&bundle["signed_prekey_id"], &bundle["signed_prekey"]), (&json!(2), &flat["public_key"]));

    let nested = json!({
        "new_signed_prekey": alice.keys.signed_prekey(3),
        "new_onetime_prekeys": [alice.keys.onetime_prekey(51)],
        "new_last_resort_kem_prekey": alice.keys.kem_prekey(1001),
    });
    alice.put(&alice.own("rotate"), Some(&nested)).await.is(200);
    let stats = alice.get(&alice.own("stats")).await.is(200);
    assert_eq!((&stats["total_prekeys"], &stats["unused_prekeys"]), (&json!(51), &json!(50)));
    let bundle = bob.bundle(&alice).await.is(200);
    assert_eq!(bundle["signed_prekey_id"], 3);
    assert_eq!(bundle["kem_prekey_id"], 1001, "the one-time KEM pre-key went with the first bundle");

    let stranger = alice.keys.signed_prekey(9);
    bob.put(&alice.own("rotate"), Some(&stranger)).await.refused(403, "not-you");
}

async fn a_refused_rotation_names_its_field_as_it_stands_on_the_wire(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let mut forged = alice.keys.signed_prekey(2);
    forged["signature"] = json!(b64([9; 64]));
    let path = alice.own("rotate");
    let problem = alice.put(&path, Some(&forged)).await.refused(422, "invalid-signature");
    names(&problem, "signature", None);
    let body = json!({ "new_signed_prekey": forged });
    let problem = alice.put(&path, Some(&body)).await.refused(422, "invalid-signature");
    names(&problem, "new_signed_prekey", None);
    let mut onetime = alice.keys.onetime_prekey(60);
    onetime["public_key"] = json!(b64([0; 33]));
    let body = json!({ "new_signed_prekey": alice.keys.signed_prekey(3), "new_onetime_prekeys": [onetime] });
    let problem = alice.put(&path, Some(&body)).await.refused(422, "invalid-key");
    names(&problem, "new_onetime_prekeys", Some(0));
    alice.put(&path, Some(&json!({}))).await.refused(400, "bad-field");
    let bundle = alice.bundle(&alice).await.is(200);
    assert_eq!(bundle["signed_prekey_id"], 1, "a refusal changes nothing");
}

fn counts(answer: &Value) -> [u64; 4] {
    ["accepted", "already_known", "onetime_prekey_count", "kem_prekey_count"]
        .map(|name| answer[name].as_u64().unwrap())
}

async fn prekeys_are_taken_as_array_and_object_and_again(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let path = alice.own("prekeys");
    let array = json!([alice.keys.onetime_prekey(51), alice.keys.onetime_prekey(52)]);
    assert_eq!(counts(&alice.post(&path, &array).await.is(200)), [2, 0, 52, 1]);
    assert_eq!(counts(&alice.post(&path, &array).await.is(200)), [0, 2, 52, 1]);
    let object = json!({
        "onetime_prekeys": [alice.keys.onetime_prekey(53), array[0]],
        "kem_prekeys": [alice.keys.kem_prekey(2)],
        "last_resort_kem_prekey": alice.keys.kem_prekey(1001),
    });
    let told = counts(&alice.post(&path, &object).await.is(200));
    assert_eq!((told[1], told[2], told[3]), (1, 53, 2));
    assert_eq!(alice.post(&path, &object).await.is(200)["accepted"], 0);
    assert_eq!(counts(&alice.post(&path, &json!([])).await.is(200)), [0, 0, 53, 2]);
}

async fn an_upload_is_all_or_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let path = alice.own("prekeys");
    let mut clash = alice.keys.onetime_prekey(51);
    clash["id"] = json!(50);
    let body = json!([alice.keys.onetime_prekey(60), clash]);
    let problem = alice.post(&path, &body).await.refused(422, "prekey-reused");
    names(&problem, "onetime_prekeys", Some(1));
    let too_many: Vec<_> = (100..=250).map(|id| alice.keys.onetime_prekey(id)).collect();
    let problem = alice.post(&path, &json!(too_many)).await.refused(422, "too-many-prekeys");
    names(&problem, "onetime_prekeys", None);
    let twice = alice.keys.onetime_prekey(70);
    let problem = alice.post(&path, &json!([twice, twice])).await.refused(422, "duplicate-prekey-id");
    names(&problem, "onetime_prekeys", Some(1));
    let stats = alice.get(&alice.own("stats")).await.is(200);
    assert_eq!((&stats["unused_prekeys"], &stats["total_prekeys"]), (&json!(50), &json!(50)));
}

async fn a_used_prekey_is_known_but_its_id_never_taken_for_another(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::new(&relay.url(), Kind::Ed25519);
    let body = alice.registration();
    alice.register(&body).await.is(201);
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let used = bob.bundle(&alice).await.is(200)["onetime_prekey_id"].as_u64().unwrap();
    let index = usize::try_from(used).unwrap() - 1;
    let path = alice.own("prekeys");
    let again = json!([body["onetime_prekeys"][index]]);
    let told = alice.post(&path, &again).await.is(200);
    assert_eq!(counts(&told), [0, 1, 49, 0], "known, and not brought back");
    let mut other = alice.keys.onetime_prekey(99);
    other["id"] = json!(used);
    alice.post(&path, &json!([other])).await.refused(422, "prekey-reused");
    let mut renamed = body["onetime_prekeys"][index].clone();
    renamed["id"] = json!(98);
    alice.post(&path, &json!([renamed])).await.refused(422, "prekey-reused");
}

async fn a_device_checks_its_keys_by_digest(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in [Kind::Ed25519, Kind::Signal] {
        let mut alice = Device::new(&relay.url(), kind);
        let body = alice.registration();
        alice.register(&body).await.is(201);
        let mut digest = Sha256::new();
        digest.update(alice.keys.identity());
        for key in ["signed_prekey", "last_resort_kem_prekey"] {
            if body[key].is_object() {
                digest.update(body[key]["id"].as_u64().unwrap().to_be_bytes());
                digest.update(unb64(&body[key]["public_key"]));
            }
        }
        let path = alice.own("check");
        alice.post(&path, &json!({ "digest": b64(digest.finalize()) })).await.is(200);
        alice.post(&path, &json!({ "digest": b64([0; 32]) })).await.refused(409, "keys-differ");
    }
}

async fn stats_tell_when_to_bring_and_to_rotate(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(ODD_MINUTES).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let fresh = alice.get(&alice.own("stats")).await.is(200);
    let expected = json!({
        "unused_prekeys": 50, "total_prekeys": 50, "used_prekeys": 0, "kem_prekeys": 1,
        "low": false, "signed_prekey_age_days": 0, "rotation_due": false,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(fresh[name], *value, "{name}");
    }
    for _ in 0..31 {
        bob.bundle(&alice).await.is(200);
    }
    let told = alice.get(&alice.own("stats")).await.is(200);
    assert_eq!((&told["unused_prekeys"], &told["used_prekeys"]), (&json!(19), &json!(31)));
    assert_eq!((&told["low"], &told["kem_prekeys"]), (&json!(true), &json!(0)));
    bob.get(&alice.own("stats")).await.refused(403, "not-you");

    clock.advance(Duration::from_hours(23));
    let signed = alice.keys.signed_prekey(2);
    alice.put(&alice.own("rotate"), Some(&signed)).await.is(200);
    assert_eq!(alice.get(&alice.own("stats")).await.is(200)["signed_prekey_age_days"], 0);
}

async fn strangers_see_less_of_a_device_than_its_owner(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut phone = Device::new(&relay.url(), Kind::Ed25519);
    let mut body = phone.registration();
    body["device_name"] = json!("Alice's phone");
    phone.register(&body).await.is(201);
    phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let path = format!("/api/v1/keys/devices/{}", phone.user_id);
    let own = phone.get(&path).await.is(200);
    assert_eq!(own["count"], 2);
    assert_eq!(own["devices"][0]["device_name"], "Alice's phone");
    let last_seen = own["devices"][0]["last_seen"].as_str().unwrap();
    assert!(last_seen.ends_with("T00:00:00.000Z"), "by the day: {last_seen}");
    let foreign = bob.get(&path).await.is(200);
    for name in ["device_name", "created_at", "last_seen"] {
        assert!(foreign["devices"][0].get(name).is_none(), "{name}");
    }
    assert_eq!(foreign["devices"][1]["linked_by"]["device_id"], "phone");
    let nobody = bob.get(&format!("/api/v1/keys/devices/{}", Uuid::new_v4())).await.is(200);
    assert_eq!(nobody["count"], 0);
}

async fn a_deactivated_device_is_shut_out_and_gone(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    bob.send_opaque(phone.user_id).await;
    let mut socket = Socket::open(&laptop).await;
    phone.deactivate(&laptop).await.is(200);
    assert_eq!(socket.closed().await, Some(4403));
    laptop.get(&laptop.own("stats")).await.refused(401, "bad-token");
    laptop.queue("").await.refused(401, "bad-token");
    laptop.send(&opaque_send(bob.user_id)).await.refused(401, "bad-token");
    assert!(
        Socket::connect(&laptop, crate::support::socket::Format::Json, crate::support::socket::Door::Header)
            .await
            .is_err()
    );
    bob.bundle(&laptop).await.refused(404, "not-found");
    let devices = bob.get(&format!("/api/v1/keys/devices/{}", phone.user_id)).await.is(200);
    assert_eq!(devices["count"], 1);
    assert_eq!(phone.mailbox().await.len(), 1, "the other device keeps its own");
    phone.deactivate(&laptop).await.refused(404, "not-found");
}

async fn a_relinked_device_inherits_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Signal).await;
    let old = phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    bob.send_opaque(phone.user_id).await;
    assert_eq!(old.mailbox().await.len(), 1);
    bob.bundle(&old).await.is(200);
    phone.deactivate(&old).await.is(200);

    let new = phone.linked("laptop").await;
    assert_eq!(new.device_number, 3, "the lowest number that was never used");
    assert!(new.mailbox().await.is_empty());
    let stats = new.get(&new.own("stats")).await.is(200);
    assert_eq!((&stats["unused_prekeys"], &stats["total_prekeys"]), (&json!(50), &json!(50)));
    assert_eq!(unb64(&bob.bundle(&new).await.is(200)["identity_key"]), new.keys.identity());
    old.queue("").await.refused(401, "bad-token");
    bob.send_opaque(phone.user_id).await;
    assert_eq!(new.mailbox().await.len(), 1);
}

async fn a_young_device_cannot_end_an_older_one(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    laptop.deactivate(&phone).await.refused(403, "not-allowed");
    bob.deactivate(&phone).await.refused(403, "not-you");
    phone.get(&phone.own("stats")).await.is(200);
    laptop.deactivate(&laptop).await.is(200);
    phone.deactivate(&phone).await.is(200);
    let mut back = Device::of(&relay.url(), phone.user_id, "phone", Kind::Ed25519);
    let body = back.registration();
    back.register(&body).await.refused(403, "link-required");
}

async fn me_stands_for_the_caller(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    alice.get("/api/v1/keys/stats/me/me").await.is(200);
    alice.get("/api/v1/messages/queue/me/me").await.is(200);
    let devices = alice.get("/api/v1/keys/devices/me").await.is(200);
    assert!(devices["devices"][0]["created_at"].is_string());
    let send = json!({ "recipient_id": alice.user_id, "ciphertext": b64(opaque(40)) });
    alice.post("/api/v1/messages/send/me", &send).await.is(201);
    let answer: Answer = alice.anonymous(Method::GET, "/api/v1/keys/stats/me/me", None).await;
    answer.refused(401, "no-token");
    alice.delete("/api/v1/keys/deactivate/me/me", None).await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_every_node_within_a_second() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let phone = Device::registered(&nodes[0], Kind::Ed25519).await;
    let mut laptop = phone.linked("laptop").await;
    laptop.base = nodes[1].url();
    laptop.get(&laptop.own("stats")).await.is(200);
    let mut socket = Socket::open(&laptop).await;
    phone.deactivate(&laptop).await.is(200);
    wait::until(Duration::from_millis(1500), "the other node refuses the token", async || {
        laptop.get(&laptop.own("stats")).await.status == 401
    })
    .await;
    assert_eq!(socket.closed().await, Some(4403));
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_never_give_the_same_prekey() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Device::registered(&nodes[0], Kind::Ed25519).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let mut carol = Device::registered(&nodes[1], Kind::Ed25519).await;
    carol.base = nodes[1].url();
    let fetches =
        (0..25).flat_map(|_| [&bob, &carol]).map(async |from: &Device| from.bundle(&alice).await.is(200));
    let bundles = futures_util::future::join_all(fetches).await;
    let ids: BTreeSet<_> = bundles.iter().filter_map(|bundle| bundle["onetime_prekey_id"].as_u64()).collect();
    assert_eq!(ids.len(), 50);
    backend.finish().await;
}

async fn device_numbers_are_used_up_before_they_return(backend: &Backend) {
    let relay = backend.relay(&[("MAX_DEVICES", "3")]).await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = phone.linked("laptop").await;
    let tablet = phone.linked("tablet").await;
    assert_eq!((laptop.device_number, tablet.device_number), (2, 3));
    let mut watch = Device::of(&relay.url(), phone.user_id, "watch", Kind::Ed25519);
    let mut body = watch.registration();
    body["link_token"] = phone.vouch_for(&watch).await.is(201)["link_token"].clone();
    watch.register(&body).await.refused(409, "too-many-devices");
    phone.deactivate(&laptop).await.is(200);
    let watch = phone.linked("watch").await;
    assert_eq!(watch.device_number, 4, "2 was used before");
}

async fn racing_registrations_of_a_user_have_one_winner(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let user = Uuid::new_v4();
    let register = async |device: &str| {
        let mut device = Device::of(&relay.url(), user, device, Kind::Ed25519);
        let body = device.registration();
        device.register(&body).await
    };
    let names = ["one", "two", "three", "four", "five", "six"];
    let answers = futures_util::future::join_all(names.map(register)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{answers:?}");
    assert!(
        answers.iter().all(|answer| answer.status == 201 || answer.code() == "link-required"),
        "{answers:?}"
    );
}

async fn an_owner_hears_when_its_keys_run_low(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    bob.bundle(&alice).await.is(200);
    let mut socket = Socket::open(&alice).await;
    bob.bundle(&alice).await.is(200);
    let told = socket.expect("keys_low").await;
    assert_eq!((&told["last_resort_used"], &told["kem_prekeys"]), (&json!(true), &json!(0)));
    for _ in 0..29 {
        bob.bundle(&alice).await.is(200);
    }
    socket.expect_where("keys_low", |frame| frame["onetime_prekeys"] == 19).await;
}
