//! From bodies to requests: which of their forms they have.

use super::{
    CommitRequest, Expected, FoundingRequest, Material, MlsMaterial,
    body::{CommitBody, CreateBody, MembersBody, RemovalBody, RemovedDevice, texts, users},
};
use crate::{
    domain::{DeviceId, GroupId, UserId},
    http::Problem,
    wire::{self, B64},
};

/// Whom to add, and how.
pub(super) enum Adding {
    /// By the word of an admin.
    Roster(Vec<UserId>),
    /// By a commit.
    Commit(CommitRequest),
}

/// How a member is to be removed.
pub(super) enum Removing {
    /// By the word of an admin, or its own.
    Roster,
    /// By a commit.
    Commit(CommitRequest),
    /// By proposals of its own, which the next commit has to cover.
    Leaving(Vec<bytes::Bytes>),
}

fn contradicts(field: &str, why: &str) -> Problem {
    Problem::bad_field(field, why)
}

fn bytes(b64: Option<B64>) -> Option<bytes::Bytes> {
    b64.map(|b64| b64.0)
}

impl TryFrom<CreateBody> for FoundingRequest {
    type Error = Problem;

    fn try_from(body: CreateBody) -> Result<Self, Problem> {
        let group_id = body.group_id.map(|id| GroupId::new(id.0));
        if group_id.is_some_and(GroupId::is_nil) {
            return Err(Problem::bad_field("group_id", "the nil UUID names no group"));
        }
        texts(body.name.as_ref(), body.description.as_ref())?;
        let (name, description) = (body.name.clone(), body.description.clone());
        Ok(Self { group_id, name, description, material: material(body)? })
    }
}

fn material(body: CreateBody) -> Result<Material, Problem> {
    let Some(group_info) = body.group_info else { return roster(body) };
    if body.member_ids.is_some_and(|ids| !ids.is_empty()) {
        return Err(contradicts("member_ids", "a commit adds the members of an MLS group"));
    }
    if body.handshake == Some(wire::Handshake::None) {
        return Err(contradicts("handshake", "an MLS group has public or private handshakes"));
    }
    let commit = match (body.commit, body.commit_group_info) {
        (None, None) if body.welcome.is_none() => None,
        (Some(commit), Some(group_info)) => Some(CommitRequest {
            commit: commit.0,
            group_info: group_info.0,
            welcome: bytes(body.welcome),
            removed: None,
            expected: Expected::Anything,
        }),
        (Some(_), None) => return Err(contradicts("commit_group_info", "missing, beside commit")),
        (None, _) => return Err(contradicts("commit", "missing, beside commit_group_info or welcome")),
    };
    Ok(Material::Mls(Box::new(MlsMaterial {
        handshake: body.handshake.map(Into::into),
        external_join: body.external_join.map(Into::into),
        group_info: group_info.0,
        ratchet_tree: bytes(body.ratchet_tree),
        commit,
    })))
}

fn roster(body: CreateBody) -> Result<Material, Problem> {
    let of_mls = [
        body.ratchet_tree.is_some(),
        body.commit.is_some(),
        body.welcome.is_some(),
        body.commit_group_info.is_some(),
        body.handshake.is_some_and(|handshake| handshake != wire::Handshake::None),
        body.external_join.is_some_and(|join| join != wire::ExternalJoin::None),
    ];
    if of_mls.contains(&true) {
        return Err(contradicts("group_info", "missing, and an MLS group needs it"));
    }
    Ok(Material::Roster(users(body.member_ids.unwrap_or_default())))
}

impl TryFrom<MembersBody> for Adding {
    type Error = Problem;

    fn try_from(body: MembersBody) -> Result<Self, Problem> {
        match (body.commit, body.group_info, body.user_id, body.user_ids) {
            (Some(commit), Some(group_info), None, user_ids) => Ok(Self::Commit(CommitRequest {
                commit: commit.0,
                group_info: group_info.0,
                welcome: bytes(body.welcome),
                removed: None,
                expected: user_ids.map_or(Expected::Anything, |ids| Expected::Adds(users(ids))),
            })),
            (Some(_), None, _, _) => Err(contradicts("group_info", "missing, beside commit")),
            (Some(_), Some(_), Some(_), _) => {
                Err(contradicts("user_id", "with a commit, user_ids names users"))
            }
            (None, Some(_), _, _) => Err(contradicts("commit", "missing, beside group_info")),
            (None, None, ..) if body.welcome.is_some() => {
                Err(contradicts("commit", "missing, beside welcome"))
            }
            (None, None, Some(user), None) => Ok(Self::Roster(vec![UserId::new(user.0)])),
            (None, None, None, Some(ids)) => Ok(Self::Roster(users(ids))),
            (None, None, ..) => {
                Err(contradicts("user_ids", "either a commit, user_id or user_ids is needed"))
            }
        }
    }
}

impl RemovalBody {
    /// How this user is removed by it.
    pub(super) fn removing(self, user: UserId) -> Result<Removing, Problem> {
        match (self.commit, self.group_info, self.proposals) {
            (None, None, None) if self.removed.is_none() => Ok(Removing::Roster),
            (None, None, None) => Err(contradicts("commit", "missing, beside removed")),
            (None, None, Some(_)) if self.removed.is_some() => {
                Err(contradicts("removed", "goes with a commit, not with proposals"))
            }
            (None, None, Some(proposals)) if proposals.is_empty() => {
                Err(contradicts("proposals", "one for each leaf is needed"))
            }
            (None, None, Some(proposals)) => {
                Ok(Removing::Leaving(proposals.into_iter().map(|proposal| proposal.0).collect()))
            }
            (Some(commit), Some(group_info), None) => Ok(Removing::Commit(CommitRequest {
                commit: commit.0,
                group_info: group_info.0,
                welcome: None,
                removed: removed(self.removed)?,
                expected: Expected::Removes(user),
            })),
            (Some(_), None, _) => Err(contradicts("group_info", "missing, beside commit")),
            (None, Some(_), _) => Err(contradicts("commit", "missing, beside group_info")),
            (Some(_), Some(_), Some(_)) => Err(contradicts("proposals", "either a commit or proposals")),
        }
    }
}

impl TryFrom<CommitBody> for CommitRequest {
    type Error = Problem;

    fn try_from(body: CommitBody) -> Result<Self, Problem> {
        Ok(Self {
            commit: body.commit.0,
            group_info: body.group_info.0,
            welcome: bytes(body.welcome),
            removed: removed(body.removed)?,
            expected: Expected::Anything,
        })
    }
}

fn removed(devices: Option<Vec<RemovedDevice>>) -> Result<Option<Vec<(UserId, DeviceId)>>, Problem> {
    let parse = |(index, device): (usize, RemovedDevice)| {
        let bad = |why| Problem::bad_field(&format!("removed[{index}].device_id"), why);
        Ok((UserId::new(device.user_id.0), DeviceId::parse(&device.device_id).map_err(bad)?))
    };
    devices.map(|devices| devices.into_iter().enumerate().map(parse).collect()).transpose()
}
