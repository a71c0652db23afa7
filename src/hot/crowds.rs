//! How many of something there are at the same time over all nodes: open sockets of a network, of a user.

use std::{
    collections::{HashMap, hash_map::Entry},
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

/// A crowd, and who is in it.
type Place = (BudgetKey, Uuid);

/// Of each crowd its holders, and how often each holds its one place.
type Held = HashMap<BudgetKey, HashMap<Uuid, usize>>;

/// The crowds of the hot engine, and so of all nodes together, while it answers. What this node holds is counted here in any
/// case, so that no node alone ever holds more than the most.
pub struct Crowds {
    engine: Arc<dyn Hot>,
    reach: Reach,
    here: Mutex<Held>,
    /// Let go here, and not yet at the engine. Never more than were held.
    gone: Mutex<Vec<Place>>,
    let_go: Notify,
}

/// A place in a crowd, until it is dropped.
pub struct Hold {
    crowds: Arc<Crowds>,
    place: Place,
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

    /// Takes a place in a crowd for a holder, who has only one, however often and on however many nodes it is held. None
    /// when `most` others have theirs. Costs a call of the engine, for at most a quarter of a second.
    pub async fn hold(self: &Arc<Self>, crowd: BudgetKey, holder: Uuid, most: u32) -> Option<Hold> {
        let hold = self.hold_here(crowd, holder, most)?;
        let counted = self.reach.ask(self.engine.hold(crowd, holder, most, LIFE)).await;
        // Where the engine is away this node's own count stands.
        (counted != Some(false)).then_some(hold)
    }

    fn hold_here(self: &Arc<Self>, crowd: BudgetKey, holder: Uuid, most: u32) -> Option<Hold> {
        let mut here = self.here();
        let is_full = here.get(&crowd).map_or(0, HashMap::len) >= most as usize;
        if is_full && !is_held(&here, (crowd, holder)) {
            return None;
        }
        *here.entry(crowd).or_default().entry(holder).or_default() += 1;
        Some(Hold { crowds: Arc::clone(self), place: (crowd, holder) })
    }

    /// Lets a place go; whether nobody here holds it any more.
    fn let_go_here(&self, (crowd, holder): Place) -> bool {
        let mut here = self.here();
        let Entry::Occupied(mut holders) = here.entry(crowd) else { return true };
        let Entry::Occupied(mut held) = holders.get_mut().entry(holder) else { return true };
        *held.get_mut() -= 1;
        if *held.get() > 0 {
            return false;
        }
        held.remove();
        if holders.get().is_empty() {
            holders.remove();
        }
        true
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
            .flat_map(|(crowd, holders)| holders.keys().map(move |holder| (*crowd, *holder)))
            .collect();
        if !held.is_empty() {
            note(self.engine.renew(&held, LIFE).await);
        }
        // One that was let go meanwhile may have been counted anew.
        self.release().await;
    }

    async fn release(&self) {
        let mut gone = mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner));
        gone.retain(|place| !is_held(&self.here(), *place));
        if gone.is_empty() {
            return;
        }
        note(self.engine.release(&gone).await);
        // Who came back in the meantime has lost its place by this.
        gone.retain(|place| is_held(&self.here(), *place));
        if !gone.is_empty() {
            note(self.engine.renew(&gone, LIFE).await);
        }
    }

    fn here(&self) -> MutexGuard<'_, Held> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_held(here: &Held, (crowd, holder): Place) -> bool {
    here.get(&crowd).is_some_and(|holders| holders.contains_key(&holder))
}

/// What the engine was not told it forgets by itself.
fn note(told: Result<(), HotError>) {
    if let Err(error) = told {
        tracing::debug!(error = %error.0, "what this node holds could not be told");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.crowds.let_go_here(self.place) {
            return;
        }
        self.crowds.gone.lock().unwrap_or_else(PoisonError::into_inner).push(self.place);
        self.crowds.let_go.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hot::{
        Sessions,
        local::{LocalHot, LocalHub},
    };

    const CROWD: BudgetKey = BudgetKey([1; 16]);
    const ALICE: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    fn node(hub: &Arc<LocalHub>) -> Arc<Crowds> {
        Crowds::new(Arc::new(LocalHot::join(hub, Arc::new(Sessions::default()))))
    }

    #[tokio::test]
    async fn a_holder_has_one_place_until_it_lets_go_of_it_everywhere() {
        let hub = LocalHub::new();
        let (one, two) = (node(&hub), node(&hub));
        let older = one.hold(CROWD, ALICE, 1).await.unwrap();
        let newer = one.hold(CROWD, ALICE, 1).await.expect("it is counted already");
        let newest = two.hold(CROWD, ALICE, 1).await.expect("on whichever node");
        for hold in [older, newer] {
            drop(hold);
            one.release().await;
            assert!(one.hold(CROWD, BOB, 1).await.is_none());
        }
        assert!(one.here().is_empty());
        drop(newest);
        two.release().await;
        assert!(one.hold(CROWD, BOB, 1).await.is_some());
    }

    #[tokio::test]
    async fn who_lets_go_and_comes_back_at_once_is_counted() {
        let hub = LocalHub::new();
        let (one, two) = (node(&hub), node(&hub));
        drop(one.hold(CROWD, ALICE, 1).await);
        let _back = one.hold(CROWD, ALICE, 1).await.unwrap();
        one.release().await;
        assert!(two.hold(CROWD, BOB, 1).await.is_none());
    }
}
