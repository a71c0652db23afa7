//! Random acts on groups, done on both engines with the same inputs: they answer alike, tell the same afterwards, and what
//! must always hold of groups holds.

mod look;
mod steps;
mod world;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Runtime;

use crate::support::{engine, postgres};
use world::World;

/// One act. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Create { by: usize, group: usize, mls: bool, others: Vec<usize> },
    CreateAgain { which: usize },
    Commit { by: usize, group: usize, add: Vec<usize>, remove: Vec<usize>, lag: i64 },
    CommitAgain { which: usize },
    JoinByOneself { by: usize, group: usize, invited: bool },
    Propose { by: usize, group: usize, target: usize, leaves: bool },
    Say { by: usize, group: usize, lag: i64, minutes: Option<u64> },
    SayAgain { which: usize, altered: bool },
    Change { by: usize, group: usize, add: Vec<usize>, remove: Vec<usize> },
    SetRole { by: usize, group: usize, user: usize, role: usize },
    Invite { by: usize, group: usize },
    RevokeInvite { by: usize, which: usize },
    Report { by: usize, group: usize },
    Reset { by: usize, group: usize, others: Vec<usize> },
    Read { by: usize, group: usize, position: i64 },
    Link { user: usize },
    End { device: usize },
    ReplaceKey { device: usize },
    Restore,
    Expire,
    Advance { minutes: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let some = || prop::collection::vec(any::<usize>(), 0..3);
    let (one, group) = (any::<usize>, || 0..3_usize);
    let lag = || prop_oneof![8 => Just(0_i64), 1 => 1..4_i64, 1 => Just(-1_i64)];
    let act = prop_oneof![
        6 => (one(), group(), any::<bool>(), some())
            .prop_map(|(by, group, mls, others)| Act::Create { by, group, mls, others }),
        1 => one().prop_map(|which| Act::CreateAgain { which }),
        12 => (one(), group(), some(), some(), lag())
            .prop_map(|(by, group, add, remove, lag)| Act::Commit { by, group, add, remove, lag }),
        1 => one().prop_map(|which| Act::CommitAgain { which }),
        3 => (one(), group(), any::<bool>())
            .prop_map(|(by, group, invited)| Act::JoinByOneself { by, group, invited }),
        6 => (one(), group(), one(), any::<bool>())
            .prop_map(|(by, group, target, leaves)| Act::Propose { by, group, target, leaves }),
        8 => (one(), group(), lag(), prop::option::of(1..60_u64))
            .prop_map(|(by, group, lag, minutes)| Act::Say { by, group, lag, minutes }),
        2 => (one(), any::<bool>()).prop_map(|(which, altered)| Act::SayAgain { which, altered }),
        6 => (one(), group(), some(), some())
            .prop_map(|(by, group, add, remove)| Act::Change { by, group, add, remove }),
        3 => (one(), group(), one(), one())
            .prop_map(|(by, group, user, role)| Act::SetRole { by, group, user, role }),
        2 => (one(), group()).prop_map(|(by, group)| Act::Invite { by, group }),
        1 => (one(), one()).prop_map(|(by, which)| Act::RevokeInvite { by, which }),
        1 => (one(), group()).prop_map(|(by, group)| Act::Report { by, group }),
        2 => (one(), group(), some()).prop_map(|(by, group, others)| Act::Reset { by, group, others }),
        4 => (one(), group(), -1..20_i64).prop_map(|(by, group, position)| Act::Read { by, group, position }),
        3 => one().prop_map(|user| Act::Link { user }),
        2 => one().prop_map(|device| Act::End { device }),
        1 => one().prop_map(|device| Act::ReplaceKey { device }),
        1 => Just(Act::Restore),
        2 => Just(Act::Expire),
        3 => prop_oneof![3 => 1..120_u64, 1 => Just(29 * 24 * 60), 1 => Just(31 * 24 * 60)]
            .prop_map(|minutes| Act::Advance { minutes }),
    ];
    prop::collection::vec(act, 5..50)
}

#[test]
fn both_engines_keep_groups_alike_and_whole() {
    let runtime = Runtime::new().unwrap();
    let config = ProptestConfig {
        cases: 10,
        failure_persistence: None,
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    };
    let run = |acts: Vec<Act>| {
        let done = runtime.block_on(async {
            let Some((production, database)) = postgres::make(engine::roomy()).await else { return Ok(()) };
            let embedded = engine::sqlite(engine::roomy()).await;
            let done = AssertUnwindSafe(async {
                let mut world = World::of([embedded, production]).await;
                for (number, act) in acts.into_iter().enumerate() {
                    world.perform(act).await;
                    if number % 4 == 3 {
                        world.look().await;
                    }
                }
                world.look().await;
            });
            let done = done.catch_unwind().await;
            database.drop().await;
            done
        });
        // proptest takes panics for failures, and shrinks.
        done.map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    };
    TestRunner::new(config).run(&acts(), run).unwrap();
}
