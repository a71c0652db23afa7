//! The sessions connected to this process, and the way from a commit to a device.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Doorbell, Event, GroupEvent, Hot,
    counted::Counted,
    line::{End, Line, Overlooked},
    rooms::Rooms,
};
use crate::{
    domain::{Batch, Delivery, DeviceNo, GroupId, Position, SessionId},
    metrics,
};

/// Batches that may wait for the hot engine. Past them a batch is left to the reconciler.
const WAITING_BATCHES: usize = 64;

/// How often subscriptions to groups that were refused are tried again.
const MEND_EVERY: Duration = Duration::from_secs(5);

/// The connected sessions of this process, one for each device, and the rooms of the groups that they read.
#[derive(Default)]
pub struct Sessions {
    seats: Mutex<HashMap<DeviceNo, Arc<Line>>>,
    rooms: Rooms,
}

impl Sessions {
    fn line(&self, device: DeviceNo) -> Option<Arc<Line>> {
        lock(&self.seats).get(&device).cloned()
    }
}

impl Doorbell for Sessions {
    fn ring(&self, device: DeviceNo, event: Event) -> bool {
        let Some(line) = self.line(device) else { return false };
        line.put(event);
        true
    }

    fn ring_group(&self, group: GroupId, event: GroupEvent) -> bool {
        self.rooms.ring(group, event)
    }

    fn resubscribed(&self) {
        for line in lock(&self.seats).values() {
            line.fall_behind();
        }
        self.rooms.doubt();
    }
}

/// Where events go: to the sessions of this process first, through the hot engine otherwise.
pub struct Switchboard {
    sessions: Arc<Sessions>,
    engine: Arc<dyn Hot>,
    /// Devices whose subscription may be other than it has to be.
    unsure: Mutex<HashSet<DeviceNo>>,
    left_rooms: Mutex<HashSet<GroupId>>,
    stirred: Notify,
}

impl Switchboard {
    /// A switchboard over an engine whose doorbell is `sessions`.
    pub fn new(sessions: Arc<Sessions>, engine: Arc<dyn Hot>) -> Arc<Self> {
        let engine = Counted::over(engine);
        let (unsure, left_rooms) = (Mutex::default(), Mutex::default());
        Arc::new(Self { sessions, engine, unsure, left_rooms, stirred: Notify::new() })
    }

    pub(super) fn rooms(&self) -> &Rooms {
        &self.sessions.rooms
    }

    pub(super) fn note_left_room(&self, group: GroupId) {
        lock(&self.left_rooms).insert(group);
        self.stirred.notify_one();
    }

    /// The engine, for the offline queue.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Hot> {
        &self.engine
    }

    /// Seats a session: an older one of the device ends, here and on other nodes. When this returns, whatever is
    /// committed from now on is heard of, at the latest through the reconciler. The seat is given up on drop.
    pub async fn open(self: &Arc<Self>, device: DeviceNo, session: Uuid) -> Seat {
        let line = Arc::new(Line::new(session));
        let older = lock(&self.sessions.seats).insert(device, Arc::clone(&line));
        if let Some(older) = older {
            older.end(End::Replaced);
        }
        let seat = Seat { switchboard: Arc::clone(self), device, line };
        if let Err(error) = self.engine.subscribe(device).await {
            tracing::debug!(error = %error.0, "no subscription; the reconciler delivers");
        }
        self.tell_others(device, Event::Replaced(session)).await;
        seat
    }

    /// Hands an event to a device, wherever it is connected.
    pub async fn notify(&self, device: DeviceNo, event: Event) {
        self.sessions.ring(device, event.clone());
        self.tell_others(device, event).await;
    }

    async fn tell_others(&self, device: DeviceNo, event: Event) {
        if let Err(error) = self.engine.notify(device, event).await {
            tracing::debug!(error = %error.0, "an event reached this process only");
        }
    }

    /// Drops items of a device's offline queue, because they were erased from the store.
    pub async fn forget(&self, device: DeviceNo, positions: &[Position]) {
        if positions.is_empty() {
            return;
        }
        if let Err(error) = self.engine.forget(device, positions).await {
            tracing::debug!(error = %error.0, "erased bodies stay in the offline queue, where nothing asks for them");
        }
    }

    /// Drops everything that waits for a device in its offline queue.
    pub async fn forget_device(&self, device: DeviceNo) {
        if let Err(error) = self.engine.forget_device(device).await {
            tracing::debug!(error = %error.0, "an offline queue is left to its expiry");
        }
    }

    /// How many sessions are connected here.
    #[must_use]
    pub fn connected(&self) -> usize {
        lock(&self.sessions.seats).len()
    }

    /// The devices connected here and up to where each of their sessions has written.
    #[must_use]
    pub fn watched(&self) -> Vec<(DeviceNo, Position)> {
        let seats = lock(&self.sessions.seats);
        seats.iter().map(|(device, line)| (*device, line.seen())).collect()
    }

    /// Tells a session of this process that its mailbox reaches up to here. Given back when nothing has told it so before.
    pub fn wake(&self, device: DeviceNo, head: Position) -> Option<Overlooked> {
        let line = self.sessions.line(device)?;
        if line.is_behind(head) {
            line.fall_behind();
        }
        line.overlooked(device, head)
    }

    /// Whether nothing but the reconciler told a session of an item that it overlooked a round ago. Then its subscription is
    /// made anew: it may be lost.
    pub fn missed(&self, overlooked: &Overlooked) -> bool {
        let lost = overlooked.is_lost();
        if lost {
            self.doubt(overlooked.device);
        }
        lost
    }

    /// Ends the session of a deactivated device, if it is connected here.
    pub fn end(&self, device: DeviceNo) {
        self.sessions.ring(device, Event::Deactivated);
    }

    /// Ends the socket that lives by this login's tokens, if it is connected here.
    pub fn log_out(&self, device: DeviceNo, login: SessionId) {
        self.sessions.ring(device, Event::LoggedOut(login));
    }

    /// Whether the hot engine answers.
    pub async fn reachable(&self) -> bool {
        self.engine.check().await.is_ok()
    }

    /// Carries committed batches to their devices, in order, until stopped and nothing is left: at once to sessions of this
    /// process, through the engine to the others. Of each batch the mailbox items go first, then the entries of groups.
    pub async fn carry(self: Arc<Self>, mut committed: mpsc::Receiver<Batch>, stop: CancellationToken) {
        let (away, waiting) = mpsc::channel(WAITING_BATCHES);
        let engine = tokio::spawn(deliver_away(Arc::clone(&self.engine), waiting));
        loop {
            let next = tokio::select! {
                biased;
                batch = committed.recv() => batch,
                () = stop.cancelled() => committed.try_recv().ok(),
            };
            let Some(mut batch) = next else { break };
            batch.deliveries.retain(|delivery| !self.ring(delivery));
            for entry in &batch.entries {
                self.sessions.ring_group(entry.group_id, GroupEvent::Entry(Arc::clone(entry)));
            }
            let is_empty = batch.deliveries.is_empty() && batch.entries.is_empty();
            if is_empty {
                continue;
            }
            match away.try_send(batch) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!("hot state does not keep up; a batch is left to the reconciler");
                    metrics::hot_skipped();
                }
                // It panicked. Whoever runs this job sees its end.
                Err(mpsc::error::TrySendError::Closed(_)) => break,
            }
        }
        drop(away);
        if engine.await.is_err() {
            tracing::error!("the task that feeds hot state failed");
        }
    }

    fn ring(&self, delivery: &Delivery) -> bool {
        self.sessions.ring(delivery.device_no, Event::Item(delivery.position, Arc::clone(&delivery.item)))
    }

    /// Makes sure of a device's subscription, in its time.
    fn doubt(&self, device: DeviceNo) {
        lock(&self.unsure).insert(device);
        self.stirred.notify_one();
    }

    /// Ends subscriptions that nobody needs any more, and makes those anew that were lost or refused, until stopped.
    pub async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        while let Some(stirred) = stop.run_until_cancelled(timeout(MEND_EVERY, self.stirred.notified())).await
        {
            if stirred.is_err() {
                self.mend().await;
            }
            let unsure: Vec<_> = lock(&self.unsure).drain().collect();
            for device in unsure {
                self.settle(device).await;
            }
            let left = std::mem::take(&mut *lock(&self.left_rooms));
            self.leave_rooms(left).await;
        }
    }

    async fn settle(&self, device: DeviceNo) {
        if self.sessions.line(device).is_none()
            && let Err(error) = self.engine.unsubscribe(device).await
        {
            tracing::debug!(error = %error.0, "a subscription could not be ended");
            // With the next one, and not at once: the engine is not well.
            lock(&self.unsure).insert(device);
        }
        // A session that was seated meanwhile may have lost its subscription to the line above.
        if let Some(line) = self.sessions.line(device) {
            if let Err(error) = self.engine.subscribe(device).await {
                tracing::debug!(error = %error.0, "no subscription; the reconciler delivers");
            }
            line.fall_behind();
        }
    }
}

async fn deliver_away(engine: Arc<dyn Hot>, mut waiting: mpsc::Receiver<Batch>) {
    while let Some(batch) = waiting.recv().await {
        let delivered = engine.deliver(&batch.deliveries).await;
        if let Err(error) = engine.publish_entries(&batch.entries).await.and(delivered) {
            tracing::debug!(error = %error.0, "a batch is left to the reconciler");
        }
    }
}

/// A connected session's place. Dropping it gives the place up.
pub struct Seat {
    switchboard: Arc<Switchboard>,
    device: DeviceNo,
    line: Arc<Line>,
}

impl Seat {
    /// The session's line.
    #[must_use]
    pub const fn line(&self) -> &Arc<Line> {
        &self.line
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = lock(&self.switchboard.sessions.seats);
        if seats.get(&self.device).is_some_and(|line| Arc::ptr_eq(line, &self.line)) {
            seats.remove(&self.device);
            drop(seats);
            self.switchboard.doubt(self.device);
        }
    }
}

/// A lock whose holder panicked still guards whole values here: every critical section is one insertion or removal.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
