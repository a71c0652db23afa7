//! Two nodes on one database, and connections that are cut.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use super::{
    PostgresStore,
    fixtures::{Database, NOW, later, linked, onetime, register, registration, send, stored, user},
};
use crate::{
    domain::{Caller, Position},
    store::{Accepted, Deactivated, OneTimeKeys, Store, StoreError},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_store_one_message_once() {
    let Some(database) = Database::create().await else { return };
    let (one, other) = (database.one_node().await, database.one_node().await);
    let alice = register(&one, registration(user(), "phone")).await;
    let [bob, carol] =
        [register(&one, registration(user(), "a")).await, register(&one, registration(user(), "b")).await];
    for round in 0..200 {
        let message = send(&alice, bob.user_id);
        // Every second round the twin goes to somebody else, so that no common mailbox serialises the two.
        let mut twin = message.clone();
        if round % 2 == 1 {
            (twin.recipient_id, twin.digest) = (carol.user_id, [2; 32]);
        }
        let noise = send(&alice, bob.user_id);
        let (left, right, _) = tokio::join!(
            one.accept_envelopes(message),
            other.accept_envelopes(twin),
            other.accept_envelopes(noise)
        );
        let outcomes = [left.unwrap(), right.unwrap()];
        let stored: Vec<_> = outcomes.iter().filter(|it| matches!(it, Accepted::Stored(_))).collect();
        assert_eq!(stored.len(), 1, "{outcomes:?}");
        let told = |it: &&Accepted| matches!(it, Accepted::Repeated(_) | Accepted::MessageIdReused);
        assert_eq!(outcomes.iter().filter(told).count(), 1, "{outcomes:?}");
    }
    let left = one.mailbox_left(bob.device_no, Position::START, 10_000, NOW).await.unwrap();
    let gap_free: Vec<_> = (1..=left.head.0).map(Position).collect();
    assert_eq!(left.positions(), gap_free);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_never_give_one_key_twice_and_lose_none() {
    let Some(database) = Database::create().await else { return };
    let (one, other) = (Arc::new(database.one_node().await), Arc::new(database.one_node().await));
    let mut owner = registration(user(), "phone");
    owner.onetime_prekeys = (1..=150).map(onetime).collect();
    let owner = register(&one, owner).await;
    let takers: Vec<_> = (0..64)
        .map(|taker| {
            let store = Arc::clone(if taker % 2 == 0 { &one } else { &other });
            tokio::spawn(async move {
                (
                    store.take_bundle(owner.user_id, None, OneTimeKeys::Given).await,
                    store.take_bundle(owner.user_id, None, OneTimeKeys::Given).await,
                )
            })
        })
        .collect();
    let mut taken = HashSet::new();
    for taker in takers {
        let (first, second) = taker.await.unwrap();
        for bundle in [first, second] {
            let key = bundle.unwrap().unwrap().bundle.onetime_prekey.unwrap();
            assert!(taken.insert(key.id), "a key was given twice");
        }
    }
    let left = one
        .key_stats(owner.device_no, crate::domain::Timestamp::from_millis(0))
        .await
        .unwrap()
        .unwrap()
        .unused_prekeys;
    assert_eq!((taken.len(), left), (128, 22));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_neither_lose_nor_double_a_send() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let mut cutter = PgConnection::connect(database.url().expose_secret()).await.unwrap();
    let mut sent = Vec::new();
    for round in 0..6 {
        let answers: Vec<_> = (0..50).map(|_| store.accept_envelopes(send(&alice, bob.user_id))).collect();
        tokio::time::sleep(Duration::from_millis(2 * round)).await;
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&mut cutter)
        .await
        .unwrap();
        sent.extend(join_all(answers).await);
    }
    for accepted in &sent {
        // Repeated, where the connection was cut after the commit and before its answer.
        assert!(matches!(accepted, Ok(Accepted::Stored(_) | Accepted::Repeated(_))), "{accepted:?}");
    }
    let left = store.mailbox_left(bob.device_no, Position::START, 10_000, NOW).await.unwrap();
    assert_eq!(left.positions(), (1..=300).map(Position).collect::<Vec<_>>());
    cutter.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_that_race_all_succeed_and_leave_no_gap() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let [alice, bob] = [user(), user()].map(|user| registration(user, "phone"));
    let (alice, bob) = (register(&nodes[0], alice).await, register(&nodes[0], bob).await);
    let tablet = linked(&nodes[0], &bob, "tablet", NOW).await;
    let talk = |node: &Arc<PostgresStore>, from: &Caller, to: &Caller| {
        let (node, from, to) = (Arc::clone(node), from.clone(), to.clone());
        tokio::spawn(async move {
            for round in 0..60 {
                let message = send(&from, to.user_id);
                stored(&node, message.clone()).await;
                match round % 4 {
                    0 => assert!(node.ack(from.device_no, vec![Position(round + 1)]).await.unwrap() <= 1),
                    1 => drop(node.delete_for_everyone(from.user_id, message.message_id, NOW).await.unwrap()),
                    2 => assert!(node.delete_for_me(to.user_id, message.message_id).await.unwrap().is_some()),
                    _ => drop(node.expire(later(3600), 5).await.unwrap()),
                }
            }
        })
    };
    let talks: Vec<_> = nodes
        .iter()
        .flat_map(|node| [talk(node, &alice, &bob), talk(node, &bob, &alice), talk(node, &alice, &bob)])
        .collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let ended = nodes[1].deactivate(&bob, &tablet.device_id, NOW).await.unwrap();
    assert_eq!(ended, Deactivated::Gone(tablet.device_no));
    join_all(talks).await.into_iter().for_each(Result::unwrap);
    // 240 messages and a notice for every fourth; and that the tablet came, and that it went.
    let heads = nodes[0].mailbox_heads(&[alice.device_no, bob.device_no, tablet.device_no]).await.unwrap();
    assert_eq!(heads, [(alice.device_no, Position(150)), (bob.device_no, Position(302))]);
    let placed: Vec<i64> = sqlx::query_scalar(
        "SELECT p.position FROM messages, unnest(device_nos, positions) AS p(device_no, position) \
         WHERE p.device_no = $1 ORDER BY 1",
    )
    .bind(bob.device_no.0)
    .fetch_all(&nodes[0].pool)
    .await
    .unwrap();
    assert_eq!(placed, (1..=302).collect::<Vec<_>>());
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&nodes[0].pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_polled_waits_for_no_call() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let phone = register(&store, registration(user(), "phone")).await;
    let mut held = vec![];
    for _ in 0..store.pool.options().get_max_connections() {
        held.push(store.pool.acquire().await.unwrap());
    }
    assert!(store.pool.try_acquire().is_none());
    let polled = async {
        let heads = store.mailbox_heads(&[phone.device_no]).await.unwrap();
        (heads, store.revocations(NOW).await.unwrap())
    };
    let polled = tokio::time::timeout(Duration::from_secs(1), polled).await;
    assert_eq!(polled.unwrap(), (vec![(phone.device_no, Position::START)], vec![]));
    drop(held);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_item_that_cannot_be_stored_does_not_fail_the_others() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    sqlx::query("INSERT INTO mailbox_items VALUES ($1, 1, gen_random_uuid(), gen_random_uuid(), now())")
        .bind(bob.device_no.0)
        .execute(&store.pool)
        .await
        .unwrap();
    let (to_self, to_bob, also_to_self) = tokio::join!(
        store.accept_envelopes(send(&alice, alice.user_id)),
        store.accept_envelopes(send(&alice, bob.user_id)),
        store.accept_envelopes(send(&alice, alice.user_id)),
    );
    assert!(matches!(to_self, Ok(Accepted::Stored(_))) && matches!(also_to_self, Ok(Accepted::Stored(_))));
    assert!(matches!(to_bob, Err(StoreError::Unavailable(_))), "{to_bob:?}");
    database.drop().await;
}
