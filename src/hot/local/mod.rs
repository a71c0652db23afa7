//! Hot state inside one process: the default, with nothing to install.
//!
//! A [`LocalHub`] stands where Redis stands in production; whoever joins it is a node. The relay joins once, its tests
//! as often as they need nodes.

mod cache;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use self::cache::OfflineCache;
use super::{
    Doorbell, Event, Hot, HotError, QUEUE_LENGTH,
    ledger::{BUDGETS, Ledger},
};
use crate::domain::{BudgetKey, Delivery, DeviceNo, Drawn, Item, Position, Quota, Timestamp};

/// How many bytes of bodies the hub keeps for devices that nobody listens for.
const CACHE_WEIGHT: usize = 16 * 1024 * 1024;

/// What the nodes of one process share: who listens for what, the offline queues, and the budgets.
pub struct LocalHub {
    state: Mutex<State>,
    ledger: Mutex<Ledger>,
}

/// A node's number within its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NodeNo(u64);

struct State {
    next_node: u64,
    doorbells: HashMap<NodeNo, Arc<dyn Doorbell>>,
    listeners: HashMap<DeviceNo, Vec<NodeNo>>,
    cache: OfflineCache,
}

impl LocalHub {
    /// A hub that nobody has joined.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State {
            next_node: 0,
            doorbells: HashMap::new(),
            listeners: HashMap::new(),
            cache: OfflineCache::bounded(QUEUE_LENGTH, CACHE_WEIGHT),
        };
        Arc::new(Self { state: Mutex::new(state), ledger: Mutex::new(Ledger::bounded(BUDGETS)) })
    }

    /// Every act is short and leaves nothing half done that a later one could trip over, so a lock that was poisoned
    /// by a panicking doorbell is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing foreign runs under this lock.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Rings at every listening node but `from`. False when no node listens at all, `from` included.
    ///
    /// The lock is held meanwhile, so that nothing rings after an unsubscription and items keep their order; a
    /// doorbell is quick and cannot call back, since acts are asynchronous.
    fn ring(&self, from: NodeNo, device: DeviceNo, event: &Event) -> bool {
        let Some(listeners) = self.listeners.get(&device) else { return false };
        for node in listeners.iter().filter(|node| **node != from) {
            if let Some(doorbell) = self.doorbells.get(node) {
                doorbell.ring(device, event.clone());
            }
        }
        true
    }

    fn stop_listening(&mut self, node: NodeNo, device: DeviceNo) {
        let Some(listeners) = self.listeners.get_mut(&device) else { return };
        listeners.retain(|listener| *listener != node);
        if listeners.is_empty() {
            self.listeners.remove(&device);
        }
    }

    fn leave(&mut self, node: NodeNo) {
        self.doorbells.remove(&node);
        self.listeners.retain(|_, listeners| {
            listeners.retain(|listener| *listener != node);
            !listeners.is_empty()
        });
    }
}

/// A node of a hub. It leaves the hub when it is closed or dropped.
pub struct LocalHot {
    hub: Arc<LocalHub>,
    node: NodeNo,
}

impl LocalHot {
    /// Joins the hub as a node of its own.
    #[must_use]
    pub fn join(hub: &Arc<LocalHub>, doorbell: Arc<dyn Doorbell>) -> Self {
        let mut state = hub.state();
        let node = NodeNo(state.next_node);
        state.next_node += 1;
        state.doorbells.insert(node, doorbell);
        drop(state);
        Self { hub: Arc::clone(hub), node }
    }
}

impl Drop for LocalHot {
    fn drop(&mut self) {
        self.hub.state().leave(self.node);
    }
}

#[async_trait]
impl Hot for LocalHot {
    async fn subscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        let mut state = self.hub.state();
        if !state.doorbells.contains_key(&self.node) {
            return Err(HotError("this node has left its hub".into()));
        }
        let listeners = state.listeners.entry(device).or_default();
        if !listeners.contains(&self.node) {
            listeners.push(self.node);
        }
        Ok(())
    }

    async fn unsubscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        self.hub.state().stop_listening(self.node, device);
        Ok(())
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Result<(), HotError> {
        let mut state = self.hub.state();
        for delivery in deliveries {
            let device = delivery.device_no;
            let heard = state.ring(self.node, device, &Event::about(delivery));
            if !heard && !delivery.item.is_self_destructing() {
                state.cache.keep(device, delivery.position, Arc::clone(&delivery.item));
            }
        }
        Ok(())
    }

    async fn notify(&self, device: DeviceNo, event: Event) -> Result<(), HotError> {
        self.hub.state().ring(self.node, device, &event);
        Ok(())
    }

    async fn cached(
        &self,
        device: DeviceNo,
        positions: &[Position],
    ) -> Result<HashMap<Position, Arc<Item>>, HotError> {
        let state = self.hub.state();
        let kept = positions.iter().filter_map(|at| Some((*at, state.cache.get(device, *at)?)));
        Ok(kept.collect())
    }

    async fn forget(&self, device: DeviceNo, positions: &[Position]) -> Result<(), HotError> {
        let mut state = self.hub.state();
        for position in positions {
            state.cache.forget(device, *position);
        }
        Ok(())
    }

    async fn forget_device(&self, device: DeviceNo) -> Result<(), HotError> {
        self.hub.state().cache.forget_device(device);
        Ok(())
    }

    async fn draw(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Result<Drawn, HotError> {
        Ok(self.hub.ledger().draw(budget, quota, now))
    }

    async fn check(&self) -> Result<(), HotError> {
        Ok(())
    }

    async fn close(&self) {
        self.hub.state().leave(self.node);
    }
}
