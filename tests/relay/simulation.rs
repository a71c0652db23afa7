//! Histories made from seeds: devices send, read, ack, delete and move while everything else fails, and in the end
//! every promise was kept (ARCHITECTURE.md, invariants 1, 2, 3, 6, 7 and 10).
//!
//! `RESTANTE_TEST_HISTORIES` is the number of histories (240 when it is not set), `RESTANTE_TEST_SEED` the first seed. A
//! failure prints seed and script, and the smallest script that was found to fail too.

mod actor;
mod combining;
mod crashed_store;
mod ledger;
mod script;
mod verdict;
mod world;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actor::{Actor, Tally};
use futures_util::future::join_all;
use ledger::Ledger;
use proptest::strategy::ValueTree;
use script::{Ground, Script, USERS};
use world::World;

use crate::support::client::{Device, Kind};

/// How long smaller scripts are looked for after a failure.
const SHRINKING: Duration = Duration::from_mins(1);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// The devices of [`script::CAST`], of users that nobody has seen before.
async fn cast(world: &World) -> Vec<Device> {
    let base = world.node(0).url();
    let first = Device::registered_at(&base, Kind::Ed25519).await;
    let second = first.linked("tablet").await;
    let mut devices = vec![first, second];
    for _ in 1..USERS {
        devices.push(Device::registered_at(&base, Kind::Ed25519).await);
    }
    devices
}

/// Plays a history; what it showed to be broken.
async fn play(world: &Arc<World>, script: &Script, tally: &Arc<Tally>) -> Vec<String> {
    let devices = cast(world).await;
    let mut users: Vec<_> = devices.iter().map(|device| device.user_id).collect();
    users.dedup();
    let ledger = Arc::new(Ledger::of(users));
    let mut actors: Vec<_> = devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| {
            Actor::new(Arc::clone(world), Arc::clone(&ledger), Arc::clone(tally), index, device)
        })
        .collect();
    let acting = join_all(actors.iter_mut().zip(&script.acts).map(async |(actor, acts)| {
        for act in acts {
            actor.perform(act).await;
        }
    }));
    let troubles = async {
        for trouble in &script.troubles {
            tokio::time::sleep(Duration::from_millis(trouble.after)).await;
            ledger.clocks_are_at(world.times().1);
            world.suffer(trouble).await;
            ledger.clocks_are_at(world.times().1);
            tally.faults.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::join!(acting, troubles);
    world.heal().await;
    ledger.clocks_are_at(world.times().1);
    world.set_clocks();
    join_all(actors.iter_mut().map(Actor::settle_all)).await;
    if let Some(harm) = script.ending {
        join_all(actors.iter_mut().map(Actor::come)).await;
        world.harm_hot_state(harm);
        join_all(actors.iter_mut().map(Actor::send_to_all)).await;
    }
    join_all(actors.iter_mut().map(Actor::linger)).await;
    world.mend_hot_state().await;
    join_all(actors.iter_mut().map(Actor::drain)).await;
    ledger.clocks_are_at(world.times().1);
    tally.histories.fetch_add(1, Ordering::Relaxed);
    tally.copies.fetch_add(ledger.book().copies, Ordering::Relaxed);
    let accepted = ledger.book().sent.values().filter(|sent| sent.settled.is_some()).count();
    tally.accepted.fetch_add(accepted, Ordering::Relaxed);
    verdict::violations(world, &ledger).await
}

/// The first failure of these seeds, if there is one, as it is told.
async fn fails(ground: Ground, seed: u64, world: &Arc<World>, tally: &Arc<Tally>) -> Option<String> {
    let script = ground.tree(seed).current();
    let found = play(world, &script, tally).await;
    if found.is_empty() {
        return None;
    }
    let failed = format!("seed {seed} on {ground:?}:\n{}\n{script}", found.join("\n"));
    eprintln!("{failed}\nlooking for a smaller one");
    Some(format!("{failed}\nsmallest found:\n{}", smaller(ground, seed, world, tally).await))
}

/// The smallest script that still fails, as far as there is time.
async fn smaller(ground: Ground, seed: u64, world: &Arc<World>, tally: &Arc<Tally>) -> String {
    let until = Instant::now() + SHRINKING;
    let mut tree = ground.tree(seed);
    let mut smallest = "the same".to_owned();
    while Instant::now() < until && tree.simplify() {
        let script = tree.current();
        let found = play(world, &script, tally).await;
        if !found.is_empty() {
            smallest = format!("{}\n{script}", found.join("\n"));
        } else if !tree.complicate() {
            break;
        }
    }
    smallest
}

/// Plays histories on several worlds at once, each with its own seeds.
async fn simulate(name: &str, ground: Ground, worlds: usize, histories: u64) {
    let began = Instant::now();
    let (first, tally) = (number("RESTANTE_TEST_SEED", 1), Arc::<Tally>::default());
    let next = AtomicU64::new(first);
    let failures = join_all((0..worlds).map(async |_| {
        let world = Arc::new(World::make(ground).await?);
        let mut failure = None;
        while failure.is_none() {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= first + histories {
                break;
            }
            failure = fails(ground, seed, &world, &tally).await;
        }
        Arc::into_inner(world).expect("the actors are gone").backend.finish().await;
        failure
    }))
    .await;
    let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
    // Past the test runner's capture, because these figures are the proof.
    let mut summary = std::io::stderr();
    writeln!(
        summary,
        "\nSIMULATION {name}: {} histories, {} messages accepted, {} copies read, {} requests repeated, {} faults, \
         {} reconnects, in {:.0?}",
        count(&tally.histories),
        count(&tally.accepted),
        count(&tally.copies),
        count(&tally.repeats),
        count(&tally.faults),
        count(&tally.reconnects),
        began.elapsed()
    )
    .unwrap();
    let failures: Vec<_> = failures.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_history_on_two_nodes_breaks_a_promise() {
    let histories = number("RESTANTE_TEST_HISTORIES", 240) * 2 / 3;
    simulate("on two nodes", Ground::Production, 6, histories).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_history_on_an_embedded_relay_breaks_a_promise() {
    let histories = number("RESTANTE_TEST_HISTORIES", 240) / 3;
    simulate("on an embedded relay", Ground::Embedded, 3, histories).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_long_history_with_killed_processes_breaks_a_promise() {
    let histories = number("RESTANTE_TEST_HISTORIES", 240).div_ceil(120);
    simulate("with killed processes", Ground::Processes, 1, histories).await;
}
