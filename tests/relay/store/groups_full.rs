//! Full mailboxes: nobody is added whose device could not be told.

use restante::{
    domain::UserId,
    store::{Accepted, Advance, Advanced, CannotAdd, GroupCreated, RosterChanged},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls, mothers,
};

on_both_engines!(tight =>
    nobody_is_added_whose_mailbox_is_full,
    nobody_is_added_whose_mailbox_is_full_of_the_one_who_adds,
    a_mailbox_that_has_room_again_takes_the_item,
);

const FULL: CannotAdd = CannotAdd::MailboxFull;

async fn nobody_is_added_whose_mailbox_is_full(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let dave = engine.newcomer().await;
    for from in [&carol, &carol, &carol, &dave, &dave] {
        engine.stored(mothers::send(from, bob.user_id)).await;
    }
    let joiner = engine.joiner(&bob, 1).await;
    let (group, roster) = (engine.filled(&alice, &[]).await, engine.roster(&alice, &[]).await);
    let before = engine.tables().await;
    let refused = engine.try_create(mls::filled(&alice, vec![joiner.clone()])).await;
    assert_eq!(refused, GroupCreated::CannotAdd(FULL));
    let refused = engine.try_create(mls::roster(&alice, &[dave.user_id, bob.user_id])).await;
    assert_eq!(refused, GroupCreated::CannotAdd(FULL));
    let advance = Advance { joiners: vec![joiner], ..engine.commit(group, &alice).await };
    assert_eq!(engine.try_advance(advance).await, Advanced::CannotAdd(FULL));
    let refused = engine.try_change(roster, &alice, &[&dave, &bob], &[]).await;
    assert_eq!(refused, RosterChanged::CannotAdd(FULL));
    engine.assert_unchanged(&before, "a full mailbox").await;
}

async fn nobody_is_added_whose_mailbox_is_full_of_the_one_who_adds(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let carol = engine.mls_newcomer().await;
    for _ in 0..3 {
        engine.stored(mothers::send(&alice, bob.user_id)).await;
    }
    let joiner = engine.joiner(&bob, 1).await;
    let users: [UserId; 1] = [bob.user_id];
    let before = engine.tables().await;
    for new in [mls::filled(&alice, vec![joiner.clone()]), mls::roster(&alice, &users)] {
        assert_eq!(engine.try_create(new).await, GroupCreated::CannotAdd(FULL));
    }
    engine.assert_unchanged(&before, "a mailbox full of one sender").await;
    engine.created(mls::filled(&carol, vec![joiner])).await;
    engine.created(mls::roster(&carol, &users)).await;
}

async fn a_mailbox_that_has_room_again_takes_the_item(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    // The items that groups put there count as those of whoever added.
    for _ in 0..3 {
        engine.created(mls::roster(&alice, &[bob.user_id])).await;
        engine.ack_all(alice.device_no).await;
    }
    assert_eq!(engine.accept(mothers::send(&alice, bob.user_id)).await, Accepted::MailboxFull);
    let joiner = engine.joiner(&bob, 1).await;
    let refused = engine.try_create(mls::filled(&alice, vec![joiner.clone()])).await;
    assert_eq!(refused, GroupCreated::CannotAdd(FULL));
    assert_eq!(engine.ack(bob.device_no, &[1]).await, 1);
    engine.created(mls::filled(&alice, vec![joiner])).await;
    assert_eq!(engine.accept(mothers::send(&alice, bob.user_id)).await, Accepted::MailboxFull);
    engine.ack_all(bob.device_no).await;
    engine.stored(mothers::send(&alice, bob.user_id)).await;
}
