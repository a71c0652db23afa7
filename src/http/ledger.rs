//! Who holds how much of what all have together: nobody more than a part of what is left, so that something always is.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::domain::Network;

/// The part of what is left that one network may hold.
const PART: usize = 4;

/// Units, of which networks hold claims.
pub(super) struct Ledger {
    all: usize,
    state: Mutex<State>,
    given_back: Notify,
}

struct State {
    left: usize,
    of: HashMap<Network, usize>,
}

/// Some units, until it is dropped.
pub(super) struct Claim {
    ledger: Arc<Ledger>,
    /// Whose they are; none when that is not known.
    network: Option<Network>,
    units: usize,
}

/// What stands against a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Against {
    /// What the network holds already.
    Network,
    /// What all hold.
    Process,
}

impl Ledger {
    pub(super) fn of(units: usize) -> Arc<Self> {
        let state = State { left: units, of: HashMap::new() };
        Arc::new(Self { all: units, state: Mutex::new(state), given_back: Notify::new() })
    }

    /// The most units that can ever be claimed at a time.
    pub(super) const fn most(&self) -> usize {
        self.all / PART
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.state().left
    }

    /// So many units for a network, if with them it has no more than its part of what is left.
    ///
    /// # Errors
    /// What stands against it.
    pub(super) fn try_claim(
        self: &Arc<Self>,
        network: Option<Network>,
        units: usize,
    ) -> Result<Claim, Against> {
        let mut state = self.state();
        let part = state.left / PART;
        let held = network.and_then(|network| state.of.get(&network)).copied().unwrap_or_default();
        if units > part {
            return Err(Against::Process);
        }
        if held + units > part {
            return Err(Against::Network);
        }
        state.take(network, units);
        Ok(Claim { ledger: Arc::clone(self), network, units })
    }

    /// [`Ledger::try_claim`], as soon as nothing stands against it.
    pub(super) async fn claim(self: &Arc<Self>, network: Option<Network>, units: usize) -> Claim {
        loop {
            // Heard from before the look, so that nothing falls between.
            let mut given_back = pin!(self.given_back.notified());
            given_back.as_mut().enable();
            if let Ok(claim) = self.try_claim(network, units) {
                return claim;
            }
            given_back.await;
        }
    }

    /// So many units for a network whatever its part, as far as there are any left.
    pub(super) fn claim_left(self: &Arc<Self>, network: Option<Network>, units: usize) -> Claim {
        let mut state = self.state();
        let units = units.min(state.left);
        state.take(network, units);
        Claim { ledger: Arc::clone(self), network, units }
    }

    fn give_back(&self, network: Option<Network>, units: usize) {
        if units == 0 {
            return;
        }
        self.state().give_back(network, units);
        self.given_back.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, network: Option<Network>, units: usize) {
        self.left -= units;
        if let Some(network) = network.filter(|_| units > 0) {
            *self.of.entry(network).or_default() += units;
        }
    }

    fn give_back(&mut self, network: Option<Network>, units: usize) {
        self.left += units;
        let Some(network) = network else { return };
        if let Some(held) = self.of.get_mut(&network) {
            *held -= units;
            if *held == 0 {
                self.of.remove(&network);
            }
        }
    }
}

impl Claim {
    /// Comes to so many units: gives back what is more, and takes what is missing as far as there is any left.
    pub(super) fn settle(&mut self, units: usize) {
        if units <= self.units {
            self.ledger.give_back(self.network, self.units - units);
            self.units = units;
            return;
        }
        let mut more = self.ledger.claim_left(self.network, units - self.units);
        self.units += std::mem::take(&mut more.units);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.give_back(self.network, self.units);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt as _;

    use super::*;

    fn network(number: u32) -> Network {
        Network::of(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn whatever_few_networks_hold_another_one_gets_something() {
        let ledger = Ledger::of(1000);
        let mut held = Vec::new();
        for greedy in 1..=10 {
            while let Ok(claim) = ledger.try_claim(Some(network(greedy)), 10) {
                held.push(claim);
            }
        }
        assert_eq!(ledger.try_claim(Some(network(1)), 10).err(), Some(Against::Network));
        assert!(ledger.try_claim(Some(network(11)), 10).is_ok(), "{} are left", ledger.left());
        assert_eq!(ledger.try_claim(None, 300).err(), Some(Against::Process));
        drop(held);
        assert_eq!((ledger.left(), ledger.state().of.len()), (1000, 0), "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn a_claim_waits_until_others_give_back_and_settles_on_what_it_needs() {
        let ledger = Ledger::of(100);
        let mut first = ledger.try_claim(Some(network(1)), 20).unwrap();
        let mut second = pin!(ledger.claim(Some(network(1)), 10));
        assert!((&mut second).now_or_never().is_none());
        first.settle(5);
        assert_eq!(second.await.units, 10);
        first.settle(1000);
        assert_eq!((first.units, ledger.left()), (100, 0), "all there is, and no more");
        assert_eq!(ledger.try_claim(Some(network(2)), 1).err(), Some(Against::Process));
        drop(first);
        assert_eq!(ledger.left(), 100);
    }
}
