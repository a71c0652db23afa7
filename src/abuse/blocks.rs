//! Networks that go on although they are refused are shut out for a while, longer each time.
//!
//! Blocks are rows of the store, which every node reads every second and an operator can list and lift beside the relay. A
//! node that cannot reach the store blocks by itself.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Block, Clock, Drawn, Network, NetworkKey, NetworkKeys, Quota, Timestamp},
    hot::Budgets,
    metrics,
    store::{MOST_BLOCKS, Store, StoreError},
};

/// How often blocks are read, and so how soon every node follows.
const READ_EVERY: Duration = Duration::from_secs(1);

/// How long the store is waited for, by somebody who is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// The networks that are shut out.
pub struct Blocks {
    store: Arc<dyn Store>,
    budgets: Arc<Budgets>,
    clock: Arc<dyn Clock>,
    names: NetworkKeys,
    /// How many refusals a network may earn; none when nobody is ever blocked.
    strikes: Option<Quota>,
    known: RwLock<Known>,
    deciding: tokio::sync::Mutex<()>,
}

/// The blocks that this node knows of.
#[derive(Default)]
struct Known {
    /// As the store has them, and those entered here since it was read.
    stored: HashMap<NetworkKey, Timestamp>,
    /// How often the store was asked or told, so that an older answer does not undo what came after it.
    turn: u64,
    /// Those that the store could not be told of; its word counts as soon as it answers again.
    alone: HashMap<NetworkKey, Block>,
}

impl Known {
    fn until(&self, network: NetworkKey) -> Option<Timestamp> {
        let alone = self.alone.get(&network).map(|block| block.until);
        self.stored.get(&network).copied().max(alone)
    }
}

impl Blocks {
    /// No blocks yet; those of the store are known once it was read. A network may earn `refusals` in a minute; with 0
    /// it is never blocked.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        budgets: Arc<Budgets>,
        clock: Arc<dyn Clock>,
        names: NetworkKeys,
        refusals: u32,
    ) -> Arc<Self> {
        metrics::limit_tripped("blocks", "network", 0);
        metrics::blocks_begun(0);
        let strikes = (refusals > 0).then(|| Quota::per_minute(refusals));
        let (known, deciding) = (RwLock::default(), tokio::sync::Mutex::default());
        Arc::new(Self { store, budgets, clock, names, strikes, known, deciding })
    }

    /// How long the network is shut out yet; none when it is not. Asks nobody.
    #[must_use]
    pub fn left(&self, network: Network) -> Option<Duration> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.stored.is_empty() && known.alone.is_empty() {
            return None;
        }
        let (until, now) = (known.until(self.names.of(network))?, self.clock.now());
        (until > now).then(|| until.since(now))
    }

    /// Counts a refusal that the network earned, and shuts it out when these are too many.
    pub async fn strike(&self, network: Network) {
        let Some(quota) = self.strikes else { return };
        let budget = self.budgets.name("strikes", &[&network.0]);
        if self.budgets.spend(budget, quota, self.clock.now()).await.drawn != Drawn::Taken {
            self.block(network).await;
        }
    }

    async fn block(&self, network: Network) {
        // Whoever finds another decision under way comes back with the next refusal; nobody waits for a silent store.
        let Ok(_deciding) = self.deciding.try_lock() else { return };
        if self.left(network).is_some() {
            return;
        }
        let (key, now) = (self.names.of(network), self.clock.now());
        metrics::blocks_begun(1);
        let Ok(Ok(block)) = timeout(PATIENCE, self.store.block(key, now)).await else {
            tracing::debug!("the store could not be told of a block; this node blocks alone");
            return self.block_alone(key, now);
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.turn += 1;
        known.stored.insert(key, block.until);
    }

    fn block_alone(&self, key: NetworkKey, now: Timestamp) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.alone.len() >= MOST_BLOCKS as usize {
            known.alone.retain(|_, block| block.until > now);
        }
        let block = Block::after(known.alone.get(&key).copied(), key, now);
        if known.alone.len() < MOST_BLOCKS as usize {
            known.alone.insert(key, block);
        }
    }

    /// Reads the blocks, those that an operator lifted not being among them.
    ///
    /// # Errors
    /// When the store cannot be asked; what is known stands then.
    pub async fn read(&self) -> Result<(), StoreError> {
        let asked_in = self.known.read().unwrap_or_else(PoisonError::into_inner).turn;
        let blocks = self.store.blocks(self.clock.now()).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.turn == asked_in {
            known.stored = blocks.into_iter().map(|block| (block.network, block.until)).collect();
            known.alone.clear();
        }
        Ok(())
    }

    /// Reads the blocks again and again, until stopped.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = self.read().await {
                tracing::warn!(%error, "blocks could not be read");
            }
        }
    }
}
