//! What the relay has to do with backups: the copy of an embedded store, and what a restored store needs before it is
//! served.

use std::{path::Path, sync::Arc};

use super::{COMMITTED_BATCHES, COMMITTED_BYTES, Secrets, StartError, open_store, secrets::key_for};
use crate::{
    config::Config,
    domain::{Clock, Pseudonyms},
    hot::redis,
    store::{self, Restored, Store, StoreError, sqlite::SqliteStore},
};

/// Messages to expire in one transaction.
const EXPIRE_BATCH: u32 = 500;

/// What [`restored`] did.
#[derive(Debug)]
pub struct AfterRestore {
    /// To the store.
    pub store: Restored,
    /// How many messages had expired since the backup.
    pub expired: u64,
    /// How many keys were erased in Redis, if there is one. A failure does no harm: no relay believes Redis.
    pub hot_state: Option<Result<u64, StartError>>,
}

/// The newest schema that this relay knows.
#[must_use]
pub fn newest_schema() -> i64 {
    SqliteStore::newest_schema()
}

/// Copies the embedded database to a new file while the relay may run; tells the copy's schema.
///
/// # Errors
/// When the store is not the embedded one, or the copy cannot be made.
pub async fn backup(config: &Config, file: &Path) -> Result<i64, StartError> {
    if config.database_url.is_some() {
        return Err(StartError::NotEmbedded);
    }
    Ok(SqliteStore::backup(&config.data_dir, file).await?)
}

/// Makes a store that was restored from a backup fit to be served. No relay may serve it yet. May be repeated.
///
/// # Errors
/// When the store cannot be opened, or what is to be done could not be.
pub async fn restored(config: &Config, clock: &Arc<dyn Clock>) -> Result<AfterRestore, StartError> {
    let (committed, _commits) = store::committed(COMMITTED_BATCHES, COMMITTED_BYTES);
    let pseudonyms = Pseudonyms::new(key_for(&Secrets::master(config)?, b"audit pseudonyms"));
    let (store, _) = open_store(config, committed, clock, pseudonyms).await?;
    let done = make_fit(store.as_ref(), clock.as_ref()).await;
    store.close().await;
    let (store, expired) = done?;
    let hot_state = match &config.redis_url {
        Some(url) => Some(redis::flush(url, &config.redis_prefix).await.map_err(StartError::from)),
        None => None,
    };
    Ok(AfterRestore { store, expired, hot_state })
}

async fn make_fit(store: &dyn Store, clock: &dyn Clock) -> Result<(Restored, u64), StoreError> {
    store.check().await?;
    let restored = store.after_restore(clock.now()).await?;
    let mut expired = 0;
    loop {
        let round = store.expire(clock.now(), EXPIRE_BATCH).await?;
        expired += u64::from(round.bodies);
        if !round.more {
            return Ok((restored, expired));
        }
    }
}
