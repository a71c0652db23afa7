//! What ends by itself.

use std::time::Duration;

use restante::{
    domain::{METADATA_LIFE, Position, Status, Timestamp},
    store::{Accepted, Expired, REVOCATION_LIFE, Registered},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    expired_bodies_are_erased_in_batches,
    an_id_is_recognised_after_its_body_expired_and_free_after_30_days,
    an_acked_message_is_remembered_for_30_days,
    a_body_that_expired_unread_was_not_delivered,
    a_notice_expires_too,
    link_tokens_and_revocations_are_forgotten,
    nodes_that_expire_at_once_do_everything_once,
    expiry_goes_on_past_messages_that_were_acked,
);

const MINUTE: Duration = Duration::from_mins(1);

async fn expired_bodies_are_erased_in_batches(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for life in [1, 2, 3, 4, 5] {
        engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), life * MINUTE)).await;
    }
    let expire = async |limit| engine.store.expire(engine.now(), limit).await.unwrap();
    assert_eq!(expire(10).await, Expired::default());
    engine.advance(3 * MINUTE);
    let first = expire(2).await;
    assert_eq!((first.bodies, first.forgotten, first.more), (2, 0, true));
    let second = expire(2).await;
    assert_eq!((second.bodies, second.forgotten, second.more), (1, 0, false));
    assert_eq!(expire(2).await, Expired::default());
    engine.clock.set(NOON);
    assert_eq!(engine.positions(bob.device_no).await, [4, 5], "whatever the clock says, they are gone");
    assert_eq!(engine.left(bob.device_no).await.head, Position(5));
}

async fn an_id_is_recognised_after_its_body_expired_and_free_after_30_days(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::fleeting(&alice, bob.user_id, engine.now(), MINUTE);
    let receipt = engine.stored(send.clone()).await;
    engine.advance(MINUTE);
    engine.expire_all().await;
    assert_eq!(engine.accept(send.clone()).await, Accepted::Repeated(receipt));
    engine.clock.set(NOON.plus(METADATA_LIFE).minus(Duration::from_millis(1)));
    engine.expire_all().await;
    assert_eq!(engine.accept(send.clone()).await, Accepted::Repeated(receipt));
    assert!(engine.history(&alice, bob.user_id).await.is_some());
    engine.clock.set(NOON.plus(METADATA_LIFE));
    engine.expire_all().await;
    assert!(engine.history(&alice, bob.user_id).await.is_none());
    let again = restante::domain::Send { expires_at: engine.now().plus(DAY), ..send };
    assert!(matches!(engine.accept(again).await, Accepted::Stored(_)));
    assert_eq!(engine.positions(bob.device_no).await, [2], "the position is a new one");
}

async fn an_acked_message_is_remembered_for_30_days(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send(&alice, bob.user_id);
    let receipt = engine.stored(send.clone()).await;
    engine.ack_all(bob.device_no).await;
    engine.advance(29 * DAY);
    engine.expire_all().await;
    assert_eq!(engine.accept(send).await, Accepted::Repeated(receipt));
    engine.advance(DAY);
    let expired = engine.store.expire(engine.now(), 100).await.unwrap();
    assert_eq!(expired.bodies, 0, "there was no body left to erase");
    assert!(expired.forgotten >= 1);
    assert!(engine.history(&alice, bob.user_id).await.is_none());
}

async fn a_body_that_expired_unread_was_not_delivered(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), MINUTE)).await;
    let acked = mothers::fleeting(&alice, bob.user_id, engine.now(), MINUTE);
    let acked = engine.stored(acked).await;
    engine.ack(bob.device_no, &[2]).await;
    engine.advance(MINUTE);
    assert!(engine.history(&alice, bob.user_id).await.unwrap().is_empty(), "expired messages are hidden");
    engine.expire_all().await;
    // Looked at as of before, the one that was acked was delivered and the other was lost.
    engine.clock.set(NOON);
    for message in engine.history(&alice, bob.user_id).await.unwrap() {
        let expected = if message.message_id == acked.message_id { Status::Delivered } else { Status::Sent };
        assert_eq!(message.status, expected);
    }
}

async fn a_notice_expires_too(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.store.delete_for_everyone(alice.user_id, id, engine.now()).await.unwrap();
    assert_eq!(engine.positions(bob.device_no).await, [2]);
    engine.advance(DAY);
    assert!(engine.positions(bob.device_no).await.is_empty());
    assert_eq!(engine.store.expire(engine.now(), 10).await.unwrap().bodies, 1);
    engine.clock.set(NOON);
    assert!(engine.positions(bob.device_no).await.is_empty());
}

async fn link_tokens_and_revocations_are_forgotten(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let laptop = mothers::linked(&phone, "laptop", engine.now());
    engine.store.offer_link(laptop.offer, engine.now()).await.unwrap();
    engine.advance(10 * MINUTE);
    let expired = engine.store.expire(engine.now(), 10).await.unwrap();
    assert_eq!((expired.bodies, expired.forgotten), (0, 1));
    engine.clock.set(NOON);
    assert_eq!(engine.try_register(laptop.registration).await, Registered::LinkRequired);

    engine.store.deactivate(&phone, &tablet.device_id, engine.now()).await.unwrap();
    let ever = Timestamp::from_millis(0);
    let revoked_at = engine.now();
    assert!(REVOCATION_LIFE > DAY, "an access token may live for a day");
    engine.clock.set(revoked_at.plus(REVOCATION_LIFE).minus(Duration::from_millis(1)));
    engine.expire_all().await;
    assert_eq!(
        engine.store.revocations(ever).await.unwrap(),
        [restante::store::Revocation::Device(tablet.device_no)]
    );
    engine.clock.set(revoked_at.plus(REVOCATION_LIFE));
    engine.expire_all().await;
    assert!(engine.store.revocations(ever).await.unwrap().is_empty());
    engine.advance(7 * DAY);
    assert_eq!(engine.store.expire(engine.now(), 10).await.unwrap().forgotten, 1, "the phone's session");
}

async fn nodes_that_expire_at_once_do_everything_once(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..30 {
        engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), MINUTE)).await;
    }
    engine.advance(MINUTE);
    let rounds = (0..12).map(|_| engine.store.expire(engine.now(), 5));
    let rounds = futures_util::future::join_all(rounds).await;
    let mut bodies: u32 = rounds.into_iter().map(|round| round.unwrap().bodies).sum();
    // Rounds that meet may leave work to each other; what is left is found by the next.
    for _ in 0..12 {
        bodies += engine.store.expire(engine.now(), 5).await.unwrap().bodies;
    }
    assert_eq!(bodies, 30);
    engine.clock.set(NOON);
    assert!(engine.positions(bob.device_no).await.is_empty());
}

async fn expiry_goes_on_past_messages_that_were_acked(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..10 {
        engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), MINUTE)).await;
    }
    engine.ack_all(bob.device_no).await;
    engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), 2 * MINUTE)).await;
    engine.advance(3 * MINUTE);
    let first = engine.store.expire(engine.now(), 5).await.unwrap();
    assert_eq!(
        (first.bodies, first.forgotten, first.more),
        (0, 0, true),
        "a round that found nothing to erase"
    );
    while engine.store.expire(engine.now(), 5).await.unwrap().more {}
    engine.clock.set(NOON);
    assert!(engine.positions(bob.device_no).await.is_empty(), "the unread body behind them is erased");
}
