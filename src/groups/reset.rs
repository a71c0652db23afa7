//! MLS groups are made anew under their ids, when their members have lost their way.

use super::{
    Changed, FoundingRequest, Groups, Material, Refusal,
    founding::{digest, kept_state},
    mls::GroupInfoFault,
};
use crate::{
    domain::{Caller, Group, GroupId, Handshake, Position, Role},
    store::{Founding, GroupReset, NewGroup},
};

impl Groups {
    /// Makes an MLS group anew under its id.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn reset(
        &self,
        caller: &Caller,
        group_id: GroupId,
        request: FoundingRequest,
    ) -> Result<Changed, Refusal> {
        let (standing, role) = self.member(caller, group_id).await?;
        if role != Role::Owner {
            return Err(Refusal::NotAllowed("the owner resets a group"));
        }
        let former = standing.group;
        if former.handshake == Handshake::None {
            return Err(Refusal::RosterGroup);
        }
        let Material::Mls(material) = &request.material else {
            return Err(Refusal::NotMls("group_info", "a reset takes the GroupInfo of the new epoch 0"));
        };
        let handshake = material.handshake.unwrap_or(former.handshake);
        if handshake as u8 > former.handshake as u8 {
            return Err(Refusal::LaxerHandshake);
        }
        if request.group_id.is_some_and(|named| named != group_id) {
            return Err(Refusal::Mls("group_id", GroupInfoFault::WrongGroup.into()));
        }
        let external_join = material.external_join.unwrap_or(former.external_join);
        let name = self.blob("name", request.name.clone())?;
        let description = self.blob("description", request.description.clone())?;
        let digest = digest(group_id, handshake, external_join, &request);
        // Before anything is judged: the first time has used the key packages up.
        let before = self.store.founding_of(group_id, caller.device_no, digest).await?;
        if let Some(position) = before.filter(|position| *position > Position::START) {
            return Ok(Changed { epoch: former.epoch, position });
        }
        let founding = self.found(caller, group_id, handshake, external_join, material).await?;
        let (by, founding) = (caller.clone(), Founding::Mls(Box::new(founding)));
        let group = NewGroup { group_id, digest, by, name, description, handshake, external_join, founding };
        let state = kept_state(&group.founding);
        match self.store.reset_group(group, former.generation, self.clock.now()).await? {
            GroupReset::Reset(Group { epoch, .. }, position) => {
                self.keep(group_id, state).await;
                Ok(Changed { epoch, position })
            }
            GroupReset::Repeated(Group { epoch, .. }, position) => Ok(Changed { epoch, position }),
            GroupReset::NotMember => Err(Refusal::UnknownGroup),
            GroupReset::NotAllowed => Err(Refusal::NotAllowed("the owner resets a group")),
            GroupReset::Changed => {
                Err(Refusal::StaleEpoch(self.member(caller, group_id).await?.0.group.epoch))
            }
            GroupReset::CannotAdd(why) => Err(self.cannot_add(why)),
        }
    }
}
