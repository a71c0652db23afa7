//! Who holds a place in which crowd.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::NodeNo;
use crate::domain::BudgetKey;

/// Of each crowd the holders, and until when each is counted for which node. A crowd goes with its last holder; nothing else
/// grows.
#[derive(Default)]
pub(super) struct Holders(HashMap<BudgetKey, HashMap<Uuid, Places>>);

/// The places of one holder, which is counted once.
type Places = HashMap<NodeNo, Instant>;

impl Holders {
    /// Counts a holder, unless `most` others are counted at `now`.
    pub(super) fn hold(
        &mut self,
        crowd: BudgetKey,
        (holder, node): (Uuid, NodeNo),
        most: u32,
        now: Instant,
        life: Duration,
    ) -> bool {
        let holders = self.0.entry(crowd).or_default();
        holders.retain(|_, places| {
            places.retain(|_, until| *until > now);
            !places.is_empty()
        });
        let has_room = holders.contains_key(&holder) || holders.len() < most as usize;
        if has_room {
            holders.entry(holder).or_default().insert(node, now + life);
        } else if holders.is_empty() {
            self.0.remove(&crowd);
        }
        has_room
    }

    /// Counts a holder, whoever else is.
    pub(super) fn renew(&mut self, crowd: BudgetKey, (holder, node): (Uuid, NodeNo), until: Instant) {
        self.0.entry(crowd).or_default().entry(holder).or_default().insert(node, until);
    }

    /// Counts a holder no longer, unless another node holds it.
    pub(super) fn release(&mut self, crowd: BudgetKey, (holder, node): (Uuid, NodeNo)) {
        let Some(holders) = self.0.get_mut(&crowd) else { return };
        let Some(places) = holders.get_mut(&holder) else { return };
        places.remove(&node);
        if places.is_empty() {
            holders.remove(&holder);
        }
        if holders.is_empty() {
            self.0.remove(&crowd);
        }
    }
}
