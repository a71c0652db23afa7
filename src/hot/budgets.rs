//! Budgets by what they are for and whom, open for nobody when the engine is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::timeout;

use super::{
    Hot,
    leases::Leases,
    ledger::{BUDGETS, Ledger},
    reach::{PATIENCE, Reach},
};
use crate::domain::{BudgetKey, Drawn, Lease, Quota, Timestamp};

/// How many leases a node keeps: some for each of its devices.
const LEASES: usize = 1 << 18;

/// How many budgets may be asked for at the same time.
const TURNS: usize = 256;

/// The relay's budgets: of the hot engine, and so of all nodes together, while it answers. When it does not, each node
/// counts by itself; never is a place given that nobody counted.
pub struct Budgets {
    key: [u8; 32],
    counts: Arc<Counts>,
}

/// What is counted, whatever it is called.
struct Counts {
    engine: Arc<dyn Hot>,
    alone: Mutex<Ledger>,
    leases: Mutex<Leases>,
    reach: Reach,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

/// What became of an act whose budget is spent by leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Whether there was a place.
    pub drawn: Drawn,
    /// How many places are left, as far as this node knows.
    pub left: u32,
}

impl Budgets {
    /// Budgets over an engine, named under a key that all nodes have and Redis has not.
    #[must_use]
    pub fn new(engine: Arc<dyn Hot>, key: [u8; 32]) -> Self {
        let counts = Counts {
            engine,
            alone: Mutex::new(Ledger::bounded(BUDGETS)),
            leases: Mutex::new(Leases::bounded(LEASES)),
            reach: Reach::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        };
        Self { key, counts: Arc::new(counts) }
    }

    /// Draws a place in the budget that is for `what` and belongs to `of`. Costs one call of the engine, and at most its
    /// deadline: for acts that are rare. Each node also counts by itself what it takes, as [`Budgets::spend`] does.
    pub async fn draw(&self, what: &'static str, of: &[&[u8]], quota: Quota, now: Timestamp) -> Drawn {
        let budget = self.name(what, of);
        // Whom this node refuses by itself, an engine that forgot must not count.
        let wait = self.counts.alone().wait(budget, quota, now);
        if !wait.is_zero() {
            return Drawn::Empty(wait);
        }
        let shared = self.counts.engine.lease(budget, quota, 1, now).await;
        let shared = shared
            .inspect_err(|error| tracing::debug!(error = %error.0, "a budget is counted by this node alone"));
        self.counts.count(budget, quota, shared.ok(), 1, now).drawn(quota, now)
    }

    /// Spends a place in a budget that is only ever spent: for acts that are frequent. The engine is asked for several
    /// places at a time ([`Quota::share`]), and waited for at most half a second, a quarter for each of its turn and its
    /// answer; past that this node counts alone. Over all nodes never more is spent than the quota allows; less, for a
    /// moment, when several nodes spend at once. What was leased is kept although the caller goes away. Must be called on a
    /// Tokio runtime.
    ///
    /// Each node also counts by itself what it takes, so that an engine that forgot gives no node more than the quota.
    pub async fn spend(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Spent {
        if let Some(spent) = self.spend_here(budget, quota, now) {
            return spent;
        }
        let counts = Arc::clone(&self.counts);
        let asking = tokio::spawn(async move { counts.spend(budget, quota, now).await });
        // A task fails by a panic, or by the end of its runtime.
        asking.await.unwrap_or_else(|_| self.counts.spend_alone(budget, quota, now))
    }

    /// [`Budgets::spend`], if that can be said without asking the engine.
    pub fn spend_here(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Option<Spent> {
        self.counts.leases().spend(budget, quota, now)
    }

    /// The name of the budget that is for `what` and belongs to `of`. Every part stands behind its length, so that no two
    /// lists of parts read alike.
    #[must_use]
    pub fn name(&self, what: &str, of: &[&[u8]]) -> BudgetKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [what.as_bytes()].iter().chain(of) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut name = [0; 16];
        hasher.finalize_xof().fill(&mut name);
        BudgetKey(name)
    }
}

impl Counts {
    async fn spend(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Spent {
        // Of several that need the same lease one asks. Other budgets have the same turn, so none waits for long.
        let Ok(_turn) = timeout(PATIENCE, self.turns[usize::from(budget.0[0])].lock()).await else {
            return self.spend_alone(budget, quota, now);
        };
        if let Some(spent) = self.leases().spend(budget, quota, now) {
            return spent;
        }
        let most = self.most(budget, quota, now);
        let shared = self.reach.ask(self.engine.lease(budget, quota, most, now)).await;
        self.take(budget, quota, shared, now)
    }

    fn spend_alone(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Spent {
        if let Some(spent) = self.leases().spend(budget, quota, now) {
            return spent;
        }
        self.take(budget, quota, None, now)
    }

    /// Spends a place of what the engine gave, or of what there is without it, and keeps the rest.
    fn take(&self, budget: BudgetKey, quota: Quota, shared: Option<Lease>, now: Timestamp) -> Spent {
        let lease = self.count(budget, quota, shared, self.most(budget, quota, now), now);
        self.leases().take(budget, quota, lease, now)
    }

    /// Counts here what the engine gave, or without it at most so many places. An engine that forgot may give more than there
    /// is; the node goes by what it gave itself.
    fn count(
        &self,
        budget: BudgetKey,
        quota: Quota,
        shared: Option<Lease>,
        most: u32,
        now: Timestamp,
    ) -> Lease {
        let most = shared.map_or(most, |shared| shared.places);
        let own = self.alone().lease(budget, quota, most, now);
        let filled_until = shared.map_or(i64::MIN, |shared| shared.filled_until).max(own.filled_until);
        Lease { places: own.places, filled_until }
    }

    /// How many places may be leased at once.
    fn most(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> u32 {
        if self.leases().has_room(budget, now) { quota.share() } else { 1 }
    }

    fn alone(&self) -> MutexGuard<'_, Ledger> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
