//! Proposals: kept for the next commit when its table of rules lets them stand, because clients commit whatever is pending.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Changed, Groups, Refusal,
    judging::{Ground, Question},
    mls::{ContentType, Framing, Header, JudgedProposal, ProposalFault, PublicSender},
};
use crate::{
    domain::{Caller, Epoch, GroupId, Handshake, Member},
    store::{Allowed, MOST_PROPOSALS, NewProposal, NewProposals, Proposed, Report, Standing},
};

/// How often proposals are judged, when the group moves on meanwhile.
const TRIES: usize = 5;

/// The longest proposal that is kept, in bytes. All that a group has pending are read for each of its commits.
const LONGEST_PROPOSAL: usize = 16 << 10;

impl Groups {
    /// Keeps a proposal for the next commit.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn propose(
        &self,
        caller: &Caller,
        group: GroupId,
        proposal: Bytes,
    ) -> Result<Changed, Refusal> {
        self.keep_proposals(caller, group, vec![proposal], false).await
    }

    /// Leaves a group: a Remove or `SelfRemove` for every leaf of the caller's user. From then on it may not write.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn leave(
        &self,
        caller: &Caller,
        group: GroupId,
        proposals: Vec<Bytes>,
    ) -> Result<Changed, Refusal> {
        self.keep_proposals(caller, group, proposals, true).await
    }

    async fn keep_proposals(
        &self,
        caller: &Caller,
        group: GroupId,
        proposals: Vec<Bytes>,
        leaving: bool,
    ) -> Result<Changed, Refusal> {
        if proposals.iter().any(|proposal| proposal.len() > LONGEST_PROPOSAL) {
            return Err(Refusal::TooLarge(if leaving { "proposals" } else { "proposal" }, LONGEST_PROPOSAL));
        }
        let front = read_fronts(&proposals, group)?;
        for _ in 0..TRIES {
            let standing = self.proposer(caller, group).await?;
            check_place(&standing, front)?;
            if proposals.len() > MOST_PROPOSALS {
                return Err(Refusal::TooManyProposals(MOST_PROPOSALS));
            }
            let question = Question { caller, standing: &standing, join_token: false };
            let Some(ground) = self.ground(question).await? else { continue };
            let (generation, handshake) = (ground.state.generation, ground.handshake);
            let members = ground.state.members.clone();
            let judged = match known_before(caller, &ground, &proposals) {
                Some(judged) => judged,
                None => self.judge_proposals(ground, proposals.clone()).await?,
            };
            if leaving {
                check_leaving(caller, &members, handshake, &judged)?;
            }
            let proposal = |(body, judged): (&Bytes, JudgedProposal)| NewProposal {
                body: body.clone(),
                target: judged.target,
                leaves: judged.leaves,
            };
            let proposals = proposals.iter().zip(judged).map(proposal).collect();
            let kept =
                NewProposals { group_id: group, by: caller.clone(), generation, epoch: front.0, proposals };
            return self.store_proposals(kept).await;
        }
        Err(Refusal::Busy)
    }

    async fn store_proposals(&self, proposals: NewProposals) -> Result<Changed, Refusal> {
        match self.store.propose(proposals, self.clock.now()).await? {
            Proposed::Accepted(epoch, position) => Ok(Changed { epoch, position }),
            Proposed::Stale(epoch) => Err(Refusal::StaleEpoch(epoch)),
            Proposed::Exists(index) => Err(Refusal::ProposalExists(index)),
            Proposed::TooMany => Err(Refusal::TooManyProposals(MOST_PROPOSALS)),
            Proposed::NotMember => Err(Refusal::UnknownGroup),
            Proposed::RolledBack => Err(Refusal::RolledBack),
        }
    }

    /// How a device with a leaf stands in an MLS group.
    async fn proposer(&self, caller: &Caller, group: GroupId) -> Result<Standing, Refusal> {
        let standing = self.store.standing(group, caller).await?.ok_or(Refusal::UnknownGroup)?;
        if standing.group.handshake == Handshake::None {
            return Err(standing.role.map_or(Refusal::UnknownGroup, |_| Refusal::RosterGroup));
        }
        // Who leaves may repeat that, and learns nothing else by it.
        if standing.leaf.is_none() {
            return Err(Refusal::UnknownGroup);
        }
        Ok(standing)
    }

    /// Keeps a report of a commit that the device could not process.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn report(
        &self,
        caller: &Caller,
        group_id: GroupId,
        epoch: Epoch,
        commit: [u8; 32],
        reason: String,
    ) -> Result<(), Refusal> {
        self.proposer(caller, group_id).await?;
        let report = Report { group_id, by: caller.clone(), epoch, commit, reason };
        match self.store.report_commit(report, self.clock.now()).await? {
            Allowed::Done => Ok(()),
            Allowed::NotMember | Allowed::NotAllowed | Allowed::Unknown | Allowed::TooMany => {
                Err(Refusal::UnknownGroup)
            }
        }
    }
}

/// Where proposals belong, and the leaf that says it sent them, where it is visible.
type Front = (Epoch, Option<u32>);

/// Reads as much of proposals as says where they belong: all of them to the same place.
fn read_fronts(proposals: &[Bytes], group: GroupId) -> Result<Front, Refusal> {
    let fault = || Refusal::Mls("proposal", ProposalFault::Framing.into());
    let mut place = None;
    for proposal in proposals {
        let header = Header::parse(proposal).map_err(|why| Refusal::Mls("proposal", why.into()))?;
        let (framing, leaf) = match header {
            Header::Public(framing, PublicSender::Member(leaf)) => (framing, Some(leaf)),
            Header::Private(framing) => (framing, None),
            Header::Public(
                _,
                PublicSender::External(_) | PublicSender::NewMemberProposal | PublicSender::NewMemberCommit,
            )
            | Header::Welcome
            | Header::GroupInfo
            | Header::KeyPackage => return Err(fault()),
        };
        let Framing { group_id, epoch, content_type } = framing;
        if group_id != group || content_type != ContentType::Proposal {
            return Err(fault());
        }
        if *place.get_or_insert((epoch, leaf)) != (epoch, leaf) {
            return Err(fault());
        }
    }
    place.ok_or_else(fault)
}

/// Whether proposals are for the current epoch, and made by the caller's leaf.
fn check_place(standing: &Standing, (epoch, leaf): Front) -> Result<(), Refusal> {
    let group = &standing.group;
    if group.rolled_back {
        return Err(Refusal::RolledBack);
    }
    if epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    if leaf.zip(standing.leaf.flatten()).is_some_and(|(claimed, own)| claimed != own) {
        return Err(Refusal::Mls("proposal", super::mls::Refusal::NotYou));
    }
    Ok(())
}

/// The verdict on proposals that all are pending already, from the same device: a device that leaves may repeat that.
fn known_before(caller: &Caller, ground: &Ground, proposals: &[Bytes]) -> Option<Vec<JudgedProposal>> {
    let own_user = ground.state.members.iter().find(|member| member.user_id == caller.user_id);
    let verdict = |body: &Bytes| {
        let is_it = |pending: &&crate::store::PendingProposal| {
            pending.sender == caller.device_no && pending.body == *body
        };
        let target = ground.state.proposals.iter().find(is_it)?.target;
        let is_own = |device: &crate::domain::MemberDevice| Some(device.device_no) == target;
        let leaves = own_user.is_some_and(|member| member.devices.iter().any(is_own));
        Some(JudgedProposal { target, leaves })
    };
    proposals.iter().map(verdict).collect()
}

/// Whether every leaf of the caller's user leaves, and nothing else is proposed. With private handshakes only a `SelfRemove`
/// shows itself, so there each device leaves for itself.
fn check_leaving(
    caller: &Caller,
    members: &[Member],
    handshake: Handshake,
    judged: &[JudgedProposal],
) -> Result<(), Refusal> {
    let own = members.iter().find(|member| member.user_id == caller.user_id).ok_or(Refusal::UnknownGroup)?;
    let leaves: BTreeSet<_> = match handshake {
        Handshake::Private => std::iter::once(caller.device_no).collect(),
        Handshake::Public | Handshake::None => own.devices.iter().map(|device| device.device_no).collect(),
    };
    let leaving: BTreeSet<_> =
        judged.iter().filter(|judged| judged.leaves).filter_map(|judged| judged.target).collect();
    if leaving == leaves && judged.iter().all(|judged| judged.leaves) {
        Ok(())
    } else {
        Err(Refusal::LeavesMissing)
    }
}
