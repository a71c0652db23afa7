//! Commits of members: what they may do to a group, and what an altered or foreign one is.

use bytes::Bytes;
use mls_rs::MlsMessage;
use restante::{
    domain::{CipherSuite, DeviceNo, Epoch, GroupId, Role, UserId},
    groups::mls::{CommitFault, GroupInfoFault, Refusal, StateFault, WelcomeFault, identity},
};
use uuid::Uuid;

use super::{
    device::{Device, Leaf, Manner, Session, bytes},
    world::{Sent, World},
};

pub(crate) fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// A founder, an admin and a plain member, with their sessions in a group.
pub(crate) struct Three {
    pub(crate) world: World,
    pub(crate) devices: [Device; 3],
    pub(crate) sessions: [Session; 3],
}

pub(crate) const OWNER: usize = 0;
pub(crate) const ADMIN: usize = 1;
pub(crate) const MEMBER: usize = 2;

pub(crate) fn three(manner: Manner) -> Three {
    let devices = [(1, "desk"), (2, "phone"), (3, "tablet")]
        .map(|(number, name)| Device::new(user(number), name, manner));
    let (mut world, mut session) = World::found(&devices[OWNER], manner);
    let joined = world.add(&devices[OWNER], &mut session, &[&devices[ADMIN], &devices[MEMBER]]);
    world.role(&devices[ADMIN], Role::Admin);
    let [admin, member] = joined.try_into().unwrap_or_else(|_| unreachable!("two were added"));
    Three { world, devices, sessions: [session, admin, member] }
}

impl Three {
    /// An empty commit, which is an update.
    pub(crate) fn update(&mut self, by: usize) -> Sent {
        Sent::from(&self.sessions[by].commit_builder().build().unwrap())
    }

    /// Takes the pending commit of a device into its own session, and into the others'.
    pub(crate) fn follow(&mut self, by: usize, sent: &Sent) {
        let message = MlsMessage::from_bytes(&sent.commit).unwrap();
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if index == by {
                session.apply_pending_commit().unwrap();
            } else {
                session.process_incoming_message(message.clone()).unwrap();
            }
        }
    }

    pub(crate) fn accept(&mut self, by: usize, sent: &Sent) -> restante::groups::mls::JudgedCommit {
        let judged = self.world.accept(&self.devices[by], sent);
        self.follow(by, sent);
        judged
    }

    pub(crate) fn refusal(&self, by: usize, sent: &Sent) -> Refusal {
        self.world.refusal(&self.devices[by], sent)
    }

    pub(crate) fn no(&self, of: usize) -> DeviceNo {
        self.devices[of].caller.device_no
    }
}

fn flipped(message: &Bytes, at: usize) -> Bytes {
    let mut altered = message.to_vec();
    altered[at] ^= 1;
    altered.into()
}

/// The rosters of the relay and of every client name the same devices at the same leaves.
fn agree(world: &World, session: &Session) {
    let mut here: Vec<_> = world
        .members
        .iter()
        .flat_map(|member| member.devices.iter().map(|device| (member.user_id, device)))
        .map(|(user_id, device)| (device.leaf_index.unwrap(), identity(user_id, &device.device_id)))
        .collect();
    here.sort();
    let there: Vec<_> = session
        .roster()
        .members_iter()
        .map(|member| {
            (member.index, member.signing_identity.credential.as_basic().unwrap().identifier.clone())
        })
        .collect();
    assert_eq!(here, there);
    assert_eq!(session.current_epoch(), world.epoch.wire());
    assert_eq!(world.tree, session.export_tree().to_bytes().unwrap());
}

#[test]
fn relay_and_clients_agree_on_every_leaf_after_updates_adds_and_removes() {
    for suite in super::world::SUITES {
        let manner = Manner { suite, ..Manner::default() };
        let mut three = three(manner);
        for by in [OWNER, ADMIN, MEMBER] {
            let sent = three.update(by);
            let judged = three.accept(by, &sent);
            assert!(judged.joiners.is_empty() && judged.removed.is_empty() && judged.external.is_none());
            agree(&three.world, &three.sessions[MEMBER]);
        }
        let output = three.sessions[ADMIN].commit_builder().remove_member(2).unwrap().build().unwrap();
        let judged = three.world.accept(&three.devices[ADMIN], &Sent::from(&output));
        assert_eq!(judged.removed, [three.no(MEMBER)]);
        three.sessions[ADMIN].apply_pending_commit().unwrap();
        agree(&three.world, &three.sessions[ADMIN]);

        // The blank leaf is taken first, and one is appended.
        let more = [(4, "a"), (5, "b")].map(|(number, name)| Device::new(user(number), name, manner));
        let joined =
            three.world.add(&three.devices[ADMIN], &mut three.sessions[ADMIN], &[&more[0], &more[1]]);
        assert_eq!(joined.each_index(), [2, 3]);
        agree(&three.world, &joined[0]);
    }
}

trait EachIndex {
    fn each_index(&self) -> Vec<u32>;
}

impl EachIndex for Vec<Session> {
    fn each_index(&self) -> Vec<u32> {
        self.iter().map(mls_rs::Group::current_member_index).collect()
    }
}

#[test]
fn a_commit_whose_confirmation_tag_was_altered_is_refused() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    // The last 33 bytes are the membership tag, those before them the confirmation tag.
    let tag = sent.commit.len() - 34;
    let altered = Sent { commit: flipped(&sent.commit, tag), ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &altered), Refusal::BadGroupInfo(GroupInfoFault::NotOfCommit));
    three.accept(MEMBER, &sent);
}

/// The membership tag is a MAC under a key that only members have, and nothing that the relay sees covers it. The bytes are
/// kept as they came; a member that spoils its own tag breaks the epoch like one that spoils its path secrets, which reports and
/// reset are for.
#[test]
fn a_membership_tag_is_the_one_part_of_a_commit_that_only_members_can_check() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    let altered = Sent { commit: flipped(&sent.commit, sent.commit.len() - 1), ..sent.clone() };
    let (genuine, other) = (
        three.world.judge(&three.devices[MEMBER], &sent).unwrap(),
        three.world.judge(&three.devices[MEMBER], &altered).unwrap(),
    );
    assert!(genuine == other, "it moves the relay to the same epoch");
    let altered = MlsMessage::from_bytes(&altered.commit).unwrap();
    assert!(three.sessions[OWNER].process_incoming_message(altered).is_err());
}

#[test]
fn every_other_flipped_byte_of_a_commit_is_refused() {
    let mut three = three(Manner::default());
    let added = Device::new(user(9), "new", Manner::default());
    let package = three.world.claim(&added);
    let output = three.sessions[ADMIN].commit_builder().add_member(package).unwrap().build().unwrap();
    let (update, add) = (three.update(MEMBER), Sent::from(&output));
    for (by, sent) in [(MEMBER, update), (ADMIN, add)] {
        let covered = sent.commit.len() - 33;
        for at in (0..80).chain((80..covered).step_by(7)).chain(covered - 40..covered) {
            let altered = Sent { commit: flipped(&sent.commit, at), ..sent.clone() };
            let verdict = three.world.judge(&three.devices[by], &altered);
            let refusal = verdict.err().unwrap_or_else(|| panic!("byte {at} of {covered}"));
            assert!(!matches!(refusal, Refusal::Unavailable(_)), "byte {at}: {refusal}");
        }
        assert!(three.world.judge(&three.devices[by], &sent).is_ok());
    }
}

#[test]
fn a_signature_by_another_key_is_not_the_callers() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    let signature = sent.commit.len() - 66 - 10;
    let altered = Sent { commit: flipped(&sent.commit, signature), ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &altered), Refusal::NotYou);
    three.accept(MEMBER, &sent);
}

#[test]
fn a_commit_is_for_this_group_and_this_epoch() {
    let mut three = three(Manner::default());
    let mut other = super::commits::three(Manner::default());
    let foreign = other.update(OWNER);
    assert_eq!(three.refusal(OWNER, &foreign), CommitFault::WrongGroup.into());

    let stale = three.update(MEMBER);
    let sent = three.update(OWNER);
    three.sessions[MEMBER].clear_pending_commit();
    three.accept(OWNER, &sent);
    for old in [&stale, &sent] {
        assert_eq!(three.refusal(MEMBER, old), Refusal::StaleEpoch(three.world.epoch));
    }
    let next = three.update(MEMBER);
    three.world.epoch = Epoch(1);
    assert_eq!(
        three.refusal(MEMBER, &next),
        Refusal::StaleEpoch(Epoch(1)),
        "one from the future is stale, too"
    );
}

#[test]
fn only_a_device_in_the_group_commits_and_only_from_its_own_leaf() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    let stranger = Device::new(user(77), "desk", Manner::default());
    let sibling = Device::new(user(3), "other", Manner::default());
    let again = Device::new(user(3), "tablet", Manner::default());
    for outside in [stranger, sibling, again] {
        assert_eq!(three.world.refusal(&outside, &sent), Refusal::NotFound);
    }
    assert_eq!(three.refusal(ADMIN, &sent), Refusal::NotYou);
    three.accept(MEMBER, &sent);

    let output = three.sessions[ADMIN].commit_builder().remove_member(2).unwrap().build().unwrap();
    let late = three.update(MEMBER);
    three.accept(ADMIN, &Sent::from(&output));
    assert_eq!(three.refusal(MEMBER, &late), Refusal::NotFound, "a removed device is a stranger");
}

#[test]
fn strangers_learn_nothing_from_what_else_is_wrong() {
    let mut three = three(Manner::default());
    let stranger = Device::new(user(77), "desk", Manner::default());
    let proposal = bytes(&three.sessions[MEMBER].propose_update(Vec::new()).unwrap());
    three.sessions[MEMBER].clear_proposal_cache();
    let sent = three.update(MEMBER);
    three.world.group_id = GroupId::new(Uuid::from_u128(0));
    let as_commit = Sent { commit: proposal, ..sent.clone() };
    for wrong in [&sent, &as_commit] {
        assert_eq!(three.world.refusal(&stranger, wrong), Refusal::NotFound);
    }
    assert_eq!(three.refusal(MEMBER, &as_commit), CommitFault::Framing.into());
}

#[test]
fn an_update_keeps_the_identity_and_brings_the_registered_key() {
    let mut three = three(Manner::default());
    let suite = CipherSuite::X25519Aes128;
    let name = identity(user(3), &three.devices[MEMBER].caller.device_id);
    let (same, renamed) =
        (Leaf::new(name, suite), Leaf::new(identity(user(3), &three.devices[OWNER].caller.device_id), suite));

    let commit = |session: &mut Session, leaf: &Leaf| {
        session.clear_pending_commit();
        let builder = session.commit_builder();
        let output =
            builder.set_new_signing_identity(leaf.secret.clone(), leaf.identity.clone()).build().unwrap();
        Sent::from(&output)
    };
    let sent = commit(&mut three.sessions[MEMBER], &renamed);
    three.devices[MEMBER].keys = vec![renamed.key(suite)];
    assert_eq!(three.refusal(MEMBER, &sent), CommitFault::Identity.into());

    let sent = commit(&mut three.sessions[MEMBER], &same);
    assert_eq!(three.refusal(MEMBER, &sent), CommitFault::UnregisteredKey.into());
    three.devices[MEMBER].keys = vec![same.key(suite)];
    three.accept(MEMBER, &sent);
}

#[test]
fn a_device_has_one_leaf() {
    let mut three = three(Manner::default());
    // The same device again, under another key: its client does not mind.
    let mut again = Device::new(user(3), "tablet", Manner::default());
    again.caller.device_no = three.no(MEMBER);
    let package = three.world.claim(&again);
    let sent = Sent::from(
        &three.sessions[ADMIN].commit_builder().add_member(package.clone()).unwrap().build().unwrap(),
    );
    assert_eq!(three.refusal(ADMIN, &sent), CommitFault::SecondLeaf.into());
    three.sessions[ADMIN].clear_pending_commit();
    let builder = three.sessions[ADMIN].commit_builder().remove_member(2).unwrap();
    let sent = Sent::from(&builder.add_member(package).unwrap().build().unwrap());
    let judged = three.world.accept(&three.devices[ADMIN], &sent);
    assert_eq!(judged.removed, [three.no(MEMBER)]);
    assert_eq!(judged.joiners[0].leaf_index, Some(2));
}

#[test]
fn a_welcome_comes_with_adds_and_with_nothing_else() {
    let mut three = three(Manner::default());
    let device = Device::new(user(8), "desk", Manner::default());
    let package = three.world.claim(&device);
    let sent =
        Sent::from(&three.sessions[ADMIN].commit_builder().add_member(package).unwrap().build().unwrap());
    let without = Sent { welcome: None, ..sent.clone() };
    assert_eq!(three.refusal(ADMIN, &without), WelcomeFault::Missing.into());
    let update = three.update(MEMBER);
    let with = Sent { welcome: sent.welcome.clone(), ..update.clone() };
    assert_eq!(three.refusal(MEMBER, &with), WelcomeFault::Superfluous.into());
    assert!(three.world.judge(&three.devices[MEMBER], &update).is_ok());
    assert!(three.world.judge(&three.devices[ADMIN], &sent).is_ok());
}

#[test]
fn a_state_of_another_epoch_or_another_group_is_never_used() {
    let mut three = three(Manner::default());
    let sent = three.update(OWNER);
    let old = three.world.state.clone();
    three.accept(OWNER, &sent);
    let next = three.update(OWNER);
    assert!(three.world.judge(&three.devices[OWNER], &next).is_ok());
    let good = std::mem::replace(&mut three.world.state, old);
    assert_eq!(three.refusal(OWNER, &next), StateFault::Other.into());
    for (state, fault) in [
        (super::commits::three(Manner::default()).world.state, StateFault::Other),
        (Bytes::new(), StateFault::Codec),
        (good.slice(..good.len() - 1), StateFault::Codec),
        ([&[99], &good[1..]].concat().into(), StateFault::Format),
    ] {
        three.world.state = state;
        assert_eq!(three.refusal(OWNER, &next), fault.into());
    }
}
