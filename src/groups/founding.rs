//! Groups are made, and made anew: roster groups by a list, MLS groups by a `GroupInfo` and perhaps the commit that fills
//! them.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    CommitRequest, Groups, Refusal,
    judging::{epoch_state, joiners, welcomed},
    mls::{
        self, CommitBundle, Founded, FoundingRules, GroupAt, GroupInfoFault, JudgedCommit, KnownPackage,
        Sender,
    },
};
use crate::{
    domain::{
        Caller, CipherSuite, Epoch, ExternalJoin, GroupId, Handshake, Membership, MlsSignatureKey, Position,
        Role, Timestamp, UserId,
    },
    store::{Commit, Founding, GroupCreated, MlsFounding, NewGroup},
};

/// A group to be made, as it came.
#[derive(Debug, Clone)]
pub struct FoundingRequest {
    /// The id, if the client names it.
    pub group_id: Option<GroupId>,
    /// See [`crate::domain::Group::name`].
    pub name: Option<String>,
    /// See [`crate::domain::Group::description`].
    pub description: Option<String>,
    /// What it is made of.
    pub material: Material,
}

/// What a group is made of.
#[derive(Debug, Clone)]
pub enum Material {
    /// A roster group with these further members.
    Roster(Vec<UserId>),
    /// An MLS group.
    Mls(Box<MlsMaterial>),
}

/// The MLS side of a new group.
#[derive(Debug, Clone)]
pub struct MlsMaterial {
    /// How handshakes travel; public, or in a reset as before, where nothing is said.
    pub handshake: Option<Handshake>,
    /// Who may join by an external commit; whoever may resync, or in a reset as before, where nothing is said.
    pub external_join: Option<ExternalJoin>,
    /// The `GroupInfo` of epoch 0, an `MLSMessage`.
    pub group_info: Bytes,
    /// The tree, if it is not in the `GroupInfo`.
    pub ratchet_tree: Option<Bytes>,
    /// The commit that fills the group.
    pub commit: Option<CommitRequest>,
}

/// A group that was made.
#[derive(Debug)]
pub enum Made {
    /// By this request.
    New(Membership),
    /// By the same request before.
    Before(Membership),
}

/// An MLS group that is to be judged; owned, because another thread judges.
struct Candidate {
    caller: Caller,
    keys: Vec<MlsSignatureKey>,
    group_id: GroupId,
    handshake: Handshake,
    external_join: ExternalJoin,
    packages: Vec<KnownPackage>,
    cipher_suites: Vec<CipherSuite>,
    longest_lifetime: std::time::Duration,
    now: Timestamp,
}

impl Groups {
    /// Makes a group.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn create(&self, caller: &Caller, request: FoundingRequest) -> Result<Made, Refusal> {
        let name = self.blob("name", request.name.clone())?;
        let description = self.blob("description", request.description.clone())?;
        let (group_id, handshake, external_join) = match &request.material {
            Material::Roster(members) => {
                if members.len() > self.rules.max_members as usize {
                    return Err(Refusal::GroupFull(self.rules.max_members));
                }
                let group_id = request.group_id.unwrap_or_else(|| GroupId::new(Uuid::new_v4()));
                (group_id, Handshake::None, ExternalJoin::None)
            }
            Material::Mls(material) => {
                let group_id = named(request.group_id, &material.group_info)?;
                let handshake = material.handshake.unwrap_or(Handshake::Public);
                (group_id, handshake, material.external_join.unwrap_or(ExternalJoin::Resync))
            }
        };
        let digest = digest(group_id, handshake, external_join, &request);
        // Before anything is judged: the first time has used the key packages up.
        if self.store.founding_of(group_id, caller.device_no, digest).await? == Some(Position::START) {
            return Ok(Made::Before(self.group(caller, group_id).await?));
        }
        let founding = match &request.material {
            Material::Roster(members) => Founding::Roster(members.clone()),
            Material::Mls(material) => {
                let founding = self.found(caller, group_id, handshake, external_join, material).await?;
                Founding::Mls(Box::new(founding))
            }
        };
        let by = caller.clone();
        let group = NewGroup { group_id, digest, by, name, description, handshake, external_join, founding };
        let state = kept_state(&group.founding);
        match self.store.create_group(group, self.clock.now()).await? {
            GroupCreated::Created(group) => {
                self.keep(group_id, state).await;
                Ok(Made::New(Membership { group, role: Role::Owner, invited: false }))
            }
            GroupCreated::Repeated(_) => Ok(Made::Before(self.group(caller, group_id).await?)),
            GroupCreated::Exists => Err(Refusal::GroupExists),
            GroupCreated::Gone => Err(Refusal::UnknownGroup),
            GroupCreated::CannotAdd(why) => Err(self.cannot_add(why)),
        }
    }

    /// Judges the MLS side of a new group.
    pub(super) async fn found(
        &self,
        caller: &Caller,
        group_id: GroupId,
        handshake: Handshake,
        external_join: ExternalJoin,
        material: &MlsMaterial,
    ) -> Result<MlsFounding, Refusal> {
        let welcome = material.commit.as_ref().and_then(|commit| commit.welcome.as_ref());
        let candidate = Candidate {
            keys: self.mls_keys(caller).await?,
            packages: self.packages(&welcomed(welcome)?).await?,
            caller: caller.clone(),
            group_id,
            handshake,
            external_join,
            cipher_suites: self.rules.cipher_suites.clone(),
            longest_lifetime: self.rules.longest_lifetime,
            now: self.clock.now(),
        };
        let request = material.clone();
        let (founded, filled) = self.checks.run(move || candidate.judge(&request)).await??;
        let commit = material.commit.as_ref().map(|request| Commit {
            body: request.commit.clone(),
            digest: *blake3::hash(&request.commit).as_bytes(),
        });
        let cipher_suite = founded.cipher_suite;
        Ok(match filled {
            None => MlsFounding {
                cipher_suite,
                commit,
                joiners: Vec::new(),
                epoch_state: epoch_state(founded.first),
            },
            Some(filled) => MlsFounding {
                cipher_suite,
                commit,
                joiners: joiners(&filled),
                epoch_state: epoch_state(filled.next),
            },
        })
    }
}

impl Candidate {
    fn judge(&self, material: &MlsMaterial) -> Result<(Founded, Option<JudgedCommit>), Refusal> {
        let refused = |refusal| Refusal::Mls("group_info", refusal);
        let sender = Sender { caller: &self.caller, keys: &self.keys, join_token: false };
        let rules = FoundingRules {
            group_id: self.group_id,
            external_join: self.external_join,
            cipher_suites: &self.cipher_suites,
            longest_lifetime: self.longest_lifetime,
            now: self.now,
        };
        let founded = match self.handshake {
            Handshake::Private => mls::found_private(&rules, &sender, &material.group_info),
            Handshake::Public | Handshake::None => {
                mls::found(&rules, &sender, &material.group_info, material.ratchet_tree.as_ref())
            }
        };
        let founded = founded.map_err(refused)?;
        let filled =
            material.commit.as_ref().map(|commit| self.fill(&founded, &sender, commit)).transpose()?;
        Ok((founded, filled))
    }

    /// Judges the commit that fills the group.
    fn fill(
        &self,
        founded: &Founded,
        sender: &Sender<'_>,
        request: &CommitRequest,
    ) -> Result<JudgedCommit, Refusal> {
        let members = [mls::founder(&self.caller, self.now)];
        let group = GroupAt {
            group_id: self.group_id,
            epoch: Epoch(0),
            cipher_suite: founded.cipher_suite,
            external_join: self.external_join,
            members: &members,
        };
        let bundle = CommitBundle {
            commit: &request.commit,
            group_info: &request.group_info,
            welcome: request.welcome.as_ref(),
        };
        let filled = if let Some(state) = &founded.first.state {
            mls::judge_commit(&group, state, &[], sender, &bundle, &self.packages)
        } else {
            let current = &founded.first.group_info;
            mls::judge_private_commit(&group, current, sender, &bundle, &[], &self.packages)
        };
        filled.map_err(|refusal| {
            let is_about_info = matches!(refusal, mls::Refusal::BadGroupInfo(_));
            Refusal::Mls(if is_about_info { "commit_group_info" } else { "commit" }, refusal)
        })
    }
}

/// The id of an MLS group: the one in its `GroupInfo`, which the request may name too.
fn named(claimed: Option<GroupId>, group_info: &[u8]) -> Result<GroupId, Refusal> {
    let fault = |fault: GroupInfoFault| Refusal::Mls("group_info", fault.into());
    let group_id = id_in(group_info).ok_or_else(|| fault(GroupInfoFault::Malformed))?;
    match claimed {
        Some(claimed) if claimed != group_id => Err(fault(GroupInfoFault::WrongGroup)),
        Some(_) | None if group_id.is_nil() => Err(fault(GroupInfoFault::WrongGroup)),
        Some(_) | None => Ok(group_id),
    }
}

/// The group id at the front of a `GroupInfo`: behind version and wire format of the `MLSMessage` stand version and suite of
/// the `GroupContext`, and then the id with its length (RFC 9420 §6, §8.1).
fn id_in(group_info: &[u8]) -> Option<GroupId> {
    let (length, id) = group_info.get(8..25)?.split_first()?;
    Uuid::from_slice(id).ok().filter(|_| *length == 16).map(GroupId::new)
}

pub(super) fn kept_state(founding: &Founding) -> Option<Bytes> {
    match founding {
        Founding::Roster(_) => None,
        Founding::Mls(founding) => founding.epoch_state.state.clone(),
    }
}

/// Everything the client decided, in one unambiguous row: each part with its length, an absent one apart from an empty one.
pub(super) fn digest(
    group_id: GroupId,
    handshake: Handshake,
    external_join: ExternalJoin,
    request: &FoundingRequest,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut put = |part: Option<&[u8]>| {
        hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hasher.update(part.unwrap_or_default());
    };
    put(Some(group_id.uuid().as_bytes()));
    put(Some(&[handshake as u8, external_join as u8]));
    put(request.name.as_deref().map(str::as_bytes));
    put(request.description.as_deref().map(str::as_bytes));
    match &request.material {
        Material::Roster(members) => members.iter().for_each(|member| put(Some(member.uuid().as_bytes()))),
        Material::Mls(material) => {
            put(Some(&material.group_info));
            put(material.ratchet_tree.as_deref());
            let commit = material.commit.as_ref();
            put(commit.map(|commit| &*commit.commit));
            put(commit.map(|commit| &*commit.group_info));
            put(commit.and_then(|commit| commit.welcome.as_deref()));
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::new(Uuid::from_u128(7));

    fn roster(members: &[u128]) -> FoundingRequest {
        let members = members.iter().map(|member| UserId::new(Uuid::from_u128(*member))).collect();
        FoundingRequest { group_id: None, name: None, description: None, material: Material::Roster(members) }
    }

    fn of_mls(commit: Option<CommitRequest>) -> FoundingRequest {
        let material = MlsMaterial {
            handshake: None,
            external_join: None,
            group_info: Bytes::from_static(b"info"),
            ratchet_tree: None,
            commit,
        };
        FoundingRequest { material: Material::Mls(Box::new(material)), ..roster(&[]) }
    }

    #[test]
    fn the_digest_covers_everything_the_client_decides() {
        let commit = |welcome: Option<&'static [u8]>| CommitRequest {
            commit: Bytes::from_static(b"commit"),
            group_info: Bytes::from_static(b"next"),
            welcome: welcome.map(Bytes::from_static),
            removed: None,
            expected: super::super::Expected::Anything,
        };
        let text = |text: &str| Some(text.to_owned());
        let requests = [
            roster(&[]),
            roster(&[1]),
            roster(&[1, 2]),
            FoundingRequest { name: text(""), ..roster(&[]) },
            FoundingRequest { name: text("a"), ..roster(&[]) },
            FoundingRequest { description: text("a"), ..roster(&[]) },
            of_mls(None),
            of_mls(Some(commit(None))),
            of_mls(Some(commit(Some(b"")))),
            of_mls(Some(commit(Some(b"welcome")))),
        ];
        let digest =
            |request: &FoundingRequest| digest(GROUP, Handshake::Public, ExternalJoin::None, request);
        for (index, request) in requests.iter().enumerate() {
            assert_eq!(digest(request), digest(&request.clone()));
            for other in &requests[index + 1..] {
                assert_ne!(digest(request), digest(other), "{request:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_id_of_an_mls_group_is_in_its_group_info() {
        let mut group_info = vec![0, 1, 0, 4, 0, 1, 0, 1, 16];
        group_info.extend(GROUP.uuid().as_bytes());
        assert_eq!(named(None, &group_info).unwrap(), GROUP);
        assert_eq!(named(Some(GROUP), &group_info).unwrap(), GROUP);
        let other = GroupId::new(Uuid::from_u128(8));
        assert!(named(Some(other), &group_info).is_err());
        assert!(named(None, &group_info[..24]).is_err());
        group_info[8] = 17;
        assert!(named(None, &group_info).is_err());
    }
}
