//! Commits: one for an epoch, all of it or nothing.

use futures_util::future::join_all;
use restante::{
    domain::{EntryKind, Epoch, Position, Role},
    store::{Advance, Advanced, StoredCommit},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls,
};

on_both_engines!(roomy =>
    a_commit_opens_the_next_epoch,
    of_commits_for_one_epoch_exactly_one_is_accepted,
    a_commit_that_comes_again_is_answered_as_before,
    a_commit_for_another_epoch_is_stale,
    a_commit_that_was_judged_by_another_version_changes_nothing,
    a_stranger_commits_nothing_and_learns_nothing,
);

async fn a_commit_opens_the_next_epoch(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.emitted_all();
    let commit = engine.commit(group, &bob).await;
    assert_eq!(engine.advanced(commit.clone()).await, (Epoch(2), Position(2)));
    let standing = engine.standing(group, &bob).await;
    assert_eq!((standing.group.epoch, standing.group.head), (Epoch(2), Position(2)));
    assert_ne!(standing.version, commit.version);

    let log = engine.log(group).await;
    assert_eq!((log[1].kind, log[1].epoch, log[1].sender_id), (EntryKind::Commit, Epoch(1), bob.user_id));
    assert_eq!((log[1].body.as_ref(), log[1].closes.len()), (Some(&commit.commit.body), 0));
    let (items, entries) = engine.emitted_all();
    assert!(items.is_empty(), "nobody was added");
    assert_eq!(entries.iter().map(|entry| (**entry).clone()).collect::<Vec<_>>(), log[1..]);

    let judged = engine.store.handshake_state(group).await.unwrap().unwrap();
    let state = commit.epoch_state.state.unwrap();
    assert_eq!(judged.state_digest, Some(mls::digest(&state)));
    assert_eq!((judged.epoch, judged.group_info), (Epoch(2), commit.epoch_state.group_info));
    assert_eq!(engine.store.group_state(group, mls::digest(&state)).await.unwrap(), Some(state));
    let stored = engine.store.commit_of(group, 0, Epoch(1)).await.unwrap();
    let expected = StoredCommit {
        sender: bob.device_no,
        digest: commit.commit.digest,
        epoch: Epoch(1),
        position: Position(2),
    };
    assert_eq!(stored, Some(expected));
    assert_eq!(engine.store.commit_of(group, 0, Epoch(2)).await.unwrap(), None);
    assert_eq!(engine.store.commit_of(group, 1, Epoch(1)).await.unwrap(), None);
}

async fn of_commits_for_one_epoch_exactly_one_is_accepted(engine: Engine) {
    const ROUNDS: i64 = 25;
    let stores = [engine.store.clone(), engine.twin().await];
    let founder = engine.mls_newcomer().await;
    let mut racers = vec![founder.clone()];
    for _ in 0..3 {
        racers.push(engine.mls_newcomer().await);
    }
    let group = engine.filled(&founder, &racers.iter().skip(1).collect::<Vec<_>>()).await;
    for round in 1..=ROUNDS {
        let mut commits = Vec::new();
        for racer in &racers {
            commits.push(engine.commit(group, racer).await);
        }
        let racing = commits.iter().cloned().enumerate().map(|(racer, commit)| {
            let (store, now) = (stores[racer % 2].clone(), engine.now());
            tokio::spawn(async move { store.advance_group(commit, now).await.unwrap() })
        });
        let outcomes: Vec<_> = join_all(racing).await.into_iter().map(Result::unwrap).collect();
        let opened = Epoch(round + 1);
        let won =
            outcomes.iter().position(|it| *it == Advanced::Advanced(opened, Position(round + 1))).unwrap();
        for (racer, outcome) in outcomes.iter().enumerate() {
            assert!(racer == won || *outcome == Advanced::Stale(opened), "round {round}: {outcomes:?}");
        }
        let entry = engine.log(group).await.pop().unwrap();
        assert_eq!(entry.body.as_ref(), Some(&commits[won].commit.body));
        let judged = engine.store.handshake_state(group).await.unwrap().unwrap();
        assert_eq!(judged.group_info, commits[won].epoch_state.group_info, "the losers changed nothing");
        let tree = engine.store.ratchet_tree(group, 0, opened).await.unwrap();
        assert_eq!(tree, commits[won].epoch_state.tree);
    }
    let log = engine.log(group).await;
    let places: Vec<_> = log.iter().map(|entry| (entry.position.0, entry.epoch.0)).collect();
    assert_eq!(places, (0..=ROUNDS).map(|epoch| (epoch + 1, epoch)).collect::<Vec<_>>());
    stores[1].close().await;
}

async fn a_commit_that_comes_again_is_answered_as_before(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let joiners = engine.joiners(2, &[&carol]).await;
    let commit = Advance { joiners, ..engine.commit(group, &bob).await };
    let (epoch, position) = engine.advanced(commit.clone()).await;
    let repeated = Advanced::Repeated(epoch, position);
    let before = engine.tables().await;
    assert_eq!(engine.try_advance(commit.clone()).await, repeated);
    let copied = Advance { by: alice.clone(), ..commit.clone() };
    assert_eq!(engine.try_advance(copied).await, Advanced::Stale(epoch), "another device's is none");
    engine.assert_unchanged(&before, "a repeat").await;

    for _ in 0..4 {
        engine.advanced(engine.commit(group, &alice).await).await;
    }
    engine.remove(group, &alice, &[&bob]).await;
    assert_eq!(engine.try_advance(commit).await, repeated, "also for one who was removed since");
}

async fn a_commit_for_another_epoch_is_stale(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let early = engine.commit(group, &bob).await;
    engine.advanced(engine.commit(group, &alice).await).await;
    let before = engine.tables().await;
    let current = engine.commit(group, &bob).await;
    let ahead = Advance { epoch: Epoch(3), ..current.clone() };
    for stale in [early.clone(), Advance { version: current.version, ..early }, ahead] {
        assert_eq!(engine.try_advance(stale).await, Advanced::Stale(Epoch(2)));
    }
    engine.assert_unchanged(&before, "a stale commit").await;
}

async fn a_commit_that_was_judged_by_another_version_changes_nothing(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[&bob, &carol, &tablet]).await;
    let mut judged = engine.commit(group, &alice).await;
    for change in 0..4 {
        match change {
            0 => drop(engine.proposed(group, &bob, &[mls::proposal(None)]).await),
            1 => {
                let done = engine.store.set_role(group, &alice, bob.user_id, Role::Admin).await.unwrap();
                assert_eq!(done, restante::store::Allowed::Done);
            }
            2 => drop(engine.proposed(group, &carol, &[mls::leave(&carol)]).await),
            _ => engine.deactivate(&bob, &tablet).await,
        }
        let before = engine.tables().await;
        assert_eq!(engine.try_advance(judged.clone()).await, Advanced::Changed, "change {change}");
        engine.assert_unchanged(&before, "a commit judged by another version").await;
        let again = engine.commit(group, &alice).await;
        assert_ne!(again.version, judged.version);
        judged = again;
    }
    engine.say(group, &alice).await;
    engine.advanced(judged).await;
}

async fn a_stranger_commits_nothing_and_learns_nothing(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    engine.remove(group, &alice, &[&bob]).await;
    let before = engine.tables().await;
    for outsider in [&stranger, &bob, &laptop] {
        let commit = engine.commit(group, outsider).await;
        for commit in [commit.clone(), Advance { epoch: Epoch(0), version: -1, ..commit }] {
            assert_eq!(engine.try_advance(commit).await, Advanced::NotMember);
        }
    }
    let nowhere = Advance { group_id: mls::group_id(), ..engine.commit(group, &alice).await };
    assert_eq!(engine.try_advance(nowhere).await, Advanced::NotMember);
    engine.assert_unchanged(&before, "a stranger").await;
}
