//! Key packages: uploaded all or not at all, known again, and forgotten after their end.

use restante::{
    domain::{CipherSuite, KeyPackage, SignatureScheme},
    store::{IssuedPackage, OneTimeKeys, PackagePlace, PackageUpload, PackagesPublished},
};

use crate::support::{
    engine::{Engine, on_both_engines, tight},
    mls_mothers::{self as mls, SUITE},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    packages_are_counted_when_they_are_published,
    a_package_that_comes_again_is_skipped_and_counted_used_or_not,
    no_two_packages_of_a_user_share_an_init_key,
    a_reference_belongs_to_one_body,
    a_package_needs_the_devices_own_signature_key,
    of_several_packages_that_must_not_come_the_first_is_named,
    the_last_resort_is_replaced_for_its_suite_alone,
    a_last_resort_that_was_replaced_does_not_come_back,
    a_device_that_is_gone_publishes_nothing,
    deactivation_ends_the_packages_of_that_device_alone,
    a_package_is_told_of_by_its_reference_until_a_day_after_its_end,
);

mod few {
    use super::{a_device_stores_no_more_one_time_packages_than_it_may, on_both_engines};

    on_both_engines!(tight => a_device_stores_no_more_one_time_packages_than_it_may);
}

fn published(accepted: u32, already_known: u32, count: u32, has_last_resort: bool) -> PackagesPublished {
    PackagesPublished::Published { accepted, already_known, count, has_last_resort }
}

/// A newcomer with an Ed25519 key, and packages that it has not published.
async fn newcomer(engine: &Engine, packages: usize) -> (restante::domain::Caller, Vec<KeyPackage>) {
    let device = engine.newcomer().await;
    let key = mls::signature_key(SignatureScheme::Ed25519);
    engine.set_key(&device, &key).await;
    (device, mls::packages(&key, packages))
}

/// What the store tells of one package.
async fn told(engine: &Engine, package: &KeyPackage) -> Option<IssuedPackage> {
    let mut all = engine.store.issued_packages(&[package.reference]).await.unwrap();
    assert!(all.len() <= 1);
    all.pop()
}

async fn packages_are_counted_when_they_are_published(engine: Engine) {
    let (device, packages) = newcomer(&engine, 5).await;
    assert_eq!(engine.publish(&device, PackageUpload::default()).await, published(0, 0, 0, false));
    let first = engine.publish(&device, mls::one_time(&packages[..2])).await;
    assert_eq!(first, published(2, 0, 2, false));
    let upload = PackageUpload { packages: packages[2..4].to_vec(), last_resort: Some(packages[4].clone()) };
    assert_eq!(engine.publish(&device, upload).await, published(3, 0, 4, true));
    let stats =
        engine.store.key_stats(device.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.key_packages, stats.last_resort_used), (4, false));

    engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(engine.publish(&device, PackageUpload::default()).await, published(0, 0, 3, true));
    engine.advance(91 * DAY);
    let none_left = engine.publish(&device, PackageUpload::default()).await;
    assert!(matches!(none_left, PackagesPublished::Published { count: 0, .. }), "{none_left:?}");
}

async fn a_package_that_comes_again_is_skipped_and_counted_used_or_not(engine: Engine) {
    let (device, packages) = newcomer(&engine, 4).await;
    let upload = PackageUpload { packages: packages[..3].to_vec(), last_resort: Some(packages[3].clone()) };
    engine.publish(&device, upload.clone()).await;
    assert_eq!(engine.publish(&device, upload.clone()).await, published(0, 4, 3, true));
    let before = engine.tables().await;
    assert_eq!(engine.publish(&device, upload.clone()).await, published(0, 4, 3, true));
    engine.assert_unchanged(&before, "a repeat").await;

    engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(engine.publish(&device, upload.clone()).await, published(0, 4, 2, true));
    for _ in 0..2 {
        engine.claim(device.user_id, OneTimeKeys::Given).await;
    }
    assert_eq!(engine.publish(&device, upload).await, published(0, 4, 0, true));
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert!(claimed[0].2, "only the last resort is left, for what was given does not come back");

    // One that is given already is not taken as the last resort either.
    assert_eq!(engine.publish(&device, mls::last_resort(&packages[0])).await, published(0, 1, 0, true));
    assert_eq!(engine.claim(device.user_id, OneTimeKeys::Given).await[0].1, packages[3].body);
}

async fn no_two_packages_of_a_user_share_an_init_key(engine: Engine) {
    let (device, packages) = newcomer(&engine, 3).await;
    engine.publish(&device, mls::one_time(&packages[..1])).await;
    let key = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    let shared = KeyPackage { init_key_digest: packages[0].init_key_digest, ..mls::package(&key, SUITE) };
    let before = engine.tables().await;
    let upload = mls::one_time(&[packages[1].clone(), shared.clone()]);
    assert_eq!(engine.publish(&device, upload).await, PackagesPublished::Reused(PackagePlace::OneTime(1)));
    let refused = engine.publish(&device, mls::last_resort(&shared)).await;
    assert_eq!(refused, PackagesPublished::Reused(PackagePlace::LastResort));

    let twin = KeyPackage { init_key_digest: packages[1].init_key_digest, ..mls::package(&key, SUITE) };
    let upload = mls::one_time(&[packages[1].clone(), packages[2].clone(), twin.clone()]);
    assert_eq!(engine.publish(&device, upload).await, PackagesPublished::Reused(PackagePlace::OneTime(2)));
    let upload = PackageUpload { packages: packages[1..2].to_vec(), last_resort: Some(twin) };
    assert_eq!(engine.publish(&device, upload).await, PackagesPublished::Reused(PackagePlace::LastResort));
    engine.assert_unchanged(&before, "a refused upload").await;

    // A sibling may not have it either, when the package was used long ago; another user may.
    engine.claim(device.user_id, OneTimeKeys::Given).await;
    let sibling = engine.mls_link(&device, "tablet").await;
    let siblings = engine.mls_key(&sibling, SignatureScheme::Ed25519).await.unwrap();
    let copied =
        |key| KeyPackage { init_key_digest: packages[0].init_key_digest, ..mls::package(key, SUITE) };
    let refused = engine.publish(&sibling, mls::one_time(&[copied(&siblings)])).await;
    assert_eq!(refused, PackagesPublished::Reused(PackagePlace::OneTime(0)));
    let stranger = engine.newcomer().await;
    let strangers = mls::signature_key(SignatureScheme::Ed25519);
    engine.set_key(&stranger, &strangers).await;
    assert_eq!(
        engine.publish(&stranger, mls::one_time(&[copied(&strangers)])).await,
        published(1, 0, 1, false)
    );
}

async fn a_reference_belongs_to_one_body(engine: Engine) {
    let (device, packages) = newcomer(&engine, 1).await;
    engine.publish(&device, mls::one_time(&packages)).await;
    let forged = KeyPackage { body: mls::body(), init_key_digest: mothers::bytes(), ..packages[0].clone() };
    let before = engine.tables().await;
    let refused = engine.publish(&device, mls::one_time(std::slice::from_ref(&forged))).await;
    assert_eq!(refused, PackagesPublished::Reused(PackagePlace::OneTime(0)));
    let refused = engine.publish(&device, mls::last_resort(&forged)).await;
    assert_eq!(refused, PackagesPublished::Reused(PackagePlace::LastResort));
    engine.assert_unchanged(&before, "a refused upload").await;
}

async fn a_package_needs_the_devices_own_signature_key(engine: Engine) {
    let (device, packages) = newcomer(&engine, 2).await;
    let unknown = mls::package(&mls::signature_key(SignatureScheme::Ed25519), SUITE);
    let before = engine.tables().await;
    let upload = mls::one_time(&[packages[0].clone(), unknown.clone(), packages[1].clone()]);
    let refused = engine.publish(&device, upload).await;
    assert_eq!(refused, PackagesPublished::SignatureKeyUnknown(PackagePlace::OneTime(1)));
    let refused = engine.publish(&device, mls::last_resort(&unknown)).await;
    assert_eq!(refused, PackagesPublished::SignatureKeyUnknown(PackagePlace::LastResort));

    // Neither the key of another device nor the own one of another scheme will do.
    let sibling = engine.mls_link(&device, "tablet").await;
    let siblings = engine.mls_key(&sibling, SignatureScheme::Ed25519).await.unwrap();
    let own = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    for wrong in [mls::package(&siblings, SUITE), mls::package(&own, CipherSuite::P256Aes128)] {
        let refused = engine.publish(&device, mls::one_time(&[wrong])).await;
        assert_eq!(refused, PackagesPublished::SignatureKeyUnknown(PackagePlace::OneTime(0)));
    }
    assert_eq!(engine.tables().await["key_packages"].len(), before["key_packages"].len() + 4);
    let both = [mls::package(&own, SUITE), mls::package(&own, CipherSuite::X25519ChaCha20)];
    assert_eq!(engine.publish(&device, mls::one_time(&both)).await, published(2, 0, 2, false));
}

async fn of_several_packages_that_must_not_come_the_first_is_named(engine: Engine) {
    let (device, packages) = newcomer(&engine, 2).await;
    engine.publish(&device, mls::one_time(&packages[..1])).await;
    let key = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    let reused = KeyPackage { init_key_digest: packages[0].init_key_digest, ..mls::package(&key, SUITE) };
    let unknown = mls::package(&mls::signature_key(SignatureScheme::Ed25519), SUITE);
    let upload = |packages: &[&KeyPackage], last: &KeyPackage| PackageUpload {
        packages: packages.iter().map(|package| (*package).clone()).collect(),
        last_resort: Some(last.clone()),
    };
    let first = engine.publish(&device, upload(&[&packages[1], &unknown, &unknown], &unknown)).await;
    assert_eq!(first, PackagesPublished::SignatureKeyUnknown(PackagePlace::OneTime(1)));
    let first = engine.publish(&device, upload(&[&reused, &packages[1]], &unknown)).await;
    assert_eq!(first, PackagesPublished::Reused(PackagePlace::OneTime(0)));
    let first = engine.publish(&device, upload(&[&packages[1]], &reused)).await;
    assert_eq!(first, PackagesPublished::Reused(PackagePlace::LastResort));
}

async fn the_last_resort_is_replaced_for_its_suite_alone(engine: Engine) {
    let (device, packages) = newcomer(&engine, 2).await;
    let key = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    let other = mls::package(&key, CipherSuite::X25519ChaCha20);
    for package in [&packages[0], &other, &packages[1]] {
        let now = engine.publish(&device, mls::last_resort(package)).await;
        assert_eq!(now, published(1, 0, 0, true));
    }
    let claimed = async |suite| {
        let claimed = engine
            .store
            .claim_packages(device.user_id, suite, None, OneTimeKeys::Given, engine.now())
            .await
            .unwrap();
        assert_eq!(claimed.len(), 1);
        assert!(claimed[0].is_last_resort && claimed[0].left == 0);
        claimed[0].package.clone()
    };
    assert_eq!(claimed(SUITE).await, packages[1].body);
    assert_eq!(claimed(CipherSuite::X25519ChaCha20).await, other.body);
    assert_eq!(claimed(SUITE).await, packages[1].body, "it may be given again");
}

async fn a_last_resort_that_was_replaced_does_not_come_back(engine: Engine) {
    let (device, packages) = newcomer(&engine, 2).await;
    for package in &packages {
        engine.publish(&device, mls::last_resort(package)).await;
    }
    let again = engine.publish(&device, mls::last_resort(&packages[0])).await;
    assert_eq!(again, published(0, 1, 0, true), "it was uploaded before");
    assert_eq!(engine.claim(device.user_id, OneTimeKeys::Given).await[0].1, packages[1].body);

    // The one that replaces it counts as unused.
    let stats = async || {
        engine.store.key_stats(device.device_no, crate::support::engine::NOON).await.unwrap().unwrap()
    };
    assert!(stats().await.last_resort_used);
    let key = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    engine.publish(&device, mls::last_resort(&mls::package(&key, SUITE))).await;
    assert!(!stats().await.last_resort_used);
}

async fn a_device_that_is_gone_publishes_nothing(engine: Engine) {
    let (device, packages) = newcomer(&engine, 1).await;
    engine.deactivate(&device, &device).await;
    let before = engine.tables().await;
    assert_eq!(engine.publish(&device, mls::one_time(&packages)).await, PackagesPublished::Gone);
    engine.assert_unchanged(&before, "a device that is gone").await;
}

async fn deactivation_ends_the_packages_of_that_device_alone(engine: Engine) {
    let phone = engine.mls_newcomer().await;
    let tablet = engine.mls_link(&phone, "tablet").await;
    let issued = engine.issued(&tablet).await;
    assert!(told(&engine, &issued).await.unwrap().usable);
    engine.deactivate(&phone, &tablet).await;

    let claimed = engine.claim(phone.user_id, OneTimeKeys::Given).await;
    assert_eq!(claimed.iter().map(|it| it.0).collect::<Vec<_>>(), [phone.device_no]);
    if let Some(left) = told(&engine, &issued).await {
        assert!(!left.active && left.owner == tablet);
    }
    assert!(engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().is_some());
    engine.deactivate(&phone, &phone).await;
    assert!(engine.claim(phone.user_id, OneTimeKeys::Given).await.is_empty());
}

async fn a_package_is_told_of_by_its_reference_until_a_day_after_its_end(engine: Engine) {
    let device = engine.mls_newcomer().await;
    let key = engine.mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
    let stored = mls::package(&key, SUITE);
    engine.publish(&device, mls::one_time(std::slice::from_ref(&stored))).await;
    let unused = told(&engine, &stored).await.unwrap();
    assert_eq!((unused.owner, unused.active, unused.cipher_suite), (device.clone(), true, SUITE));
    assert!(!unused.usable, "it was not handed out");
    let unknown = mls::package(&key, SUITE);
    assert!(told(&engine, &unknown).await.is_none());

    let issued = engine.issued(&device).await;
    let all = [stored.reference, unknown.reference, issued.reference];
    let mut found: Vec<_> = engine.store.issued_packages(&all).await.unwrap();
    found.sort_by_key(|package| package.reference != stored.reference);
    assert_eq!(found.iter().map(|it| it.reference).collect::<Vec<_>>(), [all[0], all[2]]);
    assert!(engine.store.issued_packages(&[]).await.unwrap().is_empty());

    engine.clock.set(stored.not_after.plus(DAY).minus(std::time::Duration::from_millis(1)));
    engine.expire_all().await;
    assert!(told(&engine, &stored).await.is_some());
    engine.clock.set(stored.not_after.plus(DAY).plus(std::time::Duration::from_millis(1)));
    engine.expire_all().await;
    assert!(told(&engine, &stored).await.is_none());
    assert!(engine.tables().await["key_packages"].is_empty());
}

async fn a_device_stores_no_more_one_time_packages_than_it_may(engine: Engine) {
    let most = tight().max_prekeys as usize;
    let (device, packages) = newcomer(&engine, most + 3).await;
    let before = engine.tables().await;
    let refused = engine.publish(&device, mls::one_time(&packages[..=most])).await;
    assert_eq!(refused, PackagesPublished::TooMany);
    engine.assert_unchanged(&before, "a refused upload").await;
    let full = engine.publish(&device, mls::one_time(&packages[..most])).await;
    assert_eq!(full, published(6, 0, 6, false));
    let refused = engine.publish(&device, mls::one_time(&packages[most..=most])).await;
    assert_eq!(refused, PackagesPublished::TooMany);
    // What is known already takes no room, and neither does a last resort.
    assert_eq!(engine.publish(&device, mls::one_time(&packages[..most])).await, published(0, 6, 6, false));
    assert_eq!(
        engine.publish(&device, mls::last_resort(&packages[most + 1])).await,
        published(1, 0, 6, true)
    );

    engine.claim(device.user_id, OneTimeKeys::Given).await;
    let one_more = engine.publish(&device, mls::one_time(&packages[most..=most])).await;
    assert_eq!(one_more, published(1, 0, 6, true));
}
