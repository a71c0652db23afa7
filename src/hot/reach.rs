//! Whether the engine is worth waiting for, where somebody waits for each answer.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::HotError;

/// How long an answer is waited for: many times what a well engine needs, and not long for whoever sends a message.
const PATIENCE: Duration = Duration::from_millis(250);

/// After a failure nobody asks for this long, and then one asks for all.
const REST: Duration = Duration::from_secs(1);

/// An engine that is not asked while it is away, so that nobody waits for it in vain but one in each rest.
pub(super) struct Reach {
    patience: Duration,
    rest: Duration,
    away_until: Mutex<Option<Instant>>,
}

impl Default for Reach {
    fn default() -> Self {
        Self { patience: PATIENCE, rest: REST, away_until: Mutex::default() }
    }
}

impl Reach {
    /// The engine's answer. None when it is away, failed or did not answer in time; whether it acted is not known then.
    pub(super) async fn ask<T>(&self, act: impl Future<Output = Result<T, HotError>>) -> Option<T> {
        if !self.may_ask() {
            return None;
        }
        let answer = timeout(self.patience, act).await;
        let answered = match answer {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(error = %error.0, "this node counts alone");
                None
            }
            Err(_) => None,
        };
        self.set(answered.is_none().then(|| Instant::now() + self.rest));
        answered
    }

    /// Whether the engine is there, as far as is known, or this caller is the one to find out.
    fn may_ask(&self) -> bool {
        let mut away_until = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = *away_until else { return true };
        let now = Instant::now();
        if now < until {
            return false;
        }
        *away_until = Some(now + self.rest);
        true
    }

    fn set(&self, away_until: Option<Instant>) {
        *self.away_until.lock().unwrap_or_else(PoisonError::into_inner) = away_until;
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
    async fn an_engine_that_answers_again_is_asked_by_everybody() {
        let reach = resting(Duration::ZERO);
        assert_eq!(asked(&reach).await, 10);
        for answer in 0..3 {
            assert_eq!(reach.ask(async { Ok(answer) }).await, Some(answer));
        }
    }
}
