//! A store that was restored is made fit to be served.

use std::time::Duration;

use restante::{
    domain::{KeyKind, Position, Timestamp},
    store::{Accepted, KeyUpload, LoggedIn, OneTimeKeys, Published, Registered, Restored, Rotated},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers::{self, DAY, LinkedRegistration},
};

on_both_engines!(roomy =>
    no_onetime_key_of_before_is_handed_out_or_taken_again,
    positions_go_on_beyond_any_of_the_lost_timeline,
    one_backup_may_be_restored_twice,
    device_numbers_and_entries_go_on_beyond_those_of_before,
    an_empty_store_is_made_fit_too,
    sessions_and_links_of_before_are_gone_and_logins_work,
    what_waited_still_waits_and_ids_are_still_known,
    a_mailbox_is_counted_anew,
);

/// The least that a number is beyond all that were given before `now`.
fn floor(now: Timestamp) -> i64 {
    now.millis() * 1000
}

async fn restored(engine: &Engine) -> Restored {
    engine.store.after_restore(engine.now()).await.unwrap()
}

async fn no_onetime_key_of_before_is_handed_out_or_taken_again(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    let bare = engine.register(mothers::bare_registration(mothers::user(), "phone")).await;
    assert_eq!(restored(&engine).await.keys, 8);

    let stats = engine.store.key_stats(phone.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.kem_prekeys, stats.last_resort_used), (0, 0, true));
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert!(taken.bundle.onetime_prekey.is_none());
    assert_eq!(taken.bundle.kem_prekey.unwrap().id.get(), 100, "the last resort");
    let bare = engine.store.key_stats(bare.device_no, crate::support::engine::NOON).await.unwrap().unwrap();
    assert!(!bare.last_resort_used, "a device without a last resort used none");

    let again = KeyUpload {
        onetime_prekeys: registration.onetime_prekeys,
        kem_prekeys: registration.kem_prekeys,
        ..KeyUpload::default()
    };
    let known = engine.store.publish_keys(phone.device_no, again, engine.now()).await.unwrap();
    let expected = Published::Published { accepted: 0, already_known: 8, onetime_count: 0, kem_count: 0 };
    assert_eq!(known, expected);
    let forged = KeyUpload { onetime_prekeys: vec![mothers::onetime(3)], ..KeyUpload::default() };
    let refused = engine.store.publish_keys(phone.device_no, forged, engine.now()).await.unwrap();
    assert!(matches!(refused, Published::KeyReused(KeyKind::OneTime, id) if id.get() == 3), "{refused:?}");
    let fresh = KeyUpload { onetime_prekeys: vec![mothers::onetime(6)], ..KeyUpload::default() };
    engine.store.publish_keys(phone.device_no, fresh, engine.now()).await.unwrap();
    let taken = engine.store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(taken.bundle.onetime_prekey.unwrap().id.get(), 6);
}

async fn positions_go_on_beyond_any_of_the_lost_timeline(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(restored(&engine).await.mailboxes, 2);
    assert_eq!(engine.left(bob.device_no).await.head, Position(floor(engine.now())));
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(engine.positions(bob.device_no).await, [1, floor(engine.now()) + 1]);
    let emitted = engine.emitted();
    assert_eq!(emitted.last().unwrap().position, Position(floor(engine.now()) + 1));
}

/// The second restore finds what the first one found; whatever followed the first lies in between.
async fn one_backup_may_be_restored_twice(engine: Engine) {
    let bob = engine.newcomer().await;
    restored(&engine).await;
    let first = engine.left(bob.device_no).await.head;
    engine.advance(Duration::from_secs(1));
    restored(&engine).await;
    let second = engine.left(bob.device_no).await.head;
    assert!(second.0 >= first.0 + 1_000_000, "{second:?} {first:?}");
    // A clock that stands long before the backup moves them on as well.
    engine.clock.set(Timestamp::from_millis(0));
    restored(&engine).await;
    assert_eq!(engine.left(bob.device_no).await.head, Position(second.0 + 1_000_000));
}

async fn device_numbers_and_entries_go_on_beyond_those_of_before(engine: Engine) {
    let alice = engine.newcomer().await;
    restored(&engine).await;
    let bob = engine.newcomer().await;
    assert_eq!(bob.device_no.0, floor(engine.now()) + 1);
    assert_ne!(alice.device_no, bob.device_no);
    assert_eq!(engine.audit(bob.user_id).await[0].entry, floor(engine.now()) + 1);
    engine.advance(2 * DAY);
    let tablet = engine.link(&bob, "tablet").await;
    engine.deactivate(&bob, &tablet).await;
    assert_eq!(engine.revoked().await.len(), 1);
}

async fn an_empty_store_is_made_fit_too(engine: Engine) {
    assert_eq!(restored(&engine).await, Restored { keys: 0, sessions: 0, mailboxes: 0 });
    assert_eq!(engine.newcomer().await.device_no.0, floor(engine.now()) + 1);
}

async fn sessions_and_links_of_before_are_gone_and_logins_work(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let session = registration.session.clone();
    let phone = engine.register(registration).await;
    let LinkedRegistration { offer, registration } = mothers::linked(&phone, "tablet", engine.now());
    assert!(engine.store.offer_link(offer, engine.now()).await.unwrap());
    assert_eq!(restored(&engine).await.sessions, 1);

    assert!(engine.sessions(phone.user_id).await.is_empty());
    let rotation = mothers::rotation(session.session_id, session.refresh_hash, engine.now());
    let rotated = engine.store.rotate_session(rotation, engine.now()).await.unwrap();
    assert!(!matches!(rotated, Rotated::Rotated { .. }), "{rotated:?}");
    assert_eq!(engine.try_register(registration).await, Registered::LinkRequired);
    let login = mothers::login(&phone, engine.now());
    let logged_in = engine.store.open_session(login, engine.now()).await.unwrap();
    assert!(matches!(logged_in, LoggedIn::LoggedIn(_)));
    assert!(engine.revoked().await.is_empty(), "no device is shut out");
    engine.link(&phone, "tablet").await;
}

async fn what_waited_still_waits_and_ids_are_still_known(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send(&alice, bob.user_id);
    let receipt = engine.stored(send.clone()).await;
    engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), Duration::from_mins(1))).await;
    engine.advance(Duration::from_mins(2));
    restored(&engine).await;
    engine.expire_all().await;
    assert_eq!(engine.positions(bob.device_no).await, [1]);
    assert_eq!(engine.accept(send).await, Accepted::Repeated(receipt));
    assert_eq!(engine.ack(bob.device_no, &[1]).await, 1);
    assert_eq!(engine.history(&bob, alice.user_id).await.unwrap().len(), 1);
}

async fn a_mailbox_is_counted_anew(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..1000 {
        engine.store.accept_envelopes(mothers::send(&alice, bob.user_id)).await.unwrap();
    }
    restored(&engine).await;
    assert_eq!(engine.accept(mothers::send(&alice, bob.user_id)).await, Accepted::MailboxFull);
    engine.ack(bob.device_no, &[1]).await;
    engine.stored(mothers::send(&alice, bob.user_id)).await;
}
