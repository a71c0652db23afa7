use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use super::*;

/// What a batch of it meets, or a number that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Good(u32),
    /// The engine refuses any batch with it.
    Poisoned,
    /// The engine is away whenever it is committed alone.
    Doomed,
    Panicking,
}

use Sent::{Doomed, Good, Panicking, Poisoned};

/// Every batch that was tried, as it came.
#[derive(Clone, Default)]
struct Engine {
    tried: Arc<Mutex<Vec<Vec<Sent>>>>,
    /// Attempts that fail before one succeeds.
    outage: Arc<AtomicU32>,
}

impl Engine {
    fn tried(&self) -> Vec<Vec<Sent>> {
        self.tried.lock().unwrap().clone()
    }

    fn decide(&self, batch: &[Sent]) -> Result<Vec<u32>, Fault> {
        self.tried.lock().unwrap().push(batch.to_vec());
        if self.outage.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Fault::Transient(sqlx::Error::PoolTimedOut));
        }
        assert!(!batch.contains(&Panicking), "a panic that a test wants");
        if batch.contains(&Poisoned) {
            return Err(Fault::Refused(sqlx::Error::Protocol("a value is out of range".into())));
        }
        let number = |item: &Sent| match item {
            Good(number) => Ok(*number),
            _ => Err(Fault::Transient(sqlx::Error::PoolTimedOut)),
        };
        batch.iter().map(number).collect()
    }
}

impl Commit<Sent, u32> for Engine {
    fn commit<'a>(&'a self, batch: &'a [Sent]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        async { self.decide(batch) }.boxed()
    }
}

const ROOMY: Bounds = Bounds { items: 100, bytes: 1_000, batch: 10 };

fn start(bounds: Bounds) -> (Lane<Sent, u32>, Engine) {
    let engine = Engine::default();
    (Lane::start("tests", bounds, engine.clone()), engine)
}

/// Submits all of these before the lane's loop runs, and waits for every answer.
async fn submit_all(lane: &Lane<Sent, u32>, items: &[Sent]) -> Vec<Option<u32>> {
    let answers: Vec<_> = items.iter().map(|item| lane.submit(*item, 1)).collect();
    futures_util::future::join_all(answers).await.into_iter().map(Result::ok).collect()
}

#[tokio::test]
async fn what_waits_is_committed_together_and_in_order() {
    let (lane, engine) = start(Bounds { batch: 3, ..ROOMY });
    let answers = submit_all(&lane, &[1, 2, 3, 4, 5].map(Good)).await;
    assert_eq!(answers, [1, 2, 3, 4, 5].map(Some));
    assert_eq!(engine.tried(), [vec![Good(1), Good(2), Good(3)], vec![Good(4), Good(5)]]);
}

#[tokio::test]
async fn a_place_is_taken_at_the_call_and_kept_when_the_asker_goes() {
    let (lane, engine) = start(ROOMY);
    drop(lane.submit(Good(1), 1));
    let second = lane.submit(Good(2), 1);
    assert_eq!(submit_all(&lane, &[Good(3)]).await, [Some(3)]);
    assert_eq!(second.await.unwrap(), 2, "asked for last");
    assert_eq!(engine.tried(), [[1, 2, 3].map(Good)]);
}

#[tokio::test]
async fn a_batch_is_tried_again_while_its_fault_may_pass() {
    let (lane, engine) = start(ROOMY);
    engine.outage.store(2, Ordering::SeqCst);
    assert_eq!(submit_all(&lane, &[Good(1), Good(2)]).await, [Some(1), Some(2)]);
    assert_eq!(engine.tried(), vec![[Good(1), Good(2)]; 3]);
}

#[tokio::test]
async fn a_poisoned_item_fails_alone() {
    let (lane, engine) = start(ROOMY);
    let answers = submit_all(&lane, &[Good(1), Poisoned, Good(2)]).await;
    assert_eq!(answers, [Some(1), None, Some(2)]);
    assert_eq!(engine.tried()[1..], [[Good(1)], [Poisoned], [Good(2)]], "in order");
}

#[tokio::test]
async fn items_of_a_refused_batch_are_tried_until_the_engine_itself_fails() {
    let (lane, engine) = start(ROOMY);
    // After a batch that was given up the lane is out of patience, so that the test need not wait.
    assert_eq!(submit_all(&lane, &[Poisoned]).await, [None]);
    let answers = submit_all(&lane, &[Good(1), Poisoned, Doomed, Good(2)]).await;
    assert_eq!(answers, [Some(1), None, None, None]);
    assert_eq!(engine.tried()[2..], [[Good(1)], [Poisoned], [Doomed]]);
    assert_eq!(submit_all(&lane, &[Good(3)]).await, [Some(3)], "and the lane goes on");
}

#[tokio::test]
async fn a_batch_that_panics_fails_alone_and_gives_its_room_back() {
    let (lane, _) = start(Bounds { items: 2, bytes: 2, batch: 2 });
    for number in 0..3 {
        assert_eq!(submit_all(&lane, &[Panicking, Good(number)]).await, [None, None]);
        assert_eq!(submit_all(&lane, &[Good(number), Good(9)]).await, [Some(number), Some(9)]);
    }
}

#[tokio::test]
async fn a_lane_that_is_full_says_so_at_once_and_does_nothing() {
    let (lane, engine) = start(Bounds { items: 2, bytes: 10, batch: 10 });
    let overloaded = |answer: Option<Result<u32, StoreError>>| {
        assert!(matches!(answer, Some(Err(StoreError::Overloaded))), "{answer:?}");
    };
    let first = lane.submit(Good(1), 8);
    overloaded(lane.submit(Good(2), 3).now_or_never());
    let second = lane.submit(Good(3), 1);
    overloaded(lane.submit(Good(4), 1).now_or_never());
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (1, 3));
    assert_eq!(lane.submit(Good(5), 10).await.unwrap(), 5, "what was answered makes room");
    assert_eq!(engine.tried(), [vec![Good(1), Good(3)], vec![Good(5)]]);
}

/// An engine in which whatever has the tens digit `digit` is held by somebody else, for so many rounds.
#[derive(Clone, Default)]
struct Held {
    tried: Arc<Mutex<Vec<Vec<u32>>>>,
    waited: Arc<Mutex<Vec<Vec<u32>>>>,
    digit: u32,
    rounds: Arc<AtomicU32>,
}

impl Commit<u32, u32> for Held {
    fn commit<'a>(&'a self, batch: &'a [u32]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        self.waited.lock().unwrap().push(batch.to_vec());
        self.rounds.store(0, Ordering::SeqCst);
        async { Ok(batch.to_vec()) }.boxed()
    }

    fn commit_free<'a>(&'a self, batch: &'a [u32]) -> BoxFuture<'a, Result<Vec<Option<u32>>, Fault>> {
        self.tried.lock().unwrap().push(batch.to_vec());
        let is_held =
            self.rounds.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let free = move |number: &u32| (!is_held || number / 10 != self.digit).then_some(*number);
        async move { Ok(batch.iter().map(free).collect()) }.boxed()
    }

    fn wait_together(&self, one: &u32, other: &u32) -> bool {
        one / 10 == other / 10
    }
}

async fn pass_over(rounds: u32, numbers: &[u32]) -> Held {
    let engine = Held { digit: 1, ..Held::default() };
    engine.rounds.store(rounds, Ordering::SeqCst);
    let lane = Lane::start("tests", Bounds { batch: 3, ..ROOMY }, engine.clone());
    let answers: Vec<_> = numbers.iter().map(|number| lane.submit(*number, 1)).collect();
    let answers = futures_util::future::try_join_all(answers).await.unwrap();
    assert_eq!(answers, numbers, "everybody is answered, and with its own");
    engine
}

#[tokio::test]
async fn what_was_passed_over_goes_first_in_the_next_batch_and_in_order() {
    let engine = pass_over(2, &[10, 20, 11, 30, 12]).await;
    let tried = engine.tried.lock().unwrap().clone();
    assert_eq!(tried, [vec![10, 20, 11], vec![10, 11, 30], vec![10, 11, 12]]);
    assert!(engine.waited.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_was_passed_over_three_times_waits_alone() {
    let engine = pass_over(u32::MAX, &[10, 11, 20, 30, 12]).await;
    let tried = engine.tried.lock().unwrap().clone();
    assert_eq!(tried, [[10, 11, 20].as_slice(), &[10, 11, 30], &[10, 11, 12]]);
    assert_eq!(*engine.waited.lock().unwrap(), [vec![10, 11, 12]], "with what waits for the same");
}
