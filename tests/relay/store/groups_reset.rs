//! Groups made anew under their ids.

use std::time::Duration;

use restante::{
    domain::{EntryKind, Epoch, ExternalJoin, GroupId, Handshake, Position, Role},
    store::{
        Advance, Advanced, CannotAdd, Founding, GroupAccepted, GroupCreated, GroupReset, NewGroup, Proposed,
    },
};

use crate::support::{
    engine::{Engine, on_both_engines},
    group_acts::Gate,
    mls_mothers as mls, mothers,
};

on_both_engines!(roomy =>
    a_reset_ends_every_window_and_founds_the_group_anew,
    a_reset_that_comes_again_is_answered_as_before,
    only_the_owner_resets_a_group_as_it_knows_it,
    handshakes_never_become_less_strict,
    a_reset_with_somebody_who_cannot_be_added_changes_nothing,
    what_belonged_to_the_former_generation_is_gone,
    a_reset_ends_that_a_group_was_rolled_back,
    a_commit_of_a_former_generation_is_stale,
);

/// A founding for the id of a group.
fn anew(group_id: GroupId, new: NewGroup) -> NewGroup {
    NewGroup { group_id, name: None, ..new }
}

async fn reset(engine: &Engine, new: &NewGroup, generation: i64) -> GroupReset {
    engine.store.reset_group(new.clone(), generation, engine.now()).await.unwrap()
}

async fn a_reset_ends_every_window_and_founds_the_group_anew(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob, &carol]).await;
    engine.say(group, &carol).await;
    engine.remove(group, &alice, &[&carol]).await;
    let before = engine.group(group, &alice).await;
    let joiners = engine.joiners(1, &[&bob]).await;
    let new = NewGroup {
        description: Some("anew".to_owned()),
        external_join: ExternalJoin::None,
        ..anew(group, mls::filled(&alice, joiners.clone()))
    };
    engine.emitted_all();
    let GroupReset::Reset(after, position) = reset(&engine, &new, 0).await else { panic!("it is its owner") };
    assert_eq!(position, Position(4));
    assert_eq!((after.generation, after.epoch, after.oldest_epoch), (1, Epoch(1), Epoch(0)));
    assert_eq!((after.head, after.member_count, after.group_id), (Position(5), 2, group));
    assert_eq!((&after.name, &after.description), (&before.name, &new.description), "what is none stays");
    assert_eq!(after.external_join, ExternalJoin::None);
    assert_eq!(engine.group(group, &bob).await, after);

    let log = engine.log(group).await;
    assert_eq!((log[3].kind, log[3].sender_id), (EntryKind::Reset, alice.user_id));
    assert_eq!(*log[3].closes, [alice.device_no, bob.device_no]);
    assert_eq!((log[4].kind, log[4].epoch, log[4].closes.len()), (EntryKind::Commit, Epoch(0), 0));
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (2, 2));
    assert_eq!(entries.iter().map(|entry| (**entry).clone()).collect::<Vec<_>>(), log[3..]);

    let welcome = Gate::Welcome(group, Epoch(1), joiners[0].welcome.clone());
    for (device, opened, after, gate) in [(&alice, 0, 4, Gate::Joined(group)), (&bob, 1, 5, welcome)] {
        let windows = engine.windows_in(device, group).await;
        let places: Vec<_> = windows.iter().map(|it| (it.opened_after.0, it.closed_at)).collect();
        assert_eq!(places, [(opened, Some(Position(4))), (after, None)]);
        assert_eq!(engine.gate(device, &windows[1]).await, gate);
        engine.say(group, device).await;
    }
    assert_eq!(engine.window(&carol, group).await.closed_at, Some(Position(3)), "it had ended before");
    let roles: Vec<_> = engine.members(group).await.iter().map(|it| (it.user_id, it.role)).collect();
    assert_eq!(roles, [(alice.user_id, Role::Owner), (bob.user_id, Role::Member)]);
}

async fn a_reset_that_comes_again_is_answered_as_before(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let founding = mls::filled(&alice, Vec::new());
    let group = engine.created(founding.clone()).await.group_id;
    let new = anew(group, mls::group(&alice));
    let GroupReset::Reset(after, position) = reset(&engine, &new, 0).await else { panic!("it is its owner") };
    let before = engine.tables().await;
    assert_eq!(reset(&engine, &new, 0).await, GroupReset::Repeated(after.clone(), position));
    engine.assert_unchanged(&before, "a repeat").await;
    engine.say(group, &alice).await;
    let GroupReset::Repeated(now, again) = reset(&engine, &new, 0).await else { panic!("it is a repeat") };
    assert_eq!((now.head, again), (after.head.next(), position));
    assert_eq!(engine.try_create(founding).await, GroupCreated::Repeated(now), "it was made by that one");
    assert_eq!(engine.try_create(new).await, GroupCreated::Exists, "and not by this one");
}

async fn only_the_owner_resets_a_group_as_it_knows_it(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    engine.store.set_role(group, &alice, bob.user_id, Role::Admin).await.unwrap();
    let roster = anew(engine.roster(&alice, &[]).await, mls::group(&alice));
    let before = engine.tables().await;
    assert_eq!(reset(&engine, &anew(group, mls::group(&bob)), 0).await, GroupReset::NotAllowed);
    assert_eq!(reset(&engine, &anew(group, mls::group(&stranger)), 0).await, GroupReset::NotMember);
    assert_eq!(reset(&engine, &mls::group(&alice), 0).await, GroupReset::NotMember, "there is none");
    assert_eq!(reset(&engine, &roster, 0).await, GroupReset::NotMember, "it is no MLS group");
    let new = anew(group, mls::group(&alice));
    for other in [-1, 1, 2] {
        assert_eq!(reset(&engine, &new, other).await, GroupReset::Changed);
    }
    engine.assert_unchanged(&before, "a refused reset").await;

    // The owner's other device may, although it has no leaf: its own may be lost.
    let new = anew(group, mls::group(&laptop));
    let done = reset(&engine, &new, 0).await;
    assert!(matches!(done, GroupReset::Reset(..)), "{done:?}");
    assert!(engine.may_write(group, &laptop).await && !engine.may_write(group, &alice).await);
    let late = anew(group, mls::group(&alice));
    assert_eq!(reset(&engine, &late, 0).await, GroupReset::Changed, "it was reset meanwhile");
}

async fn handshakes_never_become_less_strict(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let private = |new: NewGroup| {
        let Founding::Mls(mut founding) = new.founding else { panic!("it is an MLS group") };
        (founding.epoch_state.state, founding.epoch_state.tree) = (None, None);
        NewGroup { handshake: Handshake::Private, founding: Founding::Mls(founding), ..new }
    };
    let group = engine.created(private(mls::group(&alice))).await.group_id;
    for (generation, new) in [(0, private(mls::group(&alice))), (1, mls::group(&alice))] {
        let done = reset(&engine, &anew(group, new), generation).await;
        assert!(matches!(done, GroupReset::Reset(..)), "{done:?}");
    }
    assert_eq!(engine.group(group, &alice).await.handshake, Handshake::Public);
    let before = engine.tables().await;
    let laxer = anew(group, private(mls::group(&alice)));
    assert_eq!(reset(&engine, &laxer, 2).await, GroupReset::Changed);
    engine.assert_unchanged(&before, "handshakes that are less strict").await;
}

async fn a_reset_with_somebody_who_cannot_be_added_changes_nothing(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let used = engine.joiner(&bob, 1).await;
    let group = engine.created(mls::filled(&alice, vec![used.clone()])).await.group_id;
    engine.proposed(group, &bob, &[mls::proposal(None)]).await;
    let before = engine.tables().await;
    let refused = GroupReset::CannotAdd(CannotAdd::PackageUsed(used.reference));
    assert_eq!(reset(&engine, &anew(group, mls::filled(&alice, vec![used])), 0).await, refused);
    engine.assert_unchanged(&before, "a refused reset").await;
}

async fn what_belonged_to_the_former_generation_is_gone(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let commit = engine.commit(group, &alice).await;
    engine.advanced(commit.clone()).await;
    engine.proposed(group, &bob, &[mls::proposal(None)]).await;
    let (invite, token) = (mls::invite(engine.now(), Duration::from_hours(1)), mothers::bytes());
    engine.store.make_invite(group, &alice, invite, token).await.unwrap();
    let report = mls::report(&bob, group, Epoch(1), commit.commit.digest);
    engine.store.report_commit(report, engine.now()).await.unwrap();
    let late = Advance { epoch: Epoch(0), ..engine.commit(group, &bob).await };
    let (stored, sent) = (engine.store.clone(), mls::send(&alice, group, Some(Epoch(2))));
    let receipt = engine.group_stored(sent.clone()).await;

    let joiners = engine.joiners(1, &[&bob]).await;
    let done = reset(&engine, &anew(group, mls::filled(&alice, joiners)), 0).await;
    assert!(matches!(done, GroupReset::Reset(..)), "{done:?}");
    let judged = stored.handshake_state(group).await.unwrap().unwrap();
    assert_eq!((judged.generation, judged.epoch, judged.proposals.len()), (1, Epoch(1), 0));
    assert!(!stored.is_invited(group, token, engine.now()).await.unwrap());
    assert!(stored.invites(group, engine.now()).await.unwrap().is_empty());
    assert_eq!(engine.standing(group, &bob).await.reports, 0);
    assert!(stored.ratchet_tree(group, 0, Epoch(1)).await.unwrap().is_none());
    assert!(stored.ratchet_tree(group, 0, Epoch(2)).await.unwrap().is_none());
    assert!(stored.ratchet_tree(group, 1, Epoch(1)).await.unwrap().is_some());
    let of_before = stored.commit_of(group, 0, Epoch(1)).await.unwrap().unwrap();
    assert_eq!(of_before.digest, commit.commit.digest, "its entry is kept");
    assert!(stored.commit_of(group, 1, Epoch(0)).await.unwrap().is_some());

    let before = engine.tables().await;
    let same_number = Advance { epoch: Epoch(1), ..late.clone() };
    for late in [late, same_number] {
        assert_eq!(engine.try_advance(late).await, Advanced::Stale(Epoch(1)), "it is another generation's");
    }
    let proposals = restante::store::NewProposals {
        group_id: group,
        by: bob.clone(),
        generation: 0,
        epoch: Epoch(1),
        proposals: vec![mls::proposal(None)],
    };
    let refused = stored.propose(proposals, engine.now()).await.unwrap();
    assert_eq!(refused, Proposed::Stale(Epoch(1)), "it is another generation's");
    engine.assert_unchanged(&before, "what the former generation sends").await;
    assert_eq!(engine.group_accept(sent).await, GroupAccepted::Repeated(receipt));
    // The epochs begin anew, and so do their commits.
    engine.advanced(engine.commit(group, &bob).await).await;
    assert_eq!(stored.commit_of(group, 1, Epoch(1)).await.unwrap().unwrap().sender, bob.device_no);
}

async fn a_reset_ends_that_a_group_was_rolled_back(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    let head = engine.group(group, &alice).await.head;
    let done = reset(&engine, &anew(group, mls::group(&alice)), 0).await;
    let GroupReset::Reset(after, position) = done else { panic!("{done:?}") };
    assert_eq!((after.rolled_back, after.epoch, position), (false, Epoch(0), head.next()));
    engine.say(group, &alice).await;
    engine.advanced(engine.commit(group, &alice).await).await;
}

async fn a_commit_of_a_former_generation_is_stale(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let former = engine.commit(group, &alice).await;
    let joiners = engine.joiners(1, &[&bob]).await;
    let new = anew(group, mls::filled(&alice, joiners));
    assert!(matches!(reset(&engine, &new, 0).await, GroupReset::Reset(..)));
    assert_eq!(engine.group(group, &alice).await.epoch, former.epoch, "the number is the same");
    let before = engine.tables().await;
    assert_eq!(engine.try_advance(former.clone()).await, Advanced::Stale(Epoch(1)));
    let version = engine.standing(group, &alice).await.version;
    assert_eq!(engine.try_advance(Advance { version, ..former }).await, Advanced::Stale(Epoch(1)));
    engine.assert_unchanged(&before, "a commit of a former generation").await;
}
