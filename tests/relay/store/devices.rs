//! How devices come.

use futures_util::future::join_all;
use restante::{
    domain::{DeviceId, IdentityKey, KeyKind, Position, Timestamp, UserId},
    store::{Deactivated, OneTimeKeys, Registered},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_first_registration_claims_the_user_with_everything_that_belongs_to_a_device,
    a_second_device_without_a_link_token_is_refused,
    an_active_device_id_is_refused_whatever_comes_with_it,
    of_racing_first_registrations_one_claims_the_user,
    of_racing_registrations_with_one_link_token_one_wins,
    a_link_token_is_for_its_device_and_key_and_hash_and_time,
    a_link_token_works_once,
    a_new_offer_replaces_the_outstanding_one,
    only_an_active_device_of_the_user_can_vouch,
    who_vouched_is_served_with_a_linked_device,
    a_user_has_at_most_the_allowed_number_of_devices,
    device_numbers_are_the_lowest_never_used_and_then_the_lowest_free,
    a_key_of_an_earlier_registration_is_refused_and_nothing_is_registered,
    a_device_is_seen_by_the_day,
);

async fn a_first_registration_claims_the_user_with_everything_that_belongs_to_a_device(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let caller = engine.register(registration.clone()).await;
    assert_eq!(caller.user_id, registration.user_id);
    assert_eq!(caller.device_id, registration.device_id);
    assert_eq!(caller.device_number.get(), 1);

    let devices = engine.store.devices(caller.user_id).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].device_no, caller.device_no);
    assert_eq!(devices[0].registration_id, registration.registration_id);
    assert!(devices[0].identity_key == registration.identity_key);
    assert_eq!(devices[0].device_name.as_deref(), Some("my phone"));
    assert_eq!(devices[0].created_at, NOON);
    assert_eq!(devices[0].last_seen, NOON.day());
    assert!(devices[0].linked_by.is_none());

    let stats =
        engine.store.key_stats(caller.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys, stats.kem_prekeys), (5, 5, 3));
    assert_eq!(stats.signed_prekey_at, NOON);
    assert!(!stats.last_resort_used);
    let lasting = engine.store.lasting_keys(caller.device_no).await.unwrap().unwrap();
    assert!(lasting.signed_prekey == registration.signed_prekey);
    assert!(lasting.last_resort_kem_prekey == registration.last_resort_kem_prekey);
    assert!(lasting.identity_key == registration.identity_key);
    let heads = engine.store.mailbox_heads(&[caller.device_no]).await.unwrap();
    assert_eq!(heads, [(caller.device_no, Position::START)]);
}

async fn a_second_device_without_a_link_token_is_refused(engine: Engine) {
    let phone = engine.newcomer().await;
    let mut tablet = mothers::registration(phone.user_id, "tablet");
    assert_eq!(engine.try_register(tablet.clone()).await, Registered::LinkRequired);
    tablet.link_token_hash = Some(mothers::bytes());
    assert_eq!(engine.try_register(tablet).await, Registered::LinkRequired);
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1);
}

async fn an_active_device_id_is_refused_whatever_comes_with_it(engine: Engine) {
    let phone = engine.newcomer().await;
    let bare = mothers::registration(phone.user_id, "phone");
    assert_eq!(engine.try_register(bare).await, Registered::DeviceExists);
    let again = mothers::linked(&phone, "phone", engine.now());
    assert!(engine.store.offer_link(again.offer, engine.now()).await.unwrap());
    assert_eq!(engine.try_register(again.registration).await, Registered::DeviceExists);
}

async fn of_racing_first_registrations_one_claims_the_user(engine: Engine) {
    for names in [["a", "b", "c", "d"], ["x", "x", "x", "x"]] {
        let user = mothers::user();
        let racing = names.map(|name| engine.try_register(mothers::registration(user, name)));
        let outcomes = join_all(racing).await;
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Registered::Registered(_))).count();
        assert_eq!(won, 1, "{outcomes:?}");
        let lost = if names[0] == names[1] { Registered::DeviceExists } else { Registered::LinkRequired };
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == lost).count(), 3, "{outcomes:?}");
        assert_eq!(engine.store.devices(user).await.unwrap().len(), 1);
    }
}

async fn of_racing_registrations_with_one_link_token_one_wins(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    engine.store.offer_link(linked.offer, engine.now()).await.unwrap();
    let outcomes = join_all((0..4).map(|_| engine.try_register(linked.registration.clone()))).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, Registered::Registered(_))).count();
    assert_eq!(won, 1, "{outcomes:?}");
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 2);
}

async fn a_link_token_is_for_its_device_and_key_and_hash_and_time(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());

    let mut other_device = linked.registration.clone();
    other_device.device_id = mothers::device_id("spy");
    let mut other_key = linked.registration.clone();
    other_key.identity_key = IdentityKey::Signal(mothers::bytes());
    let mut other_hash = linked.registration.clone();
    other_hash.link_token_hash = Some(mothers::bytes());
    for wrong in [other_device, other_key, other_hash] {
        assert_eq!(engine.try_register(wrong).await, Registered::LinkRequired);
    }
    engine.advance(std::time::Duration::from_mins(10));
    assert_eq!(engine.try_register(linked.registration.clone()).await, Registered::LinkRequired);
    engine.clock.set(NOON);
    engine.register(linked.registration).await;
}

async fn a_link_token_works_once(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    engine.store.offer_link(linked.offer, engine.now()).await.unwrap();
    let tablet = engine.register(linked.registration.clone()).await;
    let gone = engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(tablet.device_no));
    let mut again = mothers::registration(phone.user_id, "tablet");
    again.identity_key = linked.registration.identity_key;
    again.link_token_hash = linked.registration.link_token_hash;
    assert_eq!(engine.try_register(again).await, Registered::LinkRequired);
}

async fn a_new_offer_replaces_the_outstanding_one(engine: Engine) {
    let phone = engine.newcomer().await;
    let first = mothers::linked(&phone, "tablet", engine.now());
    let second = mothers::linked(&phone, "laptop", engine.now());
    assert!(engine.store.offer_link(first.offer, engine.now()).await.unwrap());
    assert!(engine.store.offer_link(second.offer, engine.now()).await.unwrap());
    assert_eq!(engine.try_register(first.registration).await, Registered::LinkRequired);
    engine.register(second.registration).await;
}

async fn only_an_active_device_of_the_user_can_vouch(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let linked = mothers::linked(&tablet, "laptop", engine.now());
    assert!(engine.store.offer_link(linked.offer.clone(), engine.now()).await.unwrap());
    engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    assert_eq!(engine.try_register(linked.registration).await, Registered::LinkRequired);
    assert!(!engine.store.offer_link(linked.offer, engine.now()).await.unwrap());

    let stranger = engine.newcomer().await;
    let mut forged = mothers::linked(&phone, "spy", engine.now()).offer;
    forged.by = stranger.device_no;
    assert!(!engine.store.offer_link(forged, engine.now()).await.unwrap());
}

async fn who_vouched_is_served_with_a_linked_device(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    engine.store.offer_link(linked.offer.clone(), engine.now()).await.unwrap();
    let tablet = engine.register(linked.registration).await;
    let devices = engine.store.devices(phone.user_id).await.unwrap();
    assert_eq!(devices[1].device_no, tablet.device_no);
    assert_eq!(devices[1].linked_by.as_ref(), Some(&linked.offer.linked_by));
    let taken = engine
        .store
        .take_bundle(phone.user_id, Some(&tablet.device_id), OneTimeKeys::Given)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(taken.bundle.linked_by, Some(linked.offer.linked_by));
}

async fn a_user_has_at_most_the_allowed_number_of_devices(engine: Engine) {
    let phone = engine.newcomer().await;
    for name in ["b", "c", "d", "e"] {
        engine.link(&phone, name).await;
    }
    let linked = mothers::linked(&phone, "f", engine.now());
    engine.store.offer_link(linked.offer, engine.now()).await.unwrap();
    assert_eq!(engine.try_register(linked.registration.clone()).await, Registered::TooManyDevices);
    engine.store.deactivate(&phone, &mothers::device_id("c"), engine.now()).await.unwrap();
    engine.register(linked.registration).await;
}

async fn device_numbers_are_the_lowest_never_used_and_then_the_lowest_free(engine: Engine) {
    let phone = engine.register(mothers::bare_registration(mothers::user(), "phone")).await;
    let keeper = engine.link(&phone, "keeper").await;
    assert_eq!(keeper.device_number.get(), 2);
    let mut numbers = Vec::new();
    for _ in 0..126 {
        let tablet = mothers::bare_registration(phone.user_id, "tablet");
        let linked = mothers::allowed_by(&phone, tablet, engine.now());
        engine.store.offer_link(linked.offer, engine.now()).await.unwrap();
        let tablet = engine.register(linked.registration).await;
        numbers.push(tablet.device_number.get());
        engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    }
    let mut expected: Vec<u8> = (3..=127).collect();
    expected.push(3);
    assert_eq!(numbers, expected);
}

async fn a_key_of_an_earlier_registration_is_refused_and_nothing_is_registered(engine: Engine) {
    let first = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(first.clone()).await;
    let mut linked = mothers::linked(&phone, "tablet", engine.now());
    engine.store.offer_link(linked.offer, engine.now()).await.unwrap();
    linked.registration.onetime_prekeys[2].public_key = first.onetime_prekeys[4].public_key.clone();
    let known = Registered::KeyReused(KeyKind::OneTime, linked.registration.onetime_prekeys[2].id);
    assert_eq!(engine.try_register(linked.registration.clone()).await, known);
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1);

    // The refusal used nothing up, and another user may have any key.
    linked.registration.onetime_prekeys[2] = mothers::onetime(33);
    engine.register(linked.registration).await;
    let elsewhere = restante::store::Registration { user_id: mothers::user(), ..first };
    let session = mothers::registration(mothers::user(), "x").session;
    engine.register(restante::store::Registration { session, ..elsewhere }).await;
}

async fn a_device_is_seen_by_the_day(engine: Engine) {
    let phone = engine.newcomer().await;
    let seen = async |user: UserId| engine.store.devices(user).await.unwrap()[0].last_seen;
    let later = NOON.plus(3 * DAY);
    engine.store.note_seen(phone.device_no, later).await.unwrap();
    assert_eq!(seen(phone.user_id).await, later.day());
    engine.store.note_seen(phone.device_no, NOON).await.unwrap();
    assert_eq!(seen(phone.user_id).await, later.day(), "a lagging clock takes nothing back");
    let nobody: Vec<DeviceId> = Vec::new();
    let unknown = engine.store.devices(mothers::user()).await.unwrap();
    assert_eq!(unknown.into_iter().map(|device| device.device_id).collect::<Vec<_>>(), nobody);
    assert!(engine.store.revocations(Timestamp::from_millis(0)).await.unwrap().is_empty());
}
