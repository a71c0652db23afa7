//! Places that a node took from shared budgets and has not spent.
//!
//! A lease lapses as the budget fills up: when all but so many places are back, no more than so many of a lease are worth
//! anything. So what is leased and what is left never come to more than a full budget, on however many nodes it lies, and
//! a lease that is not spent costs nobody a place.

use std::{collections::HashMap, time::Duration};

use super::budgets::Spent;
use crate::domain::{BudgetKey, Drawn, Lease, Quota, Timestamp};

/// The leases of one node, at most so many. What finds no room takes its places one by one.
pub(super) struct Leases {
    most: usize,
    kept: HashMap<BudgetKey, Lease>,
    /// When a full table is to be looked through again, in microseconds since 1970.
    sweep_at: i64,
}

/// How often a full table is looked through, in microseconds.
const SWEEP_EVERY: i64 = 1_000_000;

/// No refusal tells to try again at once.
const LEAST_WAIT: Duration = Duration::from_micros(1);

impl Leases {
    /// An empty table of at most this many leases.
    pub(super) fn bounded(most: usize) -> Self {
        Self { most, kept: HashMap::new(), sweep_at: i64::MIN }
    }

    /// Spends a place of the lease, or says that the shared budget is known to be empty. None when it must be asked.
    pub(super) fn spend(&mut self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Option<Spent> {
        let kept = self.kept.get_mut(&budget)?;
        // What has lapsed is gone for good, and what is filled for longer than a period was so by another clock.
        kept.places = worth(*kept, quota, now);
        kept.filled_until = kept.filled_until.min(now.micros().saturating_add(quota.period_micros()));
        if kept.places > 0 {
            kept.places -= 1;
            return Some(spent(*kept, quota, Drawn::Taken, now));
        }
        let wait = quota.wait(kept.filled_until, now);
        (!wait.is_zero()).then(|| spent(*kept, quota, Drawn::Empty(wait), now))
    }

    /// Whether there is room for a lease of this budget.
    pub(super) fn has_room(&mut self, budget: BudgetKey, now: Timestamp) -> bool {
        if self.kept.len() < self.most || self.kept.contains_key(&budget) {
            return true;
        }
        if now.micros() >= self.sweep_at {
            self.kept.retain(|_, lease| lease.filled_until > now.micros());
            self.sweep_at = now.micros().saturating_add(SWEEP_EVERY);
        }
        self.kept.len() < self.most
    }

    /// Spends the first place of a fresh lease and keeps the rest, unless another one came meanwhile that is worth more:
    /// together they could be worth more than the budget misses.
    pub(super) fn take(&mut self, budget: BudgetKey, quota: Quota, lease: Lease, now: Timestamp) -> Spent {
        let rest = Lease { places: lease.places.saturating_sub(1), ..lease };
        let other = self.kept.get(&budget).map_or(0, |other| worth(*other, quota, now));
        if other <= worth(rest, quota, now) && self.has_room(budget, now) {
            self.kept.insert(budget, rest);
        }
        if lease.places > 0 {
            return spent(rest, quota, Drawn::Taken, now);
        }
        let wait = quota.wait(lease.filled_until, now).max(LEAST_WAIT);
        spent(rest, quota, Drawn::Empty(wait), now)
    }
}

/// How many places of a lease may still be spent.
fn worth(lease: Lease, quota: Quota, now: Timestamp) -> u32 {
    let missing = lease.filled_until.saturating_sub(now.micros()).max(0) / quota.interval_micros();
    lease.places.min(u32::try_from(missing).unwrap_or(u32::MAX))
}

fn spent(rest: Lease, quota: Quota, drawn: Drawn, now: Timestamp) -> Spent {
    let left = worth(rest, quota, now).saturating_add(quota.left(rest.filled_until, now)).min(quota.acts);
    Spent { drawn, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const QUOTA: Quota = Quota::per_minute(60);

    fn key(number: u8) -> BudgetKey {
        BudgetKey([number; 16])
    }

    #[test]
    fn a_lease_lapses_as_its_budget_fills_up() {
        let mut leases = Leases::bounded(10);
        let lease = QUOTA.lease(None, 15, NOW);
        assert_eq!(leases.take(key(0), QUOTA, lease, NOW), Spent { drawn: Drawn::Taken, left: 59 });
        let soon = NOW.plus(Duration::from_secs(13));
        for left in [59, 58] {
            assert_eq!(leases.spend(key(0), QUOTA, soon), Some(Spent { drawn: Drawn::Taken, left }));
        }
        assert_eq!(leases.spend(key(0), QUOTA, soon), None, "all but two of the budget are back");
    }

    #[test]
    fn of_two_leases_that_came_at_once_the_one_that_is_worth_more_is_kept() {
        let mut leases = Leases::bounded(10);
        let large = QUOTA.lease(None, 15, NOW);
        let small = QUOTA.lease(Some(large.filled_until), 2, NOW);
        for lease in [large, small] {
            assert_eq!(leases.take(key(0), QUOTA, lease, NOW).drawn, Drawn::Taken);
        }
        let spent = (0..20).map_while(|_| leases.spend(key(0), QUOTA, NOW)).count();
        assert_eq!(spent, 14);
    }

    #[test]
    fn a_full_table_keeps_what_it_has_until_that_is_worth_nothing() {
        let mut leases = Leases::bounded(2);
        for number in 0..2 {
            leases.take(key(number), QUOTA, QUOTA.lease(None, 15, NOW), NOW);
        }
        assert!(!leases.has_room(key(2), NOW));
        let one = QUOTA.lease(None, 1, NOW);
        assert_eq!(leases.take(key(2), QUOTA, one, NOW).drawn, Drawn::Taken);
        assert_eq!(leases.spend(key(2), QUOTA, NOW), None, "it was not kept");
        let later = NOW.plus(Duration::from_secs(15));
        assert!(leases.has_room(key(2), later));
        assert_eq!(leases.kept.len(), 0);
    }
}
