//! Budgets in this process: the local engine's, and what a node counts by while its engine is away.

use std::collections::{BTreeSet, HashMap};

use crate::domain::{BudgetKey, Drawn, Quota, Timestamp};

/// How many budgets a ledger keeps.
pub(super) const BUDGETS: usize = 1 << 16;

/// How many budgets that are full again one draw sweeps: more than it adds, so that they never pile up, and few, so
/// that no draw is slow.
const SWEPT_AT_ONCE: usize = 4;

/// Budgets that something was drawn from, at most so many. One that is full again is no different from one that nobody
/// knows, and is forgotten. When there are too many nevertheless, the one goes that would be full again the soonest: it
/// loses the least by it, and no flood of new names washes out a budget that was drawn empty.
pub(super) struct Ledger {
    most: usize,
    filled_until: HashMap<BudgetKey, i64>,
    by_time: BTreeSet<(i64, [u8; 16])>,
}

impl Ledger {
    /// An empty ledger of at most this many budgets.
    pub(super) fn bounded(most: usize) -> Self {
        Self { most: most.max(1), filled_until: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Draws a place by the rule of [`Quota::draw`].
    pub(super) fn draw(&mut self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Drawn {
        self.sweep(now);
        let before = self.filled_until.get(&budget).copied();
        let mut after = before;
        let drawn = quota.draw(&mut after, now);
        if let Some(after) = after.filter(|_| after != before) {
            self.put(budget, before, after);
        }
        drawn
    }

    fn put(&mut self, budget: BudgetKey, before: Option<i64>, after: i64) {
        match before {
            Some(before) => drop(self.by_time.remove(&(before, budget.0))),
            None if self.filled_until.len() >= self.most => self.drop_first(),
            None => {}
        }
        self.filled_until.insert(budget, after);
        self.by_time.insert((after, budget.0));
    }

    fn sweep(&mut self, now: Timestamp) {
        let now = now.millis().saturating_mul(1000);
        for _ in 0..SWEPT_AT_ONCE {
            match self.by_time.first() {
                Some((filled, _)) if *filled <= now => self.drop_first(),
                Some(_) | None => return,
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, budget)) = self.by_time.pop_first() {
            self.filled_until.remove(&BudgetKey(budget));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn key(number: u32) -> BudgetKey {
        BudgetKey(u128::from(number).to_be_bytes())
    }

    fn assert_books_balance(ledger: &Ledger) {
        assert!(ledger.filled_until.len() <= ledger.most);
        let kept: BTreeSet<_> = ledger.filled_until.iter().map(|(budget, at)| (*at, budget.0)).collect();
        assert_eq!(kept, ledger.by_time);
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
        assert_eq!(ledger.filled_until.len(), 100);
        assert_eq!(ledger.draw(key(0), quota, NOW), Drawn::Empty(Duration::from_secs(30)));
    }

    #[test]
    fn budgets_that_are_full_again_are_forgotten() {
        let mut ledger = Ledger::bounded(1_000);
        for number in 0..400 {
            ledger.draw(key(number), Quota::per_minute(1), NOW);
        }
        let later = NOW.plus(Duration::from_mins(1));
        for _ in 0..100 {
            ledger.draw(key(1_000), Quota::per_hour(1_000), later);
        }
        assert_books_balance(&ledger);
        assert_eq!(ledger.filled_until.len(), 1);
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
