//! Networks that are shut out.

use secrecy::SecretString;
use sqlx::{Connection as _, Error, PgConnection, PgPool};
use time::OffsetDateTime;

use super::{
    connect,
    fault::{answered, unavailable},
    rows::{at, corrupt, moment},
};
use crate::{
    domain::{Block, NetworkKey, Timestamp},
    store::{MOST_BLOCKS, StoreError},
};

/// A moment long past: such a row is no block yet, and remembered by nobody.
const NEVER: Timestamp = Timestamp::from_millis(0);

/// Blocks a network, unless it is.
pub(super) async fn block(pool: &PgPool, network: NetworkKey, now: Timestamp) -> Result<Block, Error> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "INSERT INTO blocks (network, level, blocked_until) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING",
    )
    .bind(network.0.as_slice())
    .bind(at(NEVER))
    .execute(&mut *tx)
    .await?;
    let (level, until): (i32, OffsetDateTime) =
        sqlx::query_as("SELECT level, blocked_until FROM blocks WHERE network = $1 FOR UPDATE")
            .bind(network.0.as_slice())
            .fetch_one(&mut *tx)
            .await?;
    let block = Block::after(Some(read(network, level, until)?), network, now);
    sqlx::query("UPDATE blocks SET level = $2, blocked_until = $3 WHERE network = $1")
        .bind(network.0.as_slice())
        .bind(i32::try_from(block.level).unwrap_or(i32::MAX))
        .bind(at(block.until))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(block)
}

/// The blocks that have not ended.
pub(super) async fn present(connection: &mut PgConnection, now: Timestamp) -> Result<Vec<Block>, Error> {
    let rows: Vec<(Vec<u8>, i32, OffsetDateTime)> = sqlx::query_as(
        "SELECT network, level, blocked_until FROM blocks WHERE blocked_until > $1 \
         ORDER BY blocked_until DESC, network LIMIT $2",
    )
    .bind(at(now))
    .bind(i64::from(MOST_BLOCKS))
    .fetch_all(connection)
    .await?;
    let block = |(network, level, until): (Vec<u8>, i32, OffsetDateTime)| {
        let network = network.try_into().map_err(|_| corrupt("a network has not 16 bytes"))?;
        read(NetworkKey(network), level, until)
    };
    rows.into_iter().map(block).collect()
}

fn read(network: NetworkKey, level: i32, until: OffsetDateTime) -> Result<Block, Error> {
    Ok(Block { network, level: level.try_into().map_err(corrupt)?, until: moment(until) })
}

/// Ends and forgets the block of one network, or all.
pub(super) async fn lift(connection: &mut PgConnection, network: Option<NetworkKey>) -> Result<u64, Error> {
    let gone = sqlx::query("DELETE FROM blocks WHERE $1::bytea IS NULL OR network = $1")
        .bind(network.map(|network| network.0.to_vec()))
        .execute(connection)
        .await?;
    Ok(gone.rows_affected())
}

/// [`present`], for an operator beside the relay.
pub(super) async fn present_beside(url: &SecretString, now: Timestamp) -> Result<Vec<Block>, StoreError> {
    let mut connection = connect::alone(url).await?;
    let blocks = answered(present(&mut connection, now)).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(blocks)
}

/// [`lift`], for an operator beside the relay.
pub(super) async fn lift_beside(url: &SecretString, network: Option<NetworkKey>) -> Result<u64, StoreError> {
    let mut connection = connect::alone(url).await?;
    let lifted = answered(lift(&mut connection, network)).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(lifted)
}
