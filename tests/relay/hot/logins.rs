//! A login that was ended ends the socket that lives by it, wherever that is, and no other.

use std::{sync::Arc, time::Duration};

use restante::{
    domain::{DeviceNo, SessionId},
    hot::{
        End, Event, KeysLow, Seat, Sessions, Signal, Switchboard,
        local::{LocalHot, LocalHub},
        redis::RedisHot,
    },
};
use secrecy::SecretString;
use uuid::Uuid;

use super::rig::{DEADLINE, random_prefix, redis_url};
use crate::support::cluster::PrivateCluster;

const DEVICE: DeviceNo = DeviceNo(1);
const NEIGHBOUR: DeviceNo = DeviceNo(2);

fn local() -> [Arc<Switchboard>; 2] {
    let hub = LocalHub::new();
    std::array::from_fn(|_| {
        let sessions = Arc::new(Sessions::default());
        Switchboard::new(sessions.clone(), Arc::new(LocalHot::join(&hub, sessions)))
    })
}

fn on_redis(url: String) -> [Arc<Switchboard>; 2] {
    let (url, prefix) = (SecretString::from(url), random_prefix());
    std::array::from_fn(|_| {
        let sessions = Arc::new(Sessions::default());
        let hot = RedisHot::connect(&url, &prefix, sessions.clone()).unwrap();
        Switchboard::new(sessions, Arc::new(hot))
    })
}

fn login() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

async fn heard(seat: &Seat) -> Signal {
    tokio::time::timeout(DEADLINE, seat.line().next()).await.expect("a signal comes")
}

/// What comes after it proves that an event did nothing.
async fn assert_lives(from: &Switchboard, device: DeviceNo, seat: &Seat) {
    let marker = KeysLow {
        onetime_prekeys: 1,
        kem_prekeys: 1,
        key_packages: 1,
        last_resort_used: false,
        limit_tripped: false,
    };
    from.notify(device, Event::KeysLow(marker)).await;
    let signal = heard(seat).await;
    assert!(matches!(signal, Signal::Event(Event::KeysLow(_))), "{signal:?}");
}

async fn assert_ended(seat: &Seat, why: End) {
    for _ in 0..2 {
        let signal = heard(seat).await;
        assert!(matches!(signal, Signal::End(end) if end == why), "{signal:?}");
    }
}

async fn a_login_ends_exactly_its_socket([own, other]: [Arc<Switchboard>; 2]) {
    for from in [&own, &other] {
        let (mine, earlier) = (login(), login());
        let seat = own.open(DEVICE, Uuid::new_v4()).await;
        let neighbour = own.open(NEIGHBOUR, Uuid::new_v4()).await;
        neighbour.line().live_by(mine);
        from.notify(DEVICE, Event::LoggedOut(mine)).await;
        assert_lives(from, DEVICE, &seat).await;
        seat.line().live_by(earlier);
        seat.line().live_by(mine);
        from.notify(DEVICE, Event::LoggedOut(login())).await;
        from.notify(DEVICE, Event::LoggedOut(earlier)).await;
        assert_lives(from, DEVICE, &seat).await;
        from.notify(DEVICE, Event::LoggedOut(mine)).await;
        assert_ended(&seat, End::LoggedOut).await;
        assert_lives(from, NEIGHBOUR, &neighbour).await;
        from.notify(DEVICE, Event::Deactivated).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_ended(&seat, End::Deactivated).await;
    }
    own.engine().close().await;
    other.engine().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logged_out_socket_ends_and_no_other_in_process() {
    a_login_ends_exactly_its_socket(local()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logged_out_socket_ends_and_no_other_on_redis() {
    let Some(url) = redis_url() else { return };
    a_login_ends_exactly_its_socket(on_redis(url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logged_out_socket_ends_and_no_other_on_a_cluster() {
    let Some(cluster) = PrivateCluster::start().await else { return };
    a_login_ends_exactly_its_socket(on_redis(cluster.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_says_of_a_login_ends_its_socket_here_and_no_other() {
    let [here, elsewhere] = local();
    let (mine, other) = (login(), login());
    let seat = here.open(DEVICE, Uuid::new_v4()).await;
    seat.line().live_by(mine);
    here.log_out(DEVICE, other);
    here.log_out(NEIGHBOUR, mine);
    elsewhere.log_out(DEVICE, mine);
    assert_lives(&here, DEVICE, &seat).await;
    here.log_out(DEVICE, mine);
    assert_ended(&seat, End::LoggedOut).await;
}
