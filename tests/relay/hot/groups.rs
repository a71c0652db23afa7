//! The promises about groups, for any engine: entries of logs, and states of MLS groups.

use std::sync::Arc;

use bytes::Bytes;
use restante::{
    domain::{EntryKind, LogEntry, Position},
    hot::{Event, GroupEvent},
};

use super::rig::{Rig, bare_entry, delivery, entry, group, notice, spell_group, until};

fn spelled(events: &[GroupEvent]) -> Vec<String> {
    events.iter().map(spell_group).collect()
}

fn told(entries: &[Arc<LogEntry>]) -> Vec<String> {
    entries.iter().map(|entry| spell_group(&GroupEvent::Entry(Arc::clone(entry)))).collect()
}

fn digest(state: &[u8]) -> [u8; 32] {
    *blake3::hash(state).as_bytes()
}

pub(super) async fn an_entry_reaches_a_subscribed_other_node_and_not_the_own_one(rig: &Rig) {
    let group = group();
    rig.one.hot.subscribe_group(group).await.unwrap();
    rig.two.hot.subscribe_group(group).await.unwrap();
    let entries = [entry(group, 1, 10)];
    rig.one.hot.publish_entries(&entries).await.unwrap();
    assert_eq!(spelled(&rig.two.bell.wait_for_group(group, 1).await), told(&entries));
    // What comes later proves that the own entry did not come before it.
    let answer = [entry(group, 2, 10)];
    rig.two.hot.publish_entries(&answer).await.unwrap();
    assert_eq!(spelled(&rig.one.bell.wait_for_group(group, 1).await), told(&answer));
}

pub(super) async fn after_subscribing_to_a_group_no_entry_is_missed(rig: &Rig) {
    for round in 1..=200 {
        let group = group();
        rig.two.hot.subscribe_group(group).await.unwrap();
        let entries = [entry(group, round, 5)];
        rig.one.hot.publish_entries(&entries).await.unwrap();
        assert_eq!(spelled(&rig.two.bell.wait_for_group(group, 1).await), told(&entries));
    }
}

pub(super) async fn after_unsubscribing_from_a_group_no_entry_comes(rig: &Rig) {
    let (quiet, marker) = (group(), group());
    rig.two.hot.subscribe_group(marker).await.unwrap();
    for round in 1..=50 {
        rig.two.hot.subscribe_group(quiet).await.unwrap();
        rig.two.hot.subscribe_group(quiet).await.unwrap();
        rig.two.hot.unsubscribe_group(quiet).await.unwrap();
        let position = i64::try_from(round).unwrap();
        let entries = [entry(quiet, position, 1), entry(marker, position, 1)];
        rig.one.hot.publish_entries(&entries).await.unwrap();
        rig.two.bell.wait_for_group(marker, round).await;
        assert!(rig.two.bell.heard_of(quiet).is_empty());
    }
    rig.two.hot.unsubscribe_group(quiet).await.unwrap();
}

pub(super) async fn entries_of_a_group_keep_their_order(rig: &Rig) {
    let groups = [group(), group()];
    for group in groups {
        rig.two.hot.subscribe_group(group).await.unwrap();
    }
    for start in (1..=1_000).step_by(50) {
        let batch: Vec<_> =
            (start..start + 50).flat_map(|at| groups.map(|group| entry(group, at, 100))).collect();
        rig.one.hot.publish_entries(&batch).await.unwrap();
    }
    for group in groups {
        let heard = rig.two.bell.wait_for_group(group, 1_000).await;
        let order: Vec<_> =
            heard
                .iter()
                .map(|event| {
                    if let GroupEvent::Entry(entry) = event { entry.position.0 } else { panic!("{event:?}") }
                })
                .collect();
        assert_eq!(order, (1..=1_000).collect::<Vec<_>>());
    }
}

pub(super) async fn every_kind_of_entry_survives_the_trip_unchanged(rig: &Rig) {
    let group = group();
    rig.two.hot.subscribe_group(group).await.unwrap();
    let kinds = [
        EntryKind::Application,
        EntryKind::Commit,
        EntryKind::Proposal,
        EntryKind::Membership,
        EntryKind::Reset,
    ];
    let mut entries: Vec<_> = (1..).zip(kinds).map(|(at, kind)| bare_entry(group, at, kind)).collect();
    entries.push(entry(group, i64::MAX, 1_000));
    rig.one.hot.publish_entries(&entries).await.unwrap();
    let heard = rig.two.bell.wait_for_group(group, entries.len()).await;
    assert_eq!(spelled(&heard), told(&entries));
}

pub(super) async fn a_heavy_entry_travels_as_a_wake(rig: &Rig) {
    let group = group();
    rig.two.hot.subscribe_group(group).await.unwrap();
    let light = entry(group, 2, 60 * 1024);
    let entries = [entry(group, 1, 65 * 1024), Arc::clone(&light), entry(group, 3, 3 << 20)];
    rig.one.hot.publish_entries(&entries).await.unwrap();
    let heard = rig.two.bell.wait_for_group(group, 3).await;
    assert_eq!(spelled(&heard), ["wake 1".to_owned(), told(&[light]).remove(0), "wake 3".to_owned()]);
}

pub(super) async fn devices_and_groups_do_not_hear_each_others(rig: &Rig) {
    let (device, mine, other) = (rig.device(), group(), group());
    rig.two.hot.subscribe(device).await.unwrap();
    rig.two.hot.subscribe_group(mine).await.unwrap();
    rig.one.hot.publish_entries(&[entry(other, 1, 1), entry(mine, 1, 1)]).await.unwrap();
    rig.one.hot.deliver(&[delivery(device, 1, &notice())]).await.unwrap();
    rig.one.hot.notify(device, Event::Wake(Position(2))).await.unwrap();
    rig.two.bell.wait_for_group(mine, 1).await;
    rig.two.bell.wait_for(device, 2).await;
    assert_eq!((rig.two.bell.heard_of_groups(), rig.two.bell.heard_in_all()), (1, 2));
}

pub(super) async fn many_groups_get_each_their_own(rig: &Rig) {
    let groups: Vec<_> = (0..1_500).map(|_| group()).collect();
    let wishes = groups.iter().map(|group| rig.two.hot.subscribe_group(*group));
    for subscribed in futures_util::future::join_all(wishes).await {
        subscribed.unwrap();
    }
    let entries: Vec<_> = groups.iter().map(|group| entry(*group, 1, 20)).collect();
    rig.one.hot.publish_entries(&entries).await.unwrap();
    until("every group is served", async || rig.two.bell.heard_of_groups() >= groups.len()).await;
    for (group, entry) in groups.into_iter().zip(entries) {
        assert_eq!(spelled(&rig.two.bell.heard_of(group)), told(&[entry]));
    }
}

pub(super) async fn a_closed_node_hears_of_no_group(rig: &Rig) {
    let group = group();
    rig.two.hot.subscribe_group(group).await.unwrap();
    rig.two.hot.close().await;
    assert!(rig.two.hot.subscribe_group(group).await.is_err());
    for at in 1..=20 {
        rig.one.hot.publish_entries(&[entry(group, at, 1)]).await.unwrap();
    }
    rig.one.hot.publish_entries(&[]).await.unwrap();
    assert_eq!(rig.two.bell.heard_of_groups(), 0);
}

pub(super) async fn a_state_is_given_by_its_digest_and_no_other_is(rig: &Rig) {
    let (mine, other) = (group(), group());
    let (first, second) = (Bytes::from(vec![7; 900_000]), Bytes::from_static(b"\x01second"));
    assert_eq!(rig.two.hot.state(mine, digest(&first)).await.unwrap(), None);
    rig.one.hot.keep_state(mine, digest(&first), first.clone()).await.unwrap();
    rig.one.hot.keep_state(other, digest(&second), second.clone()).await.unwrap();
    for node in [&rig.one, &rig.two] {
        assert_eq!(node.hot.state(mine, digest(&first)).await.unwrap(), Some(first.clone()));
        assert_eq!(node.hot.state(mine, digest(&second)).await.unwrap(), None);
        assert_eq!(node.hot.state(other, digest(&second)).await.unwrap(), Some(second.clone()));
    }
    rig.two.hot.keep_state(mine, digest(&second), second.clone()).await.unwrap();
    assert_eq!(rig.one.hot.state(mine, digest(&second)).await.unwrap(), Some(second.clone()));
    assert_eq!(rig.one.hot.state(mine, digest(&first)).await.unwrap(), None, "one state of each group");
}

pub(super) async fn a_state_that_is_not_what_its_digest_says_is_not_given(rig: &Rig) {
    let group = group();
    rig.one.hot.keep_state(group, digest(b"state"), Bytes::from_static(b"another")).await.unwrap();
    assert_eq!(rig.two.hot.state(group, digest(b"state")).await.unwrap(), None);
    assert_eq!(rig.two.hot.state(group, [0; 32]).await.unwrap(), None);
}

pub(super) async fn a_state_that_is_too_large_is_not_kept_and_neither_is_the_one_before_it(rig: &Rig) {
    let group = group();
    let (small, large) = (Bytes::from_static(b"state"), Bytes::from(vec![1; (4 << 20) + 1]));
    rig.one.hot.keep_state(group, digest(&small), small.clone()).await.unwrap();
    rig.one.hot.keep_state(group, digest(&large), large.clone()).await.unwrap();
    assert_eq!(rig.one.hot.state(group, digest(&large)).await.unwrap(), None);
    assert_eq!(rig.one.hot.state(group, digest(&small)).await.unwrap(), None);
}
