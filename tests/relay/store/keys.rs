//! Bundles and pre-keys.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::future::join_all;
use restante::{
    domain::{DeviceNo, KeyId, KeyKind, OneTimePreKey},
    store::{KeyUpload, OneTimeKeys, Published},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_bundle_is_of_the_oldest_device_unless_one_is_named,
    one_time_keys_are_given_once_and_lowest_id_first_until_there_are_none,
    a_device_without_kem_keys_gives_bundles_without,
    concurrent_takes_give_no_key_twice_and_lose_none,
    bundles_of_all_devices_are_taken_in_one_act,
    new_keys_are_added_to_the_stock,
    a_repeated_upload_is_known_even_when_its_keys_are_used,
    an_id_that_belongs_to_another_key_is_refused_with_the_whole_upload,
    a_key_under_another_id_is_refused,
    of_several_keys_that_must_not_come_the_first_is_named,
    more_keys_than_a_device_may_have_are_refused,
    a_signed_prekey_is_replaced_and_never_comes_back,
    a_last_resort_prekey_is_replaced_and_never_comes_back,
);

async fn publish(engine: &Engine, device: DeviceNo, upload: KeyUpload) -> Published {
    engine.store.publish_keys(device, upload, engine.now()).await.unwrap()
}

fn id(number: i64) -> KeyId {
    KeyId::new(number).unwrap()
}

async fn a_bundle_is_of_the_oldest_device_unless_one_is_named(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    let tablet = engine.link(&phone, "tablet").await;
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(taken.device_no, phone.device_no);
    assert_eq!(taken.bundle.user_id, phone.user_id);
    assert_eq!(taken.bundle.device_id, phone.device_id);
    assert_eq!(taken.bundle.device_number, phone.device_number);
    assert_eq!(taken.bundle.registration_id, registration.registration_id);
    assert!(taken.bundle.identity_key == registration.identity_key);
    assert!(taken.bundle.signed_prekey == registration.signed_prekey);
    assert!(taken.bundle.onetime_prekey.as_ref() == Some(&registration.onetime_prekeys[0]));
    assert!(taken.bundle.kem_prekey.as_ref() == Some(&registration.kem_prekeys[0]));
    let named = engine
        .store
        .take_bundle(phone.user_id, Some(&tablet.device_id), OneTimeKeys::Given)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(named.device_no, tablet.device_no);
    let absent = mothers::device_id("absent");
    assert!(
        engine.store.take_bundle(phone.user_id, Some(&absent), OneTimeKeys::Given).await.unwrap().is_none()
    );
    assert!(engine.store.take_bundle(mothers::user(), None, OneTimeKeys::Given).await.unwrap().is_none());
}

async fn one_time_keys_are_given_once_and_lowest_id_first_until_there_are_none(engine: Engine) {
    let phone = engine.newcomer().await;
    for round in 1..=7_u32 {
        let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
        let onetime = taken.bundle.onetime_prekey.map(|key| key.id.get());
        assert_eq!(onetime, (round <= 5).then_some(round));
        let kem = taken.bundle.kem_prekey.unwrap().id.get();
        assert_eq!(kem, if round <= 3 { round } else { 100 });
        assert_eq!(taken.onetime_left, 5_u32.saturating_sub(round));
        assert_eq!(taken.kem_left, 3_u32.saturating_sub(round));
        assert_eq!(taken.last_resort_given, round > 3);
        let stats =
            engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
        assert_eq!(stats.last_resort_used, round > 3);
        assert_eq!((stats.unused_prekeys, stats.total_prekeys), (taken.onetime_left, 5));
    }
}

async fn a_device_without_kem_keys_gives_bundles_without(engine: Engine) {
    let phone = engine.register(mothers::bare_registration(mothers::user(), "phone")).await;
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert!(taken.bundle.kem_prekey.is_none() && taken.bundle.onetime_prekey.is_none());
    assert!(!taken.last_resort_given);
}

async fn concurrent_takes_give_no_key_twice_and_lose_none(engine: Engine) {
    let mut registration = mothers::registration(mothers::user(), "phone");
    registration.onetime_prekeys = (1..=20).map(mothers::onetime).collect();
    registration.kem_prekeys = (1..=20).map(mothers::kem).collect();
    let phone = engine.register(registration).await;
    let takers = (0..30).map(|_| engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given));
    let taken: Vec<_> =
        join_all(takers).await.into_iter().map(|taken| taken.unwrap().unwrap().bundle).collect();
    let given: Vec<_> = taken.iter().filter_map(|bundle| bundle.onetime_prekey.as_ref()).collect();
    assert_eq!(given.len(), 20);
    assert_eq!(given.iter().map(|key| key.id).collect::<BTreeSet<_>>(), (1..=20).map(id).collect());
    let kem: Vec<_> = taken.iter().map(|bundle| bundle.kem_prekey.as_ref().unwrap().id.get()).collect();
    assert_eq!(kem.iter().filter(|&&id| id == 100).count(), 10, "the rest are last-resort");
    assert_eq!(kem.iter().filter(|&&id| id != 100).collect::<BTreeSet<_>>().len(), 20);
}

async fn bundles_of_all_devices_are_taken_in_one_act(engine: Engine) {
    let phone = engine.newcomer().await;
    let only =
        engine.store.take_bundles(phone.user_id, Some(phone.device_no), OneTimeKeys::Given).await.unwrap();
    assert!(only.unwrap().is_empty());
    let tablet = engine.link(&phone, "tablet").await;
    let all = engine.store.take_bundles(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    let of: Vec<_> = all.iter().map(|taken| taken.device_no).collect();
    assert_eq!(of, [phone.device_no, tablet.device_no]);
    let others = engine
        .store
        .take_bundles(phone.user_id, Some(phone.device_no), OneTimeKeys::Given)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].device_no, tablet.device_no);
    assert_eq!(others[0].bundle.onetime_prekey.as_ref().unwrap().id, id(2));
    assert!(engine.store.take_bundles(mothers::user(), None, OneTimeKeys::Given).await.unwrap().is_none());
}

async fn new_keys_are_added_to_the_stock(engine: Engine) {
    let phone = engine.newcomer().await;
    let upload = KeyUpload {
        onetime_prekeys: vec![mothers::onetime(6), mothers::onetime(7)],
        kem_prekeys: vec![mothers::kem(4)],
        ..KeyUpload::default()
    };
    let published = publish(&engine, phone.device_no, upload).await;
    let expected = Published::Published { accepted: 3, already_known: 0, onetime_count: 7, kem_count: 4 };
    assert_eq!(published, expected);
    let stats = engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys, stats.kem_prekeys), (7, 7, 4));
}

async fn a_repeated_upload_is_known_even_when_its_keys_are_used(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap();
    let upload = KeyUpload {
        signed_prekey: Some(registration.signed_prekey),
        onetime_prekeys: registration.onetime_prekeys,
        kem_prekeys: registration.kem_prekeys,
        last_resort_kem_prekey: registration.last_resort_kem_prekey,
    };
    let published = publish(&engine, phone.device_no, upload).await;
    let expected = Published::Published { accepted: 0, already_known: 10, onetime_count: 4, kem_count: 2 };
    assert_eq!(published, expected);
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(taken.bundle.onetime_prekey.unwrap().id, id(2), "a used key is not given again");
}

async fn an_id_that_belongs_to_another_key_is_refused_with_the_whole_upload(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap();
    let upload = KeyUpload {
        signed_prekey: Some(mothers::signed(2)),
        onetime_prekeys: vec![mothers::onetime(8), mothers::onetime(1)],
        ..KeyUpload::default()
    };
    let refused = publish(&engine, phone.device_no, upload).await;
    assert_eq!(refused, Published::KeyReused(KeyKind::OneTime, id(1)));
    let stats = engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys), (4, 5));
    let lasting = engine.store.lasting_keys(phone.device_no).await.unwrap().unwrap();
    assert_eq!(lasting.signed_prekey.id, id(1));
}

async fn a_key_under_another_id_is_refused(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    let mut known = registration.onetime_prekeys[0].clone();
    known.id = id(50);
    let upload = KeyUpload { onetime_prekeys: vec![known.clone()], ..KeyUpload::default() };
    let refused = publish(&engine, phone.device_no, upload).await;
    assert_eq!(refused, Published::KeyReused(KeyKind::OneTime, id(50)));

    let tablet = engine.link(&phone, "tablet").await;
    let upload = KeyUpload { onetime_prekeys: vec![known], ..KeyUpload::default() };
    let refused = publish(&engine, tablet.device_no, upload).await;
    assert_eq!(refused, Published::KeyReused(KeyKind::OneTime, id(50)), "of another device of the user");

    let mut twin = mothers::onetime(60);
    let twins = vec![twin.clone(), {
        twin.id = id(61);
        twin
    }];
    let upload = KeyUpload { onetime_prekeys: twins, ..KeyUpload::default() };
    let refused = publish(&engine, phone.device_no, upload).await;
    assert_eq!(refused, Published::KeyReused(KeyKind::OneTime, id(61)), "twice in one upload");
}

/// The signed pre-key, then the one-time, the KEM and the last-resort ones, whatever is wrong with each.
async fn of_several_keys_that_must_not_come_the_first_is_named(engine: Engine) {
    let phone = engine.newcomer().await;
    let twin = mothers::onetime(21);
    let mut upload = KeyUpload {
        signed_prekey: Some(mothers::signed(1)),
        onetime_prekeys: vec![
            twin.clone(),
            OneTimePreKey { id: id(20), public_key: twin.public_key },
            mothers::onetime(4),
        ],
        kem_prekeys: vec![mothers::kem(3), mothers::kem(2)],
        last_resort_kem_prekey: Some(mothers::kem(100)),
    };
    let refused = async |upload: &KeyUpload| match publish(&engine, phone.device_no, upload.clone()).await {
        Published::KeyReused(kind, key) => (kind, key),
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(&upload).await, (KeyKind::Signed, id(1)));
    upload.signed_prekey = None;
    assert_eq!(refused(&upload).await, (KeyKind::OneTime, id(20)), "it stands twice");
    upload.onetime_prekeys.remove(1);
    assert_eq!(refused(&upload).await, (KeyKind::OneTime, id(4)));
    upload.onetime_prekeys.clear();
    assert_eq!(refused(&upload).await, (KeyKind::Kem, id(3)));
    upload.kem_prekeys.clear();
    assert_eq!(refused(&upload).await, (KeyKind::Kem, id(100)));
}

async fn more_keys_than_a_device_may_have_are_refused(engine: Engine) {
    let phone = engine.newcomer().await;
    let onetime = |ids: std::ops::RangeInclusive<i64>| KeyUpload {
        onetime_prekeys: ids.map(mothers::onetime).collect(),
        ..KeyUpload::default()
    };
    let refused = publish(&engine, phone.device_no, onetime(6..=51)).await;
    assert_eq!(refused, Published::TooMany(KeyKind::OneTime));
    let all = publish(&engine, phone.device_no, onetime(6..=50)).await;
    assert!(matches!(all, Published::Published { accepted: 45, onetime_count: 50, .. }), "{all:?}");
    let kem = KeyUpload { kem_prekeys: (4..=51).map(mothers::kem).collect(), ..KeyUpload::default() };
    assert_eq!(publish(&engine, phone.device_no, kem).await, Published::TooMany(KeyKind::Kem));
    let lasting = KeyUpload { last_resort_kem_prekey: Some(mothers::kem(101)), ..KeyUpload::default() };
    let lasting = publish(&engine, phone.device_no, lasting).await;
    assert!(matches!(lasting, Published::Published { accepted: 1, kem_count: 3, .. }), "{lasting:?}");
}

async fn a_signed_prekey_is_replaced_and_never_comes_back(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    engine.advance(7 * DAY);
    let second = mothers::signed(2);
    let rotate = |key| KeyUpload { signed_prekey: Some(key), ..KeyUpload::default() };
    let published = publish(&engine, phone.device_no, rotate(second.clone())).await;
    assert!(matches!(published, Published::Published { accepted: 1, already_known: 0, .. }), "{published:?}");
    let stats = engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!(stats.signed_prekey_at, engine.now());
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert!(taken.bundle.signed_prekey == second);

    engine.advance(DAY);
    let repeated = publish(&engine, phone.device_no, rotate(second.clone())).await;
    assert!(matches!(repeated, Published::Published { accepted: 0, already_known: 1, .. }), "{repeated:?}");
    let back = publish(&engine, phone.device_no, rotate(registration.signed_prekey)).await;
    assert_eq!(back, Published::KeyReused(KeyKind::Signed, id(1)));
    let mut forged = second.clone();
    forged.public_key = Bytes::copy_from_slice(&mothers::bytes::<33>());
    let other = publish(&engine, phone.device_no, rotate(forged)).await;
    assert_eq!(other, Published::KeyReused(KeyKind::Signed, id(2)));
    let lasting = engine.store.lasting_keys(phone.device_no).await.unwrap().unwrap();
    assert!(lasting.signed_prekey == second);
}

async fn a_last_resort_prekey_is_replaced_and_never_comes_back(engine: Engine) {
    let mut registration = mothers::registration(mothers::user(), "phone");
    registration.kem_prekeys.clear();
    let phone = engine.register(registration.clone()).await;
    engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap();
    let used = async || {
        engine
            .store
            .key_stats(phone.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .last_resort_used
    };
    assert!(used().await);
    let replace = |key| KeyUpload { last_resort_kem_prekey: Some(key), ..KeyUpload::default() };
    publish(&engine, phone.device_no, replace(mothers::kem(101))).await;
    assert!(!used().await);
    let back = publish(&engine, phone.device_no, replace(registration.last_resort_kem_prekey.unwrap())).await;
    assert_eq!(back, Published::KeyReused(KeyKind::Kem, id(100)));
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(taken.bundle.kem_prekey.unwrap().id, id(101));
}
