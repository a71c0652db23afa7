//! Key packages handed out: each one-time package once, in order, and not past its end.

use std::collections::HashSet;

use futures_util::future::join_all;
use restante::{
    domain::{Caller, CipherSuite, KeyPackage, SignatureScheme},
    store::OneTimeKeys,
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mls_mothers::{self as mls, SUITE},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    packages_are_given_in_the_order_of_their_upload_and_then_the_last_resort,
    each_active_device_gives_one_oldest_device_first,
    one_time_packages_are_withheld_when_asked,
    a_package_that_has_ended_is_not_given,
    packages_of_another_suite_are_not_given,
    nobody_gives_nothing,
    a_package_is_given_once_however_many_claim,
    a_package_of_the_last_resort_counts_as_used_once_given,
);

/// A newcomer with an Ed25519 key and nothing else.
async fn with_key(engine: &Engine) -> (Caller, restante::domain::MlsSignatureKey) {
    let device = engine.newcomer().await;
    let key = mls::signature_key(SignatureScheme::Ed25519);
    engine.set_key(&device, &key).await;
    (device, key)
}

async fn packages_are_given_in_the_order_of_their_upload_and_then_the_last_resort(engine: Engine) {
    let (device, key) = with_key(&engine).await;
    let packages = mls::packages(&key, 5);
    engine.publish(&device, mls::last_resort(&packages[4])).await;
    engine.publish(&device, mls::one_time(&packages[..3])).await;
    engine.publish(&device, mls::one_time(&packages[3..4])).await;
    for (given, package) in packages.iter().enumerate().chain([(4, &packages[4])]) {
        let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
        let left = u32::try_from(3_usize.saturating_sub(given)).unwrap();
        assert_eq!(claimed, [(device.device_no, package.body.clone(), given == 4, left)]);
    }
}

async fn each_active_device_gives_one_oldest_device_first(engine: Engine) {
    let phone = engine.mls_newcomer().await;
    let tablet = engine.mls_link(&phone, "tablet").await;
    engine.link(&phone, "watch").await;
    let laptop = engine.mls_link(&phone, "laptop").await;
    let claimed = engine
        .store
        .claim_packages(phone.user_id, SUITE, None, OneTimeKeys::Given, engine.now())
        .await
        .unwrap();
    let owners: Vec<Caller> = claimed.iter().map(|claimed| claimed.owner.clone()).collect();
    assert_eq!(
        owners,
        [phone.clone(), tablet.clone(), laptop.clone()],
        "a device without packages is left out"
    );
    assert!(claimed.iter().all(|claimed| claimed.left == 2 && !claimed.is_last_resort));

    let claimed = engine
        .store
        .claim_packages(phone.user_id, SUITE, Some(tablet.device_no), OneTimeKeys::Given, engine.now())
        .await
        .unwrap();
    let owners: Vec<Caller> = claimed.into_iter().map(|claimed| claimed.owner).collect();
    assert_eq!(owners, [phone.clone(), laptop]);
    let stats = async |device: &Caller| {
        engine
            .store
            .key_stats(device.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .key_packages
    };
    assert_eq!((stats(&phone).await, stats(&tablet).await), (1, 2), "of the one left out nothing was taken");
}

async fn one_time_packages_are_withheld_when_asked(engine: Engine) {
    let phone = engine.mls_newcomer().await;
    let tablet = engine.mls_link(&phone, "tablet").await;
    let key = mls::signature_key(SignatureScheme::Ed25519);
    let watch = engine.link(&phone, "watch").await;
    engine.set_key(&watch, &key).await;
    engine.publish(&watch, mls::one_time(&mls::packages(&key, 2))).await;
    let claimed = engine.claim(phone.user_id, OneTimeKeys::Withheld).await;
    let told: Vec<_> = claimed.iter().map(|it| (it.0, it.2, it.3)).collect();
    assert_eq!(
        told,
        [(phone.device_no, true, 3), (tablet.device_no, true, 3)],
        "the watch has no last resort"
    );
}

async fn a_package_that_has_ended_is_not_given(engine: Engine) {
    let (device, key) = with_key(&engine).await;
    let ending = |days| KeyPackage { not_after: NOON.plus(days * DAY), ..mls::package(&key, SUITE) };
    let (one, ten, twenty) = (ending(1), ending(10), ending(20));
    engine.publish(&device, mls::one_time(&[one, ten.clone()])).await;
    engine.publish(&device, mls::last_resort(&twenty)).await;
    engine.clock.set(NOON.plus(2 * DAY));
    let stats = engine.store.key_stats(device.device_no, NOON.plus(2 * DAY)).await.unwrap().unwrap();
    assert_eq!(stats.key_packages, 1);
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(claimed, [(device.device_no, ten.body, false, 0)]);
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(claimed, [(device.device_no, twenty.body, true, 0)]);
    engine.clock.set(NOON.plus(21 * DAY));
    assert!(engine.claim(device.user_id, OneTimeKeys::Given).await.is_empty());
}

async fn packages_of_another_suite_are_not_given(engine: Engine) {
    let (device, key) = with_key(&engine).await;
    let p256 = mls::signature_key(SignatureScheme::EcdsaP256);
    engine.set_key(&device, &p256).await;
    let other = mls::package(&p256, CipherSuite::P256Aes128);
    let own = mls::package(&key, SUITE);
    engine.publish(&device, mls::one_time(&[other.clone(), own.clone()])).await;
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(
        claimed,
        [(device.device_no, own.body, false, 0)],
        "the other suite's are not counted as left"
    );
    assert!(engine.claim(device.user_id, OneTimeKeys::Given).await.is_empty());
    let claimed = engine
        .store
        .claim_packages(device.user_id, CipherSuite::P256Aes128, None, OneTimeKeys::Given, engine.now())
        .await
        .unwrap();
    assert_eq!(claimed[0].package, other.body);
    let issued = engine.store.issued_packages(&[other.reference]).await.unwrap();
    assert_eq!((issued[0].cipher_suite, issued[0].usable), (CipherSuite::P256Aes128, true));
}

async fn nobody_gives_nothing(engine: Engine) {
    assert!(engine.claim(mothers::user(), OneTimeKeys::Given).await.is_empty());
    let bare = engine.newcomer().await;
    assert!(engine.claim(bare.user_id, OneTimeKeys::Given).await.is_empty());
    let phone = engine.mls_newcomer().await;
    let claimed = engine
        .store
        .claim_packages(phone.user_id, SUITE, Some(phone.device_no), OneTimeKeys::Given, engine.now())
        .await
        .unwrap();
    assert!(claimed.is_empty());
}

async fn a_package_is_given_once_however_many_claim(engine: Engine) {
    let stores = [engine.store.clone(), engine.twin().await];
    let phone = engine.mls_newcomer().await;
    let tablet = engine.mls_link(&phone, "tablet").await;
    for device in [&phone, &tablet] {
        let key = engine.mls_key(device, SignatureScheme::Ed25519).await.unwrap();
        engine.publish(device, mls::one_time(&mls::packages(&key, 17))).await;
    }
    let claiming = (0..32).map(|claimer| {
        let (store, user, now) = (stores[claimer % 2].clone(), phone.user_id, engine.now());
        tokio::spawn(async move {
            store.claim_packages(user, SUITE, None, OneTimeKeys::Given, now).await.unwrap()
        })
    });
    let claimed: Vec<_> = join_all(claiming).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 64, "each found one of each device");
    let one_time: Vec<_> = claimed.iter().filter(|claimed| !claimed.is_last_resort).collect();
    let distinct: HashSet<_> = one_time.iter().map(|claimed| claimed.package.clone()).collect();
    assert_eq!((one_time.len(), distinct.len()), (40, 40), "20 of each device, each of them once");
    assert!(one_time.iter().all(|claimed| claimed.left < 20));
    assert!(engine.claim(phone.user_id, OneTimeKeys::Given).await.iter().all(|it| it.2 && it.3 == 0));
    stores[1].close().await;
}

async fn a_package_of_the_last_resort_counts_as_used_once_given(engine: Engine) {
    let device = engine.mls_newcomer().await;
    let stats = async || {
        engine.store.key_stats(device.device_no, crate::support::engine::NOON).await.unwrap().unwrap()
    };
    engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert!(!stats().await.last_resort_used);
    let last = engine.claim(device.user_id, OneTimeKeys::Withheld).await.remove(0);
    assert!(last.2 && stats().await.last_resort_used);
    assert_eq!(stats().await.key_packages, 2);
    let issued = engine.store.issued_packages(&[mls::reference_of(&last.1)]).await.unwrap();
    assert!(issued[0].usable);
}
