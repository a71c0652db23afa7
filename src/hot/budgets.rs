//! Budgets by what they are for and whom, open for nobody when the engine is away.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Hot,
    ledger::{BUDGETS, Ledger},
};
use crate::domain::{BudgetKey, Drawn, Quota, Timestamp};

/// The relay's budgets: of the hot engine, and so of all nodes together, while it answers. When it does not, each node
/// counts by itself, from full budgets; never is a place given that nobody counted.
pub struct Budgets {
    engine: Arc<dyn Hot>,
    key: [u8; 32],
    alone: Mutex<Ledger>,
}

impl Budgets {
    /// Budgets over an engine, named under a key that all nodes have and Redis has not.
    #[must_use]
    pub fn new(engine: Arc<dyn Hot>, key: [u8; 32]) -> Self {
        Self { engine, key, alone: Mutex::new(Ledger::bounded(BUDGETS)) }
    }

    /// Draws a place in the budget that is for `what` and belongs to `of`. Costs one call of the engine, and at most its
    /// deadline.
    pub async fn draw(&self, what: &'static str, of: &[&[u8]], quota: Quota, now: Timestamp) -> Drawn {
        let budget = self.name(what, of);
        match self.engine.draw(budget, quota, now).await {
            Ok(drawn) => drawn,
            Err(error) => {
                tracing::debug!(error = %error.0, "a budget is counted by this node alone");
                self.alone.lock().unwrap_or_else(PoisonError::into_inner).draw(budget, quota, now)
            }
        }
    }

    /// Every part stands behind its length, so that no two lists of parts read alike.
    fn name(&self, what: &str, of: &[&[u8]]) -> BudgetKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [what.as_bytes()].iter().chain(of) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut name = [0; 16];
        hasher.finalize_xof().fill(&mut name);
        BudgetKey(name)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use async_trait::async_trait;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{Delivery, DeviceNo, GroupId, Item, LogEntry, Position},
        hot::{Event, HotError},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const QUOTA: Quota = Quota::per_minute(3);

    /// An engine of budgets alone, which may be away.
    struct Wavering {
        is_away: AtomicBool,
        ledger: Mutex<Ledger>,
    }

    impl Wavering {
        fn present() -> Arc<Self> {
            Arc::new(Self { is_away: AtomicBool::new(false), ledger: Mutex::new(Ledger::bounded(100)) })
        }

        fn go(&self, away: bool) {
            self.is_away.store(away, Ordering::SeqCst);
        }
    }

    fn never<T>() -> Result<T, HotError> {
        Err(HotError("this engine has budgets only".into()))
    }

    #[async_trait]
    impl Hot for Wavering {
        async fn subscribe(&self, _: DeviceNo) -> Result<(), HotError> {
            never()
        }

        async fn unsubscribe(&self, _: DeviceNo) -> Result<(), HotError> {
            never()
        }

        async fn deliver(&self, _: &[Delivery]) -> Result<(), HotError> {
            never()
        }

        async fn notify(&self, _: DeviceNo, _: Event) -> Result<(), HotError> {
            never()
        }

        async fn cached(
            &self,
            _: DeviceNo,
            _: &[Position],
        ) -> Result<HashMap<Position, Arc<Item>>, HotError> {
            never()
        }

        async fn forget(&self, _: DeviceNo, _: &[Position]) -> Result<(), HotError> {
            never()
        }

        async fn forget_device(&self, _: DeviceNo) -> Result<(), HotError> {
            never()
        }

        async fn subscribe_group(&self, _: GroupId) -> Result<(), HotError> {
            never()
        }

        async fn unsubscribe_group(&self, _: GroupId) -> Result<(), HotError> {
            never()
        }

        async fn publish_entries(&self, _: &[Arc<LogEntry>]) -> Result<(), HotError> {
            never()
        }

        async fn keep_state(&self, _: GroupId, _: [u8; 32], _: Bytes) -> Result<(), HotError> {
            never()
        }

        async fn state(&self, _: GroupId, _: [u8; 32]) -> Result<Option<Bytes>, HotError> {
            never()
        }

        async fn draw(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Result<Drawn, HotError> {
            if self.is_away.load(Ordering::SeqCst) {
                return Err(HotError("away".into()));
            }
            Ok(self.ledger.lock().unwrap().draw(budget, quota, now))
        }

        async fn check(&self) -> Result<(), HotError> {
            never()
        }

        async fn close(&self) {}
    }

    async fn taken(budgets: &Budgets, of: &[u8]) -> usize {
        let mut taken = 0;
        for _ in 0..10 {
            taken += usize::from(budgets.draw("test", &[of], QUOTA, NOW).await == Drawn::Taken);
        }
        taken
    }

    #[tokio::test]
    async fn nodes_on_one_engine_share_a_budget() {
        let engine = Wavering::present();
        let one = Budgets::new(engine.clone(), [1; 32]);
        let two = Budgets::new(engine, [1; 32]);
        assert_eq!(taken(&one, b"somebody").await, 3);
        assert_eq!(taken(&two, b"somebody").await, 0);
        assert_eq!(taken(&two, b"somebody else").await, 3);
    }

    #[tokio::test]
    async fn a_node_whose_engine_is_away_counts_by_itself() {
        let engine = Wavering::present();
        let budgets = Budgets::new(engine.clone(), [1; 32]);
        engine.go(true);
        assert_eq!(taken(&budgets, b"somebody").await, 3);
        let empty = budgets.draw("test", &[b"somebody"], QUOTA, NOW).await;
        assert_eq!(empty, Drawn::Empty(Duration::from_secs(20)));
        engine.go(false);
        assert_eq!(taken(&budgets, b"somebody").await, 3);
        engine.go(true);
        assert_eq!(taken(&budgets, b"somebody").await, 0, "what was counted alone is not forgotten");
    }

    #[test]
    fn a_budgets_name_depends_on_every_part_and_on_the_key() {
        let budgets = Budgets::new(Wavering::present(), [1; 32]);
        let name = budgets.name("test", &[b"ab", b"c"]);
        assert_eq!(name, budgets.name("test", &[b"ab", b"c"]));
        for other in [
            budgets.name("tests", &[b"ab", b"c"]),
            budgets.name("test", &[b"a", b"bc"]),
            budgets.name("test", &[b"abc"]),
            budgets.name("test", &[b"ab", b"c", b""]),
            budgets.name("test", &[]),
            Budgets::new(Wavering::present(), [2; 32]).name("test", &[b"ab", b"c"]),
        ] {
            assert_ne!(name, other);
        }
    }

    proptest! {
        #[test]
        fn different_parts_never_share_a_name(
            one in prop::collection::vec(prop::collection::vec(0..3_u8, 0..4), 0..4),
            two in prop::collection::vec(prop::collection::vec(0..3_u8, 0..4), 0..4),
        ) {
            let budgets = Budgets::new(Wavering::present(), [1; 32]);
            let name = |parts: &[Vec<u8>]| {
                budgets.name("test", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            };
            prop_assert_eq!(name(&one) == name(&two), one == two);
        }
    }
}
