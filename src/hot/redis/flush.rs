//! Emptying a relay's part of Redis, when what it was filled from is no more.

use redis::{Client, Pipeline, RedisError, RedisResult, aio::MultiplexedConnection};
use secrecy::SecretString;

use super::{
    fault::Fault,
    link,
    names::Names,
    place::{Place, Seeds},
    slots::Slots,
};
use crate::hot::HotError;

/// Keys looked at in one step.
const STEP: u32 = 1000;

/// Erases every offline queue, budget and state of a group under `prefix`, of a cluster at every master, and tells how many keys those were.
///
/// # Errors
/// When Redis cannot be asked; what was not erased is only a cache.
pub async fn flush(url: &SecretString, prefix: &str) -> Result<u64, HotError> {
    let clients = match Place::of(url).map_err(Fault::Url)? {
        Place::Server(client) => vec![client],
        Place::Cluster(seeds) => masters(&seeds).await?,
    };
    let mut erased = 0;
    for client in clients {
        for family in Names::under(prefix).families() {
            erased += erase(&client, family).await.map_err(Fault::from)?;
        }
    }
    Ok(erased)
}

/// The masters of a cluster, as the first seed that answers tells them.
async fn masters(seeds: &Seeds) -> Result<Vec<Client>, Fault> {
    let mut failure = Fault::NoSlots;
    for seed in &seeds.nodes {
        let told = async {
            let mut connection = connect(&seeds.client(seed)?).await?;
            redis::cmd("CLUSTER").arg("SLOTS").query_async::<redis::Value>(&mut connection).await
        };
        match told.await {
            Err(error) => failure = error.into(),
            Ok(answer) => {
                let slots = Slots::read(&answer, seed).ok_or(Fault::NoSlots)?;
                let clients: Result<Vec<_>, RedisError> =
                    slots.owners().iter().map(|node| seeds.client(node)).collect();
                return Ok(clients?);
            }
        }
    }
    Err(failure)
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    client.get_multiplexed_async_connection_with_config(&link::config()).await
}

async fn erase(client: &Client, family: &str) -> RedisResult<u64> {
    let mut connection = connect(client).await?;
    let pattern = format!("{}*", literally(family));
    let (mut cursor, mut erased) = (0_u64, 0);
    loop {
        let keys: Vec<String>;
        (cursor, keys) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(&pattern)
            .arg("COUNT")
            .arg(STEP)
            .query_async(&mut connection)
            .await?;
        erased += unlink(&mut connection, &keys).await?;
        if cursor == 0 {
            return Ok(erased);
        }
    }
}

/// One command for each key: in a cluster they lie in different slots.
async fn unlink(connection: &mut MultiplexedConnection, keys: &[String]) -> RedisResult<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    let mut pipeline = Pipeline::with_capacity(keys.len());
    for key in keys {
        pipeline.cmd("UNLINK").arg(key);
    }
    let erased: Vec<u64> = pipeline.query_async(connection).await?;
    Ok(erased.iter().sum())
}

/// A text as a pattern that matches nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
