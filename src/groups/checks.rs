//! Where MLS is checked: beside the threads that serve sockets, and never more at one time than the machine bears.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, time::timeout};

use super::Refusal;
use crate::{metrics, store::StoreError};

/// Checks that may wait for their turn; each holds a body of some megabytes.
const WAITING: usize = 64;

/// How long a check waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turns of checks. They are all CPU: a large commit takes half a second.
#[derive(Debug)]
pub struct Checks {
    patience: Duration,
    places: Semaphore,
    turns: Arc<Semaphore>,
}

impl Checks {
    /// So many checks at one time; some more wait, for 5 s at most.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let (places, turns) = (Semaphore::new(at_once + WAITING), Arc::new(Semaphore::new(at_once)));
        Self { patience: PATIENCE, places, turns }
    }

    /// Runs a check when its turn has come.
    ///
    /// # Errors
    /// `Busy` when too many wait or the turn does not come in time: the check was not begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let stopped =
            |error: Box<dyn std::error::Error + Send + Sync>| Refusal::Store(StoreError::Unavailable(error));
        let _place = self.places.try_acquire().map_err(|_| Refusal::Busy)?;
        let (came, span) = (Instant::now(), tracing::trace_span!(target: "restante::spans", "mls check"));
        let turn = timeout(self.patience, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| Refusal::Busy)?;
        let turn = turn.map_err(|error| stopped(error.into()))?;
        let run = move || {
            // Held until the check is done, also when nobody waits for it any more.
            let _turn = turn;
            let began = Instant::now();
            let outcome = span.in_scope(check);
            metrics::mls_checked(began - came, began.elapsed());
            outcome
        };
        // Without the words of a panic, which may hold what a client sent.
        tokio::task::spawn_blocking(run).await.map_err(|error| stopped(io::Error::from(error).into()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_finds_no_place_to_wait_is_sent_away_at_once() {
        let checks = Arc::new(Checks::new(1));
        let (release, held) = mpsc::channel::<()>();
        let running = Arc::clone(&checks);
        let first = tokio::spawn(async move { running.run(move || held.recv().is_ok()).await });
        while checks.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let checks = Arc::clone(&checks);
                tokio::spawn(async move { checks.run(|| ()).await })
            })
            .collect();
        while checks.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(checks.run(|| ()).await, Err(Refusal::Busy)));
        release.send(()).unwrap();
        assert!(first.await.unwrap().unwrap());
        for check in waiting {
            check.await.unwrap().unwrap();
        }
        assert_eq!(checks.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn who_waits_too_long_is_sent_away() {
        let checks = Checks { patience: Duration::ZERO, ..Checks::new(1) };
        let turn = Arc::clone(&checks.turns).acquire_owned().await.unwrap();
        assert!(matches!(checks.run(|| ()).await, Err(Refusal::Busy)));
        drop(turn);
        assert!(checks.run(|| ()).await.is_ok());
    }
}
