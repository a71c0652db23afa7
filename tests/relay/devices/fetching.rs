//! How often bundles come with one-time keys: for each pair, for each user, for newcomers.

use std::{sync::Arc, time::Duration};

use restante::domain::ManualClock;
use serde_json::Value;

use crate::{
    devices::{cluster_at_noon, lives},
    support::{
        client::{Device, Kind},
        faults::nowhere,
        login::{self, at, log_in},
        relay::{Backend, TestRelay, on_both_backends},
        socket::{Incoming, Socket},
    },
};

on_both_backends! {
    one_caller_gets_so_many_keys_of_one_user,
    half_of_a_users_keys_are_kept_for_those_it_has_written_to,
    newcomers_share_a_small_budget,
    a_signal_device_gives_its_last_resort_key_past_the_limit,
    the_owner_is_told_once_a_minute_and_finds_it_in_the_trail_once,
    ones_own_devices_are_never_limited,
}

const DAY: Duration = Duration::from_hours(24);

/// Limits that only the one under test reaches.
const FEW_OF_ONE: &[(&str, &str)] =
    &[("FETCH_LIMIT_PER_PAIR", "3"), ("FETCH_LIMIT_PER_USER", "1000"), ("FETCH_LIMIT_FOR_NEW_USERS", "1000")];
const FEW_OF_ALL: &[(&str, &str)] =
    &[("FETCH_LIMIT_PER_PAIR", "100"), ("FETCH_LIMIT_PER_USER", "8"), ("FETCH_LIMIT_FOR_NEW_USERS", "100")];
const FEW_OF_THE_NEW: &[(&str, &str)] =
    &[("FETCH_LIMIT_PER_PAIR", "100"), ("FETCH_LIMIT_PER_USER", "100"), ("FETCH_LIMIT_FOR_NEW_USERS", "2")];

/// How many of so many fetches came with a one-time key; each of them comes.
async fn with_keys(caller: &Device, target: &Device, fetches: usize) -> usize {
    let mut given = 0;
    for _ in 0..fetches {
        let bundle = caller.bundle(target).await.is(200);
        assert_eq!(bundle["onetime_prekey"].is_null(), bundle["onetime_prekey_id"].is_null(), "{bundle}");
        assert!(bundle["signed_prekey"].is_string(), "{bundle}");
        given += usize::from(bundle["onetime_prekey"].is_string());
    }
    given
}

/// Devices whose user ids are older than a day, with tokens that hold; the clock is moved for it.
async fn settled(relay: &TestRelay, clock: &Arc<ManualClock>, kinds: &[Kind]) -> Vec<Device> {
    let mut devices = Vec::new();
    for kind in kinds {
        devices.push(Device::registered(relay, *kind).await);
    }
    clock.advance(DAY + Duration::from_secs(1));
    for device in &mut devices {
        renew(device).await;
    }
    devices
}

/// Gives a device the tokens of a new session.
async fn renew(device: &mut Device) {
    let tokens = log_in(device).await;
    device.access_token = tokens.access_token;
    device.refresh_token = tokens.refresh_token;
}

async fn unused(owner: &Device) -> u64 {
    owner.get(&owner.own("stats")).await.is(200)["unused_prekeys"].as_u64().unwrap()
}

async fn one_caller_gets_so_many_keys_of_one_user(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(FEW_OF_ONE).await;
    let mut devices = settled(&relay, &clock, &[Kind::Ed25519; 3]).await;
    let [alice, bob, carol] = devices.as_mut_slice() else { panic!("three") };
    let tablet = alice.linked("tablet").await;
    assert_eq!(with_keys(alice, bob, 6).await, 3);
    assert_eq!(unused(bob).await, 47, "a withheld key is not taken");
    assert_eq!(with_keys(&tablet, bob, 3).await, 0, "it is counted by users");
    let bundles = alice.bundles(bob.user_id).await.is(200);
    assert!(bundles["bundles"][0]["onetime_prekey"].is_null(), "{bundles}");
    assert_eq!(with_keys(carol, bob, 3).await, 3, "another caller");
    assert_eq!(with_keys(alice, carol, 3).await, 3, "another target");
    assert_eq!(unused(bob).await, 44);
    // The budget refills evenly: a third of an hour for each of three.
    clock.advance(Duration::from_mins(21));
    for device in [&mut *alice, &mut *bob] {
        renew(device).await;
    }
    assert_eq!(with_keys(alice, bob, 3).await, 1);
    clock.advance(Duration::from_mins(61));
    for device in [&mut *alice, &mut *bob] {
        renew(device).await;
    }
    assert_eq!(with_keys(alice, bob, 5).await, 3);
    assert_eq!(unused(bob).await, 40);
}

async fn half_of_a_users_keys_are_kept_for_those_it_has_written_to(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(FEW_OF_ALL).await;
    let devices = settled(&relay, &clock, &[Kind::Ed25519; 5]).await;
    let [bob, friend, admirer, one, other] = devices.as_slice() else { panic!("five") };
    bob.send_opaque(friend.user_id).await;
    // To have written to somebody oneself opens nothing.
    admirer.send_opaque(bob.user_id).await;
    assert_eq!(with_keys(one, bob, 3).await, 3);
    assert_eq!(with_keys(other, bob, 3).await, 1);
    assert_eq!(with_keys(admirer, bob, 2).await, 0);
    assert_eq!(with_keys(friend, bob, 6).await, 4);
    assert_eq!(unused(bob).await, 42);
    bob.send_opaque(admirer.user_id).await;
    assert_eq!(with_keys(admirer, bob, 1).await, 0, "what is kept is a budget too");
    assert_eq!(with_keys(one, friend, 1).await, 1, "each user has its own");
}

async fn newcomers_share_a_small_budget(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(FEW_OF_THE_NEW).await;
    let devices = settled(&relay, &clock, &[Kind::Ed25519; 2]).await;
    let [bob, old] = devices.as_slice() else { panic!("two") };
    let mut new = Vec::new();
    for _ in 0..3 {
        new.push(Device::registered(&relay, Kind::Ed25519).await);
    }
    let mut given = 0;
    for newcomer in &new {
        given += with_keys(newcomer, bob, 2).await;
    }
    assert_eq!(given, 2, "all newcomers together");
    assert_eq!(with_keys(old, bob, 10).await, 10);
    // A new device of an old user is no newcomer.
    let tablet = old.linked("tablet").await;
    assert_eq!(with_keys(&tablet, bob, 3).await, 3);
    // One whom the target has written to draws from what is kept for it.
    bob.send_opaque(new[0].user_id).await;
    assert_eq!(with_keys(&new[0], bob, 3).await, 3);
    assert_eq!(with_keys(&new[1], bob, 2).await, 0);
    // A day later they are newcomers no more.
    clock.advance(DAY);
    renew(&mut new[1]).await;
    assert_eq!(with_keys(&new[1], bob, 10).await, 10);
}

async fn a_signal_device_gives_its_last_resort_key_past_the_limit(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(FEW_OF_ONE).await;
    let mut devices = settled(&relay, &clock, &[Kind::Signal; 2]).await;
    let [alice, bob] = devices.as_mut_slice() else { panic!("two") };
    let more =
        serde_json::json!({ "kem_prekeys": (2..=9).map(|id| bob.keys.kem_prekey(id)).collect::<Vec<_>>() });
    bob.post(&bob.own("prekeys"), &more).await.is(200);
    for _ in 0..3 {
        assert_ne!(alice.bundle(bob).await.is(200)["kem_prekey_id"], 1000);
    }
    let before = bob.get(&bob.own("stats")).await.is(200);
    let bundle = alice.bundle(bob).await.is(200);
    assert_eq!(bundle["kem_prekey_id"], 1000, "{bundle}");
    assert!(bundle["onetime_prekey_id"].is_null() && bundle["kem_prekey"].is_string(), "{bundle}");
    let after = bob.get(&bob.own("stats")).await.is(200);
    for kind in ["unused_prekeys", "kem_prekeys"] {
        assert_eq!(before[kind], after[kind], "{kind}");
    }
    // A session opens by it, as always.
    alice.send_signal(bob.user_id, b"all the same").await.is(201);
    assert_eq!(bob.keys.decrypt(&bob.mailbox().await[0]), b"all the same");
}

/// The `keys_low` frames that tell of a limit and have come.
async fn tripped(socket: &mut Socket) -> Vec<Value> {
    socket.send(&serde_json::json!({ "type": "ping", "ref": "told" })).await;
    let frames = socket.until("pong").await;
    frames.into_iter().filter(|frame| frame["type"] == "keys_low" && frame["limit_tripped"] == true).collect()
}

async fn the_owner_is_told_once_a_minute_and_finds_it_in_the_trail_once(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(FEW_OF_ONE).await;
    let devices = settled(&relay, &clock, &[Kind::Ed25519; 2]).await;
    let [alice, bob] = devices.as_slice() else { panic!("two") };
    let mut socket = Socket::open(bob).await;
    assert_eq!(with_keys(alice, bob, 3).await, 3);
    assert!(tripped(&mut socket).await.is_empty());
    assert_eq!(with_keys(alice, bob, 5).await, 0);
    // A frame from another task may come a moment later than the answer.
    let told = socket.expect_where("keys_low", |frame| frame["limit_tripped"] == true).await;
    assert_eq!((&told["onetime_prekeys"], &told["last_resort_used"]), (&47.into(), &false.into()), "{told}");
    assert!(tripped(&mut socket).await.is_empty());
    clock.advance(Duration::from_secs(59));
    assert_eq!(with_keys(alice, bob, 2).await, 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(tripped(&mut socket).await.is_empty(), "not twice a minute");
    clock.advance(Duration::from_secs(2));
    assert_eq!(with_keys(alice, bob, 2).await, 0);
    socket.expect_where("keys_low", |frame| frame["limit_tripped"] == true).await;
    let trail = login::audit(bob).await;
    assert_eq!(trail.iter().filter(|event| *event == "limit_tripped").count(), 1, "{trail:?}");
    let hers = login::audit(alice).await;
    assert!(!hers.contains(&"limit_tripped".to_owned()), "it is the owner's: {hers:?}");
}

async fn ones_own_devices_are_never_limited(backend: &Backend) {
    let relay = backend
        .relay(&[
            ("FETCH_LIMIT_PER_PAIR", "1"),
            ("FETCH_LIMIT_PER_USER", "2"),
            ("FETCH_LIMIT_FOR_NEW_USERS", "1"),
        ])
        .await;
    let phone = Device::registered(&relay, Kind::Ed25519).await;
    let tablet = phone.linked("tablet").await;
    assert_eq!(with_keys(&tablet, &phone, 10).await, 10);
    for _ in 0..5 {
        let bundles = tablet.bundles(phone.user_id).await.is(200);
        assert!(bundles["bundles"][0]["onetime_prekey"].is_string(), "{bundles}");
    }
    let stranger = Device::registered(&relay, Kind::Ed25519).await;
    assert_eq!(with_keys(&stranger, &phone, 3).await, 1, "nor do they use up what is for others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_share_a_budget_over_redis() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, clock) = cluster_at_noon(&backend, 2, FEW_OF_ONE).await;
    let devices = settled(&nodes[0], &clock, &[Kind::Ed25519; 2]).await;
    let [alice, bob] = devices.as_slice() else { panic!("two") };
    let mut hears = Socket::open(&at(&nodes[1].url(), bob)).await;
    assert_eq!(with_keys(alice, bob, 2).await, 2);
    assert_eq!(with_keys(&at(&nodes[1].url(), alice), bob, 3).await, 1);
    assert_eq!(with_keys(alice, bob, 2).await, 0);
    hears.expect_where("keys_low", |frame| frame["limit_tripped"] == true).await;
    // Told once, whichever node refused.
    let deadline = std::time::Instant::now() + Duration::from_millis(300);
    while let Some(Incoming::Frame(frame)) = hears.read(deadline).await {
        assert_ne!(frame["type"], "keys_low", "{frame}");
    }
    lives(&mut hears).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_holds_the_budget_by_itself() {
    let Some(backend) = Backend::production().await else { return };
    let gone = format!("redis://{}", nowhere());
    for redis in [gone.as_str(), ""] {
        let settings: Vec<_> = FEW_OF_ONE.iter().copied().chain([("REDIS_URL", redis)]).collect();
        let (nodes, clock) = cluster_at_noon(&backend, 2, &settings).await;
        let devices = settled(&nodes[0], &clock, &[Kind::Ed25519; 2]).await;
        let [alice, bob] = devices.as_slice() else { panic!("two") };
        for node in &nodes {
            assert_eq!(with_keys(&at(&node.url(), alice), bob, 6).await, 3, "{redis:?}");
        }
    }
    backend.finish().await;
}
