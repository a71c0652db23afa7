//! What both engines decide alike about rosters, roles and proposals, given what the store holds. Pure.

use std::collections::HashSet;

use super::{MOST_PROPOSALS, Proposed, RosterChange, RosterChanged};
use crate::domain::{DeviceNo, GroupId, Position, Role, UserId};

/// Who inherits the owner's role: the oldest admin, else the oldest member. `heirs` are in the order of joining.
pub(super) fn heir(heirs: impl IntoIterator<Item = (UserId, Role)>) -> Option<UserId> {
    let mut oldest: Option<(UserId, Role)> = None;
    for (user, role) in heirs {
        if oldest.is_none_or(|(_, highest)| role > highest) {
            oldest = Some((user, role));
        }
    }
    oldest.map(|(user, _)| user)
}

/// Whether an id may be that of a pair's own conversation, which need not have begun: those are the UUIDs of version 8.
pub(super) fn is_of_a_pair(group: GroupId) -> bool {
    group.uuid().get_version_num() == 8
}

/// A change of a roster that may be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RosterPlan {
    /// Who is added, in the order asked for.
    pub(super) added: Vec<UserId>,
    /// Who is removed, by id.
    pub(super) removed: Vec<UserId>,
    /// Who becomes the owner, where the owner leaves and somebody stays.
    pub(super) heir: Option<UserId>,
}

impl RosterPlan {
    /// What a change comes to, or why it may not be made. `members`: everybody in the group, in the order of joining.
    pub(super) fn of(change: &RosterChange, members: &[(UserId, Role)]) -> Result<Self, RosterChanged> {
        let role = |user: UserId| members.iter().find(|(member, _)| *member == user).map(|(_, role)| *role);
        let caller = change.by.user_id;
        let Some(callers) = role(caller) else { return Err(RosterChanged::NotMember) };
        let asks_others = !change.add.is_empty() || change.remove.iter().any(|user| *user != caller);
        let of_owner = |user: &UserId| *user != caller && role(*user) == Some(Role::Owner);
        if asks_others && callers < Role::Admin || change.remove.iter().any(of_owner) {
            return Err(RosterChanged::NotAllowed);
        }
        if change.remove.iter().any(|user| role(*user).is_none()) {
            return Err(RosterChanged::Unknown);
        }
        let mut seen = HashSet::new();
        let mut once = |user: &UserId| seen.insert(*user);
        let mut removed: Vec<_> = change.remove.iter().copied().filter(&mut once).collect();
        removed.sort_unstable();
        let is_new = |user: &UserId| role(*user).is_none();
        let added: Vec<_> = change.add.iter().copied().filter(is_new).filter(once).collect();
        let owner_leaves = callers == Role::Owner && removed.contains(&caller);
        let stays = |(user, _): &(UserId, Role)| !removed.contains(user);
        // Somebody who comes as the owner goes is the youngest member.
        let newcomers = added.iter().map(|user| (*user, Role::Member));
        let heirs = members.iter().copied().filter(stays).chain(newcomers);
        let heir = if owner_leaves { heir(heirs) } else { None };
        Ok(Self { added, removed, heir })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// A proposal as it is judged against those that wait: BLAKE3 of it, and whom it is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proposal {
    pub(super) digest: [u8; 32],
    pub(super) target: Option<DeviceNo>,
}

/// A proposal of the same device that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) position: Position,
    pub(super) proposal: Proposal,
}

/// The place of the last of these proposals, if every one of them waits already.
pub(super) fn repeated(new: &[Proposal], waiting: &[Waiting]) -> Option<Position> {
    let place =
        |new: &Proposal| waiting.iter().find(|one| one.proposal.digest == new.digest).map(|one| one.position);
    new.iter().map(place).collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Which of these proposals are to be entered, by index; those that wait already are skipped. `pending`: how many wait, of
/// every device.
pub(super) fn fresh_proposals(
    new: &[Proposal],
    waiting: &[Waiting],
    pending: usize,
) -> Result<Vec<usize>, Proposed> {
    let mut known: Vec<Proposal> = waiting.iter().map(|one| one.proposal).collect();
    let mut fresh = Vec::with_capacity(new.len());
    for (index, proposal) in new.iter().enumerate() {
        if known.iter().any(|other| other.digest == proposal.digest) {
            continue;
        }
        if proposal.target.is_some() && known.iter().any(|other| other.target == proposal.target) {
            return Err(Proposed::Exists(index));
        }
        known.push(*proposal);
        fresh.push(index);
    }
    if pending + fresh.len() > MOST_PROPOSALS { Err(Proposed::TooMany) } else { Ok(fresh) }
}

#[cfg(test)]
mod tests;
