//! How many of something there are at the same time over all nodes: open sockets of a network, of a user.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Hot, HotError, reach::Reach};
use crate::domain::BudgetKey;

/// How long a holder is counted that nobody renews: then its node is dead.
const LIFE: Duration = Duration::from_mins(1);

/// How often the holders of this node are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(20);

/// The crowds of the hot engine, and so of all nodes together, while it answers. What this node holds is counted here in any
/// case, so that no node alone ever holds more than the most.
pub struct Crowds {
    engine: Arc<dyn Hot>,
    reach: Reach,
    here: Mutex<HashMap<BudgetKey, HashSet<Uuid>>>,
    /// Let go here, and not yet at the engine. Never more than were held.
    gone: Mutex<Vec<(BudgetKey, Uuid)>>,
    let_go: Notify,
}

/// A place in a crowd, until it is dropped.
pub struct Hold {
    crowds: Arc<Crowds>,
    place: (BudgetKey, Uuid),
}

impl Crowds {
    /// Crowds over an engine. [`Crowds::keep`] must run beside them.
    #[must_use]
    pub fn new(engine: Arc<dyn Hot>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            reach: Reach::default(),
            here: Mutex::default(),
            gone: Mutex::default(),
            let_go: Notify::new(),
        })
    }

    /// Takes a place in a crowd. None when `most` are taken. Costs a call of the engine, for at most a quarter of a second.
    pub async fn hold(self: &Arc<Self>, crowd: BudgetKey, most: u32) -> Option<Hold> {
        let hold = self.hold_here(crowd, most)?;
        let (crowd, holder) = hold.place;
        let counted = self.reach.ask(self.engine.hold(crowd, holder, most, LIFE)).await;
        // Where the engine is away this node's own count stands.
        (counted != Some(false)).then_some(hold)
    }

    fn hold_here(self: &Arc<Self>, crowd: BudgetKey, most: u32) -> Option<Hold> {
        let mut here = self.here();
        let holders = here.entry(crowd).or_default();
        if holders.len() >= most as usize {
            return None;
        }
        let place = (crowd, Uuid::new_v4());
        holders.insert(place.1);
        Some(Hold { crowds: Arc::clone(self), place })
    }

    /// Renews what this node holds and lets the engine know what it let go, until stopped.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.let_go.notified() => self.release().await,
                _ = ticks.tick() => self.renew().await,
            }
        }
        self.release().await;
    }

    async fn renew(&self) {
        let held: Vec<_> = self
            .here()
            .iter()
            .flat_map(|(crowd, holders)| holders.iter().map(move |holder| (*crowd, *holder)))
            .collect();
        if !held.is_empty() {
            note(self.engine.renew(&held, LIFE).await);
        }
        // One that was let go meanwhile may have been counted anew.
        self.release().await;
    }

    async fn release(&self) {
        let gone = mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        if !gone.is_empty() {
            note(self.engine.release(&gone).await);
        }
    }

    fn here(&self) -> MutexGuard<'_, HashMap<BudgetKey, HashSet<Uuid>>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine was not told it forgets by itself.
fn note(told: Result<(), HotError>) {
    if let Err(error) = told {
        tracing::debug!(error = %error.0, "what this node holds could not be told");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let (crowd, holder) = self.place;
        let mut here = self.crowds.here();
        if let Some(holders) = here.get_mut(&crowd) {
            holders.remove(&holder);
            if holders.is_empty() {
                here.remove(&crowd);
            }
        }
        drop(here);
        self.crowds.gone.lock().unwrap_or_else(PoisonError::into_inner).push(self.place);
        self.crowds.let_go.notify_one();
    }
}
