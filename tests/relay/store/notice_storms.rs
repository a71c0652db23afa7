//! Lists of devices that change while mail comes, and into full mailboxes.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use restante::{
    domain::{Caller, Delivery, DeviceNo},
    store::Accepted,
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    a_storm_of_changes_amid_sends_leaves_no_gap_and_the_list_as_it_is,
    the_last_notice_is_right_after_devices_are_ended_at_once,
    the_last_notice_is_right_after_one_comes_while_another_goes,
);

mod in_full_mailboxes {
    use super::{a_full_mailbox_takes_the_notice_and_stays_full, a_notice_takes_up_room};
    use crate::support::engine::on_both_engines;

    on_both_engines!(tight =>
        a_full_mailbox_takes_the_notice_and_stays_full,
        a_notice_takes_up_room,
    );
}

async fn a_full_mailbox_takes_the_notice_and_stays_full(engine: Engine) {
    let (alice, carol, phone) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    for sender in [&alice, &alice, &alice, &carol, &carol] {
        engine.stored(mothers::send(sender, phone.user_id)).await;
    }
    let tablet = engine.link_unread(&phone, "tablet").await;
    assert_eq!(engine.positions(phone.device_no).await, [1, 2, 3, 4, 5, 6]);
    let refused = mothers::send(&carol, phone.user_id);
    assert_eq!(engine.accept(refused.clone()).await, Accepted::MailboxFull);

    engine.deactivate(&phone, &tablet).await;
    assert_eq!(engine.positions(phone.device_no).await, [1, 2, 3, 4, 5, 7], "one notice, and a newer one");
    assert_eq!(engine.notices(phone.device_no).await, [(7, engine.listed(phone.user_id).await)]);
    assert_eq!(engine.accept(refused.clone()).await, Accepted::MailboxFull);

    assert_eq!(engine.ack(phone.device_no, &[1]).await, 1);
    assert_eq!(engine.accept(refused.clone()).await, Accepted::MailboxFull, "four messages and a notice");
    assert_eq!(engine.ack(phone.device_no, &[7]).await, 1);
    engine.stored(refused).await;
    assert_eq!(engine.positions(phone.device_no).await, [2, 3, 4, 5, 8]);
    assert_eq!(engine.accept(mothers::send(&alice, phone.user_id)).await, Accepted::MailboxFull);
}

async fn a_notice_takes_up_room(engine: Engine) {
    let (alice, carol, phone) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    engine.link_unread(&phone, "tablet").await;
    for sender in [&alice, &alice, &carol, &carol] {
        engine.stored(mothers::send(sender, phone.user_id)).await;
    }
    let refused = mothers::send(&alice, phone.user_id);
    assert_eq!(engine.accept(refused.clone()).await, Accepted::MailboxFull, "on the phone");
    assert_eq!(engine.ack(phone.device_no, &[1]).await, 1);
    engine.stored(refused).await;
}

/// Where things were handed to hot delivery, by device, ascending.
fn places(emitted: &[Delivery]) -> BTreeMap<DeviceNo, Vec<i64>> {
    let mut places: BTreeMap<DeviceNo, Vec<i64>> = BTreeMap::new();
    for delivery in emitted {
        places.entry(delivery.device_no).or_default().push(delivery.position.0);
    }
    for positions in places.values_mut() {
        positions.sort_unstable();
    }
    places
}

/// No mailbox has a gap, each waiting notice is alone, and that of each device but the newest names all there are.
async fn assert_all_told(engine: &Engine, keeper: &Caller) {
    let places = places(&engine.emitted());
    for (device, positions) in &places {
        let last = i64::try_from(positions.len()).unwrap();
        assert_eq!(*positions, (1..=last).collect::<Vec<_>>(), "each position is given once, without a gap");
        let head = engine.left(*device).await.head.0;
        assert!(head == last || head == 0, "all of them, unless it is gone: {head}, {last}");
    }
    let listed = engine.listed(keeper.user_id).await;
    let devices = engine.store.devices(keeper.user_id).await.unwrap();
    for device in &devices[..devices.len() - 1] {
        let notices = engine.notices(device.device_no).await;
        assert_eq!(notices.len(), 1, "one is left");
        assert_eq!(notices[0].1, listed);
    }
}

async fn a_storm_of_changes_amid_sends_leaves_no_gap_and_the_list_as_it_is(engine: Engine) {
    let phone = engine.newcomer().await;
    let senders: Vec<Caller> = join_all((0..3).map(|_| engine.newcomer())).await;
    let tablet = engine.link_unread(&phone, "tablet").await;
    let changing = async {
        for round in 0..10 {
            let passing = engine.link_unread(&phone, &format!("passing-{round}")).await;
            engine.deactivate(&phone, &passing).await;
        }
        engine.link_unread(&phone, "last").await
    };
    let sending = join_all(senders.iter().map(async |sender| {
        for _ in 0..30 {
            engine.stored(mothers::send(sender, phone.user_id)).await;
        }
    }));
    let acking = async {
        for _ in 0..15 {
            let positions = engine.positions(tablet.device_no).await;
            engine.ack(tablet.device_no, &positions).await;
        }
    };
    let (last, _, ()) = tokio::join!(changing, sending, acking);
    // The tablet may have read everything there is; one more change tells it.
    engine.deactivate(&phone, &last).await;
    let newest = engine.link_unread(&phone, "newest").await;
    assert_eq!(engine.listed(phone.user_id).await.len(), 3);
    assert_all_told(&engine, &phone).await;
    assert_eq!(engine.left(phone.device_no).await.head.0, 90 + 24, "90 sends and 24 changes");
    assert!(engine.notices(newest.device_no).await.is_empty());
}

async fn the_last_notice_is_right_after_devices_are_ended_at_once(engine: Engine) {
    for _ in 0..4 {
        let phone = engine.newcomer().await;
        let mut others = Vec::new();
        for name in ["a", "b", "c", "d"] {
            others.push(engine.link_unread(&phone, name).await);
        }
        let going = others[..3].iter().map(|device| engine.deactivate(&phone, device));
        join_all(going).await;
        let listed = engine.listed(phone.user_id).await;
        assert_eq!(listed.len(), 2);
        assert_eq!(engine.notices(phone.device_no).await, [(7, listed.clone())]);
        assert_eq!(engine.notices(others[3].device_no).await, [(3, listed)]);
    }
}

async fn the_last_notice_is_right_after_one_comes_while_another_goes(engine: Engine) {
    for round in 0..6 {
        let phone = engine.newcomer().await;
        let keeper = engine.link_unread(&phone, "keeper").await;
        let going = engine.link_unread(&phone, "going").await;
        let linked = mothers::linked(&phone, "coming", engine.now());
        assert!(engine.store.offer_link(linked.offer, engine.now()).await.unwrap());
        let (coming, ()) =
            tokio::join!(engine.register(linked.registration), engine.deactivate(&phone, &going));
        let listed = engine.listed(phone.user_id).await;
        assert_eq!(listed.len(), 3);
        assert_eq!(engine.notices(phone.device_no).await, [(4, listed.clone())], "round {round}");
        assert_eq!(engine.notices(keeper.device_no).await, [(3, listed.clone())], "round {round}");
        // The newcomer hears of it if it was there first.
        for (_, heard) in engine.notices(coming.device_no).await {
            assert_eq!(heard, listed);
        }
    }
}
