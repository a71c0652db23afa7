use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{Delivery, DeviceNo, GroupId, Item, LogEntry, Position},
    hot::{Event, HotError},
};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const QUOTA: Quota = Quota::per_minute(3);

/// An engine of budgets alone, which may be away.
struct Wavering {
    is_away: AtomicBool,
    asked: AtomicUsize,
    ledger: Mutex<Ledger>,
    /// While it is held, answers are kept back.
    answers: tokio::sync::Mutex<()>,
}

impl Wavering {
    fn present() -> Arc<Self> {
        let (is_away, ledger) = (AtomicBool::new(false), Mutex::new(Ledger::bounded(100)));
        let (asked, answers) = (AtomicUsize::new(0), tokio::sync::Mutex::default());
        Arc::new(Self { is_away, asked, ledger, answers })
    }

    fn go(&self, away: bool) {
        self.is_away.store(away, Ordering::SeqCst);
    }
}

fn never<T>() -> Result<T, HotError> {
    Err(HotError("this engine has budgets only".into()))
}

#[async_trait]
impl Hot for Wavering {
    async fn subscribe(&self, _: DeviceNo) -> Result<(), HotError> {
        never()
    }

    async fn unsubscribe(&self, _: DeviceNo) -> Result<(), HotError> {
        never()
    }

    async fn deliver(&self, _: &[Delivery]) -> Result<(), HotError> {
        never()
    }

    async fn notify(&self, _: DeviceNo, _: Event) -> Result<(), HotError> {
        never()
    }

    async fn cached(&self, _: DeviceNo, _: &[Position]) -> Result<HashMap<Position, Arc<Item>>, HotError> {
        never()
    }

    async fn forget(&self, _: DeviceNo, _: &[Position]) -> Result<(), HotError> {
        never()
    }

    async fn forget_device(&self, _: DeviceNo) -> Result<(), HotError> {
        never()
    }

    async fn subscribe_group(&self, _: GroupId) -> Result<(), HotError> {
        never()
    }

    async fn unsubscribe_group(&self, _: GroupId) -> Result<(), HotError> {
        never()
    }

    async fn publish_entries(&self, _: &[Arc<LogEntry>]) -> Result<(), HotError> {
        never()
    }

    async fn keep_state(&self, _: GroupId, _: [u8; 32], _: Bytes) -> Result<(), HotError> {
        never()
    }

    async fn state(&self, _: GroupId, _: [u8; 32]) -> Result<Option<Bytes>, HotError> {
        never()
    }

    async fn lease(
        &self,
        budget: BudgetKey,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, HotError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_away.load(Ordering::SeqCst) {
            return Err(HotError("away".into()));
        }
        let lease = self.ledger.lock().unwrap().lease(budget, quota, most, now);
        let _answer = self.answers.lock().await;
        Ok(lease)
    }

    async fn hold(&self, _: BudgetKey, _: Uuid, _: u32, _: Duration) -> Result<bool, HotError> {
        never()
    }

    async fn renew(&self, _: &[(BudgetKey, Uuid)], _: Duration) -> Result<(), HotError> {
        never()
    }

    async fn release(&self, _: &[(BudgetKey, Uuid)]) -> Result<(), HotError> {
        never()
    }

    async fn check(&self) -> Result<(), HotError> {
        never()
    }

    async fn close(&self) {}
}

async fn taken(budgets: &Budgets, of: &[u8]) -> usize {
    taken_at(budgets, of, NOW).await
}

#[tokio::test]
async fn nodes_on_one_engine_share_a_budget() {
    let engine = Wavering::present();
    let one = Budgets::new(engine.clone(), [1; 32]);
    let two = Budgets::new(engine, [1; 32]);
    assert_eq!(taken(&one, b"somebody").await, 3);
    assert_eq!(taken(&two, b"somebody").await, 0);
    assert_eq!(taken(&two, b"somebody else").await, 3);
}

#[tokio::test]
async fn a_node_whose_engine_is_away_counts_by_itself() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    engine.go(true);
    assert_eq!(taken(&budgets, b"somebody").await, 3);
    let empty = budgets.draw("test", &[b"somebody"], QUOTA, NOW).await;
    assert_eq!(empty, Drawn::Empty(Duration::from_secs(20)));
    engine.go(false);
    assert_eq!(taken(&budgets, b"somebody").await, 0, "what was counted alone is not forgotten");
    assert_eq!(
        taken(&Budgets::new(engine, [1; 32]), b"somebody").await,
        3,
        "and another node knows nothing of it"
    );
}

#[tokio::test]
async fn a_node_whose_clock_was_set_back_goes_on_within_a_period() {
    let budgets = Budgets::new(Wavering::present(), [1; 32]);
    let quota = Quota::per_minute(40);
    let back = |seconds| NOW.plus(Duration::from_secs(seconds));
    let before = NOW.plus(Duration::from_hours(1));
    assert_eq!(spent(&budgets, b"somebody", quota, before).await, 40);
    // The node and the engine each find out for themselves, so it may take two intervals until the first place is back.
    assert_eq!(spent(&budgets, b"somebody", quota, back(0)).await, 0);
    assert_eq!(spent(&budgets, b"somebody", quota, back(3)).await, 0);
    assert_eq!(spent(&budgets, b"somebody", quota, back(6)).await, 2);
    assert_eq!(spent(&budgets, b"somebody", quota, back(90)).await, 40);

    assert_eq!(taken_at(&budgets, b"another", before).await, 3);
    assert_eq!(taken_at(&budgets, b"another", back(0)).await, 0);
    assert_eq!(taken_at(&budgets, b"another", back(20)).await, 0);
    assert_eq!(taken_at(&budgets, b"another", back(40)).await, 1);
}

async fn taken_at(budgets: &Budgets, of: &[u8], now: Timestamp) -> usize {
    let mut taken = 0;
    for _ in 0..10 {
        taken += usize::from(budgets.draw("test", &[of], QUOTA, now).await == Drawn::Taken);
    }
    taken
}

async fn spent(budgets: &Budgets, of: &[u8], quota: Quota, now: Timestamp) -> u32 {
    spent_of(budgets, budgets.name("test", &[of]), quota, now).await
}

async fn spent_of(budgets: &Budgets, budget: BudgetKey, quota: Quota, now: Timestamp) -> u32 {
    let mut spent = 0;
    while budgets.spend(budget, quota, now).await.drawn == Drawn::Taken {
        spent += 1;
    }
    spent
}

#[tokio::test]
async fn a_budget_that_is_spent_costs_few_calls_of_the_engine() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    let quota = Quota::per_minute(600);
    assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 600);
    assert_eq!(engine.asked.load(Ordering::SeqCst), 4, "a quarter at a time");
    for _ in 0..1000 {
        assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 0);
    }
    assert_eq!(engine.asked.load(Ordering::SeqCst), 4, "a budget that is known to be empty is not asked for");
}

#[tokio::test]
async fn of_many_that_need_a_lease_at_once_one_asks() {
    let engine = Wavering::present();
    let budgets = Arc::new(Budgets::new(engine.clone(), [1; 32]));
    let budget = budgets.name("test", &[b"somebody"]);
    let crowd = (0..100).map(|_| {
        let budgets = Arc::clone(&budgets);
        tokio::spawn(async move { budgets.spend(budget, Quota::per_minute(400), NOW).await.drawn })
    });
    for drawn in futures_util::future::join_all(crowd.collect::<Vec<_>>()).await {
        assert_eq!(drawn.unwrap(), Drawn::Taken);
    }
    assert_eq!(engine.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_finds_a_turn_taken_for_too_long_is_counted_alone() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    let (quota, budget) = (Quota::per_minute(40), BudgetKey([7; 16]));
    let _slow = budgets.counts.turns[7].lock().await;
    let spending = spent_of(&budgets, budget, quota, NOW);
    let spent = timeout(Duration::from_mins(1), spending).await.expect("nobody waits for ever");
    assert_eq!(spent, 40, "by the same limit");
    assert_eq!(engine.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_was_leased_for_a_caller_who_went_away_is_kept() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    let (quota, budget) = (Quota::per_minute(40), budgets.name("test", &[b"somebody"]));
    let answers = engine.answers.lock().await;
    let mut asking = Box::pin(budgets.spend(budget, quota, NOW));
    while engine.asked.load(Ordering::SeqCst) == 0 {
        assert!(futures_util::poll!(&mut asking).is_pending());
        tokio::task::yield_now().await;
    }
    drop(asking);
    drop(answers);
    // The place of whoever went away is gone, and nothing else.
    assert_eq!(spent_of(&budgets, budget, quota, NOW).await, 39);
}

#[tokio::test]
async fn an_engine_that_forgot_gives_no_node_more_than_the_quota() {
    let engine = Wavering::present();
    let nodes = [(); 2].map(|()| Budgets::new(engine.clone(), [1; 32]));
    let quota = Quota::per_minute(40);
    assert_eq!(spent(&nodes[0], b"somebody", quota, NOW).await, 40);
    assert_eq!(spent(&nodes[1], b"somebody", quota, NOW).await, 0);
    *engine.ledger.lock().unwrap() = Ledger::bounded(100);
    assert_eq!(spent(&nodes[0], b"somebody", quota, NOW).await, 0);
    let later = NOW.plus(Duration::from_millis(1500));
    assert_eq!(spent(&nodes[0], b"somebody", quota, later).await, 1);
}

#[tokio::test]
async fn an_engine_that_forgot_opens_no_budget_that_is_drawn_from_one_by_one() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    assert_eq!(taken(&budgets, b"somebody").await, 3);
    *engine.ledger.lock().unwrap() = Ledger::bounded(100);
    assert_eq!(taken(&budgets, b"somebody").await, 0);
}

#[tokio::test]
async fn a_budget_is_spent_alone_while_the_engine_is_away_and_goes_on_where_it_was() {
    let engine = Wavering::present();
    let budgets = Budgets::new(engine.clone(), [1; 32]);
    let (quota, budget) = (Quota::per_minute(40), budgets.name("test", &[b"somebody"]));
    for _ in 0..15 {
        assert_eq!(budgets.spend(budget, quota, NOW).await.drawn, Drawn::Taken);
    }
    engine.go(true);
    assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 25);
    let asked = engine.asked.load(Ordering::SeqCst);
    assert_eq!(spent(&budgets, b"another", quota, NOW).await, 40);
    let more = engine.asked.load(Ordering::SeqCst) - asked;
    assert!(more <= 1, "an engine that is away is not asked for everybody");
}

/// Which node spends, and how many milliseconds after the one before.
fn spending() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let gone = prop_oneof![4 => Just(0), 2 => 0..50_u64, 1 => 0..5_000_u64, 1 => 0..90_000_u64];
    prop::collection::vec((0..3_usize, gone), 1..400)
}

proptest! {
    #[test]
    fn leases_over_several_nodes_never_exceed_the_quota_in_any_window(
        acts in prop_oneof![1..10_u32, 1..200_u32], spending in spending(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let engine = Wavering::present();
        let nodes = [(); 3].map(|()| Budgets::new(engine.clone(), [1; 32]));
        let (quota, budget) = (Quota::per_minute(acts), nodes[0].name("test", &[]));
        let (mut now, mut spent) = (NOW, Vec::new());
        for (node, gone) in spending {
            now = now.plus(Duration::from_millis(gone));
            if runtime.block_on(nodes[node].spend(budget, quota, now)).drawn == Drawn::Taken {
                spent.push(now.micros());
            }
        }
        for (first, from) in spent.iter().enumerate() {
            for (last, to) in spent.iter().enumerate().skip(first) {
                let allowed = i64::from(acts) + (to - from) / quota.interval_micros() + 1;
                prop_assert!(i64::try_from(last - first + 1).unwrap() <= allowed);
            }
        }
    }

    #[test]
    fn one_node_spends_what_a_budget_without_leases_would_give(
        acts in 1..200_u32, gone in prop::collection::vec(prop_oneof![3 => Just(0), 1 => 0..3_000_u64], 1..400),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let budgets = Budgets::new(Wavering::present(), [1; 32]);
        let (quota, budget) = (Quota::per_minute(acts), budgets.name("test", &[]));
        let (mut now, mut model) = (NOW, None);
        let (mut given, mut promised) = (0_u32, 0_u32);
        for gone in gone {
            now = now.plus(Duration::from_millis(gone));
            given += u32::from(runtime.block_on(budgets.spend(budget, quota, now)).drawn == Drawn::Taken);
            promised += u32::from(quota.draw(&mut model, now) == Drawn::Taken);
            prop_assert!(given <= promised && promised <= given + 2, "{given} of {promised}");
        }
    }
}

#[test]
fn a_budgets_name_depends_on_every_part_and_on_the_key() {
    let budgets = Budgets::new(Wavering::present(), [1; 32]);
    let name = budgets.name("test", &[b"ab", b"c"]);
    assert_eq!(name, budgets.name("test", &[b"ab", b"c"]));
    for other in [
        budgets.name("tests", &[b"ab", b"c"]),
        budgets.name("test", &[b"a", b"bc"]),
        budgets.name("test", &[b"abc"]),
        budgets.name("test", &[b"ab", b"c", b""]),
        budgets.name("test", &[]),
        Budgets::new(Wavering::present(), [2; 32]).name("test", &[b"ab", b"c"]),
    ] {
        assert_ne!(name, other);
    }
}

proptest! {
    #[test]
    fn different_parts_never_share_a_name(
        one in prop::collection::vec(prop::collection::vec(0..3_u8, 0..4), 0..4),
        two in prop::collection::vec(prop::collection::vec(0..3_u8, 0..4), 0..4),
    ) {
        let budgets = Budgets::new(Wavering::present(), [1; 32]);
        let name = |parts: &[Vec<u8>]| {
            budgets.name("test", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        prop_assert_eq!(name(&one) == name(&two), one == two);
    }
}
