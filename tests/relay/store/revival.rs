//! How a user without devices comes back, and that nothing of before comes with it.

use futures_util::future::join_all;
use restante::{
    domain::{Caller, IdentityKey, KeyKind, Position, UserId},
    store::{OneTimeKeys, Registered, Registration, Revival, Rotated},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    a_former_identity_key_brings_a_user_back,
    an_admission_brings_a_user_back_once,
    an_admission_that_was_used_elsewhere_brings_nobody_back,
    a_revival_counts_for_nothing_while_a_device_is_active,
    a_link_token_is_enough_and_leaves_the_admission_unused,
    a_key_that_never_was_the_users_brings_nobody_back,
    the_key_of_an_expelled_device_brings_nobody_back,
    an_expelled_key_does_not_come_back_by_an_old_signature,
    an_admission_that_came_with_a_claim_brings_nobody_back,
    an_admission_that_was_used_claims_nothing,
    a_revived_user_inherits_nothing,
    a_link_offered_before_the_end_is_worth_nothing_after_a_revival,
    of_racing_revivals_with_one_admission_one_wins,
    of_racing_revivals_with_an_admission_each_one_is_used_up,
    of_two_users_with_one_admission_one_comes_back,
);

/// A user whose only device ended itself, and the identity key it had.
async fn bereft(engine: &Engine) -> (Caller, IdentityKey) {
    let registration = mothers::registration(mothers::user(), "phone");
    let key = registration.identity_key;
    let phone = engine.register(registration).await;
    engine.deactivate(&phone, &phone).await;
    (phone, key)
}

async fn revive(engine: &Engine, user: UserId, device: &str, revival: Revival) -> Registered {
    engine.try_register(mothers::revived(user, device, revival)).await
}

fn won(outcomes: &[Registered]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Registered::Registered(_))).count()
}

async fn a_former_identity_key_brings_a_user_back(engine: Engine) {
    let (phone, key) = bereft(&engine).await;
    let back = engine.register(mothers::revived(phone.user_id, "phone", Revival::Recovered(key))).await;
    assert_eq!((back.user_id, back.device_id.clone()), (phone.user_id, phone.device_id));
    let devices = engine.store.devices(phone.user_id).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].device_no, back.device_no);
    assert!(devices[0].linked_by.is_none());
    engine.deactivate(&back, &back).await;
    engine.register(mothers::revived(phone.user_id, "phone", Revival::Recovered(key))).await;
}

async fn an_admission_brings_a_user_back_once(engine: Engine) {
    let (phone, _) = bereft(&engine).await;
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let back = engine.register(mothers::revived(phone.user_id, "phone", admitted.clone())).await;
    engine.deactivate(&back, &back).await;
    assert_eq!(revive(&engine, phone.user_id, "phone", admitted.clone()).await, Registered::AdmissionUsed);
    let (other, _) = bereft(&engine).await;
    assert_eq!(revive(&engine, other.user_id, "phone", admitted).await, Registered::AdmissionUsed);
    assert!(engine.store.devices(other.user_id).await.unwrap().is_empty());
}

async fn an_admission_that_was_used_elsewhere_brings_nobody_back(engine: Engine) {
    let (phone, _) = bereft(&engine).await;
    let admission = mothers::single_use(engine.now());
    assert!(engine.store.use_once(admission).await.unwrap());
    let refused = revive(&engine, phone.user_id, "phone", Revival::Admitted(admission)).await;
    assert_eq!(refused, Registered::AdmissionUsed);
}

async fn a_revival_counts_for_nothing_while_a_device_is_active(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    let admission = mothers::single_use(engine.now());
    for revival in [Revival::Admitted(admission), Revival::Recovered(registration.identity_key)] {
        let spy = revive(&engine, phone.user_id, "spy", revival).await;
        assert_eq!(spy, Registered::LinkRequired);
    }
    assert!(engine.store.use_once(admission).await.unwrap(), "it was not used up");
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1);
}

async fn a_link_token_is_enough_and_leaves_the_admission_unused(engine: Engine) {
    let phone = engine.newcomer().await;
    let admission = mothers::single_use(engine.now());
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    let revival = Some(Revival::Admitted(admission));
    engine.register(Registration { revival, ..linked.registration }).await;
    assert!(engine.store.use_once(admission).await.unwrap());
}

async fn a_key_that_never_was_the_users_brings_nobody_back(engine: Engine) {
    let (phone, key) = bereft(&engine).await;
    let (_, of_another) = bereft(&engine).await;
    for wrong in [of_another, IdentityKey::Signal(mothers::bytes())] {
        let refused = revive(&engine, phone.user_id, "phone", Revival::Recovered(wrong)).await;
        assert_eq!(refused, Registered::LinkRequired);
    }
    // The new key vouches for nothing either: it is not there yet.
    let own = mothers::registration(phone.user_id, "phone");
    let revival = Some(Revival::Recovered(own.identity_key));
    let refused = engine.try_register(Registration { revival, ..own }).await;
    assert_eq!(refused, Registered::LinkRequired);
    let back = revive(&engine, phone.user_id, "phone", Revival::Recovered(key)).await;
    assert!(matches!(back, Registered::Registered(_)), "{back:?}");
}

async fn the_key_of_an_expelled_device_brings_nobody_back(engine: Engine) {
    let first = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(first.clone()).await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    let tablet = engine.register(linked.registration.clone()).await;
    engine.deactivate(&phone, &tablet).await;
    engine.deactivate(&phone, &phone).await;
    let stolen = Revival::Recovered(linked.registration.identity_key);
    assert_eq!(revive(&engine, phone.user_id, "tablet", stolen).await, Registered::LinkRequired);
    let kept = Revival::Recovered(first.identity_key);
    let back = revive(&engine, phone.user_id, "tablet", kept).await;
    assert!(matches!(back, Registered::Registered(_)), "{back:?}");
}

/// A signature of the first device's key for the second's is as good as ever; the second device was expelled since.
async fn an_expelled_key_does_not_come_back_by_an_old_signature(engine: Engine) {
    let (phone, kept) = bereft(&engine).await;
    let second = mothers::revived(phone.user_id, "stolen", Revival::Recovered(kept));
    let stolen = second.identity_key;
    let thief = engine.register(second).await;
    engine.advance(2 * mothers::DAY);
    let laptop = engine.link(&thief, "laptop").await;
    engine.advance(2 * mothers::DAY);
    engine.deactivate(&laptop, &thief).await;
    engine.deactivate(&laptop, &laptop).await;
    let back = |identity_key| {
        let revived = mothers::revived(phone.user_id, "stolen", Revival::Recovered(kept));
        engine.try_register(Registration { identity_key, ..revived })
    };
    assert_eq!(back(stolen).await, Registered::LinkRequired);
    let again = back(kept).await;
    assert!(matches!(again, Registered::Registered(_)), "a clean key of before: {again:?}");
}

async fn an_admission_that_came_with_a_claim_brings_nobody_back(engine: Engine) {
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let first = mothers::revived(mothers::user(), "phone", admitted.clone());
    let phone = engine.register(Registration { may_claim: true, ..first }).await;
    engine.deactivate(&phone, &phone).await;
    let back = revive(&engine, phone.user_id, "phone", admitted.clone()).await;
    assert_eq!(back, Registered::AdmissionUsed);
    let (other, _) = bereft(&engine).await;
    assert_eq!(revive(&engine, other.user_id, "phone", admitted).await, Registered::AdmissionUsed);
}

async fn an_admission_that_was_used_claims_nothing(engine: Engine) {
    let admission = mothers::single_use(engine.now());
    assert!(engine.store.use_once(admission).await.unwrap());
    let claim = mothers::revived(mothers::user(), "phone", Revival::Admitted(admission));
    let claim = Registration { may_claim: true, ..claim };
    assert_eq!(engine.try_register(claim.clone()).await, Registered::AdmissionUsed);
    let unclaimed = Registration { may_claim: false, ..claim.clone() };
    assert_eq!(engine.try_register(unclaimed).await, Registered::AdmissionRequired, "it claimed nothing");
    engine.register(Registration { revival: None, ..claim }).await;
}

async fn a_revived_user_inherits_nothing(engine: Engine) {
    let alice = engine.newcomer().await;
    let before = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(before.clone()).await;
    engine.stored(mothers::send(&alice, phone.user_id)).await;
    engine.deactivate(&phone, &phone).await;

    let mut again = mothers::revived(phone.user_id, "phone", Revival::Recovered(before.identity_key));
    let fresh = std::mem::replace(&mut again.kem_prekeys[0], before.kem_prekeys[2].clone());
    let reused = Registered::KeyReused(KeyKind::Kem, before.kem_prekeys[2].id);
    again.kem_prekeys.truncate(2);
    assert_eq!(engine.try_register(again.clone()).await, reused);
    again.kem_prekeys[0] = fresh;
    let back = engine.register(again.clone()).await;

    assert_ne!(back.device_no, phone.device_no);
    assert_eq!(back.device_number.get(), 2, "device numbers go on");
    let left = engine.left(back.device_no).await;
    assert_eq!((left.positions(), left.head), (Vec::new(), Position::START));
    assert!(engine.history(&back, alice.user_id).await.unwrap()[0].envelope.is_none());
    let stats = engine.store.key_stats(back.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys, stats.kem_prekeys), (5, 5, 2));
    let taken = engine.store.take_bundle(back.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert!(taken.bundle.onetime_prekey.as_ref() == Some(&again.onetime_prekeys[0]));
    assert!(taken.bundle.identity_key == again.identity_key);

    let sessions: Vec<_> =
        engine.sessions(back.user_id).await.iter().map(|session| session.session_id).collect();
    assert_eq!(sessions, [again.session.session_id]);
    let old = mothers::rotation(before.session.session_id, before.session.refresh_hash, NOON);
    assert_eq!(engine.store.rotate_session(old, engine.now()).await.unwrap(), Rotated::Unknown);
}

async fn a_link_offered_before_the_end_is_worth_nothing_after_a_revival(engine: Engine) {
    let phone = engine.newcomer().await;
    let linked = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    engine.deactivate(&phone, &phone).await;
    assert_eq!(engine.try_register(linked.registration.clone()).await, Registered::LinkRequired);
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    engine.register(mothers::revived(phone.user_id, "phone", admitted)).await;
    assert_eq!(engine.try_register(linked.registration).await, Registered::LinkRequired);
}

async fn of_racing_revivals_with_one_admission_one_wins(engine: Engine) {
    for _ in 0..4 {
        let (phone, _) = bereft(&engine).await;
        let admitted = Revival::Admitted(mothers::single_use(engine.now()));
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let racing = names.map(|name| revive(&engine, phone.user_id, name, admitted.clone()));
        let outcomes = join_all(racing).await;
        assert_eq!(won(&outcomes), 1, "{outcomes:?}");
        assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1);
    }
}

async fn of_racing_revivals_with_an_admission_each_one_is_used_up(engine: Engine) {
    let (phone, _) = bereft(&engine).await;
    let admissions = [(); 8].map(|()| mothers::single_use(engine.now()));
    let racing = admissions.iter().enumerate().map(async |(index, admission)| {
        revive(&engine, phone.user_id, &format!("d{index}"), Revival::Admitted(*admission)).await
    });
    let outcomes = join_all(racing).await;
    assert_eq!(won(&outcomes), 1, "{outcomes:?}");
    let lost = outcomes.iter().filter(|outcome| **outcome == Registered::LinkRequired).count();
    assert_eq!(lost, 7, "{outcomes:?}");
    let mut unused = 0;
    for admission in admissions {
        unused += u32::from(engine.store.use_once(admission).await.unwrap());
    }
    assert_eq!(unused, 7);
}

async fn of_two_users_with_one_admission_one_comes_back(engine: Engine) {
    for _ in 0..8 {
        let ((one, _), (other, _)) = (bereft(&engine).await, bereft(&engine).await);
        let admitted = Revival::Admitted(mothers::single_use(engine.now()));
        let racing = [one, other].map(|phone| {
            let (engine, admitted) = (&engine, admitted.clone());
            async move { revive(engine, phone.user_id, "phone", admitted).await }
        });
        let outcomes = join_all(racing).await;
        assert_eq!(won(&outcomes), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Registered::AdmissionUsed), "{outcomes:?}");
    }
}
