//! Key packages come: all or nothing, once, and only what others can use.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Mls, identity, key_body, today, upload};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    mothers::DAY,
    packages::{Hand, HandKey, MlsKey},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    packages_are_kept_counted_and_known_again,
    a_registration_brings_keys_and_packages,
    a_refused_registration_names_the_package_and_claims_nothing,
    a_refused_upload_names_the_package_and_changes_nothing,
    a_package_that_was_used_is_known_and_not_taken_again,
    no_two_packages_share_an_init_key,
    a_package_needs_the_signature_key_of_its_device,
    a_device_keeps_so_many_packages_and_no_more,
    a_last_resort_package_takes_the_place_of_the_former,
    nobody_brings_packages_for_another,
    bodies_that_are_none_are_refused,
}

async fn packages_are_kept_counted_and_known_again(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for (kind, suite) in [(Kind::Ed25519, 1), (Kind::Signal, 2), (Kind::Ed25519, 3)] {
        let alice = Mls::with_key(Device::registered(&relay, kind).await, suite).await;
        let (packages, last_resort) = (alice.packages(3), alice.last_resort());
        let none = alice.upload(&[], None).await.is(200);
        let expected =
            json!({ "accepted": 0, "already_known": 0, "key_package_count": 0, "has_last_resort": false });
        assert_eq!(none, expected);
        let kept = alice.upload(&packages, Some(&last_resort)).await.is(200);
        let expected =
            json!({ "accepted": 4, "already_known": 0, "key_package_count": 3, "has_last_resort": true });
        assert_eq!(kept, expected);
        let again = alice.upload(&packages, Some(&last_resort)).await.is(200);
        let expected =
            json!({ "accepted": 0, "already_known": 4, "key_package_count": 3, "has_last_resort": true });
        assert_eq!(again, expected);
        let more = alice.upload(&[packages[1].clone(), alice.package()], None).await.is(200);
        assert_eq!((&more["accepted"], &more["already_known"]), (&json!(1), &json!(1)));
        assert_eq!(alice.count().await, 4);
    }
}

/// A registration with a signature key, two packages and a last-resort one.
fn registration(device: &mut Device, key: &MlsKey) -> Value {
    let (identity, now) = (identity(device), today());
    let mut body = device.registration();
    body["mls_signature_keys"] = json!([key_body(device, key.scheme(), &key.public)]);
    body["key_packages"] = json!([b64(key.package(&identity, now)), b64(key.package(&identity, now))]);
    body["last_resort_key_package"] = json!(b64(key.last_resort(&identity, now)));
    body
}

async fn a_registration_brings_keys_and_packages(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut device, key) = (Device::new(&relay.url(), Kind::Signal), MlsKey::fresh(1));
    let body = registration(&mut device, &key);
    assert_eq!(device.register(&body).await.is(201)["key_package_count"], 2);
    let alice = Mls { device, key };
    assert_eq!(alice.count().await, 2);
    let listed = alice.device.get("/api/v1/keys/devices/me").await.is(200);
    assert_eq!(listed["devices"][0]["mls_signature_keys"], body["mls_signature_keys"]);
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let seen = bob.get(&format!("/api/v1/keys/devices/{}", alice.device.user_id)).await.is(200);
    assert_eq!(seen["devices"][0]["mls_signature_keys"], body["mls_signature_keys"]);
    assert_eq!(seen["devices"][0].get("device_name"), None);
    let claimed = alice.claimed_by(&bob).await.is(200);
    assert_eq!(claimed["key_packages"][0]["key_package"], body["key_packages"][0]);
    // A device without MLS says so by an empty list.
    let seen = alice.device.get(&format!("/api/v1/keys/devices/{}", bob.user_id)).await.is(200);
    assert_eq!(seen["devices"][0]["mls_signature_keys"], json!([]));
}

/// A change to a good registration, and the refusal it deserves.
type Fault = (fn(&mut Value), &'static str, &'static str);

const REGISTRATION_FAULTS: &[Fault] = &[
    (|body| body["key_packages"][1] = json!(b64([7; 300])), "invalid-key-package", "key_packages[1]"),
    (
        |body| body["last_resort_key_package"] = body["key_packages"][0].clone(),
        "invalid-key-package",
        "last_resort_key_package",
    ),
    (|body| body["key_packages"][1] = body["key_packages"][0].clone(), "package-reused", "key_packages[1]"),
    (|body| body["mls_signature_keys"] = json!([]), "unknown-signature-key", "key_packages[0]"),
    (
        |body| {
            body["mls_signature_keys"] = json!([]);
            body["key_packages"] = json!([]);
        },
        "unknown-signature-key",
        "last_resort_key_package",
    ),
    (
        |body| body["mls_signature_keys"][0]["signature"] = json!(b64([7; 64])),
        "invalid-signature",
        "mls_signature_keys[0].signature",
    ),
    (
        |body| body["mls_signature_keys"][0]["scheme"] = json!(2056),
        "invalid-key",
        "mls_signature_keys[0].scheme",
    ),
    (
        |body| body["mls_signature_keys"][0]["public_key"] = json!(b64([0; 32])),
        "invalid-key",
        "mls_signature_keys[0].public_key",
    ),
    (
        |body| {
            let key = body["mls_signature_keys"][0].clone();
            body["mls_signature_keys"] = json!([key, key]);
        },
        "invalid-key",
        "mls_signature_keys[1].scheme",
    ),
];

async fn a_refused_registration_names_the_package_and_claims_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut device, key) = (Device::new(&relay.url(), Kind::Ed25519), MlsKey::fresh(1));
    let good = registration(&mut device, &key);
    for (change, code, field) in REGISTRATION_FAULTS {
        let mut body = good.clone();
        change(&mut body);
        let problem = device.register(&body).await.refused(422, code);
        assert_eq!(problem["field"], *field, "{problem}");
    }
    device.register(&good).await.is(201);
    let mut other = Device::new(&relay.url(), Kind::Ed25519);
    let mut body = registration(&mut other, &MlsKey::fresh(1));
    body["mls_signature_keys"] = json!([key_body(&other, key.scheme(), &key.public)]);
    body["key_packages"] = json!([]);
    body["last_resort_key_package"] = json!(null);
    let problem = other.register(&body).await.refused(422, "signature-key-reused");
    assert_eq!((&problem["field"], &problem["index"]), (&json!("mls_signature_keys[0]"), &json!(0)));
}

async fn a_refused_upload_names_the_package_and_changes_nothing(backend: &Backend) {
    let relay = backend.relay(&[("MLS_CIPHER_SUITES", "1,2")]).await;
    let alice = Mls::registered(&relay, 1).await;
    let (good, now) = (alice.package(), today());
    let other_suite = MlsKey::fresh(3).package(&alice.identity(), now);
    let stranger = alice.key.package(&format!("{}:tablet", alice.device.user_id), now);
    let ended = alice.key.package(&alice.identity(), now.minus(31 * DAY));
    let long = alice.key.package_for(&alice.identity(), now, 365 * DAY);
    let mut torn = alice.package();
    torn.pop();
    let mut forged = alice.package();
    *forged.last_mut().unwrap() ^= 1;
    let faults = [
        (torn, "malformed"),
        (forged, "signature"),
        (other_suite, "cipher-suite"),
        (stranger, "credential"),
        (ended, "not-now"),
        (long, "lives-too-long"),
        (alice.last_resort(), "is-last-resort"),
        (vec![7; 5000], "too-large"),
        (Vec::new(), "malformed"),
    ];
    for (package, reason) in faults {
        let problem = alice.upload(&[good.clone(), package], None).await.refused(422, "invalid-key-package");
        assert_eq!((&problem["reason"], &problem["index"]), (&json!(reason), &json!(1)), "{problem}");
        assert_eq!(problem["field"], "key_packages[1]");
    }
    let problem = alice.upload(&[], Some(&good)).await.refused(422, "invalid-key-package");
    assert_eq!((&problem["reason"], &problem["field"]), (&json!("not-last-resort"), &json!("last_resort")));
    assert_eq!(alice.count().await, 0);
    assert_eq!(alice.upload(&[good], None).await.is(200)["accepted"], 1);
}

async fn a_package_that_was_used_is_known_and_not_taken_again(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let package = alice.package();
    alice.upload(std::slice::from_ref(&package), None).await.is(200);
    alice.claimed_by(&bob).await.is(200);
    let again = alice.upload(&[package], None).await.is(200);
    let expected =
        json!({ "accepted": 0, "already_known": 1, "key_package_count": 0, "has_last_resort": false });
    assert_eq!(again, expected);
    alice.claimed_by(&bob).await.refused(404, "not-found");
}

async fn no_two_packages_share_an_init_key(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (device, key) = (Device::registered(&relay, Kind::Ed25519).await, HandKey::ed25519());
    let body = key_body(&device, 2055, &key.public());
    device.put(&device.own("mls-keys"), Some(&body)).await.is(200);
    let first = Hand::good(&key, &identity(&device), today());
    let mut second = Hand::good(&key, &identity(&device), today());
    second.init_key.clone_from(&first.init_key);
    let last_resort = Hand { extensions: vec![(10, Vec::new())], ..second.clone() };
    let (first, second, last_resort) = (first.sealed(&key), second.sealed(&key), last_resort.sealed(&key));

    let problem =
        upload(&device, &[first.clone(), second.clone()], None).await.refused(422, "package-reused");
    assert_eq!((&problem["field"], &problem["index"]), (&json!("key_packages[1]"), &json!(1)));
    let problem = upload(&device, std::slice::from_ref(&first), Some(&last_resort)).await;
    assert_eq!(problem.refused(422, "package-reused")["field"], "last_resort");
    upload(&device, &[first], None).await.is(200);
    let problem = upload(&device, &[second], None).await.refused(422, "package-reused");
    assert_eq!(problem["field"], "key_packages[0]");
    let problem = upload(&device, &[], Some(&last_resort)).await.refused(422, "package-reused");
    assert_eq!(problem["field"], "last_resort");
}

async fn a_package_needs_the_signature_key_of_its_device(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls { device: Device::registered(&relay, Kind::Ed25519).await, key: MlsKey::fresh(1) };
    let problem = alice.upload(&[alice.package()], None).await.refused(422, "unknown-signature-key");
    assert_eq!((&problem["field"], &problem["index"]), (&json!("key_packages[0]"), &json!(0)));
    alice.announce().await.is(200);
    alice.upload(&[alice.package()], None).await.is(200);
    let other = MlsKey::fresh(1);
    let packages = [alice.package(), other.package(&alice.identity(), today())];
    let problem = alice.upload(&packages, None).await.refused(422, "unknown-signature-key");
    assert_eq!(problem["field"], "key_packages[1]");
    let last_resort = other.last_resort(&alice.identity(), today());
    let problem = alice.upload(&[], Some(&last_resort)).await.refused(422, "unknown-signature-key");
    assert_eq!(problem["field"], "last_resort");
    // The key of one scheme speaks for every suite of it.
    let mut device_of_suite_3 = MlsKey::fresh(3);
    device_of_suite_3.take_over(&alice.key);
    let package = device_of_suite_3.package(&alice.identity(), today());
    alice.upload(&[package], None).await.is(200);
    assert_eq!(alice.count().await, 2);
}

async fn a_device_keeps_so_many_packages_and_no_more(backend: &Backend) {
    let relay = backend.relay(&[("MAX_PREKEYS", "50")]).await;
    let alice = Mls::registered(&relay, 1).await;
    let packages = alice.packages(51);
    let problem = alice.upload(&packages, None).await.refused(422, "too-many-packages");
    assert_eq!((&problem["most"], &problem["field"]), (&json!(50), &json!("key_packages")));
    alice.upload(&packages[..49], Some(&alice.last_resort())).await.is(200);
    alice.upload(&packages[49..], None).await.refused(422, "too-many-packages");
    assert_eq!(alice.upload(&packages[48..50], None).await.is(200)["key_package_count"], 50);
    alice.upload(&packages[50..], None).await.refused(422, "too-many-packages");
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    alice.claimed_by(&bob).await.is(200);
    alice.upload(&packages[50..], None).await.is(200);
}

async fn a_last_resort_package_takes_the_place_of_the_former(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let (former, present) = (alice.last_resort(), alice.last_resort());
    alice.upload(&[], Some(&former)).await.is(200);
    alice.upload(&[], Some(&present)).await.is(200);
    let claimed = alice.claimed_by(&bob).await.is(200);
    assert_eq!(claimed["key_packages"][0]["key_package"], b64(&present));
    // A lost answer may be repeated; it brings nothing back.
    assert_eq!(alice.upload(&[], Some(&former)).await.is(200)["already_known"], 1);
    let claimed = alice.claimed_by(&bob).await.is(200);
    assert_eq!(claimed["key_packages"][0]["key_package"], b64(&present));
}

async fn nobody_brings_packages_for_another(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let tablet = alice.device.linked("tablet").await;
    let mallory = Device::registered(&relay, Kind::Ed25519).await;
    let packages = json!({ "key_packages": [b64(alice.package())] });
    let key = key_body(&mallory, 2055, &MlsKey::fresh(1).public);
    for caller in [&tablet, &mallory] {
        caller.post(&alice.device.own("packages"), &packages).await.refused(403, "not-you");
        caller.put(&alice.device.own("mls-keys"), Some(&key)).await.refused(403, "not-you");
    }
    let path = alice.device.own("packages");
    alice.device.anonymous(Method::POST, &path, Some(&packages)).await.refused(401, "no-token");
    assert_eq!(alice.count().await, 0);
    alice.device.post("/api/v1/keys/packages/me/me", &packages).await.is(200);
    assert_eq!(alice.count().await, 1);
}

async fn bodies_that_are_none_are_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let path = alice.device.own("packages");
    let bad = [
        (json!({ "key_packages": "x" }), "key_packages"),
        (json!({ "key_packages": ["%%"] }), "key_packages[0]"),
        (json!({ "key_packages": [7] }), "key_packages[0]"),
        (json!({ "key_packages": [], "last_resort": [] }), "last_resort"),
        (json!({ "packages": [] }), "packages"),
        (json!([b64(alice.package())]), "."),
    ];
    for (body, field) in bad {
        let problem = alice.device.post(&path, &body).await.refused(400, "bad-field");
        assert_eq!(problem["field"], field, "{problem}");
    }
    let large = json!({ "key_packages": [b64(opaque(1 << 20))] });
    alice.device.post(&path, &large).await.refused(413, "too-large");
    assert_eq!(alice.count().await, 0);
}
