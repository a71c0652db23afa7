//! External commits under the four policies.

use mls_rs::MlsMessage;
use restante::{
    domain::{ExternalJoin, Role},
    groups::mls::{CommitFault, ExternalLeaf, GroupInfoFault, ProposalFault, Refusal, WelcomeFault},
};

use super::{
    commits::{ADMIN, MEMBER, OWNER, Three, three, user},
    device::{Device, Manner, bytes, self_remove},
    world::{Sent, entrance},
};

fn at(external_join: ExternalJoin) -> Three {
    three(Manner { external_join, ..Manner::default() })
}

fn verdict(three: &Three, device: &Device, removes: Option<u32>) -> Result<ExternalLeaf, Refusal> {
    let (sent, _) = entrance(&three.world, device, removes);
    three.world.judge(device, &sent).map(|judged| judged.external.unwrap())
}

const BY_RIGHT: ExternalLeaf = ExternalLeaf { leaf_index: Some(3), by_token: false };

#[test]
fn each_policy_lets_in_whom_it_names_and_nobody_else() {
    let manner = Manner::default();
    for policy in [ExternalJoin::None, ExternalJoin::Resync, ExternalJoin::Siblings, ExternalJoin::Token] {
        let three = at(policy);
        let sibling = Device::new(user(3), "second", manner);
        let stranger = Device::new(user(50), "desk", manner);
        let invited = Device { join_token: true, ..Device::new(user(51), "desk", manner) };
        let own = ExternalLeaf { leaf_index: Some(2), by_token: false };
        let expected = match policy {
            ExternalJoin::None => [None, None, None, None],
            ExternalJoin::Resync => [Some(own), None, None, None],
            ExternalJoin::Siblings => [Some(own), Some(BY_RIGHT), None, None],
            ExternalJoin::Token => {
                [Some(own), Some(BY_RIGHT), None, Some(ExternalLeaf { by_token: true, ..BY_RIGHT })]
            }
        };
        let found = [
            verdict(&three, &three.devices[MEMBER], Some(2)),
            verdict(&three, &sibling, None),
            verdict(&three, &stranger, None),
            verdict(&three, &invited, None),
        ];
        let expected = expected.map(|leaf| leaf.ok_or(Refusal::NotFound));
        assert_eq!(found, expected, "{policy:?}");
    }
}

#[test]
fn a_device_that_comes_in_is_where_the_relay_says_and_the_others_follow() {
    let mut three = at(ExternalJoin::Siblings);
    let sibling = Device::new(user(3), "second", Manner::default());
    let (sent, joined) = entrance(&three.world, &sibling, None);
    let judged = three.world.accept(&sibling, &sent);
    assert_eq!(judged.external.unwrap().leaf_index, Some(joined.current_member_index()));
    for session in &mut three.sessions {
        session.process_incoming_message(MlsMessage::from_bytes(&sent.commit).unwrap()).unwrap();
        assert_eq!(session.epoch_authenticator().unwrap(), joined.epoch_authenticator().unwrap());
    }

    // A resync takes the leftmost blank leaf, which is its own former one.
    let (sent, joined) = entrance(&three.world, &three.devices[ADMIN], Some(1));
    let judged = three.world.accept(&three.devices[ADMIN], &sent);
    assert_eq!(judged.removed, [three.no(ADMIN)]);
    assert_eq!(judged.external.unwrap().leaf_index, Some(1));
    assert_eq!(joined.current_member_index(), 1);
    assert_eq!(three.world.tree, joined.export_tree().to_bytes().unwrap());
}

#[test]
fn an_external_commit_removes_its_senders_former_leaf_and_no_other() {
    let mut three = at(ExternalJoin::Token);
    let invited = Device { join_token: true, ..Device::new(user(51), "desk", Manner::default()) };
    assert_eq!(verdict(&three, &invited, Some(2)), Err(ProposalFault::External.into()));
    let sibling = Device::new(user(3), "second", Manner::default());
    assert_eq!(verdict(&three, &sibling, Some(2)), Err(ProposalFault::External.into()));
    // Under a new key, or mls-rs would not make the commit.
    let fresh = Device::new(user(3), "tablet", Manner::default());
    let fresh = Device { caller: three.devices[MEMBER].caller.clone(), ..fresh };
    assert_eq!(verdict(&three, &fresh, Some(1)), Err(ProposalFault::External.into()));
    assert!(verdict(&three, &fresh, Some(2)).is_ok());

    // A new incarnation under the same name takes the place of the dead one.
    let again = Device::new(user(3), "tablet", Manner::default());
    three.world.device(three.devices[MEMBER].caller.device_no).active = false;
    assert_eq!(verdict(&three, &again, None), Err(CommitFault::SecondLeaf.into()));
    assert!(verdict(&three, &again, Some(2)).is_ok());
    three.world.manner.external_join = ExternalJoin::Resync;
    assert_eq!(
        verdict(&three, &again, Some(2)),
        Err(Refusal::NotFound),
        "a resync is of the same incarnation"
    );
}

#[test]
fn a_resync_without_removing_the_former_leaf_is_refused() {
    let three = at(ExternalJoin::Resync);
    // Its client has made itself a new key, or mls-rs would not make the commit.
    let fresh = Device::new(user(3), "tablet", Manner::default());
    let caller = three.devices[MEMBER].caller.clone();
    let fresh = Device { caller, ..fresh };
    assert_eq!(verdict(&three, &fresh, None), Err(CommitFault::SecondLeaf.into()));
    assert!(verdict(&three, &fresh, Some(2)).is_ok());
}

#[test]
fn who_comes_in_has_its_own_name_and_its_registered_key() {
    let three = at(ExternalJoin::Token);
    let mut invited = Device { join_token: true, ..Device::new(user(51), "desk", Manner::default()) };
    let other = Device::new(user(52), "desk", Manner::default());
    assert!(verdict(&three, &invited, None).is_ok());
    let keys = std::mem::replace(&mut invited.keys, other.keys.clone());
    assert_eq!(verdict(&three, &invited, None), Err(CommitFault::UnregisteredKey.into()));
    let named = Device {
        keys,
        join_token: true,
        ..Device::with_leaf(user(53), "desk", Manner::default(), invited.leaf.clone())
    };
    assert_eq!(verdict(&three, &named, None), Err(CommitFault::Identity.into()));
}

#[test]
fn an_external_commit_takes_no_welcome_and_needs_its_own_group_info() {
    let three = at(ExternalJoin::Token);
    let invited = Device { join_token: true, ..Device::new(user(51), "desk", Manner::default()) };
    let (sent, session) = entrance(&three.world, &invited, None);
    assert!(three.world.judge(&invited, &sent).is_ok());
    let with = Sent { welcome: Some(sent.commit.clone()), ..sent.clone() };
    assert_eq!(three.world.refusal(&invited, &with), WelcomeFault::Superfluous.into());
    let old = Sent { group_info: three.world.group_info.clone(), ..sent.clone() };
    assert_eq!(three.world.refusal(&invited, &old), GroupInfoFault::WrongEpoch.into());
    let bare = Sent { group_info: bytes(&session.group_info_message(false).unwrap()), ..sent.clone() };
    assert_eq!(three.world.refusal(&invited, &bare), GroupInfoFault::NoExternalPub.into());
    for at in (60..sent.commit.len()).step_by(11) {
        let mut altered = sent.commit.to_vec();
        altered[at] ^= 0x20;
        let altered = Sent { commit: altered.into(), ..sent.clone() };
        assert!(three.world.judge(&invited, &altered).is_err(), "byte {at}");
    }
}

/// It cannot: RFC 9420 §12.4.3.2 lets it name no Remove of somebody else. The next member's commit has to.
#[test]
fn an_external_commit_need_not_cover_those_who_leave() {
    let mut three = at(ExternalJoin::Siblings);
    let proposal = three.sessions[MEMBER].propose_remove(2, Vec::new()).unwrap();
    three.world.keep(&three.devices[MEMBER], &proposal);
    let sibling = Device::new(user(1), "second", Manner::default());
    let (sent, _) = entrance(&three.world, &sibling, None);
    three.world.accept(&sibling, &sent);
    three.sessions[OWNER].process_incoming_message(MlsMessage::from_bytes(&sent.commit).unwrap()).unwrap();
    three.sessions[OWNER].clear_proposal_cache();
    let update = three.update(OWNER);
    assert_eq!(three.refusal(OWNER, &update), Refusal::PendingLeave);
    three.sessions[OWNER].clear_pending_commit();
    let remove = three.sessions[OWNER].commit_builder().remove_member(2).unwrap().build().unwrap();
    assert!(three.world.judge(&three.devices[OWNER], &Sent::from(&remove)).is_ok());
}

#[test]
fn who_leaves_comes_back_by_no_resync_and_brings_no_sibling() {
    let mut three = at(ExternalJoin::Siblings);
    let sibling = Device::new(user(3), "second", Manner::default());
    assert!(verdict(&three, &sibling, None).is_ok());
    let proposal = self_remove(&three.devices[MEMBER], &three.sessions[MEMBER]);
    three.world.keep(&three.devices[MEMBER], &proposal);
    assert_eq!(verdict(&three, &sibling, None), Err(Refusal::NotFound));
    assert_eq!(verdict(&three, &three.devices[MEMBER], Some(2)), Err(Refusal::NotFound));
    three.world.role(&three.devices[ADMIN], Role::Member);
    assert!(verdict(&three, &three.devices[ADMIN], Some(1)).is_ok());
}
