//! Networks that are shut out: how long, who is told, and how an operator lifts it beside the relay.

use std::time::Duration;

use futures_util::future::join_all;
use restante::{
    domain::{BLOCK_MEMORY, Block, NetworkKey},
    store::{StoreError, postgres::PostgresStore, sqlite::SqliteStore},
};

use crate::support::engine::{Engine, on_both_engines};

on_both_engines!(roomy =>
    a_block_grows_longer_each_time_and_is_forgotten_in_the_end,
    a_network_that_is_blocked_stays_as_it_is,
    of_many_that_block_a_network_at_once_one_does,
    blocks_are_told_while_they_last,
    an_operator_lifts_one_block_or_all_beside_the_relay,
);

const ALICE: NetworkKey = NetworkKey([1; 16]);
const BOB: NetworkKey = NetworkKey([2; 16]);

async fn block(engine: &Engine, network: NetworkKey) -> Block {
    engine.store.block(network, engine.now()).await.unwrap()
}

async fn told(engine: &Engine) -> Vec<NetworkKey> {
    let blocks = engine.store.blocks(engine.now()).await.unwrap();
    blocks.into_iter().map(|block| block.network).collect()
}

async fn lift(engine: &Engine, network: Option<NetworkKey>) -> Result<u64, StoreError> {
    match &engine.url {
        Some(url) => PostgresStore::lift_blocks_beside(url, network).await,
        None => SqliteStore::lift_blocks_beside(engine.folder.as_ref().unwrap().path(), network).await,
    }
}

async fn listed(engine: &Engine) -> Vec<Block> {
    let now = engine.now();
    let listed = match &engine.url {
        Some(url) => PostgresStore::blocks_beside(url, now).await,
        None => SqliteStore::blocks_beside(engine.folder.as_ref().unwrap().path(), now).await,
    };
    listed.unwrap()
}

async fn a_block_grows_longer_each_time_and_is_forgotten_in_the_end(engine: Engine) {
    for (level, minutes) in [(1, 1), (2, 5), (3, 30), (4, 360), (5, 360)] {
        let begun = block(&engine, ALICE).await;
        let until = engine.now().plus(Duration::from_mins(minutes));
        assert_eq!(begun, Block { network: ALICE, level, until });
        engine.advance(Duration::from_mins(minutes));
        engine.expire_all().await;
    }
    assert_eq!(block(&engine, BOB).await.level, 1);
    engine.advance(BLOCK_MEMORY);
    engine.expire_all().await;
    assert_eq!(block(&engine, ALICE).await.level, 1);
}

async fn a_network_that_is_blocked_stays_as_it_is(engine: Engine) {
    let begun = block(&engine, ALICE).await;
    engine.advance(Duration::from_secs(59));
    assert_eq!(block(&engine, ALICE).await, begun);
}

async fn of_many_that_block_a_network_at_once_one_does(engine: Engine) {
    let blocks = join_all((0..20).map(|_| block(&engine, ALICE))).await;
    assert!(blocks.iter().all(|block| block.level == 1), "{blocks:?}");
}

async fn blocks_are_told_while_they_last(engine: Engine) {
    block(&engine, BOB).await;
    engine.advance(Duration::from_mins(1));
    assert_eq!(told(&engine).await, []);
    block(&engine, ALICE).await;
    block(&engine, BOB).await;
    assert_eq!(told(&engine).await, [BOB, ALICE], "the longest first");
    engine.advance(Duration::from_mins(1));
    assert_eq!(told(&engine).await, [BOB]);
}

async fn an_operator_lifts_one_block_or_all_beside_the_relay(engine: Engine) {
    let carol = NetworkKey([3; 16]);
    for network in [ALICE, BOB, carol] {
        block(&engine, network).await;
    }
    assert_eq!(listed(&engine).await.len(), 3);
    assert_eq!(lift(&engine, Some(ALICE)).await.unwrap(), 1);
    assert_eq!(lift(&engine, Some(ALICE)).await.unwrap(), 0);
    assert_eq!(told(&engine).await, [BOB, carol]);
    assert_eq!(lift(&engine, None).await.unwrap(), 2);
    assert_eq!(told(&engine).await, []);
    engine.advance(Duration::from_mins(1));
    assert_eq!(block(&engine, BOB).await.level, 1, "what was lifted makes no later block longer");
}
