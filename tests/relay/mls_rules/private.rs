//! Commits and proposals with private handshakes.

use bytes::Bytes;
use mls_rs::{MlsMessage, group::ExportedTree};
use restante::{
    domain::{Epoch, ExternalJoin, Handshake, Role},
    groups::mls::{CommitFault, GroupInfoFault, JudgedProposal, ProposalFault, Refusal, WelcomeFault},
};

use super::{
    commits::{ADMIN, MEMBER, OWNER, Three, three, user},
    device::{Device, Manner, bytes, self_remove},
    world::Sent,
};

const MANNER: fn() -> Manner =
    || Manner { handshake: Handshake::Private, external_join: ExternalJoin::Token, ..Manner::default() };

fn removing(three: &mut Three, by: usize, leaf: u32, declared: usize) -> Sent {
    three.sessions[by].clear_pending_commit();
    let output = three.sessions[by].commit_builder().remove_member(leaf).unwrap().build().unwrap();
    Sent { removed: vec![three.no(declared)], ..Sent::from(&output) }
}

#[test]
fn a_private_commit_is_ordered_by_its_header() {
    let mut three = three(MANNER());
    let sent = three.update(MEMBER);
    let judged = three.world.judge(&three.devices[MEMBER], &sent).unwrap();
    assert!(judged.next.state.is_none() && judged.next.tree.is_none() && judged.external.is_none());
    three.world.epoch = Epoch(0);
    assert_eq!(three.refusal(MEMBER, &sent), Refusal::StaleEpoch(Epoch(0)));
    three.world.epoch = Epoch(1);
    let stranger = Device::new(user(60), "desk", MANNER());
    assert_eq!(three.world.refusal(&stranger, &sent), Refusal::NotFound);

    let mut public = super::commits::three(Manner::default());
    let in_the_open = public.update(MEMBER);
    assert_eq!(three.refusal(MEMBER, &in_the_open), CommitFault::Framing.into());
    let mut other = super::commits::three(MANNER());
    let foreign = other.update(MEMBER);
    assert_eq!(three.refusal(MEMBER, &foreign), CommitFault::WrongGroup.into());
    let message = three.sessions[OWNER].encrypt_application_message(b"hello", Vec::new()).unwrap();
    let message = Sent { commit: bytes(&message), ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &message), CommitFault::Framing.into());
    assert_eq!(
        public.refusal(MEMBER, &sent),
        CommitFault::Framing.into(),
        "nor is it one for a public group"
    );
    three.accept(MEMBER, &sent);
}

#[test]
fn who_joins_is_read_from_the_welcome() {
    let mut three = three(MANNER());
    let joiner = Device::new(user(61), "desk", MANNER());
    let package = three.world.claim(&joiner);
    let reference = three.world.packages.last().unwrap().reference;
    let by_member =
        three.sessions[MEMBER].commit_builder().add_member(package.clone()).unwrap().build().unwrap();
    assert_eq!(three.refusal(MEMBER, &Sent::from(&by_member)), ProposalFault::AddNeedsAdmin.into());
    let sent =
        Sent::from(&three.sessions[ADMIN].commit_builder().add_member(package).unwrap().build().unwrap());
    three.world.packages.last_mut().unwrap().usable = false;
    assert_eq!(three.refusal(ADMIN, &sent), Refusal::PackageUsed(reference));
    three.world.packages.last_mut().unwrap().usable = true;
    three.world.packages.last_mut().unwrap().active = false;
    assert_eq!(three.refusal(ADMIN, &sent), Refusal::UnknownDevice(joiner.caller.device_no));
    three.world.packages.last_mut().unwrap().active = true;
    let garbage = Sent { welcome: Some(sent.commit.clone()), ..sent.clone() };
    assert_eq!(three.refusal(ADMIN, &garbage), WelcomeFault::Malformed.into());
    let judged = three.world.accept(&three.devices[ADMIN], &sent);
    assert_eq!((judged.joiners[0].device_no, judged.joiners[0].leaf_index), (joiner.caller.device_no, None));
}

#[test]
fn who_goes_is_declared_and_must_be_one_whom_the_caller_may_remove() {
    let mut three = three(MANNER());
    for (by, declared, expected) in [
        (MEMBER, ADMIN, Err(ProposalFault::RemoveNeedsAdmin.into())),
        (ADMIN, OWNER, Err(ProposalFault::RemovesOwner.into())),
        (ADMIN, ADMIN, Err(CommitFault::LeafTwice.into())),
        (ADMIN, MEMBER, Ok(())),
    ] {
        let sent = removing(&mut three, by, if by == MEMBER { 1 } else { 2 }, declared);
        let verdict = three.world.judge(&three.devices[by], &sent).map(|_| ());
        assert_eq!(verdict, expected, "{by} removes {declared}");
    }
    let stranger = Device::new(user(60), "desk", MANNER());
    let sent = removing(&mut three, ADMIN, 2, MEMBER);
    let unknown = Sent { removed: vec![stranger.caller.device_no], ..sent.clone() };
    assert_eq!(three.refusal(ADMIN, &unknown), CommitFault::RemovedUnknown.into());
    let judged = three.world.accept(&three.devices[ADMIN], &sent);
    assert_eq!(judged.removed, [three.no(MEMBER)]);
}

#[test]
fn the_group_info_verifies_under_the_callers_registered_key() {
    let mut three = three(MANNER());
    let sent = three.update(MEMBER);
    let current = Sent { group_info: three.world.group_info.clone(), ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &current), GroupInfoFault::WrongEpoch.into());
    let by_owner = Sent { group_info: three.update(OWNER).group_info, ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &by_owner), GroupInfoFault::Signature.into());
    for at in (0..sent.group_info.len()).step_by(3) {
        let mut altered = sent.group_info.to_vec();
        altered[at] ^= 2;
        let altered = Sent { group_info: altered.into(), ..sent.clone() };
        assert!(matches!(three.refusal(MEMBER, &altered), Refusal::BadGroupInfo(_)), "byte {at}");
    }
    let keys = std::mem::take(&mut three.devices[MEMBER].keys);
    assert_eq!(three.refusal(MEMBER, &sent), GroupInfoFault::UnregisteredKey.into());
    three.devices[MEMBER].keys = keys;
    three.accept(MEMBER, &sent);
}

#[test]
fn a_self_remove_in_the_open_is_taken_and_nothing_else_in_the_open() {
    let mut three = three(MANNER());
    let hidden = three.sessions[MEMBER].propose_update(Vec::new()).unwrap();
    let judged = three.world.propose(&three.devices[MEMBER], &hidden);
    assert_eq!(judged, Ok(JudgedProposal { target: None, leaves: false }));

    let alone = self_remove(&three.devices[MEMBER], &three.sessions[MEMBER]);
    let propose = |by: usize, message: &Bytes| three.world.propose(&three.devices[by], message);
    assert_eq!(propose(ADMIN, &alone), Err(Refusal::NotYou));
    for at in [30, 70, 90] {
        let mut altered = alone.to_vec();
        altered[at] ^= 1;
        assert!(propose(MEMBER, &altered.into()).is_err(), "byte {at}");
    }
    let mut open = super::commits::three(Manner { external_join: ExternalJoin::Token, ..Manner::default() });
    open.world.manner.handshake = Handshake::Private;
    let remove = open.sessions[MEMBER].propose_remove(2, Vec::new()).unwrap();
    assert_eq!(open.world.propose(&open.devices[MEMBER], &remove), Err(ProposalFault::Framing.into()));
    let judged = three.world.keep(&three.devices[MEMBER], &alone);
    assert_eq!(judged, JudgedProposal { target: Some(three.no(MEMBER)), leaves: true });

    let sent = three.update(OWNER);
    assert_eq!(three.refusal(OWNER, &sent), Refusal::PendingLeave);
    let covering = removing(&mut three, OWNER, 2, MEMBER);
    assert!(three.world.judge(&three.devices[OWNER], &covering).is_ok());
}

#[test]
fn an_external_commit_comes_in_the_open_under_the_policy() {
    let mut three = three(MANNER());
    let invited = Device { join_token: true, ..Device::new(user(62), "desk", MANNER()) };
    let entrance = |three: &Three, device: &Device, removes: Option<u32>| {
        let group_info = MlsMessage::from_bytes(&three.world.group_info).unwrap();
        let tree = three.sessions[OWNER].export_tree().to_bytes().unwrap();
        let tree = ExportedTree::from_bytes(&tree).unwrap();
        let mut builder = device.client.external_commit_builder().unwrap().with_tree_data(tree);
        if let Some(leaf) = removes {
            builder = builder.with_removal(leaf);
        }
        let (session, commit) = builder.build(group_info).unwrap();
        let group_info = bytes(&session.group_info_message_allowing_ext_commit(false).unwrap());
        Sent { commit: bytes(&commit), group_info, welcome: None, removed: Vec::new() }
    };
    let sent = entrance(&three, &invited, None);
    let judged = three.world.judge(&invited, &sent).unwrap();
    assert!(judged.external.unwrap().by_token && judged.removed.is_empty());
    let altered = |at: usize| {
        let mut altered = sent.commit.to_vec();
        altered[at] ^= 8;
        Sent { commit: altered.into(), ..sent.clone() }
    };
    let tag = sent.commit.len() - 32;
    for at in (60..tag).step_by(7) {
        assert!(three.world.judge(&invited, &altered(at)).is_err(), "byte {at}");
    }
    // What is not signed is held against the GroupInfo.
    for at in tag..sent.commit.len() {
        let refusal = three.world.refusal(&invited, &altered(at));
        assert_eq!(refusal, GroupInfoFault::NotOfCommit.into(), "byte {at}");
    }
    let removing = entrance(&three, &invited, Some(2));
    assert_eq!(three.world.refusal(&invited, &removing), ProposalFault::External.into());
    let uninvited = Device { join_token: false, ..invited };
    assert_eq!(three.world.refusal(&uninvited, &sent), Refusal::NotFound);

    let resync = entrance(&three, &three.devices[MEMBER], Some(2));
    let judged = three.world.judge(&three.devices[MEMBER], &resync).unwrap();
    assert_eq!(judged.removed, [three.no(MEMBER)]);
    let other = Sent { removed: vec![three.no(ADMIN)], ..resync.clone() };
    assert_eq!(three.refusal(MEMBER, &other), ProposalFault::External.into());
    let fresh = Device::new(user(3), "tablet", MANNER());
    let fresh = Device { caller: three.devices[MEMBER].caller.clone(), ..fresh };
    let beside = entrance(&three, &fresh, None);
    assert_eq!(three.world.refusal(&fresh, &beside), CommitFault::SecondLeaf.into());
    let keys = std::mem::take(&mut three.devices[MEMBER].keys);
    assert_eq!(three.refusal(MEMBER, &resync), CommitFault::UnregisteredKey.into());
    three.devices[MEMBER].keys = keys;
    three.world.role(&three.devices[ADMIN], Role::Member);
    three.world.accept(&three.devices[MEMBER], &resync);
}
