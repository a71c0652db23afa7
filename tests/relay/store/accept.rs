//! Accepting sends: what is stored and what is refused.

use std::time::Duration;

use futures_util::future::join_all;
use restante::{
    domain::{
        Addressed, Bodies, Conversation, ConversationId, DeviceName, DeviceNumber, Item, Position,
        RegistrationId, Send, Status,
    },
    store::{Accepted, Mismatch},
};
use uuid::Uuid;

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    a_send_lies_in_every_mailbox_of_its_recipient,
    named_devices_get_each_their_own_body,
    a_repeat_gets_the_first_receipt_and_changes_nothing,
    a_repeat_is_recognised_before_anything_else_is_looked_at,
    two_racing_sends_with_one_id_are_stored_once,
    an_id_of_another_send_or_device_is_refused,
    a_recipient_without_devices_is_refused,
    a_device_list_that_differs_is_refused_with_the_difference,
    a_device_named_twice_is_refused_as_extra,
    a_note_to_self_goes_to_every_other_device,
    a_note_to_self_of_an_only_device_is_stored_and_stays_sent,
    a_named_conversation_belongs_to_its_first_pair,
    a_pairs_own_conversation_is_closed_to_others_who_name_it,
);

fn message(item: &Item) -> &restante::domain::Message {
    match item {
        Item::Message(message) => message,
        Item::Deleted { .. } | Item::DevicesChanged { .. } | Item::Welcome { .. } | Item::Joined { .. } => {
            panic!("a notice, not a message")
        }
    }
}

async fn a_send_lies_in_every_mailbox_of_its_recipient(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let send = mothers::send(&alice, bob.user_id);
    let receipt = engine.stored(send.clone()).await;
    assert_eq!(receipt.message_id, send.message_id);
    assert_eq!(receipt.conversation_id, send.conversation.id());
    assert_eq!(receipt.accepted_at, NOON);
    let Bodies::Same(body) = &send.bodies else { unreachable!() };
    // The phone's first position went to the notice that the tablet came.
    for (device, position) in [(&bob, Position(2)), (&tablet, Position(1))] {
        let items = engine.items(device.device_no).await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].0, position);
        let message = message(&items[0].1);
        assert_eq!(message.message_id, send.message_id);
        assert_eq!(message.envelope.as_ref(), Some(body));
        assert_eq!((message.sender_id, message.recipient_id), (alice.user_id, bob.user_id));
        assert_eq!(message.sender_device_id, alice.device_id);
        assert_eq!(message.sender_device_number, alice.device_number);
        assert_eq!(message.message_type, send.message_type);
        assert_eq!(message.sequence, Some(receipt.sequence));
        assert_eq!((message.accepted_at, message.expires_at), (NOON, send.expires_at));
        assert_eq!(message.status, Status::Sent);
        assert!(!message.self_destructing && message.delivered_at.is_none() && message.read_at.is_none());
        assert_eq!(message.conversation_id, receipt.conversation_id);
    }
    assert!(engine.positions(alice.device_no).await.is_empty());
}

async fn named_devices_get_each_their_own_body(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let registered = engine.store.devices(bob.user_id).await.unwrap();
    let mut by_id = mothers::to_device(DeviceName::Id(tablet.device_id.clone()));
    by_id.registration_id = Some(registered[1].registration_id);
    let by_number = mothers::to_device(DeviceName::Number(bob.device_number));
    let bodies = Bodies::Each(vec![by_id.clone(), by_number.clone()]);
    engine.stored(Send { bodies, ..mothers::send(&alice, bob.user_id) }).await;
    for (device, addressed) in [(&tablet, by_id), (&bob, by_number)] {
        let items = engine.items(device.device_no).await;
        assert_eq!(message(&items[0].1).envelope.as_ref(), Some(&addressed.envelope));
    }
}

async fn a_repeat_gets_the_first_receipt_and_changes_nothing(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send(&alice, bob.user_id);
    let receipt = engine.stored(send.clone()).await;
    engine.emitted();
    engine.advance(Duration::from_mins(1));
    assert_eq!(engine.accept(send.clone()).await, Accepted::Repeated(receipt));
    assert_eq!(engine.positions(bob.device_no).await, [1]);
    engine.ack_all(bob.device_no).await;
    assert_eq!(engine.accept(send).await, Accepted::Repeated(receipt), "after its body is gone");
    let left = engine.left(bob.device_no).await;
    assert_eq!((left.positions().len(), left.head), (0, Position(1)));
    assert!(engine.emitted().is_empty());
}

async fn a_repeat_is_recognised_before_anything_else_is_looked_at(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send_each(&alice, bob.user_id, &[&bob]);
    let receipt = engine.stored(send.clone()).await;
    engine.link(&bob, "tablet").await;
    assert_eq!(engine.accept(send.clone()).await, Accepted::Repeated(receipt), "another device list");
    engine.store.deactivate(&bob, &bob.device_id, engine.now()).await.unwrap();
    assert_eq!(engine.accept(send).await, Accepted::Repeated(receipt), "a device that is gone");
}

async fn two_racing_sends_with_one_id_are_stored_once(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for round in 1..=10 {
        let send = mothers::send(&alice, bob.user_id);
        let outcomes = join_all((0..4).map(|_| engine.accept(send.clone()))).await;
        let stored = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Stored(_))).count();
        let repeated = outcomes.iter().filter(|outcome| matches!(outcome, Accepted::Repeated(_))).count();
        assert_eq!((stored, repeated), (1, 3), "{outcomes:?}");
        assert_eq!(engine.left(bob.device_no).await.head, Position(round));
    }
}

async fn an_id_of_another_send_or_device_is_refused(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&alice, "tablet").await;
    let send = mothers::send(&alice, bob.user_id);
    engine.stored(send.clone()).await;
    let other_digest = Send { digest: mothers::bytes(), ..send.clone() };
    assert_eq!(engine.accept(other_digest).await, Accepted::MessageIdReused);
    let other_device = Send { sender: tablet, ..send };
    assert_eq!(engine.accept(other_device).await, Accepted::MessageIdReused);
    assert_eq!(engine.positions(bob.device_no).await, [1]);
}

async fn a_recipient_without_devices_is_refused(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    assert_eq!(engine.accept(mothers::send(&alice, mothers::user())).await, Accepted::NoDevices);
    engine.store.deactivate(&bob, &bob.device_id, engine.now()).await.unwrap();
    let send = mothers::send(&alice, bob.user_id);
    assert_eq!(engine.accept(send.clone()).await, Accepted::NoDevices);
    assert_eq!(engine.accept(send).await, Accepted::NoDevices, "a refused id is not remembered");
}

async fn a_device_list_that_differs_is_refused_with_the_difference(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    engine.emitted();
    let actual = engine.store.devices(bob.user_id).await.unwrap()[0].registration_id.get();
    let other = RegistrationId::new(if actual == 1 { 2 } else { 1 }).unwrap();
    let stale = Addressed {
        registration_id: Some(other),
        ..mothers::to_device(DeviceName::Id(bob.device_id.clone()))
    };
    let extra = DeviceName::Number(DeviceNumber::new(99).unwrap());
    let bodies = Bodies::Each(vec![stale, mothers::to_device(extra.clone())]);
    let refused = engine.accept(Send { bodies, ..mothers::send(&alice, bob.user_id) }).await;
    let mismatch = Mismatch {
        missing: [(tablet.device_id.clone(), tablet.device_number)].into(),
        extra: vec![extra],
        stale: [(bob.device_id.clone(), bob.device_number)].into(),
    };
    assert_eq!(refused, Accepted::DeviceListMismatch(mismatch));
    assert_eq!(engine.left(tablet.device_no).await.head, Position::START);
    assert!(engine.emitted().is_empty());
}

async fn a_device_named_twice_is_refused_as_extra(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let mut send = mothers::send_each(&alice, bob.user_id, &[&bob]);
    let Bodies::Each(named) = &mut send.bodies else { unreachable!() };
    named.push(mothers::to_device(DeviceName::Number(bob.device_number)));
    let extra = vec![DeviceName::Number(bob.device_number)];
    let refused = Accepted::DeviceListMismatch(Mismatch { extra, ..Mismatch::default() });
    assert_eq!(engine.accept(send).await, refused);
}

async fn a_note_to_self_goes_to_every_other_device(engine: Engine) {
    let phone = engine.newcomer().await;
    let (tablet, laptop) = (engine.link(&phone, "tablet").await, engine.link(&phone, "laptop").await);
    engine.stored(mothers::send(&tablet, phone.user_id)).await;
    engine.stored(mothers::send_each(&phone, phone.user_id, &[&tablet, &laptop])).await;
    let named = mothers::send_each(&phone, phone.user_id, &[&phone, &tablet, &laptop]);
    assert!(
        matches!(engine.accept(named).await, Accepted::DeviceListMismatch(_)),
        "a device names not itself"
    );
    // Before them lay notices of each newcomer.
    assert_eq!(engine.positions(phone.device_no).await, [3]);
    assert_eq!(engine.positions(tablet.device_no).await, [2]);
    assert_eq!(engine.positions(laptop.device_no).await, [1, 2]);
}

async fn a_note_to_self_of_an_only_device_is_stored_and_stays_sent(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.stored(mothers::send(&phone, phone.user_id)).await;
    engine.stored(mothers::send_each(&phone, phone.user_id, &[])).await;
    assert!(engine.positions(phone.device_no).await.is_empty());
    let history = engine.history(&phone, phone.user_id).await.unwrap();
    assert_eq!(history.len(), 2);
    assert!(history.iter().all(|message| message.status == Status::Sent && message.envelope.is_none()));
    assert!(engine.emitted().is_empty());
}

fn named(send: Send, id: ConversationId) -> Send {
    Send { conversation: Conversation::Named(id), ..send }
}

async fn a_named_conversation_belongs_to_its_first_pair(engine: Engine) {
    let (alice, bob, eve) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let id = ConversationId::new(Uuid::new_v4());
    let receipt = engine.stored(named(mothers::send(&alice, bob.user_id), id)).await;
    assert_eq!(receipt.conversation_id, id);
    engine.stored(named(mothers::send(&bob, alice.user_id), id)).await;
    for intruder in [
        mothers::send(&eve, bob.user_id),
        mothers::send(&alice, eve.user_id),
        mothers::send(&eve, eve.user_id),
    ] {
        assert_eq!(engine.accept(named(intruder, id)).await, Accepted::ConversationUnknown);
    }
    // Also when the first message of the conversation is in the same batch.
    let fresh = ConversationId::new(Uuid::new_v4());
    let racing =
        [named(mothers::send(&alice, bob.user_id), fresh), named(mothers::send(&eve, bob.user_id), fresh)];
    let outcomes = join_all(racing.map(|send| engine.store.accept_envelopes(send))).await;
    let stored = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Accepted::Stored(_)))).count();
    assert_eq!(stored, 1, "{outcomes:?}");
}

async fn a_pairs_own_conversation_is_closed_to_others_who_name_it(engine: Engine) {
    let (alice, bob, eve) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    let own = mothers::conversation(alice.user_id, bob.user_id);
    let intruder = named(mothers::send(&eve, alice.user_id), own);
    assert_eq!(engine.accept(intruder).await, Accepted::ConversationUnknown);
    engine.stored(named(mothers::send(&bob, alice.user_id), own)).await;
}
