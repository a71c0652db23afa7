//! The table of proposals, as commits are held against it.

use mls_rs::{
    Extension, ExtensionList, MlsMessage,
    extension::{ExtensionType, built_in::RequiredCapabilitiesExt},
    group::proposal::{CustomProposal, ProposalType},
    psk::{ExternalPskId, PreSharedKey},
};
use restante::{
    domain::Role,
    groups::mls::{CommitFault, ProposalFault, Refusal},
};

use super::{
    commits::{ADMIN, MEMBER, OWNER, three, user},
    device::{Device, Manner, Session},
    world::Sent,
};

#[test]
fn proposals_outside_the_table_are_not_taken() {
    let mut three = three(Manner::default());
    let custom = CustomProposal::new(ProposalType::new(0xf002), vec![1]);
    let output = three.sessions[OWNER].commit_builder().custom_proposal(custom).build().unwrap();
    assert_eq!(three.refusal(OWNER, &Sent::from(&output)), ProposalFault::Type.into());
    three.sessions[OWNER].clear_pending_commit();

    let reinit = three.sessions[OWNER].commit_builder().reinit(
        None,
        mls_rs::ProtocolVersion::MLS_10,
        mls_rs::CipherSuite::CURVE25519_AES128,
        ExtensionList::default(),
    );
    let output = reinit.unwrap().build().unwrap();
    assert_eq!(three.refusal(OWNER, &Sent::from(&output)), ProposalFault::Type.into());
    three.sessions[OWNER].clear_pending_commit();

    // A pre-shared key is anybody's.
    let id = ExternalPskId::new(vec![1; 8]);
    for device in &three.devices {
        device.client.secret_store().insert(id.clone(), PreSharedKey::new(vec![7; 32]));
    }
    let output = three.sessions[MEMBER].commit_builder().add_external_psk(id).unwrap().build().unwrap();
    three.accept(MEMBER, &Sent::from(&output));
}

fn context(kind: u16) -> ExtensionList {
    let mut extensions = ExtensionList::default();
    let required =
        RequiredCapabilitiesExt { extensions: vec![ExtensionType::new(kind)], ..Default::default() };
    extensions.set_from(required).unwrap();
    extensions.set(Extension::new(ExtensionType::new(kind), vec![1, 2, 3]));
    extensions
}

#[test]
fn an_admin_changes_extensions_that_are_on_the_allow_list() {
    let mut three = three(Manner::default());
    let change = |session: &mut Session, extensions| {
        session.clear_pending_commit();
        Sent::from(&session.commit_builder().set_group_context_ext(extensions).unwrap().build().unwrap())
    };
    let sent = change(&mut three.sessions[MEMBER], context(0xf001));
    assert_eq!(three.refusal(MEMBER, &sent), ProposalFault::ExtensionsNeedAdmin.into());

    let senders = mls_rs::extension::built_in::ExternalSendersExt::new(vec![
        three.devices[OWNER].leaf.identity.clone(),
    ]);
    let mut extensions = ExtensionList::default();
    extensions.set_from(senders).unwrap();
    let sent = change(&mut three.sessions[ADMIN], extensions);
    assert_eq!(three.refusal(ADMIN, &sent), ProposalFault::Extension.into());

    let sent = change(&mut three.sessions[ADMIN], context(0xf001));
    three.sessions[MEMBER].clear_pending_commit();
    three.accept(ADMIN, &sent);
}

#[test]
fn a_member_adds_its_own_devices_and_an_admin_anybodys() {
    let mut three = three(Manner::default());
    let own = Device::new(user(3), "second", Manner::default());
    let other = Device::new(user(8), "desk", Manner::default());
    let (own, other) = (three.world.claim(&own), three.world.claim(&other));
    let add = |session: &mut Session, package: &MlsMessage| {
        session.clear_pending_commit();
        Sent::from(&session.commit_builder().add_member(package.clone()).unwrap().build().unwrap())
    };
    let sent = add(&mut three.sessions[MEMBER], &other);
    assert_eq!(three.refusal(MEMBER, &sent), ProposalFault::AddNeedsAdmin.into());
    let sent = add(&mut three.sessions[ADMIN], &other);
    assert!(three.world.judge(&three.devices[ADMIN], &sent).is_ok());
    let sent = add(&mut three.sessions[MEMBER], &own);
    three.sessions[ADMIN].clear_pending_commit();
    let judged = three.accept(MEMBER, &sent);
    assert_eq!(judged.joiners[0].leaf_index, Some(3));
}

#[test]
fn leaves_are_removed_by_admins_by_their_own_user_and_the_dead_by_anyone() {
    let mut three = three(Manner::default());
    let own = Device::new(user(3), "second", Manner::default());
    three.sessions[MEMBER].clear_pending_commit();
    let joined = three.world.add(&three.devices[MEMBER], &mut three.sessions[MEMBER], &[&own]);
    let mut member = joined.into_iter().next().unwrap();
    let remove = |session: &mut Session, leaf| {
        session.clear_pending_commit();
        Sent::from(&session.commit_builder().remove_member(leaf).unwrap().build().unwrap())
    };
    let (world, devices) = (&mut three.world, &three.devices);
    for (leaf, expected) in
        [(0, Err(ProposalFault::RemovesOwner)), (1, Err(ProposalFault::RemoveNeedsAdmin)), (2, Ok(()))]
    {
        let verdict = world.judge(&own, &remove(&mut member, leaf)).map(|_| ());
        assert_eq!(verdict, expected.map_err(Refusal::from), "leaf {leaf}");
    }
    world.device(devices[ADMIN].caller.device_no).active = false;
    assert!(world.judge(&own, &remove(&mut member, 1)).is_ok(), "a dead leaf goes by anyone");
    world.device(devices[OWNER].caller.device_no).active = false;
    assert!(world.judge(&own, &remove(&mut member, 0)).is_ok(), "the owner's dead leaf, too");
}

#[test]
fn a_device_that_leaves_must_be_removed_by_the_next_commit() {
    let mut three = three(Manner::default());
    let proposal = three.sessions[MEMBER].propose_remove(2, Vec::new()).unwrap();
    let without = three.update(OWNER);
    three.sessions[OWNER].clear_pending_commit();
    let judged = three.world.keep(&three.devices[MEMBER], &proposal);
    assert!(judged.leaves && judged.target == Some(three.no(MEMBER)));

    assert_eq!(three.refusal(OWNER, &without), Refusal::PendingLeave);
    three.sessions[OWNER].process_incoming_message(proposal.clone()).unwrap();
    let covering = Sent::from(&three.sessions[OWNER].commit_builder().build().unwrap());
    let judged = three.world.judge(&three.devices[OWNER], &covering).unwrap();
    assert_eq!(judged.removed, [three.no(MEMBER)]);

    // By value it is as good, from anyone.
    three.world.role(&three.devices[ADMIN], Role::Member);
    let by_value = three.sessions[ADMIN].commit_builder().remove_member(2).unwrap().build().unwrap();
    assert!(three.world.judge(&three.devices[ADMIN], &Sent::from(&by_value)).is_ok());

    three.sessions[MEMBER].clear_proposal_cache();
    let own = three.update(MEMBER);
    assert_eq!(three.refusal(MEMBER, &own), Refusal::NotFound, "who leaves commits no more");
}

#[test]
fn a_commit_may_name_only_what_is_pending() {
    let mut three = three(Manner::default());
    let proposal = three.sessions[MEMBER].propose_update(Vec::new()).unwrap();
    three.sessions[OWNER].process_incoming_message(proposal.clone()).unwrap();
    let sent = Sent::from(&three.sessions[OWNER].commit_builder().build().unwrap());
    assert_eq!(three.refusal(OWNER, &sent), CommitFault::UnknownProposal.into());
    assert_eq!(three.world.keep(&three.devices[MEMBER], &proposal).target, None);
    three.sessions[ADMIN].process_incoming_message(proposal).unwrap();
    three.accept(OWNER, &sent);
}

#[test]
fn the_table_holds_for_each_proposer_again_when_its_proposal_is_committed() {
    let mut three = three(Manner::default());
    let other = Device::new(user(8), "desk", Manner::default());
    let package = three.world.claim(&other);
    let proposal = three.sessions[ADMIN].propose_add(package, Vec::new()).unwrap();
    three.world.keep(&three.devices[ADMIN], &proposal);
    three.sessions[OWNER].process_incoming_message(proposal).unwrap();
    let sent = Sent::from(&three.sessions[OWNER].commit_builder().build().unwrap());
    assert!(sent.welcome.is_some() && three.world.judge(&three.devices[OWNER], &sent).is_ok());
    three.world.role(&three.devices[ADMIN], Role::Member);
    assert_eq!(three.refusal(OWNER, &sent), ProposalFault::AddNeedsAdmin.into());
}
