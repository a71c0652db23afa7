//! What a staged commit does to the roster, and whether it may.

use std::collections::{BTreeMap, HashSet};

use openmls::{
    group::PublicGroup,
    prelude::{LeafNodeIndex, Proposal, QueuedProposal, Sender as MlsSender, StagedCommit},
};

use super::{
    CommitFault, KnownPackage, ProposalFault, Refusal, Sender, StateFault,
    external::Admitted,
    proposals::{self, About, Around},
    roster::{Place, Roster},
};
use crate::domain::{DeviceId, DeviceNo, MAX_MEMBERS, UserId};

/// Who commits.
pub(super) enum Committer<'r> {
    /// The member at this leaf.
    Member(u32),
    /// A device that comes in.
    External(Admitted<'r>),
}

/// What a commit does to the roster.
#[derive(Default)]
pub(super) struct Changes<'a> {
    /// By which packages devices come.
    pub(super) added: Vec<&'a KnownPackage>,
    /// Which leaves go, and whose they are.
    pub(super) removed: BTreeMap<u32, DeviceNo>,
    /// Whether the extensions of the group context change.
    pub(super) extensions: bool,
}

/// Applies the table of proposals, for the committer and for each proposer, and gathers what the commit does.
pub(super) fn gather<'a>(
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

/// How many leaves there are, that a device has one, and that those who leave go.
pub(super) fn check_roster(
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
