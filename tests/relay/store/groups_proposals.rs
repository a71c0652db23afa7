//! Proposals wait for the next commit; who proposes to leave is out at once.

use restante::{
    domain::{Caller, EntryKind, Epoch, GroupId, Position, Role},
    store::{Advance, Advanced, GroupAccepted, MOST_PROPOSALS, NewProposal, NewProposals, Proposed},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls,
};

on_both_engines!(roomy =>
    a_proposal_waits_for_the_next_commit,
    proposals_are_kept_all_or_none,
    an_identical_request_is_answered_as_before,
    a_device_proposes_one_thing_about_a_target,
    a_group_has_at_most_256_proposals,
    a_proposal_for_another_epoch_is_stale,
    who_is_not_in_the_group_proposes_nothing,
    who_leaves_reads_up_to_the_proposal_and_writes_no_more,
    an_owner_who_leaves_hands_over_at_once,
    who_inherits_has_an_active_device_that_stays,
    nothing_is_proposed_in_a_group_that_was_rolled_back,
);

/// The same proposals for what the group is now.
async fn for_now(engine: &Engine, group: GroupId, by: &Caller, proposals: &[NewProposal]) -> NewProposals {
    let now = engine.group(group, by).await;
    let (generation, epoch, proposals) = (now.generation, now.epoch, proposals.to_vec());
    NewProposals { group_id: group, by: by.clone(), generation, epoch, proposals }
}

async fn a_proposal_waits_for_the_next_commit(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob, &carol]).await;
    let about_carol = mls::proposal(Some(carol.device_no));
    let (first, second) = (mls::proposal(None), mls::proposal(Some(carol.device_no)));
    engine.emitted_all();
    assert_eq!(engine.proposed(group, &bob, &[first.clone(), second.clone()]).await, Position(3));
    assert_eq!(engine.proposed(group, &alice, std::slice::from_ref(&about_carol)).await, Position(4));
    let log = engine.log(group).await;
    for (entry, (by, proposal)) in
        log[1..].iter().zip([(&bob, &first), (&bob, &second), (&alice, &about_carol)])
    {
        assert_eq!((entry.kind, entry.epoch, entry.sender_id), (EntryKind::Proposal, Epoch(1), by.user_id));
        assert_eq!((entry.body.as_ref(), entry.closes.len()), (Some(&proposal.body), 0));
    }
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (0, 3));

    let judged = engine.store.handshake_state(group).await.unwrap().unwrap();
    let pending: Vec<_> = judged.proposals.iter().map(|it| (it.sender, it.target, it.body.clone())).collect();
    let expected = [
        (bob.device_no, None, first.body),
        (bob.device_no, Some(carol.device_no), second.body),
        (alice.device_no, Some(carol.device_no), about_carol.body),
    ];
    assert_eq!(pending, expected, "in the order of arrival");
    assert_eq!(judged.version, engine.standing(group, &alice).await.version);
    assert!(engine.may_write(group, &carol).await, "others propose, and nobody has committed yet");
    engine.advanced(engine.commit(group, &alice).await).await;
    assert!(engine.store.handshake_state(group).await.unwrap().unwrap().proposals.is_empty());
    engine.proposed(group, &bob, &[mls::proposal(Some(carol.device_no))]).await;
}

async fn proposals_are_kept_all_or_none(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob, &carol]).await;
    engine.proposed(group, &alice, &[mls::proposal(Some(carol.device_no))]).await;
    let before = engine.tables().await;
    let mixed =
        [mls::proposal(None), mls::proposal(Some(bob.device_no)), mls::proposal(Some(carol.device_no))];
    assert_eq!(engine.try_propose(group, &alice, &mixed).await, Proposed::Exists(2));
    engine.assert_unchanged(&before, "refused proposals").await;
}

async fn an_identical_request_is_answered_as_before(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let group = engine.filled(&alice, &[&bob, &tablet]).await;
    let request =
        for_now(&engine, group, &alice, &[mls::proposal(None), mls::proposal(Some(bob.device_no))]).await;
    let leaving = for_now(&engine, group, &bob, &[mls::leave(&bob), mls::leave(&tablet)]).await;
    let propose =
        async |request: &NewProposals| engine.store.propose(request.clone(), engine.now()).await.unwrap();
    let first = Proposed::Accepted(Epoch(1), Position(3));
    assert_eq!(propose(&request).await, first);
    let left = Proposed::Accepted(Epoch(1), Position(5));
    assert_eq!(propose(&leaving).await, left);
    let before = engine.tables().await;
    assert_eq!(propose(&request).await, first);
    assert_eq!(propose(&leaving).await, left, "also of one who is out by it");
    engine.assert_unchanged(&before, "a repeat").await;
}

async fn a_device_proposes_one_thing_about_a_target(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob, &carol]).await;
    let about = |device: &Caller| mls::proposal(Some(device.device_no));
    engine.proposed(group, &alice, &[about(&carol)]).await;
    assert_eq!(engine.try_propose(group, &alice, &[about(&carol)]).await, Proposed::Exists(0));
    let twice = [about(&bob), about(&bob)];
    assert_eq!(engine.try_propose(group, &alice, &twice).await, Proposed::Exists(1));
    engine.proposed(group, &alice, &[about(&bob)]).await;
    engine.proposed(group, &bob, &[about(&carol)]).await;
    engine.advanced(engine.commit(group, &alice).await).await;
    engine.proposed(group, &alice, &[about(&carol)]).await;
}

async fn a_group_has_at_most_256_proposals(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let many = |number: usize| (0..number).map(|_| mls::proposal(None)).collect::<Vec<_>>();
    let before = engine.tables().await;
    assert_eq!(engine.try_propose(group, &alice, &many(MOST_PROPOSALS + 1)).await, Proposed::TooMany);
    engine.assert_unchanged(&before, "too many proposals").await;
    engine.proposed(group, &alice, &many(MOST_PROPOSALS - 1)).await;
    let before = engine.tables().await;
    assert_eq!(engine.try_propose(group, &bob, &many(2)).await, Proposed::TooMany);
    engine.assert_unchanged(&before, "too many proposals").await;
    let last = for_now(&engine, group, &bob, &many(1)).await;
    let accepted = engine.store.propose(last.clone(), engine.now()).await.unwrap();
    assert_eq!(accepted, Proposed::Accepted(Epoch(1), Position(257)));
    assert_eq!(engine.store.propose(last, engine.now()).await.unwrap(), accepted, "a repeat needs no room");
    engine.advanced(engine.commit(group, &alice).await).await;
    engine.proposed(group, &bob, &many(MOST_PROPOSALS)).await;
}

async fn a_proposal_for_another_epoch_is_stale(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let early = for_now(&engine, group, &bob, &[mls::proposal(None)]).await;
    engine.advanced(engine.commit(group, &alice).await).await;
    let before = engine.tables().await;
    let ahead = NewProposals { epoch: Epoch(3), ..early.clone() };
    for stale in [early, ahead] {
        assert_eq!(engine.store.propose(stale, engine.now()).await.unwrap(), Proposed::Stale(Epoch(2)));
    }
    engine.assert_unchanged(&before, "a stale proposal").await;
}

async fn who_is_not_in_the_group_proposes_nothing(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let group = engine.filled(&alice, &[&bob]).await;
    engine.remove(group, &alice, &[&bob]).await;
    let before = engine.tables().await;
    for outsider in [&bob, &stranger, &laptop] {
        let current = for_now(&engine, group, outsider, &[mls::proposal(None)]).await;
        let stale = NewProposals { epoch: Epoch(0), ..current.clone() };
        let nowhere = NewProposals { group_id: mls::group_id(), ..current.clone() };
        for request in [current, stale, nowhere] {
            assert_eq!(engine.store.propose(request, engine.now()).await.unwrap(), Proposed::NotMember);
        }
    }
    engine.assert_unchanged(&before, "a stranger").await;
}

async fn who_leaves_reads_up_to_the_proposal_and_writes_no_more(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (tablet, watch) = (engine.mls_link(&bob, "tablet").await, engine.mls_link(&bob, "watch").await);
    let group = engine.filled(&alice, &[&bob, &tablet, &watch]).await;
    let send = mls::send(&bob, group, Some(Epoch(1)));
    let receipt = engine.group_stored(send.clone()).await;
    assert_eq!(engine.proposed(group, &bob, &[mls::leave(&bob), mls::leave(&tablet)]).await, Position(4));
    let log = engine.log(group).await;
    assert_eq!((&*log[2].closes, &*log[3].closes), (&[bob.device_no][..], &[tablet.device_no][..]));
    for (device, end) in [(&bob, Some(Position(3))), (&tablet, Some(Position(4))), (&watch, None)] {
        assert_eq!(engine.window(device, group).await.closed_at, end);
        let standing = engine.standing(group, device).await;
        assert_eq!(standing.may_write(), end.is_none());
        assert!(standing.leaf.is_some() && standing.role == Some(Role::Member), "until a commit removes it");
    }
    let members = engine.members(group).await;
    let leaving: Vec<_> = members[1].devices.iter().map(|it| (it.device_no, it.leaving)).collect();
    assert_eq!(leaving, [(bob.device_no, true), (tablet.device_no, true), (watch.device_no, false)]);

    let refused = engine.group_accept(mls::send(&bob, group, Some(Epoch(1)))).await;
    assert_eq!(refused, GroupAccepted::NotMember);
    assert_eq!(engine.group_accept(send).await, GroupAccepted::Repeated(receipt));
    assert_eq!(engine.try_propose(group, &bob, &[mls::proposal(None)]).await, Proposed::NotMember);
    assert_eq!(engine.try_advance(engine.commit(group, &tablet).await).await, Advanced::NotMember);
    engine.say(group, &watch).await;

    engine.remove(group, &watch, &[&bob, &tablet]).await;
    assert_eq!(engine.window(&bob, group).await.closed_at, Some(Position(3)), "it had ended before");
    assert!(engine.log(group).await[5].closes.is_empty());
    assert_eq!(engine.members(group).await[1].devices.len(), 1);
}

async fn an_owner_who_leaves_hands_over_at_once(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let owner = async |group| {
        let members = engine.members(group).await;
        assert_eq!(members.iter().filter(|member| member.role == Role::Owner).count(), 1);
        members[0].user_id
    };
    for (admin, heir) in [(None, &bob), (Some(&carol), &carol)] {
        let group = engine.filled(&alice, &[&bob, &carol, &laptop]).await;
        if let Some(admin) = admin {
            engine.store.set_role(group, &alice, admin.user_id, Role::Admin).await.unwrap();
        }
        engine.proposed(group, &alice, &[mls::leave(&alice)]).await;
        assert_eq!(owner(group).await, alice.user_id, "the laptop stays");
        engine.proposed(group, &laptop, &[mls::leave(&laptop)]).await;
        assert_eq!(owner(group).await, heir.user_id);
        assert_eq!(engine.members(group).await.len(), 3);
        engine.remove(group, &bob, &[&alice, &laptop]).await;
        assert_eq!(owner(group).await, heir.user_id);
        assert_eq!(engine.standing(group, &alice).await.role, None);
    }
    // Nobody is left to take it.
    let alone = engine.filled(&carol, &[]).await;
    engine.proposed(alone, &carol, &[mls::leave(&carol)]).await;
    assert_eq!(owner(alone).await, carol.user_id);
}

async fn who_inherits_has_an_active_device_that_stays(engine: Engine) {
    let (alice, bob, carol, dave) = (
        engine.mls_newcomer().await,
        engine.mls_newcomer().await,
        engine.mls_newcomer().await,
        engine.mls_newcomer().await,
    );
    let laptop = engine.mls_link(&alice, "laptop").await;
    let spare = engine.mls_link(&bob, "spare").await;
    let owner = async |group| engine.members(group).await[0].user_id;
    let forsaken = engine.filled(&laptop, &[&bob, &carol]).await;
    let halved = engine.filled(&alice, &[&laptop, &spare, &carol]).await;
    let (left, dead) = (
        engine.filled(&alice, &[&carol, &spare, &dave]).await,
        engine.filled(&alice, &[&spare, &carol, &dave]).await,
    );
    engine.deactivate(&laptop, &laptop).await;
    engine.deactivate(&spare, &spare).await;

    engine.proposed(forsaken, &bob, &[mls::leave(&bob)]).await;
    assert_eq!(owner(forsaken).await, alice.user_id, "another one's leaving is nothing to the owner's role");
    engine.proposed(halved, &alice, &[mls::leave(&alice)]).await;
    assert_eq!(owner(halved).await, carol.user_id, "neither the owner's laptop nor the spare is active");
    engine.proposed(left, &carol, &[mls::leave(&carol)]).await;
    for group in [left, dead] {
        engine.remove(group, &dave, &[&alice]).await;
    }
    assert_eq!(owner(left).await, dave.user_id, "the others leave, or are not active");
    assert_eq!(owner(dead).await, carol.user_id, "the first has no active device in it");
}

async fn nothing_is_proposed_in_a_group_that_was_rolled_back(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    engine.store.after_restore(engine.now()).await.unwrap();
    let before = engine.tables().await;
    assert_eq!(engine.try_propose(group, &bob, &[mls::leave(&bob)]).await, Proposed::RolledBack);
    engine.assert_unchanged(&before, "a group that was rolled back").await;
    let commit: Advance = engine.commit(group, &bob).await;
    assert_eq!(engine.try_advance(commit).await, Advanced::Stale(Epoch(1)));
}
