//! The trail of security events: what enters it, who reads it, and how long it is kept.

use std::time::Duration;

use futures_util::future::join_all;
use restante::{
    domain::{AuditEntry, Caller, DeviceNumber, SecurityEvent, UserId},
    store::{
        AUDIT_LIFE, Deactivated, KeyUpload, LoggedIn, Login, OneTimeKeys, Published, Registered, Revival,
        Rotated, SESSIONS_PER_DEVICE,
    },
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_registration_enters_that_a_device_was_added,
    a_link_enters_the_offer_and_who_linked,
    a_deactivation_enters_who_ended_whom,
    a_new_signed_prekey_alone_enters_a_rotation,
    sessions_enter_their_beginning_and_their_end,
    a_session_that_gives_way_enters_nothing_of_its_own,
    a_reuse_is_entered_once_with_its_device,
    events_that_no_act_enters_are_noted,
    nothing_is_noted_of_a_user_that_nobody_claimed,
    refused_acts_enter_nothing,
    the_trail_is_read_newest_first_page_by_page,
    the_trail_is_the_users_own,
    events_noted_at_once_have_places_of_their_own,
    an_event_is_kept_for_90_days,
);

type Seen = (SecurityEvent, Option<DeviceNumber>, Option<DeviceNumber>);

/// What happened to whom and by whom, oldest first.
async fn trail(engine: &Engine, user: UserId) -> Vec<Seen> {
    let entries = engine.audit(user).await;
    entries.into_iter().rev().map(|entry| (entry.event, entry.device_number, entry.by)).collect()
}

/// What was entered since there were `known` entries.
async fn since(engine: &Engine, user: UserId, known: usize) -> Vec<Seen> {
    trail(engine, user).await.split_off(known)
}

async fn publish(engine: &Engine, device: &Caller, upload: KeyUpload) -> Published {
    engine.store.publish_keys(device.device_no, upload, engine.now()).await.unwrap()
}

async fn a_registration_enters_that_a_device_was_added(engine: Engine) {
    let phone = engine.newcomer().await;
    let entries = engine.audit(phone.user_id).await;
    assert_eq!(entries.len(), 1, "and not that it logged in");
    let AuditEntry { event, device_number, by, at, .. } = entries[0];
    assert_eq!(
        (event, device_number, by, at),
        (SecurityEvent::DeviceAdded, Some(phone.device_number), None, NOON)
    );

    engine.deactivate(&phone, &phone).await;
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let back = engine.register(mothers::revived(phone.user_id, "phone", admitted)).await;
    assert_eq!(
        since(&engine, phone.user_id, 2).await,
        [(SecurityEvent::DeviceAdded, Some(back.device_number), None)]
    );
}

async fn a_link_enters_the_offer_and_who_linked(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let linked = mothers::linked(&tablet, "laptop", engine.now());
    assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
    let laptop = engine.register(linked.registration).await;
    let expected = [
        (SecurityEvent::LinkIssued, Some(phone.device_number), None),
        (SecurityEvent::DeviceAdded, Some(tablet.device_number), Some(phone.device_number)),
        (SecurityEvent::LinkIssued, Some(tablet.device_number), None),
        (SecurityEvent::DeviceAdded, Some(laptop.device_number), Some(tablet.device_number)),
    ];
    assert_eq!(since(&engine, phone.user_id, 1).await, expected);
}

async fn a_deactivation_enters_who_ended_whom(engine: Engine) {
    let phone = engine.newcomer().await;
    let (tablet, laptop) = (engine.link(&phone, "tablet").await, engine.link(&phone, "laptop").await);
    engine.deactivate(&phone, &tablet).await;
    engine.deactivate(&laptop, &laptop).await;
    engine.deactivate(&phone, &phone).await;
    let expected = [
        (SecurityEvent::DeviceDeactivated, Some(tablet.device_number), Some(phone.device_number)),
        (SecurityEvent::DeviceDeactivated, Some(laptop.device_number), None),
        (SecurityEvent::DeviceDeactivated, Some(phone.device_number), None),
    ];
    assert_eq!(since(&engine, phone.user_id, 5).await, expected, "also without a device left");
}

async fn a_new_signed_prekey_alone_enters_a_rotation(engine: Engine) {
    let phone = engine.newcomer().await;
    let rotate = KeyUpload { signed_prekey: Some(mothers::signed(2)), ..KeyUpload::default() };
    for _ in 0..2 {
        let published = publish(&engine, &phone, rotate.clone()).await;
        assert!(matches!(published, Published::Published { .. }), "{published:?}");
    }
    let others = KeyUpload {
        signed_prekey: None,
        onetime_prekeys: vec![mothers::onetime(60)],
        kem_prekeys: vec![mothers::kem(60)],
        last_resort_kem_prekey: Some(mothers::kem(101)),
    };
    let published = publish(&engine, &phone, others).await;
    assert!(matches!(published, Published::Published { accepted: 3, .. }), "{published:?}");
    let refused = KeyUpload {
        signed_prekey: Some(mothers::signed(3)),
        onetime_prekeys: vec![mothers::onetime(1)],
        ..rotate
    };
    assert!(matches!(publish(&engine, &phone, refused).await, Published::KeyReused(..)));
    let expected = [(SecurityEvent::KeyRotated, Some(phone.device_number), None)];
    assert_eq!(since(&engine, phone.user_id, 1).await, expected, "a repeat rotated nothing");
}

async fn sessions_enter_their_beginning_and_their_end(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let login = mothers::login(&tablet, engine.now());
    let session = login.session.clone();
    engine.store.open_session(login, engine.now()).await.unwrap();
    let refresh = mothers::rotation(session.session_id, session.refresh_hash, engine.now());
    for _ in 0..2 {
        let rotated = engine.store.rotate_session(refresh.clone(), engine.now()).await.unwrap();
        assert!(matches!(rotated, Rotated::Rotated { .. }), "{rotated:?}");
    }
    for _ in 0..2 {
        engine.store.end_session(tablet.device_no, session.session_id, engine.now()).await.unwrap();
    }
    let expected = [
        (SecurityEvent::LoggedIn, Some(tablet.device_number), None),
        (SecurityEvent::LoggedOut, Some(tablet.device_number), None),
    ];
    assert_eq!(since(&engine, phone.user_id, 3).await, expected, "a refresh enters nothing");
}

async fn a_session_that_gives_way_enters_nothing_of_its_own(engine: Engine) {
    let phone = engine.newcomer().await;
    for _ in 0..SESSIONS_PER_DEVICE {
        engine.store.open_session(mothers::login(&phone, engine.now()), engine.now()).await.unwrap();
    }
    assert_eq!(engine.revoked().await.len(), 1);
    let entered = since(&engine, phone.user_id, 1).await;
    assert_eq!(
        entered,
        [(SecurityEvent::LoggedIn, Some(phone.device_number), None); SESSIONS_PER_DEVICE as usize]
    );
}

async fn a_reuse_is_entered_once_with_its_device(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let session = registration.session.clone();
    let phone = engine.register(registration).await;
    let first = mothers::rotation(session.session_id, session.refresh_hash, engine.now());
    engine.store.rotate_session(first.clone(), engine.now()).await.unwrap();
    engine.advance(DAY);
    for _ in 0..3 {
        engine.store.rotate_session(first.clone(), engine.now()).await.unwrap();
    }
    let expected = [(SecurityEvent::TokenReused, Some(phone.device_number), None)];
    assert_eq!(since(&engine, phone.user_id, 1).await, expected);
    assert_eq!(engine.audit(phone.user_id).await[0].at, NOON.plus(DAY));
}

async fn events_that_no_act_enters_are_noted(engine: Engine) {
    let phone = engine.newcomer().await;
    let events = [SecurityEvent::AdmissionRefused, SecurityEvent::LimitTripped];
    for event in events {
        engine.store.note_event(phone.user_id, event, NOON.plus(DAY)).await.unwrap();
    }
    assert_eq!(since(&engine, phone.user_id, 1).await, events.map(|event| (event, None, None)));
    assert_eq!(engine.audit(phone.user_id).await[0].at, NOON.plus(DAY));
    engine.deactivate(&phone, &phone).await;
    engine.store.note_event(phone.user_id, SecurityEvent::AdmissionRefused, NOON).await.unwrap();
    assert_eq!(trail(&engine, phone.user_id).await.len(), 5, "also without a device left");
}

async fn nothing_is_noted_of_a_user_that_nobody_claimed(engine: Engine) {
    let user = mothers::user();
    for event in [SecurityEvent::AdmissionRefused, SecurityEvent::LimitTripped] {
        engine.store.note_event(user, event, NOON).await.unwrap();
    }
    assert!(engine.audit(user).await.is_empty());
    let phone = engine.register(mothers::registration(user, "phone")).await;
    let added = (SecurityEvent::DeviceAdded, Some(phone.device_number), None);
    assert_eq!(trail(&engine, user).await, [added], "nothing came up with the claim");
}

async fn refused_acts_enter_nothing(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(DAY);
    let tablet = engine.link(&phone, "tablet").await;
    let gone = engine.link(&phone, "gone").await;
    engine.deactivate(&phone, &gone).await;
    let (user, now, store) = (phone.user_id, engine.now(), &engine.store);
    let before = trail(&engine, user).await;

    assert_eq!(engine.try_register(mothers::registration(user, "spy")).await, Registered::LinkRequired);
    assert_eq!(engine.try_register(mothers::registration(user, "phone")).await, Registered::DeviceExists);
    assert!(!store.offer_link(mothers::linked(&gone, "spy", now).offer, now).await.unwrap());
    let refused = store.deactivate(&tablet, &phone.device_id, now).await.unwrap();
    assert_eq!(refused, Deactivated::NotAllowed);
    assert_eq!(store.deactivate(&phone, &gone.device_id, now).await.unwrap(), Deactivated::Unknown);
    let rotate = KeyUpload { signed_prekey: Some(mothers::signed(9)), ..KeyUpload::default() };
    assert_eq!(publish(&engine, &gone, rotate).await, Published::Gone);
    assert_eq!(store.open_session(mothers::login(&gone, now), now).await.unwrap(), LoggedIn::Gone);
    let challenge = mothers::single_use(now);
    assert!(store.use_once(challenge).await.unwrap());
    let answered = Login { challenge, ..mothers::login(&phone, now) };
    assert_eq!(store.open_session(answered, now).await.unwrap(), LoggedIn::ChallengeUsed);
    let nowhere = mothers::rotation(mothers::session(now).session_id, mothers::bytes(), now);
    assert_eq!(store.rotate_session(nowhere, now).await.unwrap(), Rotated::Unknown);
    assert!(!store.end_session(phone.device_no, mothers::session(now).session_id, now).await.unwrap());
    assert!(store.take_bundle(user, None, OneTimeKeys::Withheld).await.unwrap().is_some());

    assert_eq!(trail(&engine, user).await, before);
}

async fn the_trail_is_read_newest_first_page_by_page(engine: Engine) {
    let user = engine.newcomer().await.user_id;
    for second in 1..10 {
        let at = NOON.plus(Duration::from_secs(second));
        engine.store.note_event(user, SecurityEvent::LimitTripped, at).await.unwrap();
    }
    let all = engine.audit(user).await;
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted_by(|newer, older| newer.entry > older.entry && newer.at > older.at));
    let page = async |before, limit| engine.store.audit(user, before, limit).await.unwrap();
    assert_eq!(page(None, 4).await, all[..4]);
    assert_eq!(page(Some(all[3].entry), 4).await, all[4..8]);
    assert_eq!(page(Some(all[7].entry), 4).await, all[8..]);
    assert!(page(Some(all[9].entry), 4).await.is_empty());
}

async fn the_trail_is_the_users_own(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.store.note_event(alice.user_id, SecurityEvent::LimitTripped, NOON).await.unwrap();
    assert_eq!(
        trail(&engine, bob.user_id).await,
        [(SecurityEvent::DeviceAdded, Some(bob.device_number), None)]
    );
    assert_eq!(trail(&engine, alice.user_id).await.len(), 2);
    let newest = engine.audit(alice.user_id).await[0].entry;
    let reading_on = engine.store.audit(bob.user_id, Some(newest), 10).await.unwrap();
    assert_eq!(reading_on.len(), 1, "another's place gives nothing of the other's away");
    assert!(engine.audit(mothers::user()).await.is_empty());
}

async fn events_noted_at_once_have_places_of_their_own(engine: Engine) {
    let phone = engine.newcomer().await;
    let noting = (0..16).map(|_| engine.store.note_event(phone.user_id, SecurityEvent::LimitTripped, NOON));
    for noted in join_all(noting).await {
        noted.unwrap();
    }
    let entries = engine.audit(phone.user_id).await;
    assert_eq!(entries.len(), 17);
    assert!(entries.is_sorted_by(|newer, older| newer.entry > older.entry));
}

async fn an_event_is_kept_for_90_days(engine: Engine) {
    assert_eq!(AUDIT_LIFE, 90 * DAY);
    let user = engine.newcomer().await.user_id;
    engine.clock.set(NOON.plus(DAY));
    engine.store.note_event(user, SecurityEvent::LimitTripped, engine.now()).await.unwrap();
    engine.clock.set(NOON.plus(AUDIT_LIFE).minus(Duration::from_millis(1)));
    engine.expire_all().await;
    assert_eq!(engine.audit(user).await.len(), 2);
    engine.clock.set(NOON.plus(AUDIT_LIFE).plus(Duration::from_millis(1)));
    engine.expire_all().await;
    assert_eq!(trail(&engine, user).await, [(SecurityEvent::LimitTripped, None, None)]);
}
