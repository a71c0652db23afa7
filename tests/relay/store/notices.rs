//! How a user's devices learn that their list changed.

use std::time::Duration;

use restante::{
    domain::{Caller, Item, Position},
    store::{Deactivated, Deleted, Mark, Registered, Revival},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    older_devices_find_the_new_list_when_one_is_linked,
    nobody_is_told_of_a_first_or_revived_device,
    those_that_are_left_find_the_new_list_when_one_is_ended,
    a_device_linked_anew_is_listed_as_it_is_now,
    a_refused_change_tells_nobody,
    a_newer_notice_takes_the_place_of_one_that_waits,
    a_notice_that_was_acked_is_not_replaced,
    a_notice_is_handed_to_hot_delivery_as_it_lies_in_the_mailbox,
    a_notice_is_acked_and_found_by_its_id_like_a_message,
    a_notice_waits_as_long_as_notices_do,
    a_notice_is_no_message,
);

/// What a mailbox must hold: one notice, here, with the list as it is.
async fn assert_told(engine: &Engine, device: &Caller, position: i64) {
    let expected = vec![(position, engine.listed(device.user_id).await)];
    assert_eq!(engine.notices(device.device_no).await, expected);
}

async fn older_devices_find_the_new_list_when_one_is_linked(engine: Engine) {
    let (stranger, phone) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link_unread(&phone, "tablet").await;
    assert_told(&engine, &phone, 1).await;
    let (_, listed) = engine.notices(phone.device_no).await.remove(0);
    let ids: Vec<_> = listed.iter().map(|device| device.device_id.clone()).collect();
    assert_eq!(ids, [phone.device_id.clone(), tablet.device_id.clone()], "oldest first");
    assert_eq!(listed[1].device_number, tablet.device_number);
    assert!(engine.positions(tablet.device_no).await.is_empty(), "the newcomer knows");

    let laptop = engine.link_unread(&tablet, "laptop").await;
    assert_told(&engine, &phone, 2).await;
    assert_told(&engine, &tablet, 1).await;
    assert!(engine.positions(laptop.device_no).await.is_empty());
    assert!(engine.positions(stranger.device_no).await.is_empty(), "other users are not told");
    assert_eq!(engine.left(stranger.device_no).await.head, Position::START);
}

async fn nobody_is_told_of_a_first_or_revived_device(engine: Engine) {
    let phone = engine.newcomer().await;
    assert_eq!(engine.left(phone.device_no).await.head, Position::START);
    engine.deactivate(&phone, &phone).await;
    let admitted = Revival::Admitted(mothers::single_use(engine.now()));
    let back = engine.register(mothers::revived(phone.user_id, "phone", admitted)).await;
    assert_eq!(engine.left(back.device_no).await.head, Position::START);
    assert!(engine.emitted().is_empty());
}

async fn those_that_are_left_find_the_new_list_when_one_is_ended(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let laptop = engine.link(&phone, "laptop").await;
    engine.emitted();
    engine.deactivate(&phone, &tablet).await;
    let told: Vec<_> = engine.emitted().iter().map(|told| (told.device_no, told.position.0)).collect();
    assert_eq!(told, [(phone.device_no, 3), (laptop.device_no, 1)]);
    assert_told(&engine, &phone, 3).await;
    assert_told(&engine, &laptop, 1).await;

    engine.deactivate(&phone, &phone).await;
    assert_told(&engine, &laptop, 2).await;
    assert_eq!(engine.notices(laptop.device_no).await[0].1.len(), 1, "the laptop alone");
}

async fn a_device_linked_anew_is_listed_as_it_is_now(engine: Engine) {
    let phone = engine.newcomer().await;
    let old = engine.link_unread(&phone, "tablet").await;
    engine.deactivate(&phone, &old).await;
    let new = engine.link_unread(&phone, "tablet").await;
    assert_ne!(new.device_number, old.device_number);
    assert_told(&engine, &phone, 3).await;
    let (_, listed) = engine.notices(phone.device_no).await.remove(0);
    let numbers: Vec<_> = listed.iter().map(|device| device.device_number).collect();
    assert_eq!(numbers, [phone.device_number, new.device_number]);
}

async fn a_refused_change_tells_nobody(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(DAY);
    let tablet = engine.link(&phone, "tablet").await;
    let heads = async || (engine.left(phone.device_no).await.head, engine.left(tablet.device_no).await.head);
    let before = heads().await;
    engine.emitted();

    let refused = engine.store.deactivate(&tablet, &phone.device_id, engine.now()).await.unwrap();
    assert_eq!(refused, Deactivated::NotAllowed);
    let absent = mothers::device_id("absent");
    let unknown = engine.store.deactivate(&phone, &absent, engine.now()).await.unwrap();
    assert_eq!(unknown, Deactivated::Unknown);
    let spy = mothers::registration(phone.user_id, "spy");
    assert_eq!(engine.try_register(spy).await, Registered::LinkRequired);
    let mut watch = mothers::linked(&phone, "watch", engine.now());
    assert!(engine.store.offer_link(watch.offer, engine.now()).await.unwrap());
    watch.registration.onetime_prekeys[1].public_key =
        watch.registration.onetime_prekeys[0].public_key.clone();
    assert!(matches!(engine.try_register(watch.registration).await, Registered::KeyReused(..)));

    assert_eq!(heads().await, before);
    assert!(engine.emitted().is_empty());
}

async fn a_newer_notice_takes_the_place_of_one_that_waits(engine: Engine) {
    let (alice, phone) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, phone.user_id)).await;
    engine.link_unread(&phone, "tablet").await;
    engine.stored(mothers::send(&alice, phone.user_id)).await;
    assert_eq!(engine.positions(phone.device_no).await, [1, 2, 3]);
    engine.link_unread(&phone, "laptop").await;
    assert_eq!(engine.positions(phone.device_no).await, [1, 3, 4], "a new position, not the old one");
    assert_told(&engine, &phone, 4).await;
    let old = engine.store.mailbox_items(phone.device_no, &[Position(2)], engine.now()).await.unwrap();
    assert!(old.is_empty());
    assert_eq!(engine.ack(phone.device_no, &[2]).await, 0, "there is nothing to ack");
    assert_eq!(engine.store.mailbox_count(phone.device_no, 10, engine.now()).await.unwrap(), 3);
}

async fn a_notice_that_was_acked_is_not_replaced(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.link_unread(&phone, "tablet").await;
    assert_eq!(engine.ack(phone.device_no, &[1]).await, 1);
    engine.link_unread(&phone, "laptop").await;
    assert_told(&engine, &phone, 2).await;
}

async fn a_notice_is_handed_to_hot_delivery_as_it_lies_in_the_mailbox(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.link_unread(&phone, "tablet").await;
    let emitted = engine.emitted();
    assert_eq!(emitted.len(), 1);
    assert_eq!((emitted[0].device_no, emitted[0].position), (phone.device_no, Position(1)));
    let (_, stored) = engine.items(phone.device_no).await.remove(0);
    let (Item::DevicesChanged { devices: live, .. }, Item::DevicesChanged { devices: kept, .. }) =
        (emitted[0].item.as_ref(), &stored)
    else {
        panic!("not a notice of devices");
    };
    assert_eq!(live, kept);
    assert_eq!(emitted[0].item.message_id(), stored.message_id());
    assert_eq!(emitted[0].item.expires_at(), stored.expires_at());
}

async fn a_notice_is_acked_and_found_by_its_id_like_a_message(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link_unread(&phone, "tablet").await;
    engine.link_unread(&phone, "laptop").await;
    let id = async |device: &Caller| engine.items(device.device_no).await[0].1.message_id();
    let (on_phone, on_tablet) = (id(&phone).await, id(&tablet).await);
    let find = async |device: &Caller, ids: &[_]| engine.store.positions_of(device.device_no, ids).await;
    assert_eq!(find(&phone, &[on_phone]).await.unwrap(), [Position(2)]);
    assert_eq!(find(&tablet, &[on_tablet]).await.unwrap(), [Position(1)]);
    assert_eq!(engine.ack(phone.device_no, &[2]).await, 1);
    assert_eq!(engine.ack(phone.device_no, &[2]).await, 0);
    assert!(engine.positions(phone.device_no).await.is_empty());
    assert_eq!(find(&phone, &[on_phone]).await.unwrap(), [Position(2)], "acked ones too");
    assert_eq!(engine.positions(tablet.device_no).await, [1], "each device acks its own");
}

async fn a_notice_waits_as_long_as_notices_do(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.link_unread(&phone, "tablet").await;
    assert_eq!(engine.items(phone.device_no).await[0].1.expires_at(), NOON.plus(DAY));
    engine.clock.set(NOON.plus(DAY).minus(Duration::from_millis(1)));
    engine.expire_all().await;
    assert_eq!(engine.positions(phone.device_no).await, [1]);
    engine.clock.set(NOON.plus(DAY));
    assert!(engine.positions(phone.device_no).await.is_empty());
    assert!(engine.items(phone.device_no).await.is_empty());
    assert_eq!(engine.store.expire(engine.now(), 10).await.unwrap().bodies, 1);
    engine.clock.set(NOON);
    assert!(engine.positions(phone.device_no).await.is_empty(), "erased, whatever the clock says");
    engine.link_unread(&phone, "laptop").await;
    assert_told(&engine, &phone, 2).await;
}

async fn a_notice_is_no_message(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link_unread(&phone, "tablet").await;
    let id = engine.items(phone.device_no).await[0].1.message_id();
    let (user, now, store) = (phone.user_id, engine.now(), &engine.store);
    assert!(engine.history(&phone, user).await.is_none(), "there is no conversation yet");
    assert!(store.mark(user, id, Mark::Read, now).await.unwrap().is_none());
    assert!(store.delete_for_me(user, id).await.unwrap().is_none());
    assert_eq!(store.delete_for_everyone(user, id, now).await.unwrap(), Deleted::Unknown);
    assert!(!store.has_written(mothers::conversation(user, user), user).await.unwrap());
    assert_told(&engine, &phone, 1).await;

    engine.stored(mothers::send(&tablet, user)).await;
    let history = engine.history(&phone, user).await.unwrap();
    assert_eq!(history.len(), 1, "the note alone");
    assert_eq!(engine.positions(phone.device_no).await, [1, 2]);
}
