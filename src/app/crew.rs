//! The jobs beside the requests: the relay runs with all of them or not at all.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The running jobs.
pub(super) struct Crew {
    tasks: TaskTracker,
    stop: CancellationToken,
    lost: CancellationToken,
}

impl Crew {
    pub(super) fn new() -> Self {
        Self { tasks: TaskTracker::new(), stop: CancellationToken::new(), lost: CancellationToken::new() }
    }

    /// What every job listens to, so that it ends.
    pub(super) fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a job. Should it end before it is asked to, the crew is incomplete.
    pub(super) fn spawn(&self, job: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, lost) = (self.stop.clone(), self.lost.clone());
        self.tasks.spawn(async move {
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            if ended.is_err() || !stop.is_cancelled() {
                tracing::error!(job, "a job ended by itself");
                lost.cancel();
            }
        });
    }

    /// Ready when a job has ended that nobody asked to.
    pub(super) async fn incomplete(&self) {
        self.lost.cancelled().await;
    }

    /// Asks every job to end.
    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Ready when every job has ended after [`Crew::stop`].
    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crew_is_incomplete_when_a_job_panics_or_ends_by_itself() {
        let crew = Crew::new();
        crew.spawn("sleeper", std::future::pending());
        crew.spawn("panicking", async { panic!("lost on the way") });
        crew.incomplete().await;

        let crew = Crew::new();
        crew.spawn("short", async {});
        crew.incomplete().await;
    }

    #[tokio::test]
    async fn a_crew_that_is_stopped_ends_and_was_complete() {
        let crew = Crew::new();
        let stop = crew.stop_signal();
        crew.spawn("good", async move { stop.cancelled().await });
        crew.stop();
        crew.ended().await;
        assert!(crew.incomplete().now_or_never().is_none());
    }
}
