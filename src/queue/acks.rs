//! Acks of group entries on their way to the store: at most one act a second for each session.

use std::{
    collections::HashMap,
    future::{Future, pending},
    mem,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep, timeout},
};

use super::errand::Errand;
use crate::{
    domain::{GroupId, Position},
    store::StoreError,
};

/// The time between two acts.
const PACE: Duration = Duration::from_secs(1);

/// Groups whose acks may wait.
const MOST_GROUPS: usize = 2_000;

/// Sessions that store their last acks at the same time: two batches of the store's, one that is committed and one that
/// gathers. However many sockets end at once, they never fill the store's lane.
const FINISHING: usize = 512;

/// The time between two tries while the store is overloaded.
const PAUSE: Duration = Duration::from_millis(50);

/// How the sessions of a relay store their last acks.
pub(super) struct LastAcks {
    turns: Semaphore,
    patience: Duration,
}

impl LastAcks {
    /// For a relay that has this time to stop: half of it, so that the goodbye and what comes after keep the rest.
    pub(super) fn within(shutdown_timeout: Duration) -> Self {
        Self { turns: Semaphore::new(FINISHING), patience: shutdown_timeout / 2 }
    }
}

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
    fn add_all(&mut self, acks: impl IntoIterator<Item = (GroupId, Position)>) {
        for (group, position) in acks {
            let ack = self.acks.entry(group).or_insert(position);
            *ack = position.max(*ack);
        }
    }
}

impl Acks {
    /// Takes acks.
    pub(super) fn add(&mut self, acks: &[(GroupId, Position)]) -> Result<(), TooMany> {
        if self.waiting.acks.len() + acks.len() > MOST_GROUPS {
            return Err(TooMany);
        }
        self.waiting.add_all(acks.iter().copied());
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
    pub(super) fn store<F>(&mut self, store: impl FnOnce(Vec<(GroupId, Position)>) -> F, now: Instant)
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        if !self.waits() || self.last.is_some_and(|last| last + PACE > now) {
            return;
        }
        let batch = mem::take(&mut self.waiting);
        let acks = batch.acks.iter().map(|(group, position)| (*group, *position)).collect();
        self.storing = Some((batch, Errand::start(store(acks))));
        self.last = Some(now);
    }

    /// Waits until what was begun is done. Nothing is lost when the future is dropped.
    pub(super) async fn stored(&mut self) {
        let Some((_, storing)) = &mut self.storing else { return pending().await };
        let outcome = storing.await;
        self.settle(outcome);
    }

    /// Stores what is left, for a session that ends: again while the store is overloaded, for as long as there is patience.
    /// What could not be stored by then is given up, and whoever waits for it is told.
    pub(super) async fn finish<F>(
        &mut self,
        store: impl Fn(Vec<(GroupId, Position)>) -> F,
        last_acks: &LastAcks,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        if timeout(last_acks.patience, self.store_rest(store, &last_acks.turns)).await.is_err() {
            tracing::debug!("the last acks of a socket could not be stored in time");
            *self = Self::default();
        }
    }

    async fn store_rest<F>(&mut self, store: impl Fn(Vec<(GroupId, Position)>) -> F, turns: &Semaphore)
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        if self.storing.is_some() {
            self.stored().await;
        }
        if !self.waits() {
            return;
        }
        // Nobody closes it.
        let _turn = turns.acquire().await;
        loop {
            self.last = None;
            self.store(&store, Instant::now());
            let Some((_, storing)) = &mut self.storing else { return };
            match storing.await {
                Err(StoreError::Overloaded) => self.put_back(),
                outcome => return self.settle(outcome),
            }
            sleep(PAUSE).await;
        }
    }

    /// Lets wait again what was begun and not done, with those who want to hear of it.
    fn put_back(&mut self) {
        let Some((batch, _)) = self.storing.take() else { return };
        self.waiting.add_all(batch.acks);
        self.waiting.askers.extend(batch.askers);
    }

    fn settle(&mut self, outcome: Result<(), StoreError>) {
        let Some((batch, _)) = self.storing.take() else { return };
        let done = outcome.is_ok();
        if let Err(error) = outcome {
            tracing::debug!(%error, "acks of entries could not be stored; trying again");
            self.last = Some(Instant::now());
            self.waiting.add_all(batch.acks);
        }
        for asker in batch.askers {
            // The session may have ended meanwhile.
            let _ = asker.send(done);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::{Arc, Mutex},
    };

    use uuid::Uuid;

    use super::*;

    const GROUP: GroupId = GroupId::new(Uuid::from_u128(7));

    /// A store that is overloaded so many times, and what it stored.
    #[derive(Default)]
    struct Full {
        refusals: Mutex<u32>,
        stored: Mutex<Vec<(GroupId, Position)>>,
    }

    impl Full {
        fn refusing(times: u32) -> Self {
            Self { refusals: Mutex::new(times), ..Self::default() }
        }

        fn ack(&self, acks: Vec<(GroupId, Position)>) -> Result<(), StoreError> {
            let mut refusals = self.refusals.lock().unwrap();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(StoreError::Overloaded);
            }
            self.stored.lock().unwrap().extend(acks);
            Ok(())
        }
    }

    fn acks_of(position: i64) -> (Acks, oneshot::Receiver<bool>) {
        let mut acks = Acks::default();
        acks.add(&[(GROUP, Position(position))]).unwrap();
        let told = acks.when_stored();
        (acks, told)
    }

    #[tokio::test]
    async fn the_last_acks_are_stored_when_the_store_is_not_overloaded_any_more() {
        let store = Full::refusing(3);
        let (mut acks, told) = acks_of(4);
        acks.finish(|acks| ready(store.ack(acks)), &LastAcks::within(Duration::from_mins(10))).await;
        assert_eq!(*store.stored.lock().unwrap(), [(GROUP, Position(4))]);
        assert!(told.await.unwrap(), "who waits hears of it once, and nothing of the refusals");
    }

    #[tokio::test]
    async fn the_last_acks_are_given_up_when_half_the_time_of_a_stop_has_gone() {
        let store = Full::refusing(u32::MAX);
        let (mut acks, told) = acks_of(4);
        let began = Instant::now();
        acks.finish(|acks| ready(store.ack(acks)), &LastAcks::within(Duration::from_millis(400))).await;
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert!(!told.await.unwrap_or(false));
        assert!(store.stored.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_session_with_nothing_to_store_waits_for_no_turn() {
        let last = LastAcks { turns: Semaphore::new(0), patience: Duration::MAX };
        Acks::default().finish(|_| pending(), &last).await;
    }

    #[tokio::test]
    async fn sessions_that_all_end_at_once_ask_the_store_by_turns() {
        const SESSIONS: usize = FINISHING * 4;
        let (store, last) = (Arc::new(Mutex::new((0, 0))), LastAcks::within(Duration::from_mins(10)));
        let ack = |_| {
            let store = Arc::clone(&store);
            async move {
                let asking = {
                    let mut store = store.lock().unwrap();
                    store.0 += 1;
                    store.0
                };
                sleep(Duration::from_millis(10)).await;
                let mut store = store.lock().unwrap();
                (store.0, store.1) = (store.0 - 1, store.1.max(asking));
                Ok(())
            }
        };
        let mut sessions: Vec<_> = (0..SESSIONS).map(|_| acks_of(1)).collect();
        let ends = sessions.iter_mut().map(|(acks, _)| acks.finish(&ack, &last));
        futures_util::future::join_all(ends).await;
        let most = store.lock().unwrap().1;
        assert!((2..=FINISHING).contains(&most), "{most} at once");
        for (_, told) in sessions {
            assert!(told.await.unwrap());
        }
    }
}
