//! Committed items on their way to hot delivery, within a budget of bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Delivery, LogEntry};

/// Bytes that may be on their way at the same time.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicUsize>);

/// A part of a budget, given back on drop.
#[derive(Debug)]
struct Share {
    budget: Budget,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// What one act committed, with its share of the budget.
#[derive(Debug)]
pub struct Batch {
    /// The mailbox items, in the order of their positions.
    pub deliveries: Vec<Delivery>,
    /// The entries of group logs, in the order of their positions.
    pub entries: Vec<Arc<LogEntry>>,
    _share: Share,
}

impl Budget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Puts items and entries on their way. None when the budget is spent.
    #[must_use]
    pub fn batch(&self, deliveries: Vec<Delivery>, entries: Vec<Arc<LogEntry>>) -> Option<Batch> {
        let items: usize = deliveries.iter().map(|delivery| delivery.item.weight()).sum();
        let bytes = items + entries.iter().map(|entry| entry.weight()).sum::<usize>();
        let taken = self.0.try_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes));
        taken.ok()?;
        Some(Batch { deliveries, entries, _share: Share { budget: self.clone(), bytes } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DeviceNo, Item, MessageId, Position, Timestamp};

    #[test]
    fn what_arrives_gives_its_bytes_back() {
        let id = MessageId::new(uuid::Uuid::nil());
        let item =
            Arc::new(Item::Deleted { message_id: id, deletes: id, expires_at: Timestamp::from_millis(0) });
        let deliveries =
            || vec![Delivery { device_no: DeviceNo(1), position: Position(1), item: Arc::clone(&item) }];
        let budget = Budget::new(item.weight());
        let batch = budget.batch(deliveries(), Vec::new());
        assert!(batch.is_some() && budget.batch(deliveries(), Vec::new()).is_none());
        drop(batch);
        assert!(budget.batch(deliveries(), Vec::new()).is_some());
    }
}
