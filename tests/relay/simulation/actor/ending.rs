//! How a device ends its part: everything is settled, and nothing is left.

use std::time::{Duration, Instant};

use super::{Actor, PATIENCE};
use crate::simulation::script::{Act, USERS};

/// How long a connected device may wait for what was accepted: twice what is promised, because the machine is busy.
const LIVE: Duration = Duration::from_secs(10);

impl Actor {
    /// Repeats every send that got no answer.
    pub(in crate::simulation) async fn settle_all(&mut self) {
        for (id, body) in self.ledger.own(self.index, |sent| sent.settled.is_none()) {
            self.settle(id, &body).await;
        }
    }

    /// Connects, if it is not, and reads what waits.
    pub(in crate::simulation) async fn come(&mut self) {
        self.listen(Duration::from_millis(100)).await;
    }

    /// Sends to everybody once more.
    pub(in crate::simulation) async fn send_to_all(&mut self) {
        for to in 0..USERS {
            self.perform(&Act::Send { to, life: None }).await;
        }
    }

    /// A device that is connected is given everything that was accepted for it, without asking anew: whatever wakes were
    /// lost, the reconciler makes up for them.
    pub(in crate::simulation) async fn linger(&mut self) {
        let deadline = Instant::now() + LIVE;
        while self.open.is_some() {
            // Some may expire while they are waited for.
            self.ledger.clocks_are_at(self.world.times().1);
            let missing = self.ledger.missing(self.index);
            if missing.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                self.ledger.violated(format!(
                    "device {} stayed connected and was not given {missing:?}",
                    self.index
                ));
                return;
            }
            if self.unacked.len() > 100 {
                self.ack(1000, true).await;
            }
            self.hear(Instant::now() + Duration::from_millis(100)).await;
        }
    }

    /// Reads and acks everything that is left, over a fresh socket; nothing may be left then.
    pub(in crate::simulation) async fn drain(&mut self) {
        self.open = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if Instant::now() > deadline {
                self.ledger.violated(format!("device {} was not drained within {PATIENCE:?}", self.index));
                return;
            }
            if self.open.is_none() {
                self.move_to(self.node + 1).await;
            }
            let drained = self.open.as_ref().is_some_and(|open| open.drained);
            if self.unacked.len() >= 40 || (drained && !self.unacked.is_empty()) {
                self.ack(1000, true).await;
            } else if drained {
                break;
            } else {
                self.hear(Instant::now() + Duration::from_millis(300)).await;
            }
        }
        if self.read_pages(100).await {
            self.ledger.violated(format!("something was left to device {} after it had acked", self.index));
        }
    }
}
