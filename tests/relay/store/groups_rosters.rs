//! Roster groups: who is in them, and the devices that come and go meanwhile.

use futures_util::future::join_all;
use restante::{
    domain::{Caller, EntryKind, Epoch, GroupId, Position, Role, UserId},
    store::{Advanced, CannotAdd, LOG_LIFE, Proposed, Registered, Revival, RosterChange, RosterChanged},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    group_acts::Gate,
    mls_mothers as mls,
    mothers::{self, LinkedRegistration},
};

on_both_engines!(roomy =>
    a_roster_group_takes_neither_commits_nor_proposals,
    users_are_added_with_all_their_devices,
    users_are_removed_with_all_their_devices,
    who_is_in_the_group_already_is_skipped,
    a_change_is_made_whole_or_not_at_all,
    an_admin_changes_the_roster_and_nobody_removes_the_owner,
    anyone_leaves_and_an_owner_hands_over,
    an_mls_group_needs_a_commit,
    a_device_linked_later_reads_from_the_head_on,
    a_device_that_is_deactivated_reads_and_writes_no_more,
    a_user_who_comes_back_is_still_in_its_groups,
    a_device_linked_while_its_user_is_added_has_a_window,
    a_device_linked_while_its_user_is_removed_has_none,
);

/// The users that an entry of a changed roster tells of.
fn told(body: &[u8]) -> (Vec<UserId>, Vec<UserId>) {
    let told: serde_json::Value = serde_json::from_slice(body).unwrap();
    let users = |field: &str| {
        let ids = told[field].as_array().unwrap().iter();
        ids.map(|id| UserId::new(id.as_str().unwrap().parse().unwrap())).collect()
    };
    assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
    (users("added"), users("removed"))
}

/// Whether exactly these users are told of, in any order.
fn same(mut found: Vec<UserId>, expected: &[&Caller]) -> bool {
    let mut expected: Vec<UserId> = expected.iter().map(|caller| caller.user_id).collect();
    expected.sort_unstable();
    found.sort_unstable();
    found == expected
}

async fn users(engine: &Engine, group: GroupId) -> Vec<(UserId, Role)> {
    engine.members(group).await.into_iter().map(|member| (member.user_id, member.role)).collect()
}

async fn users_are_added_with_all_their_devices(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let group = engine.roster(&alice, &[]).await;
    engine.say(group, &alice).await;
    engine.emitted_all();
    assert_eq!(engine.changed(group, &alice, &[&bob, &carol], &[]).await, (Epoch(1), Position(2)));
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (3, 1));
    let entry = engine.log(group).await.pop().unwrap();
    assert_eq!((&entry, entry.kind), (&*entries[0], EntryKind::Membership));
    assert_eq!((entry.sender_id, entry.closes.len()), (alice.user_id, 0));
    let (added, removed) = told(&entry.body.unwrap());
    assert!(same(added, &[&bob, &carol]) && removed.is_empty());
    for device in [&bob, &tablet, &carol] {
        let window = engine.window(device, group).await;
        assert_eq!((window.opened_after, window.closed_at, window.cursor), (Position(2), None, Position(2)));
        assert_eq!(engine.gate(device, &window).await, Gate::Joined(group));
        engine.say(group, device).await;
    }
    let now = engine.group(group, &alice).await;
    assert_eq!((now.epoch, now.member_count, now.head), (Epoch(1), 3, Position(5)));
}

async fn users_are_removed_with_all_their_devices(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&bob, "tablet").await;
    let group = engine.roster(&alice, &[&bob, &carol]).await;
    assert_eq!(engine.changed(group, &alice, &[], &[&bob]).await, (Epoch(1), Position(1)));
    let entry = engine.log(group).await.remove(0);
    assert_eq!(*entry.closes, [bob.device_no, tablet.device_no]);
    let (added, removed) = told(&entry.body.unwrap());
    assert!(added.is_empty() && same(removed, &[&bob]));
    for device in [&bob, &tablet] {
        assert_eq!(engine.window(device, group).await.closed_at, Some(Position(1)));
        assert_eq!(engine.standing(group, device).await.role, None);
        assert!(!engine.may_write(group, device).await);
    }
    assert_eq!(users(&engine, group).await.len(), 2);
    assert!(engine.store.groups_of(bob.user_id, None, 10).await.unwrap().is_empty());

    engine.changed(group, &alice, &[&bob], &[&carol]).await;
    let windows = engine.windows_in(&bob, group).await;
    assert_eq!(windows.iter().map(|it| it.opened_after.0).collect::<Vec<_>>(), [0, 2], "a new window");
    let (added, removed) = told(&engine.log(group).await[1].body.clone().unwrap());
    assert!(same(added, &[&bob]) && same(removed, &[&carol]));
    assert!(engine.members(group).await.iter().any(|member| member.invited), "it was added anew");
}

async fn who_is_in_the_group_already_is_skipped(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob]).await;
    let first = engine.changed(group, &alice, &[&bob, &carol], &[]).await;
    let (added, _) = told(&engine.log(group).await[0].body.clone().unwrap());
    assert!(same(added, &[&carol]));
    engine.say(group, &alice).await;
    let before = engine.tables().await;
    for nothing in [&[&carol][..], &[&carol, &bob, &alice], &[]] {
        assert_eq!(engine.changed(group, &alice, nothing, &[]).await, first, "the last change");
    }
    engine.assert_unchanged(&before, "nothing to change").await;
    engine.advance(2 * LOG_LIFE);
    engine.expire_all().await;
    assert_eq!(engine.changed(group, &alice, &[&carol], &[]).await, first, "although its entry is forgotten");
}

async fn a_change_is_made_whole_or_not_at_all(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let left = engine.newcomer().await;
    engine.deactivate(&left, &left).await;
    let group = engine.roster(&alice, &[&bob]).await;
    let nobody = mothers::user();
    let before = engine.tables().await;
    for (add, unknown) in [([carol.user_id, nobody], nobody), ([left.user_id, carol.user_id], left.user_id)] {
        let change =
            RosterChange { group_id: group, by: alice.clone(), add: add.to_vec(), remove: vec![bob.user_id] };
        let refused = engine.store.change_roster(change, engine.now()).await.unwrap();
        assert_eq!(refused, RosterChanged::CannotAdd(CannotAdd::UserUnknown(unknown)));
    }
    let refused = engine.try_change(group, &alice, &[&left], &[&carol]).await;
    assert!(matches!(refused, RosterChanged::Unknown | RosterChanged::CannotAdd(_)), "{refused:?}");
    assert_eq!(engine.try_change(group, &alice, &[&carol], &[&bob, &left]).await, RosterChanged::Unknown);
    engine.assert_unchanged(&before, "a refused change").await;
}

async fn an_admin_changes_the_roster_and_nobody_removes_the_owner(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let (dave, stranger) = (engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob, &carol]).await;
    engine.store.set_role(group, &alice, bob.user_id, Role::Admin).await.unwrap();
    let before = engine.tables().await;
    let refused = RosterChanged::NotAllowed;
    assert_eq!(engine.try_change(group, &carol, &[&dave], &[]).await, refused);
    assert_eq!(engine.try_change(group, &carol, &[], &[&bob]).await, refused);
    assert_eq!(engine.try_change(group, &carol, &[], &[&carol, &bob]).await, refused);
    assert_eq!(engine.try_change(group, &bob, &[], &[&alice]).await, refused);
    assert_eq!(engine.try_change(group, &bob, &[&dave], &[&carol, &alice]).await, refused);
    assert_eq!(engine.try_change(group, &stranger, &[&stranger], &[]).await, RosterChanged::NotMember);
    assert_eq!(engine.try_change(group, &stranger, &[], &[&stranger]).await, RosterChanged::NotMember);
    assert_eq!(engine.try_change(mls::group_id(), &alice, &[&dave], &[]).await, RosterChanged::NotMember);
    engine.assert_unchanged(&before, "a refused change").await;
    engine.changed(group, &bob, &[&dave], &[&carol]).await;
    engine.changed(group, &alice, &[], &[&bob]).await;
    let left = users(&engine, group).await;
    assert_eq!(left, [(alice.user_id, Role::Owner), (dave.user_id, Role::Member)]);
}

async fn anyone_leaves_and_an_owner_hands_over(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob, &carol]).await;
    engine.changed(group, &bob, &[], &[&bob]).await;
    assert_eq!(engine.try_change(group, &bob, &[], &[&bob]).await, RosterChanged::NotMember);
    engine.changed(group, &alice, &[&bob], &[]).await;
    engine.changed(group, &alice, &[], &[&alice]).await;
    let left = users(&engine, group).await;
    assert_eq!(left, [(carol.user_id, Role::Owner), (bob.user_id, Role::Member)], "the oldest member");

    engine.changed(group, &carol, &[&alice], &[]).await;
    engine.store.set_role(group, &carol, alice.user_id, Role::Admin).await.unwrap();
    engine.changed(group, &carol, &[], &[&carol]).await;
    let left = users(&engine, group).await;
    assert_eq!(left, [(alice.user_id, Role::Owner), (bob.user_id, Role::Member)], "the oldest admin");
    for last in [&bob, &alice] {
        engine.changed(group, last, &[], &[last]).await;
    }
    assert_eq!(engine.log(group).await.len(), 7);
    assert!(engine.store.members(group).await.unwrap().is_none_or(|members| members.is_empty()));
    assert!(!engine.may_write(group, &alice).await);
}

async fn an_mls_group_needs_a_commit(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let before = engine.tables().await;
    assert_eq!(engine.try_change(group, &alice, &[&stranger], &[]).await, RosterChanged::CommitRequired);
    assert_eq!(engine.try_change(group, &bob, &[], &[&bob]).await, RosterChanged::CommitRequired);
    assert_eq!(engine.try_change(group, &stranger, &[&stranger], &[]).await, RosterChanged::NotMember);
    engine.assert_unchanged(&before, "a refused change").await;
}

async fn a_device_linked_later_reads_from_the_head_on(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let rosters = [engine.roster(&alice, &[&bob]).await, engine.roster(&bob, &[]).await];
    let group = engine.filled(&alice, &[&bob]).await;
    let left = engine.roster(&alice, &[&bob]).await;
    engine.changed(left, &bob, &[], &[&bob]).await;
    for _ in 0..3 {
        engine.say(rosters[0], &alice).await;
    }
    let version = engine.standing(rosters[0], &alice).await.version;
    engine.emitted_all();
    let tablet = engine.link_unread(&bob, "tablet").await;
    for (roster, head) in rosters.into_iter().zip([3, 0]) {
        let window = engine.window(&tablet, roster).await;
        assert_eq!(
            (window.opened_after, window.cursor, window.closed_at),
            (Position(head), Position(head), None)
        );
        assert_eq!(engine.gate(&tablet, &window).await, Gate::Joined(roster));
    }
    for none in [group, left] {
        assert!(engine.windows_in(&tablet, none).await.is_empty());
    }
    let (items, entries) = engine.emitted_all();
    let own = items.iter().filter(|it| it.device_no == tablet.device_no).count();
    assert_eq!((own, entries.len()), (2, 0), "no entry tells of it");
    assert!(engine.standing(rosters[0], &alice).await.version >= version);
    engine.say(rosters[0], &tablet).await;
    let devices = &engine.members(rosters[0]).await[1].devices;
    assert_eq!(devices.iter().map(|it| it.device_no).collect::<Vec<_>>(), [bob.device_no, tablet.device_no]);
}

async fn a_device_that_is_deactivated_reads_and_writes_no_more(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let roster = engine.roster(&alice, &[&bob]).await;
    let group = engine.filled(&alice, &[&bob, &tablet]).await;
    let version = engine.standing(group, &alice).await.version;
    engine.deactivate(&bob, &tablet).await;
    for group in [roster, group] {
        assert!(engine.windows_in(&tablet, group).await.is_empty());
        assert!(!engine.may_write(group, &tablet).await && engine.may_write(group, &bob).await);
    }
    assert!(engine.store.windows(tablet.device_no, None).await.unwrap().is_empty());
    let devices = async |group| {
        let devices = engine.members(group).await.remove(1).devices.into_iter();
        devices.map(|it| (it.device_no, it.active)).collect::<Vec<_>>()
    };
    assert_eq!(devices(roster).await, [(bob.device_no, true)]);
    assert_eq!(devices(group).await, [(bob.device_no, true), (tablet.device_no, false)], "a dead leaf");
    assert_ne!(engine.standing(group, &alice).await.version, version);
    engine.remove(group, &alice, &[&tablet]).await;
    assert_eq!(devices(group).await, [(bob.device_no, true)]);
    assert_eq!(engine.log(roster).await.len(), 0);
    engine.say(roster, &bob).await;
}

async fn a_user_who_comes_back_is_still_in_its_groups(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob]).await;
    engine.say(group, &alice).await;
    engine.deactivate(&bob, &bob).await;
    let members = engine.members(group).await;
    assert_eq!((members[1].user_id, members[1].devices.len()), (bob.user_id, 0));
    engine.say(group, &alice).await;
    let admission = Revival::Admitted(mothers::single_use(engine.now()));
    let back = engine.register(mothers::revived(bob.user_id, "phone", admission)).await;
    let window = engine.window(&back, group).await;
    assert_eq!((window.opened_after, window.closed_at), (Position(2), None), "what was said is not for it");
    assert_eq!(engine.gate(&back, &window).await, Gate::Joined(group));
    engine.say(group, &back).await;
}

/// Links a device while the roster is changed, and returns the device.
async fn link_during(engine: &Engine, user: &Caller, name: &str, change: RosterChange) -> Caller {
    let LinkedRegistration { offer, registration } = mothers::linked(user, name, engine.now());
    assert!(engine.store.offer_link(offer, engine.now()).await.unwrap());
    let (one, other, now) = (engine.store.clone(), engine.twin().await, engine.now());
    let racing = [
        tokio::spawn(async move {
            let Registered::Registered(principal) = one.register_device(registration, now).await.unwrap()
            else {
                panic!("not registered")
            };
            Some(principal.caller)
        }),
        tokio::spawn(async move {
            let changed = other.change_roster(change, now).await.unwrap();
            assert!(matches!(changed, RosterChanged::Changed(..)), "{changed:?}");
            None
        }),
    ];
    join_all(racing).await.into_iter().find_map(Result::unwrap).unwrap()
}

async fn a_device_linked_while_its_user_is_added_has_a_window(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for round in 0..12 {
        let group = engine.roster(&alice, &[]).await;
        let (add, remove) = (vec![bob.user_id], Vec::new());
        let change = RosterChange { group_id: group, by: alice.clone(), add, remove };
        let tablet = link_during(&engine, &bob, &format!("tablet-{round}"), change).await;
        let window = engine.window(&tablet, group).await;
        assert_eq!((window.closed_at, engine.gate(&tablet, &window).await), (None, Gate::Joined(group)));
        engine.say(group, &tablet).await;
        engine.deactivate(&bob, &tablet).await;
        engine.ack_all(bob.device_no).await;
    }
}

async fn a_device_linked_while_its_user_is_removed_has_none(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    for round in 0..12 {
        let group = engine.roster(&alice, &[&bob]).await;
        let (add, remove) = (Vec::new(), vec![bob.user_id]);
        let change = RosterChange { group_id: group, by: alice.clone(), add, remove };
        let tablet = link_during(&engine, &bob, &format!("tablet-{round}"), change).await;
        for window in engine.windows_in(&tablet, group).await {
            assert_eq!(window.closed_at, Some(Position(1)));
        }
        assert!(!engine.may_write(group, &tablet).await && !engine.may_write(group, &bob).await);
        engine.deactivate(&bob, &tablet).await;
        engine.ack_all(bob.device_no).await;
    }
}

async fn a_roster_group_takes_neither_commits_nor_proposals(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.roster(&alice, &[&bob]).await;
    let before = engine.tables().await;
    let commit = engine.commit(group, &alice).await;
    assert_eq!(engine.try_advance(commit).await, Advanced::NotMember);
    assert_eq!(engine.try_propose(group, &bob, &[mls::leave(&bob)]).await, Proposed::NotMember);
    engine.assert_unchanged(&before, "what belongs into MLS groups").await;
}
