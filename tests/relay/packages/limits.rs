//! How often packages go to one caller, and what is left past that.

use serde_json::json;

use super::{Mls, claim, given};
use crate::support::{
    client::{Device, Kind},
    relay::{Backend, on_both_backends},
    socket::Socket,
};

on_both_backends! {
    past_the_limit_only_the_last_resort_package_is_given,
    bundles_and_packages_are_counted_together,
    ones_own_devices_claim_without_limit,
}

const FEW: &[(&str, &str)] =
    &[("FETCH_LIMIT_PER_PAIR", "2"), ("FETCH_LIMIT_PER_USER", "1000"), ("FETCH_LIMIT_FOR_NEW_USERS", "1000")];

async fn past_the_limit_only_the_last_resort_package_is_given(backend: &Backend) {
    let relay = backend.relay(FEW).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    alice.upload(&alice.packages(30), None).await.is(200);
    let mut socket = Socket::open(&alice.device).await;
    for _ in 0..2 {
        alice.claimed_by(&bob).await.is(200);
    }
    // Nothing that may be given again is there.
    alice.claimed_by(&bob).await.refused(404, "not-found");
    alice.upload(&[], Some(&alice.last_resort())).await.is(200);
    let told = alice.claimed_by(&bob).await.is(200);
    assert!(given(&told)[0].2, "{told}");
    let low = socket.expect_where("keys_low", |frame| frame["limit_tripped"] == true).await;
    assert_eq!((&low["key_packages"], &low["last_resort_used"]), (&json!(28), &json!(true)), "{low}");
    assert_eq!(alice.count().await, 28, "a withheld package is not taken");
    let told = alice.claimed_by(&carol).await.is(200);
    assert!(!given(&told)[0].2, "another caller: {told}");
    let trail = alice.device.get("/api/v1/auth/audit").await.is(200);
    assert!(trail.to_string().contains("limit_tripped"), "{trail}");
}

async fn bundles_and_packages_are_counted_together(backend: &Backend) {
    let relay = backend.relay(FEW).await;
    let alice = Mls::registered(&relay, 1).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    alice.upload(&alice.packages(3), Some(&alice.last_resort())).await.is(200);
    assert!(bob.bundle(&alice.device).await.is(200)["onetime_prekey"].is_string());
    assert!(!given(&alice.claimed_by(&bob).await.is(200))[0].2);
    assert!(bob.bundle(&alice.device).await.is(200)["onetime_prekey"].is_null());
    assert!(given(&alice.claimed_by(&bob).await.is(200))[0].2);
}

async fn ones_own_devices_claim_without_limit(backend: &Backend) {
    let relay = backend.relay(FEW).await;
    let alice = Mls::registered(&relay, 1).await;
    let tablet = alice.device.linked("tablet").await;
    alice.upload(&alice.packages(5), None).await.is(200);
    for _ in 0..5 {
        claim(&tablet, &alice.device, 1).await.is(200);
    }
    assert_eq!(alice.count().await, 0);
}
