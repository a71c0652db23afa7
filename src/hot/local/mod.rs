//! Hot state inside one process: the default, with nothing to install.
//!
//! A [`LocalHub`] stands where Redis stands in production; whoever joins it is a node. The relay joins once, its tests
//! as often as they need nodes.

mod cache;
mod holders;
mod states;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use self::{cache::OfflineCache, holders::Holders, states::States};
use super::{
    Doorbell, Event, GroupEvent, Hot, HotError, QUEUE_LENGTH,
    ledger::{BUDGETS, Ledger},
};
use crate::domain::{
    BudgetKey, Delivery, DeviceNo, GroupId, Item, Lease, LogEntry, Position, Quota, Timestamp,
};

/// How many bytes of bodies the hub keeps for devices that nobody listens for.
const CACHE_WEIGHT: usize = 16 * 1024 * 1024;

/// How many bytes of public states of MLS groups the hub keeps.
const STATES_WEIGHT: usize = 32 * 1024 * 1024;

/// What the nodes of one process share: who listens for what, the offline queues, the budgets, who holds a place in which
/// crowd, and the states of groups.
pub struct LocalHub {
    state: Mutex<State>,
    ledger: Mutex<Ledger>,
    holders: Mutex<Holders>,
    states: Mutex<States>,
}

/// A node's number within its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct NodeNo(u64);

struct State {
    next_node: u64,
    doorbells: HashMap<NodeNo, Arc<dyn Doorbell>>,
    listeners: Listeners<DeviceNo>,
    group_listeners: Listeners<GroupId>,
    cache: OfflineCache,
}

impl LocalHub {
    /// A hub that nobody has joined.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State {
            next_node: 0,
            doorbells: HashMap::new(),
            listeners: Listeners::default(),
            group_listeners: Listeners::default(),
            cache: OfflineCache::bounded(QUEUE_LENGTH, CACHE_WEIGHT),
        };
        let (ledger, states) = (Ledger::bounded(BUDGETS), States::bounded(STATES_WEIGHT));
        Arc::new(Self {
            state: Mutex::new(state),
            ledger: Mutex::new(ledger),
            holders: Mutex::default(),
            states: Mutex::new(states),
        })
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

    /// Nor under this one.
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nor under this one.
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Rings at every listening node but `from`. False when no node listens at all, `from` included.
    ///
    /// The lock is held meanwhile, so that nothing rings after an unsubscription and items keep their order; a
    /// doorbell is quick and cannot call back, since acts are asynchronous.
    fn ring(&self, from: NodeNo, device: DeviceNo, event: &Event) -> bool {
        let listeners = self.listeners.of(&device);
        for node in listeners.iter().filter(|node| **node != from) {
            if let Some(doorbell) = self.doorbells.get(node) {
                doorbell.ring(device, event.clone());
            }
        }
        !listeners.is_empty()
    }

    /// As [`State::ring`], for a group's log.
    fn ring_group(&self, from: NodeNo, entry: &Arc<LogEntry>) {
        let event = GroupEvent::about(entry);
        for node in self.group_listeners.of(&entry.group_id).iter().filter(|node| **node != from) {
            if let Some(doorbell) = self.doorbells.get(node) {
                doorbell.ring_group(entry.group_id, event.clone());
            }
        }
    }

    fn leave(&mut self, node: NodeNo) {
        self.doorbells.remove(&node);
        self.listeners.forget(node);
        self.group_listeners.forget(node);
    }
}

/// Which nodes listen for what.
struct Listeners<T>(HashMap<T, Vec<NodeNo>>);

impl<T> Default for Listeners<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Listeners<T> {
    fn of(&self, what: &T) -> &[NodeNo] {
        self.0.get(what).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, what: T, node: NodeNo) {
        let listeners = self.0.entry(what).or_default();
        if !listeners.contains(&node) {
            listeners.push(node);
        }
    }

    fn remove(&mut self, what: &T, node: NodeNo) {
        let Some(listeners) = self.0.get_mut(what) else { return };
        listeners.retain(|listener| *listener != node);
        if listeners.is_empty() {
            self.0.remove(what);
        }
    }

    fn forget(&mut self, node: NodeNo) {
        self.0.retain(|_, listeners| {
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
        state.listeners.add(device, self.node);
        Ok(())
    }

    async fn unsubscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        self.hub.state().listeners.remove(&device, self.node);
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

    async fn subscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        let mut state = self.hub.state();
        if !state.doorbells.contains_key(&self.node) {
            return Err(HotError("this node has left its hub".into()));
        }
        state.group_listeners.add(group, self.node);
        Ok(())
    }

    async fn unsubscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        self.hub.state().group_listeners.remove(&group, self.node);
        Ok(())
    }

    async fn publish_entries(&self, entries: &[Arc<LogEntry>]) -> Result<(), HotError> {
        let state = self.hub.state();
        for entry in entries {
            state.ring_group(self.node, entry);
        }
        Ok(())
    }

    async fn keep_state(&self, group: GroupId, digest: [u8; 32], kept: Bytes) -> Result<(), HotError> {
        self.hub.states().keep(group, digest, kept, Instant::now());
        Ok(())
    }

    async fn state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, HotError> {
        let kept = self.hub.states().get(group, digest, Instant::now());
        Ok(kept.filter(|state| *blake3::hash(state).as_bytes() == digest))
    }

    async fn lease(
        &self,
        budget: BudgetKey,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, HotError> {
        Ok(self.hub.ledger().lease(budget, quota, most, now))
    }

    async fn hold(
        &self,
        crowd: BudgetKey,
        holder: Uuid,
        most: u32,
        life: Duration,
    ) -> Result<bool, HotError> {
        Ok(self.hub.holders().hold(crowd, (holder, self.node), most, Instant::now(), life))
    }

    async fn renew(&self, held: &[(BudgetKey, Uuid)], life: Duration) -> Result<(), HotError> {
        let mut holders = self.hub.holders();
        for (crowd, holder) in held {
            holders.renew(*crowd, (*holder, self.node), Instant::now() + life);
        }
        Ok(())
    }

    async fn release(&self, held: &[(BudgetKey, Uuid)]) -> Result<(), HotError> {
        let mut holders = self.hub.holders();
        for (crowd, holder) in held {
            holders.release(*crowd, (*holder, self.node));
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), HotError> {
        Ok(())
    }

    async fn close(&self) {
        self.hub.state().leave(self.node);
    }
}
