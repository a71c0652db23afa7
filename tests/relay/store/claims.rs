//! Who may claim a user id, since when it is claimed, and that a refusal uses nothing up.

use futures_util::future::join_all;
use restante::{
    domain::{IdentityKey, KeyKind, SecurityEvent},
    store::{Registered, Registration, Revival},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_user_id_that_nobody_has_is_not_claimed_without_admission,
    a_refusal_for_want_of_admission_uses_no_revival_up,
    a_linked_device_needs_no_admission,
    an_admission_to_claim_is_no_way_into_a_claimed_user_id,
    a_user_is_claimed_since_its_first_registration_whoever_registers_later,
    a_refused_registration_leaves_the_link_token_usable,
    a_refused_registration_leaves_the_admission_usable,
    of_two_racing_registrations_of_one_user_id_one_is_entered,
);

async fn a_user_id_that_nobody_has_is_not_claimed_without_admission(engine: Engine) {
    let unclaimed = Registration { may_claim: false, ..mothers::registration(mothers::user(), "phone") };
    let user = unclaimed.user_id;
    assert_eq!(engine.try_register(unclaimed.clone()).await, Registered::AdmissionRequired);
    assert!(engine.store.devices(user).await.unwrap().is_empty());
    assert!(engine.store.recovery_keys(user).await.unwrap().is_empty());
    assert!(engine.sessions(user).await.is_empty());
    assert!(engine.audit(user).await.is_empty());

    let with_token = Registration { link_token_hash: Some(mothers::bytes()), ..unclaimed.clone() };
    assert_eq!(engine.try_register(with_token).await, Registered::AdmissionRequired);

    // The very same keys and session: nothing of the refused ones was kept.
    engine.advance(DAY);
    let admitted = Registration { may_claim: true, ..unclaimed };
    let Registered::Registered(principal) = engine.try_register(admitted).await else {
        panic!("the user id is free");
    };
    assert_eq!(principal.user_since, NOON.plus(DAY), "claimed now, not when it was refused");
    assert_eq!(principal.caller.device_number.get(), 1);
}

async fn a_refusal_for_want_of_admission_uses_no_revival_up(engine: Engine) {
    let admission = mothers::single_use(NOON);
    for revival in [Revival::Admitted(admission), Revival::Recovered(IdentityKey::Signal(mothers::bytes()))] {
        let stranger = mothers::revived(mothers::user(), "phone", revival);
        assert_eq!(engine.try_register(stranger).await, Registered::AdmissionRequired);
    }
    assert!(engine.store.use_once(admission).await.unwrap(), "it was not used up");
}

async fn a_linked_device_needs_no_admission(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    engine.register(Registration { may_claim: false, ..linked.registration }).await;
}

async fn an_admission_to_claim_is_no_way_into_a_claimed_user_id(engine: Engine) {
    let phone = engine.newcomer().await;
    for may_claim in [false, true] {
        let spy = Registration { may_claim, ..mothers::registration(phone.user_id, "spy") };
        assert_eq!(engine.try_register(spy.clone()).await, Registered::LinkRequired);
    }
    engine.deactivate(&phone, &phone).await;
    for may_claim in [false, true] {
        let spy = Registration { may_claim, ..mothers::registration(phone.user_id, "spy") };
        assert_eq!(engine.try_register(spy).await, Registered::LinkRequired);
    }
}

async fn a_user_is_claimed_since_its_first_registration_whoever_registers_later(engine: Engine) {
    let since = async |registration| match engine.try_register(registration).await {
        Registered::Registered(principal) => (principal.caller, principal.user_since),
        refused => panic!("not registered: {refused:?}"),
    };
    let (phone, first) = since(mothers::registration(mothers::user(), "phone")).await;
    assert_eq!(first, NOON);

    engine.advance(DAY);
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    let (tablet, second) = since(linked.registration).await;
    assert_eq!(second, NOON);

    engine.deactivate(&phone, &tablet).await;
    engine.deactivate(&phone, &phone).await;
    engine.advance(DAY);
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let (back, third) = since(mothers::revived(phone.user_id, "phone", admitted)).await;
    assert_eq!(third, NOON);
    assert_eq!((back.user_id, back.device_id), (phone.user_id, phone.device_id));
}

async fn a_refused_registration_leaves_the_link_token_usable(engine: Engine) {
    let phone = engine.newcomer().await;
    let watch = engine.link(&phone, "watch").await;
    let mut again = mothers::linked(&phone, "watch", engine.now());
    assert!(engine.store.offer_link(again.offer, engine.now()).await.unwrap());
    assert_eq!(engine.try_register(again.registration.clone()).await, Registered::DeviceExists);

    engine.deactivate(&phone, &watch).await;
    let fresh = std::mem::replace(&mut again.registration.signed_prekey, mothers::signed(1));
    again.registration.signed_prekey.public_key = again.registration.onetime_prekeys[0].public_key.clone();
    let twice = engine.try_register(again.registration.clone()).await;
    assert!(matches!(twice, Registered::KeyReused(..)), "one key in two places: {twice:?}");

    again.registration.signed_prekey = fresh;
    engine.register(again.registration).await;
}

async fn a_refused_registration_leaves_the_admission_usable(engine: Engine) {
    let admission = mothers::single_use(engine.now());
    let mut claim = mothers::revived(mothers::user(), "phone", Revival::Admitted(admission));
    claim.may_claim = true;
    let first = claim.onetime_prekeys[0].clone();
    let fresh = std::mem::replace(&mut claim.onetime_prekeys[1], first);
    let twice = engine.try_register(claim.clone()).await;
    assert!(matches!(twice, Registered::KeyReused(..)), "{twice:?}");
    claim.onetime_prekeys[1] = fresh;
    engine.register(claim).await;

    let first = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(first.clone()).await;
    let admission = mothers::single_use(engine.now());
    let mut back = mothers::revived(phone.user_id, "phone", Revival::Admitted(admission));
    assert_eq!(engine.try_register(back.clone()).await, Registered::DeviceExists);
    let beside = Registration { device_id: mothers::device_id("laptop"), ..back.clone() };
    assert_eq!(engine.try_register(beside).await, Registered::LinkRequired);

    engine.deactivate(&phone, &phone).await;
    let fresh = std::mem::replace(&mut back.onetime_prekeys[1], first.onetime_prekeys[1].clone());
    let reused = Registered::KeyReused(KeyKind::OneTime, fresh.id);
    assert_eq!(engine.try_register(back.clone()).await, reused);
    back.onetime_prekeys[1] = fresh;
    engine.register(back).await;
    assert!(!engine.store.use_once(admission).await.unwrap(), "now it is used up");
}

async fn of_two_racing_registrations_of_one_user_id_one_is_entered(engine: Engine) {
    for _ in 0..8 {
        let user = mothers::user();
        let racing = ["phone", "tablet"].map(|name| engine.try_register(mothers::registration(user, name)));
        let outcomes = join_all(racing).await;
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Registered::Registered(_))).count();
        assert_eq!(won, 1, "{outcomes:?}");
        assert!(outcomes.contains(&Registered::LinkRequired), "{outcomes:?}");
        assert_eq!(engine.store.devices(user).await.unwrap().len(), 1);
        assert_eq!(engine.sessions(user).await.len(), 1);
        let events: Vec<_> = engine.audit(user).await.into_iter().map(|entry| entry.event).collect();
        assert_eq!(events, [SecurityEvent::DeviceAdded]);
    }
}
