//! Two nodes on one database, and connections that are cut.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use super::fixtures::{Database, NOW, onetime, register, registration, send, user};
use crate::{
    domain::Position,
    store::{Accepted, Store},
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
    assert_eq!(left.positions, gap_free);
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
                (store.take_bundle(owner.user_id, None).await, store.take_bundle(owner.user_id, None).await)
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
    let left = one.key_stats(owner.device_no).await.unwrap().unwrap().unused_prekeys;
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
    for _ in 0..6 {
        let answers: Vec<_> = (0..50).map(|_| store.accept_envelopes(send(&alice, bob.user_id))).collect();
        tokio::time::sleep(Duration::from_millis(3)).await;
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
    assert_eq!(left.positions, (1..=300).map(Position).collect::<Vec<_>>());
    cutter.close().await.unwrap();
    database.drop().await;
}
