//! Key packages go: one for each device, each to one caller.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mls_rs::MlsMessage;
use restante::domain::ManualClock;
use serde_json::json;

use super::{Mls, claim, given, today};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, unb64},
    mothers::DAY,
    packages::MlsKey,
    relay::{Backend, on_both_backends},
    socket::Socket,
};

on_both_backends! {
    sixteen_callers_at_once_never_get_the_same_package,
    packages_go_in_the_order_they_came_and_then_the_last_resort,
    every_device_gives_one_and_of_oneself_every_other,
    each_suite_has_its_own_packages,
    a_package_that_ended_is_skipped,
    a_device_that_is_gone_gives_nothing,
    an_owner_hears_when_few_packages_are_left,
    a_claim_that_names_nothing_is_refused,
    a_real_client_adds_the_device_whose_package_it_claimed,
}

async fn sixteen_callers_at_once_never_get_the_same_package(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let packages = alice.packages(10);
    alice.upload(&packages, Some(&alice.last_resort())).await.is(200);
    let mut callers = Vec::new();
    for _ in 0..16 {
        callers.push(Device::registered(&relay, Kind::Ed25519).await);
    }
    let claims = callers.iter().map(async |caller| alice.claimed_by(caller).await.is(200));
    let claimed = futures_util::future::join_all(claims).await;
    let given: Vec<_> = claimed.iter().flat_map(given).collect();
    assert_eq!(given.len(), 16);
    let (last, once): (Vec<_>, Vec<_>) =
        given.into_iter().partition(|(_, _, is_last_resort)| *is_last_resort);
    let once: BTreeSet<_> = once.into_iter().map(|(_, package, _)| package).collect();
    assert_eq!(once, packages.iter().map(b64).collect::<BTreeSet<_>>());
    assert_eq!(last.len(), 6);
    assert_eq!(alice.count().await, 0);
}

async fn packages_go_in_the_order_they_came_and_then_the_last_resort(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 2).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    alice.claimed_by(&bob).await.refused(404, "not-found");
    let (packages, last_resort) = (alice.packages(2), alice.last_resort());
    alice.upload(&packages, Some(&last_resort)).await.is(200);
    let expected = [(&packages[0], false), (&packages[1], false), (&last_resort, true), (&last_resort, true)];
    for (package, is_last_resort) in expected {
        let answer = alice.claimed_by(&bob).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let told = answer.is(200);
        let expected = json!({
            "user_id": alice.device.user_id,
            "key_packages": [
                { "device_id": "phone", "key_package": b64(package), "is_last_resort": is_last_resort }
            ],
        });
        assert_eq!(told, expected);
    }
}

async fn every_device_gives_one_and_of_oneself_every_other(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Mls::registered(&relay, 1).await;
    let tablet = Mls::with_key(phone.device.linked("tablet").await, 1).await;
    let watch = phone.device.linked("watch").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for mls in [&phone, &tablet] {
        mls.upload(&mls.packages(3), None).await.is(200);
    }
    let names = |answer: &serde_json::Value| -> Vec<_> {
        given(answer).into_iter().map(|(device, ..)| device).collect()
    };
    assert_eq!(names(&claim(&bob, &phone.device, 1).await.is(200)), ["phone", "tablet"]);
    assert_eq!(names(&claim(&phone.device, &phone.device, 1).await.is(200)), ["tablet"]);
    assert_eq!(names(&claim(&watch, &phone.device, 1).await.is(200)), ["phone", "tablet"]);
    assert_eq!((phone.count().await, tablet.count().await), (1, 0));
    // Where one device has none left, the others still give.
    assert_eq!(names(&claim(&bob, &phone.device, 1).await.is(200)), ["phone"]);
    claim(&phone.device, &phone.device, 1).await.refused(404, "not-found");
}

async fn each_suite_has_its_own_packages(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let p256 = MlsKey::fresh(2);
    let body = super::key_body(&alice.device, p256.scheme(), &p256.public);
    alice.device.put(&alice.device.own("mls-keys"), Some(&body)).await.is(200);
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let (one, two) = (alice.package(), p256.package(&alice.identity(), today()));
    alice.upload(&[one.clone(), two.clone()], None).await.is(200);
    for (suite, package) in [(2, &two), (1, &one)] {
        let told = claim(&bob, &alice.device, suite).await.is(200);
        assert_eq!(told["key_packages"][0]["key_package"], b64(package));
        claim(&bob, &alice.device, suite).await.refused(404, "not-found");
    }
    claim(&bob, &alice.device, 3).await.refused(404, "not-found");
}

async fn a_package_that_ended_is_skipped(backend: &Backend) {
    let clock = Arc::new(ManualClock::at(today()));
    let relay = backend.start(&[("ACCESS_TOKEN_TTL_SECONDS", "86400")], clock.clone()).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let hours = |hours| alice.key.package_for(&alice.identity(), today(), Duration::from_hours(hours));
    let (short, long) = (hours(1), hours(30));
    let kept = alice.upload(&[short.clone(), long.clone()], None).await.is(200);
    assert_eq!(kept["key_package_count"], 2);
    clock.advance(Duration::from_hours(2));
    assert_eq!(alice.count().await, 1);
    let told = alice.claimed_by(&bob).await.is(200);
    assert_eq!(told["key_packages"][0]["key_package"], b64(&long));
    alice.claimed_by(&bob).await.refused(404, "not-found");
    let problem = alice.upload(&[short], None).await.refused(422, "invalid-key-package");
    assert_eq!(problem["reason"], "not-now");
}

async fn a_device_that_is_gone_gives_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let phone = Mls::registered(&relay, 1).await;
    let tablet = Mls::with_key(phone.device.linked("tablet").await, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for mls in [&phone, &tablet] {
        mls.upload(&mls.packages(2), Some(&mls.last_resort())).await.is(200);
    }
    phone.device.deactivate(&tablet.device).await.is(200);
    let told = claim(&bob, &phone.device, 1).await.is(200);
    assert_eq!(given(&told).iter().map(|(device, ..)| device.as_str()).collect::<Vec<_>>(), ["phone"]);
    // A device of the same name inherits neither packages nor keys.
    let heir = Mls { device: phone.device.linked("tablet").await, key: MlsKey::fresh(1) };
    let listed = bob.get(&format!("/api/v1/keys/devices/{}", phone.device.user_id)).await.is(200);
    assert_eq!(listed["devices"][1]["mls_signature_keys"], json!([]));
    assert_eq!(heir.count().await, 0);
    let problem = heir.upload(&[tablet.package()], None).await.refused(422, "unknown-signature-key");
    assert_eq!(problem["index"], 0);
    phone.device.deactivate(&heir.device).await.is(200);
    phone.device.deactivate(&phone.device).await.is(200);
    claim(&bob, &phone.device, 1).await.refused(404, "not-found");
}

async fn an_owner_hears_when_few_packages_are_left(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    alice.upload(&alice.packages(21), None).await.is(200);
    let mut socket = Socket::open(&alice.device).await;
    alice.claimed_by(&bob).await.is(200);
    alice.claimed_by(&bob).await.is(200);
    // Of the two claims only the second leaves fewer than 20.
    let told = socket.expect("keys_low").await;
    let expected = json!({
        "type": "keys_low", "onetime_prekeys": 50, "kem_prekeys": 0, "key_packages": 19,
        "last_resort_used": false, "limit_tripped": false,
    });
    assert_eq!(told, expected);
    alice.upload(&alice.packages(20), None).await.is(200);
    let tablet = Mls::with_key(alice.device.linked("tablet").await, 1).await;
    tablet.upload(&[], Some(&tablet.last_resort())).await.is(200);
    let mut socket = Socket::open(&tablet.device).await;
    alice.claimed_by(&bob).await.is(200);
    let told = socket.expect("keys_low").await;
    assert_eq!((&told["last_resort_used"], &told["key_packages"]), (&json!(true), &json!(0)), "{told}");
    // Whoever was away hears when it comes back, until it brings a new one.
    let mut socket = Socket::open(&tablet.device).await;
    assert_eq!(socket.expect("keys_low").await["last_resort_used"], true);
    tablet.upload(&[], Some(&tablet.last_resort())).await.is(200);
    let mut socket = Socket::open(&tablet.device).await;
    let told = socket.until("queue_drained").await;
    assert!(told.iter().all(|frame| frame["type"] != "keys_low"), "{told:?}");
    tablet.upload(&tablet.packages(1), None).await.is(200);
    assert_eq!(Socket::open(&tablet.device).await.expect("keys_low").await["key_packages"], 1);
}

async fn a_claim_that_names_nothing_is_refused(backend: &Backend) {
    let relay = backend.relay(&[("MLS_CIPHER_SUITES", "1,3")]).await;
    let alice = Mls::registered(&relay, 1).await;
    alice.upload(&alice.packages(1), None).await.is(200);
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for query in
        ["", "?cipher_suite=", "?cipher_suite=x", "?cipher_suite=0", "?cipher_suite=2", "?cipher_suite=4"]
    {
        let path = format!("/api/v1/keys/packages/{}/claim{query}", alice.device.user_id);
        let problem = bob.post(&path, &json!({})).await.refused(400, "bad-field");
        assert_eq!(problem["field"], "cipher_suite", "{query}: {problem}");
    }
    let path = format!("/api/v1/keys/packages/{}/claim?cipher_suite=1&more=1", alice.device.user_id);
    assert_eq!(bob.post(&path, &json!({})).await.refused(400, "bad-field")["field"], "more");
    claim(&bob, &Device::new(&relay.url(), Kind::Ed25519), 1).await.refused(404, "not-found");
    claim(&bob, &bob, 1).await.refused(404, "not-found");
    assert_eq!(alice.count().await, 1);
}

async fn a_real_client_adds_the_device_whose_package_it_claimed(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for suite in [1, 2, 3] {
        let (alice, bob) = (Mls::registered(&relay, suite).await, Mls::registered(&relay, suite).await);
        alice.upload(&[alice.package()], Some(&alice.last_resort())).await.is(200);
        let group = bob.key.client(&bob.identity(), 30 * DAY).group_builder().unwrap();
        let mut group = group.build().unwrap();
        for members in [2, 3] {
            let told = alice.claimed_by(&bob.device).await.is(200);
            let package = unb64(&told["key_packages"][0]["key_package"]);
            let package = MlsMessage::from_bytes(&package).unwrap();
            let commit = group.commit_builder().add_member(package);
            if members == 2 {
                commit.unwrap().build().unwrap();
                group.apply_pending_commit().unwrap();
            } else {
                // One signature key is one leaf of a group: the last-resort package is for another one.
                assert!(commit.and_then(mls_rs::group::CommitBuilder::build).is_err());
            }
        }
        assert_eq!(group.roster().members_iter().count(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_never_give_the_same_package() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let alice = Mls::registered(&nodes[0], 1).await;
    let bob = Device::registered(&nodes[0], Kind::Ed25519).await;
    let mut carol = Device::registered(&nodes[1], Kind::Ed25519).await;
    carol.base = nodes[1].url();
    let packages = alice.packages(20);
    alice.upload(&packages, None).await.is(200);
    let claims = (0..12).flat_map(|_| [&bob, &carol]).map(async |from: &Device| alice.claimed_by(from).await);
    let answers = futures_util::future::join_all(claims).await;
    let (given, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    let packages: BTreeSet<_> =
        given.iter().map(|answer| answer["key_packages"][0]["key_package"].to_string()).collect();
    assert_eq!((given.len(), packages.len(), refused.len()), (20, 20, 4));
    assert!(refused.iter().all(|answer| answer.status == 404), "{refused:?}");
    backend.finish().await;
}
