//! The offline queues of one process: bodies of unlistened items, bounded per device and over all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::domain::{DeviceNo, Item, Position};

/// Bodies by device and position. What does not fit drops the oldest; nothing here depends on time.
pub(super) struct OfflineCache {
    max_length: usize,
    max_weight: usize,
    weight: usize,
    queues: HashMap<DeviceNo, BTreeMap<Position, Kept>>,
    by_age: BTreeMap<u64, (DeviceNo, Position)>,
    next_age: u64,
}

struct Kept {
    item: Arc<Item>,
    age: u64,
}

impl OfflineCache {
    /// An empty cache of at most `max_length` items a device and `max_weight` bytes ([`Item::weight`]) in all.
    pub(super) fn bounded(max_length: usize, max_weight: usize) -> Self {
        Self {
            max_length,
            max_weight,
            weight: 0,
            queues: HashMap::new(),
            by_age: BTreeMap::new(),
            next_age: 0,
        }
    }

    /// Keeps an item, unless the device's queue already reaches its position or it alone is beyond the bound.
    pub(super) fn keep(&mut self, device: DeviceNo, position: Position, item: Arc<Item>) {
        if item.weight() > self.max_weight {
            return;
        }
        let queue = self.queues.entry(device).or_default();
        if queue.last_key_value().is_some_and(|(top, _)| *top >= position) {
            return;
        }
        let age = self.next_age;
        self.next_age += 1;
        self.weight += item.weight();
        queue.insert(position, Kept { item, age });
        self.by_age.insert(age, (device, position));
        self.shrink(device);
    }

    /// The item at a position, if it is still there.
    pub(super) fn get(&self, device: DeviceNo, position: Position) -> Option<Arc<Item>> {
        self.queues.get(&device)?.get(&position).map(|kept| Arc::clone(&kept.item))
    }

    /// Drops one item.
    pub(super) fn forget(&mut self, device: DeviceNo, position: Position) {
        let Some(queue) = self.queues.get_mut(&device) else { return };
        let Some(kept) = queue.remove(&position) else { return };
        if queue.is_empty() {
            self.queues.remove(&device);
        }
        self.by_age.remove(&kept.age);
        self.weight -= kept.item.weight();
    }

    /// Drops a device's queue.
    pub(super) fn forget_device(&mut self, device: DeviceNo) {
        for kept in self.queues.remove(&device).unwrap_or_default().into_values() {
            self.by_age.remove(&kept.age);
            self.weight -= kept.item.weight();
        }
    }

    fn shrink(&mut self, device: DeviceNo) {
        let queue = self.queues.get(&device);
        let oldest = queue.filter(|queue| queue.len() > self.max_length).and_then(BTreeMap::first_key_value);
        if let Some(position) = oldest.map(|(position, _)| *position) {
            self.forget(device, position);
        }
        while self.weight > self.max_weight {
            let Some((_, &(device, position))) = self.by_age.first_key_value() else { return };
            self.forget(device, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{MessageId, Timestamp};

    /// What a notice weighs.
    const NOTICE: usize = 256;

    fn notice() -> Arc<Item> {
        let id = MessageId::new(Uuid::nil());
        Arc::new(Item::Deleted { message_id: id, deletes: id, expires_at: Timestamp::from_millis(0) })
    }

    fn assert_books_balance(cache: &OfflineCache) {
        let kept: usize = cache.queues.values().map(BTreeMap::len).sum();
        assert_eq!(cache.weight, kept * NOTICE);
        assert_eq!(cache.by_age.len(), kept);
        assert!(cache.weight <= cache.max_weight);
        assert!(cache.queues.values().all(|queue| !queue.is_empty() && queue.len() <= cache.max_length));
    }

    #[test]
    fn a_full_cache_drops_the_oldest_item_of_any_device() {
        let mut cache = OfflineCache::bounded(10, 3 * NOTICE);
        for device in 1..=4 {
            cache.keep(DeviceNo(device), Position(1), notice());
        }
        assert!(cache.get(DeviceNo(1), Position(1)).is_none());
        assert!((2..=4).all(|device| cache.get(DeviceNo(device), Position(1)).is_some()));
    }

    #[test]
    fn an_item_beyond_the_whole_bound_drops_nothing_else() {
        let mut cache = OfflineCache::bounded(10, NOTICE - 1);
        cache.keep(DeviceNo(1), Position(1), notice());
        assert!(cache.get(DeviceNo(1), Position(1)).is_none());
        assert!(cache.queues.is_empty());
    }

    proptest! {
        #[test]
        fn the_books_balance_after_any_sequence_of_acts(
            acts in proptest::collection::vec((0..4_u8, 0..4_i64, 0..20_i64), 0..200),
        ) {
            let mut cache = OfflineCache::bounded(5, 12 * NOTICE);
            for (act, device, position) in acts {
                let (device, position) = (DeviceNo(device), Position(position));
                match act {
                    0 | 1 => cache.keep(device, position, notice()),
                    2 => cache.forget(device, position),
                    _ => cache.forget_device(device),
                }
                assert_books_balance(&cache);
            }
        }
    }
}
