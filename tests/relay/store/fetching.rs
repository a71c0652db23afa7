//! What limits on the fetching of bundles rest on: bundles without one-time keys, and who has written to whom.

use restante::{
    domain::{Caller, METADATA_LIFE},
    store::{KeyUpload, OneTimeKeys, TakenBundle},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    a_bundle_without_one_time_keys_takes_none,
    a_bundle_without_one_time_keys_has_no_kem_key_when_there_is_no_last_resort_one,
    bundles_of_all_devices_are_given_without_one_time_keys_too,
    who_wrote_has_written,
    more_than_200_later_messages_hide_that_somebody_wrote,
    notices_hide_nothing,
    a_message_that_is_forgotten_was_not_written,
);

async fn withheld(engine: &Engine, device: &Caller) -> TakenBundle {
    let taken = engine.store.take_bundle(device.user_id, Some(&device.device_id), OneTimeKeys::Withheld);
    taken.await.unwrap().unwrap()
}

async fn a_bundle_without_one_time_keys_takes_none(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    for _ in 0..3 {
        let taken = withheld(&engine, &phone).await;
        assert!(taken.bundle.onetime_prekey.is_none());
        assert!(taken.bundle.kem_prekey == registration.last_resort_kem_prekey);
        assert!(taken.bundle.signed_prekey == registration.signed_prekey);
        assert_eq!((taken.onetime_left, taken.kem_left), (5, 3));
        assert!(taken.last_resort_given);
        let stats =
            engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
        assert_eq!((stats.unused_prekeys, stats.total_prekeys, stats.kem_prekeys), (5, 5, 3));
        assert!(stats.last_resort_used);
    }
    let given = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert!(given.bundle.onetime_prekey.as_ref() == Some(&registration.onetime_prekeys[0]));
    assert!(given.bundle.kem_prekey.as_ref() == Some(&registration.kem_prekeys[0]));
    assert!(!given.last_resort_given);

    let fresh = KeyUpload { last_resort_kem_prekey: Some(mothers::kem(101)), ..KeyUpload::default() };
    engine.store.publish_keys(phone.device_no, fresh, engine.now()).await.unwrap();
    assert!(
        !engine
            .store
            .key_stats(phone.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .last_resort_used
    );
    assert_eq!(withheld(&engine, &phone).await.bundle.kem_prekey.unwrap().id.get(), 101);
    assert!(
        engine
            .store
            .key_stats(phone.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .last_resort_used
    );
}

async fn a_bundle_without_one_time_keys_has_no_kem_key_when_there_is_no_last_resort_one(engine: Engine) {
    let mut registration = mothers::registration(mothers::user(), "phone");
    registration.last_resort_kem_prekey = None;
    let phone = engine.register(registration).await;
    let taken = withheld(&engine, &phone).await;
    assert!(taken.bundle.onetime_prekey.is_none() && taken.bundle.kem_prekey.is_none());
    assert!(!taken.last_resort_given);
    assert_eq!((taken.onetime_left, taken.kem_left), (5, 3));
    assert!(
        !engine
            .store
            .key_stats(phone.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .last_resort_used
    );
}

async fn bundles_of_all_devices_are_given_without_one_time_keys_too(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let take = async |except| {
        engine.store.take_bundles(phone.user_id, except, OneTimeKeys::Withheld).await.unwrap().unwrap()
    };
    let taken = take(None).await;
    let of: Vec<_> = taken.iter().map(|taken| taken.device_no).collect();
    assert_eq!(of, [phone.device_no, tablet.device_no]);
    for taken in &taken {
        assert!(taken.bundle.onetime_prekey.is_none());
        assert_eq!(taken.bundle.kem_prekey.as_ref().unwrap().id.get(), 100);
        assert_eq!((taken.onetime_left, taken.kem_left, taken.last_resort_given), (5, 3, true));
        let stats =
            engine.store.key_stats(taken.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
        assert_eq!((stats.unused_prekeys, stats.kem_prekeys, stats.last_resort_used), (5, 3, true));
    }
    let others = take(Some(phone.device_no)).await;
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].device_no, tablet.device_no);
}

/// Whether one user wrote in its conversation with another.
async fn has_written(engine: &Engine, from: &Caller, to: &Caller) -> bool {
    let conversation = mothers::conversation(from.user_id, to.user_id);
    engine.store.has_written(conversation, from.user_id).await.unwrap()
}

async fn who_wrote_has_written(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    assert!(!has_written(&engine, &alice, &bob).await, "there is no such conversation");
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.stored(mothers::send(&alice, carol.user_id)).await;
    assert!(has_written(&engine, &alice, &bob).await);
    assert!(!has_written(&engine, &bob, &alice).await, "only the other side wrote");
    let tablet = engine.link(&bob, "tablet").await;
    engine.stored(mothers::send(&tablet, alice.user_id)).await;
    assert!(has_written(&engine, &bob, &alice).await, "from whichever device");
    assert!(!has_written(&engine, &carol, &alice).await);
    let between_others = mothers::conversation(alice.user_id, bob.user_id);
    assert!(!engine.store.has_written(between_others, carol.user_id).await.unwrap());
    engine.ack_all(alice.device_no).await;
    assert!(has_written(&engine, &bob, &alice).await, "acked or not");
}

async fn more_than_200_later_messages_hide_that_somebody_wrote(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    let write = async |times| {
        for _ in 0..times {
            engine.stored(mothers::send(&bob, alice.user_id)).await;
        }
    };
    write(199).await;
    assert!(has_written(&engine, &alice, &bob).await, "one of the latest 200");
    write(1).await;
    assert!(!has_written(&engine, &alice, &bob).await);
    assert!(has_written(&engine, &bob, &alice).await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert!(has_written(&engine, &alice, &bob).await);
}

async fn notices_hide_nothing(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    for _ in 0..150 {
        let id = engine.stored(mothers::send(&bob, alice.user_id)).await.message_id;
        engine.store.delete_for_everyone(bob.user_id, id, engine.now()).await.unwrap();
    }
    assert!(has_written(&engine, &alice, &bob).await);
}

async fn a_message_that_is_forgotten_was_not_written(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.advance(METADATA_LIFE);
    engine.expire_all().await;
    assert!(!has_written(&engine, &alice, &bob).await);
}
