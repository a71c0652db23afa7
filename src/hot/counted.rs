//! An engine whose failed acts are counted: callers forget them, because the store and the reconciler make up for them.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

use super::{Event, Hot, HotError};
use crate::{
    domain::{BudgetKey, Delivery, DeviceNo, Drawn, Item, Position, Quota, Timestamp},
    metrics,
};

/// The acts that are counted: all but asking whether the engine is there, and closing it.
const ACTS: [&str; 8] =
    ["subscribe", "unsubscribe", "deliver", "notify", "cached", "forget", "forget_device", "draw"];

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

    async fn draw(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Result<Drawn, HotError> {
        noted("draw", self.0.draw(budget, quota, now).await)
    }

    async fn check(&self) -> Result<(), HotError> {
        self.0.check().await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
