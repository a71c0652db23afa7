//! Acks of group entries on their way to the store: at most one act a second for each session.

use std::{collections::HashMap, future::pending, mem, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::errand::Errand;
use crate::{
    domain::{DeviceNo, GroupId, Position},
    store::{Store, StoreError},
};

/// The time between two acts.
const PACE: Duration = Duration::from_secs(1);

/// Groups whose acks may wait.
const MOST_GROUPS: usize = 2_000;

/// Too many groups wait for their acks to be stored.
#[derive(Debug)]
pub(super) struct TooMany;

/// See the module's text.
#[derive(Default)]
pub(super) struct Acks {
    waiting: Batch,
    storing: Option<(Batch, Errand<Result<(), StoreError>>)>,
    /// When the last act began, or failed.
    last: Option<Instant>,
}

#[derive(Default)]
struct Batch {
    acks: HashMap<GroupId, Position>,
    /// Who waits to hear whether they were stored.
    askers: Vec<oneshot::Sender<bool>>,
}

impl Batch {
    fn add(&mut self, group: GroupId, position: Position) {
        let ack = self.acks.entry(group).or_insert(position);
        *ack = position.max(*ack);
    }
}

impl Acks {
    /// Takes acks.
    pub(super) fn add(&mut self, acks: &[(GroupId, Position)]) -> Result<(), TooMany> {
        if self.waiting.acks.len() + acks.len() > MOST_GROUPS {
            return Err(TooMany);
        }
        for (group, position) in acks {
            self.waiting.add(*group, *position);
        }
        Ok(())
    }

    /// Tells when what was taken so far is stored: true, or false when it could not be.
    pub(super) fn when_stored(&mut self) -> oneshot::Receiver<bool> {
        let (asker, told) = oneshot::channel();
        self.waiting.askers.push(asker);
        told
    }

    /// When [`Acks::store`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waits().then(|| self.last.map_or_else(Instant::now, |last| last + PACE))
    }

    fn waits(&self) -> bool {
        !self.waiting.acks.is_empty() && self.storing.is_none()
    }

    /// Begins to store what waits, if it is time.
    pub(super) fn store(&mut self, store: &Arc<dyn Store>, device: DeviceNo, now: Instant) {
        if !self.waits() || self.last.is_some_and(|last| last + PACE > now) {
            return;
        }
        let batch = mem::take(&mut self.waiting);
        let acks: Vec<_> = batch.acks.iter().map(|(group, position)| (*group, *position)).collect();
        let store = Arc::clone(store);
        self.storing = Some((batch, Errand::start(async move { store.ack_entries(device, &acks).await })));
        self.last = Some(now);
    }

    /// Waits until what was begun is done. Nothing is lost when the future is dropped.
    pub(super) async fn stored(&mut self) {
        let Some((_, storing)) = &mut self.storing else { return pending().await };
        let outcome = storing.await;
        self.settle(outcome);
    }

    /// Stores what is left, for a session that ends.
    pub(super) async fn finish(&mut self, store: &Arc<dyn Store>, device: DeviceNo) {
        if self.storing.is_some() {
            self.stored().await;
        }
        self.last = None;
        self.store(store, device, Instant::now());
        if self.storing.is_some() {
            self.stored().await;
        }
    }

    fn settle(&mut self, outcome: Result<(), StoreError>) {
        let Some((batch, _)) = self.storing.take() else { return };
        let done = outcome.is_ok();
        if let Err(error) = outcome {
            tracing::debug!(%error, "acks of entries could not be stored; trying again");
            self.last = Some(Instant::now());
            for (group, position) in batch.acks {
                self.waiting.add(group, position);
            }
        }
        for asker in batch.askers {
            // The session may have ended meanwhile.
            let _ = asker.send(done);
        }
    }
}
