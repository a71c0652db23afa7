//! The rules under commits that openmls and mls-rs make for one group.

use bytes::Bytes;
use mls_rs::MlsMessage;
use restante::{
    domain::{CipherSuite, ExternalJoin, MlsSignatureKey, Role, UserId},
    groups::mls::{JudgedCommit, JudgedProposal, Refusal, Sender, identity},
};

use super::{
    commits::user,
    device::{Calls, Manner, caller},
    world::{Sent, World, known, new_group_id},
};
use crate::support::mls::{
    Bundle, Change, LIBRARIES, MakeClient, Manner as ClientManner, MlsClient, Received,
    mls_rs as mls_rs_client, openmls,
};

struct Peer {
    caller: restante::domain::Caller,
    keys: Vec<MlsSignatureKey>,
    client: Box<dyn MlsClient>,
}

impl Calls for Peer {
    fn sender(&self) -> Sender<'_> {
        Sender { caller: &self.caller, keys: &self.keys, join_token: false }
    }
}

fn peer(make: MakeClient, user_id: UserId, name: &str, suite: CipherSuite) -> Peer {
    let caller = caller(user_id, name);
    let identity = String::from_utf8(identity(user_id, &caller.device_id)).unwrap();
    let client = make(&identity, ClientManner { suite: suite.number(), private: false });
    let (_, public_key) = client.signature_key();
    let key = MlsSignatureKey {
        scheme: suite.signature_scheme(),
        public_key: public_key.into(),
        signature: [0; 64],
    };
    Peer { caller, keys: vec![key], client }
}

impl From<Bundle> for Sent {
    fn from(bundle: Bundle) -> Self {
        Self {
            commit: bundle.commit.into(),
            group_info: bundle.group_info.into(),
            welcome: bundle.welcome.map(Bytes::from),
            removed: Vec::new(),
        }
    }
}

/// A group and whoever is in it.
struct Company {
    world: World,
    peers: Vec<Peer>,
}

impl Company {
    fn found(mut founder: Peer, manner: Manner) -> Self {
        let group_id = new_group_id();
        let made = founder.client.create(group_id.uuid());
        let world =
            World::founded(&founder, group_id, manner, &made.group_info.into(), Some(&made.tree.into()));
        Self { world, peers: vec![founder] }
    }

    /// Takes a commit of this member, and lets everybody follow.
    fn accept(&mut self, by: usize, sent: &Sent) -> JudgedCommit {
        let judged = self.world.accept(&self.peers[by], sent);
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if index == by {
                peer.client.accepted();
            } else {
                peer.client.receive(&sent.commit).unwrap();
            }
        }
        judged
    }

    fn commit(&mut self, by: usize, change: Change) -> JudgedCommit {
        let sent = self.peers[by].client.commit(change).into();
        self.accept(by, &sent)
    }

    fn add(&mut self, by: usize, mut joiner: Peer) {
        let package = joiner.client.key_package(false);
        let message = MlsMessage::from_bytes(&package).unwrap();
        self.world.packages.push(known(&joiner.caller, &message, self.world.manner.suite));
        let judged = self.commit(by, Change::Add(vec![package]));
        joiner.client.join(&judged.joiners[0].welcome, Some(&self.world.tree));
        assert_eq!(judged.joiners[0].leaf_index, Some(joiner.client.leaf()));
        self.peers.push(joiner);
    }

    fn agree(&self) {
        let first = &self.peers[0].client;
        for peer in &self.peers {
            assert_eq!(peer.client.authenticator(), first.authenticator(), "{}", peer.client.library());
            assert_eq!(peer.client.tree(), self.world.tree);
            assert_eq!(peer.client.epoch(), self.world.epoch.wire());
        }
    }
}

#[test]
fn two_libraries_and_the_relay_agree_through_adds_updates_removes_and_external_commits() {
    for suite in super::world::SUITES {
        for founder in LIBRARIES {
            let manner = Manner { suite, external_join: ExternalJoin::Siblings, ..Manner::default() };
            let mut company = Company::found(peer(founder, user(1), "a", suite), manner);
            company.add(0, peer(openmls, user(2), "b", suite));
            company.add(0, peer(mls_rs_client, user(3), "c", suite));
            for by in 0..3 {
                company.commit(by, Change::Update);
                company.agree();
            }

            let mut newcomer = peer(founder, user(2), "second", suite);
            let bundle =
                newcomer.client.join_externally(&company.world.group_info, &company.world.tree, None);
            let sent = bundle.into();
            let judged = company.world.accept(&newcomer, &sent);
            assert_eq!(judged.external.unwrap().leaf_index, Some(newcomer.client.leaf()));
            for peer in &mut company.peers {
                assert_eq!(peer.client.receive(&sent.commit), Ok(Received::Commit));
            }
            company.peers.push(newcomer);
            company.agree();

            let gone = company.peers.remove(1);
            let leaf = gone.client.leaf();
            let judged = company.commit(0, Change::Remove(vec![leaf]));
            assert_eq!(judged.removed, [gone.caller.device_no]);
            company.agree();
        }
    }
}

#[test]
fn a_self_remove_is_covered_by_reference() {
    let suite = CipherSuite::X25519Aes128;
    let mut company = Company::found(peer(openmls, user(1), "a", suite), Manner::default());
    company.add(0, peer(openmls, user(2), "b", suite));
    company.add(0, peer(openmls, user(3), "c", suite));
    let without = company.peers[0].client.commit(Change::Update).into();
    company.peers[0].client.refused();

    let leaves = Bytes::from(company.peers[2].client.propose_self_remove().unwrap());
    let leaver = company.peers.pop().unwrap();
    let judged = company.world.keep(&leaver, &leaves);
    assert_eq!(judged, JudgedProposal { target: Some(leaver.caller.device_no), leaves: true });
    assert_eq!(company.world.refusal(&company.peers[0], &without), Refusal::PendingLeave);

    company.world.members.iter_mut().for_each(|member| member.role = Role::Member);
    for peer in &mut company.peers {
        assert_eq!(peer.client.receive(&leaves), Ok(Received::Proposal));
    }
    let judged = company.commit(1, Change::Update);
    assert_eq!(judged.removed, [leaver.caller.device_no]);
    company.agree();
}

#[test]
fn a_resync_of_openmls_is_what_the_policy_asks_for() {
    let suite = CipherSuite::X25519Aes128;
    let mut company = Company::found(peer(openmls, user(1), "a", suite), Manner::default());
    company.add(0, peer(openmls, user(2), "b", suite));
    company.add(0, peer(mls_rs_client, user(3), "c", suite));
    let mut lost = company.peers.remove(1);
    let leaf = lost.client.leaf();
    let bundle = lost.client.join_externally(&company.world.group_info, &company.world.tree, Some(leaf));
    let sent = bundle.into();
    let judged = company.world.accept(&lost, &sent);
    assert_eq!(judged.removed, [lost.caller.device_no]);
    assert_eq!(judged.external.unwrap().leaf_index, Some(leaf));
    for peer in &mut company.peers {
        assert_eq!(peer.client.receive(&sent.commit), Ok(Received::Commit));
    }
    company.peers.push(lost);
    company.agree();
}
