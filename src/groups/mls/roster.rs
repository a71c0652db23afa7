//! Who is at which leaf.

use std::collections::HashMap;

use super::StateFault;
use crate::domain::{DeviceNo, Member, MemberDevice, Role, UserId};

/// A device and its member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) member: &'a Member,
    pub(super) device: &'a MemberDevice,
}

/// Everybody in a group.
pub(super) struct Roster<'a> {
    members: &'a [Member],
    leaves: HashMap<u32, Place<'a>>,
}

impl<'a> Roster<'a> {
    pub(super) fn new(members: &'a [Member]) -> Self {
        let leaves = places(members)
            .filter_map(|place| place.device.leaf_index.map(|leaf_index| (leaf_index, place)))
            .collect();
        Self { members, leaves }
    }

    /// Who is at a leaf that the tree has.
    pub(super) fn at(&self, leaf_index: u32) -> Result<Place<'a>, StateFault> {
        self.leaves.get(&leaf_index).copied().ok_or(StateFault::Roster)
    }

    /// The place of a device that is in the group.
    pub(super) fn of(&self, device: DeviceNo) -> Option<Place<'a>> {
        places(self.members).find(|place| place.device.device_no == device)
    }

    pub(super) fn member(&self, user: UserId) -> Option<&'a Member> {
        self.members.iter().find(|member| member.user_id == user)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        places(self.members)
    }
}

fn places(members: &[Member]) -> impl Iterator<Item = Place<'_>> {
    members.iter().flat_map(|member| member.devices.iter().map(move |device| Place { member, device }))
}

impl Place<'_> {
    /// Whether this device may remove that one: its own user's, and one that is dead or leaves, anyone; others an admin; the
    /// owner's nobody.
    pub(super) fn may_remove(&self, target: &Place<'_>) -> Result<(), super::ProposalFault> {
        if !target.device.active || target.device.leaving || target.member.user_id == self.member.user_id {
            return Ok(());
        }
        if target.member.role == Role::Owner {
            return Err(super::ProposalFault::RemovesOwner);
        }
        if self.member.role < Role::Admin {
            return Err(super::ProposalFault::RemoveNeedsAdmin);
        }
        Ok(())
    }

    /// Whether this device may add devices of a user.
    pub(super) fn may_add(&self, user: UserId) -> Result<(), super::ProposalFault> {
        if user == self.member.user_id || self.member.role >= Role::Admin {
            Ok(())
        } else {
            Err(super::ProposalFault::AddNeedsAdmin)
        }
    }
}
