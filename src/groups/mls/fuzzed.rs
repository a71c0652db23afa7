//! MLS messages for fuzzers, held against one group of real clients; see [`crate::fuzzed`].
//!
//! Under `cfg(fuzzing)` every signature verifies ([`crate::verify`]): a fuzzer plays members with bad intent, who can sign
//! whatever they like.

#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use std::{collections::HashSet, sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use uuid::Uuid;

use super::{
    CommitBundle, ContentType, FoundingRules, Framing, GroupAt, Header, JudgedCommit, KnownPackage,
    PublicSender, Refusal, Sender, Welcome, added_package, found, found_private, founder, group_info,
    judge_commit, judge_private_commit, judge_private_proposal, judge_proposals, reader::Reader, state,
};
use crate::{
    domain::{
        Caller, CipherSuite, Epoch, ExternalJoin, GroupId, KeyPackageRef, Member, MlsSignatureKey, Role,
    },
    fuzzed::{NOW, caller},
};

const SUITE: CipherSuite = CipherSuite::X25519Aes128;

/// The devices of the group, and last a stranger with a join token. Device 0 owns it, device 1 is an admin.
const NAMES: [&str; 4] = ["desk", "phone", "tablet", "watch"];

/// What the store would hold of a group of three in its epoch 1, and a stranger whose package was handed out.
pub struct World {
    group_id: GroupId,
    state: Bytes,
    group_info: Bytes,
    callers: [Caller; 4],
    keys: [MlsSignatureKey; 4],
    members: Vec<Member>,
}

impl World {
    /// The group from its file: id, state, `GroupInfo` and the signature keys of the four, each a line of base64.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let parts: Vec<Bytes> =
            text.lines().map(|line| STANDARD.decode(line).map(Bytes::from)).collect::<Result<_, _>>().ok()?;
        let [group_id, state, group_info, keys @ ..] = &parts[..] else { return None };
        let callers = [0, 1, 2, 3].map(|index: u8| caller(index + 1, NAMES[usize::from(index)]));
        let key = |key: &Bytes| MlsSignatureKey {
            scheme: SUITE.signature_scheme(),
            public_key: key.clone(),
            signature: [0; 64],
        };
        Some(Self {
            group_id: GroupId::new(Uuid::from_slice(group_id).ok()?),
            state: state.clone(),
            group_info: group_info.clone(),
            keys: keys.iter().map(key).collect::<Vec<_>>().try_into().ok()?,
            members: members(&callers),
            callers,
        })
    }

    fn at(&self) -> GroupAt<'_> {
        GroupAt {
            group_id: self.group_id,
            epoch: Epoch(1),
            cipher_suite: SUITE,
            external_join: ExternalJoin::Token,
            members: &self.members,
        }
    }

    fn sender(&self, index: usize) -> Sender<'_> {
        let keys = std::slice::from_ref(&self.keys[index]);
        Sender { caller: &self.callers[index], keys, join_token: index == 3 }
    }

    /// A package of the stranger, whatever it is.
    fn package(&self, reference: KeyPackageRef) -> KnownPackage {
        let owner = self.callers[3].clone();
        KnownPackage { reference, owner, active: true, cipher_suite: SUITE, usable: true }
    }
}

fn members(callers: &[Caller; 4]) -> Vec<Member> {
    let mut members: Vec<Member> = callers[..3].iter().map(|caller| founder(caller, NOW)).collect();
    for (leaf_index, (member, role)) in
        (0..).zip(members.iter_mut().zip([Role::Owner, Role::Admin, Role::Member]))
    {
        member.role = role;
        for device in &mut member.devices {
            device.leaf_index = Some(leaf_index);
        }
    }
    members
}

static WORLD: LazyLock<Option<World>> =
    LazyLock::new(|| World::read(include_str!("../../../fuzz/world.txt")));

/// An `MLSMessage`, and what may come with it: vectors (RFC 9420 §2.1.2) of the message, a `GroupInfo` or tree, and a Welcome.
pub fn mls_message(data: &[u8]) -> bool {
    let Some(world) = &*WORLD else { unreachable!("fuzz/world.txt is whole") };
    mls_message_in(world, data)
}

/// [`mls_message`] in a given group.
pub fn mls_message_in(world: &World, data: &[u8]) -> bool {
    let [message, beside, welcome] = parts(data);
    match Header::parse(&message) {
        Err(_) => {
            assert!(Welcome::parse(&message).is_err() && added_package(&message).is_none());
            false
        }
        Ok(Header::Public(framing, from)) => {
            public(world, framing, from, &message, &beside, (!welcome.is_empty()).then_some(&welcome))
        }
        Ok(Header::Private(framing)) => private(world, framing, &message, &beside, &welcome),
        Ok(Header::Welcome) => split(&message),
        Ok(Header::GroupInfo) => founding(world, &message, &beside),
        Ok(Header::KeyPackage) => false,
    }
}

/// The three parts of an input; the last one may be cut off, and any may be missing.
fn parts(data: &[u8]) -> [Bytes; 3] {
    let mut reader = Reader::new(data);
    [(); 3].map(|()| {
        let part = reader.vector().unwrap_or_else(|_| {
            let rest = reader.rest();
            reader = Reader::new(&[]);
            rest
        });
        Bytes::copy_from_slice(part)
    })
}

fn public(
    world: &World,
    framing: Framing,
    from: PublicSender,
    message: &Bytes,
    group_info: &Bytes,
    welcome: Option<&Bytes>,
) -> bool {
    let index = match from {
        PublicSender::Member(leaf) => usize::try_from(leaf).unwrap_or(0).min(2),
        PublicSender::NewMemberCommit => 3,
        PublicSender::External(_) | PublicSender::NewMemberProposal => 0,
    };
    let sender = world.sender(index);
    match framing.content_type {
        ContentType::Commit => {
            committed(world, &sender, &CommitBundle { commit: message, group_info, welcome })
        }
        ContentType::Proposal | ContentType::Application => proposed(world, &sender, message),
    }
}

fn committed(world: &World, sender: &Sender<'_>, bundle: &CommitBundle<'_>) -> bool {
    let named = bundle.welcome.and_then(|welcome| Welcome::parse(welcome).ok());
    let named = named.map(|welcome| welcome.references()).unwrap_or_default();
    let packages: Vec<_> = named.into_iter().map(|reference| world.package(reference)).collect();
    let public = judge_commit(&world.at(), &world.state, &[], sender, bundle, &packages);
    let private = judge_private_commit(&world.at(), &world.group_info, sender, bundle, &[], &packages);
    let outcomes = [public, private].map(|judged| taken(judged.as_ref().map(|judged| check(world, judged))));
    outcomes.contains(&true)
}

/// What an accepted commit promises the store.
fn check(world: &World, judged: &JudgedCommit) {
    assert_eq!(judged.next.epoch, Epoch(2));
    if let Some(bytes) = &judged.next.state {
        let at = GroupAt { epoch: Epoch(2), ..world.at() };
        let Ok((public_group, _)) = state::load(bytes, &at) else {
            unreachable!("the next commit needs this state")
        };
        assert_eq!(state::export_tree(&public_group).ok(), judged.next.tree);
    }
    assert!(group_info::parse(&judged.next.group_info).is_ok());
    for joining in &judged.joiners {
        let welcome = Welcome::parse(&joining.welcome);
        assert!(welcome.is_ok_and(|welcome| welcome.references() == [joining.reference]));
    }
    let leaves: HashSet<_> = judged.joiners.iter().filter_map(|joining| joining.leaf_index).collect();
    assert!(judged.next.state.is_none() || leaves.len() == judged.joiners.len());
    assert!(judged.removed.windows(2).all(|pair| pair[0] < pair[1]));
}

fn proposed(world: &World, sender: &Sender<'_>, message: &Bytes) -> bool {
    let packages: Vec<_> =
        added_package(message).map(|reference| world.package(reference)).into_iter().collect();
    let proposals = std::slice::from_ref(message);
    let public = judge_proposals(&world.at(), &world.state, sender, proposals, &packages);
    let private = judge_private_proposal(&world.at(), &world.group_info, sender, message);
    taken(public.map_err(|(_, refusal)| refusal)) || taken(private)
}

fn private(world: &World, framing: Framing, message: &Bytes, group_info: &Bytes, welcome: &Bytes) -> bool {
    assert_eq!(Header::parse_application(message).is_ok(), framing.content_type == ContentType::Application);
    let sender = world.sender(1);
    match framing.content_type {
        ContentType::Application => true,
        ContentType::Proposal => proposed(world, &sender, message),
        ContentType::Commit => {
            let welcome = (!welcome.is_empty()).then_some(welcome);
            committed(world, &sender, &CommitBundle { commit: message, group_info, welcome })
        }
    }
}

/// Each part of a Welcome is a Welcome that names one joiner.
fn split(message: &[u8]) -> bool {
    let Ok(welcome) = Welcome::parse(message) else { return false };
    if welcome.is_too_large() {
        return false;
    }
    for reference in welcome.references() {
        let Some(part) = welcome.split(reference) else { unreachable!("it names this package") };
        assert!(part.len() <= message.len());
        assert!(Welcome::parse(&part).is_ok_and(|part| part.references() == [reference]));
    }
    true
}

/// A new group, by the founder of the world.
fn founding(world: &World, message: &Bytes, tree: &Bytes) -> bool {
    let Ok(parsed) = group_info::parse(message) else { return false };
    let Ok(id) = Uuid::from_slice(parsed.group_id().as_slice()) else { return false };
    let rules = FoundingRules {
        group_id: GroupId::new(id),
        external_join: ExternalJoin::Resync,
        cipher_suites: &[SUITE],
        // Seeds do not end.
        longest_lifetime: Duration::from_hours(24 * 366 * 200),
        now: NOW,
    };
    let sender = world.sender(0);
    let public = found(&rules, &sender, message, (!tree.is_empty()).then_some(tree)).map(|founded| {
        let at = GroupAt { group_id: rules.group_id, epoch: Epoch(0), ..world.at() };
        let Some(bytes) = &founded.first.state else { unreachable!("a public group has a state") };
        assert!(state::load(bytes, &at).is_ok(), "the first commit needs this state");
    });
    taken(public) | taken(found_private(&rules, &sender, message))
}

/// A refusal blames the message, never what the store holds.
fn taken<T>(outcome: Result<T, impl std::borrow::Borrow<Refusal>>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(refusal) => {
            let refusal = refusal.borrow();
            assert!(refusal.code().is_some(), "{refusal:?}");
            false
        }
    }
}
