//! MLS signature keys: registered, rotated, and never two devices'.

use restante::{
    domain::{Caller, CipherSuite, MlsSignatureKey, SecurityEvent, SignatureScheme},
    store::{
        Advance, Advanced, CannotAdd, MlsKeySet, OneTimeKeys, PackagePlace, PackageUpload, Registered,
        Registration,
    },
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers::{self as mls, SUITE},
    mothers,
};

on_both_engines!(roomy =>
    a_device_has_one_key_of_each_scheme,
    a_new_key_drops_the_packages_of_the_former_one,
    a_new_key_leaves_the_other_schemes_packages_alone,
    a_key_that_is_or_was_anothers_is_refused,
    a_device_that_is_gone_gets_no_key,
    a_device_registers_with_keys_and_packages,
    a_registration_with_a_bad_mls_key_or_package_keeps_nothing,
    a_key_of_a_device_that_was_registered_is_refused_the_relay_over,
);

async fn rotations(engine: &Engine, device: &Caller) -> usize {
    let trail = engine.audit(device.user_id).await;
    trail.iter().filter(|entry| entry.event == SecurityEvent::KeyRotated).count()
}

async fn a_device_has_one_key_of_each_scheme(engine: Engine) {
    let device = engine.newcomer().await;
    let first = mls::signature_key(SignatureScheme::Ed25519);
    let p256 = mls::signature_key(SignatureScheme::EcdsaP256);
    let second = mls::signature_key(SignatureScheme::Ed25519);
    for key in [&first, &p256] {
        assert_eq!(engine.set_key(&device, key).await, MlsKeySet::Set(0));
    }
    assert_eq!(rotations(&engine, &device).await, 0, "there was no other one");
    assert_eq!(engine.set_key(&device, &first).await, MlsKeySet::Set(0));
    assert_eq!(rotations(&engine, &device).await, 0, "it is the same");
    assert_eq!(engine.mls_key(&device, SignatureScheme::Ed25519).await, Some(first.clone()));
    assert_eq!(engine.set_key(&device, &second).await, MlsKeySet::Set(0));
    assert_eq!(rotations(&engine, &device).await, 1);
    assert_eq!(engine.mls_key(&device, SignatureScheme::Ed25519).await, Some(second));
    assert_eq!(engine.mls_key(&device, SignatureScheme::EcdsaP256).await, Some(p256));
    assert_eq!(engine.set_key(&device, &first).await, MlsKeySet::Reused, "it is a former one");
}

async fn a_new_key_drops_the_packages_of_the_former_one(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[]).await;
    let joiner = engine.joiner(&bob, 1).await;
    let stats =
        async || engine.store.key_stats(bob.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    // Three and the last resort were published, and one was added and handed out; whichever was given first.
    let stored = stats().await.key_packages;
    let key = mls::signature_key(SignatureScheme::Ed25519);
    let MlsKeySet::Set(dropped) = engine.set_key(&bob, &key).await else { panic!("a fresh key") };
    assert!(dropped > stored, "{dropped}: the last resort and {stored} others");
    assert_eq!(stats().await.key_packages, 0);
    assert!(engine.claim(bob.user_id, OneTimeKeys::Given).await.is_empty());
    let issued = engine.store.issued_packages(&[joiner.reference]).await.unwrap();
    assert!(issued.iter().all(|issued| !issued.usable));

    let before = engine.tables().await;
    let refused = CannotAdd::PackageUsed(joiner.reference);
    let advance = Advance { joiners: vec![joiner], ..engine.commit(group, &alice).await };
    assert_eq!(engine.try_advance(advance).await, Advanced::CannotAdd(refused));
    engine.assert_unchanged(&before, "a refused commit").await;
    engine.add(group, &alice, &[&bob]).await;
}

async fn a_new_key_leaves_the_other_schemes_packages_alone(engine: Engine) {
    let device = engine.mls_newcomer().await;
    let p256 = mls::signature_key(SignatureScheme::EcdsaP256);
    engine.set_key(&device, &p256).await;
    engine.publish(&device, mls::one_time(&[mls::package(&p256, CipherSuite::P256Aes128)])).await;
    let next = mls::signature_key(SignatureScheme::EcdsaP256);
    assert_eq!(engine.set_key(&device, &next).await, MlsKeySet::Set(1));
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!((claimed[0].2, claimed[0].3), (false, 2));
}

async fn a_key_that_is_or_was_anothers_is_refused(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let (current, former) =
        (mls::signature_key(SignatureScheme::Ed25519), mls::signature_key(SignatureScheme::Ed25519));
    engine.set_key(&alice, &former).await;
    engine.set_key(&alice, &current).await;
    let tablet = engine.link(&alice, "tablet").await;
    let before = engine.tables().await;
    for device in [&bob, &tablet] {
        for key in [&current, &former] {
            let signed = MlsSignatureKey { signature: mothers::bytes(), ..key.clone() };
            assert_eq!(engine.set_key(device, &signed).await, MlsKeySet::Reused);
        }
    }
    engine.assert_unchanged(&before, "a refused key").await;
    engine.deactivate(&alice, &alice).await;
    assert_eq!(engine.set_key(&bob, &current).await, MlsKeySet::Reused, "it was a device's that is gone");
}

async fn a_device_that_is_gone_gets_no_key(engine: Engine) {
    let device = engine.newcomer().await;
    engine.deactivate(&device, &device).await;
    let before = engine.tables().await;
    let key = mls::signature_key(SignatureScheme::Ed25519);
    assert_eq!(engine.set_key(&device, &key).await, MlsKeySet::Gone);
    engine.assert_unchanged(&before, "a device that is gone").await;
}

async fn a_device_registers_with_keys_and_packages(engine: Engine) {
    let mut registration = mls::registration(mothers::user(), "phone");
    registration.mls_signature_keys.push(mls::signature_key(SignatureScheme::EcdsaP256));
    let device = engine.register(registration.clone()).await;
    for key in &registration.mls_signature_keys {
        assert_eq!(engine.mls_key(&device, key.scheme).await.as_ref(), Some(key));
    }
    let stats =
        engine.store.key_stats(device.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.key_packages, stats.last_resort_used), (3, false));
    for (place, package) in registration.packages.packages.iter().enumerate() {
        let left = u32::try_from(2 - place).unwrap();
        let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
        assert_eq!(claimed, [(device.device_no, package.body.clone(), false, left)]);
    }
    let last = registration.packages.last_resort.unwrap();
    let claimed = engine.claim(device.user_id, OneTimeKeys::Given).await;
    assert_eq!(claimed, [(device.device_no, last.body, true, 0)]);
}

async fn a_registration_with_a_bad_mls_key_or_package_keeps_nothing(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let theirs = engine.mls_key(&alice, SignatureScheme::Ed25519).await.unwrap();
    let good = mls::registration(mothers::user(), "phone");
    let key = good.mls_signature_keys[0].clone();
    let before = engine.tables().await;
    let unknown = mls::package(&mls::signature_key(SignatureScheme::Ed25519), SUITE);
    let one = good.packages.packages[0].clone();
    let twin =
        restante::domain::KeyPackage { init_key_digest: one.init_key_digest, ..mls::package(&key, SUITE) };
    let bad = |packages: &[restante::domain::KeyPackage], last_resort| Registration {
        packages: PackageUpload { packages: packages.to_vec(), last_resort },
        ..good.clone()
    };
    let cases = [
        (
            Registration {
                mls_signature_keys: vec![theirs],
                packages: PackageUpload::default(),
                ..good.clone()
            },
            Registered::MlsKeyReused(SignatureScheme::Ed25519),
        ),
        (
            bad(&[one.clone(), unknown.clone()], Some(unknown.clone())),
            Registered::PackageKeyUnknown(PackagePlace::OneTime(1)),
        ),
        (bad(&[], Some(unknown)), Registered::PackageKeyUnknown(PackagePlace::LastResort)),
        (bad(&[one.clone(), twin.clone()], None), Registered::PackageReused(PackagePlace::OneTime(1))),
        (bad(&[one], Some(twin)), Registered::PackageReused(PackagePlace::LastResort)),
    ];
    for (registration, refusal) in cases {
        assert_eq!(engine.try_register(registration).await, refusal);
        engine.assert_unchanged(&before, "a refused registration").await;
    }
    engine.register(good).await;
}

async fn a_key_of_a_device_that_was_registered_is_refused_the_relay_over(engine: Engine) {
    let first = mls::registration(mothers::user(), "phone");
    let device = engine.register(first.clone()).await;
    engine.deactivate(&device, &device).await;
    let copied = Registration {
        mls_signature_keys: first.mls_signature_keys,
        ..mothers::bare_registration(mothers::user(), "phone")
    };
    let refused = engine.try_register(copied).await;
    assert_eq!(refused, Registered::MlsKeyReused(SignatureScheme::Ed25519));
}
