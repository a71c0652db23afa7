//! Which keys of former devices bring a user back.

use restante::{
    domain::{Caller, IdentityKey, UserId},
    store::{Registered, Registration, Revival},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    there_are_none_for_a_user_that_nobody_claimed_or_that_has_a_device,
    they_are_of_the_former_devices_newest_first,
    a_key_of_several_devices_is_named_once,
    there_are_at_most_16_and_an_older_one_brings_nobody_back,
    a_key_that_an_expelled_device_had_too_counts_for_the_one_that_ended_itself,
);

async fn keys(engine: &Engine, user: UserId) -> Vec<IdentityKey> {
    engine.store.recovery_keys(user).await.unwrap()
}

fn key() -> IdentityKey {
    IdentityKey::Signal(mothers::bytes())
}

/// A further device of a user, with this identity key.
async fn link(engine: &Engine, by: &Caller, device: &str, identity_key: IdentityKey) -> Caller {
    let registration = Registration { identity_key, ..mothers::registration(by.user_id, device) };
    let linked = mothers::allowed_by(by, registration, engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    engine.register(linked.registration).await
}

/// A device comes with this key, by an admission if it is not the first, and ends itself.
async fn come_and_go(engine: &Engine, user: UserId, identity_key: IdentityKey) {
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let registration = mothers::revived(user, "phone", admitted);
    let phone = engine.register(Registration { identity_key, may_claim: true, ..registration }).await;
    engine.deactivate(&phone, &phone).await;
}

async fn there_are_none_for_a_user_that_nobody_claimed_or_that_has_a_device(engine: Engine) {
    assert!(keys(&engine, mothers::user()).await.is_empty());
    let phone = engine.newcomer().await;
    assert!(keys(&engine, phone.user_id).await.is_empty());
    let tablet = link(&engine, &phone, "tablet", key()).await;
    engine.deactivate(&tablet, &tablet).await;
    assert!(keys(&engine, phone.user_id).await.is_empty(), "the phone is active");
    engine.deactivate(&phone, &phone).await;
    assert_eq!(keys(&engine, phone.user_id).await.len(), 2);
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    engine.register(mothers::revived(phone.user_id, "phone", admitted)).await;
    assert!(keys(&engine, phone.user_id).await.is_empty(), "the user came back");
}

async fn they_are_of_the_former_devices_newest_first(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    engine.advance(DAY);
    let (second, third) = (key(), key());
    let tablet = link(&engine, &phone, "tablet", second).await;
    engine.advance(DAY);
    let laptop = link(&engine, &phone, "laptop", third).await;
    // They end in another order than they came.
    for device in [&laptop, &phone, &tablet] {
        engine.advance(DAY);
        engine.deactivate(device, device).await;
    }
    assert!(keys(&engine, phone.user_id).await == [third, second, registration.identity_key]);
}

async fn a_key_of_several_devices_is_named_once(engine: Engine) {
    let user = mothers::user();
    let (one, other) = (key(), key());
    for identity_key in [one, other, one, one] {
        come_and_go(&engine, user, identity_key).await;
        engine.advance(DAY);
    }
    assert!(keys(&engine, user).await == [one, other], "where it came last");
}

async fn there_are_at_most_16_and_an_older_one_brings_nobody_back(engine: Engine) {
    let user = mothers::user();
    let mut came: Vec<IdentityKey> = (0..18).map(|_| key()).collect();
    for &identity_key in &came {
        come_and_go(&engine, user, identity_key).await;
    }
    came.reverse();
    assert!(keys(&engine, user).await == came[..16]);
    let revival = |key| mothers::revived(user, "phone", Revival::Recovered(key));
    assert_eq!(engine.try_register(revival(came[16])).await, Registered::LinkRequired);
    engine.register(revival(came[15])).await;
}

async fn a_key_that_an_expelled_device_had_too_counts_for_the_one_that_ended_itself(engine: Engine) {
    let shared = key();
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(Registration { identity_key: shared, ..registration }).await;
    let own = key();
    let tablet = link(&engine, &phone, "tablet", shared).await;
    let laptop = link(&engine, &phone, "laptop", own).await;
    engine.deactivate(&phone, &tablet).await;
    for device in [&phone, &laptop] {
        engine.deactivate(device, device).await;
    }
    assert!(keys(&engine, phone.user_id).await == [own, shared], "the phone, which had it too, ended itself");
    let back = mothers::revived(phone.user_id, "tablet", Revival::Recovered(shared));
    assert!(matches!(engine.try_register(back).await, Registered::Registered(_)));
}
