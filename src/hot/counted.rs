//! An engine whose failed acts are counted: callers forget them, because the store and the reconciler make up for them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::{Event, Hot, HotError};
use crate::{
    domain::{BudgetKey, Delivery, DeviceNo, GroupId, Item, Lease, LogEntry, Position, Quota, Timestamp},
    metrics,
};

/// The acts that are counted: all but asking whether the engine is there, and closing it.
const ACTS: [&str; 16] = [
    "subscribe",
    "unsubscribe",
    "deliver",
    "notify",
    "cached",
    "forget",
    "forget_device",
    "subscribe_group",
    "unsubscribe_group",
    "publish_entries",
    "keep_state",
    "state",
    "lease",
    "hold",
    "renew",
    "release",
];

/// Does what its engine does.
pub(super) struct Counted(Arc<dyn Hot>);

impl Counted {
    pub(super) fn over(engine: Arc<dyn Hot>) -> Arc<dyn Hot> {
        for act in ACTS {
            metrics::hot_failed(act, 0);
        }
        Arc::new(Self(engine))
    }
}

fn noted<T>(act: &'static str, outcome: Result<T, HotError>) -> Result<T, HotError> {
    if outcome.is_err() {
        metrics::hot_failed(act, 1);
    }
    outcome
}

#[async_trait]
impl Hot for Counted {
    async fn subscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        noted("subscribe", self.0.subscribe(device).await)
    }

    async fn unsubscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        noted("unsubscribe", self.0.unsubscribe(device).await)
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Result<(), HotError> {
        noted("deliver", self.0.deliver(deliveries).await)
    }

    async fn notify(&self, device: DeviceNo, event: Event) -> Result<(), HotError> {
        noted("notify", self.0.notify(device, event).await)
    }

    async fn cached(
        &self,
        device: DeviceNo,
        positions: &[Position],
    ) -> Result<HashMap<Position, Arc<Item>>, HotError> {
        noted("cached", self.0.cached(device, positions).await)
    }

    async fn forget(&self, device: DeviceNo, positions: &[Position]) -> Result<(), HotError> {
        noted("forget", self.0.forget(device, positions).await)
    }

    async fn forget_device(&self, device: DeviceNo) -> Result<(), HotError> {
        noted("forget_device", self.0.forget_device(device).await)
    }

    async fn subscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        noted("subscribe_group", self.0.subscribe_group(group).await)
    }

    async fn unsubscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        noted("unsubscribe_group", self.0.unsubscribe_group(group).await)
    }

    async fn publish_entries(&self, entries: &[Arc<LogEntry>]) -> Result<(), HotError> {
        noted("publish_entries", self.0.publish_entries(entries).await)
    }

    async fn keep_state(&self, group: GroupId, digest: [u8; 32], state: Bytes) -> Result<(), HotError> {
        noted("keep_state", self.0.keep_state(group, digest, state).await)
    }

    async fn state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, HotError> {
        noted("state", self.0.state(group, digest).await)
    }

    async fn lease(
        &self,
        budget: BudgetKey,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, HotError> {
        noted("lease", self.0.lease(budget, quota, most, now).await)
    }

    async fn hold(
        &self,
        crowd: BudgetKey,
        holder: Uuid,
        most: u32,
        life: Duration,
    ) -> Result<bool, HotError> {
        noted("hold", self.0.hold(crowd, holder, most, life).await)
    }

    async fn renew(&self, held: &[(BudgetKey, Uuid)], life: Duration) -> Result<(), HotError> {
        noted("renew", self.0.renew(held, life).await)
    }

    async fn release(&self, held: &[(BudgetKey, Uuid)]) -> Result<(), HotError> {
        noted("release", self.0.release(held).await)
    }

    async fn check(&self) -> Result<(), HotError> {
        self.0.check().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
