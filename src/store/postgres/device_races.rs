//! Devices that come, log in and go on two nodes at once, while mail flows.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};

use super::{
    PostgresStore,
    fixtures::{
        Database, LIMITS, NOW, later, linked, login, random_hash, register, registration, send, stored, user,
    },
};
use crate::{
    domain::{Caller, Item, Position},
    store::{
        Accepted, Deactivated, Limits, LoggedIn, Principal, Rotated, Rotation, SESSIONS_PER_DEVICE, Store,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn of_parallel_logins_no_more_sessions_remain_than_a_device_may_have() {
    let Some(database) = Database::create().await else { return };
    let nodes = [database.one_node().await, database.one_node().await];
    let phone = register(&nodes[0], registration(user(), "phone")).await;
    let logins = (0..40_usize).map(|number| nodes[number % 2].open_session(login(&phone), later(1)));
    for opened in join_all(logins).await {
        assert!(matches!(opened, Ok(LoggedIn::LoggedIn(_))), "{opened:?}");
    }
    let kept = nodes[0].sessions(phone.user_id, later(1)).await.unwrap();
    assert_eq!(kept.len(), SESSIONS_PER_DEVICE as usize);
    let revoked: HashSet<_> = nodes[1].revocations(NOW).await.unwrap().into_iter().collect();
    assert_eq!(revoked.len(), 41 - kept.len());

    let same = login(&phone);
    let twins = (0..8_usize).map(|number| {
        let mut twin = same.clone();
        twin.session = login(&phone).session;
        nodes[number % 2].open_session(twin, later(2))
    });
    let opened = try_join_all(twins).await.unwrap();
    assert_eq!(opened.iter().filter(|opened| matches!(opened, LoggedIn::LoggedIn(_))).count(), 1);
    assert_eq!(opened.iter().filter(|opened| **opened == LoggedIn::ChallengeUsed).count(), 7);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_repeats_of_a_refresh_get_one_answer() {
    let Some(database) = Database::create().await else { return };
    let nodes = [database.one_node().await, database.one_node().await];
    let new = registration(user(), "phone");
    let refresh = Rotation {
        session_id: new.session.session_id,
        presented: new.session.refresh_hash,
        next: random_hash(),
        expires_at: later(86_400),
    };
    let phone = register(&nodes[0], new).await;
    let repeats = (0..8_usize)
        .map(|number| nodes[number % 2].rotate_session(refresh.clone(), later(number.try_into().unwrap())));
    let answers = try_join_all(repeats).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let other = Rotation { next: random_hash(), ..refresh.clone() };
    let reused = nodes[0].rotate_session(other, later(9)).await.unwrap();
    assert_eq!(reused, Rotated::Reused(phone.device_no));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_devices_takes_the_place_of_the_one_that_waits_even_in_a_full_mailbox() {
    let Some(database) = Database::create().await else { return };
    let limits = Limits { mailbox_items: 2, mailbox_items_per_sender: 2, ..LIMITS };
    let (store, mut deliveries) = database.node(limits).await;
    let phone = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    stored(&store, send(&bob, phone.user_id)).await;
    stored(&store, send(&bob, phone.user_id)).await;
    let tablet = linked(&store, &phone, "tablet", NOW).await;
    let laptop = linked(&store, &tablet, "laptop", NOW).await;
    let left = async |device: &Caller| {
        let left = store.mailbox_left(device.device_no, Position::START, 10, NOW).await.unwrap();
        store.mailbox_items(device.device_no, &left.positions(), NOW).await.unwrap()
    };
    let names = |item: &Item| match item {
        Item::DevicesChanged { devices, .. } => {
            devices.iter().map(|device| device.device_id.as_str().to_owned()).collect()
        }
        _ => vec![],
    };
    let waiting = left(&phone).await;
    assert_eq!(waiting.iter().map(|(position, _)| position.0).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(names(&waiting[2].1), ["phone", "tablet", "laptop"]);
    assert!(left(&laptop).await.is_empty(), "the newcomer knows");
    assert_eq!(store.accept_envelopes(send(&bob, phone.user_id)).await.unwrap(), Accepted::MailboxFull);

    let ended = store.deactivate(&phone, &tablet.device_id, NOW).await.unwrap();
    assert_eq!(ended, Deactivated::Gone(tablet.device_no));
    for (device, places) in [(&phone, vec![1, 2, 5]), (&laptop, vec![1])] {
        let waiting = left(device).await;
        assert_eq!(waiting.iter().map(|(position, _)| position.0).collect::<Vec<_>>(), places);
        assert_eq!(names(&waiting.last().unwrap().1), ["phone", "laptop"]);
    }
    // Two messages, then phone; phone and tablet; phone and laptop.
    let mut told = vec![];
    while let Ok(batch) = deliveries.try_recv() {
        let lists = batch.deliveries.into_iter().filter(|delivery| !names(&delivery.item).is_empty());
        told.push(lists.map(|delivery| delivery.position.0).collect::<Vec<_>>());
    }
    assert_eq!(told, [vec![], vec![], vec![3], vec![4, 1], vec![5, 1]]);

    let kinds: Vec<i64> =
        sqlx::query_scalar("SELECT count(*) FROM messages WHERE kind = 2 AND recipient_id = $1")
            .bind(phone.user_id.uuid())
            .fetch_all(&store.pool)
            .await
            .unwrap();
    assert_eq!(kinds, [3]);
    let erased = store.expire(NOW.plus(limits.notice_life), 10).await.unwrap();
    assert_eq!(erased.bodies, 3, "bob's messages and the last notice");
    assert!(left(&phone).await.is_empty());
    store.deactivate(&phone, &laptop.device_id, NOW).await.unwrap();
    store.deactivate(&phone, &phone.device_id, NOW).await.unwrap();
    database.drop().await;
}

/// One node's part: another device of the user comes, logs in, is written to and goes, over and over.
async fn come_and_go(node: Arc<PostgresStore>, phone: Caller, name: &'static str, friend: Caller) {
    for _ in 0..12 {
        let newcomer = come(&node, &phone, name).await;
        for _ in 0..2 {
            let opened = node.open_session(login(&newcomer), NOW).await.unwrap();
            assert!(matches!(opened, LoggedIn::LoggedIn(Principal { caller, .. }) if caller == newcomer));
        }
        stored(&node, send(&newcomer, friend.user_id)).await;
        let acked = (1..40).map(Position).collect::<Vec<_>>();
        let acks = [phone.device_no, newcomer.device_no].map(|device| node.ack(device, acked.clone()));
        let gone = node.deactivate(&phone, &newcomer.device_id, NOW);
        let (acks, gone) = tokio::join!(join_all(acks), gone);
        assert!(acks.into_iter().all(|ack| ack.is_ok()));
        assert_eq!(gone.unwrap(), Deactivated::Gone(newcomer.device_no));
    }
}

/// Another offer may take the place of this one before it is used.
async fn come(node: &PostgresStore, phone: &Caller, name: &str) -> Caller {
    loop {
        if let Some(caller) = super::fixtures::try_linked(node, phone, name, NOW).await {
            return caller;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_come_and_go_while_mail_flows_never_deadlock() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let [phone, bob] = [user(), user()].map(|user| registration(user, "phone"));
    let (phone, bob) = (register(&nodes[0], phone).await, register(&nodes[0], bob).await);
    let talk = |node: &Arc<PostgresStore>, from: &Caller, to: &Caller| {
        let (node, from, to) = (Arc::clone(node), from.clone(), to.clone());
        tokio::spawn(async move {
            for round in 0..80 {
                let message = send(&from, to.user_id);
                stored(&node, message.clone()).await;
                if round % 3 == 0 {
                    node.delete_for_everyone(from.user_id, message.message_id, NOW).await.unwrap();
                }
                node.expire(later(3600), 5).await.unwrap();
            }
        })
    };
    let mut tasks = vec![];
    for (node, name) in nodes.iter().zip(["tablet", "laptop"]) {
        tasks.push(talk(node, &bob, &phone));
        tasks.push(talk(node, &phone, &bob));
        tasks.push(tokio::spawn(come_and_go(Arc::clone(node), phone.clone(), name, bob.clone())));
    }
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    let lists: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM mailbox_items i JOIN messages m ON m.message_id = i.message_id \
         WHERE m.kind = 2 AND i.device_no = $1",
    )
    .bind(phone.device_no.0)
    .fetch_one(&nodes[0].pool)
    .await
    .unwrap();
    assert!(lists <= 1, "{lists}");
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&nodes[0].pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    database.drop().await;
}

/// Until so many acts wait for a lock.
async fn waiting(store: &PostgresStore, acts: i64) {
    let count = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&store.pool).await.unwrap() < acts {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn hold_mailbox(store: &PostgresStore, device: &Caller) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = store.pool.begin().await.unwrap();
    let lock = "SELECT FROM mailboxes WHERE device_no = $1 FOR UPDATE";
    sqlx::query(lock).bind(device.device_no.0).execute(&mut *held).await.unwrap();
    held
}

async fn messages(store: &PostgresStore, device: &Caller) -> usize {
    let left = store.mailbox_left(device.device_no, Position::START, 10, NOW).await.unwrap();
    let items = store.mailbox_items(device.device_no, &left.positions(), NOW).await.unwrap();
    items.iter().filter(|(_, item)| matches!(item, Item::Message(_))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_waited_while_a_device_was_linked_reaches_it() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let phone = register(&nodes[0], registration(user(), "phone")).await;
    let bob = register(&nodes[0], registration(user(), "phone")).await;
    let held = hold_mailbox(&nodes[0], &phone).await;
    let linking = tokio::spawn({
        let (node, phone) = (Arc::clone(&nodes[0]), phone.clone());
        async move { linked(&node, &phone, "tablet", NOW).await }
    });
    waiting(&nodes[0], 1).await;
    let sending = tokio::spawn(nodes[1].accept_envelopes(send(&bob, phone.user_id)));
    waiting(&nodes[0], 2).await;
    held.commit().await.unwrap();
    let tablet = linking.await.unwrap();
    let sent = sending.await.unwrap().unwrap();
    assert!(matches!(sent, Accepted::Stored(_)), "{sent:?}");
    assert_eq!((messages(&nodes[0], &phone).await, messages(&nodes[0], &tablet).await), (1, 1));
    database.drop().await;
}

/// The batch waits for a mailbox of somebody else meanwhile: the link is answered long before the send is decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_send_whose_batch_waited_elsewhere_reaches_a_device_that_was_linked_meanwhile() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let [dave, carol, bob, phone] = [(); 4].map(|()| registration(user(), "phone"));
    let (dave, carol) = (register(&nodes[0], dave).await, register(&nodes[0], carol).await);
    let (bob, phone) = (register(&nodes[0], bob).await, register(&nodes[0], phone).await);
    // While the first send waits, the next two gather to one batch.
    let held_first = hold_mailbox(&nodes[0], &dave).await;
    let held = hold_mailbox(&nodes[0], &carol).await;
    let first = tokio::spawn(nodes[1].accept_envelopes(send(&bob, dave.user_id)));
    waiting(&nodes[0], 1).await;
    let both = [&carol, &phone].map(|to| nodes[1].accept_envelopes(send(&bob, to.user_id)));
    let sending = tokio::spawn(join_all(both));
    held_first.commit().await.unwrap();
    first.await.unwrap().unwrap();
    waiting(&nodes[0], 1).await;
    let tablet = linked(&nodes[0], &phone, "tablet", NOW).await;
    held.commit().await.unwrap();
    for sent in sending.await.unwrap() {
        assert!(matches!(sent, Ok(Accepted::Stored(_))), "{sent:?}");
    }
    assert_eq!((messages(&nodes[0], &phone).await, messages(&nodes[0], &tablet).await), (1, 1));
    database.drop().await;
}

/// A batch of acks erases items of several devices by device and position; whoever else does, must in the same order.
#[tokio::test(flavor = "multi_thread")]
async fn a_deactivation_holds_no_item_that_an_ack_before_it_comes_to_next() {
    let Some(database) = Database::create().await else { return };
    let store = Arc::new(database.one_node().await);
    let phone = register(&store, registration(user(), "phone")).await;
    let tablet = linked(&store, &phone, "tablet", NOW).await;
    let bob = register(&store, registration(user(), "phone")).await;
    stored(&store, send(&bob, phone.user_id)).await;
    let erase = "DELETE FROM mailbox_items WHERE device_no = $1 AND position = 1";
    let mut acks = store.pool.begin().await.unwrap();
    sqlx::query(erase).bind(phone.device_no.0).execute(&mut *acks).await.unwrap();
    let ending = tokio::spawn({
        let (store, phone, tablet) = (Arc::clone(&store), phone.clone(), tablet.clone());
        async move { store.deactivate(&phone, &tablet.device_id, NOW).await }
    });
    waiting(&store, 1).await;
    let next = sqlx::query(erase).bind(tablet.device_no.0).execute(&mut *acks).await.unwrap();
    assert_eq!(next.rows_affected(), 1);
    acks.commit().await.unwrap();
    assert_eq!(ending.await.unwrap().unwrap(), Deactivated::Gone(tablet.device_no));
    let left = store.mailbox_left(phone.device_no, Position::START, 10, NOW).await.unwrap();
    assert_eq!(left.positions(), [Position(2), Position(3)]);
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&store.pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    database.drop().await;
}
