//! What was erased is not shown, whatever the offline queue and a full window still hold.

use std::sync::Arc;

use restante::{
    domain::{Delivery, Item, Position},
    hot::{
        Sessions, Switchboard,
        local::{LocalHot, LocalHub},
    },
    queue::Queue,
};
use serde_json::{Value, json};

use crate::support::{
    client::{Device, Kind},
    engine::Engine,
    mothers::{self, DAY},
    relay::Backend,
    socket::Socket,
};

mod windows {
    use super::{
        what_waited_and_was_erased_behind_a_full_window_is_not_shown,
        what_was_live_and_was_erased_behind_a_full_window_is_not_shown,
    };
    use crate::support::relay::on_both_backends;

    on_both_backends! {
        what_waited_and_was_erased_behind_a_full_window_is_not_shown,
        what_was_live_and_was_erased_behind_a_full_window_is_not_shown,
    }
}

mod bodies {
    use super::{a_body_of_another_message_in_the_offline_queue_is_not_served, an_erased_body_is_not_served};
    use crate::support::engine::on_both_engines;

    on_both_engines!(roomy =>
        a_body_of_another_message_in_the_offline_queue_is_not_served,
        an_erased_body_is_not_served,
    );
}

/// Messages that a peer may hold unacked.
const WINDOW: usize = 4;

async fn what_waited_and_was_erased_behind_a_full_window_is_not_shown(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "4")]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    // Nobody listens, so that the bodies lie in the offline queue too.
    let ids = sent(&alice, &bob, 2 * WINDOW).await;
    let socket = Socket::open(&bob).await;
    erase_behind_the_window(&alice, &bob, socket, &ids).await;
}

async fn what_was_live_and_was_erased_behind_a_full_window_is_not_shown(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "4")]).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    let ids = sent(&alice, &bob, 2 * WINDOW).await;
    erase_behind_the_window(&alice, &bob, socket, &ids).await;
}

async fn sent(from: &Device, to: &Device, count: usize) -> Vec<Value> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(from.send_opaque(to.user_id).await["message_id"].clone());
    }
    ids
}

/// Fills the window with the first messages, erases all others but the last, and opens it again.
async fn erase_behind_the_window(alice: &Device, bob: &Device, mut socket: Socket, ids: &[Value]) {
    for id in &ids[..WINDOW] {
        assert_eq!(socket.expect("message").await["message_id"], *id);
    }
    let [for_everyone, for_me, acked, kept] = &ids[WINDOW..] else { panic!("eight messages") };
    alice.delete_message(for_everyone, "everyone").await.is(200);
    bob.delete_message(for_me, "me").await.is(200);
    assert_eq!(bob.ack(&[acked]).await.is(200)["removed"], 1);
    socket.ack(&ids[..WINDOW].iter().collect::<Vec<_>>()).await;
    let notice = socket.expect("deleted").await;
    assert_eq!(notice["deletes"], *for_everyone);
    socket.send(&json!({ "type": "ping" })).await;
    let shown = socket.until("pong").await;
    let shown: Vec<_> = shown.iter().filter(|frame| frame["type"] == "message").collect();
    assert!(shown.len() == 1 && shown[0]["message_id"] == *kept, "{shown:?}");
}

/// A mailbox's reading side over an engine, with an offline queue of its own.
fn queue(engine: &Engine) -> Queue {
    let sessions = Arc::new(Sessions::default());
    let hot = Arc::new(LocalHot::join(&LocalHub::new(), sessions.clone()));
    let switchboard = Switchboard::new(sessions, hot);
    Queue { store: engine.store.clone(), switchboard, clock: engine.clock.clone() }
}

async fn an_erased_body_is_not_served(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let queue = queue(&engine);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(engine.stored(mothers::send(&alice, bob.user_id)).await.message_id);
    }
    queue.switchboard.engine().deliver(&engine.emitted()).await.unwrap();
    // By the store alone, as if another node had done it and the offline queue had not heard.
    engine.store.delete_for_everyone(alice.user_id, ids[0], engine.now()).await.unwrap();
    engine.store.delete_for_me(bob.user_id, ids[1]).await.unwrap();
    engine.ack(bob.device_no, &[3]).await;
    let left = queue.left(bob.device_no, Position::START, 256).await.unwrap();
    let items = queue.items(bob.device_no, &left).await.unwrap();
    let places: Vec<i64> = items.iter().map(|(position, _)| position.0).collect();
    assert_eq!(places, [4, 5]);
    assert_eq!(items[0].1.message_id(), ids[3]);
    assert!(matches!(&*items[1].1, Item::Deleted { deletes, .. } if *deletes == ids[0]));
}

async fn a_body_of_another_message_in_the_offline_queue_is_not_served(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let queue = queue(&engine);
    let id = engine.stored(mothers::send(&alice, bob.user_id)).await.message_id;
    // What a store that was restored from an older copy finds in a cache that was not.
    let stale = Item::Deleted {
        message_id: mothers::message_id(),
        deletes: mothers::message_id(),
        expires_at: engine.now().plus(DAY),
    };
    let stale = Delivery { device_no: bob.device_no, position: Position(1), item: Arc::new(stale) };
    queue.switchboard.engine().deliver(&[stale]).await.unwrap();
    let left = queue.left(bob.device_no, Position::START, 256).await.unwrap();
    let items = queue.items(bob.device_no, &left).await.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].0, items[0].1.message_id()), (Position(1), id));
}
