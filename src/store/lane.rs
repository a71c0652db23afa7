//! Combining: while one batch is being committed the next one gathers, without a waiting window.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::Instrument as _;

use super::StoreError;
use crate::metrics;

/// Why a batch was not committed, for certain or perhaps.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Something another node did at the same time, or a lost connection. The same batch may be committed again: every
    /// item has an id, so what was committed after all is recognised.
    #[error("the batch may be run again")]
    Transient(#[source] sqlx::Error),
    /// The engine refused the batch as it is. One bad item must not fail the others.
    #[error("the batch was refused")]
    Refused(#[source] sqlx::Error),
}

/// What commits a batch of one lane. One batch of a lane runs at a time.
pub(super) trait Commit<I, O>: Send + Sync + 'static {
    /// Commits the items in one transaction and answers each of them, in order.
    fn commit<'a>(&'a self, batch: &'a [I]) -> BoxFuture<'a, Result<Vec<O>, Fault>>;

    /// Commits in one transaction the items that need nothing that another act holds, and answers each of those; none for
    /// an item that was passed over. Where it is passed over [`ROUNDS`] times it is committed like any other.
    fn commit_free<'a>(&'a self, batch: &'a [I]) -> BoxFuture<'a, Result<Vec<Option<O>>, Fault>>
    where
        I: Sync,
        O: Send + 'static,
    {
        Box::pin(async move { Ok(all(self.commit(batch).await?)) })
    }

    /// Whether two items wait for the same thing when they are passed over.
    fn wait_together(&self, _one: &I, _other: &I) -> bool {
        true
    }
}

/// How often an item is passed over before it waits, alone with what waits for the same thing.
const ROUNDS: u32 = 3;

fn all<O>(outcomes: Vec<O>) -> Vec<Option<O>> {
    outcomes.into_iter().map(Some).collect()
}

/// How much a lane holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Items that may wait.
    pub items: usize,
    /// Bytes that may wait or be in the running batch.
    pub bytes: usize,
    /// Items in a batch.
    pub batch: usize,
}

struct Waiting<I, O> {
    item: I,
    asker: Asker<O>,
}

struct Asker<O> {
    answer: oneshot::Sender<Result<O, StoreError>>,
    room: OwnedSemaphorePermit,
    /// How often the item was passed over.
    rounds: u32,
}

/// A bounded queue of items whose batches run one after the other.
pub(super) struct Lane<I, O> {
    queue: mpsc::Sender<Waiting<I, O>>,
    room: Arc<Semaphore>,
    figures: Arc<metrics::Lane>,
}

/// How long a batch is tried again before its items are answered `Unavailable`.
const PATIENCE: Duration = Duration::from_secs(6);

impl<I, O> Lane<I, O>
where
    I: Send + Sync + 'static,
    O: Send + 'static,
{
    /// Starts the lane's loop on the current runtime. It ends when the lane is dropped and what waits is answered. Under
    /// `name` it is counted.
    pub(super) fn start(name: &'static str, bounds: Bounds, commit: impl Commit<I, O>) -> Self {
        let (queue, waiting) = mpsc::channel(bounds.items);
        let figures = Arc::new(metrics::Lane::named(name));
        tokio::spawn(run(waiting, bounds.batch, commit, Arc::clone(&figures)));
        Self { queue, room: Arc::new(Semaphore::new(bounds.bytes)), figures }
    }

    /// Puts an item of `weight` bytes into the queue, now; the future waits for its answer and may be dropped.
    pub(super) fn submit(&self, item: I, weight: usize) -> BoxFuture<'static, Result<O, StoreError>> {
        let answer = self.enqueue(item, weight);
        if answer.is_err() {
            self.figures.overloaded();
        }
        Box::pin(async move {
            match answer?.await {
                Ok(outcome) => outcome,
                Err(closed) => Err(StoreError::Unavailable(closed.into())),
            }
        })
    }

    /// The lane's name, and how many items wait to be taken into a batch.
    pub(super) fn waiting(&self) -> (&'static str, usize) {
        (self.figures.name(), self.queue.max_capacity() - self.queue.capacity())
    }

    fn enqueue(
        &self,
        item: I,
        weight: usize,
    ) -> Result<oneshot::Receiver<Result<O, StoreError>>, StoreError> {
        let weight = u32::try_from(weight).map_err(|_| StoreError::Overloaded)?;
        let room =
            Arc::clone(&self.room).try_acquire_many_owned(weight).map_err(|_| StoreError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let asker = Asker { answer, room, rounds: 0 };
        self.queue.try_send(Waiting { item, asker }).map_err(|_| StoreError::Overloaded)?;
        Ok(answered)
    }
}

async fn run<I, O>(
    mut waiting: mpsc::Receiver<Waiting<I, O>>,
    size: usize,
    commit: impl Commit<I, O>,
    figures: Arc<metrics::Lane>,
) where
    I: Send + Sync + 'static,
    O: Send + 'static,
{
    let mut gathered = Vec::with_capacity(size);
    let mut patience = PATIENCE;
    while gather(&mut waiting, &mut gathered, size).await {
        let (turn, later) = take_turn(&mut gathered, &commit);
        let (items, askers): (Vec<_>, Vec<_>) =
            gathered.drain(..).map(|entry| (entry.item, entry.asker)).unzip();
        let began = Instant::now();
        // A panic must not end the lane for everybody who comes later.
        let span = tracing::trace_span!(target: "restante::spans", "batch", lane = figures.name(), items = items.len());
        let committing = commit_all(&items, turn, patience, &commit).instrument(span);
        let committed = AssertUnwindSafe(committing).catch_unwind().await;
        let outcomes = committed.unwrap_or_else(|_| given_up(items.len(), "a batch panicked"));
        figures.batch(items.len(), began);
        // After a batch that was given up the next ones are tried once: everybody waited long enough.
        let all_failed = outcomes.iter().all(Result::is_err);
        patience = if all_failed { Duration::ZERO } else { PATIENCE };
        for ((item, asker), outcome) in items.into_iter().zip(askers).zip(outcomes) {
            match outcome.transpose() {
                // The asker may have gone; its item is committed all the same.
                Some(outcome) => drop((asker.answer.send(outcome), asker.room)),
                None => gathered
                    .push(Waiting { item, asker: Asker { rounds: asker.rounds.saturating_add(1), ..asker } }),
            }
        }
        gathered.extend(later);
    }
}

/// How a batch goes about what others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Pass,
    Wait,
}

/// Fills a batch with what came meanwhile, behind what was passed over. False when the lane was dropped and nothing is left.
async fn gather<I, O>(
    waiting: &mut mpsc::Receiver<Waiting<I, O>>,
    gathered: &mut Vec<Waiting<I, O>>,
    size: usize,
) -> bool {
    if gathered.is_empty() {
        return waiting.recv_many(gathered, size).await > 0;
    }
    while gathered.len() < size {
        let Ok(next) = waiting.try_recv() else { break };
        gathered.push(next);
    }
    true
}

/// Leaves the batch as it is; or, where its first item was passed over often enough, what waits for the same thing as
/// that, from the front and without a gap, and returns the rest.
fn take_turn<I, O>(
    gathered: &mut Vec<Waiting<I, O>>,
    commit: &impl Commit<I, O>,
) -> (Turn, Vec<Waiting<I, O>>) {
    match gathered.first() {
        Some(first) if first.asker.rounds >= ROUNDS => {
            let same = |entry: &&Waiting<I, O>| commit.wait_together(&first.item, &entry.item);
            let together = gathered.iter().take_while(same).count();
            (Turn::Wait, gathered.split_off(together.max(1)))
        }
        Some(_) | None => (Turn::Pass, Vec::new()),
    }
}

fn given_up<O>(items: usize, why: &str) -> Vec<Result<O, StoreError>> {
    (0..items).map(|_| Err(StoreError::Unavailable(why.into()))).collect()
}

/// None for an item that was passed over.
async fn commit_all<I: Send + Sync, O: Send + 'static>(
    items: &[I],
    turn: Turn,
    patience: Duration,
    commit: &impl Commit<I, O>,
) -> Vec<Result<Option<O>, StoreError>> {
    match persist(items, turn, patience, commit).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(fault) if items.len() > 1 && is_about_items(&fault) => one_by_one(items, patience, commit).await,
        Err(fault) => {
            tracing::warn!(error = %root(&fault), items = items.len(), "a batch was given up");
            given_up(items.len(), "the batch was given up")
        }
    }
}

/// Commits the items of a refused batch each by itself and in order, until the engine itself fails.
async fn one_by_one<I: Send + Sync, O: Send + 'static>(
    items: &[I],
    patience: Duration,
    commit: &impl Commit<I, O>,
) -> Vec<Result<Option<O>, StoreError>> {
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items.chunks(1) {
        match persist(item, Turn::Wait, patience, commit).await {
            Ok(one) => outcomes.extend(one.into_iter().map(Ok)),
            Err(fault) => {
                let engine_failed = !is_about_items(&fault);
                outcomes.push(Err(StoreError::Unavailable(fault.into())));
                if engine_failed {
                    break;
                }
            }
        }
    }
    let left = items.len().saturating_sub(outcomes.len());
    outcomes.extend(given_up(left, "the batch was given up"));
    outcomes
}

/// Commits a batch, again and again while the fault may pass.
async fn persist<I: Send + Sync, O: Send + 'static>(
    items: &[I],
    turn: Turn,
    patience: Duration,
    commit: &impl Commit<I, O>,
) -> Result<Vec<Option<O>>, Fault> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let decided = match turn {
            Turn::Pass => commit.commit_free(items).await,
            Turn::Wait => commit.commit(items).await.map(all),
        };
        match decided {
            Err(Fault::Transient(_)) if began.elapsed() < patience => tokio::time::sleep(pause).await,
            decided => return decided,
        }
        pause = (pause * 3).min(Duration::from_secs(1));
    }
}

/// Whether the fault lies in what the batch holds, so that most of its items are fine by themselves: refused, or in
/// conflict with what is there attempt after attempt.
fn is_about_items(fault: &Fault) -> bool {
    match fault {
        Fault::Refused(_) => true,
        Fault::Transient(source) => {
            source.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
        }
    }
}

fn root(fault: &Fault) -> &sqlx::Error {
    match fault {
        Fault::Transient(source) | Fault::Refused(source) => source,
    }
}

#[cfg(test)]
mod tests;
