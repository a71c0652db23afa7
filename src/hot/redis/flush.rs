//! Emptying a relay's part of Redis, when what it was filled from is no more.

use redis::{Client, RedisResult, aio::MultiplexedConnection};
use secrecy::SecretString;

use super::{fault::Fault, link, names::Names, open};
use crate::hot::HotError;

/// Keys looked at in one step.
const STEP: u32 = 1000;

/// Erases every offline queue and budget under `prefix`, and tells how many keys those were.
///
/// # Errors
/// When Redis cannot be asked; what was not erased is only a cache.
pub async fn flush(url: &SecretString, prefix: &str) -> Result<u64, HotError> {
    let client = open(url).map_err(Fault::Url)?;
    let mut erased = 0;
    for family in Names::under(prefix).families() {
        erased += erase(&client, family).await.map_err(Fault::from)?;
    }
    Ok(erased)
}

async fn erase(client: &Client, family: &str) -> RedisResult<u64> {
    let mut connection = client.get_multiplexed_async_connection_with_config(&link::config()).await?;
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

async fn unlink(connection: &mut MultiplexedConnection, keys: &[String]) -> RedisResult<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    redis::cmd("UNLINK").arg(keys).query_async(connection).await
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
