//! Budgets by what they are for and whom, open for nobody when the engine is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Hot,
    leases::Leases,
    ledger::{BUDGETS, Ledger},
    reach::Reach,
};
use crate::domain::{BudgetKey, Drawn, Lease, Quota, Timestamp};

/// How many leases a node keeps: some for each of its devices.
const LEASES: usize = 1 << 18;

/// How many budgets may be asked for at the same time.
const TURNS: usize = 256;

/// The relay's budgets: of the hot engine, and so of all nodes together, while it answers. When it does not, each node
/// counts by itself; never is a place given that nobody counted.
pub struct Budgets {
    engine: Arc<dyn Hot>,
    key: [u8; 32],
    alone: Mutex<Ledger>,
    leases: Mutex<Leases>,
    reach: Reach,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

/// What became of an act whose budget is spent by leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Whether there was a place.
    pub drawn: Drawn,
    /// How many places are left, as far as this node knows.
    pub left: u32,
}

impl Budgets {
    /// Budgets over an engine, named under a key that all nodes have and Redis has not.
    #[must_use]
    pub fn new(engine: Arc<dyn Hot>, key: [u8; 32]) -> Self {
        Self {
            engine,
            key,
            alone: Mutex::new(Ledger::bounded(BUDGETS)),
            leases: Mutex::new(Leases::bounded(LEASES)),
            reach: Reach::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        }
    }

    /// Draws a place in the budget that is for `what` and belongs to `of`. Costs one call of the engine, and at most its
    /// deadline: for acts that are rare.
    pub async fn draw(&self, what: &'static str, of: &[&[u8]], quota: Quota, now: Timestamp) -> Drawn {
        let budget = self.name(what, of);
        match self.engine.draw(budget, quota, now).await {
            Ok(drawn) => drawn,
            Err(error) => {
                tracing::debug!(error = %error.0, "a budget is counted by this node alone");
                self.alone().draw(budget, quota, now)
            }
        }
    }

    /// Spends a place in a budget that is only ever spent: for acts that are frequent. The engine is asked for several
    /// places at a time ([`Quota::share`]), and for at most a quarter of a second. Over all nodes never more is spent than
    /// the quota allows; less, for a moment, when several nodes spend at once.
    ///
    /// Each node also counts by itself what it takes, so that an engine that forgot gives no node more than the quota.
    pub async fn spend(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Spent {
        if let Some(spent) = self.spend_here(budget, quota, now) {
            return spent;
        }
        // Of several that need the same lease one asks.
        let _turn = self.turns[usize::from(budget.0[0])].lock().await;
        if let Some(spent) = self.spend_here(budget, quota, now) {
            return spent;
        }
        let has_room = self.leases().has_room(budget, now);
        let most = if has_room { quota.share() } else { 1 };
        let lease = self.lease(budget, quota, most, now).await;
        self.leases().take(budget, quota, lease, now)
    }

    /// [`Budgets::spend`], if that can be said without asking the engine.
    pub fn spend_here(&self, budget: BudgetKey, quota: Quota, now: Timestamp) -> Option<Spent> {
        self.leases().spend(budget, quota, now)
    }

    async fn lease(&self, budget: BudgetKey, quota: Quota, most: u32, now: Timestamp) -> Lease {
        let shared = self.reach.ask(self.engine.lease(budget, quota, most, now)).await;
        let most = shared.map_or(most, |shared| shared.places);
        let own = self.alone().lease(budget, quota, most, now);
        let filled_until = shared.map_or(i64::MIN, |shared| shared.filled_until).max(own.filled_until);
        Lease { places: own.places, filled_until }
    }

    /// The name of the budget that is for `what` and belongs to `of`. Every part stands behind its length, so that no two
    /// lists of parts read alike.
    #[must_use]
    pub fn name(&self, what: &str, of: &[&[u8]]) -> BudgetKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in [what.as_bytes()].iter().chain(of) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let mut name = [0; 16];
        hasher.finalize_xof().fill(&mut name);
        BudgetKey(name)
    }

    fn alone(&self) -> MutexGuard<'_, Ledger> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        time::Duration,
    };

    use async_trait::async_trait;
    use bytes::Bytes;
    use proptest::prelude::*;
    use uuid::Uuid;

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
        asked: AtomicUsize,
        ledger: Mutex<Ledger>,
    }

    impl Wavering {
        fn present() -> Arc<Self> {
            let (is_away, ledger) = (AtomicBool::new(false), Mutex::new(Ledger::bounded(100)));
            Arc::new(Self { is_away, asked: AtomicUsize::new(0), ledger })
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

        async fn lease(
            &self,
            budget: BudgetKey,
            quota: Quota,
            most: u32,
            now: Timestamp,
        ) -> Result<Lease, HotError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.is_away.load(Ordering::SeqCst) {
                return Err(HotError("away".into()));
            }
            Ok(self.ledger.lock().unwrap().lease(budget, quota, most, now))
        }

        async fn hold(&self, _: BudgetKey, _: Uuid, _: u32, _: Duration) -> Result<bool, HotError> {
            never()
        }

        async fn renew(&self, _: &[(BudgetKey, Uuid)], _: Duration) -> Result<(), HotError> {
            never()
        }

        async fn release(&self, _: &[(BudgetKey, Uuid)]) -> Result<(), HotError> {
            never()
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

    async fn spent(budgets: &Budgets, of: &[u8], quota: Quota, now: Timestamp) -> u32 {
        let (budget, mut spent) = (budgets.name("test", &[of]), 0);
        while budgets.spend(budget, quota, now).await.drawn == Drawn::Taken {
            spent += 1;
        }
        spent
    }

    #[tokio::test]
    async fn a_budget_that_is_spent_costs_few_calls_of_the_engine() {
        let engine = Wavering::present();
        let budgets = Budgets::new(engine.clone(), [1; 32]);
        let quota = Quota::per_minute(600);
        assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 600);
        assert_eq!(engine.asked.load(Ordering::SeqCst), 4, "a quarter at a time");
        for _ in 0..1000 {
            assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 0);
        }
        assert_eq!(
            engine.asked.load(Ordering::SeqCst),
            4,
            "a budget that is known to be empty is not asked for"
        );
    }

    #[tokio::test]
    async fn of_many_that_need_a_lease_at_once_one_asks() {
        let engine = Wavering::present();
        let budgets = Arc::new(Budgets::new(engine.clone(), [1; 32]));
        let budget = budgets.name("test", &[b"somebody"]);
        let crowd = (0..100).map(|_| {
            let budgets = Arc::clone(&budgets);
            tokio::spawn(async move { budgets.spend(budget, Quota::per_minute(400), NOW).await.drawn })
        });
        for drawn in futures_util::future::join_all(crowd.collect::<Vec<_>>()).await {
            assert_eq!(drawn.unwrap(), Drawn::Taken);
        }
        assert_eq!(engine.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_engine_that_forgot_gives_no_node_more_than_the_quota() {
        let engine = Wavering::present();
        let nodes = [(); 2].map(|()| Budgets::new(engine.clone(), [1; 32]));
        let quota = Quota::per_minute(40);
        assert_eq!(spent(&nodes[0], b"somebody", quota, NOW).await, 40);
        assert_eq!(spent(&nodes[1], b"somebody", quota, NOW).await, 0);
        *engine.ledger.lock().unwrap() = Ledger::bounded(100);
        assert_eq!(spent(&nodes[0], b"somebody", quota, NOW).await, 0);
        let later = NOW.plus(Duration::from_millis(1500));
        assert_eq!(spent(&nodes[0], b"somebody", quota, later).await, 1);
    }

    #[tokio::test]
    async fn a_budget_is_spent_alone_while_the_engine_is_away_and_goes_on_where_it_was() {
        let engine = Wavering::present();
        let budgets = Budgets::new(engine.clone(), [1; 32]);
        let (quota, budget) = (Quota::per_minute(40), budgets.name("test", &[b"somebody"]));
        for _ in 0..15 {
            assert_eq!(budgets.spend(budget, quota, NOW).await.drawn, Drawn::Taken);
        }
        engine.go(true);
        assert_eq!(spent(&budgets, b"somebody", quota, NOW).await, 25);
        let asked = engine.asked.load(Ordering::SeqCst);
        assert_eq!(spent(&budgets, b"another", quota, NOW).await, 40);
        let more = engine.asked.load(Ordering::SeqCst) - asked;
        assert!(more <= 1, "an engine that is away is not asked for everybody");
    }

    /// Which node spends, and how many milliseconds after the one before.
    fn spending() -> impl Strategy<Value = Vec<(usize, u64)>> {
        let gone = prop_oneof![4 => Just(0), 2 => 0..50_u64, 1 => 0..5_000_u64, 1 => 0..90_000_u64];
        prop::collection::vec((0..3_usize, gone), 1..400)
    }

    proptest! {
        #[test]
        fn leases_over_several_nodes_never_exceed_the_quota_in_any_window(
            acts in prop_oneof![1..10_u32, 1..200_u32], spending in spending(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let engine = Wavering::present();
            let nodes = [(); 3].map(|()| Budgets::new(engine.clone(), [1; 32]));
            let (quota, budget) = (Quota::per_minute(acts), nodes[0].name("test", &[]));
            let (mut now, mut spent) = (NOW, Vec::new());
            for (node, gone) in spending {
                now = now.plus(Duration::from_millis(gone));
                if runtime.block_on(nodes[node].spend(budget, quota, now)).drawn == Drawn::Taken {
                    spent.push(now.micros());
                }
            }
            for (first, from) in spent.iter().enumerate() {
                for (last, to) in spent.iter().enumerate().skip(first) {
                    let allowed = i64::from(acts) + (to - from) / quota.interval_micros() + 1;
                    prop_assert!(i64::try_from(last - first + 1).unwrap() <= allowed);
                }
            }
        }

        #[test]
        fn one_node_spends_what_a_budget_without_leases_would_give(
            acts in 1..200_u32, gone in prop::collection::vec(prop_oneof![3 => Just(0), 1 => 0..3_000_u64], 1..400),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let budgets = Budgets::new(Wavering::present(), [1; 32]);
            let (quota, budget) = (Quota::per_minute(acts), budgets.name("test", &[]));
            let (mut now, mut model) = (NOW, None);
            let (mut given, mut promised) = (0_u32, 0_u32);
            for gone in gone {
                now = now.plus(Duration::from_millis(gone));
                given += u32::from(runtime.block_on(budgets.spend(budget, quota, now)).drawn == Drawn::Taken);
                promised += u32::from(quota.draw(&mut model, now) == Drawn::Taken);
                prop_assert!(given <= promised && promised <= given + 2, "{given} of {promised}");
            }
        }
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
