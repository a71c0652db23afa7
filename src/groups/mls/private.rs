//! Commits and proposals with private handshakes: the header orders them, and what else is visible is checked.
//!
//! Not visible are the proposals, who really goes, and a member's confirmation tag: a member can break such a group, and nothing
//! here can tell. Who joins is read from the Welcome; who goes is declared.

use std::collections::BTreeSet;

use super::{
    CommitBundle, CommitFault, ContentType, EpochMaterial, ExternalLeaf, Framing, GroupAt, GroupInfoFault,
    Header, Joining, JudgedCommit, JudgedProposal, KnownPackage, ProposalFault, PublicSender, Refusal,
    Sender, StateFault, WelcomeFault,
    changes::check_names_of,
    external::admit,
    framed, group_info,
    identity::registered_key,
    proposals::{Packages, own_place},
    provider,
    roster::{Place, Roster},
    welcome::Welcome,
};
use crate::domain::{DeviceNo, MAX_MEMBERS};

/// Judges a commit for a group with private handshakes.
///
/// `current` is the stored `GroupInfo` of the group's epoch, `removed` whose leaves the committer says it removes, `packages`
/// what the store knows of the packages that [`Welcome::references`] names. An external commit is a `PublicMessage` and declares
/// nothing: the sender's former leaf goes.
///
/// # Errors
/// Why the commit is refused.
pub fn judge_private_commit(
    group: &GroupAt<'_>,
    current: &[u8],
    sender: &Sender<'_>,
    bundle: &CommitBundle<'_>,
    removed: &[DeviceNo],
    packages: &[KnownPackage],
) -> Result<JudgedCommit, Refusal> {
    let roster = Roster::new(group.members);
    let changes = match Header::parse(bundle.commit)? {
        Header::Public(framing, PublicSender::NewMemberCommit) => {
            let admitted = admit(group, &roster, sender)?;
            check_place(group, &framing)?;
            if bundle.welcome.is_some() {
                return Err(WelcomeFault::Superfluous.into());
            }
            let gone = admitted.former.map(|former| former.device.device_no);
            if removed.iter().any(|declared| Some(*declared) != gone) {
                return Err(ProposalFault::External.into());
            }
            let context = context_of(current)?;
            let tag = framed::check_external_commit(
                bundle.commit,
                &context,
                group.cipher_suite,
                sender,
                gone.is_some(),
            )?;
            if group_info::confirmation_tag(bundle.group_info).map_err(|_| GroupInfoFault::Malformed)? != tag
            {
                return Err(GroupInfoFault::NotOfCommit.into());
            }
            let external = ExternalLeaf { leaf_index: None, by_token: admitted.by_token };
            Changes { removed: gone.into_iter().collect(), external: Some(external), ..Changes::default() }
        }
        header => {
            let own = own_place(&roster, sender)?;
            let Header::Private(framing) = header else { return Err(CommitFault::Framing.into()) };
            check_place(group, &framing)?;
            let removed = check_removed(&own, removed, &roster)?;
            Changes { joiners: joiners(group, &own, bundle, packages)?, removed, external: None }
        }
    };
    check_roster(&changes, sender, &roster)?;
    check_group_info(group, sender, bundle.group_info)?;
    Ok(JudgedCommit {
        next: EpochMaterial {
            epoch: group.epoch.next(),
            state: None,
            group_info: bundle.group_info.clone(),
            tree: None,
        },
        joiners: changes.joiners.into_iter().map(|(_, joining)| joining).collect(),
        removed: changes.removed.into_iter().collect(),
        external: changes.external,
    })
}

/// Judges a proposal for a group with private handshakes: a `PrivateMessage`, of which nothing else is visible, or a `SelfRemove`
/// as `PublicMessage`, by which the calling device leaves.
///
/// # Errors
/// Why the proposal is refused.
pub fn judge_private_proposal(
    group: &GroupAt<'_>,
    current: &[u8],
    sender: &Sender<'_>,
    proposal: &[u8],
) -> Result<JudgedProposal, Refusal> {
    let roster = Roster::new(group.members);
    let own = own_place(&roster, sender)?;
    let (framing, is_public) = match Header::parse(proposal)? {
        Header::Private(framing) => (framing, false),
        Header::Public(framing, PublicSender::Member(_)) => (framing, true),
        Header::Public(..) | Header::Welcome | Header::GroupInfo | Header::KeyPackage => {
            return Err(ProposalFault::Framing.into());
        }
    };
    if framing.content_type != ContentType::Proposal || framing.group_id != group.group_id {
        return Err(ProposalFault::Framing.into());
    }
    if framing.epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    if !is_public {
        return Ok(JudgedProposal { target: None, leaves: false });
    }
    framed::check_self_remove(proposal, &context_of(current)?, group.cipher_suite, sender)?;
    Ok(JudgedProposal { target: Some(own.device.device_no), leaves: true })
}

#[derive(Default)]
struct Changes<'a> {
    joiners: Vec<(&'a KnownPackage, Joining)>,
    removed: BTreeSet<DeviceNo>,
    external: Option<ExternalLeaf>,
}

fn check_place(group: &GroupAt<'_>, framing: &Framing) -> Result<(), Refusal> {
    if framing.content_type != ContentType::Commit {
        return Err(CommitFault::Framing.into());
    }
    if framing.group_id != group.group_id {
        return Err(CommitFault::WrongGroup.into());
    }
    if framing.epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    Ok(())
}

/// Whom the Welcome names, each by a package that may enter.
fn joiners<'a>(
    group: &GroupAt<'_>,
    own: &Place<'_>,
    bundle: &CommitBundle<'_>,
    packages: &'a [KnownPackage],
) -> Result<Vec<(&'a KnownPackage, Joining)>, Refusal> {
    let Some(message) = bundle.welcome else { return Ok(Vec::new()) };
    let welcome = Welcome::parse(message).map_err(|_| WelcomeFault::Malformed)?;
    if welcome.cipher_suite() != group.cipher_suite {
        return Err(WelcomeFault::Malformed.into());
    }
    if welcome.is_too_large() {
        return Err(WelcomeFault::TooLarge.into());
    }
    let packages = Packages::new(packages, group.cipher_suite);
    let mut joiners = Vec::new();
    for reference in welcome.references() {
        let known = packages.enter(reference)?;
        own.may_add(known.owner.user_id)?;
        let welcome = welcome.split(reference).ok_or(StateFault::Library)?;
        let device_no = known.owner.device_no;
        joiners.push((known, Joining { device_no, reference, leaf_index: None, welcome }));
    }
    joiners.sort_by_key(|(known, _)| known.owner.device_no);
    Ok(joiners)
}

fn check_removed(
    own: &Place<'_>,
    removed: &[DeviceNo],
    roster: &Roster<'_>,
) -> Result<BTreeSet<DeviceNo>, Refusal> {
    for device in removed {
        let target = roster.of(*device).ok_or(CommitFault::RemovedUnknown)?;
        if target.device.device_no == own.device.device_no {
            return Err(CommitFault::LeafTwice.into());
        }
        own.may_remove(&target)?;
    }
    Ok(removed.iter().copied().collect())
}

fn check_roster(changes: &Changes<'_>, sender: &Sender<'_>, roster: &Roster<'_>) -> Result<(), Refusal> {
    let stays = |place: &Place<'_>| !changes.removed.contains(&place.device.device_no);
    let comes = changes.external.is_some();
    let after = roster.places().filter(stays).count() + changes.joiners.len() + usize::from(comes);
    if after > MAX_MEMBERS {
        return Err(Refusal::GroupFull);
    }
    let stay = roster.places().filter(stays).map(|place| (place.member.user_id, &place.device.device_id));
    let added = changes.joiners.iter().map(|(known, _)| (known.owner.user_id, &known.owner.device_id));
    let newcomer = comes.then_some((sender.caller.user_id, &sender.caller.device_id));
    check_names_of(stay.chain(added).chain(newcomer))?;
    if !comes && roster.places().any(|place| place.device.leaving && stays(&place)) {
        return Err(Refusal::PendingLeave);
    }
    Ok(())
}

/// The next epoch's `GroupInfo` verifies under the calling device's registered key, because the relay knows no tree.
fn check_group_info(group: &GroupAt<'_>, sender: &Sender<'_>, message: &[u8]) -> Result<(), GroupInfoFault> {
    let group_info = group_info::parse(message)?;
    group_info::check_place(&group_info, group.group_id, group.epoch.next(), group.external_join)?;
    if group_info.ciphersuite() != provider::suite(group.cipher_suite) {
        return Err(GroupInfoFault::CipherSuite);
    }
    if !group_info::only_allowed(group_info.group_context().extensions()) {
        return Err(GroupInfoFault::Extension);
    }
    let key = registered_key(sender.keys, group.cipher_suite).ok_or(GroupInfoFault::UnregisteredKey)?;
    group_info::check_signature(&group_info, group.cipher_suite, key)
}

/// The group context that public messages of this epoch are signed with.
fn context_of(current: &[u8]) -> Result<Vec<u8>, StateFault> {
    use tls_codec::Serialize as _;

    let group_info = group_info::parse(current).map_err(|_| StateFault::Codec)?;
    group_info.group_context().tls_serialize_detached().map_err(|_| StateFault::Codec)
}
