//! Who may see what stands at the door of an MLS group: the tree, the `GroupInfo`, the proposals that wait.

use bytes::Bytes;

use super::{Groups, Refusal};
use crate::{
    domain::{Caller, Epoch, ExternalJoin, GroupId, Handshake},
    store::Standing,
};

/// How often something is read again that moved on while it was read.
const READS: usize = 5;

/// The current public face of an MLS group.
#[derive(Debug)]
pub struct GroupFace {
    /// Its epoch.
    pub epoch: Epoch,
    /// The `GroupInfo`, an `MLSMessage`.
    pub group_info: Bytes,
    /// The ratchet tree; none where the relay does not know it (private handshakes).
    pub tree: Option<Bytes>,
    /// The proposals that wait for a commit, in order, each an `MLSMessage`.
    pub proposals: Vec<Bytes>,
    /// How many devices say that they could not process the commit of this epoch.
    pub reports: u32,
}

/// Whether the group's policy lets this device join by an external commit, or it has a leaf already (RFC 9420 §12.4.3.2).
/// A device that leaves may not.
pub(super) async fn lets_in(
    groups: &Groups,
    standing: &Standing,
    token: Option<[u8; 32]>,
) -> Result<Entry, Refusal> {
    let join = standing.group.external_join;
    let by_token = match token {
        Some(token) if join == ExternalJoin::Token => {
            groups.store.is_invited(standing.group.group_id, token, groups.clock.now()).await?
        }
        Some(_) | None => false,
    };
    let stays = standing.leaf.is_some() && standing.may_write();
    let by_policy = match join {
        ExternalJoin::None | ExternalJoin::Resync => stays,
        ExternalJoin::Siblings | ExternalJoin::Token => {
            stays || (standing.leaf.is_none() && standing.role.is_some())
        }
    };
    if by_policy || by_token { Ok(Entry { by_token }) } else { Err(Refusal::UnknownGroup) }
}

/// How a device may come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Whether it showed a join token that holds.
    pub(super) by_token: bool,
}

impl Groups {
    /// How a device stands in an MLS group, if it may see what stands at its door.
    async fn at_door(
        &self,
        caller: &Caller,
        group: GroupId,
        token: Option<[u8; 32]>,
    ) -> Result<Standing, Refusal> {
        let standing = self.standing_in_mls(caller, group).await?;
        lets_in(self, &standing, token).await?;
        Ok(standing)
    }

    /// How a device stands in a group, if that is an MLS group.
    async fn standing_in_mls(&self, caller: &Caller, group: GroupId) -> Result<Standing, Refusal> {
        let standing = self.store.standing(group, caller).await?.ok_or(Refusal::UnknownGroup)?;
        if standing.group.handshake == Handshake::None {
            return Err(standing.role.map_or(Refusal::UnknownGroup, |_| Refusal::RosterGroup));
        }
        Ok(standing)
    }

    /// The ratchet tree of the current epoch, or of the one that the device joined at.
    ///
    /// # Errors
    /// `UnknownGroup` for whoever may not join; `Unknown` for another epoch's tree, or one that the relay does not have.
    pub async fn tree(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: Option<Epoch>,
        token: Option<[u8; 32]>,
    ) -> Result<(Epoch, Bytes), Refusal> {
        for _ in 0..READS {
            let standing = self.standing_in_mls(caller, group).await?;
            let asked = epoch.unwrap_or(standing.group.epoch);
            let standing = if joined_at(&standing) == Some(asked) {
                standing
            } else {
                self.at_door(caller, group, token).await?
            };
            let is_current = standing.group.epoch == asked;
            if !is_current && joined_at(&standing) != Some(asked) {
                return Err(Refusal::Unknown("tree"));
            }
            if let Some(tree) = self.store.ratchet_tree(group, standing.group.generation, asked).await? {
                return Ok((asked, tree));
            }
            // A current tree that is missing means that the group moved on meanwhile, if the relay knows its trees.
            if !is_current || standing.group.handshake != Handshake::Public {
                break;
            }
        }
        Err(Refusal::Unknown("tree"))
    }

    /// What a device needs to join by an external commit, or to see where the group stands.
    ///
    /// # Errors
    /// `UnknownGroup` for whoever may not join.
    pub async fn info(
        &self,
        caller: &Caller,
        group: GroupId,
        token: Option<[u8; 32]>,
    ) -> Result<GroupFace, Refusal> {
        for _ in 0..READS {
            let standing = self.at_door(caller, group, token).await?;
            let state = self.store.handshake_state(group).await?.ok_or(Refusal::UnknownGroup)?;
            let tree = self.store.ratchet_tree(group, state.generation, state.epoch).await?;
            // A tree that is missing in a group that has one means that the group moved on meanwhile.
            let is_whole = tree.is_some() || standing.group.handshake == Handshake::Private;
            if is_whole
                && state.epoch == standing.group.epoch
                && state.generation == standing.group.generation
            {
                return Ok(GroupFace {
                    epoch: state.epoch,
                    group_info: state.group_info,
                    tree,
                    proposals: state.proposals.into_iter().map(|proposal| proposal.body).collect(),
                    reports: standing.reports,
                });
            }
        }
        Err(Refusal::Busy)
    }
}

/// The epoch that the device's newest window began at. Epochs count anew after a reset, so a window that ended may have been
/// of another generation.
fn joined_at(standing: &Standing) -> Option<Epoch> {
    let window =
        standing.window.filter(|window| window.closed_at.is_none() || standing.group.generation == 0);
    window.map(|window| window.joined_epoch)
}
