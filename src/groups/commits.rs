//! Commits: from bytes to the group's next epoch. Nothing is told to who has no part in the group, nothing is judged under a
//! lock, and what was judged is made true in one act of the store, or judged again.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Changed, Groups, Refusal,
    entrance::lets_in,
    judging::{Judged, Question, epoch_state, joiners, numbers},
    mls::{CommitFault, ContentType, Framing, Header, PublicSender},
};
use crate::{
    domain::{Caller, DeviceId, Epoch, GroupId, Handshake, UserId},
    store::{Advance, Advanced, Commit, ExternalJoiner, Standing},
};

/// How often a commit is judged, when what it was judged by changes meanwhile.
const TRIES: usize = 5;

/// A commit as it came.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    /// The commit, an `MLSMessage`.
    pub commit: Bytes,
    /// The `GroupInfo` of the epoch that it opens.
    pub group_info: Bytes,
    /// The Welcome for those it adds.
    pub welcome: Option<Bytes>,
    /// The devices that it is said to remove; for private handshakes only.
    pub removed: Option<Vec<(UserId, DeviceId)>>,
    /// What the route says it does.
    pub expected: Expected,
}

/// What a commit is said to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is said.
    Anything,
    /// It adds devices of exactly these users.
    Adds(Vec<UserId>),
    /// It removes every device of this user.
    Removes(UserId),
}

/// Who commits, by the front of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Committer {
    /// The member at this leaf; none where it is hidden.
    Member(Option<u32>),
    /// A device that comes in by it.
    External,
}

impl Groups {
    /// Moves a group into its next epoch.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn commit(
        &self,
        caller: &Caller,
        group: GroupId,
        request: CommitRequest,
        token: Option<[u8; 32]>,
    ) -> Result<Changed, Refusal> {
        let (framing, committer) = read_front(&request.commit, group)?;
        let digest = *blake3::hash(&request.commit).as_bytes();
        for _ in 0..TRIES {
            let standing = self.store.standing(group, caller).await?.ok_or(Refusal::UnknownGroup)?;
            let by_token = self.committer_is_in(&standing, committer, token).await?;
            if let Some(changed) = self.earlier(caller, &standing, framing.epoch, digest).await? {
                return Ok(changed);
            }
            check_place(&standing, committer, framing.epoch)?;
            let question = Question { caller, standing: &standing, join_token: by_token };
            let Some(judged) = self.judge_commit(question, &request).await? else { continue };
            check_expected(&request.expected, &judged)?;
            check_declared(request.removed.as_deref(), &judged)?;
            let invite = token.filter(|_| by_token);
            let state = judged.kept_state();
            let advance = advance(caller, &standing, &request, digest, judged, invite);
            match self.store.advance_group(advance, self.clock.now()).await? {
                Advanced::Advanced(epoch, position) => {
                    self.keep(group, state).await;
                    return Ok(Changed { epoch, position });
                }
                Advanced::Repeated(epoch, position) => return Ok(Changed { epoch, position }),
                Advanced::Stale(epoch) => return Err(Refusal::StaleEpoch(epoch)),
                Advanced::Changed => {}
                Advanced::NotMember => return Err(Refusal::UnknownGroup),
                Advanced::CannotAdd(why) => return Err(self.cannot_add(why)),
            }
        }
        Err(Refusal::Busy)
    }

    /// Whether the committer has a leaf, or may come in: whether by a join token. Everybody else learns nothing.
    async fn committer_is_in(
        &self,
        standing: &Standing,
        committer: Committer,
        token: Option<[u8; 32]>,
    ) -> Result<bool, Refusal> {
        if standing.group.handshake == Handshake::None {
            return Err(standing.role.map_or(Refusal::UnknownGroup, |_| Refusal::RosterGroup));
        }
        match committer {
            Committer::External => lets_in(self, standing, token).await.map(|entry| entry.by_token),
            Committer::Member(_) if standing.leaf.is_some() && standing.may_write() => Ok(false),
            Committer::Member(_) => Err(Refusal::UnknownGroup),
        }
    }

    /// The result of the very same commit, if the same device brought it before.
    async fn earlier(
        &self,
        caller: &Caller,
        standing: &Standing,
        epoch: Epoch,
        digest: [u8; 32],
    ) -> Result<Option<Changed>, Refusal> {
        let group = &standing.group;
        if epoch >= group.epoch {
            return Ok(None);
        }
        let stored = self.store.commit_of(group.group_id, group.generation, epoch).await?;
        let same = stored.filter(|stored| stored.sender == caller.device_no && stored.digest == digest);
        Ok(same.map(|stored| Changed { epoch: stored.epoch.next(), position: stored.position }))
    }
}

/// Reads as much of a commit as says where it belongs.
fn read_front(commit: &[u8], group: GroupId) -> Result<(Framing, Committer), Refusal> {
    let invalid = |fault: CommitFault| Refusal::Mls("commit", fault.into());
    let header = Header::parse(commit).map_err(|why| Refusal::Mls("commit", why.into()))?;
    let (framing, committer) = match header {
        Header::Public(framing, PublicSender::NewMemberCommit) => (framing, Committer::External),
        Header::Public(framing, PublicSender::Member(leaf)) => (framing, Committer::Member(Some(leaf))),
        Header::Private(framing) => (framing, Committer::Member(None)),
        Header::Public(_, PublicSender::External(_) | PublicSender::NewMemberProposal)
        | Header::Welcome
        | Header::GroupInfo
        | Header::KeyPackage => return Err(invalid(CommitFault::Framing)),
    };
    if framing.group_id != group {
        return Err(invalid(CommitFault::WrongGroup));
    }
    if framing.content_type != ContentType::Commit {
        return Err(invalid(CommitFault::Framing));
    }
    Ok((framing, committer))
}

/// Whether the commit is for the current epoch, and made by the caller's leaf.
fn check_place(standing: &Standing, committer: Committer, epoch: Epoch) -> Result<(), Refusal> {
    let group = &standing.group;
    if group.rolled_back && committer != Committer::External {
        return Err(Refusal::RolledBack);
    }
    if epoch != group.epoch {
        return Err(Refusal::StaleEpoch(group.epoch));
    }
    if let (Committer::Member(Some(claimed)), Some(own)) = (committer, standing.leaf.flatten())
        && claimed != own
    {
        return Err(Refusal::Mls("commit", super::mls::Refusal::NotYou));
    }
    Ok(())
}

/// Whether the commit does what the route says.
fn check_expected(expected: &Expected, judged: &Judged) -> Result<(), Refusal> {
    match expected {
        Expected::Anything => Ok(()),
        Expected::Adds(users) => {
            let added: BTreeSet<_> = judged.added_users.iter().collect();
            if users.iter().collect::<BTreeSet<_>>() == added {
                Ok(())
            } else {
                Err(Refusal::Unexpected("the commit does not add devices of exactly the users in user_ids"))
            }
        }
        Expected::Removes(user) => {
            let mut theirs = judged.members.iter().filter(|member| member.user_id == *user).peekable();
            if theirs.peek().is_none() {
                return Err(Refusal::Unknown("member"));
            }
            let is_removed =
                |device: &crate::domain::MemberDevice| judged.commit.removed.contains(&device.device_no);
            if theirs.flat_map(|member| &member.devices).all(is_removed) {
                Ok(())
            } else {
                Err(Refusal::Unexpected("the commit does not remove every device of the user in the path"))
            }
        }
    }
}

/// Whether the commit removes just what it is said to.
fn check_declared(declared: Option<&[(UserId, DeviceId)]>, judged: &Judged) -> Result<(), Refusal> {
    let Some(declared) = declared else { return Ok(()) };
    let declared = numbers(declared, &judged.members).map_err(|refusal| Refusal::Mls("removed", refusal))?;
    if declared.iter().collect::<BTreeSet<_>>() == judged.commit.removed.iter().collect() {
        Ok(())
    } else {
        Err(Refusal::Unexpected("the commit does not remove exactly the devices in removed"))
    }
}

fn advance(
    caller: &Caller,
    standing: &Standing,
    request: &CommitRequest,
    digest: [u8; 32],
    judged: Judged,
    token: Option<[u8; 32]>,
) -> Advance {
    let external = judged.commit.external.map(|external| ExternalJoiner {
        leaf_index: external.leaf_index,
        invite: token.filter(|_| external.by_token),
    });
    Advance {
        group_id: standing.group.group_id,
        by: caller.clone(),
        version: judged.version,
        generation: judged.generation,
        epoch: standing.group.epoch,
        commit: Commit { body: request.commit.clone(), digest },
        removed: judged.commit.removed.clone(),
        external,
        joiners: joiners(&judged.commit),
        epoch_state: epoch_state(judged.commit.next),
    }
}
