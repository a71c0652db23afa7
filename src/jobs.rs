//! What runs beside the requests, on every node: the reconciler, the polls of revocations and
//! blocks, expiry, the figures' upkeep.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    abuse::Blocks,
    auth::Authority,
    domain::Clock,
    hot::{Overlooked, Switchboard},
    metrics,
    store::{Revocation, Store, StoreError},
};

/// How often the heads of connected devices' mailboxes are compared with what their sessions have written, and those of their
/// groups with what was heard of.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(2);

/// How often revocations are read.
pub const REVOCATIONS_EVERY: Duration = Duration::from_millis(500);

/// How often blocks are read, and so how soon every node follows.
const BLOCKS_EVERY: Duration = Duration::from_secs(1);

/// How often expiry runs. What has expired is not given out meanwhile.
pub const EXPIRE_EVERY: Duration = Duration::from_secs(5);

/// Pieces of expiry in one transaction.
const EXPIRE_BATCH: u32 = 500;

/// Makes hot delivery irrelevant to correctness: whatever it lost, a session that is behind its mailbox's head is told
/// to read the store, and so are those who read a group's log, without any condition that could be wrong.
pub async fn reconcile(store: Arc<dyn Store>, switchboard: Arc<Switchboard>, stop: CancellationToken) {
    let overlooked = Mutex::new(Vec::<Overlooked>::new());
    every("reconcile", RECONCILE_EVERY, stop, "heads could not be read", async || {
        let last = std::mem::take(&mut *overlooked.lock().unwrap_or_else(PoisonError::into_inner));
        metrics::reconciler_found(last.iter().filter(|it| switchboard.missed(it)).count());
        let mut behind = Vec::new();
        let watched = switchboard.watched();
        let devices: Vec<_> = watched.iter().map(|(device, _)| *device).collect();
        let seen: std::collections::HashMap<_, _> = watched.into_iter().collect();
        for (device, head) in store.mailbox_heads(&devices).await? {
            if seen.get(&device).is_some_and(|seen| *seen < head) {
                behind.extend(switchboard.wake(device, head));
            }
        }
        *overlooked.lock().unwrap_or_else(PoisonError::into_inner) = behind;
        let groups: Vec<_> = switchboard.watched_groups().into_iter().map(|(group, _)| group).collect();
        for (group, head) in store.group_heads(&groups).await? {
            switchboard.wake_group(group, head);
        }
        Ok(())
    })
    .await;
}

/// Shuts revoked devices and sessions out on this node and ends their sockets.
pub async fn follow_revocations(
    authority: Arc<Authority>,
    switchboard: Arc<Switchboard>,
    stop: CancellationToken,
) {
    every("revocations", REVOCATIONS_EVERY, stop, "revocations could not be read", async || {
        for revocation in authority.read_revocations().await? {
            match revocation {
                Revocation::Device(device) => switchboard.end(device),
                Revocation::Session(device, session) => switchboard.log_out(device, session),
            }
        }
        Ok(())
    })
    .await;
}

/// Shuts networks out on this node that another one blocked, and lets those in again whose blocks an operator lifted.
pub async fn follow_blocks(blocks: Arc<Blocks>, stop: CancellationToken) {
    every("blocks", BLOCKS_EVERY, stop, "blocks could not be read", || blocks.read()).await;
}

/// Erases what has expired and forgets what has had its time, batch by batch.
pub async fn expire(store: Arc<dyn Store>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let stopped = stop.clone();
    every("expire", EXPIRE_EVERY, stop, "expiry failed", async || {
        loop {
            let done = store.expire(clock.now(), EXPIRE_BATCH).await?;
            if !done.more || stopped.is_cancelled() {
                return Ok(());
            }
        }
    })
    .await;
}

/// Keeps what is counted from piling up while nobody looks at it, until stopped.
pub async fn keep_figures(stop: CancellationToken) {
    let mut ticks = interval(metrics::KEEP_UP_EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        metrics::keep_up();
    }
}

/// Does an act again and again until stopped. A round that fails is counted and told, and so is one that panics: the next one
/// comes all the same.
async fn every<F>(
    job: &'static str,
    period: Duration,
    stop: CancellationToken,
    failure: &'static str,
    act: impl Fn() -> F,
) where
    F: Future<Output = Result<(), StoreError>>,
{
    metrics::job_failed(job, 0);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match AssertUnwindSafe(async { act().await }).catch_unwind().await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => tracing::warn!(%error, failure),
            Err(_) => tracing::error!(job, "a round of a job panicked"),
        }
        metrics::job_failed(job, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_round_that_panics_or_fails_does_not_end_its_job() {
        let (stop, rounds) = (CancellationToken::new(), AtomicU32::new(0));
        every("tests", Duration::from_millis(1), stop.clone(), "a round failed", async || {
            match rounds.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the first round"),
                1 => Err(StoreError::Overloaded),
                2 => Ok(()),
                _ => {
                    stop.cancel();
                    Ok(())
                }
            }
        })
        .await;
        assert_eq!(rounds.into_inner(), 4);
        let page = metrics::page(0, true);
        assert!(page.contains("restante_job_failures_total{task=\"tests\"} 2"), "{page}");
    }
}
