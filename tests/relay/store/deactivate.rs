//! How devices go, and that nothing of them stays.

use std::time::Duration;

use restante::{
    domain::{KeyKind, Position, Status},
    store::{Accepted, Deactivated, KeyUpload, Left, OneTimeKeys, Published, Registered, Revocation},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_device_may_deactivate_itself,
    a_young_device_may_not_deactivate_an_older_one,
    an_older_device_may_deactivate_a_younger_one_at_once,
    a_device_that_is_not_there_is_unknown,
    deactivation_erases_keys_mailbox_and_standing,
    a_device_linked_anew_under_the_same_id_inherits_nothing,
    a_message_that_a_deactivated_device_had_not_acked_is_never_delivered,
    revocations_are_found_from_their_moment_on,
    a_device_that_was_ended_ends_no_other,
    of_two_devices_that_end_each_other_at_once_one_stays,
);

async fn a_device_may_deactivate_itself(engine: Engine) {
    let phone = engine.newcomer().await;
    let gone = engine.store.deactivate(&phone, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(phone.device_no));
    assert!(engine.store.devices(phone.user_id).await.unwrap().is_empty());
    let again = engine.store.deactivate(&phone, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(again, Deactivated::Unknown);
    let back = mothers::registration(phone.user_id, "phone");
    assert_eq!(engine.try_register(back).await, Registered::LinkRequired, "the user stays claimed");
}

async fn a_young_device_may_not_deactivate_an_older_one(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(30 * DAY);
    let tablet = engine.link(&phone, "tablet").await;
    engine.clock.set(engine.now().plus(DAY).minus(Duration::from_millis(1)));
    let refused = engine.store.deactivate(&tablet, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(refused, Deactivated::NotAllowed);
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 2);
    engine.advance(Duration::from_millis(2));
    let gone = engine.store.deactivate(&tablet, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(phone.device_no));
}

async fn an_older_device_may_deactivate_a_younger_one_at_once(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let gone = engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(tablet.device_no));
}

async fn a_device_that_is_not_there_is_unknown(engine: Engine) {
    let phone = engine.newcomer().await;
    let stranger = engine.link(&engine.newcomer().await, "tablet").await;
    let unknown = engine.store.deactivate(&phone, &stranger.device_id, engine.now()).await.unwrap();
    assert_eq!(unknown, Deactivated::Unknown);
}

async fn deactivation_erases_keys_mailbox_and_standing(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let receipt = engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.store.deactivate(&bob, &tablet.device_id, engine.now()).await.unwrap();

    let store = &engine.store;
    assert!(store.key_stats(tablet.device_no, crate::support::engine::NOON).await.unwrap().is_none());
    assert!(store.lasting_keys(tablet.device_no).await.unwrap().is_none());
    assert!(
        store.take_bundle(bob.user_id, Some(&tablet.device_id), OneTimeKeys::Given).await.unwrap().is_none()
    );
    let upload = KeyUpload { onetime_prekeys: vec![mothers::onetime(9)], ..KeyUpload::default() };
    let gone = store.publish_keys(tablet.device_no, upload, engine.now()).await.unwrap();
    assert_eq!(gone, Published::Gone);
    let nothing = Left { items: Vec::new(), head: Position::START };
    assert_eq!(engine.left(tablet.device_no).await, nothing);
    assert!(store.mailbox_items(tablet.device_no, &[Position(1)], engine.now()).await.unwrap().is_empty());
    assert_eq!(store.mailbox_count(tablet.device_no, 10, engine.now()).await.unwrap(), 0);
    assert_eq!(engine.ack(tablet.device_no, &[1]).await, 0);
    let heads = store.mailbox_heads(&[bob.device_no, tablet.device_no]).await.unwrap();
    let told = Position(3);
    assert_eq!(heads, [(bob.device_no, told)], "a mailbox that is gone is left out");
    assert_eq!(store.devices(bob.user_id).await.unwrap().len(), 1);

    let positions = store.positions_of(bob.device_no, &[receipt.message_id]).await.unwrap();
    assert_eq!(positions, [Position(2)], "the other device keeps its mail");
    engine.stored(mothers::send_each(&alice, bob.user_id, &[&bob])).await;
}

async fn a_device_linked_anew_under_the_same_id_inherits_nothing(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let first = mothers::linked(&bob, "tablet", engine.now());
    engine.store.offer_link(first.offer, engine.now()).await.unwrap();
    let old = engine.register(first.registration.clone()).await;
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.store.deactivate(&bob, &old.device_id, engine.now()).await.unwrap();

    let mut again = mothers::linked(&bob, "tablet", engine.now());
    engine.store.offer_link(again.offer, engine.now()).await.unwrap();
    again.registration.kem_prekeys[1].public_key = first.registration.kem_prekeys[0].public_key.clone();
    let reused = Registered::KeyReused(KeyKind::Kem, again.registration.kem_prekeys[1].id);
    assert_eq!(engine.try_register(again.registration.clone()).await, reused);
    again.registration.kem_prekeys[1] = mothers::kem(2);
    let new = engine.register(again.registration).await;
    assert_ne!(new.device_no, old.device_no);
    assert_ne!(new.device_number, old.device_number);
    assert_eq!(engine.left(new.device_no).await.head, Position::START);
    let history = engine.history(&new, alice.user_id).await.unwrap();
    assert!(history[0].envelope.is_none(), "the body was for another incarnation");
    let stats = engine.store.key_stats(new.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys), (5, 5));
}

async fn a_message_that_a_deactivated_device_had_not_acked_is_never_delivered(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let acked = engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.ack_all(tablet.device_no).await;
    let lost = engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.store.deactivate(&bob, &tablet.device_id, engine.now()).await.unwrap();
    engine.ack_all(bob.device_no).await;
    let history = engine.history(&alice, bob.user_id).await.unwrap();
    let status = |id| history.iter().find(|message| message.message_id == id).unwrap().status;
    assert_eq!(status(acked.message_id), Status::Delivered);
    assert_eq!(status(lost.message_id), Status::Sent);
    let again = mothers::send(&alice, tablet.user_id);
    assert!(matches!(engine.accept(again).await, Accepted::Stored(_)));
}

async fn revocations_are_found_from_their_moment_on(engine: Engine) {
    let phone = engine.newcomer().await;
    let (one, two) = (engine.link(&phone, "one").await, engine.link(&phone, "two").await);
    engine.store.deactivate(&phone, &one.device_id, NOON).await.unwrap();
    let later = NOON.plus(Duration::from_secs(1));
    engine.store.deactivate(&phone, &two.device_id, later).await.unwrap();
    let since = async |moment| engine.store.revocations(moment).await.unwrap();
    assert_eq!(since(NOON).await.len(), 2);
    assert_eq!(since(later).await, [Revocation::Device(two.device_no)]);
    assert!(since(later.plus(Duration::from_millis(1))).await.is_empty());
}

async fn a_device_that_was_ended_ends_no_other(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    engine.advance(2 * DAY);
    let gone = engine.store.deactivate(&tablet, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(phone.device_no));
    let refused = engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    assert_eq!(refused, Deactivated::NotAllowed);
    assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1);
}

async fn of_two_devices_that_end_each_other_at_once_one_stays(engine: Engine) {
    let mut phone = engine.newcomer().await;
    for round in 0..8 {
        let tablet = engine.link(&phone, &format!("tablet-{round}")).await;
        engine.advance(2 * DAY);
        let now = engine.now();
        let (one, other) = tokio::join!(
            engine.store.deactivate(&phone, &tablet.device_id, now),
            engine.store.deactivate(&tablet, &phone.device_id, now),
        );
        let outcomes = [one.unwrap(), other.unwrap()];
        assert_eq!(engine.store.devices(phone.user_id).await.unwrap().len(), 1, "{outcomes:?}");
        assert!(outcomes.contains(&Deactivated::NotAllowed), "{outcomes:?}");
        if outcomes.contains(&Deactivated::Gone(phone.device_no)) {
            phone = tablet;
        }
    }
}
