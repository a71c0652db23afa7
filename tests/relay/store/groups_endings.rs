//! What of groups is forgotten by age, and what a restore makes of them.

use std::time::Duration;

use restante::{
    domain::{Epoch, Position, SignatureScheme, Timestamp},
    store::{Advanced, Allowed, GroupAccepted, LOG_LIFE, OneTimeKeys, PackagesPublished},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mls_mothers as mls,
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    entries_are_forgotten_by_age_and_their_places_are_told,
    the_commit_of_an_epoch_is_known_while_its_entry_is_kept,
    trees_are_kept_for_joiners_and_for_members,
    a_window_that_ended_goes_with_its_last_entry,
    reports_are_forgotten_by_age,
    an_empty_group_is_forgotten_with_its_log,
    an_mls_group_that_everybody_leaves_is_forgotten_with_its_log,
    a_group_that_is_quiet_stays,
    after_a_restore_no_position_is_given_again,
    after_a_restore_mls_groups_are_rolled_back_and_their_tokens_gone,
    after_a_restore_no_package_is_given_again,
    a_restore_may_be_done_twice,
);

const MOMENT: Duration = Duration::from_millis(1);

async fn entries_are_forgotten_by_age_and_their_places_are_told(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let first = mls::send(&alice, group, Some(Epoch(1)));
    engine.group_stored(first.clone()).await;
    engine.advance(DAY);
    engine.say(group, &bob).await;
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert_eq!(engine.log(group).await.len(), 3);
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    let page = async |after| {
        let page =
            engine.store.group_log(group, Position(after), 10, usize::MAX, engine.now()).await.unwrap();
        let places: Vec<i64> = page.entries.iter().map(|entry| entry.position.0).collect();
        (places, page.more, page.head.0, page.oldest.0)
    };
    assert_eq!(page(0).await, (vec![3], false, 3, 3));
    assert_eq!(page(2).await.0, [3]);
    engine.advance(2 * DAY);
    engine.expire_all().await;
    assert_eq!(page(0).await, (vec![], false, 3, 4), "the next one will be the first");
    assert!(engine.tables().await["group_log"].is_empty());
    assert_eq!(engine.group(group, &alice).await.head, Position(3));

    // Cursors do not hold the log, and the windows stay.
    assert_eq!(engine.window(&bob, group).await.cursor, Position(1));
    let receipt = engine.group_stored(mls::send(&bob, group, Some(Epoch(1)))).await;
    assert_eq!((receipt.position, page(0).await), (Position(4), (vec![4], false, 4, 4)));
    engine.read_to(&bob, group, 2).await;
    assert_eq!(engine.window(&bob, group).await.cursor, Position(2));
    // The id was remembered as long as its entry.
    let again = engine.group_accept(first).await;
    assert!(matches!(again, GroupAccepted::Stored(_)), "{again:?}");
}

async fn the_commit_of_an_epoch_is_known_while_its_entry_is_kept(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let group = engine.filled(&alice, &[]).await;
    let commit = engine.commit(group, &alice).await;
    engine.advanced(commit.clone()).await;
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert!(engine.store.commit_of(group, 0, Epoch(1)).await.unwrap().is_some());
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    assert!(engine.store.commit_of(group, 0, Epoch(1)).await.unwrap().is_none());
    assert!(engine.tables().await["group_commits"].is_empty());
    assert_eq!(engine.try_advance(commit).await, Advanced::Stale(Epoch(2)), "it cannot be told any more");
    engine.advanced(engine.commit(group, &alice).await).await;
}

async fn trees_are_kept_for_joiners_and_for_members(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.created(mls::group(&alice)).await.group_id;
    let kept = async || {
        let mut kept = Vec::new();
        for epoch in 0..8 {
            if engine.store.ratchet_tree(group, 0, Epoch(epoch)).await.unwrap().is_some() {
                kept.push(epoch);
            }
        }
        kept
    };
    assert_eq!(kept().await, [0]);
    engine.advanced(engine.commit(group, &alice).await).await;
    assert_eq!(kept().await, [1], "of the current epoch");
    engine.add(group, &alice, &[&bob]).await;
    engine.advanced(engine.commit(group, &alice).await).await;
    assert_eq!(kept().await, [2, 3], "somebody joined at 2 by a Welcome");
    let external = Some(restante::store::ExternalJoiner { leaf_index: Some(2), invite: None });
    let commit = restante::store::Advance { external, ..engine.commit(group, &tablet).await };
    let tree = commit.epoch_state.tree.clone();
    engine.advanced(commit).await;
    assert_eq!(engine.store.ratchet_tree(group, 0, Epoch(4)).await.unwrap(), tree);
    engine.advanced(engine.commit(group, &alice).await).await;
    assert_eq!(kept().await, [2, 5], "who joins by an external commit has the tree");
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert_eq!(kept().await, [2, 5]);
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    assert_eq!(kept().await, [5], "the current one stays");
    let carol = engine.mls_newcomer().await;
    engine.add(group, &alice, &[&carol]).await;
    assert_eq!(kept().await, [6]);
    engine.advance(2 * LOG_LIFE);
    engine.advanced(engine.commit(group, &alice).await).await;
    engine.advance(LOG_LIFE.checked_sub(MOMENT).unwrap());
    engine.expire_all().await;
    assert_eq!(kept().await, [6, 7], "however long its epoch was");
    engine.advance(MOMENT);
    engine.expire_all().await;
    assert_eq!(kept().await, [7]);
}

async fn a_window_that_ended_goes_with_its_last_entry(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.remove(group, &alice, &[&bob]).await;
    engine.advance(DAY);
    engine.add(group, &alice, &[&bob]).await;
    assert_eq!(engine.windows_in(&bob, group).await.len(), 2);
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    let window = engine.window(&bob, group).await;
    assert_eq!((window.opened_after, window.closed_at), (Position(3), None));
    assert_eq!(engine.tables().await["group_windows"].len(), 2, "alice's and bob's");
    let windows = engine.store.windows(bob.device_no, None).await.unwrap();
    assert_eq!(windows.iter().map(|(window, _)| window.opened_after.0).collect::<Vec<_>>(), [3]);
    engine.clock.set(NOON.plus(3 * LOG_LIFE));
    engine.expire_all().await;
    assert_eq!(engine.window(&bob, group).await, window, "it has not ended");
}

async fn reports_are_forgotten_by_age(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let group = engine.filled(&alice, &[]).await;
    let commit = engine.log(group).await.remove(0).body.unwrap();
    let report = mls::report(&alice, group, Epoch(0), mls::digest(&commit));
    assert_eq!(engine.store.report_commit(report, engine.now()).await.unwrap(), Allowed::Done);
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert_eq!(engine.tables().await["group_reports"].len(), 1);
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    assert!(engine.tables().await["group_reports"].is_empty());
}

async fn an_empty_group_is_forgotten_with_its_log(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob]).await;
    engine.say(group, &bob).await;
    engine.changed(group, &alice, &[], &[&bob]).await;
    engine.changed(group, &alice, &[], &[&alice]).await;
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert_eq!(engine.windows_in(&bob, group).await.len(), 1, "there is something left to read");
    engine.clock.set(NOON.plus(LOG_LIFE).plus(DAY));
    engine.expire_all().await;
    assert!(engine.store.standing(group, &alice).await.unwrap().is_none());
    let tables = engine.tables().await;
    for (table, rows) in &tables {
        let of_groups = table.starts_with("group") || table == "mls_group_states";
        assert!(!of_groups || rows.is_empty(), "{table} holds {rows:?}");
    }
}

async fn an_mls_group_that_everybody_leaves_is_forgotten_with_its_log(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (left, kept) = (engine.filled(&alice, &[&bob]).await, engine.filled(&alice, &[&bob]).await);
    engine.proposed(kept, &bob, &[mls::leave(&bob)]).await;
    for device in [&alice, &bob] {
        engine.proposed(left, device, &[mls::leave(device)]).await;
    }
    engine.clock.set(NOON.plus(LOG_LIFE).minus(MOMENT));
    engine.expire_all().await;
    assert!(engine.store.standing(left, &alice).await.unwrap().is_some(), "there is something left to read");
    engine.clock.set(NOON.plus(LOG_LIFE).plus(MOMENT));
    engine.expire_all().await;
    assert!(engine.store.standing(left, &alice).await.unwrap().is_none());
    assert!(engine.may_write(kept, &alice).await);
    let id = left.uuid().simple().to_string();
    let tables = engine.tables().await;
    for (table, rows) in tables.iter().filter(|(table, _)| table.contains("group")) {
        let trace = rows.iter().find(|row| row.to_lowercase().replace('-', "").contains(&id));
        assert_eq!(trace, None, "{table} tells of it");
    }
}

async fn a_group_that_is_quiet_stays(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let groups = [engine.filled(&alice, &[&bob]).await, engine.roster(&alice, &[&bob]).await];
    engine.clock.set(NOON.plus(5 * LOG_LIFE));
    engine.expire_all().await;
    for group in groups {
        assert_eq!(engine.members(group).await.len(), 2);
        assert!(engine.may_write(group, &bob).await);
        engine.say(group, &bob).await;
    }
    engine.advanced(engine.commit(groups[0], &alice).await).await;
}

/// The least that a number is beyond all that were given before `now`.
fn floor(now: Timestamp) -> i64 {
    now.millis() * 1000
}

async fn after_a_restore_no_position_is_given_again(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (roster, group) = (engine.roster(&alice, &[&bob]).await, engine.filled(&alice, &[&bob]).await);
    engine.say(roster, &alice).await;
    let sent = mls::send(&alice, roster, None);
    let receipt = engine.group_stored(sent.clone()).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    for group in [roster, group] {
        assert!(engine.group(group, &alice).await.head.0 >= floor(engine.now()));
    }
    assert!(!engine.group(roster, &alice).await.rolled_back, "there is no state to be behind of");
    assert_eq!(engine.group_accept(sent).await, GroupAccepted::Repeated(receipt));
    let head = engine.group(roster, &alice).await.head;
    assert_eq!(engine.say(roster, &bob).await.position, head.next());

    // What was there still is, and the places between are gone for good.
    let page = engine.store.group_log(roster, Position::START, 10, usize::MAX, engine.now()).await.unwrap();
    let places: Vec<_> = page.entries.iter().map(|entry| entry.position).collect();
    assert_eq!(places, [Position(1), Position(2), head.next()]);
    assert_eq!((page.more, page.head, page.oldest), (false, head.next(), Position(1)));
    engine.read_to(&bob, roster, head.0).await;
    assert!(engine.window(&bob, roster).await.cursor >= Position(2));
    engine.read_to(&bob, roster, i64::MAX).await;
    assert_eq!(engine.window(&bob, roster).await.cursor, head.next());
    engine.clock.set(NOON.plus(2 * LOG_LIFE));
    engine.expire_all().await;
    let page = engine.store.group_log(roster, Position::START, 10, usize::MAX, engine.now()).await.unwrap();
    assert_eq!((page.entries.len(), page.oldest), (0, head.next().next()));
}

async fn after_a_restore_mls_groups_are_rolled_back_and_their_tokens_gone(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let (invite, token) = (mls::invite(engine.now(), Duration::from_hours(1)), mothers::bytes());
    engine.store.make_invite(group, &alice, invite, token).await.unwrap();
    let commit = engine.commit(group, &bob).await;
    let (epoch, position) = engine.advanced(commit.clone()).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    let standing = engine.standing(group, &bob).await;
    assert!(standing.group.rolled_back && standing.may_write());
    assert!(!engine.store.is_invited(group, token, engine.now()).await.unwrap());
    assert!(engine.store.invites(group, engine.now()).await.unwrap().is_empty());
    let before = engine.tables().await;
    let refused = engine.group_accept(mls::send(&bob, group, Some(epoch))).await;
    assert_eq!(refused, GroupAccepted::RolledBack);
    assert_eq!(
        engine.try_advance(commit).await,
        Advanced::Repeated(epoch, position),
        "a repeat is one still"
    );
    engine.assert_unchanged(&before, "a group that was rolled back").await;
}

async fn after_a_restore_no_package_is_given_again(engine: Engine) {
    let registration = mls::registration(mothers::user(), "phone");
    let phone = engine.register(registration.clone()).await;
    let issued = engine.issued(&phone).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    assert!(engine.claim(phone.user_id, OneTimeKeys::Given).await.is_empty(), "nor the last resort");
    assert_eq!(
        engine
            .store
            .key_stats(phone.device_no, crate::support::engine::NOON)
            .await
            .unwrap()
            .unwrap()
            .key_packages,
        0
    );
    let again = engine.publish(&phone, registration.packages.clone()).await;
    let known =
        PackagesPublished::Published { accepted: 0, already_known: 4, count: 0, has_last_resort: false };
    assert_eq!(again, known);
    assert!(engine.claim(phone.user_id, OneTimeKeys::Given).await.is_empty());
    let told = engine.store.issued_packages(&[issued.reference]).await.unwrap();
    assert_eq!(told.len(), 1, "what was handed out is known");
    let key = engine.mls_key(&phone, SignatureScheme::Ed25519).await.unwrap();
    let fresh = mls::packages(&key, 1);
    engine.publish(&phone, mls::one_time(&fresh)).await;
    let claimed = engine.claim(phone.user_id, OneTimeKeys::Given).await;
    assert_eq!(claimed, [(phone.device_no, fresh[0].body.clone(), false, 0)]);
}

async fn a_restore_may_be_done_twice(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (roster, group) = (engine.roster(&alice, &[&bob]).await, engine.filled(&alice, &[&bob]).await);
    let mut before = [Position(0), Position(1)];
    for _ in 0..3 {
        engine.store.after_restore(engine.now()).await.unwrap();
        for (group, before) in [roster, group].into_iter().zip(&mut before) {
            let head = engine.group(group, &alice).await.head;
            assert!(head.0 >= before.0 + 1_000_000, "{head:?} {before:?}");
            *before = head;
        }
    }
    engine.clock.set(Timestamp::from_millis(0));
    engine.store.after_restore(engine.now()).await.unwrap();
    assert!(
        engine.group(roster, &alice).await.head.0 >= before[0].0 + 1_000_000,
        "a clock before the backup's"
    );
    engine.clock.set(NOON);
    engine.say(roster, &bob).await;
    assert_eq!(engine.members(group).await.len(), 2);
    assert!(engine.log(group).await.len() == 1 && engine.group(group, &bob).await.rolled_back);
}
