//! Networks that go on although they are refused are shut out for a while, longer each time.
//!
//! Blocks are rows of the store, which every node reads every second and an operator can list and lift beside the relay. A
//! node that cannot reach the store blocks by itself.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use tokio::time::timeout;

use crate::{
    domain::{Block, Clock, Drawn, Network, NetworkKey, NetworkKeys, Quota, Timestamp},
    hot::Budgets,
    metrics,
    store::{MOST_BLOCKS, Store, StoreError},
};

/// How long the store is waited for, by somebody who is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many blocks the store is told of later, before it is read.
const TOLD_AT_ONCE: usize = 64;

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
    stored: Entries,
    /// Those that the store could not be told of. It is told as soon as it listens.
    alone: Entries,
    /// How many were entered here, so that an answer that is older than one of them does not undo it.
    turn: u64,
}

/// Blocks by network, at most [`MOST_BLOCKS`]: past them that one goes which ends the soonest, as it does where the store is
/// read.
#[derive(Default)]
struct Entries(HashMap<NetworkKey, Entry>);

struct Entry {
    block: Block,
    /// The turn in which it was entered.
    turn: u64,
}

impl Known {
    fn until(&self, network: NetworkKey) -> Option<Timestamp> {
        [&self.stored, &self.alone]
            .into_iter()
            .filter_map(|entries| entries.get(network))
            .map(|it| it.until)
            .max()
    }

    fn enter_stored(&mut self, block: Block) {
        self.turn += 1;
        self.stored.enter(block, self.turn);
    }

    fn enter_alone(&mut self, network: NetworkKey, now: Timestamp) {
        self.turn += 1;
        self.alone.enter(Block::after(self.alone.get(network), network, now), self.turn);
    }

    /// Takes over what the store had in this turn. What was entered since is not in it, or is the same.
    fn take_over(&mut self, blocks: Vec<Block>, turn: u64, now: Timestamp) {
        let newer = std::mem::take(&mut self.stored).since(turn);
        for block in blocks {
            self.stored.enter(block, turn);
        }
        for Entry { block, turn } in newer.0.into_values() {
            self.stored.enter(block, turn);
        }
        self.alone.0.retain(|_, entry| entry.block.until > now);
    }

    /// The store was told of a block.
    fn told(&mut self, block: Block) {
        self.alone.0.remove(&block.network);
        self.enter_stored(block);
    }
}

impl Entries {
    fn get(&self, network: NetworkKey) -> Option<Block> {
        self.0.get(&network).map(|entry| entry.block)
    }

    fn enter(&mut self, block: Block, turn: u64) {
        self.0.insert(block.network, Entry { block, turn });
        if self.0.len() > MOST_BLOCKS as usize
            && let Some((soonest, _)) = self.0.iter().min_by_key(|(_, entry)| entry.block.until)
        {
            let soonest = *soonest;
            self.0.remove(&soonest);
        }
    }

    /// Those that were entered after this turn.
    fn since(mut self, turn: u64) -> Self {
        self.0.retain(|_, entry| entry.turn > turn);
        self
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
        if known.stored.0.is_empty() && known.alone.0.is_empty() {
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
            return self.known_now().enter_alone(key, now);
        };
        self.known_now().told(block);
    }

    /// Reads the blocks, those that an operator lifted not being among them, and tells the store of what it could not be told
    /// of.
    ///
    /// # Errors
    /// When the store cannot be asked; what is known stands then.
    pub async fn read(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let asked_in = self.known.read().unwrap_or_else(PoisonError::into_inner).turn;
        let blocks = self.store.blocks(now).await?;
        self.known_now().take_over(blocks, asked_in, now);
        for network in self.alone(now) {
            let block = self.store.block(network, now).await?;
            self.known_now().told(block);
        }
        Ok(())
    }

    /// Some of the blocks that the store does not know of and that have not ended.
    fn alone(&self, now: Timestamp) -> Vec<NetworkKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let present = known.alone.0.values().map(|entry| entry.block).filter(|block| block.until > now);
        present.map(|block| block.network).take(TOLD_AT_ONCE).collect()
    }

    fn known_now(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn key(number: u32) -> NetworkKey {
        NetworkKey(u128::from(number).to_be_bytes())
    }

    fn block(number: u32, seconds: u64) -> Block {
        Block { network: key(number), level: 1, until: NOW.plus(Duration::from_secs(seconds)) }
    }

    #[test]
    fn an_answer_is_taken_over_and_what_was_entered_since_it_was_asked_for_stays() {
        let mut known = Known::default();
        known.enter_stored(block(1, 60));
        known.enter_alone(key(2), NOW);
        let asked_in = known.turn;
        known.enter_stored(block(3, 60));
        known.enter_alone(key(4), NOW);
        known.take_over(vec![block(5, 60)], asked_in, NOW);
        let blocked =
            |known: &Known| (1..=5).filter(|number| known.until(key(*number)).is_some()).collect::<Vec<_>>();
        assert_eq!(blocked(&known), [2, 3, 4, 5], "one was lifted, and of two the store does not know yet");
        known.told(block(4, 60));
        known.take_over(vec![block(4, 60)], known.turn, NOW);
        assert_eq!(blocked(&known), [2, 4]);
        known.take_over(Vec::new(), known.turn, NOW.plus(Duration::from_mins(2)));
        assert_eq!(blocked(&known), [0; 0], "what has ended is not kept for a store that answers");
    }

    #[test]
    fn new_blocks_during_every_answer_starve_none_of_them() {
        let mut known = Known::default();
        for round in 0..10 {
            let asked_in = known.turn;
            known.enter_stored(block(round, 60));
            known.take_over(vec![block(100 + round, 60)], asked_in, NOW);
            assert!(known.until(key(100 + round)).is_some());
            assert_eq!(known.stored.0.len(), 2, "what is lifted goes");
        }
    }

    #[test]
    fn of_too_many_blocks_those_are_known_that_end_the_latest() {
        let (mut known, most) = (Known::default(), MOST_BLOCKS);
        let answer = (0..most).map(|number| block(number, u64::from(number) + 1)).collect();
        known.take_over(answer, 0, NOW);
        known.enter_stored(block(most, 1_000_000));
        assert_eq!(known.until(key(0)), None);
        assert!(known.until(key(1)).is_some() && known.until(key(most)).is_some());
        for number in 0..=most {
            known.alone.enter(block(number, 60), 0);
        }
        assert_eq!((known.stored.0.len(), known.alone.0.len()), (most as usize, most as usize));
    }
}
