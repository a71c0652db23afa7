//! Whether the engine is worth waiting for, where somebody waits for each answer.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::HotError;

/// How long an answer is waited for: many times what a well engine needs, and not long for whoever sends a message.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// After a failure nobody asks for this long, and then one asks for all.
const REST: Duration = Duration::from_secs(1);

/// An engine that is not asked while it is away or slow, so that nobody waits for it in vain but one in each rest.
pub(super) struct Reach {
    patience: Duration,
    rest: Duration,
    away_until: Mutex<Option<Instant>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// Somebody, while the engine is there as far as is known.
    OneOfMany,
    /// The one who finds out after a rest whether it is back.
    Scout,
}

impl Default for Reach {
    fn default() -> Self {
        Self { patience: PATIENCE, rest: REST, away_until: Mutex::default() }
    }
}

impl Reach {
    /// The engine's answer. None when it is away, failed or did not answer in time; whether it acted is not known then.
    pub(super) async fn ask<T>(&self, act: impl Future<Output = Result<T, HotError>>) -> Option<T> {
        let asker = self.asker()?;
        match timeout(self.patience, act).await {
            Ok(Ok(answer)) => {
                self.answered(asker);
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(error = %error.0, "this node counts alone"),
            Err(_) => tracing::debug!("hot state is slow; this node counts alone"),
        }
        self.failed();
        None
    }

    /// As what this caller asks; none when the engine rests.
    fn asker(&self) -> Option<Asker> {
        let mut away_until = self.away_until();
        let Some(until) = *away_until else { return Some(Asker::OneOfMany) };
        let now = Instant::now();
        if now < until {
            return None;
        }
        *away_until = Some(now + self.rest);
        Some(Asker::Scout)
    }

    /// An answer to what was asked before the rest began says nothing of the engine since.
    fn answered(&self, asker: Asker) {
        if matches!(asker, Asker::Scout) {
            *self.away_until() = None;
        }
    }

    /// Begins a rest, unless one is under way: of many who ask a slow engine each fails at another moment.
    fn failed(&self) {
        let (mut away_until, now) = (self.away_until(), Instant::now());
        if away_until.is_none_or(|until| until <= now) {
            *away_until = Some(now + self.rest);
        }
    }

    fn away_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// How often a silent engine is asked by ten callers.
    async fn asked(reach: &Reach) -> usize {
        let asked = AtomicUsize::new(0);
        for _ in 0..10 {
            let silent = async {
                asked.fetch_add(1, Ordering::SeqCst);
                pending::<Result<(), HotError>>().await
            };
            assert_eq!(reach.ask(silent).await, None);
        }
        asked.into_inner()
    }

    fn resting(rest: Duration) -> Reach {
        Reach { patience: Duration::from_millis(1), rest, ..Reach::default() }
    }

    #[tokio::test]
    async fn a_silent_engine_is_left_alone_until_it_has_rested() {
        let reach = resting(Duration::from_hours(1));
        assert_eq!(asked(&reach).await, 1);
        assert_eq!(asked(&reach).await, 0);
        assert_eq!(asked(&resting(Duration::ZERO)).await, 10);
    }

    #[tokio::test]
    async fn of_many_who_asked_before_a_rest_none_extends_or_ends_it() {
        let hour = Duration::from_hours(1);
        let reach = Reach { patience: hour, ..resting(hour) };
        let ask = |answers| {
            let reach = &reach;
            Box::pin(reach.ask(async move {
                tokio::task::yield_now().await;
                if answers { Ok(()) } else { Err(HotError("slow".into())) }
            }))
        };
        let (mut first, mut second, mut third) = (ask(false), ask(false), ask(true));
        for asking in [&mut first, &mut second, &mut third] {
            assert!(futures_util::poll!(asking).is_pending());
        }
        assert_eq!(first.await, None);
        let until = *reach.away_until();
        assert!(until.is_some());
        assert_eq!((second.await, *reach.away_until()), (None, until));
        assert_eq!((third.await, *reach.away_until()), (Some(()), until));
        assert_eq!(ask(true).await, None);
    }

    #[tokio::test]
    async fn an_engine_that_answers_again_is_asked_by_everybody() {
        let reach = resting(Duration::ZERO);
        assert_eq!(asked(&reach).await, 10);
        for answer in 0..3 {
            assert_eq!(reach.ask(async { Ok(answer) }).await, Some(answer));
        }
    }
}
