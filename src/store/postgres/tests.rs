//! Every statement, run against a real server: faults in them show at run time only.

use std::time::Duration;

use uuid::Uuid;

use super::PostgresStore;
use super::fixtures::{
    Database, LIMITS, NOW, later, linked, onetime, register, registration, send, signed, stored, user,
};
use crate::{
    domain::{
        Bodies, Caller, Conversation, ConversationId, DeviceNo, Item, KeyId, KeyKind, Position,
        SecurityEvent, Send, Status, UserId,
    },
    store::{
        Accepted, Deactivated, Deleted, Expired, HistoryQuery, KeyUpload, Limits, Mark, OneTimeKeys,
        Published, Registered, Revocation, Store,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_its_way() {
    let Some(database) = Database::create().await else { return };
    let (store, mut deliveries) = database.node(LIMITS).await;
    store.check().await.unwrap();
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let first = send(&alice, bob.user_id);
    let Accepted::Stored(receipt) = store.accept_envelopes(first.clone()).await.unwrap() else { panic!() };
    assert_eq!(store.accept_envelopes(first.clone()).await.unwrap(), Accepted::Repeated(receipt));
    let mut other = first.clone();
    other.digest = [2; 32];
    assert_eq!(store.accept_envelopes(other).await.unwrap(), Accepted::MessageIdReused);
    assert_eq!(store.accept_envelopes(send(&alice, user())).await.unwrap(), Accepted::NoDevices);
    stored(&store, send(&bob, alice.user_id)).await;

    let delivered = deliveries.recv().await.unwrap();
    assert_eq!(
        (delivered.deliveries[0].device_no, delivered.deliveries[0].position),
        (bob.device_no, Position(1))
    );
    let place = [Position(1)];
    assert_eq!(store.positions_of(bob.device_no, &[first.message_id]).await.unwrap(), place);
    let left = store.mailbox_left(bob.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!((left.positions(), left.head), (place.to_vec(), Position(1)));
    assert_eq!(store.mailbox_count(bob.device_no, 10, NOW).await.unwrap(), 1);
    let heads = store.mailbox_heads(&[alice.device_no, bob.device_no, DeviceNo(999)]).await.unwrap();
    assert_eq!(heads, [(alice.device_no, Position(1)), (bob.device_no, Position(1))]);

    let items = store.mailbox_items(bob.device_no, &place, NOW).await.unwrap();
    let Item::Message(message) = &items[0].1 else { panic!() };
    let Bodies::Same(envelope) = &first.bodies else { panic!() };
    assert_eq!(message.envelope.as_ref(), Some(envelope));
    assert_eq!((message.sender_id, &message.sender_device_id), (alice.user_id, &alice.device_id));
    assert_eq!((message.sequence, message.accepted_at), (Some(receipt.sequence), receipt.accepted_at));
    assert_eq!(store.ack(bob.device_no, vec![Position(1), Position(1), Position(9)]).await.unwrap(), 1);
    assert_eq!(store.ack(bob.device_no, place.to_vec()).await.unwrap(), 0);
    let left = store.mailbox_left(bob.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!((left.positions(), left.head), (vec![], Position(1)));
    assert!(store.mailbox_items(bob.device_no, &place, NOW).await.unwrap().is_empty());
    store.close().await;
    assert!(store.accept_envelopes(send(&alice, bob.user_id)).await.is_err());
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_what_became_of_a_message() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let [one, two, three] = [(); 3].map(|()| send(&alice, bob.user_id));
    for message in [&one, &two, &three] {
        stored(&store, message.clone()).await;
    }
    let query = |who: &Caller| HistoryQuery {
        user_id: who.user_id,
        device_no: who.device_no,
        conversation_id: one.conversation.id(),
        before: None,
        limit: 10,
    };
    store.ack(bob.device_no, vec![Position(1)]).await.unwrap();
    let marked = store.mark(bob.user_id, two.message_id, Mark::Read, later(1)).await.unwrap().unwrap();
    assert_eq!((marked.at, marked.newly, marked.sender_devices), (later(1), true, vec![alice.device_no]));
    let again = store.mark(bob.user_id, two.message_id, Mark::Delivered, later(2)).await.unwrap().unwrap();
    assert_eq!((again.at, again.newly), (later(1), false));
    assert!(store.mark(alice.user_id, two.message_id, Mark::Read, NOW).await.unwrap().is_none());

    let page = store.history(query(&alice), NOW).await.unwrap().unwrap();
    let seen: Vec<_> = page.iter().map(|message| (message.message_id, message.status)).collect();
    let expected = [
        (three.message_id, Status::Sent),
        (two.message_id, Status::Read),
        (one.message_id, Status::Delivered),
    ];
    assert_eq!(seen, expected);
    assert!(page.iter().all(|message| message.envelope.is_none()));
    let page = store.history(query(&bob), NOW).await.unwrap().unwrap();
    let bodies: Vec<_> = page.iter().map(|message| message.envelope.is_some()).collect();
    assert_eq!(bodies, [true, true, false]);
    let stranger = HistoryQuery { user_id: user(), ..query(&bob) };
    assert!(store.history(stranger, NOW).await.unwrap().is_none());
    let before = HistoryQuery { before: page[0].sequence, limit: 1, ..query(&bob) };
    assert_eq!(store.history(before, NOW).await.unwrap().unwrap()[0].message_id, two.message_id);
    assert_eq!(store.history(query(&bob), later(3600)).await.unwrap().unwrap().len(), 0);

    assert!(store.delete_for_me(bob.user_id, two.message_id).await.unwrap().is_some());
    assert!(store.delete_for_me(user(), two.message_id).await.unwrap().is_none());
    assert_eq!(store.history(query(&bob), NOW).await.unwrap().unwrap().len(), 2);
    assert_eq!(store.history(query(&alice), NOW).await.unwrap().unwrap().len(), 3);
    let left = store.mailbox_left(bob.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!(left.positions(), [Position(3)]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_deleted_for_everyone_leaves_one_notice() {
    let Some(database) = Database::create().await else { return };
    let (store, mut deliveries) = database.node(LIMITS).await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let message = send(&alice, bob.user_id);
    stored(&store, message.clone()).await;
    let id = message.message_id;
    assert_eq!(store.delete_for_everyone(bob.user_id, id, NOW).await.unwrap(), Deleted::NotSender);
    assert_eq!(store.delete_for_everyone(user(), id, NOW).await.unwrap(), Deleted::Unknown);
    for _ in 0..2 {
        assert!(matches!(
            store.delete_for_everyone(alice.user_id, id, NOW).await.unwrap(),
            Deleted::Deleted(_)
        ));
    }
    let left = store.mailbox_left(bob.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!((left.positions(), left.head), (vec![Position(2)], Position(2)));
    let items = store.mailbox_items(bob.device_no, &left.positions(), NOW).await.unwrap();
    let Item::Deleted { message_id: notice, deletes, .. } = items[0].1 else { panic!() };
    assert_eq!(deletes, id);
    deliveries.recv().await.unwrap();
    assert_eq!(deliveries.recv().await.unwrap().deliveries[0].item.message_id(), notice);
    let mut thief = send(&alice, bob.user_id);
    thief.message_id = notice;
    assert_eq!(store.accept_envelopes(thief).await.unwrap(), Accepted::MessageIdReused);
    assert!(matches!(store.accept_envelopes(message).await.unwrap(), Accepted::Repeated(_)));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_linked_and_ended() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let phone = register(&store, registration(user(), "phone")).await;
    let taken = store.register_device(registration(phone.user_id, "phone"), NOW).await.unwrap();
    assert_eq!(taken, Registered::DeviceExists);
    let unlinked = store.register_device(registration(phone.user_id, "tablet"), NOW).await.unwrap();
    assert_eq!(unlinked, Registered::LinkRequired);
    let tablet = linked(&store, &phone, "tablet", NOW).await;
    assert_eq!((phone.device_number.get(), tablet.device_number.get()), (1, 2));
    store.note_seen(phone.device_no, NOW.plus(Duration::from_hours(48))).await.unwrap();
    let devices = store.devices(phone.user_id).await.unwrap();
    assert_eq!(devices[0].last_seen, NOW.plus(Duration::from_hours(48)).day());
    assert_eq!(devices[1].linked_by.as_ref().unwrap().device_id, phone.device_id);

    let bob = register(&store, registration(user(), "phone")).await;
    stored(&store, send(&bob, phone.user_id)).await;
    let early = store.deactivate(&tablet, &phone.device_id, later(60)).await.unwrap();
    assert_eq!(early, Deactivated::NotAllowed);
    let in_time = later(24 * 3600);
    let ended = store.deactivate(&tablet, &phone.device_id, in_time).await.unwrap();
    assert_eq!(ended, Deactivated::Gone(phone.device_no));
    assert_eq!(store.deactivate(&tablet, &phone.device_id, in_time).await.unwrap(), Deactivated::Unknown);
    assert_eq!(store.revocations(in_time).await.unwrap(), [Revocation::Device(phone.device_no)]);
    assert!(store.lasting_keys(phone.device_no).await.unwrap().is_none());
    assert!(
        store.key_stats(phone.device_no, crate::domain::Timestamp::from_millis(0)).await.unwrap().is_none()
    );
    assert!(
        store.take_bundle(phone.user_id, Some(&phone.device_id), OneTimeKeys::Given).await.unwrap().is_none()
    );
    let left = store.mailbox_left(phone.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!((left.positions(), left.head), (vec![], Position::START));
    let upload = KeyUpload { signed_prekey: Some(signed(9)), ..KeyUpload::default() };
    assert_eq!(store.publish_keys(phone.device_no, upload, NOW).await.unwrap(), Published::Gone);
    assert_eq!(linked(&store, &tablet, "phone", in_time).await.device_number.get(), 3);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_published_taken_and_never_come_back() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let first = registration(user(), "phone");
    let phone = register(&store, first.clone()).await;
    let taken = store.take_bundle(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(taken.bundle.onetime_prekey, Some(first.onetime_prekeys[0].clone()));
    assert_eq!(taken.bundle.kem_prekey, Some(first.kem_prekeys[0].clone()));
    assert_eq!((taken.onetime_left, taken.kem_left, taken.last_resort_given), (2, 0, false));
    let all = store.take_bundles(phone.user_id, None, OneTimeKeys::Given).await.unwrap().unwrap();
    assert_eq!(all[0].bundle.kem_prekey, first.last_resort_kem_prekey);
    assert!(
        all[0].last_resort_given
            && store
                .key_stats(phone.device_no, crate::domain::Timestamp::from_millis(0))
                .await
                .unwrap()
                .unwrap()
                .last_resort_used
    );
    assert!(
        store
            .take_bundles(phone.user_id, Some(phone.device_no), OneTimeKeys::Given)
            .await
            .unwrap()
            .unwrap()
            .is_empty()
    );
    assert!(store.take_bundles(user(), None, OneTimeKeys::Given).await.unwrap().is_none());

    let upload = KeyUpload {
        signed_prekey: Some(signed(2)),
        onetime_prekeys: vec![first.onetime_prekeys[0].clone(), onetime(50)],
        kem_prekeys: vec![signed(50)],
        last_resort_kem_prekey: Some(signed(1001)),
    };
    let published = Published::Published { accepted: 4, already_known: 1, onetime_count: 2, kem_count: 1 };
    assert_eq!(store.publish_keys(phone.device_no, upload.clone(), NOW).await.unwrap(), published);
    let published = Published::Published { accepted: 0, already_known: 5, onetime_count: 2, kem_count: 1 };
    assert_eq!(store.publish_keys(phone.device_no, upload.clone(), NOW).await.unwrap(), published);
    let entered: Vec<_> = store.audit(phone.user_id, None, 9).await.unwrap();
    let entered: Vec<_> = entered.into_iter().map(|entry| (entry.event, entry.device_number)).collect();
    let number = Some(phone.device_number);
    assert_eq!(entered, [(SecurityEvent::KeyRotated, number), (SecurityEvent::DeviceAdded, number)]);
    let stats =
        store.key_stats(phone.device_no, crate::domain::Timestamp::from_millis(0)).await.unwrap().unwrap();
    assert_eq!((stats.unused_prekeys, stats.total_prekeys, stats.last_resort_used), (2, 4, false));
    let lasting = store.lasting_keys(phone.device_no).await.unwrap().unwrap();
    assert_eq!(Some(lasting.signed_prekey), upload.signed_prekey);

    let refused = async |upload| store.publish_keys(phone.device_no, upload, NOW).await.unwrap();
    let back = KeyUpload { signed_prekey: Some(first.signed_prekey.clone()), ..KeyUpload::default() };
    assert_eq!(refused(back).await, Published::KeyReused(KeyKind::Signed, first.signed_prekey.id));
    let other = KeyUpload { onetime_prekeys: vec![onetime(50)], ..KeyUpload::default() };
    assert_eq!(refused(other).await, Published::KeyReused(KeyKind::OneTime, KeyId::new(50).unwrap()));
    let flood = KeyUpload { onetime_prekeys: (100..300).map(onetime).collect(), ..KeyUpload::default() };
    assert_eq!(refused(flood).await, Published::TooMany(KeyKind::OneTime));
    let mut renamed = first.onetime_prekeys[1].clone();
    renamed.id = KeyId::new(77).unwrap();
    let renamed = KeyUpload { onetime_prekeys: vec![renamed], ..KeyUpload::default() };
    assert_eq!(refused(renamed).await, Published::KeyReused(KeyKind::OneTime, KeyId::new(77).unwrap()));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_withheld_stay_and_who_wrote_lately_is_known() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let first = registration(user(), "phone");
    let phone = register(&store, first.clone()).await;
    let taken = store.take_bundle(phone.user_id, None, OneTimeKeys::Withheld).await.unwrap().unwrap();
    assert_eq!((taken.bundle.onetime_prekey, taken.bundle.kem_prekey), (None, first.last_resort_kem_prekey));
    assert_eq!((taken.onetime_left, taken.kem_left, taken.last_resort_given), (3, 1, true));
    assert!(
        store
            .key_stats(phone.device_no, crate::domain::Timestamp::from_millis(0))
            .await
            .unwrap()
            .unwrap()
            .last_resort_used
    );

    let bob = register(&store, registration(user(), "phone")).await;
    let message = send(&phone, bob.user_id);
    let conversation = message.conversation.id();
    stored(&store, message).await;
    assert!(store.has_written(conversation, phone.user_id).await.unwrap());
    assert!(!store.has_written(conversation, bob.user_id).await.unwrap());
    for _ in 0..200 {
        stored(&store, send(&bob, phone.user_id)).await;
    }
    assert!(store.has_written(conversation, bob.user_id).await.unwrap());
    assert!(!store.has_written(conversation, phone.user_id).await.unwrap(), "that was 200 messages ago");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_forgotten() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let message = send(&alice, bob.user_id);
    stored(&store, message.clone()).await;
    assert_eq!(store.expire(NOW, 100).await.unwrap(), Expired::default());
    let expired = store.expire(later(3600), 100).await.unwrap();
    assert_eq!((expired.bodies, expired.forgotten), (1, 0));
    assert_eq!(store.expire(later(3600), 100).await.unwrap(), Expired::default());
    assert!(matches!(store.accept_envelopes(message.clone()).await.unwrap(), Accepted::Repeated(_)));
    store.deactivate(&bob, &bob.device_id, NOW).await.unwrap();
    // The message, the session of the other device and the revocation.
    let expired = store.expire(later(30 * 86_400), 100).await.unwrap();
    assert_eq!((expired.bodies, expired.forgotten), (0, 3));
    assert!(store.mark(bob.user_id, message.message_id, Mark::Read, NOW).await.unwrap().is_none());
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_conversation_belongs_to_one_pair_and_a_full_mailbox_refuses() {
    let Some(database) = Database::create().await else { return };
    let (store, _deliveries) = database.node(Limits { mailbox_items_per_sender: 2, ..LIMITS }).await;
    let [alice, bob, eve] = [user(), user(), user()].map(|user| registration(user, "phone"));
    let (alice, bob) = (register(&store, alice).await, register(&store, bob).await);
    let eve = register(&store, eve).await;
    let named = |from: &Caller, to: UserId| Send {
        conversation: Conversation::Named(ConversationId::new(Uuid::from_u128(7))),
        ..send(from, to)
    };
    stored(&store, named(&alice, bob.user_id)).await;
    stored(&store, named(&bob, alice.user_id)).await;
    let foreign = store.accept_envelopes(named(&eve, bob.user_id)).await.unwrap();
    assert_eq!(foreign, Accepted::ConversationUnknown);
    stored(&store, send(&alice, bob.user_id)).await;
    assert_eq!(store.accept_envelopes(send(&alice, bob.user_id)).await.unwrap(), Accepted::MailboxFull);
    stored(&store, send(&eve, bob.user_id)).await;
    store.ack(bob.device_no, vec![Position(1)]).await.unwrap();
    stored(&store, send(&alice, bob.user_id)).await;
    stored(&store, send(&alice, alice.user_id)).await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_another_one_is_told() {
    let Some(database) = Database::create().await else { return };
    let (one, other) = tokio::join!(database.one_node(), database.one_node());
    one.check().await.unwrap();
    PostgresStore::migrate(&database.url()).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET checksum = '\\x00'").execute(&one.pool).await.unwrap();
    assert!(other.check().await.is_err());
    assert!(PostgresStore::migrate(&database.url()).await.is_err());
    database.drop().await;
}
