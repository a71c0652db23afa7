//! The mailbox as its device sees it.

use std::time::Duration;

use restante::domain::{Item, Position};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    an_ack_erases_once_and_only_its_devices_items,
    acks_of_one_batch_count_each_item_once,
    positions_of_finds_acked_items_too_and_only_ones_own,
    what_is_left_is_paged_with_the_head_of_the_moment,
    an_item_that_has_expired_is_given_to_nobody_even_before_expiry_runs,
    items_come_in_order_without_those_that_are_gone,
    heads_of_many_mailboxes_are_asked_at_once,
    a_count_stops_at_its_limit,
    a_store_that_is_there_says_so,
);

async fn an_ack_erases_once_and_only_its_devices_items(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    assert_eq!(engine.ack(tablet.device_no, &[1, 3, 77]).await, 2);
    assert_eq!(engine.ack(tablet.device_no, &[1, 2, 3]).await, 1);
    assert_eq!(engine.ack(tablet.device_no, &[]).await, 0);
    assert!(engine.positions(tablet.device_no).await.is_empty());
    assert_eq!(engine.positions(bob.device_no).await, [2, 3, 4], "after the notice that the tablet came");
    assert_eq!(engine.left(tablet.device_no).await.head, Position(3));
}

async fn acks_of_one_batch_count_each_item_once(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..10 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    let all: Vec<Position> = (1..=10).map(Position).collect();
    let called: Vec<_> = (0..6).map(|_| engine.store.ack(bob.device_no, all.clone())).collect();
    let removed: Vec<u32> =
        futures_util::future::join_all(called).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(removed, [10, 0, 0, 0, 0, 0], "whoever called first");
    assert_eq!(engine.ack(bob.device_no, &[1, 1]).await, 0);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(engine.ack(bob.device_no, &[11, 11]).await, 1, "named twice, there once");
}

async fn positions_of_finds_acked_items_too_and_only_ones_own(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let first = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    let second = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.ack(bob.device_no, &[1]).await;
    let ids = [second, mothers::message_id(), first];
    let mut found = engine.store.positions_of(bob.device_no, &ids).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, [Position(1), Position(2)]);
    assert!(engine.store.positions_of(alice.device_no, &ids).await.unwrap().is_empty());
    assert!(engine.store.positions_of(bob.device_no, &[]).await.unwrap().is_empty());
}

async fn what_is_left_is_paged_with_the_head_of_the_moment(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..6 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    engine.ack(bob.device_no, &[2, 6]).await;
    let page = async |after, limit| {
        let left =
            engine.store.mailbox_left(bob.device_no, Position(after), limit, engine.now()).await.unwrap();
        assert_eq!(left.head, Position(6));
        left.positions().into_iter().map(|position| position.0).collect::<Vec<_>>()
    };
    assert_eq!(page(0, 2).await, [1, 3]);
    assert_eq!(page(3, 10).await, [4, 5]);
    assert!(page(5, 10).await.is_empty());
    assert!(page(0, 0).await.is_empty());
}

async fn an_item_that_has_expired_is_given_to_nobody_even_before_expiry_runs(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::fleeting(&alice, bob.user_id, engine.now(), Duration::from_secs(1))).await;
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(engine.positions(bob.device_no).await, [1, 2]);
    engine.advance(Duration::from_secs(1));
    assert_eq!(engine.positions(bob.device_no).await, [2]);
    assert_eq!(engine.store.mailbox_count(bob.device_no, 10, engine.now()).await.unwrap(), 1);
    let asked = [Position(1), Position(2)];
    let items = engine.store.mailbox_items(bob.device_no, &asked, engine.now()).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].0, Position(2));
    let history = engine.history(&bob, alice.user_id).await.unwrap();
    assert_eq!(history.len(), 1);
}

async fn items_come_in_order_without_those_that_are_gone(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(engine.stored(mothers::send(&alice, bob.user_id)).await.message_id);
    }
    engine.ack(bob.device_no, &[3]).await;
    let asked = [Position(4), Position(9), Position(1), Position(3)];
    let items = engine.store.mailbox_items(bob.device_no, &asked, engine.now()).await.unwrap();
    let got: Vec<_> = items.iter().map(|(position, item)| (position.0, item.message_id())).collect();
    assert_eq!(got, [(1, sent[0]), (4, sent[3])]);
    assert!(
        items.iter().all(|(_, item)| matches!(item, Item::Message(message) if message.envelope.is_some()))
    );
    assert!(engine.store.mailbox_items(bob.device_no, &[], engine.now()).await.unwrap().is_empty());
}

async fn heads_of_many_mailboxes_are_asked_at_once(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    let mut asked: Vec<_> = (1_000_000..1_040_000).map(restante::domain::DeviceNo).collect();
    asked.extend([bob.device_no, alice.device_no]);
    let mut heads = engine.store.mailbox_heads(&asked).await.unwrap();
    heads.sort_unstable();
    let mut expected = [(alice.device_no, Position::START), (bob.device_no, Position(3))];
    expected.sort_unstable();
    assert_eq!(heads, expected);
}

async fn a_count_stops_at_its_limit(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..4 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    for (limit, counted) in [(0, 0), (3, 3), (10, 4)] {
        assert_eq!(engine.store.mailbox_count(bob.device_no, limit, engine.now()).await.unwrap(), counted);
    }
}

async fn a_store_that_is_there_says_so(engine: Engine) {
    engine.store.check().await.unwrap();
    engine.store.close().await;
    assert!(engine.store.check().await.is_err());
    let (alice, bob) = (mothers::user(), mothers::user());
    let unavailable = engine.store.register_device(mothers::registration(alice, "x"), engine.now()).await;
    assert!(unavailable.is_err());
    assert!(engine.store.devices(bob).await.is_err());
}
