//! Which proposals are taken, from whom, and what they are about.

use std::collections::HashMap;

use bytes::Bytes;
use openmls::{
    ciphersuite::hash_ref::make_key_package_ref,
    group::PublicGroup,
    prelude::{
        KeyPackage as MlsKeyPackage, KeyPackageIn, MlsMessageIn, ProcessedMessageContent, Proposal,
        QueuedProposal,
    },
};
use tls_codec::Deserialize as _;

use super::commit::check_length;
use super::{
    CommitFault, ContentType, GroupAt, Header, JudgedProposal, KnownPackage, NotMls, ProposalFault,
    PublicSender, Refusal, Sender, StateFault, fault, group_info, header,
    identity::{names, registered_key},
    provider::{self, Verifier},
    reader::Reader,
    roster::{Place, Roster},
    state,
};
use crate::domain::{CipherSuite, Epoch, KeyPackageRef, Role};

/// `ProposalType` of an Add (RFC 9420 §17.4).
const ADD: u16 = 1;

/// The key package that a public Add proposal names, for which the store must be asked before the proposal is judged; none for
/// anything else.
#[must_use]
pub fn added_package(proposal: &[u8]) -> Option<KeyPackageRef> {
    let mut reader = Reader::new(proposal);
    if (reader.u16().ok()?, reader.u16().ok()?) != (header::MLS10, header::PUBLIC) {
        return None;
    }
    let Header::Public(framing, _) = header::public(&mut reader).ok()? else { return None };
    if framing.content_type != ContentType::Proposal || reader.u16().ok()? != ADD {
        return None;
    }
    let package = reader.rest();
    let mut rest = package;
    KeyPackageIn::tls_deserialize(&mut rest).ok()?;
    let (package, _) = package.split_at(package.len() - rest.len());
    // Every suite hashes alike.
    let suite = provider::suite(CipherSuite::X25519Aes128);
    let reference = make_key_package_ref(package, suite, &Verifier).ok()?;
    reference.as_slice().try_into().ok().map(KeyPackageRef)
}

/// Judges proposals that one device sends together, against the same state: all, or the first that is refused, by its index.
///
/// `state` is the stored state of the group's epoch; `packages` is what the store knows of [`added_package`] of each.
///
/// # Errors
/// The index of the first that is refused, and why. Where it is the state, the index is 0.
pub fn judge_proposals(
    group: &GroupAt<'_>,
    state: &[u8],
    sender: &Sender<'_>,
    proposals: &[Bytes],
    packages: &[KnownPackage],
) -> Result<Vec<JudgedProposal>, (usize, Refusal)> {
    let roster = Roster::new(group.members);
    let packages = Packages::new(packages, group.cipher_suite);
    let (public_group, _) = state::load(state, group).map_err(|fault| (0, fault.into()))?;
    let judge = |(index, message): (usize, &Bytes)| {
        judge_one(group, &public_group, &roster, sender, message, &packages)
            .map_err(|refusal| (index, refusal))
    };
    proposals.iter().enumerate().map(judge).collect()
}

fn judge_one(
    group: &GroupAt<'_>,
    public_group: &PublicGroup,
    roster: &Roster<'_>,
    sender: &Sender<'_>,
    message: &Bytes,
    packages: &Packages<'_>,
) -> Result<JudgedProposal, Refusal> {
    let own = own_place(roster, sender)?;
    let Header::Public(framing, from) = Header::parse(message)? else {
        return Err(ProposalFault::Framing.into());
    };
    if framing.content_type != ContentType::Proposal || framing.group_id != group.group_id {
        return Err(ProposalFault::Framing.into());
    }
    if framing.epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    match from {
        PublicSender::Member(leaf_index) if own.device.leaf_index == Some(leaf_index) => {}
        PublicSender::Member(_) => return Err(Refusal::NotYou),
        PublicSender::External(_) | PublicSender::NewMemberProposal | PublicSender::NewMemberCommit => {
            return Err(ProposalFault::Type.into());
        }
    }
    let queued = process(public_group, message, group.epoch)?.ok_or(ProposalFault::Framing)?;
    let about = judge(queued.proposal(), &own, &Around { roster, packages })?;
    if let Proposal::Update(update) = queued.proposal() {
        check_length(update.leaf_node())?;
    }
    if let Proposal::Update(update) = queued.proposal()
        && registered_key(sender.keys, group.cipher_suite)
            != Some(update.leaf_node().signature_key().as_slice())
    {
        return Err(CommitFault::UnregisteredKey.into());
    }
    Ok(match about {
        About::Removes(target) => JudgedProposal {
            target: Some(target.device.device_no),
            leaves: target.member.user_id == own.member.user_id,
        },
        About::Adds(_) | About::Updates | About::Nobody => JudgedProposal { target: None, leaves: false },
    })
}

/// The calling device's place in the group. A device that has proposed to leave has none any more.
pub(super) fn own_place<'a>(roster: &Roster<'a>, sender: &Sender<'_>) -> Result<Place<'a>, Refusal> {
    let own = roster.of(sender.caller.device_no).filter(|place| !place.device.leaving);
    own.ok_or(Refusal::NotFound)
}

/// Verifies a proposal that stands alone; none when the message is another one.
pub(super) fn process(
    public_group: &PublicGroup,
    message: &[u8],
    current: Epoch,
) -> Result<Option<Box<QueuedProposal>>, Refusal> {
    let parsed = MlsMessageIn::tls_deserialize_exact(message).map_err(|_| NotMls::Malformed)?;
    let parsed = parsed.try_into_protocol_message().map_err(|_| ProposalFault::Framing)?;
    let processed = public_group
        .process_message(&Verifier, parsed)
        .map_err(|error| fault::of_message(&error, current))?;
    Ok(match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued) => Some(queued),
        ProcessedMessageContent::ExternalJoinProposalMessage(_)
        | ProcessedMessageContent::ApplicationMessage(_)
        | ProcessedMessageContent::StagedCommitMessage(_)
        | ProcessedMessageContent::OwnPendingCommit
        | ProcessedMessageContent::OwnPrivateMessage => None,
    })
}

/// What a proposal is judged by, beside its proposer.
#[derive(Clone, Copy)]
pub(super) struct Around<'a, 'r> {
    pub(super) roster: &'a Roster<'r>,
    pub(super) packages: &'a Packages<'a>,
}

/// Whom a proposal is about.
pub(super) enum About<'a, 'r> {
    /// The owner of the package joins.
    Adds(&'a KnownPackage),
    /// The device's leaf goes.
    Removes(Place<'r>),
    /// The proposer's leaf gets new keys.
    Updates,
    /// The group as a whole.
    Nobody,
}

/// The table: whether a member's device may propose this, and whom it is about. It holds for proposals by value and by
/// reference alike.
pub(super) fn judge<'a, 'r>(
    proposal: &Proposal,
    by: &Place<'r>,
    around: &Around<'a, 'r>,
) -> Result<About<'a, 'r>, Refusal> {
    match proposal {
        Proposal::Add(add) => {
            let package = entering(add.key_package(), around)?;
            by.may_add(package.owner.user_id)?;
            Ok(About::Adds(package))
        }
        Proposal::Update(update) => {
            if !names(update.leaf_node().credential(), by.member.user_id, &by.device.device_id) {
                return Err(CommitFault::Identity.into());
            }
            Ok(About::Updates)
        }
        Proposal::Remove(remove) => {
            let target = around.roster.at(remove.removed().u32()).map_err(|_| ProposalFault::NoSuchLeaf)?;
            by.may_remove(&target)?;
            Ok(About::Removes(target))
        }
        Proposal::SelfRemove => Ok(About::Removes(*by)),
        Proposal::PreSharedKey(_) => Ok(About::Nobody),
        Proposal::GroupContextExtensions(change) => {
            if by.member.role < Role::Admin {
                return Err(ProposalFault::ExtensionsNeedAdmin.into());
            }
            if !group_info::only_allowed(change.extensions()) {
                return Err(ProposalFault::Extension.into());
            }
            Ok(About::Nobody)
        }
        Proposal::ExternalInit(_) => Err(ProposalFault::ExternalInit.into()),
        Proposal::ReInit(_) | Proposal::Custom(_) => Err(ProposalFault::Type.into()),
    }
}

/// The package by which a device enters: handed out by the relay, used by nobody, of an active device.
fn entering<'a>(package: &MlsKeyPackage, around: &Around<'a, '_>) -> Result<&'a KnownPackage, Refusal> {
    let known = around.packages.enter(reference(package)?)?;
    if !names(package.leaf_node().credential(), known.owner.user_id, &known.owner.device_id) {
        return Err(CommitFault::Identity.into());
    }
    Ok(known)
}

/// The reference of a key package.
pub(super) fn reference(package: &MlsKeyPackage) -> Result<KeyPackageRef, Refusal> {
    let reference = package.hash_ref(&Verifier).map_err(|_| StateFault::Library)?;
    Ok(KeyPackageRef(reference.as_slice().try_into().map_err(|_| StateFault::Library)?))
}

/// What the store knows of the packages that are named.
pub(super) struct Packages<'a> {
    known: HashMap<KeyPackageRef, &'a KnownPackage>,
}

impl<'a> Packages<'a> {
    /// Those of a group's suite.
    pub(super) fn new(packages: &'a [KnownPackage], suite: CipherSuite) -> Self {
        let of_suite = packages.iter().filter(|known| known.cipher_suite == suite);
        Self { known: of_suite.map(|known| (known.reference, known)).collect() }
    }

    /// A package that may enter a group now.
    pub(super) fn enter(&self, reference: KeyPackageRef) -> Result<&'a KnownPackage, Refusal> {
        let known = *self.known.get(&reference).ok_or(Refusal::PackageUsed(reference))?;
        if !known.active {
            return Err(Refusal::UnknownDevice(known.owner.device_no));
        }
        if !known.usable {
            return Err(Refusal::PackageUsed(reference));
        }
        Ok(known)
    }
}
