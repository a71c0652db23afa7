//! What an operator has to do with blocks, beside the relay.

use std::net::IpAddr;

use super::{Secrets, StartError, parts::network_keys};
use crate::{
    config::Config,
    domain::{Block, NetworkKey, Timestamp},
    http::CallerAddress,
    store::{postgres::PostgresStore, sqlite::SqliteStore},
};

/// Which blocks.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// All.
    All,
    /// The one of this name.
    Named(NetworkKey),
    /// The one of the network that this address is in.
    Of(IpAddr),
}

/// The blocks that have not ended.
///
/// # Errors
/// When there is no store where the settings say, it cannot be asked, or was never migrated to this relay's schema.
pub async fn blocks(config: &Config, now: Timestamp) -> Result<Vec<Block>, StartError> {
    find_store(config)?;
    Ok(match &config.database_url {
        Some(url) => PostgresStore::blocks_beside(url, now).await?,
        None => SqliteStore::blocks_beside(&config.data_dir, now).await?,
    })
}

/// Ends blocks, and forgets that they were; tells how many. Every node follows within seconds.
///
/// # Errors
/// As [`blocks`], and when the relay's secret that names networks is not where the settings say. Then nothing is changed.
pub async fn lift_blocks(config: &Config, which: Which) -> Result<u64, StartError> {
    find_store(config)?;
    let network = match which {
        Which::All => None,
        Which::Named(network) => Some(network),
        Which::Of(address) => {
            let keys = network_keys(&Secrets::of_relay(config)?);
            Some(keys.of(CallerAddress::from(address).network()))
        }
    };
    Ok(match &config.database_url {
        Some(url) => PostgresStore::lift_blocks_beside(url, network).await?,
        None => SqliteStore::lift_blocks_beside(&config.data_dir, network).await?,
    })
}

/// Refuses settings that are another's: they would lead to an empty folder.
fn find_store(config: &Config) -> Result<(), StartError> {
    let folder = &config.data_dir;
    if config.database_url.is_some() || SqliteStore::is_in(folder) {
        return Ok(());
    }
    Err(StartError::NoRelay("database", folder.display().to_string()))
}
