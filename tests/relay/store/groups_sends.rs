//! Messages for groups: one row each, in one order, judged under the group's lock.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use restante::{
    domain::{Caller, EntryKind, Epoch, GroupReceipt, GroupSend, Position},
    store::{Accepted, GroupAccepted},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls, mothers,
};

on_both_engines!(roomy =>
    a_message_takes_the_next_place_of_the_log,
    a_repeat_is_answered_as_before_whatever_happened_since,
    an_id_belongs_to_one_send_of_one_device,
    an_id_is_shared_with_pairwise_messages,
    refusals_come_in_their_order,
    epochs_are_taken_from_the_oldest_to_the_current_one,
    a_body_is_of_the_groups_kind,
    an_invited_member_who_writes_is_a_member,
    who_may_not_write_learns_nothing,
    positions_have_no_gap_and_follow_each_senders_order,
    a_send_takes_its_place_when_it_is_called,
    a_dropped_future_takes_nothing_back,
    a_message_never_precedes_the_commit_that_opened_its_epoch,
    what_is_emitted_is_what_lies_in_the_log,
);

async fn a_message_takes_the_next_place_of_the_log(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.advance(Duration::from_secs(3));
    let mut send = mls::send(&bob, group, Some(Epoch(1)));
    send.expires_at = Some(engine.now().plus(Duration::from_mins(5)));
    let receipt = engine.group_stored(send.clone()).await;
    let expected = GroupReceipt {
        message_id: send.message_id,
        group_id: group,
        position: Position(2),
        epoch: Epoch(1),
        accepted_at: engine.now(),
    };
    assert_eq!(receipt, expected);
    let entry = engine.log(group).await.pop().unwrap();
    assert_eq!((entry.group_id, entry.position, entry.kind), (group, Position(2), EntryKind::Application));
    assert_eq!((entry.message_id, entry.sender_id), (send.message_id, bob.user_id));
    assert_eq!((&entry.sender_device_id, entry.message_type), (&bob.device_id, Some(send.message_type)));
    assert_eq!((entry.epoch, entry.body, entry.accepted_at), (Epoch(1), Some(send.body), engine.now()));
    assert_eq!((entry.expires_at, entry.closes.len()), (send.expires_at, 0));
    assert_eq!(engine.group(group, &alice).await.head, Position(2));

    let roster = engine.roster(&alice, &[&bob]).await;
    engine.changed(roster, &alice, &[&engine.newcomer().await], &[]).await;
    let receipt = engine.group_stored(mls::send(&alice, roster, None)).await;
    assert_eq!((receipt.position, receipt.epoch), (Position(2), Epoch(1)), "the epoch it was sent in");
}

async fn a_repeat_is_answered_as_before_whatever_happened_since(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let mut send = mls::send(&bob, group, Some(Epoch(1)));
    send.expires_at = Some(engine.now().plus(Duration::from_mins(1)));
    let receipt = engine.group_stored(send.clone()).await;
    let repeated = GroupAccepted::Repeated(receipt);
    let before = engine.tables().await;
    engine.advance(Duration::from_secs(1));
    assert_eq!(engine.group_accept(send.clone()).await, repeated);
    engine.assert_unchanged(&before, "a repeat").await;
    engine.emitted_all();
    assert_eq!(engine.group_accept(send.clone()).await, repeated);
    assert!(engine.emitted_all().1.is_empty());

    engine.advance(Duration::from_hours(1));
    engine.expire_all().await;
    assert_eq!(engine.group_accept(send.clone()).await, repeated, "the body is gone");
    for _ in 0..5 {
        engine.advanced(engine.commit(group, &alice).await).await;
    }
    assert_eq!(engine.group_accept(send.clone()).await, repeated, "the epoch is too old");
    engine.remove(group, &alice, &[&bob]).await;
    assert_eq!(engine.group_accept(send.clone()).await, repeated, "the sender was removed");
    engine.store.after_restore(engine.now()).await.unwrap();
    assert_eq!(engine.group_accept(send).await, repeated, "the group was rolled back");

    // Two at once, of one send.
    let group = engine.filled(&alice, &[]).await;
    let send = mls::send(&alice, group, Some(Epoch(1)));
    let both = [engine.store.accept_group_send(send.clone()), engine.store.accept_group_send(send)];
    let outcomes: Vec<_> = join_all(both).await.into_iter().map(Result::unwrap).collect();
    let (GroupAccepted::Stored(one), GroupAccepted::Repeated(other)) = (outcomes[0], outcomes[1]) else {
        panic!("{outcomes:?}")
    };
    assert_eq!(one, other);
}

async fn an_id_belongs_to_one_send_of_one_device(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let other = engine.filled(&alice, &[&bob]).await;
    let send = mls::send(&bob, group, Some(Epoch(1)));
    engine.group_stored(send.clone()).await;
    let before = engine.tables().await;
    for reusing in [
        GroupSend { digest: mothers::bytes(), ..send.clone() },
        GroupSend { sender: alice.clone(), ..send.clone() },
        GroupSend { group_id: other, digest: mothers::bytes(), ..send },
    ] {
        assert_eq!(engine.group_accept(reusing).await, GroupAccepted::MessageIdReused);
    }
    engine.assert_unchanged(&before, "an id that was used").await;

    // Of two different ones at once one is stored.
    let first = mls::send(&bob, group, Some(Epoch(1)));
    let second = GroupSend { sender: alice, group_id: other, digest: mothers::bytes(), ..first.clone() };
    let both = [engine.store.accept_group_send(first), engine.store.accept_group_send(second)];
    let outcomes: Vec<_> = join_all(both).await.into_iter().map(Result::unwrap).collect();
    let stored = outcomes.iter().filter(|outcome| matches!(outcome, GroupAccepted::Stored(_))).count();
    assert!(stored == 1 && outcomes.contains(&GroupAccepted::MessageIdReused), "{outcomes:?}");
}

async fn an_id_is_shared_with_pairwise_messages(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let pairwise = mothers::send(&alice, bob.user_id);
    engine.stored(pairwise.clone()).await;
    let mut for_group = mls::send(&alice, group, Some(Epoch(1)));
    (for_group.message_id, for_group.digest) = (pairwise.message_id, pairwise.digest);
    let before = engine.tables().await;
    assert_eq!(engine.group_accept(for_group.clone()).await, GroupAccepted::MessageIdReused);
    engine.assert_unchanged(&before, "an id of a pairwise message").await;

    for_group.message_id = mothers::message_id();
    engine.group_stored(for_group.clone()).await;
    let mut pairwise = mothers::send(&alice, bob.user_id);
    (pairwise.message_id, pairwise.digest) = (for_group.message_id, for_group.digest);
    let before = engine.tables().await;
    assert_eq!(engine.accept(pairwise).await, Accepted::MessageIdReused);
    let commit = engine.log(group).await[0].message_id;
    let mut pairwise = mothers::send(&alice, bob.user_id);
    pairwise.message_id = commit;
    assert_eq!(engine.accept(pairwise).await, Accepted::MessageIdReused, "every entry has an id");
    engine.assert_unchanged(&before, "an id of an entry").await;
}

async fn refusals_come_in_their_order(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let used = engine.say(group, &alice).await.message_id;
    engine.store.after_restore(engine.now()).await.unwrap();
    let before = engine.tables().await;
    let wrong = GroupSend { message_id: used, ..mls::send(&stranger, group, None) };
    assert_eq!(engine.group_accept(wrong.clone()).await, GroupAccepted::NotMember, "before the id");
    let wrong = GroupSend { sender: bob.clone(), ..wrong };
    assert_eq!(engine.group_accept(wrong.clone()).await, GroupAccepted::MessageIdReused, "before the kind");
    let wrong = GroupSend { message_id: mothers::message_id(), ..wrong };
    assert_eq!(engine.group_accept(wrong.clone()).await, GroupAccepted::WrongKind, "before the rollback");
    let wrong = GroupSend { epoch: Some(Epoch(9)), ..wrong };
    assert_eq!(engine.group_accept(wrong).await, GroupAccepted::RolledBack, "before the epoch");
    engine.assert_unchanged(&before, "a refused send").await;
}

async fn epochs_are_taken_from_the_oldest_to_the_current_one(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let taken = async || {
        let mut taken = Vec::new();
        for epoch in 0..9 {
            match engine.group_accept(mls::send(&alice, group, Some(Epoch(epoch)))).await {
                GroupAccepted::Stored(receipt) => {
                    assert_eq!(receipt.epoch, Epoch(epoch));
                    taken.push(epoch);
                }
                refused => {
                    assert_eq!(refused, GroupAccepted::Stale(engine.group(group, &alice).await.epoch));
                }
            }
        }
        taken
    };
    assert_eq!(taken().await, [0, 1]);
    for _ in 0..3 {
        engine.advanced(engine.commit(group, &alice).await).await;
    }
    assert_eq!(taken().await, [2, 3, 4]);
    engine.remove(group, &alice, &[&bob]).await;
    assert_eq!(taken().await, [5]);
    engine.advanced(engine.commit(group, &alice).await).await;
    assert_eq!(taken().await, [5, 6]);
}

async fn a_body_is_of_the_groups_kind(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let (group, roster) = (engine.filled(&alice, &[]).await, engine.roster(&alice, &[]).await);
    let before = engine.tables().await;
    for wrong in [mls::send(&alice, group, None), mls::send(&alice, roster, Some(Epoch(0)))] {
        assert_eq!(engine.group_accept(wrong).await, GroupAccepted::WrongKind);
    }
    engine.assert_unchanged(&before, "a body of the wrong kind").await;
}

async fn an_invited_member_who_writes_is_a_member(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob, &carol]).await;
    let invited = async || {
        let members = engine.members(group).await;
        members.into_iter().filter(|it| it.invited).map(|it| it.user_id).collect::<Vec<_>>()
    };
    assert_eq!(invited().await, [bob.user_id, carol.user_id]);
    engine.say(group, &alice).await;
    assert_eq!(invited().await, [bob.user_id, carol.user_id]);
    engine.say(group, &bob).await;
    assert_eq!(invited().await, [carol.user_id]);
}

async fn who_may_not_write_learns_nothing(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    engine.remove(group, &alice, &[&bob]).await;
    let roster = engine.roster(&alice, &[&bob]).await;
    engine.changed(roster, &bob, &[], &[&bob]).await;
    let gone = engine.mls_newcomer().await;
    let ended = engine.filled(&gone, &[]).await;
    engine.deactivate(&gone, &gone).await;
    let before = engine.tables().await;
    for send in [
        mls::send(&stranger, group, Some(Epoch(2))),
        mls::send(&bob, group, Some(Epoch(2))),
        mls::send(&laptop, group, Some(Epoch(2))),
        mls::send(&bob, roster, None),
        mls::send(&stranger, roster, None),
        mls::send(&alice, mls::group_id(), None),
        mls::send(&gone, ended, Some(Epoch(1))),
    ] {
        assert_eq!(engine.group_accept(send).await, GroupAccepted::NotMember);
    }
    engine.assert_unchanged(&before, "a stranger").await;
}

async fn positions_have_no_gap_and_follow_each_senders_order(engine: Engine) {
    const EACH: usize = 20;
    let stores = [engine.store.clone(), engine.twin().await];
    let founder = engine.newcomer().await;
    let mut senders: Vec<Caller> = Vec::new();
    for _ in 0..16 {
        senders.push(engine.newcomer().await);
    }
    let others: Vec<&Caller> = senders.iter().collect();
    let groups = [engine.roster(&founder, &others).await, engine.roster(&founder, &others).await];
    let sending = senders.iter().cloned().enumerate().map(|(number, sender)| {
        let store = stores[number % 2].clone();
        tokio::spawn(async move {
            let mut ids = [Vec::new(), Vec::new()];
            // Every second one waits for no answer: what was called first comes first all the same.
            let mut called = Vec::new();
            for round in 0..EACH {
                for (group, ids) in groups.iter().zip(&mut ids) {
                    let send = mls::send(&sender, *group, None);
                    ids.push(send.message_id);
                    called.push(store.accept_group_send(send));
                }
                if number % 4 < 2 || round == EACH - 1 {
                    for outcome in join_all(called.drain(..)).await {
                        assert!(matches!(outcome.unwrap(), GroupAccepted::Stored(_)));
                    }
                }
            }
            (sender.user_id, ids)
        })
    });
    let sent: HashMap<_, _> = join_all(sending).await.into_iter().map(Result::unwrap).collect();
    for (index, group) in groups.into_iter().enumerate() {
        let log = engine.log(group).await;
        let positions: Vec<i64> = log.iter().map(|entry| entry.position.0).collect();
        assert_eq!(positions, (1..=i64::try_from(16 * EACH).unwrap()).collect::<Vec<_>>());
        for (sender, ids) in &sent {
            let own = log.iter().filter(|entry| entry.sender_id == *sender).map(|entry| entry.message_id);
            assert_eq!(&own.collect::<Vec<_>>(), &ids[index]);
        }
    }
    stores[1].close().await;
}

async fn a_send_takes_its_place_when_it_is_called(engine: Engine) {
    let alice = engine.newcomer().await;
    let group = engine.roster(&alice, &[]).await;
    let sends: Vec<GroupSend> = (0..20).map(|_| mls::send(&alice, group, None)).collect();
    let called: Vec<_> = sends.iter().map(|send| engine.store.accept_group_send(send.clone())).collect();
    for future in called.into_iter().rev() {
        assert!(matches!(future.await.unwrap(), GroupAccepted::Stored(_)));
    }
    let got: Vec<_> = engine.log(group).await.iter().map(|entry| entry.message_id).collect();
    assert_eq!(got, sends.iter().map(|send| send.message_id).collect::<Vec<_>>());
}

async fn a_dropped_future_takes_nothing_back(engine: Engine) {
    let alice = engine.newcomer().await;
    let group = engine.roster(&alice, &[]).await;
    for _ in 0..10 {
        drop(engine.store.accept_group_send(mls::send(&alice, group, None)));
    }
    let last = engine.group_stored(mls::send(&alice, group, None)).await;
    assert_eq!((last.position, engine.log(group).await.len()), (Position(11), 11));
}

async fn a_message_never_precedes_the_commit_that_opened_its_epoch(engine: Engine) {
    let stores = [engine.store.clone(), engine.twin().await];
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    for round in 1..=10 {
        let sending = (0..6_usize).map(|number| {
            let send = mls::send(&bob, group, Some(Epoch(round + i64::from(number % 2 == 1))));
            let store = stores[number % 2].clone();
            tokio::spawn(async move { store.accept_group_send(send).await.unwrap() })
        });
        let sending: Vec<_> = sending.collect();
        engine.advanced(engine.commit(group, &alice).await).await;
        for outcome in join_all(sending).await {
            let outcome = outcome.unwrap();
            assert!(
                matches!(outcome, GroupAccepted::Stored(_)) || outcome == GroupAccepted::Stale(Epoch(round)),
                "{outcome:?}"
            );
        }
    }
    let mut epoch = Epoch(0);
    for (entry, position) in engine.log(group).await.iter().zip(1..) {
        assert_eq!(entry.position, Position(position));
        if entry.kind == EntryKind::Commit {
            epoch = entry.epoch.next();
        }
        assert!(entry.epoch <= epoch, "an entry of an epoch that nobody had opened");
    }
    assert_eq!(epoch, Epoch(11));
    stores[1].close().await;
}

async fn what_is_emitted_is_what_lies_in_the_log(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let groups = [engine.roster(&alice, &[&bob]).await, engine.roster(&bob, &[&alice]).await];
    engine.emitted_all();
    let sends =
        (0..30).map(|number| engine.store.accept_group_send(mls::send(&alice, groups[number % 2], None)));
    join_all(sends).await;
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (0, 30));
    for group in groups {
        let live: Vec<_> =
            entries.iter().filter(|entry| entry.group_id == group).map(|entry| (**entry).clone()).collect();
        assert_eq!(live, engine.log(group).await, "in the order of their positions");
    }
}
