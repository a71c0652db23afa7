//! Budgets in this process: the local engine's, and what a node counts by while its engine is away.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use crate::domain::{BudgetKey, Lease, Quota, Timestamp};

/// How many budgets of one period a ledger keeps.
pub(super) const BUDGETS: usize = 1 << 16;

/// How many budgets that are full again one draw sweeps: more than it adds, so that they never pile up, and few, so
/// that no draw is slow.
const SWEPT_AT_ONCE: usize = 4;

/// Budgets that something was drawn from, at most so many of each period. One that is full again is no different from one
/// that nobody knows, and is forgotten. When there are too many nevertheless, the one of the same period goes that would
/// be full again the soonest: it loses the least by it, and no flood of new names washes out a budget that was drawn
/// empty. Budgets of other periods are left alone, because among them that moment says nothing of how empty they are.
pub(super) struct Ledger {
    most: usize,
    kept: HashMap<BudgetKey, Kept>,
    /// Of each period in microseconds, the budgets by the moment when they are full again.
    by_time: HashMap<i64, BTreeSet<(i64, [u8; 16])>>,
}

/// Until when a budget is filled, and the period by which it was drawn from last, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    until: i64,
    period: i64,
}

impl Ledger {
    /// An empty ledger of at most this many budgets of each period.
    pub(super) fn bounded(most: usize) -> Self {
        Self { most: most.max(1), kept: HashMap::new(), by_time: HashMap::new() }
    }

    /// Takes places by the rule of [`Quota::lease`].
    pub(super) fn lease(&mut self, budget: BudgetKey, quota: Quota, most: u32, now: Timestamp) -> Lease {
        let period = quota.period_micros();
        self.sweep(period, now);
        let until = self.kept.get(&budget).map(|kept| kept.until);
        let lease = quota.lease(until, most, now);
        if until != Some(lease.filled_until) {
            self.put(budget, Kept { until: lease.filled_until, period });
        }
        lease
    }

    /// How long it takes until there is a place; nothing when there is one.
    pub(super) fn wait(&mut self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Duration {
        if !self.kept.contains_key(&budget) {
            return Duration::ZERO;
        }
        let looked = self.lease(budget, quota, 0, now);
        quota.wait(looked.filled_until, now)
    }

    fn put(&mut self, budget: BudgetKey, fresh: Kept) {
        if let Some(old) = self.kept.insert(budget, fresh)
            && let Some(times) = self.by_time.get_mut(&old.period)
        {
            times.remove(&(old.until, budget.0));
        }
        let times = self.by_time.entry(fresh.period).or_default();
        times.insert((fresh.until, budget.0));
        if times.len() > self.most {
            self.drop_first(fresh.period);
        }
    }

    fn sweep(&mut self, period: i64, now: Timestamp) {
        let now = now.micros();
        for _ in 0..SWEPT_AT_ONCE {
            let first = self.by_time.get(&period).and_then(BTreeSet::first);
            if first.is_none_or(|(until, _)| *until > now) {
                return;
            }
            self.drop_first(period);
        }
    }

    fn drop_first(&mut self, period: i64) {
        let Some(times) = self.by_time.get_mut(&period) else { return };
        if let Some((_, budget)) = times.pop_first() {
            self.kept.remove(&BudgetKey(budget));
        }
        if times.is_empty() {
            self.by_time.remove(&period);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Drawn;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    impl Ledger {
        /// Takes one place.
        fn draw(&mut self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Drawn {
            self.lease(budget, quota, 1, now).drawn(quota, now)
        }
    }

    fn key(number: u32) -> BudgetKey {
        BudgetKey(u128::from(number).to_be_bytes())
    }

    fn assert_books_balance(ledger: &Ledger) {
        assert!(ledger.by_time.values().all(|times| times.len() <= ledger.most));
        let kept: BTreeSet<_> =
            ledger.kept.iter().map(|(budget, kept)| (kept.period, kept.until, budget.0)).collect();
        let by_time = ledger
            .by_time
            .iter()
            .flat_map(|(period, times)| times.iter().map(move |(until, budget)| (*period, *until, *budget)));
        assert_eq!(kept, by_time.collect());
    }

    #[test]
    fn a_flood_of_new_budgets_does_not_refill_an_empty_one() {
        let mut ledger = Ledger::bounded(100);
        let quota = Quota::per_minute(2);
        for _ in 0..2 {
            assert_eq!(ledger.draw(key(0), quota, NOW), Drawn::Taken);
        }
        for number in 1..10_000 {
            assert_eq!(ledger.draw(key(number), quota, NOW), Drawn::Taken);
            assert_books_balance(&ledger);
        }
        assert_eq!(ledger.kept.len(), 100);
        assert_eq!(ledger.draw(key(0), quota, NOW), Drawn::Empty(Duration::from_secs(30)));
    }

    #[test]
    fn budgets_of_a_longer_period_wash_out_none_of_a_shorter_one() {
        let mut ledger = Ledger::bounded(100);
        let quota = Quota::per_minute(1);
        assert_eq!(ledger.draw(key(0), quota, NOW), Drawn::Taken);
        for number in 1..10_000 {
            assert_eq!(ledger.draw(key(number), Quota::per_hour(20), NOW), Drawn::Taken);
        }
        assert_books_balance(&ledger);
        assert_eq!(ledger.draw(key(0), quota, NOW), Drawn::Empty(Duration::from_mins(1)));
    }

    #[test]
    fn budgets_that_are_full_again_are_forgotten() {
        let mut ledger = Ledger::bounded(1_000);
        for number in 0..400 {
            ledger.draw(key(number), Quota::per_minute(1), NOW);
        }
        let later = NOW.plus(Duration::from_mins(1));
        for _ in 0..100 {
            ledger.draw(key(1_000), Quota::per_minute(1_000), later);
        }
        assert_books_balance(&ledger);
        assert_eq!(ledger.kept.len(), 1);
    }

    proptest! {
        #[test]
        fn the_books_balance_and_the_rule_holds_after_any_draws(
            draws in prop::collection::vec((0..40_u32, 1..6_u32, 0..20_000_u64), 0..300),
        ) {
            let mut ledger = Ledger::bounded(40);
            let mut tight = Ledger::bounded(5);
            let mut model: HashMap<u32, Option<i64>> = HashMap::new();
            let mut now = NOW;
            for (number, acts, gone) in draws {
                now = now.plus(Duration::from_millis(gone));
                let expected = Quota::per_minute(acts).draw(model.entry(number).or_default(), now);
                prop_assert_eq!(ledger.draw(key(number), Quota::per_minute(acts), now), expected);
                tight.draw(key(number), Quota::per_minute(acts), now);
                assert_books_balance(&ledger);
                assert_books_balance(&tight);
            }
        }
    }
}
