//! In which order accepted sends lie, are numbered and are emitted.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use restante::{
    domain::{Caller, Item, Position, Send, Sequence, Timestamp},
    store::Accepted,
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    positions_have_no_gap_and_follow_each_senders_order,
    a_send_takes_its_place_when_it_is_called,
    a_dropped_future_takes_nothing_back,
    sequences_increase_in_both_directions_even_when_the_clock_steps_back,
    sequences_increase_over_a_change_of_devices,
    what_is_emitted_is_what_lies_in_the_mailboxes,
);

async fn positions_have_no_gap_and_follow_each_senders_order(engine: Engine) {
    const EACH: usize = 40;
    let bob = engine.newcomer().await;
    let tablet = engine.link(&bob, "tablet").await;
    let senders: Vec<Caller> = join_all((0..5).map(|_| engine.newcomer())).await;
    let sending = senders.iter().map(async |sender| {
        let mut ids = Vec::new();
        for _ in 0..EACH {
            ids.push(engine.stored(mothers::send(sender, bob.user_id)).await.message_id);
        }
        (sender.user_id, ids)
    });
    let sent: HashMap<_, _> = join_all(sending).await.into_iter().collect();
    for device in [&bob, &tablet] {
        let items = engine.items(device.device_no).await;
        let positions: Vec<i64> = items.iter().map(|(position, _)| position.0).collect();
        let first = if device.device_no == bob.device_no { 2 } else { 1 };
        assert_eq!(positions, (first..first + 5 * i64::try_from(EACH).unwrap()).collect::<Vec<_>>());
        for (sender, ids) in &sent {
            let got = items.iter().filter_map(|(_, item)| match item {
                Item::Message(message) if message.sender_id == *sender => Some(message),
                Item::Message(_)
                | Item::Deleted { .. }
                | Item::DevicesChanged { .. }
                | Item::Welcome { .. }
                | Item::Joined { .. } => None,
            });
            assert_eq!(&got.map(|message| message.message_id).collect::<Vec<_>>(), ids);
        }
    }
}

async fn a_send_takes_its_place_when_it_is_called(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let sends: Vec<Send> = (0..20).map(|_| mothers::send(&alice, bob.user_id)).collect();
    let called: Vec<_> = sends.iter().map(|send| engine.store.accept_envelopes(send.clone())).collect();
    for future in called.into_iter().rev() {
        assert!(matches!(future.await.unwrap(), Accepted::Stored(_)));
    }
    let got: Vec<_> = engine.items(bob.device_no).await.iter().map(|(_, item)| item.message_id()).collect();
    assert_eq!(got, sends.iter().map(|send| send.message_id).collect::<Vec<_>>());
}

async fn a_dropped_future_takes_nothing_back(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..10 {
        drop(engine.store.accept_envelopes(mothers::send(&alice, bob.user_id)));
    }
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(engine.left(bob.device_no).await.positions().len(), 11);
    drop(engine.store.ack(bob.device_no, vec![Position(1), Position(2)]));
    assert_eq!(engine.ack(bob.device_no, &[1, 2, 3]).await, 1);

    // An act that is dropped at its first await leaves no transaction behind for the next one to trip over.
    for _ in 0..10 {
        let registering =
            engine.store.register_device(mothers::registration(mothers::user(), "x"), engine.now());
        let _elapsed = tokio::time::timeout(Duration::from_micros(300), registering).await;
    }
    engine.newcomer().await;
}

async fn sequences_increase_in_both_directions_even_when_the_clock_steps_back(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let mut highest = Sequence(0);
    for (step, back) in [0, 5000, -60_000, 0, 1, -3_600_000, 0, 0].into_iter().enumerate() {
        let now = engine.now().millis() + back;
        engine.clock.set(Timestamp::from_millis(now));
        let (from, to) = if step % 2 == 0 { (&alice, &bob) } else { (&bob, &alice) };
        for _ in 0..2 {
            let receipt = engine.stored(mothers::send(from, to.user_id)).await;
            assert!(receipt.sequence > highest, "step {step}");
            highest = receipt.sequence;
        }
        engine.ack_all(to.device_no).await;
    }
    let history = engine.history(&alice, bob.user_id).await.unwrap();
    assert!(history.is_sorted_by(|newer, older| newer.sequence > older.sequence));
    assert_eq!(history.len(), 16);
}

async fn sequences_increase_over_a_change_of_devices(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let before = engine.stored(mothers::send(&alice, bob.user_id)).await;
    let tablet = engine.link(&bob, "tablet").await;
    engine.store.deactivate(&bob, &bob.device_id, engine.now()).await.unwrap();
    engine.clock.set(NOON.minus(Duration::from_hours(1)));
    let after = engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert!(after.sequence > before.sequence);
    let answer = engine.stored(mothers::send(&tablet, alice.user_id)).await;
    assert!(answer.sequence > after.sequence);
}

async fn what_is_emitted_is_what_lies_in_the_mailboxes(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let notice = engine.emitted();
    assert_eq!(
        notice.iter().map(|told| (told.device_no, told.position.0)).collect::<Vec<_>>(),
        [(bob.device_no, 1)]
    );
    let sends = (0..30).map(|_| engine.store.accept_envelopes(mothers::send(&alice, bob.user_id)));
    let receipts = join_all(sends).await;
    let deleted = match &receipts[7] {
        Ok(Accepted::Stored(receipt)) => receipt.message_id,
        refused => panic!("not stored: {refused:?}"),
    };
    engine.store.delete_for_everyone(alice.user_id, deleted, engine.now()).await.unwrap();
    let emitted = engine.emitted();
    assert_eq!(emitted.len(), 62);
    for device in [&bob, &tablet] {
        let own: Vec<_> = emitted.iter().filter(|delivery| delivery.device_no == device.device_no).collect();
        let positions: Vec<i64> = own.iter().map(|delivery| delivery.position.0).collect();
        let first = if device.device_no == bob.device_no { 2 } else { 1 };
        assert_eq!(positions, (first..first + 31).collect::<Vec<_>>(), "in the order of their commits");
        for (position, item) in engine.items(device.device_no).await {
            let delivery = own.iter().find(|delivery| delivery.position == position).unwrap();
            assert_eq!(format!("{:?}", delivery.item), format!("{item:?}"));
            assert_eq!(delivery.item.message_id(), item.message_id());
            if let (Item::Message(live), Item::Message(stored)) = (delivery.item.as_ref(), &item) {
                assert_eq!(live.envelope, stored.envelope);
                assert_eq!(live.conversation_id, stored.conversation_id);
            }
        }
    }
}
