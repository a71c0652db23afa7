//! The promises, for any engine.

use std::collections::HashMap;

use restante::{
    domain::{ConversationId, Delivery, DeviceNo, MessageId, Position, SessionId, Status, Timestamp, UserId},
    hot::{Event, Hot, KeysLow, ReceiptEvent},
};
use uuid::Uuid;

use super::rig::{Rig, bare_message, delivery, device_list, message, notice, spell, spell_item, until};

fn positions(range: impl IntoIterator<Item = i64>) -> Vec<Position> {
    range.into_iter().map(Position).collect()
}

async fn cached(hot: &dyn Hot, device: DeviceNo, asked: &[Position]) -> HashMap<i64, String> {
    let items = hot.cached(device, asked).await.unwrap();
    items.into_iter().map(|(position, item)| (position.0, spell_item(&item))).collect()
}

pub(super) async fn an_event_reaches_a_subscribed_other_node_and_not_the_own_one(rig: &Rig) {
    let device = rig.device();
    rig.one.hot.subscribe(device).await.unwrap();
    rig.two.hot.subscribe(device).await.unwrap();
    rig.one.hot.notify(device, Event::Wake(Position(1))).await.unwrap();
    rig.one.hot.deliver(&[delivery(device, 2, &notice())]).await.unwrap();
    assert_eq!(rig.two.bell.wait_for(device, 2).await.len(), 2);
    // What comes later proves that the own event did not come before it.
    rig.two.hot.notify(device, Event::Deactivated).await.unwrap();
    let heard = rig.one.bell.wait_for(device, 1).await;
    assert!(matches!(heard.as_slice(), [Event::Deactivated]), "{heard:?}");
}

pub(super) async fn after_subscribe_returns_nothing_is_missed(rig: &Rig) {
    for round in 0..300 {
        let device = rig.device();
        rig.two.hot.subscribe(device).await.unwrap();
        rig.one.hot.notify(device, Event::Wake(Position(round))).await.unwrap();
        let heard = rig.two.bell.wait_for(device, 1).await;
        assert_eq!(spell(&heard[0]), format!("wake {round}"));
    }
}

pub(super) async fn after_unsubscribe_nothing_comes(rig: &Rig) {
    let (quiet, marker) = (rig.device(), rig.device());
    rig.two.hot.subscribe(marker).await.unwrap();
    for round in 1..=100 {
        rig.two.hot.subscribe(quiet).await.unwrap();
        rig.two.hot.unsubscribe(quiet).await.unwrap();
        rig.one.hot.notify(quiet, Event::Deactivated).await.unwrap();
        rig.one.hot.notify(marker, Event::Deactivated).await.unwrap();
        rig.two.bell.wait_for(marker, round).await;
        assert!(rig.two.bell.heard(quiet).is_empty());
    }
}

pub(super) async fn subscribing_twice_brings_an_event_once(rig: &Rig) {
    let device = rig.device();
    rig.two.hot.subscribe(device).await.unwrap();
    rig.two.hot.subscribe(device).await.unwrap();
    rig.one.hot.notify(device, Event::Wake(Position(1))).await.unwrap();
    rig.one.hot.notify(device, Event::Wake(Position(2))).await.unwrap();
    let heard = rig.two.bell.wait_for(device, 2).await;
    assert_eq!(heard.iter().map(spell).collect::<Vec<_>>(), ["wake 1", "wake 2"]);
    rig.two.hot.unsubscribe(device).await.unwrap();
    rig.two.hot.unsubscribe(device).await.unwrap();
}

pub(super) async fn items_of_a_device_keep_their_order(rig: &Rig) {
    let device = rig.device();
    rig.two.hot.subscribe(device).await.unwrap();
    for start in (1..=1_000).step_by(50) {
        let batch: Vec<_> = (start..start + 50).map(|at| delivery(device, at, &message(100))).collect();
        rig.one.hot.deliver(&batch).await.unwrap();
    }
    let heard = rig.two.bell.wait_for(device, 1_000).await;
    let order: Vec<_> = heard
        .iter()
        .map(|event| if let Event::Item(position, _) = event { position.0 } else { panic!("{event:?}") })
        .collect();
    assert_eq!(order, (1..=1_000).collect::<Vec<_>>());
}

pub(super) async fn every_kind_of_event_survives_the_trip_unchanged(rig: &Rig) {
    let device = rig.device();
    rig.two.hot.subscribe(device).await.unwrap();
    let receipt = ReceiptEvent {
        message_id: MessageId::new(Uuid::new_v4()),
        conversation_id: ConversationId::new(Uuid::new_v4()),
        by: UserId::new(Uuid::new_v4()),
        status: Status::Read,
        at: Timestamp::from_millis(1_700_000_000_000),
    };
    let low = KeysLow {
        onetime_prekeys: 3,
        kem_prekeys: 0,
        key_packages: 2,
        last_resort_used: true,
        limit_tripped: true,
    };
    let sent = [
        Event::Item(Position(1), message(1_000)),
        Event::Item(Position(i64::MAX), bare_message()),
        Event::Item(Position(2), notice()),
        Event::Wake(Position(77)),
        Event::Fleeting(message(1)),
        Event::Receipt(receipt),
        Event::KeysLow(low),
        Event::Replaced(Uuid::new_v4()),
        Event::LoggedOut(SessionId::new(Uuid::new_v4())),
        Event::Item(Position(3), device_list()),
        Event::Deactivated,
    ];
    for event in &sent {
        rig.one.hot.notify(device, event.clone()).await.unwrap();
    }
    let heard = rig.two.bell.wait_for(device, sent.len()).await;
    assert_eq!(heard.iter().map(spell).collect::<Vec<_>>(), sent.iter().map(spell).collect::<Vec<_>>());
}

pub(super) async fn a_heavy_item_travels_as_a_wake_and_is_cached_whole(rig: &Rig) {
    let (device, absent) = (rig.device(), rig.device());
    rig.two.hot.subscribe(device).await.unwrap();
    let (heavy, light) = (message(65 * 1024), message(60 * 1024));
    let batch = [delivery(device, 1, &heavy), delivery(device, 2, &light), delivery(absent, 1, &heavy)];
    rig.one.hot.deliver(&batch).await.unwrap();
    let heard = rig.two.bell.wait_for(device, 2).await;
    assert_eq!(spell(&heard[0]), "wake 1");
    assert_eq!(spell(&heard[1]), spell(&Event::Item(Position(2), light)));
    let kept = cached(&*rig.two.hot, absent, &positions([1])).await;
    assert_eq!(kept, HashMap::from([(1, spell_item(&heavy))]));
}

pub(super) async fn an_unlistened_item_is_cached_and_comes_back_at_its_position_only(rig: &Rig) {
    let device = rig.device();
    let items: Vec<_> = (0..5).map(|_| message(300)).collect();
    let batch: Vec<_> = (1..=5).zip(&items).map(|(at, item)| delivery(device, at, item)).collect();
    rig.one.hot.deliver(&batch).await.unwrap();
    for node in [&rig.one, &rig.two] {
        for (at, item) in (1..=5).zip(&items) {
            let kept = cached(&*node.hot, device, &positions([at])).await;
            assert_eq!(kept, HashMap::from([(at, spell_item(item))]));
        }
        let kept = cached(&*node.hot, device, &positions([4, 2, 4, 99, 0, -1, i64::MAX])).await;
        let expected = HashMap::from([(2, spell_item(&items[1])), (4, spell_item(&items[3]))]);
        assert_eq!(kept, expected);
        assert!(cached(&*node.hot, device, &[]).await.is_empty());
    }
}

pub(super) async fn a_body_that_is_to_be_erased_early_is_not_cached(rig: &Rig) {
    let device = rig.device();
    rig.one.hot.deliver(&[delivery(device, 1, &bare_message())]).await.unwrap();
    assert!(cached(&*rig.two.hot, device, &positions([1])).await.is_empty());
}

pub(super) async fn a_listened_item_is_not_cached(rig: &Rig) {
    let device = rig.device();
    rig.two.hot.subscribe(device).await.unwrap();
    rig.one.hot.deliver(&[delivery(device, 1, &notice())]).await.unwrap();
    rig.two.bell.wait_for(device, 1).await;
    assert!(cached(&*rig.one.hot, device, &positions([1])).await.is_empty());
}

pub(super) async fn a_position_that_goes_back_is_not_cached(rig: &Rig) {
    let device = rig.device();
    let (first, other) = (message(10), message(20));
    rig.one.hot.deliver(&[delivery(device, 5, &first)]).await.unwrap();
    let batch = [delivery(device, 5, &other), delivery(device, 4, &other), delivery(device, 6, &other)];
    rig.two.hot.deliver(&batch).await.unwrap();
    let kept = cached(&*rig.one.hot, device, &positions(1..10)).await;
    assert_eq!(kept, HashMap::from([(5, spell_item(&first)), (6, spell_item(&other))]));
}

pub(super) async fn forgotten_items_are_gone_and_the_others_are_not(rig: &Rig) {
    let device = rig.device();
    let batch: Vec<_> = (1..=4).map(|at| delivery(device, at, &notice())).collect();
    rig.one.hot.deliver(&batch).await.unwrap();
    rig.two.hot.forget(device, &positions([1, 3, 9, -1])).await.unwrap();
    rig.two.hot.forget(device, &[]).await.unwrap();
    rig.two.hot.forget(device, &positions([-1])).await.unwrap();
    rig.two.hot.forget(rig.device(), &positions([2])).await.unwrap();
    let mut left: Vec<_> = cached(&*rig.one.hot, device, &positions(1..=4)).await.into_keys().collect();
    left.sort_unstable();
    assert_eq!(left, [2, 4]);
}

pub(super) async fn a_forgotten_device_has_nothing_and_may_begin_anew(rig: &Rig) {
    let (device, other) = (rig.device(), rig.device());
    let batch = [delivery(device, 7, &notice()), delivery(other, 7, &notice())];
    rig.one.hot.deliver(&batch).await.unwrap();
    rig.two.hot.forget_device(device).await.unwrap();
    assert!(cached(&*rig.one.hot, device, &positions([7])).await.is_empty());
    assert_eq!(cached(&*rig.one.hot, other, &positions([7])).await.len(), 1);
    rig.one.hot.deliver(&[delivery(device, 1, &notice())]).await.unwrap();
    assert_eq!(cached(&*rig.one.hot, device, &positions([1])).await.len(), 1);
}

pub(super) async fn another_devices_items_are_never_given_out(rig: &Rig) {
    // Numbers of which one begins with the other are the ones that careless names mix up.
    let (mine, other) = (DeviceNo(1), DeviceNo(11));
    while rig.device() < other {}
    rig.two.hot.subscribe(mine).await.unwrap();
    rig.one.hot.deliver(&[delivery(other, 1, &notice())]).await.unwrap();
    rig.one.hot.notify(other, Event::Deactivated).await.unwrap();
    rig.one.hot.notify(mine, Event::Wake(Position(1))).await.unwrap();
    rig.two.bell.wait_for(mine, 1).await;
    assert_eq!(rig.two.bell.heard_in_all(), 1);
    assert!(cached(&*rig.two.hot, mine, &positions([1])).await.is_empty());
    assert_eq!(cached(&*rig.two.hot, other, &positions([1])).await.len(), 1);
}

pub(super) async fn many_devices_get_each_their_own(rig: &Rig) {
    let devices: Vec<_> = (0..2_500).map(|_| rig.device()).collect();
    let wishes = devices.iter().map(|device| rig.two.hot.subscribe(*device));
    for subscribed in futures_util::future::join_all(wishes).await {
        subscribed.unwrap();
    }
    let batch: Vec<_> = devices.iter().map(|device| delivery(*device, device.0, &notice())).collect();
    rig.one.hot.deliver(&batch).await.unwrap();
    until("every device is served", async || rig.two.bell.heard_in_all() >= devices.len()).await;
    for Delivery { device_no, position, item } in batch {
        let heard: Vec<_> = rig.two.bell.heard(device_no).iter().map(spell).collect();
        assert_eq!(heard, [spell(&Event::Item(position, item))]);
    }
}

pub(super) async fn the_queue_of_a_device_is_bounded_and_drops_its_oldest(rig: &Rig) {
    let device = rig.device();
    let item = notice();
    for start in (1..=3_000).step_by(500) {
        let batch: Vec<_> = (start..start + 500).map(|at| delivery(device, at, &item)).collect();
        rig.one.hot.deliver(&batch).await.unwrap();
    }
    let kept = cached(&*rig.two.hot, device, &positions(1..=3_000)).await;
    // Redis trims by whole nodes of its tree, so it may keep somewhat more.
    assert!((1_000..1_300).contains(&kept.len()), "{}", kept.len());
    assert!((2_001..=3_000).all(|at| kept.contains_key(&at)));
}

pub(super) async fn a_large_delivery_arrives_whole(rig: &Rig) {
    let (here, away) = (rig.device(), rig.device());
    rig.two.hot.subscribe(here).await.unwrap();
    let item = message(40 * 1024);
    let batch: Vec<_> =
        (1..=100).flat_map(|at| [delivery(here, at, &item), delivery(away, at, &item)]).collect();
    rig.one.hot.deliver(&batch).await.unwrap();
    rig.two.bell.wait_for(here, 100).await;
    assert_eq!(cached(&*rig.two.hot, away, &positions(1..=100)).await.len(), 100);
}

pub(super) async fn a_closed_node_hears_nothing_and_the_others_go_on(rig: &Rig) {
    let device = rig.device();
    rig.two.hot.subscribe(device).await.unwrap();
    rig.two.hot.close().await;
    rig.two.hot.close().await;
    assert!(rig.two.hot.subscribe(device).await.is_err());
    // Redis learns a moment later that a connection is gone.
    let mut at = 0;
    loop {
        at += 1;
        rig.one.hot.deliver(&[delivery(device, at, &notice())]).await.unwrap();
        if !cached(&*rig.one.hot, device, &positions([at])).await.is_empty() {
            break;
        }
        assert!(at < 10_000, "a closed node still listens");
    }
    assert_eq!(rig.two.bell.heard_in_all(), 0);
}

pub(super) async fn an_open_engine_is_reachable(rig: &Rig) {
    rig.one.hot.check().await.unwrap();
    rig.two.hot.check().await.unwrap();
}
