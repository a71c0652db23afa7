//! Whom commits add and remove: windows, roles and packages.

use restante::{
    domain::{Epoch, Position, Role},
    store::{Advance, Advanced, CannotAdd, Joiner},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    group_acts::Gate,
    mls_mothers as mls,
};

on_both_engines!(roomy =>
    devices_that_are_added_read_from_the_next_entry_on,
    a_package_enters_one_group_once,
    a_last_resort_package_enters_any_number_of_groups,
    a_device_that_is_gone_is_not_added,
    devices_that_are_removed_read_up_to_the_commit,
    a_device_removed_and_added_in_one_commit_gets_a_new_window,
    a_user_is_out_with_its_last_device,
    the_owners_role_goes_to_the_oldest_admin_else_to_the_oldest_member,
    old_epochs_are_open_until_a_device_is_removed,
);

async fn devices_that_are_added_read_from_the_next_entry_on(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[&carol]).await;
    engine.say(group, &alice).await;
    let joiners = engine.joiners(2, &[&bob, &tablet]).await;
    engine.emitted_all();
    let commit = Advance { joiners: joiners.clone(), ..engine.commit(group, &alice).await };
    assert_eq!(engine.advanced(commit).await, (Epoch(2), Position(3)));
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (2, 1));
    for (device, joiner) in [&bob, &tablet].into_iter().zip(&joiners) {
        let window = engine.window(device, group).await;
        assert_eq!((window.opened_after, window.closed_at, window.cursor), (Position(3), None, Position(3)));
        assert_eq!(window.joined_epoch, Epoch(2));
        let welcome = Gate::Welcome(group, Epoch(2), joiner.welcome.clone());
        assert_eq!(engine.gate(device, &window).await, welcome);
        assert!(items.iter().any(|it| it.device_no == device.device_no && it.position == window.gate));
    }
    let users: Vec<_> = engine.members(group).await.iter().map(|member| member.user_id).collect();
    assert_eq!(users, [alice.user_id, carol.user_id, bob.user_id], "by the moment of joining");
    assert_eq!(engine.group(group, &alice).await.member_count, 3);
    engine.say(group, &tablet).await;
}

async fn a_package_enters_one_group_once(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (one, other) = (engine.filled(&alice, &[]).await, engine.filled(&alice, &[]).await);
    let joiner = engine.joiner(&bob, 1).await;
    let adding = async |group, joiners: &[&Joiner]| {
        let joiners = joiners.iter().map(|joiner| (*joiner).clone()).collect();
        engine.try_advance(Advance { joiners, ..engine.commit(group, &alice).await }).await
    };
    assert!(matches!(adding(one, &[&joiner]).await, Advanced::Advanced(..)));
    let refused = Advanced::CannotAdd(CannotAdd::PackageUsed(joiner.reference));
    let fresh = engine.joiner(&carol, 2).await;
    let before = engine.tables().await;
    assert_eq!(adding(other, &[&fresh, &joiner]).await, refused);
    engine.assert_unchanged(&before, "a package that was used").await;
    engine.remove(one, &alice, &[&bob]).await;
    let before = engine.tables().await;
    assert_eq!(adding(one, &[&joiner]).await, refused);
    engine.assert_unchanged(&before, "a package that was used").await;
    assert!(matches!(adding(other, &[&fresh]).await, Advanced::Advanced(..)));
}

async fn a_last_resort_package_enters_any_number_of_groups(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let last = engine.claim(bob.user_id, restante::store::OneTimeKeys::Withheld).await.remove(0).1;
    let reference = mls::reference_of(&last);
    for _ in 0..2 {
        let group = engine.filled(&alice, &[]).await;
        let joiner =
            Joiner { device_no: bob.device_no, reference, leaf_index: Some(1), welcome: mls::body() };
        engine.advanced(Advance { joiners: vec![joiner], ..engine.commit(group, &alice).await }).await;
        assert!(engine.may_write(group, &bob).await);
    }
    assert!(engine.store.issued_packages(&[reference]).await.unwrap()[0].usable);
}

async fn a_device_that_is_gone_is_not_added(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[]).await;
    let joiners = engine.joiners(1, &[&bob, &tablet]).await;
    engine.deactivate(&bob, &tablet).await;
    let before = engine.tables().await;
    let commit = Advance { joiners, ..engine.commit(group, &alice).await };
    let refused = Advanced::CannotAdd(CannotAdd::DeviceGone(tablet.device_no));
    assert_eq!(engine.try_advance(commit.clone()).await, refused);
    engine.assert_unchanged(&before, "a joiner that is gone").await;
    let joiners = commit.joiners[..1].to_vec();
    engine.advanced(Advance { joiners, ..commit }).await;
}

async fn devices_that_are_removed_read_up_to_the_commit(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[&bob, &carol, &tablet]).await;
    let (epoch, position) = engine.remove(group, &alice, &[&tablet, &carol]).await;
    assert_eq!((epoch, position), (Epoch(2), Position(2)));
    let log = engine.log(group).await;
    let mut closed = [carol.device_no, tablet.device_no];
    closed.sort_unstable();
    assert_eq!(*log[1].closes, closed);
    for device in [&carol, &tablet] {
        assert!(log[1].closes_window_of(device.device_no));
        let window = engine.window(device, group).await;
        assert_eq!((window.opened_after, window.closed_at), (Position(1), Some(Position(2))));
        assert!(!engine.may_write(group, device).await);
        assert_eq!(engine.standing(group, device).await.leaf, None);
    }
    assert_eq!(engine.standing(group, &carol).await.role, None, "its last device was removed");
    assert_eq!(engine.standing(group, &bob).await.role, Some(Role::Member));
    assert!(engine.may_write(group, &bob).await);
    let members = engine.members(group).await;
    assert_eq!(members.len(), 2);
    assert_eq!(members[1].devices.iter().map(|it| it.device_no).collect::<Vec<_>>(), [bob.device_no]);
    assert_eq!(engine.group(group, &alice).await.member_count, 2);
}

async fn a_device_removed_and_added_in_one_commit_gets_a_new_window(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.store.set_role(group, &alice, bob.user_id, Role::Admin).await.unwrap();
    let joiners = engine.joiners(2, &[&bob]).await;
    let removed = vec![bob.device_no];
    let commit = Advance { joiners: joiners.clone(), removed, ..engine.commit(group, &alice).await };
    assert_eq!(engine.advanced(commit).await, (Epoch(2), Position(2)));
    let windows = engine.windows_in(&bob, group).await;
    let places: Vec<_> =
        windows.iter().map(|it| (it.opened_after.0, it.closed_at, it.joined_epoch)).collect();
    assert_eq!(places, [(1, Some(Position(2)), Epoch(1)), (2, None, Epoch(2))]);
    assert!(windows[0].gate < windows[1].gate);
    let welcome = Gate::Welcome(group, Epoch(2), joiners[0].welcome.clone());
    assert_eq!(engine.gate(&bob, &windows[1]).await, welcome);
    assert_eq!(*engine.log(group).await[1].closes, [bob.device_no]);
    let standing = engine.standing(group, &bob).await;
    assert_eq!((standing.window, standing.leaf), (Some(windows[1]), Some(Some(2))));
    assert!(standing.may_write() && standing.role.is_some());
    assert_eq!(engine.members(group).await.len(), 2);
}

async fn a_user_is_out_with_its_last_device(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[&bob, &tablet]).await;
    let groups = async || engine.store.groups_of(bob.user_id, None, 10).await.unwrap().len();
    engine.remove(group, &alice, &[&bob]).await;
    assert_eq!((groups().await, engine.standing(group, &bob).await.role), (1, Some(Role::Member)));
    engine.remove(group, &alice, &[&tablet]).await;
    assert_eq!((groups().await, engine.standing(group, &bob).await.role), (0, None));
    engine.add(group, &alice, &[&bob]).await;
    assert_eq!((groups().await, engine.windows_in(&bob, group).await.len()), (1, 2));
}

async fn the_owners_role_goes_to_the_oldest_admin_else_to_the_oldest_member(engine: Engine) {
    let mut users = Vec::new();
    for _ in 0..4 {
        users.push(engine.mls_newcomer().await);
    }
    let [alice, bob, carol, dave] = users.as_slice() else { panic!("four of them") };
    for (admins, heir) in [(vec![], bob), (vec![dave], dave), (vec![dave, carol], carol)] {
        let group = engine.filled(alice, &[bob, carol, dave]).await;
        for admin in admins {
            engine.store.set_role(group, alice, admin.user_id, Role::Admin).await.unwrap();
        }
        engine.remove(group, bob, &[alice]).await;
        let members = engine.members(group).await;
        assert_eq!((members[0].user_id, members[0].role), (heir.user_id, Role::Owner), "the owner is first");
        assert_eq!(members.iter().filter(|member| member.role == Role::Owner).count(), 1);
        assert_eq!(members.len(), 3);
    }
}

async fn old_epochs_are_open_until_a_device_is_removed(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let mut seen = Vec::new();
    for step in 0..6 {
        let (epoch, _) = match step {
            3 => engine.remove(group, &alice, &[&bob]).await,
            _ => engine.advanced(engine.commit(group, &alice).await).await,
        };
        seen.push((epoch.0, engine.group(group, &alice).await.oldest_epoch.0));
    }
    assert_eq!(seen, [(2, 0), (3, 1), (4, 2), (5, 5), (6, 5), (7, 5)]);
    engine.advanced(engine.commit(group, &alice).await).await;
    assert_eq!(engine.group(group, &alice).await.oldest_epoch, Epoch(6));
}
