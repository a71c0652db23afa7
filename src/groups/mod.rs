//! Groups: made, filled, left, written to and read. MLS groups by RFC 9420 and RFC 9750, roster groups without MLS.

mod answers;
mod body;
mod checks;
mod commits;
mod entrance;
mod founding;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod judging;
pub mod mls;
mod problem;
mod proposals;
mod requests;
mod reset;
mod roster;
pub mod routes;
mod send;
mod views;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub use answers::GroupSentAnswer;
pub use body::{GroupSendBody, GroupSendFrame};
pub use checks::Checks;
pub use commits::{CommitRequest, Expected};
pub use entrance::GroupFace;
pub use founding::{FoundingRequest, Made, Material, MlsMaterial};
pub use send::GroupSendRequest;
pub use views::{PAGE_BYTES, Page};

use crate::{
    domain::{
        Caller, CipherSuite, Clock, Epoch, ExternalJoin, GroupId, GroupReceipt, InviteId, Member, Membership,
        Position, Role, UserId,
    },
    hot::Switchboard,
    store::{Allowed, CannotAdd, GroupAccepted, Invite, MOST_INVITES, Standing, Store, StoreError},
};

/// Why an act on groups was refused. Fields are named as on the wire.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such group, or the caller has no part in it.
    #[error("unknown group")]
    UnknownGroup,
    /// There is no such thing in the group: what it would be.
    #[error("unknown")]
    Unknown(&'static str),
    /// The caller may not: why.
    #[error("not allowed")]
    NotAllowed(&'static str),
    /// A sealed body is too short to be one: the field.
    #[error("too short")]
    TooShort(&'static str),
    /// Something is readable text: the field.
    #[error("not ciphertext")]
    NotCiphertext(&'static str),
    /// Something is larger than allowed: the field and the limit in bytes.
    #[error("too large")]
    TooLarge(&'static str, usize),
    /// Expiry is asked for in a way that cannot be.
    #[error("bad expiry")]
    BadExpiry,
    /// The id belongs to another group or to a conversation.
    #[error("group exists")]
    GroupExists,
    /// The group is in another epoch: this one.
    #[error("stale epoch")]
    StaleEpoch(Epoch),
    /// The store was restored; the group goes on after a reset or an external commit.
    #[error("group rolled back")]
    RolledBack,
    /// The id belongs to another send.
    #[error("message id reused")]
    MessageIdReused,
    /// Only a commit changes who is in an MLS group.
    #[error("commit required")]
    CommitRequired,
    /// The body in this field does not fit the kind of group: why.
    #[error("not mls")]
    NotMls(&'static str, &'static str),
    /// What is asked for is of MLS, and it is a roster group.
    #[error("roster group")]
    RosterGroup,
    /// What is of MLS in this field is refused.
    #[error("{1}")]
    Mls(&'static str, mls::Refusal),
    /// The commit does something else than the request says: what.
    #[error("unexpected commit")]
    Unexpected(&'static str),
    /// A reset would let handshakes be less strict.
    #[error("laxer handshake")]
    LaxerHandshake,
    /// The proposals are not exactly for the caller's own leaves.
    #[error("leaves missing")]
    LeavesMissing,
    /// The proposal at this index is another one about a leaf that the device has proposed about.
    #[error("proposal exists")]
    ProposalExists(usize),
    /// The group has as many proposals pending as it may.
    #[error("too many proposals")]
    TooManyProposals(usize),
    /// The group would be larger than this.
    #[error("group full")]
    GroupFull(u32),
    /// Somebody could not be added, to a group that has this many members at most.
    #[error("cannot add")]
    CannotAdd(CannotAdd, u32),
    /// The group has as many join tokens as it may.
    #[error("too many invites")]
    TooManyInvites(usize),
    /// Too much waits to be checked, or the group moves on faster than it can be judged. Nothing was done.
    #[error("busy")]
    Busy,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What groups are held against.
#[derive(Debug, Clone)]
pub struct GroupRules {
    /// Bytes of one message.
    pub envelope: usize,
    /// Whether readable text is refused.
    pub plaintext_guard: bool,
    /// Members or leaves of a group.
    pub max_members: u32,
    /// Groups of a user.
    pub max_groups: u32,
    /// How long a join token lives when its maker does not say.
    pub invite_life: Duration,
    /// The cipher suites of new groups.
    pub cipher_suites: Vec<CipherSuite>,
    /// The longest life of a founder's leaf (RFC 9420 §7.2).
    pub longest_lifetime: Duration,
}

/// What the sender of a group message learns.
#[derive(Debug, Clone, Copy)]
pub enum GroupSent {
    /// Committed by this send.
    Stored(GroupReceipt),
    /// Committed by an earlier, equal send.
    Repeated(GroupReceipt),
}

/// Where a change of a group stands: the epoch it opened, and its entry in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The epoch.
    pub epoch: Epoch,
    /// The entry.
    pub position: Position,
}

/// The acts on groups.
pub struct Groups {
    /// The store.
    pub store: Arc<dyn Store>,
    /// For the cache of MLS states.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What groups are held against.
    pub rules: GroupRules,
    /// Where MLS is checked.
    pub checks: Checks,
}

impl Groups {
    /// Sends a message to a group. It takes its place in the order of this node when this is called; dropping the future
    /// does not take it back.
    pub fn send(
        &self,
        caller: Caller,
        request: GroupSendRequest,
    ) -> BoxFuture<'static, Result<GroupSent, Refusal>> {
        let send = match send::prepare(caller, request, &self.rules, self.clock.now()) {
            Ok(send) => send,
            Err(refusal) => return Box::pin(async { Err(refusal) }),
        };
        let wrong = send::wrong_kind(&send);
        let accepted = self.store.accept_group_send(send);
        Box::pin(async move {
            match accepted.await? {
                GroupAccepted::Stored(receipt) => Ok(GroupSent::Stored(receipt)),
                GroupAccepted::Repeated(receipt) => Ok(GroupSent::Repeated(receipt)),
                GroupAccepted::NotMember => Err(Refusal::UnknownGroup),
                GroupAccepted::MessageIdReused => Err(Refusal::MessageIdReused),
                GroupAccepted::WrongKind => Err(wrong),
                GroupAccepted::Stale(epoch) => Err(Refusal::StaleEpoch(epoch)),
                GroupAccepted::RolledBack => Err(Refusal::RolledBack),
            }
        })
    }

    fn cannot_add(&self, why: CannotAdd) -> Refusal {
        let most = match why {
            CannotAdd::TooManyGroups(_) => self.rules.max_groups,
            CannotAdd::PackageUsed(_)
            | CannotAdd::DeviceGone(_)
            | CannotAdd::UserUnknown(_)
            | CannotAdd::MailboxFull
            | CannotAdd::GroupFull => self.rules.max_members,
        };
        Refusal::CannotAdd(why, most)
    }

    /// How the calling device stands in a group that its user is in.
    async fn member(&self, caller: &Caller, group: GroupId) -> Result<(Standing, Role), Refusal> {
        let standing = self.store.standing(group, caller).await?.ok_or(Refusal::UnknownGroup)?;
        let role = standing.role.ok_or(Refusal::UnknownGroup)?;
        Ok((standing, role))
    }

    /// A group of the caller's user.
    ///
    /// # Errors
    /// `UnknownGroup`.
    pub async fn group(&self, caller: &Caller, group: GroupId) -> Result<Membership, Refusal> {
        let (standing, role) = self.member(caller, group).await?;
        Ok(Membership { group: standing.group, role, invited: standing.invited })
    }

    /// The groups of the caller's user after one, by id.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn groups(
        &self,
        caller: &Caller,
        after: Option<GroupId>,
        limit: u32,
    ) -> Result<Vec<Membership>, Refusal> {
        Ok(self.store.groups_of(caller.user_id, after, limit).await?)
    }

    /// Everybody in a group of the caller's user.
    ///
    /// # Errors
    /// `UnknownGroup`.
    pub async fn members(&self, caller: &Caller, group: GroupId) -> Result<Vec<Member>, Refusal> {
        self.member(caller, group).await?;
        self.store.members(group).await?.ok_or(Refusal::UnknownGroup)
    }

    /// Gives a member a role.
    ///
    /// # Errors
    /// `NotAllowed` for anyone but the owner, `Unknown` when there is no such member.
    pub async fn give_role(
        &self,
        caller: &Caller,
        group: GroupId,
        user: UserId,
        role: Role,
    ) -> Result<(), Refusal> {
        let allowed = self.store.set_role(group, caller, user, role).await?;
        allowed_to(allowed, "member", "the owner gives roles, and keeps the owner's until another has it")
    }

    /// Makes a join token of this hash, and returns what is known of it.
    ///
    /// # Errors
    /// `NotAllowed` for anyone but an admin, and where no token lets anybody in; `TooManyInvites`.
    pub async fn invite(
        &self,
        caller: &Caller,
        group: GroupId,
        invite_id: InviteId,
        life: Option<Duration>,
        token: [u8; 32],
    ) -> Result<Invite, Refusal> {
        let standing = self.admin(caller, group).await?;
        if standing.group.external_join != ExternalJoin::Token {
            return Err(Refusal::NotAllowed("a token lets nobody into this group (external_join)"));
        }
        let created_at = self.clock.now();
        let life = life.unwrap_or(self.rules.invite_life);
        let invite = Invite { invite_id, created_at, expires_at: created_at.plus(life) };
        let made = self.store.make_invite(group, caller, invite, token).await?;
        allowed_to(made, "invite", "an admin invites").map(|()| invite)
    }

    /// The join tokens of a group that have not ended.
    ///
    /// # Errors
    /// `NotAllowed` for anyone but an admin.
    pub async fn invites(&self, caller: &Caller, group: GroupId) -> Result<Vec<Invite>, Refusal> {
        self.admin(caller, group).await?;
        Ok(self.store.invites(group, self.clock.now()).await?)
    }

    /// Ends a join token.
    ///
    /// # Errors
    /// `NotAllowed` for anyone but an admin, `Unknown` when it is not there any more.
    pub async fn revoke_invite(
        &self,
        caller: &Caller,
        group: GroupId,
        invite: InviteId,
    ) -> Result<(), Refusal> {
        allowed_to(self.store.revoke_invite(group, caller, invite).await?, "invite", "an admin ends invites")
    }

    async fn admin(&self, caller: &Caller, group: GroupId) -> Result<Standing, Refusal> {
        let (standing, role) = self.member(caller, group).await?;
        if role >= Role::Admin { Ok(standing) } else { Err(Refusal::NotAllowed("an admin invites")) }
    }
}

/// What an act that needs a role came to: `what` it was about, and `who` may do it.
fn allowed_to(allowed: Allowed, what: &'static str, who: &'static str) -> Result<(), Refusal> {
    match allowed {
        Allowed::Done => Ok(()),
        Allowed::NotMember => Err(Refusal::UnknownGroup),
        Allowed::NotAllowed => Err(Refusal::NotAllowed(who)),
        Allowed::Unknown => Err(Refusal::Unknown(what)),
        Allowed::TooMany => Err(Refusal::TooManyInvites(MOST_INVITES)),
    }
}
