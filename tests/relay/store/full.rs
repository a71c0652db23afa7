//! Mailboxes that are full.

use restante::{
    domain::{Position, Receipt, Send},
    store::{Accepted, Deleted},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers,
};

on_both_engines!(tight =>
    a_mailbox_is_full_of_one_sender_before_it_is_full,
    a_full_mailbox_refuses_everybody_until_there_is_room,
    one_full_device_refuses_the_whole_send,
    a_batch_fills_a_mailbox_to_the_brim_and_no_further,
    a_notice_finds_its_place_in_a_mailbox_that_is_full_of_its_sender,
    a_mailbox_that_is_full_gets_no_notice_unless_something_is_erased_in_it,
    notices_alone_do_not_overfill_a_mailbox,
);

async fn a_mailbox_is_full_of_one_sender_before_it_is_full(engine: Engine) {
    let (alice, carol, bob) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    let refused = mothers::send(&alice, bob.user_id);
    assert_eq!(engine.accept(refused.clone()).await, Accepted::MailboxFull);
    let tablet = engine.link(&alice, "tablet").await;
    let from_sibling = mothers::send(&tablet, bob.user_id);
    assert_eq!(engine.accept(from_sibling).await, Accepted::MailboxFull, "the sender is a user");
    engine.stored(mothers::send(&carol, bob.user_id)).await;
    assert_eq!(engine.ack(bob.device_no, &[2]).await, 1);
    engine.stored(refused).await;
    assert_eq!(engine.accept(mothers::send(&alice, bob.user_id)).await, Accepted::MailboxFull);
}

async fn a_full_mailbox_refuses_everybody_until_there_is_room(engine: Engine) {
    let (alice, carol, bob) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    for sender in [&alice, &alice, &alice, &carol, &carol] {
        engine.stored(mothers::send(sender, bob.user_id)).await;
    }
    let dave = engine.newcomer().await;
    assert_eq!(engine.accept(mothers::send(&dave, bob.user_id)).await, Accepted::MailboxFull);
    let known = mothers::send(&carol, alice.user_id);
    engine.stored(known).await;
    for round in 0..10 {
        assert_eq!(engine.ack(bob.device_no, &[round + 1]).await, 1);
        engine.stored(mothers::send(&dave, bob.user_id)).await;
        let (_, refused) = (round, engine.accept(mothers::send(&carol, bob.user_id)).await);
        assert_eq!(refused, Accepted::MailboxFull);
        if round >= 2 {
            break;
        }
    }
    engine.ack_all(bob.device_no).await;
    for _ in 0..3 {
        engine.stored(mothers::send(&dave, bob.user_id)).await;
    }
}

async fn one_full_device_refuses_the_whole_send(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
        engine.ack_all(bob.device_no).await;
    }
    let head = engine.left(bob.device_no).await.head;
    assert_eq!(engine.accept(mothers::send(&alice, bob.user_id)).await, Accepted::MailboxFull);
    assert_eq!(engine.left(bob.device_no).await.head, head);
    engine.ack_all(tablet.device_no).await;
    engine.stored(mothers::send(&alice, bob.user_id)).await;
}

async fn a_batch_fills_a_mailbox_to_the_brim_and_no_further(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for _ in 0..3 {
        let sends: Vec<Send> = (0..8).map(|_| mothers::send(&alice, bob.user_id)).collect();
        let called: Vec<_> = sends.into_iter().map(|send| engine.store.accept_envelopes(send)).collect();
        let outcomes: Vec<_> =
            futures_util::future::join_all(called).await.into_iter().map(Result::unwrap).collect();
        let stored = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Stored(_))).count();
        assert_eq!(stored, 3, "{outcomes:?}");
        engine.ack_all(bob.device_no).await;
    }
}

async fn a_notice_finds_its_place_in_a_mailbox_that_is_full_of_its_sender(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let first = engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.ack_all(bob.device_no).await;
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    engine.store.delete_for_everyone(alice.user_id, first.message_id, engine.now()).await.unwrap();
    assert_eq!(engine.positions(bob.device_no).await, [2, 3, 4, 5]);
}

async fn a_mailbox_that_is_full_gets_no_notice_unless_something_is_erased_in_it(engine: Engine) {
    let (alice, carol, bob) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let acked = engine.stored(mothers::send(&alice, bob.user_id)).await;
    engine.ack_all(bob.device_no).await;
    let waiting = engine.stored(mothers::send(&alice, bob.user_id)).await;
    for sender in [&alice, &alice, &carol, &carol] {
        engine.stored(mothers::send(sender, bob.user_id)).await;
    }
    let delete = async |receipt: Receipt| {
        let deleted = engine.store.delete_for_everyone(alice.user_id, receipt.message_id, engine.now()).await;
        assert!(matches!(deleted.unwrap(), Deleted::Deleted(_)));
        engine.positions(bob.device_no).await
    };
    assert_eq!(delete(acked).await, [2, 3, 4, 5, 6], "nothing was erased, nothing is put");
    assert_eq!(delete(waiting).await, [3, 4, 5, 6, 7], "the notice takes the place of the body");
    assert_eq!(engine.left(bob.device_no).await.head, Position(7));
}

async fn notices_alone_do_not_overfill_a_mailbox(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let mut acked = Vec::new();
    for _ in 0..12 {
        acked.push(engine.stored(mothers::send(&alice, bob.user_id)).await.message_id);
        engine.ack_all(bob.device_no).await;
    }
    for id in acked {
        engine.store.delete_for_everyone(alice.user_id, id, engine.now()).await.unwrap();
    }
    assert_eq!(engine.positions(bob.device_no).await, [13, 14, 15, 16, 17]);
}
