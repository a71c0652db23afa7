//! Who holds a place in which crowd.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::domain::BudgetKey;

/// Of each crowd the holders, and until when each is counted. A crowd goes with its last holder; nothing else grows.
#[derive(Default)]
pub(super) struct Holders(HashMap<BudgetKey, HashMap<Uuid, Instant>>);

impl Holders {
    /// Counts a holder, unless `most` others are counted at `now`.
    pub(super) fn hold(
        &mut self,
        crowd: BudgetKey,
        holder: Uuid,
        most: u32,
        now: Instant,
        life: Duration,
    ) -> bool {
        let holders = self.0.entry(crowd).or_default();
        holders.retain(|_, until| *until > now);
        let has_room = holders.contains_key(&holder) || holders.len() < most as usize;
        if has_room {
            holders.insert(holder, now + life);
        } else if holders.is_empty() {
            self.0.remove(&crowd);
        }
        has_room
    }

    /// Counts a holder, whoever else is.
    pub(super) fn renew(&mut self, crowd: BudgetKey, holder: Uuid, until: Instant) {
        self.0.entry(crowd).or_default().insert(holder, until);
    }

    /// Counts a holder no longer.
    pub(super) fn release(&mut self, crowd: BudgetKey, holder: Uuid) {
        let Some(holders) = self.0.get_mut(&crowd) else { return };
        holders.remove(&holder);
        if holders.is_empty() {
            self.0.remove(&crowd);
        }
    }
}
