//! External commits: a device lets itself in, with or without a join token.

use std::time::Duration;

use restante::{
    domain::{Caller, Epoch, GroupId, Position, Role},
    store::{Advance, Advanced, Allowed, ExternalJoiner},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    group_acts::Gate,
    mls_mothers as mls, mothers,
};

on_both_engines!(roomy =>
    a_device_joins_by_its_own_commit,
    a_join_token_must_hold_when_the_commit_is_made_true,
    a_sibling_of_a_member_joins_and_its_user_keeps_its_role,
    a_device_that_comes_back_in_place_of_its_own_leaf_gets_a_new_window,
    an_external_commit_is_bound_to_epoch_and_version_like_any_other,
    an_external_commit_ends_that_a_group_was_rolled_back,
);

/// An external commit without a join token.
async fn external(engine: &Engine, group: GroupId, by: &Caller, leaf: u32) -> Advance {
    let external = Some(ExternalJoiner { leaf_index: Some(leaf), invite: None });
    Advance { external, ..engine.commit(group, by).await }
}

async fn a_device_joins_by_its_own_commit(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[]).await;
    let token = mothers::bytes();
    let invite = mls::invite(engine.now(), Duration::from_hours(1));
    assert_eq!(engine.store.make_invite(group, &alice, invite, token).await.unwrap(), Allowed::Done);
    let mut commit = external(&engine, group, &bob, 1).await;
    commit.external = Some(ExternalJoiner { leaf_index: Some(1), invite: Some(token) });
    engine.emitted_all();
    assert_eq!(engine.advanced(commit.clone()).await, (Epoch(2), Position(2)));
    let window = engine.window(&bob, group).await;
    assert_eq!((window.opened_after, window.closed_at, window.joined_epoch), (Position(2), None, Epoch(2)));
    assert_eq!(engine.gate(&bob, &window).await, Gate::Joined(group));
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (1, 1));
    let standing = engine.standing(group, &bob).await;
    assert_eq!((standing.role, standing.leaf), (Some(Role::Member), Some(Some(1))));
    assert_eq!(engine.group(group, &alice).await.member_count, 2);
    engine.say(group, &bob).await;

    // The answer was lost, and meanwhile the token ended.
    engine.store.revoke_invite(group, &alice, invite.invite_id).await.unwrap();
    assert_eq!(engine.try_advance(commit).await, Advanced::Repeated(Epoch(2), Position(2)));
}

async fn a_join_token_must_hold_when_the_commit_is_made_true(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[]).await;
    let elsewhere = engine.filled(&alice, &[]).await;
    let (short, revoked, other) = (mothers::bytes(), mothers::bytes(), mothers::bytes());
    let invites = [(group, short, 1), (group, revoked, 60), (elsewhere, other, 60)];
    for (group, token, minutes) in invites {
        let invite = mls::invite(engine.now(), Duration::from_mins(minutes));
        engine.store.make_invite(group, &alice, invite, token).await.unwrap();
        if token == revoked {
            engine.store.revoke_invite(group, &alice, invite.invite_id).await.unwrap();
        }
    }
    engine.advance(Duration::from_mins(2));
    let before = engine.tables().await;
    for invite in [Some(short), Some(revoked), Some(other), Some(mothers::bytes()), None] {
        let mut commit = external(&engine, group, &bob, 1).await;
        commit.external = Some(ExternalJoiner { leaf_index: Some(1), invite });
        assert_eq!(engine.try_advance(commit).await, Advanced::NotMember);
    }
    engine.assert_unchanged(&before, "a token that does not hold").await;
}

async fn a_sibling_of_a_member_joins_and_its_user_keeps_its_role(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    engine.advanced(external(&engine, group, &laptop, 2).await).await;
    assert_eq!(engine.standing(group, &laptop).await.role, Some(Role::Owner));
    let members = engine.members(group).await;
    assert_eq!((members.len(), members[0].devices.len()), (2, 2));
    engine.say(group, &laptop).await;
}

async fn a_device_that_comes_back_in_place_of_its_own_leaf_gets_a_new_window(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.say(group, &alice).await;
    let back = external(&engine, group, &alice, 2).await;
    let back = Advance { removed: vec![alice.device_no], ..back };
    assert_eq!(engine.advanced(back).await, (Epoch(2), Position(3)));
    let windows = engine.windows_in(&alice, group).await;
    let places: Vec<_> = windows.iter().map(|it| (it.opened_after.0, it.closed_at)).collect();
    assert_eq!(places, [(0, Some(Position(3))), (3, None)]);
    assert_eq!(engine.gate(&alice, &windows[1]).await, Gate::Joined(group));
    assert_eq!(*engine.log(group).await[2].closes, [alice.device_no]);
    let standing = engine.standing(group, &alice).await;
    assert_eq!((standing.leaf, standing.role), (Some(Some(2)), Some(Role::Owner)), "the owner never left");
    assert_eq!(standing.group.oldest_epoch, Epoch(2), "a leaf was removed");
    assert_eq!(engine.members(group).await.len(), 2);
}

async fn an_external_commit_is_bound_to_epoch_and_version_like_any_other(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    let commit = external(&engine, group, &laptop, 2).await;
    engine.proposed(group, &bob, &[mls::proposal(None)]).await;
    let before = engine.tables().await;
    assert_eq!(engine.try_advance(commit.clone()).await, Advanced::Changed);
    engine.assert_unchanged(&before, "another version").await;
    engine.advanced(engine.commit(group, &alice).await).await;
    let before = engine.tables().await;
    assert_eq!(engine.try_advance(commit).await, Advanced::Stale(Epoch(2)));
    engine.assert_unchanged(&before, "another epoch").await;
}

async fn an_external_commit_ends_that_a_group_was_rolled_back(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    assert!(engine.group(group, &alice).await.rolled_back);
    let before = engine.tables().await;
    let refused = engine.try_advance(engine.commit(group, &bob).await).await;
    assert_eq!(refused, Advanced::Stale(Epoch(1)));
    engine.assert_unchanged(&before, "a commit of a group that was rolled back").await;
    let head = engine.group(group, &alice).await.head;
    let back = external(&engine, group, &alice, 2).await;
    let back = Advance { removed: vec![alice.device_no], ..back };
    assert_eq!(engine.advanced(back).await, (Epoch(2), head.next()));
    assert!(!engine.group(group, &alice).await.rolled_back);
    engine.advanced(engine.commit(group, &bob).await).await;
    engine.say(group, &bob).await;
}
