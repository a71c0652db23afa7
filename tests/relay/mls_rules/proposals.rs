//! Proposals that stand alone.

use mls_rs::{
    ExtensionList, MlsMessage,
    group::proposal::{CustomProposal, ProposalType},
    psk::{ExternalPskId, PreSharedKey},
};
use restante::{
    domain::CipherSuite,
    groups::mls::{
        CommitFault, JudgedProposal, ProposalFault, Refusal, added_package, identity, judge_proposals,
    },
};

use super::{
    commits::{ADMIN, MEMBER, OWNER, three, user},
    device::{Calls, Device, Leaf, Manner, bytes, self_remove},
};

const NOBODY: JudgedProposal = JudgedProposal { target: None, leaves: false };

#[test]
fn a_proposal_tells_whom_it_is_about_and_whether_they_leave() {
    let mut three = three(Manner::default());
    let (admin, member) = (three.no(ADMIN), three.no(MEMBER));
    let of_admin = three.sessions[OWNER].propose_remove(1, Vec::new()).unwrap();
    let expected = JudgedProposal { target: Some(admin), leaves: false };
    assert_eq!(three.world.propose(&three.devices[OWNER], &of_admin), Ok(expected));
    let own = three.sessions[MEMBER].propose_remove(2, Vec::new()).unwrap();
    let alone = self_remove(&three.devices[MEMBER], &three.sessions[MEMBER]);
    let update = three.sessions[ADMIN].propose_update(Vec::new()).unwrap();
    for leaving in [bytes(&own), alone] {
        let expected = JudgedProposal { target: Some(member), leaves: true };
        assert_eq!(three.world.propose(&three.devices[MEMBER], &leaving), Ok(expected));
    }
    assert_eq!(three.world.propose(&three.devices[ADMIN], &update), Ok(NOBODY));
}

#[test]
fn the_table_holds_when_a_proposal_is_made() {
    let mut three = three(Manner::default());
    let other = Device::new(user(8), "desk", Manner::default());
    let package = three.world.claim(&other);
    let [owner, admin, member] = &mut three.sessions;
    let custom = CustomProposal::new(ProposalType::new(0xf002), vec![1]);
    let suite = mls_rs::CipherSuite::CURVE25519_AES128;
    let version = mls_rs::ProtocolVersion::MLS_10;
    let id = ExternalPskId::new(vec![1; 8]);
    for device in &three.devices {
        device.client.secret_store().insert(id.clone(), PreSharedKey::new(vec![7; 32]));
    }
    let none = ExtensionList::default;
    let cases = [
        (MEMBER, member.propose_add(package.clone(), Vec::new()), Err(ProposalFault::AddNeedsAdmin)),
        (ADMIN, admin.propose_add(package, Vec::new()), Ok(NOBODY)),
        (MEMBER, member.propose_remove(1, Vec::new()), Err(ProposalFault::RemoveNeedsAdmin)),
        (ADMIN, admin.propose_remove(0, Vec::new()), Err(ProposalFault::RemovesOwner)),
        (
            MEMBER,
            member.propose_group_context_extensions(none(), Vec::new()),
            Err(ProposalFault::ExtensionsNeedAdmin),
        ),
        (ADMIN, admin.propose_group_context_extensions(none(), Vec::new()), Ok(NOBODY)),
        (OWNER, owner.propose_reinit(None, version, suite, none(), Vec::new()), Err(ProposalFault::Type)),
        (OWNER, owner.propose_custom(custom, Vec::new()), Err(ProposalFault::Type)),
        (MEMBER, member.propose_external_psk(id, Vec::new()), Ok(NOBODY)),
    ];
    for (index, (by, proposal, expected)) in cases.into_iter().enumerate() {
        let verdict = three.world.propose(&three.devices[by], &proposal.unwrap());
        assert_eq!(verdict, expected.map_err(Refusal::from), "case {index}");
    }
}

#[test]
fn an_update_proposal_keeps_the_identity_and_brings_the_registered_key() {
    let mut three = three(Manner::default());
    let suite = CipherSuite::X25519Aes128;
    let same = Leaf::new(identity(user(3), &three.devices[MEMBER].caller.device_id), suite);
    let renamed = Leaf::new(b"somebody".to_vec(), suite);
    let mut propose = |leaf: &Leaf| {
        let session = &mut three.sessions[MEMBER];
        session.propose_update_with_identity(leaf.secret.clone(), leaf.identity.clone(), Vec::new()).unwrap()
    };
    let (same_name, other_name) = (propose(&same), propose(&renamed));
    let world = &three.world;
    let device = &mut three.devices[MEMBER];
    assert_eq!(world.propose(device, &same_name), Err(CommitFault::UnregisteredKey.into()));
    device.keys = vec![renamed.key(suite)];
    assert_eq!(world.propose(device, &other_name), Err(CommitFault::Identity.into()));
    device.keys = vec![same.key(suite)];
    assert_eq!(world.propose(device, &same_name), Ok(NOBODY));
}

#[test]
fn only_the_leaf_of_the_caller_proposes() {
    let mut three = three(Manner::default());
    let proposal = three.sessions[MEMBER].propose_update(Vec::new()).unwrap();
    assert_eq!(three.world.propose(&three.devices[ADMIN], &proposal), Err(Refusal::NotYou));
    let stranger = Device::new(user(50), "desk", Manner::default());
    assert_eq!(three.world.propose(&stranger, &proposal), Err(Refusal::NotFound));
    let mut body = bytes(&proposal).to_vec();
    let signature = body.len() - 50;
    body[signature] ^= 1;
    let altered = MlsMessage::from_bytes(&body).unwrap();
    assert_eq!(three.world.propose(&three.devices[MEMBER], &altered), Err(Refusal::NotYou));
    assert_eq!(three.world.propose(&three.devices[MEMBER], &proposal), Ok(NOBODY));

    let commit = three.sessions[MEMBER].commit_builder().build().unwrap();
    let framing = Err(ProposalFault::Framing.into());
    assert_eq!(three.world.propose(&three.devices[MEMBER], commit.commit_message()), framing);
    assert_eq!(added_package(&bytes(commit.commit_message())), None);

    // A device that asks to be added by itself is told to use an external commit.
    let group_info = MlsMessage::from_bytes(&three.world.group_info).unwrap();
    let tree = mls_rs::group::ExportedTree::from_bytes(&three.world.tree).unwrap();
    let join = stranger.client.external_add_proposal(
        &group_info,
        Some(tree),
        Vec::new(),
        ExtensionList::default(),
        ExtensionList::default(),
        None,
    );
    let join = join.unwrap();
    assert_eq!(three.world.propose(&stranger, &join), Err(Refusal::NotFound));
    assert_eq!(three.world.propose(&three.devices[OWNER], &join), Err(ProposalFault::Type.into()));
}

#[test]
fn of_several_proposals_the_first_bad_one_is_named() {
    let mut three = three(Manner::default());
    let good = bytes(&three.sessions[MEMBER].propose_remove(2, Vec::new()).unwrap());
    let bad = bytes(&three.sessions[MEMBER].propose_remove(1, Vec::new()).unwrap());
    let world = &three.world;
    let judge = |proposals: &[_]| {
        judge_proposals(&world.at(), &world.state, &three.devices[MEMBER].sender(), proposals, &[])
    };
    assert_eq!(judge(&[good.clone(), bad.clone(), bad]), Err((1, ProposalFault::RemoveNeedsAdmin.into())));
    assert_eq!(judge(&[good.clone(), good]).unwrap().len(), 2);
    assert_eq!(judge(&[]), Ok(Vec::new()));
}

#[test]
fn a_proposal_of_a_former_epoch_is_stale() {
    let mut three = three(Manner::default());
    let proposal = three.sessions[MEMBER].propose_update(Vec::new()).unwrap();
    assert_eq!(three.world.propose(&three.devices[MEMBER], &proposal), Ok(NOBODY));
    let sent = three.update(OWNER);
    three.accept(OWNER, &sent);
    let stale = Refusal::StaleEpoch(three.world.epoch);
    assert_eq!(three.world.propose(&three.devices[MEMBER], &proposal), Err(stale));
    assert_eq!(stale.code(), Some("stale-epoch"));
}
