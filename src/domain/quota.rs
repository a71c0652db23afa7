//! How often something may be done: a generic cell rate algorithm (GCRA), the same over every engine.

use std::{fmt, time::Duration};

use super::Timestamp;

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

    /// The time after which one more act has its place, in microseconds.
    #[must_use]
    pub fn interval_micros(self) -> i64 {
        self.period_micros() / i64::from(self.acts.max(1))
    }

    /// The whole period in microseconds.
    #[must_use]
    pub fn period_micros(self) -> i64 {
        i64::try_from(self.period.as_micros()).unwrap_or(i64::MAX / 4)
    }

    /// Draws a place. `filled_until` is what an earlier draw left, in microseconds since 1970, or none; a place that was
    /// taken leaves a new one.
    pub fn draw(self, filled_until: &mut Option<i64>, now: Timestamp) -> Drawn {
        let now = now.millis().saturating_mul(1000);
        // Never fuller than full: a clock that was set back must not lock anybody out for longer than a period.
        let most = now.saturating_add(self.period_micros());
        let filled = filled_until.unwrap_or(now).clamp(now, most).saturating_add(self.interval_micros());
        let over = filled.saturating_sub(now).saturating_sub(self.period_micros());
        if over > 0 {
            return Drawn::Empty(Duration::from_micros(over.unsigned_abs()));
        }
        *filled_until = Some(filled);
        Drawn::Taken
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
    fn a_clock_that_was_set_back_locks_nobody_out_for_longer_than_a_period() {
        let quota = Quota::per_minute(3);
        let mut filled = None;
        assert_eq!(quota.draw(&mut filled, NOW.plus(Duration::from_hours(1))), Drawn::Taken);
        assert_eq!(quota.draw(&mut filled, NOW), Drawn::Empty(Duration::from_secs(20)));
        assert_eq!(quota.draw(&mut filled, NOW.plus(Duration::from_hours(2))), Drawn::Taken);
    }
}
