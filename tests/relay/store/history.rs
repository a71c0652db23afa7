//! History, marks and deletions.

use std::time::Duration;

use restante::{
    domain::{
        Caller, Conversation, ConversationId, Item, Message, MessageId, Position, Send, Sequence, Status,
    },
    store::{Deleted, HistoryQuery, Mark},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    history_is_newest_first_and_comes_in_pages,
    history_is_none_for_who_has_no_part_in_it,
    each_device_sees_its_own_body_until_it_acks,
    a_message_is_delivered_once_every_device_has_acked_it,
    the_first_mark_wins,
    read_means_delivered,
    only_the_recipient_marks,
    a_message_deleted_for_one_side_stays_for_the_other,
    a_note_to_self_deleted_for_me_is_gone,
    an_unread_message_deleted_by_its_recipient_was_not_delivered,
    only_who_takes_part_deletes_for_itself,
    deleting_for_everyone_erases_and_gives_notice_once,
    only_the_sender_deletes_for_everyone,
    a_notice_is_acked_like_a_message_and_its_id_is_taken,
    a_notice_goes_only_to_devices_that_were_addressed_and_still_exist,
);

async fn find(engine: &Engine, viewer: &Caller, other: &Caller, id: MessageId) -> Option<Message> {
    let history = engine.history(viewer, other.user_id).await.unwrap();
    history.into_iter().find(|message| message.message_id == id)
}

async fn status(engine: &Engine, viewer: &Caller, other: &Caller, id: MessageId) -> Status {
    find(engine, viewer, other, id).await.unwrap().status
}

async fn history_is_newest_first_and_comes_in_pages(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let mut sequences = Vec::new();
    for round in 0..7 {
        let (from, to) = if round % 3 == 0 { (&bob, &alice) } else { (&alice, &bob) };
        sequences.push(engine.stored(mothers::send(from, to.user_id)).await.sequence);
    }
    sequences.reverse();
    let page = async |before: Option<Sequence>| {
        let query = HistoryQuery {
            user_id: bob.user_id,
            device_no: bob.device_no,
            conversation_id: mothers::conversation(alice.user_id, bob.user_id),
            before,
            limit: 3,
        };
        let page = engine.store.history(query, engine.now()).await.unwrap().unwrap();
        page.into_iter().map(|message| message.sequence.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(page(None).await, sequences[..3]);
    assert_eq!(page(Some(sequences[2])).await, sequences[3..6]);
    assert_eq!(page(Some(sequences[5])).await, sequences[6..]);
    assert!(page(Some(sequences[6])).await.is_empty());
}

async fn history_is_none_for_who_has_no_part_in_it(engine: Engine) {
    let (alice, bob, eve) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    assert!(engine.history(&alice, bob.user_id).await.is_none(), "nothing was said yet");
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    let query = HistoryQuery {
        user_id: eve.user_id,
        device_no: bob.device_no,
        conversation_id: mothers::conversation(alice.user_id, bob.user_id),
        before: None,
        limit: 10,
    };
    assert!(engine.store.history(query, engine.now()).await.unwrap().is_none());
    let id = ConversationId::new(uuid::Uuid::new_v4());
    let named = Send { conversation: Conversation::Named(id), ..mothers::send(&bob, alice.user_id) };
    engine.stored(named).await;
    let query = HistoryQuery { user_id: alice.user_id, conversation_id: id, ..query };
    assert_eq!(engine.store.history(query, engine.now()).await.unwrap().unwrap().len(), 1);
}

async fn each_device_sees_its_own_body_until_it_acks(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let send = mothers::send_each(&alice, bob.user_id, &[&bob, &tablet]);
    let id = engine.stored(send.clone()).await.message_id;
    let body = async |viewer: &Caller| {
        let message = engine.history(viewer, alice.user_id).await.unwrap().remove(0);
        message.envelope.map(|envelope| envelope.ciphertext)
    };
    let (on_phone, on_tablet) = (body(&bob).await.unwrap(), body(&tablet).await.unwrap());
    assert_ne!(on_phone, on_tablet);
    assert!(find(&engine, &alice, &bob, id).await.unwrap().envelope.is_none(), "the sender has it itself");
    engine.ack_all(bob.device_no).await;
    assert!(body(&bob).await.is_none());
    assert_eq!(body(&tablet).await, Some(on_tablet));
}

async fn a_message_is_delivered_once_every_device_has_acked_it(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    assert_eq!(status(&engine, &alice, &bob, id).await, Status::Sent);
    engine.ack_all(bob.device_no).await;
    assert_eq!(status(&engine, &alice, &bob, id).await, Status::Sent);
    engine.ack_all(tablet.device_no).await;
    assert_eq!(status(&engine, &alice, &bob, id).await, Status::Delivered);
    assert_eq!(status(&engine, &bob, &alice, id).await, Status::Delivered);
}

async fn the_first_mark_wins(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&alice, "tablet").await;
    let receipt = engine.stored(mothers::send(&alice, bob.user_id)).await;
    let mark = async |mark| {
        engine.advance(Duration::from_secs(1));
        engine.store.mark(bob.user_id, receipt.message_id, mark, engine.now()).await.unwrap().unwrap()
    };
    let delivered = mark(Mark::Delivered).await;
    assert!(delivered.newly);
    assert_eq!(delivered.at, NOON.plus(Duration::from_secs(1)));
    assert_eq!(delivered.conversation_id, receipt.conversation_id);
    assert_eq!(delivered.sender_devices, [alice.device_no, tablet.device_no]);
    let again = mark(Mark::Delivered).await;
    assert_eq!((again.newly, again.at), (false, delivered.at));
    let message = find(&engine, &alice, &bob, receipt.message_id).await.unwrap();
    assert_eq!((message.status, message.delivered_at), (Status::Delivered, Some(delivered.at)));
    let read = mark(Mark::Read).await;
    let again = mark(Mark::Read).await;
    assert_eq!((read.newly, again.newly, again.at), (true, false, read.at));
    let message = find(&engine, &alice, &bob, receipt.message_id).await.unwrap();
    assert_eq!(message.status, Status::Read);
    assert_eq!((message.delivered_at, message.read_at), (Some(delivered.at), Some(read.at)));
}

async fn read_means_delivered(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    let read = engine.store.mark(bob.user_id, id, Mark::Read, engine.now()).await.unwrap().unwrap();
    engine.advance(Duration::from_secs(1));
    let delivered = engine.store.mark(bob.user_id, id, Mark::Delivered, engine.now()).await.unwrap().unwrap();
    assert_eq!((delivered.newly, delivered.at), (false, read.at));
}

async fn only_the_recipient_marks(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    for (user, message) in [(alice.user_id, id), (mothers::user(), id), (bob.user_id, mothers::message_id())]
    {
        assert!(engine.store.mark(user, message, Mark::Read, engine.now()).await.unwrap().is_none());
    }
    assert_eq!(status(&engine, &alice, &bob, id).await, Status::Sent);
}

async fn a_message_deleted_for_one_side_stays_for_the_other(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let first = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    let second = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;

    assert!(engine.store.delete_for_me(alice.user_id, first).await.unwrap().is_some());
    assert!(find(&engine, &alice, &bob, first).await.is_none());
    assert!(find(&engine, &bob, &alice, first).await.unwrap().envelope.is_some());
    assert_eq!(engine.positions(tablet.device_no).await, [1, 2], "the recipient still gets it");

    assert!(engine.store.delete_for_me(bob.user_id, second).await.unwrap().is_some());
    assert!(engine.store.delete_for_me(bob.user_id, second).await.unwrap().is_some(), "may be repeated");
    assert!(find(&engine, &bob, &alice, second).await.is_none());
    assert!(find(&engine, &alice, &bob, second).await.is_some());
    assert_eq!(engine.positions(bob.device_no).await, [2]);
    assert_eq!(engine.positions(tablet.device_no).await, [1]);
}

async fn a_note_to_self_deleted_for_me_is_gone(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let id = engine.stored(mothers::send(&phone, phone.user_id)).await.message_id;
    assert!(engine.store.delete_for_me(phone.user_id, id).await.unwrap().is_some());
    assert!(engine.positions(tablet.device_no).await.is_empty());
    assert_eq!(engine.history(&phone, phone.user_id).await.map(|history| history.len()), Some(0));
}

async fn an_unread_message_deleted_by_its_recipient_was_not_delivered(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let unread = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    let acked = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.ack(bob.device_no, &[2]).await;
    for id in [unread, acked, unread] {
        engine.store.delete_for_me(bob.user_id, id).await.unwrap();
    }
    assert_eq!(status(&engine, &alice, &bob, unread).await, Status::Sent);
    assert_eq!(status(&engine, &alice, &bob, acked).await, Status::Delivered);
}

async fn only_who_takes_part_deletes_for_itself(engine: Engine) {
    let (alice, bob, eve) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    assert!(engine.store.delete_for_me(eve.user_id, id).await.unwrap().is_none());
    assert!(engine.store.delete_for_me(alice.user_id, mothers::message_id()).await.unwrap().is_none());
    assert_eq!(engine.positions(bob.device_no).await, [1]);
}

async fn deleting_for_everyone_erases_and_gives_notice_once(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.ack_all(bob.device_no).await;
    engine.emitted();
    for _ in 0..2 {
        let deleted = engine.store.delete_for_everyone(alice.user_id, id, engine.now()).await.unwrap();
        assert!(matches!(deleted, Deleted::Deleted(_)));
    }
    for (device, position) in [(&bob, Position(3)), (&tablet, Position(2))] {
        let items = engine.items(device.device_no).await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].0, position);
        let Item::Deleted { deletes, expires_at, .. } = &items[0].1 else { panic!("not a notice") };
        assert_eq!((*deletes, *expires_at), (id, engine.now().plus(mothers::DAY)));
    }
    assert_eq!(engine.emitted().len(), 2);
    for (viewer, other) in [(&alice, &bob), (&bob, &alice), (&tablet, &alice)] {
        assert!(find(&engine, viewer, other, id).await.is_none());
    }
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    assert_eq!(engine.positions(tablet.device_no).await, [2, 3], "and positions go on without a gap");
}

async fn only_the_sender_deletes_for_everyone(engine: Engine) {
    let (alice, bob, eve) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    let delete = async |user, id| engine.store.delete_for_everyone(user, id, engine.now()).await.unwrap();
    assert_eq!(delete(bob.user_id, id).await, Deleted::NotSender);
    assert_eq!(delete(eve.user_id, id).await, Deleted::Unknown);
    assert_eq!(delete(alice.user_id, mothers::message_id()).await, Deleted::Unknown);
    assert_eq!(engine.positions(bob.device_no).await, [1]);
}

async fn a_notice_is_acked_like_a_message_and_its_id_is_taken(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.store.delete_for_everyone(alice.user_id, id, engine.now()).await.unwrap();
    let notice = engine.items(bob.device_no).await[0].1.message_id();
    let places = engine.store.positions_of(bob.device_no, &[notice]).await.unwrap();
    assert_eq!(places, [Position(2)]);
    let forged = Send { message_id: notice, ..mothers::send(&alice, bob.user_id) };
    assert_eq!(engine.accept(forged).await, restante::store::Accepted::MessageIdReused);
    let of_notice = engine.store.delete_for_everyone(alice.user_id, notice, engine.now()).await.unwrap();
    assert_eq!(of_notice, Deleted::Unknown);
    assert!(engine.store.delete_for_me(bob.user_id, notice).await.unwrap().is_none());
    assert!(engine.store.mark(bob.user_id, notice, Mark::Read, engine.now()).await.unwrap().is_none());
    assert_eq!(engine.ack(bob.device_no, &[2]).await, 1);
    assert!(engine.positions(bob.device_no).await.is_empty());
}

async fn a_notice_goes_only_to_devices_that_were_addressed_and_still_exist(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.store.deactivate(&bob, &tablet.device_id, engine.now()).await.unwrap();
    let laptop = engine.link(&bob, "laptop").await;
    engine.store.delete_for_everyone(alice.user_id, id, engine.now()).await.unwrap();
    let left = engine.items(bob.device_no).await;
    assert!(matches!(left.as_slice(), [(_, Item::Deleted { deletes, .. })] if *deletes == id));
    assert!(engine.positions(laptop.device_no).await.is_empty());
    engine.store.deactivate(&bob, &bob.device_id, engine.now()).await.unwrap();
    let second = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    engine.store.deactivate(&laptop, &laptop.device_id, engine.now()).await.unwrap();
    let deleted = engine.store.delete_for_everyone(alice.user_id, second, engine.now()).await.unwrap();
    assert!(matches!(deleted, Deleted::Deleted(_)), "though nobody is left to be told");
}
