//! What is promised of budgets, for any engine.

use std::time::Duration;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use restante::domain::{BudgetKey, Drawn, Quota, Timestamp};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::rig::Rig;

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);

pub(crate) fn budget() -> BudgetKey {
    BudgetKey(*Uuid::new_v4().as_bytes())
}

pub(super) async fn a_budget_gives_its_acts_and_then_one_for_each_interval(rig: &Rig) {
    let (one, two, budget, quota) = (&rig.one.hot, &rig.two.hot, budget(), Quota::per_minute(7));
    for _ in 0..7 {
        assert_eq!(one.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
    }
    // Seven do not divide a minute: both engines round alike.
    let Drawn::Empty(wait) = two.draw(budget, quota, NOW).await.unwrap() else { panic!("an eighth place") };
    assert_eq!(wait, Duration::from_micros(8_571_424));
    let just_before = NOW.plus(Duration::from_millis(8_571));
    let wait = two.draw(budget, quota, just_before).await.unwrap();
    assert_eq!(wait, Drawn::Empty(Duration::from_micros(424)));
    let then = NOW.plus(Duration::from_millis(8_572));
    assert_eq!(two.draw(budget, quota, then).await.unwrap(), Drawn::Taken);
    assert_ne!(one.draw(budget, quota, then).await.unwrap(), Drawn::Taken);
}

pub(super) async fn budgets_do_not_touch_each_other(rig: &Rig) {
    let (empty, other, quota) = (budget(), budget(), Quota::per_hour(1));
    assert_eq!(rig.one.hot.draw(empty, quota, NOW).await.unwrap(), Drawn::Taken);
    let wait = rig.one.hot.draw(empty, quota, NOW).await.unwrap();
    assert_eq!(wait, Drawn::Empty(Duration::from_hours(1)));
    assert_eq!(rig.one.hot.draw(other, quota, NOW).await.unwrap(), Drawn::Taken);
}

pub(super) async fn of_many_that_race_for_the_last_places_as_many_get_one_as_there_are(rig: &Rig) {
    for _ in 0..10 {
        let (budget, quota) = (budget(), Quota::per_minute(20));
        for _ in 0..10 {
            assert_eq!(rig.one.hot.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
        }
        let racers = (0..64).map(|number| {
            let hot = if number % 2 == 0 { &rig.one.hot } else { &rig.two.hot }.clone();
            tokio::spawn(async move { hot.draw(budget, quota, NOW).await.unwrap() })
        });
        let drawn = futures_util::future::join_all(racers.collect::<Vec<_>>()).await;
        let taken = drawn.into_iter().filter(|drawn| *drawn.as_ref().unwrap() == Drawn::Taken).count();
        assert_eq!(taken, 10);
    }
}

pub(super) async fn a_lease_is_as_much_as_there_is_and_counts_for_everybody(rig: &Rig) {
    let (one, two, budget, quota) = (&rig.one.hot, &rig.two.hot, budget(), Quota::per_minute(7));
    assert_eq!(one.lease(budget, quota, 3, NOW).await.unwrap().places, 3);
    assert_eq!(two.draw(budget, quota, NOW).await.unwrap(), Drawn::Taken);
    let rest = two.lease(budget, quota, 100, NOW).await.unwrap();
    assert_eq!((rest.places, quota.left(rest.filled_until, NOW)), (3, 0));
    let none = one.lease(budget, quota, 100, NOW).await.unwrap();
    assert_eq!((none.places, none.filled_until), (0, rest.filled_until));
    let then = NOW.plus(Duration::from_millis(8_572));
    assert_eq!(one.lease(budget, quota, 100, then).await.unwrap().places, 1);
}

pub(super) async fn a_clock_that_was_set_back_locks_nobody_out_for_longer_than_a_period(rig: &Rig) {
    let (one, two, budget, quota) = (&rig.one.hot, &rig.two.hot, budget(), Quota::per_minute(3));
    let before = NOW.plus(Duration::from_hours(1));
    assert_eq!(one.lease(budget, quota, 1, before).await.unwrap().places, 1);
    assert_eq!(two.draw(budget, quota, NOW).await.unwrap(), Drawn::Empty(Duration::from_secs(20)));
    let then = NOW.plus(Duration::from_secs(20));
    assert_eq!(two.draw(budget, quota, then).await.unwrap(), Drawn::Taken);
    assert_eq!(one.draw(budget, quota, then).await.unwrap(), Drawn::Empty(Duration::from_secs(20)));
    let at_last = NOW.plus(Duration::from_mins(2));
    assert_eq!(one.lease(budget, quota, 100, at_last).await.unwrap().places, 3);
}

pub(super) async fn of_many_leases_that_race_none_gives_a_place_twice(rig: &Rig) {
    for _ in 0..10 {
        let (budget, quota) = (budget(), Quota::per_minute(100));
        let racers = (0..64_u32).map(|number| {
            let hot = if number % 2 == 0 { &rig.one.hot } else { &rig.two.hot }.clone();
            tokio::spawn(async move { hot.lease(budget, quota, 1 + number % 5, NOW).await.unwrap().places })
        });
        let leased = futures_util::future::join_all(racers.collect::<Vec<_>>()).await;
        assert_eq!(leased.into_iter().map(Result::unwrap).sum::<u32>(), 100);
    }
}

/// Draws from one budget, each some milliseconds after the one before. Redis forgets by its own clock, so no period is
/// shorter than the test may take.
fn draws() -> impl Strategy<Value = Vec<(u32, u64, u64)>> {
    let acts = prop_oneof![1..10_u32, 1..1_000_u32];
    let periods = prop::sample::select(vec![60_000, 61_003, 3_600_000, 86_400_000_u64]);
    let gone = prop_oneof![Just(0), 0..10_000_u64, 0..4_000_000_u64];
    (acts, periods, prop::collection::vec((gone, any::<bool>()), 1..40)).prop_map(|(acts, period, gone)| {
        // One budget is mostly drawn by one quota, and now and then by a stricter one.
        let quota = |strict| if strict { acts.div_ceil(2) } else { acts };
        gone.into_iter().map(|(gone, strict)| (quota(strict), period, gone)).collect()
    })
}

pub(super) async fn every_engine_answers_by_the_rule_of_the_domain(rig: &Rig) {
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&draws(), |draws| {
        tokio::task::block_in_place(|| Handle::current().block_on(replay(rig, &draws)))
    });
    outcome.unwrap();
}

async fn replay(rig: &Rig, draws: &[(u32, u64, u64)]) -> Result<(), TestCaseError> {
    let (budget, mut model, mut now) = (budget(), None, NOW);
    for (number, (acts, period, gone)) in draws.iter().enumerate() {
        now = now.plus(Duration::from_millis(*gone));
        let quota = Quota { acts: *acts, period: Duration::from_millis(*period) };
        let node = if number % 2 == 0 { &rig.one } else { &rig.two };
        let answer = node.hot.draw(budget, quota, now).await.unwrap();
        prop_assert_eq!(answer, quota.draw(&mut model, now));
    }
    Ok(())
}
