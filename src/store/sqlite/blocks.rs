//! Networks that are shut out.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    folder::{self, DATABASE},
    rows, unavailable,
};
use crate::{
    domain::{Block, NetworkKey, Timestamp},
    store::{MOST_BLOCKS, StoreError},
};

fn read(row: &SqliteRow) -> Result<Block, sqlx::Error> {
    let network: Vec<u8> = row.try_get("network")?;
    let network = network.try_into().map_err(|_| sqlx::Error::Decode("a network has not 16 bytes".into()))?;
    let level: u32 = row.try_get("level")?;
    Ok(Block { network: NetworkKey(network), level, until: rows::timestamp(row, "blocked_until")? })
}

/// Blocks a network, unless it is.
pub(super) async fn block(
    tx: &mut SqliteConnection,
    network: NetworkKey,
    now: Timestamp,
) -> Result<Block, sqlx::Error> {
    let before = sqlx::query("SELECT network, level, blocked_until FROM blocks WHERE network = ?")
        .bind(network.0.to_vec())
        .try_map(|row| read(&row))
        .fetch_optional(&mut *tx)
        .await?;
    let block = Block::after(before, network, now);
    sqlx::query("INSERT OR REPLACE INTO blocks (network, level, blocked_until) VALUES (?, ?, ?)")
        .bind(network.0.to_vec())
        .bind(i64::from(block.level))
        .bind(block.until.millis())
        .execute(tx)
        .await?;
    Ok(block)
}

/// The blocks that have not ended.
pub(super) async fn present(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<Vec<Block>, sqlx::Error> {
    sqlx::query(
        "SELECT network, level, blocked_until FROM blocks WHERE blocked_until > ? \
         ORDER BY blocked_until DESC, network LIMIT ?",
    )
    .bind(now.millis())
    .bind(i64::from(MOST_BLOCKS))
    .try_map(|row| read(&row))
    .fetch_all(connection)
    .await
}

/// Ends and forgets the block of one network, or all.
pub(super) async fn lift(
    connection: &mut SqliteConnection,
    network: Option<NetworkKey>,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query("DELETE FROM blocks WHERE ?1 IS NULL OR network = ?1")
        .bind(network.map(|network| network.0.to_vec()))
        .execute(connection)
        .await?;
    Ok(gone.rows_affected())
}

/// [`present`], for an operator beside the relay: without the folder's lock, like a backup.
pub(super) async fn present_beside(folder: &Path, now: Timestamp) -> Result<Vec<Block>, StoreError> {
    let reading = folder::reading(&folder.join(DATABASE));
    let mut connection = reading.connect().await.map_err(unavailable)?;
    let blocks = present(&mut connection, now).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(blocks)
}

/// [`lift`], for an operator beside the relay: one short statement, which the relay's writer waits for.
pub(super) async fn lift_beside(folder: &Path, network: Option<NetworkKey>) -> Result<u64, StoreError> {
    let writing = folder::writing(&folder.join(DATABASE));
    let mut connection = writing.connect().await.map_err(unavailable)?;
    let lifted = lift(&mut connection, network).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok(lifted)
}
