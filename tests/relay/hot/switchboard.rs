//! What the switchboard promises the sessions of its process.

use std::sync::Arc;

use restante::{
    domain::{DeviceNo, Position},
    hot::{
        Doorbell, Event, Hot, Sessions, Signal, Switchboard,
        local::{LocalHot, LocalHub},
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rig::{delivery, message, notice, until};

const DEVICE: DeviceNo = DeviceNo(7);

/// A node with sessions, and another one of the same hub.
struct Nodes {
    sessions: Arc<Sessions>,
    switchboard: Arc<Switchboard>,
    /// The engine below the switchboard.
    engine: Arc<LocalHot>,
    other: LocalHot,
}

impl Nodes {
    fn new() -> Self {
        let hub = LocalHub::new();
        let sessions = Arc::new(Sessions::default());
        let engine = Arc::new(LocalHot::join(&hub, sessions.clone()));
        let switchboard = Switchboard::new(sessions.clone(), engine.clone());
        let other = LocalHot::join(&hub, Arc::new(Sessions::default()));
        Self { sessions, switchboard, engine, other }
    }
}

#[tokio::test]
async fn what_waits_for_a_busy_session_is_bounded_in_bytes() {
    let nodes = Nodes::new();
    let seat = nodes.switchboard.open(DEVICE, Uuid::new_v4()).await;
    for position in 1..=20 {
        nodes.sessions.ring(DEVICE, Event::Item(Position(position), message(96 << 10)));
        nodes.sessions.ring(DEVICE, Event::Fleeting(message(96 << 10)));
    }
    nodes.sessions.ring(DEVICE, Event::Item(Position(21), notice()));
    let mut held = 0;
    loop {
        match seat.line().next().await {
            Signal::Event(Event::Item(_, item) | Event::Fleeting(item)) => held += item.weight(),
            Signal::Behind => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(held <= 256 << 10, "{held} bytes waited");
    // An event that is larger than the bound by itself waits all the same, when nothing else does.
    nodes.sessions.ring(DEVICE, Event::Item(Position(22), message(1 << 20)));
    assert!(matches!(seat.line().next().await, Signal::Event(Event::Item(Position(22), _))));
}

#[tokio::test]
async fn a_subscription_that_was_lost_is_made_anew_once_the_reconciler_finds_so() {
    let nodes = Nodes::new();
    let seat = nodes.switchboard.open(DEVICE, Uuid::new_v4()).await;
    nodes.engine.unsubscribe(DEVICE).await.unwrap();
    nodes.other.deliver(&[delivery(DEVICE, 1, &notice())]).await.unwrap();
    let overlooked = nodes.switchboard.wake(DEVICE, Position(1)).expect("nothing told the session");
    assert!(matches!(seat.line().next().await, Signal::Behind));
    let stop = CancellationToken::new();
    let tidying = tokio::spawn(Arc::clone(&nodes.switchboard).tidy(stop.clone()));
    assert!(nodes.switchboard.missed(&overlooked));
    assert!(matches!(seat.line().next().await, Signal::Behind), "something may have come in between");
    nodes.other.deliver(&[delivery(DEVICE, 2, &notice())]).await.unwrap();
    assert!(matches!(seat.line().next().await, Signal::Event(Event::Item(Position(2), _))));
    stop.cancel();
    tidying.await.unwrap();
}

#[tokio::test]
async fn what_a_session_knows_or_is_told_a_moment_later_was_not_missed() {
    let nodes = Nodes::new();
    let seat = nodes.switchboard.open(DEVICE, Uuid::new_v4()).await;
    seat.line().set_place(Position(3), Position(9));
    assert!(nodes.switchboard.wake(DEVICE, Position(9)).is_none(), "it has read so, and does not keep up");
    assert!(matches!(seat.line().next().await, Signal::Behind), "it is woken all the same");
    let overlooked = nodes.switchboard.wake(DEVICE, Position(10)).unwrap();
    nodes.other.deliver(&[delivery(DEVICE, 10, &notice())]).await.unwrap();
    assert!(!nodes.switchboard.missed(&overlooked), "it was on its way");
    let overlooked = nodes.switchboard.wake(DEVICE, Position(11)).unwrap();
    drop(seat);
    assert!(!nodes.switchboard.missed(&overlooked), "nobody waits for it any more");
}

#[tokio::test]
async fn a_device_that_left_is_not_listened_for_any_more() {
    let nodes = Nodes::new();
    let stop = CancellationToken::new();
    let tidying = tokio::spawn(Arc::clone(&nodes.switchboard).tidy(stop.clone()));
    drop(nodes.switchboard.open(DEVICE, Uuid::new_v4()).await);
    let mut position = 0;
    until("its items go into the offline queue", async || {
        position += 1;
        nodes.other.deliver(&[delivery(DEVICE, position, &notice())]).await.unwrap();
        !nodes.other.cached(DEVICE, &[Position(position)]).await.unwrap().is_empty()
    })
    .await;
    stop.cancel();
    tidying.await.unwrap();
}
