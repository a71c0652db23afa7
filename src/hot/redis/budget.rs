//! Taking from a budget in one step of Redis, so that nodes that race for a place cannot both get it.

use super::{
    fault::Fault,
    script::{Call, Script},
    way::Way,
};
use crate::domain::{Lease, Quota, Timestamp};

/// Up to here Lua's numbers, which are floating, count exactly; half of what they could, because they are added up.
const EXACT: u64 = 1 << 52;

/// By whose time budgets fill up again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    /// Redis' own: nodes whose clocks differ would empty each other's budgets, or open them.
    OfRedis,
    /// That of whoever asks.
    OfCallers,
}

/// The budgets of all nodes.
pub(super) struct Budgets {
    script: Script,
    time: Time,
}

impl Budgets {
    pub(super) fn by(time: Time) -> Self {
        Self { script: Script::new(include_str!("budget.lua")), time }
    }

    /// Takes at most `most` places in the budget under `key`. Until when it is filled then is told by the caller's clock,
    /// which shows `now`.
    pub(super) async fn lease(
        &self,
        way: &Way,
        key: String,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, Fault> {
        let (now, period) = (now.micros(), quota.period_micros());
        if now.unsigned_abs() > EXACT || period.unsigned_abs() > EXACT {
            return Err(Fault::Inexact);
        }
        let forgotten_after = period.unsigned_abs().div_ceil(1000).max(1);
        let arguments = vec![
            match self.time {
                Time::OfRedis => String::new(),
                Time::OfCallers => now.to_string(),
            },
            quota.interval_micros().to_string(),
            period.to_string(),
            forgotten_after.to_string(),
            most.to_string(),
        ];
        let (places, filled_for) = self.script.run_once::<(u32, i64)>(way, Call { key, arguments }).await?;
        Ok(Lease { places, filled_until: now.saturating_add(filled_for) })
    }
}
