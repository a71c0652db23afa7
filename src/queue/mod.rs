//! The mailbox as seen by its device: drain, ack, and the socket.

mod cursor;
mod frames;
mod goodbye;
mod inbox;
mod outbox;
pub mod routes;
mod session;

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;

use crate::{
    domain::{Clock, DeviceNo, Item, MessageId, Position},
    hot::{HotError, Switchboard},
    store::{Left, Store, StoreError},
};

/// The acts on a device's own mailbox.
pub struct Queue {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The connected sessions and the offline queue.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Queue {
    /// Which positions are left after a place, and the head as of the same moment.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn left(&self, device: DeviceNo, after: Position, limit: u32) -> Result<Left, StoreError> {
        self.store.mailbox_left(device, after, limit, self.clock.now()).await
    }

    /// The items at positions that the store said are left, ascending: from the offline queue where it has them, else
    /// from the store. What was erased meanwhile is left out.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn items(
        &self,
        device: DeviceNo,
        positions: &[Position],
    ) -> Result<Vec<(Position, Arc<Item>)>, StoreError> {
        let now = self.clock.now();
        let mut found: HashMap<_, _> = self.cached(device, positions).await;
        found.retain(|_, item| item.expires_at() > now);
        let missing: Vec<_> =
            positions.iter().copied().filter(|position| !found.contains_key(position)).collect();
        if !missing.is_empty() {
            let stored = self.store.mailbox_items(device, &missing, now).await?;
            found.extend(stored.into_iter().map(|(position, item)| (position, Arc::new(item))));
        }
        Ok(positions
            .iter()
            .filter_map(|position| found.remove(position).map(|item| (*position, item)))
            .collect())
    }

    async fn cached(&self, device: DeviceNo, positions: &[Position]) -> HashMap<Position, Arc<Item>> {
        match self.switchboard.engine().cached(device, positions).await {
            Ok(found) => found,
            Err(HotError(error)) => {
                tracing::debug!(%error, "bodies are read from the store alone");
                HashMap::new()
            }
        }
    }

    /// Erases items; they take their place now, and are erased when the future is ready. `waited` tells whether they
    /// may lie in the offline queue.
    pub fn ack(
        self: &Arc<Self>,
        device: DeviceNo,
        positions: Vec<Position>,
        waited: bool,
    ) -> BoxFuture<'static, Result<u32, StoreError>> {
        let erased = self.store.ack(device, positions.clone());
        let queue = Arc::clone(self);
        Box::pin(async move {
            let removed = erased.await?;
            if waited
                && let Err(HotError(error)) = queue.switchboard.engine().forget(device, &positions).await
            {
                tracing::debug!(%error, "acked bodies stay in the offline queue, where nothing asks for them");
            }
            Ok(removed)
        })
    }

    /// Erases items by their ids; unknown ids are ignored.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn ack_ids(self: &Arc<Self>, device: DeviceNo, ids: &[MessageId]) -> Result<u32, StoreError> {
        let positions = self.store.positions_of(device, ids).await?;
        if positions.is_empty() {
            return Ok(0);
        }
        self.ack(device, positions, true).await
    }
}
