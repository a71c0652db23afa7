//! What devices read of group logs, and how far they have.

use std::time::Duration;

use restante::{
    domain::{EntryKind, GroupId, LogEntry, Position, Window},
    store::{LogPage, Store},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls, mothers,
};

on_both_engines!(roomy =>
    a_log_is_read_in_pages,
    a_page_holds_about_as_many_bytes_as_asked_for_but_one_entry,
    bodies_that_have_expired_are_left_out,
    heads_are_told_of_every_group_asked_for,
    a_cursor_moves_within_its_window_and_never_back,
    windows_are_told_while_there_is_something_to_read,
    a_device_knows_its_windows_alone,
    groups_of_a_user_come_in_pages_by_their_ids,
);

async fn page(store: &dyn Store, group: GroupId, after: i64, limit: u32, bytes: usize) -> LogPage {
    store.group_log(group, Position(after), limit, bytes, crate::support::engine::NOON).await.unwrap()
}

fn places(entries: &[LogEntry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.position.0).collect()
}

async fn a_log_is_read_in_pages(engine: Engine) {
    let alice = engine.newcomer().await;
    let group = engine.roster(&alice, &[]).await;
    let read = async |after, limit| {
        let page = page(&*engine.store, group, after, limit, usize::MAX).await;
        (places(&page.entries), page.more, page.head.0, page.oldest.0)
    };
    assert_eq!(read(0, 10).await, (vec![], false, 0, 1), "the first that is left is the next one");
    for _ in 0..5 {
        engine.say(group, &alice).await;
    }
    assert_eq!(read(0, 10).await, (vec![1, 2, 3, 4, 5], false, 5, 1));
    assert_eq!(read(0, 3).await, (vec![1, 2, 3], true, 5, 1));
    assert_eq!(read(3, 2).await.0, [4, 5]);
    assert_eq!(read(2, 1).await, (vec![3], true, 5, 1));
    assert_eq!(read(5, 10).await, (vec![], false, 5, 1));
    assert_eq!(read(9, 10).await, (vec![], false, 5, 1));
    let whole = page(&*engine.store, group, 1, 2, usize::MAX).await;
    assert_eq!(whole.entries, engine.log(group).await[1..3]);
}

async fn a_page_holds_about_as_many_bytes_as_asked_for_but_one_entry(engine: Engine) {
    let alice = engine.newcomer().await;
    let group = engine.roster(&alice, &[]).await;
    for _ in 0..10 {
        let mut send = mls::send(&alice, group, None);
        send.body = bytes::Bytes::from(vec![7; 20_000]);
        engine.group_stored(send).await;
    }
    let one = page(&*engine.store, group, 0, 10, 1).await;
    assert_eq!((places(&one.entries), one.more), (vec![1], true), "one, if there is one");
    let some = page(&*engine.store, group, 0, 10, 90_000).await;
    assert!((3..=6).contains(&some.entries.len()) && some.more, "{}", some.entries.len());
    assert_eq!(places(&some.entries), (1..=i64::try_from(some.entries.len()).unwrap()).collect::<Vec<_>>());
    let last = page(&*engine.store, group, 9, 10, 1).await;
    assert_eq!((places(&last.entries), last.more), (vec![10], false), "the head was reached");
}

async fn bodies_that_have_expired_are_left_out(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let epoch = Some(restante::domain::Epoch(1));
    let mut fleeting = mls::send(&alice, group, epoch);
    fleeting.expires_at = Some(engine.now().plus(Duration::from_mins(1)));
    engine.group_stored(fleeting.clone()).await;
    engine.say(group, &bob).await;
    let bodies = async || engine.log(group).await.iter().map(|it| it.body.is_some()).collect::<Vec<_>>();
    engine.advance(Duration::from_millis(59_999));
    assert_eq!(bodies().await, [true, true, true]);
    engine.advance(Duration::from_millis(1));
    assert_eq!(bodies().await, [true, false, true], "also when nothing erased it yet");
    let before = engine.log(group).await;
    engine.expire_all().await;
    assert_eq!(engine.log(group).await, before, "the entry stays");
    assert_eq!((before[1].message_id, before[1].expires_at), (fleeting.message_id, fleeting.expires_at));
    let rows = engine.tables().await["group_log"].concat();
    let hex = fleeting.body.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert!(!rows.to_lowercase().contains(&hex), "the body is gone");
    engine.advance(20 * mothers::DAY);
    engine.expire_all().await;
    assert_eq!(bodies().await, [true, false, true], "handshake entries never expire alone");
}

async fn heads_are_told_of_every_group_asked_for(engine: Engine) {
    let alice = engine.newcomer().await;
    let mut expected = Vec::new();
    for entries in 0..3 {
        let group = engine.roster(&alice, &[]).await;
        for _ in 0..entries {
            engine.say(group, &alice).await;
        }
        expected.push((group, Position(entries)));
    }
    let mut asked: Vec<GroupId> = (0..5_000).map(|_| mls::group_id()).collect();
    asked.extend(expected.iter().map(|(group, _)| *group));
    let mut heads = engine.store.group_heads(&asked).await.unwrap();
    heads.sort_unstable();
    expected.sort_unstable();
    assert_eq!(heads, expected);
    assert!(engine.store.group_heads(&[]).await.unwrap().is_empty());
}

async fn a_cursor_moves_within_its_window_and_never_back(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[]).await;
    engine.say(group, &alice).await;
    engine.add(group, &alice, &[&bob]).await;
    for _ in 0..4 {
        engine.say(group, &bob).await;
    }
    let cursors = async || {
        let windows = engine.windows_in(&bob, group).await;
        windows.iter().map(|window| window.cursor.0).collect::<Vec<_>>()
    };
    for (ack, cursor) in [(2, 3), (5, 5), (4, 5), (-7, 5), (i64::MAX, 7), (1, 7)] {
        engine.read_to(&bob, group, ack).await;
        assert_eq!(cursors().await, [cursor], "{ack}");
    }
    engine.say(group, &alice).await;
    engine.remove(group, &alice, &[&bob]).await;
    engine.say(group, &alice).await;
    engine.read_to(&bob, group, 10).await;
    assert_eq!(cursors().await, [9], "the end of the window");
    engine.add(group, &alice, &[&bob]).await;
    engine.say(group, &alice).await;
    engine.read_to(&bob, group, 10).await;
    assert_eq!(cursors().await, [9, 11]);
    engine.read_to(&bob, group, 12).await;
    assert_eq!(cursors().await, [9, 12]);

    // Others are left out, and do not keep the rest from moving.
    let elsewhere = engine.filled(&alice, &[]).await;
    engine.say(elsewhere, &alice).await;
    let before = engine.tables().await;
    let acks = [(elsewhere, Position(2)), (mls::group_id(), Position(1))];
    engine.store.ack_entries(bob.device_no, &acks).await.unwrap();
    engine.store.ack_entries(bob.device_no, &[]).await.unwrap();
    engine.assert_unchanged(&before, "acks of groups without a window").await;
    let acks = [(mls::group_id(), Position(1)), (group, Position(12)), (elsewhere, Position(1))];
    engine.store.ack_entries(alice.device_no, &acks).await.unwrap();
    assert_eq!(engine.window(&alice, group).await.cursor, Position(12));
    assert_eq!(engine.window(&alice, elsewhere).await.cursor, Position(1));
}

async fn windows_are_told_while_there_is_something_to_read(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let told = async |only| {
        let windows: Vec<(Window, Position)> = engine.store.windows(bob.device_no, only).await.unwrap();
        let told = windows.into_iter();
        told.map(|(it, head)| (it.opened_after.0, it.closed_at.map(|end| end.0), it.cursor.0, head.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(None).await, [(1, None, 1, 1)], "it has not ended");
    engine.remove(group, &alice, &[&bob]).await;
    assert_eq!(told(None).await, [(1, Some(2), 1, 2)], "it ends after its cursor");
    engine.add(group, &alice, &[&bob]).await;
    assert_eq!(told(None).await, [(1, Some(2), 1, 3), (3, None, 3, 3)], "oldest first");
    engine.read_to(&bob, group, 2).await;
    assert_eq!(told(None).await, [(3, None, 3, 3)], "the first was read");
    assert_eq!(engine.windows_in(&bob, group).await.len(), 2, "and still holds entries");

    let mut groups = vec![group];
    for _ in 0..4 {
        groups.push(engine.roster(&alice, &[&bob]).await);
    }
    groups.sort_unstable();
    let windows = engine.store.windows(bob.device_no, None).await.unwrap();
    let told_of: Vec<GroupId> = windows.iter().map(|(window, _)| window.group_id).collect();
    assert_eq!(told_of, groups, "by group");
    assert_eq!(told(Some(group)).await, [(3, None, 3, 3)]);
    assert!(told(Some(mls::group_id())).await.is_empty());
}

async fn a_device_knows_its_windows_alone(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    for outsider in [&stranger, &laptop] {
        assert!(engine.windows_in(outsider, group).await.is_empty());
        assert!(engine.store.windows(outsider.device_no, None).await.unwrap().is_empty());
        engine.read_to(outsider, group, 1).await;
    }
    engine.read_to(&alice, group, 1).await;
    assert_eq!(engine.window(&bob, group).await.cursor, Position(1));
    engine.say(group, &alice).await;
    engine.read_to(&bob, group, 2).await;
    assert_eq!(engine.window(&alice, group).await.cursor, Position(1), "each has a cursor of its own");
    let kinds: Vec<EntryKind> = engine.log(group).await.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Commit, EntryKind::Application]);
}

async fn groups_of_a_user_come_in_pages_by_their_ids(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let mut own = Vec::new();
    for number in 0..7 {
        let group = match number % 3 {
            0 => engine.roster(&alice, &[&bob]).await,
            1 => engine.roster(&bob, &[&alice]).await,
            _ => engine.filled(&alice, &[]).await,
        };
        own.push((group, engine.standing(group, &alice).await));
    }
    own.sort_unstable_by_key(|(group, _)| *group);
    let expected: Vec<_> = own
        .into_iter()
        .map(|(_, standing)| (standing.group, standing.role.unwrap(), standing.invited))
        .collect();
    let mut found = Vec::new();
    let mut after = None;
    for size in [3, 3, 1, 0] {
        let page = engine.store.groups_of(alice.user_id, after, 3).await.unwrap();
        assert_eq!(page.len(), size);
        after = page.last().map(|own| own.group.group_id).or(after);
        found.extend(page.into_iter().map(|own| (own.group, own.role, own.invited)));
    }
    assert_eq!(found, expected);
    assert!(engine.store.groups_of(mothers::user(), None, 10).await.unwrap().is_empty());
}
