//! Commits with public handshakes: what can be checked without the group's secrets.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use openmls::{
    group::PublicGroup,
    messages::{ConfirmationTag, group_info::VerifiableGroupInfo},
    prelude::{
        LeafNode, LeafNodeIndex, MlsMessageIn, ProcessedMessageContent, ProtocolMessage, StagedCommit,
        Verifiable as _,
    },
};
use tls_codec::{Deserialize as _, Size as _};

use super::{
    CommitBundle, CommitFault, ContentType, EpochMaterial, ExternalLeaf, GroupAt, GroupInfoFault, Header,
    Joining, JudgedCommit, KnownPackage, NotMls, PublicSender, Refusal, Sender, StateFault, capabilities,
    changes::{self, Changes, Committer, check_roster},
    external::admit,
    fault, group_info,
    identity::{identity, identity_in, names, registered_key},
    memory::Memory,
    proposals::{self, Around, Packages},
    provider::Verifier,
    roster::Roster,
    state,
    welcome::{self, Welcome},
};
use crate::domain::KeyPackageRef;

/// Judges a commit for a group with public handshakes.
///
/// `state` is the stored state of the group's epoch, `pending` the proposals of this epoch as they came, `packages` what the
/// store knows of the packages that [`Welcome::references`] names. Of equal rules the cheaper goes first, and nothing is
/// told to a device that has no part in the group.
///
/// # Errors
/// Why the commit is refused; [`Refusal::Unavailable`] where it is the state that cannot be used.
pub fn judge_commit(
    group: &GroupAt<'_>,
    state: &[u8],
    pending: &[Bytes],
    sender: &Sender<'_>,
    bundle: &CommitBundle<'_>,
    packages: &[KnownPackage],
) -> Result<JudgedCommit, Refusal> {
    let roster = Roster::new(group.members);
    let committer = committer(group, &roster, sender, bundle.commit)?;
    let (mut public_group, memory) = state::load(state, group)?;
    requeue(&mut public_group, &memory, pending, group)?;
    let (staged, tag) = stage(&public_group, bundle.commit, group)?;

    // Before the table, which can look up only what a Welcome named.
    let welcome = welcome::fitting(bundle.welcome, group.cipher_suite, &added(&staged)?)?;
    let packages = Packages::new(packages, group.cipher_suite);
    let around = Around { roster: &roster, packages: &packages };
    let changes = changes::gather(&staged, &committer, &around)?;
    check_path_leaf(&staged, sender, group)?;
    check_roster(&public_group, &changes, &committer, sender, &roster)?;
    let leaf_index = match &committer {
        Committer::Member(leaf_index) => *leaf_index,
        Committer::External(_) => {
            public_group.ext_commit_sender_index(&staged).map_err(|_| StateFault::Library)?.u32()
        }
    };
    let group_info = check_group_info(&public_group, &staged, &tag, leaf_index, bundle.group_info, group)?;

    public_group.merge_commit(&memory, *staged).map_err(|_| StateFault::Library)?;
    if changes.extensions {
        capabilities::check(&public_group)?;
    }
    let tree = state::export_tree(&public_group)?;
    group_info::check_tree(&group_info, &tree)?;
    Ok(JudgedCommit {
        joiners: joiners(&public_group, &changes, welcome.as_ref())?,
        next: EpochMaterial {
            epoch: group.epoch.next(),
            state: Some(state::encode(memory)?),
            group_info: bundle.group_info.clone(),
            tree: Some(tree),
        },
        external: match committer {
            Committer::Member(_) => None,
            Committer::External(admitted) => {
                Some(ExternalLeaf { leaf_index: Some(leaf_index), by_token: admitted.by_token })
            }
        },
        removed: changes.removed.into_values().collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

/// Looks at what a commit shows, without any cryptography.
fn committer<'r>(
    group: &GroupAt<'_>,
    roster: &Roster<'r>,
    sender: &Sender<'_>,
    commit: &[u8],
) -> Result<Committer<'r>, Refusal> {
    let header = Header::parse(commit)?;
    let committer = if let Header::Public(_, PublicSender::NewMemberCommit) = header {
        Committer::External(admit(group, roster, sender)?)
    } else {
        let own = proposals::own_place(roster, sender)?;
        Committer::Member(own.device.leaf_index.ok_or(StateFault::Roster)?)
    };
    let Header::Public(framing, from) = header else { return Err(CommitFault::Framing.into()) };
    if framing.content_type != ContentType::Commit {
        return Err(CommitFault::Framing.into());
    }
    if framing.group_id != group.group_id {
        return Err(CommitFault::WrongGroup.into());
    }
    if framing.epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    match (from, &committer) {
        (PublicSender::NewMemberCommit, _) => Ok(committer),
        (PublicSender::Member(leaf_index), Committer::Member(own)) if leaf_index == *own => Ok(committer),
        (PublicSender::Member(_), _) => Err(Refusal::NotYou),
        (PublicSender::External(_) | PublicSender::NewMemberProposal, _) => Err(CommitFault::Framing.into()),
    }
}

/// Puts the pending proposals back into the group. One that has become invalid, like an Add whose package has ended, is left
/// out: a commit that names it is refused, and no other one is held up.
fn requeue(
    public_group: &mut PublicGroup,
    memory: &Memory,
    pending: &[Bytes],
    group: &GroupAt<'_>,
) -> Result<(), Refusal> {
    for message in pending {
        match proposals::process(public_group, message, group.epoch) {
            Ok(Some(queued)) => public_group.add_proposal(memory, *queued).map_err(Refusal::from)?,
            Ok(None) => {}
            Err(Refusal::Unavailable(fault)) => return Err(fault.into()),
            Err(_no_longer_valid) => {}
        }
    }
    Ok(())
}

/// Verifies the commit and applies it beside the group.
fn stage(
    public_group: &PublicGroup,
    commit: &[u8],
    group: &GroupAt<'_>,
) -> Result<(Box<StagedCommit>, ConfirmationTag), Refusal> {
    let parsed = MlsMessageIn::tls_deserialize_exact(commit).map_err(|_| NotMls::Malformed)?;
    let ProtocolMessage::PublicMessage(message) =
        parsed.try_into_protocol_message().map_err(|_| CommitFault::Framing)?
    else {
        return Err(CommitFault::Framing.into());
    };
    let tag = message.confirmation_tag().cloned().ok_or(CommitFault::Framing)?;
    let processed = public_group
        .process_message(&Verifier, *message)
        .map_err(|error| fault::of_message(&error, group.epoch))?;
    match processed.into_content() {
        ProcessedMessageContent::StagedCommitMessage(staged) => Ok((staged, tag)),
        ProcessedMessageContent::ApplicationMessage(_)
        | ProcessedMessageContent::ProposalMessage(_)
        | ProcessedMessageContent::ExternalJoinProposalMessage(_)
        | ProcessedMessageContent::OwnPendingCommit
        | ProcessedMessageContent::OwnPrivateMessage => Err(CommitFault::Framing.into()),
    }
}

/// The key packages that a commit adds.
fn added(staged: &StagedCommit) -> Result<BTreeSet<KeyPackageRef>, Refusal> {
    staged.add_proposals().map(|add| proposals::reference(add.add_proposal().key_package())).collect()
}

/// The longest leaf that is kept, in bytes: the longest key package, about.
const LONGEST_LEAF: usize = 4096;

/// Every leaf is loaded for every commit, so none may be large.
pub(super) fn check_length(leaf: &LeafNode) -> Result<(), CommitFault> {
    if leaf.tls_serialized_len() > LONGEST_LEAF { Err(CommitFault::LargeLeaf) } else { Ok(()) }
}

/// The committer's new leaf is the calling device's, with its registered key.
fn check_path_leaf(
    staged: &StagedCommit,
    sender: &Sender<'_>,
    group: &GroupAt<'_>,
) -> Result<(), CommitFault> {
    let Some(leaf) = staged.update_path_leaf_node() else { return Ok(()) };
    check_length(leaf)?;
    if !names(leaf.credential(), sender.caller.user_id, &sender.caller.device_id) {
        return Err(CommitFault::Identity);
    }
    if registered_key(sender.keys, group.cipher_suite) != Some(leaf.signature_key().as_slice()) {
        return Err(CommitFault::UnregisteredKey);
    }
    Ok(())
}

/// The `GroupInfo` of the next epoch proves the commit's tag: made anew from what the commit leads to, it must be the one that
/// came, signed by the committer's new leaf.
fn check_group_info(
    public_group: &PublicGroup,
    staged: &StagedCommit,
    tag: &ConfirmationTag,
    signer: u32,
    message: &[u8],
    group: &GroupAt<'_>,
) -> Result<VerifiableGroupInfo, Refusal> {
    let received = group_info::parse(message)?;
    group_info::check_place(&received, group.group_id, group.epoch.next(), group.external_join)?;
    let signer = LeafNodeIndex::new(signer);
    let rebuilt = VerifiableGroupInfo::new(
        staged.group_context().clone(),
        received.extensions().clone(),
        tag.clone(),
        signer,
        received.signature().clone(),
    );
    if rebuilt != received {
        return Err(GroupInfoFault::NotOfCommit.into());
    }
    let leaf = staged.update_path_leaf_node().or_else(|| public_group.leaf(signer));
    let key = leaf.map(LeafNode::signature_key).ok_or(StateFault::Library)?;
    group_info::check_signature(&received, group.cipher_suite, key.as_slice())?;
    Ok(received)
}

/// Whom the commit added, with the leaves that they have now.
fn joiners(
    public_group: &PublicGroup,
    changes: &Changes<'_>,
    welcome: Option<&Welcome<'_>>,
) -> Result<Vec<Joining>, StateFault> {
    let Some(welcome) = welcome else { return Ok(Vec::new()) };
    let leaves: HashMap<_, _> = public_group
        .treesync()
        .full_leaves()
        .filter_map(|(index, leaf)| Some((identity_in(leaf.credential())?, index.u32())))
        .collect();
    let mut joiners = Vec::with_capacity(changes.added.len());
    for known in &changes.added {
        let leaf_index = leaves.get(&identity(known.owner.user_id, &known.owner.device_id));
        joiners.push(Joining {
            device_no: known.owner.device_no,
            reference: known.reference,
            leaf_index: Some(*leaf_index.ok_or(StateFault::Library)?),
            welcome: welcome.split(known.reference).ok_or(StateFault::Library)?,
        });
    }
    joiners.sort_by_key(|joining| joining.leaf_index);
    Ok(joiners)
}
