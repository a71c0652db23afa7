//! From an engine to hot delivery.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    domain::{Batch, Budget, Delivery, LogEntry},
    metrics,
};

/// Where an engine puts what it has committed, batch by batch in commit order, for hot delivery. Bounded in batches and
/// in bytes: past that a batch is dropped from hot delivery, and the reconciler delivers it.
#[derive(Debug, Clone)]
pub struct Committed {
    batches: mpsc::Sender<Batch>,
    budget: Budget,
}

/// A way for committed batches: where engines put them, and where hot delivery takes them from.
#[must_use]
pub fn committed(batches: usize, bytes: usize) -> (Committed, mpsc::Receiver<Batch>) {
    let (sender, receiver) = mpsc::channel(batches);
    (Committed { batches: sender, budget: Budget::new(bytes) }, receiver)
}

impl Committed {
    /// What waits for hot delivery: its name, and how many batches there are.
    pub(super) fn waiting(&self) -> (&'static str, usize) {
        ("hot delivery", self.batches.max_capacity() - self.batches.capacity())
    }

    /// Hands over mailbox items that were committed.
    pub(super) fn hand_over(&self, deliveries: Vec<Delivery>) {
        self.hand_over_all(deliveries, Vec::new());
    }

    /// Hands over mailbox items and entries of group logs that one act committed: the items reach a device first.
    pub(super) fn hand_over_all(&self, deliveries: Vec<Delivery>, entries: Vec<Arc<LogEntry>>) {
        if deliveries.is_empty() && entries.is_empty() {
            return;
        }
        metrics::entries_stored(entries.len());
        let handed =
            self.budget.batch(deliveries, entries).is_some_and(|batch| self.batches.try_send(batch).is_ok());
        if !handed {
            tracing::debug!("hot delivery does not keep up; a committed batch is left to the reconciler");
            metrics::hot_skipped();
        }
    }
}
