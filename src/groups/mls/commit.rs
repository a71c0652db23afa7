//! Commits with public handshakes: what can be checked without the group's secrets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use openmls::{
    group::PublicGroup,
    messages::{ConfirmationTag, group_info::VerifiableGroupInfo},
    prelude::{
        LeafNode, LeafNodeIndex, MlsMessageIn, ProcessedMessageContent, Proposal, ProtocolMessage,
        QueuedProposal, Sender as MlsSender, StagedCommit, Verifiable as _,
    },
};
use tls_codec::DeserializeBytes as _;

use super::{
    CommitBundle, CommitFault, ContentType, EpochMaterial, ExternalLeaf, GroupAt, GroupInfoFault, Header,
    Joining, JudgedCommit, KnownPackage, NotMls, ProposalFault, PublicSender, Refusal, Sender, StateFault,
    capabilities,
    external::{Admitted, admit},
    fault, group_info,
    identity::{identity, identity_in, names, registered_key},
    memory::Memory,
    proposals::{self, About, Around, Packages},
    provider::Verifier,
    roster::{Place, Roster},
    state,
    welcome::{self, Welcome},
};
use crate::domain::{DeviceId, DeviceNo, MAX_MEMBERS, UserId};

/// Who commits.
enum Committer<'r> {
    /// The member at this leaf.
    Member(u32),
    /// A device that comes in.
    External(Admitted<'r>),
}

/// What a commit does to the roster.
#[derive(Default)]
struct Changes<'a> {
    added: Vec<&'a KnownPackage>,
    removed: BTreeMap<u32, DeviceNo>,
    extensions: bool,
}

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

    let packages = Packages::new(packages, group.cipher_suite);
    let around = Around { roster: &roster, packages: &packages };
    let changes = changes(&staged, &committer, &around)?;
    check_path_leaf(&staged, sender, group)?;
    check_roster(&public_group, &changes, &committer, sender, &roster)?;
    let references = changes.added.iter().map(|known| known.reference).collect();
    let welcome = welcome::fitting(bundle.welcome, group.cipher_suite, &references)?;
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
    let parsed = MlsMessageIn::tls_deserialize_exact_bytes(commit).map_err(|_| NotMls::Malformed)?;
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

/// Applies the table of proposals, for the committer and for each proposer, and gathers what the commit does.
fn changes<'a>(
    staged: &StagedCommit,
    committer: &Committer<'_>,
    around: &Around<'a, '_>,
) -> Result<Changes<'a>, Refusal> {
    let mut changes = Changes::default();
    let mut touched = HashSet::new();
    if let Committer::Member(leaf_index) = committer {
        touched.insert(*leaf_index);
    }
    for queued in staged.queued_proposals() {
        let leaf_index = match queued.sender() {
            MlsSender::Member(proposer) => change(queued, *proposer, around, &mut changes)?,
            MlsSender::NewMemberCommit => entrance(queued, committer, &mut changes)?,
            MlsSender::External(_) | MlsSender::NewMemberProposal => return Err(ProposalFault::Type.into()),
        };
        // Not all of this is the library's rule, but clients refuse it (RFC 9420 §12.2).
        if leaf_index.is_some_and(|leaf_index| !touched.insert(leaf_index)) {
            return Err(CommitFault::LeafTwice.into());
        }
    }
    if let Committer::External(Admitted { former: Some(former), .. }) = committer
        && !changes.removed.values().any(|removed| *removed == former.device.device_no)
    {
        return Err(CommitFault::SecondLeaf.into());
    }
    Ok(changes)
}

/// One proposal of a member. Returns the leaf that it is about.
fn change<'a>(
    queued: &QueuedProposal,
    proposer: LeafNodeIndex,
    around: &Around<'a, '_>,
    changes: &mut Changes<'a>,
) -> Result<Option<u32>, Refusal> {
    let by = around.roster.at(proposer.u32())?;
    match proposals::judge(queued.proposal(), &by, around)? {
        About::Adds(known) => {
            changes.added.push(known);
            Ok(None)
        }
        About::Removes(target) => {
            let leaf_index = target.device.leaf_index.ok_or(StateFault::Roster)?;
            changes.removed.insert(leaf_index, target.device.device_no);
            Ok(Some(leaf_index))
        }
        About::Updates => Ok(Some(proposer.u32())),
        About::Nobody => {
            changes.extensions |= matches!(queued.proposal(), Proposal::GroupContextExtensions(_));
            Ok(None)
        }
    }
}

/// One proposal that a device brings to come in: it may do nothing else but to make its own former leaf go.
fn entrance(
    queued: &QueuedProposal,
    committer: &Committer<'_>,
    changes: &mut Changes<'_>,
) -> Result<Option<u32>, Refusal> {
    match queued.proposal() {
        Proposal::ExternalInit(_) | Proposal::PreSharedKey(_) => Ok(None),
        Proposal::Remove(remove) => {
            let Committer::External(Admitted { former: Some(former), .. }) = committer else {
                return Err(ProposalFault::External.into());
            };
            let leaf_index = remove.removed().u32();
            if former.device.leaf_index != Some(leaf_index) {
                return Err(ProposalFault::External.into());
            }
            changes.removed.insert(leaf_index, former.device.device_no);
            Ok(Some(leaf_index))
        }
        Proposal::Add(_)
        | Proposal::Update(_)
        | Proposal::ReInit(_)
        | Proposal::GroupContextExtensions(_)
        | Proposal::SelfRemove
        | Proposal::Custom(_) => Err(ProposalFault::External.into()),
    }
}

/// The committer's new leaf is the calling device's, with its registered key.
fn check_path_leaf(
    staged: &StagedCommit,
    sender: &Sender<'_>,
    group: &GroupAt<'_>,
) -> Result<(), CommitFault> {
    let Some(leaf) = staged.update_path_leaf_node() else { return Ok(()) };
    if !names(leaf.credential(), sender.caller.user_id, &sender.caller.device_id) {
        return Err(CommitFault::Identity);
    }
    if registered_key(sender.keys, group.cipher_suite) != Some(leaf.signature_key().as_slice()) {
        return Err(CommitFault::UnregisteredKey);
    }
    Ok(())
}

/// How many leaves there are, that a device has one, and that those who leave go.
fn check_roster(
    public_group: &PublicGroup,
    changes: &Changes<'_>,
    committer: &Committer<'_>,
    sender: &Sender<'_>,
    roster: &Roster<'_>,
) -> Result<(), Refusal> {
    let comes = matches!(committer, Committer::External(_));
    let before = public_group.treesync().full_leaves().count();
    if before + changes.added.len() + usize::from(comes) > MAX_MEMBERS + changes.removed.len() {
        return Err(Refusal::GroupFull);
    }
    check_names(changes, comes.then_some(sender), roster)?;
    // An external commit cannot name a Remove of somebody else (RFC 9420 §12.4.3.2); the next member's has to.
    let stays =
        |place: &Place<'_>| place.device.leaf_index.is_some_and(|leaf| !changes.removed.contains_key(&leaf));
    if !comes && roster.places().any(|place| place.device.leaving && stays(&place)) {
        return Err(Refusal::PendingLeave);
    }
    Ok(())
}

/// Whether every name stands in the tree once.
pub(super) fn check_names_of<'n>(
    names: impl Iterator<Item = (UserId, &'n DeviceId)>,
) -> Result<(), CommitFault> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(CommitFault::SecondLeaf);
        }
    }
    Ok(())
}

fn check_names(
    changes: &Changes<'_>,
    comes: Option<&Sender<'_>>,
    roster: &Roster<'_>,
) -> Result<(), CommitFault> {
    let stay = roster.places().filter(|place| {
        place.device.leaf_index.is_some_and(|leaf_index| !changes.removed.contains_key(&leaf_index))
    });
    let stay = stay.map(|place| (place.member.user_id, &place.device.device_id));
    let added = changes.added.iter().map(|known| (known.owner.user_id, &known.owner.device_id));
    let comes = comes.map(|sender| (sender.caller.user_id, &sender.caller.device_id));
    check_names_of(stay.chain(added).chain(comes))
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
