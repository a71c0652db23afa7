//! The mailbox and the group logs as seen by a device: drain, ack, and the socket.

mod acks;
mod cursor;
mod errand;
mod frames;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod inbox;
mod logs;
mod outbox;
mod pages;
mod reading;
pub mod routes;
mod session;

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;

use crate::{
    domain::{Clock, DeviceNo, Item, MessageId, Position},
    hot::{HotError, Switchboard},
    store::{Left, Store, StoreError},
};

/// Bytes of items after which an answer carries no more.
const ANSWER_WEIGHT: usize = 2 << 20;

/// Items that are read at a time for an answer.
const ITEMS_AT_ONCE: usize = 8;

/// The bytes that an answer with so many items, each with a sealed body of so many bytes at the most, may have of them and of
/// the logs of groups. Welcomes may be larger.
fn most_of(items: usize, envelope: usize) -> usize {
    items.saturating_mul(envelope).min(ANSWER_WEIGHT + ITEMS_AT_ONCE * envelope) + pages::BYTES
}

/// The acts on a device's own mailbox, and on its cursors in the logs of its groups.
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

    /// The items that the store has just said are left, ascending: from the offline queue where it has them, else from
    /// the store. To be asked at once after [`Queue::left`], because the offline queue does not know what was erased.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn items(
        &self,
        device: DeviceNo,
        left: &Left,
    ) -> Result<Vec<(Position, Arc<Item>)>, StoreError> {
        let (now, positions) = (self.clock.now(), left.positions());
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.cached(device, &positions).await;
        // The store alone knows what lies at a position: a cache may be older than a store that was restored.
        for (position, id) in &left.items {
            let is_right = |item: &Arc<Item>| item.message_id() == *id && item.expires_at() > now;
            if found.get(position).is_some_and(|item| !is_right(item)) {
                found.remove(position);
            }
        }
        let missing: Vec<_> =
            positions.iter().copied().filter(|position| !found.contains_key(position)).collect();
        if !missing.is_empty() {
            let stored = self.store.mailbox_items(device, &missing, now).await?;
            found.extend(stored.into_iter().map(|(position, item)| (position, Arc::new(item))));
        }
        let item = |position: &Position| found.remove(position).map(|item| (*position, item));
        Ok(positions.iter().filter_map(item).collect())
    }

    /// [`Queue::items`], but no more of them than one answer carries: then also the position of the last one that was read.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn some_items(
        &self,
        device: DeviceNo,
        left: &Left,
    ) -> Result<(Vec<(Position, Arc<Item>)>, Option<Position>), StoreError> {
        let mut items = Vec::new();
        let mut rest = left.items.as_slice();
        while !rest.is_empty() {
            let (some, others) = rest.split_at(rest.len().min(ITEMS_AT_ONCE));
            let some = Left { items: some.to_vec(), head: left.head };
            items.extend(self.items(device, &some).await?);
            rest = others;
            let weight: usize = items.iter().map(|(_, item)| item.weight()).sum();
            if weight >= ANSWER_WEIGHT && !rest.is_empty() {
                return Ok((items, some.items.last().map(|(position, _)| *position)));
            }
        }
        Ok((items, None))
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

    /// Erases items; they take their place now, and are erased when the future is ready. `waited` are those of them that
    /// may lie in the offline queue.
    pub fn ack(
        self: &Arc<Self>,
        device: DeviceNo,
        positions: Vec<Position>,
        waited: Vec<Position>,
    ) -> BoxFuture<'static, Result<u32, StoreError>> {
        let erased = self.store.ack(device, positions);
        let queue = Arc::clone(self);
        Box::pin(async move {
            let removed = erased.await?;
            queue.switchboard.forget(device, &waited).await;
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
        self.ack(device, positions.clone(), positions).await
    }
}
