//! How often something may be done: a generic cell rate algorithm (GCRA), the same over every engine.

use std::{fmt, time::Duration};

use super::Timestamp;

/// How often in an hour a device may do each of the acts that leave traces for long, of which none does many.
pub const SELDOM_ACTS_PER_HOUR: u32 = 60;

/// So many acts in a period, all at once or spread: a bucket of `acts` that refills evenly over `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Acts in a period; at least 1.
    pub acts: u32,
    /// The period.
    pub period: Duration,
}

/// What became of an act that needs a place in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// There was a place, and it is taken.
    Taken,
    /// There is none before this much time has gone.
    Empty(Duration),
}

impl Quota {
    /// This many acts in a minute.
    #[must_use]
    pub const fn per_minute(acts: u32) -> Self {
        Self { acts, period: Duration::from_mins(1) }
    }

    /// This many acts in an hour.
    #[must_use]
    pub const fn per_hour(acts: u32) -> Self {
        Self { acts, period: Duration::from_hours(1) }
    }

    /// The time after which one more act has its place, in microseconds; at least 1.
    #[must_use]
    pub fn interval_micros(self) -> i64 {
        (self.period_micros() / i64::from(self.acts.max(1))).max(1)
    }

    /// The whole period in microseconds.
    #[must_use]
    pub fn period_micros(self) -> i64 {
        i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX / 4)
    }

    /// How many places a node takes at once when it is going to spend them by itself: few enough that several nodes share a
    /// budget, and one of a small budget, which is then counted exactly wherever it is spent.
    #[must_use]
    pub fn share(self) -> u32 {
        let acts = self.period_micros() / self.interval_micros();
        u32::try_from(acts / 4).unwrap_or(u32::MAX).max(1)
    }

    /// Takes as many places as there are, at most `most`. `filled_until` is what the act before left, or none.
    #[must_use]
    pub fn lease(self, filled_until: Option<i64>, most: u32, now: Timestamp) -> Lease {
        let (now, interval) = (now.micros(), self.interval_micros());
        // Never fuller than full: a clock that was set back must not lock anybody out for longer than a period. Whoever
        // keeps the answer keeps that too, or a budget would be full anew at each look.
        let full = now.saturating_add(self.period_micros());
        let filled = filled_until.unwrap_or(now).clamp(now, full);
        let free = full.saturating_sub(filled) / interval;
        let places = u32::try_from(free).unwrap_or(u32::MAX).min(most);
        Lease { places, filled_until: filled.saturating_add(interval.saturating_mul(i64::from(places))) }
    }

    /// Draws a place. `filled_until` is what an earlier draw left, in microseconds since 1970, or none; it becomes what this
    /// one leaves.
    pub fn draw(self, filled_until: &mut Option<i64>, now: Timestamp) -> Drawn {
        let lease = self.lease(*filled_until, 1, now);
        *filled_until = Some(lease.filled_until);
        lease.drawn(self, now)
    }

    /// How long it takes until there is a place; nothing when there is one.
    #[must_use]
    pub fn wait(self, filled_until: i64, now: Timestamp) -> Duration {
        let full = now.micros().saturating_add(self.period_micros());
        let over = filled_until.min(full).saturating_add(self.interval_micros()).saturating_sub(full);
        Duration::from_micros(over.max(0).unsigned_abs())
    }

    /// How many places there are.
    #[must_use]
    pub fn left(self, filled_until: i64, now: Timestamp) -> u32 {
        self.lease(Some(filled_until), u32::MAX, now).places
    }
}

/// What was taken from a budget at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The places; none when the budget is empty.
    pub places: u32,
    /// Until when the budget is filled after it, in microseconds since 1970.
    pub filled_until: i64,
}

impl Lease {
    /// What a lease of at most one place is as a draw.
    #[must_use]
    pub fn drawn(self, quota: Quota, now: Timestamp) -> Drawn {
        if self.places > 0 { Drawn::Taken } else { Drawn::Empty(quota.wait(self.filled_until, now)) }
    }
}

/// A budget, named by a keyed hash of what it is for and whom: no id and no address stands in hot state.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BudgetKey(pub [u8; 16]);

impl fmt::Debug for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BudgetKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn a_budget_gives_its_acts_at_once_and_then_one_for_each_interval() {
        let quota = Quota::per_minute(3);
        let mut filled = None;
        for _ in 0..3 {
            assert_eq!(quota.draw(&mut filled, NOW), Drawn::Taken);
        }
        assert_eq!(quota.draw(&mut filled, NOW), Drawn::Empty(Duration::from_secs(20)));
        let later = NOW.plus(Duration::from_secs(20));
        assert_eq!(quota.draw(&mut filled, later), Drawn::Taken);
        assert_eq!(quota.draw(&mut filled, later), Drawn::Empty(Duration::from_secs(20)));
    }

    #[test]
    fn an_idle_budget_is_never_fuller_than_full() {
        let quota = Quota::per_minute(2);
        let mut filled = None;
        assert_eq!(quota.draw(&mut filled, NOW), Drawn::Taken);
        let later = NOW.plus(Duration::from_hours(5));
        let taken = (0..10).filter(|_| quota.draw(&mut filled, later) == Drawn::Taken).count();
        assert_eq!(taken, 2);
    }

    #[test]
    fn a_lease_is_as_much_as_there_is_and_counts_like_as_many_draws() {
        let quota = Quota::per_minute(7);
        let mut filled = None;
        for _ in 0..3 {
            quota.draw(&mut filled, NOW);
        }
        let lease = quota.lease(None, 3, NOW);
        assert_eq!((lease.places, Some(lease.filled_until)), (3, filled));
        let rest = quota.lease(Some(lease.filled_until), 100, NOW);
        assert_eq!((rest.places, quota.left(rest.filled_until, NOW)), (4, 0));
        assert_eq!(quota.lease(Some(rest.filled_until), 1, NOW).places, 0);
        assert_eq!(quota.wait(rest.filled_until, NOW), Duration::from_micros(8_571_424));
        assert_eq!(quota.wait(lease.filled_until, NOW), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out_for_longer_than_a_period() {
        let quota = Quota::per_minute(3);
        let mut filled = None;
        assert_eq!(quota.draw(&mut filled, NOW.plus(Duration::from_hours(1))), Drawn::Taken);
        assert_eq!(quota.draw(&mut filled, NOW), Drawn::Empty(Duration::from_secs(20)));
        let soon = NOW.plus(Duration::from_secs(20));
        assert_eq!(quota.draw(&mut filled, soon), Drawn::Taken);
        assert_eq!(quota.draw(&mut filled, soon), Drawn::Empty(Duration::from_secs(20)));
        let later = NOW.plus(Duration::from_mins(2));
        assert_eq!(
            [(); 4].map(|()| quota.draw(&mut filled, later) == Drawn::Taken),
            [true, true, true, false]
        );
    }
}
