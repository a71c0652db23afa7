//! Why something of MLS is refused. Every word here is the relay's own and may be told to a client.

use crate::domain::{DeviceNo, Epoch, KeyPackageRef};

/// Why bytes are not the `MLSMessage` that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotMls {
    /// The bytes end early, go on, or break the encoding (RFC 9420 §2.1).
    #[error("the bytes are not an MLSMessage")]
    Malformed,
    /// Another version than MLS 1.0.
    #[error("only MLS 1.0 is taken")]
    Version,
    /// An unknown wire format.
    #[error("the wire format is unknown")]
    WireFormat,
    /// The group id has not the 16 bytes of a UUID.
    #[error("the MLS group id must be the 16 bytes of the group's id")]
    GroupId,
    /// The epoch is higher than any group's.
    #[error("the epoch is out of range")]
    Epoch,
    /// It is an `MLSMessage` of another kind than an application message.
    #[error("only a PrivateMessage with application content is taken here")]
    NotApplication,
}

/// Why a commit is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitFault {
    /// It is not framed as this group's commits are.
    #[error("not a commit, or not framed as the handshakes of this group are")]
    Framing,
    /// It is for another group.
    #[error("the commit is for another group")]
    WrongGroup,
    /// It names a proposal that is not pending.
    #[error("the commit names a proposal that is not pending in this epoch")]
    UnknownProposal,
    /// A proposal of it, or its path, breaks RFC 9420 §12.
    #[error("the commit does not follow RFC 9420")]
    Rules,
    /// Two of its proposals are about one leaf, or one is about the committer's own.
    #[error("two proposals are about one leaf, or one is about the committer's own")]
    LeafTwice,
    /// A path is needed and missing.
    #[error("the commit needs an update path")]
    NoPath,
    /// The update path does not fit the tree.
    #[error("the update path does not fit the tree")]
    Path,
    /// A leaf has ended, or lives longer than it may.
    #[error("the lifetime of a leaf has ended, has not begun, or is too long")]
    Lifetime,
    /// A leaf cannot do what the group requires.
    #[error("a leaf does not have the capabilities that the group requires")]
    Capabilities,
    /// A leaf's credential is not its device's.
    #[error("the credential of a leaf must be basic, with the identity \"user_id:device_id\" of its device")]
    Identity,
    /// A leaf's signature key is not the one that its device registered.
    #[error("the signature key of a leaf must be the one that its device registered")]
    UnregisteredKey,
    /// A leaf is longer than any that is kept.
    #[error("a leaf has at most 4096 bytes")]
    LargeLeaf,
    /// A device would have two leaves.
    #[error("a device has one leaf in a group")]
    SecondLeaf,
    /// A declared removal is not of a device in the group.
    #[error("\"removed\" names a device that is not in the group")]
    RemovedUnknown,
}

/// Why a proposal is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposalFault {
    /// It is of a type that no group of this relay takes.
    #[error("proposals of this type are not taken")]
    Type,
    /// Only an admin adds devices of others.
    #[error("only an admin adds devices of other users")]
    AddNeedsAdmin,
    /// Only an admin removes others' live leaves.
    #[error("only an admin removes live devices of other users")]
    RemoveNeedsAdmin,
    /// The owner cannot be removed.
    #[error("the owner cannot be removed")]
    RemovesOwner,
    /// It removes a leaf that is not there.
    #[error("there is no such leaf")]
    NoSuchLeaf,
    /// Only an admin changes the group's extensions.
    #[error("only an admin changes the group's extensions")]
    ExtensionsNeedAdmin,
    /// An extension is not on the allow-list.
    #[error(
        "only required capabilities and extensions of the private-use range may stand in the group context"
    )]
    Extension,
    /// An external commit does more than to bring its sender in.
    #[error("an external commit adds its sender alone, and removes no leaf but its sender's former one")]
    External,
    /// An external init outside an external commit.
    #[error("an external init belongs into an external commit")]
    ExternalInit,
    /// The proposal's own content is invalid.
    #[error("the proposal does not follow RFC 9420")]
    Rules,
    /// The message is not a proposal for this group, framed as its handshakes are.
    #[error("not a proposal for this group, or not framed as its handshakes are")]
    Framing,
}

/// Why a `GroupInfo` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupInfoFault {
    /// The bytes are not a `GroupInfo`.
    #[error("the bytes are not a GroupInfo")]
    Malformed,
    /// It names another group.
    #[error("the GroupInfo names another group")]
    WrongGroup,
    /// It is of another epoch.
    #[error("the GroupInfo is of another epoch")]
    WrongEpoch,
    /// Its suite is not taken, or not the group's.
    #[error("the cipher suite is not taken, or not the group's")]
    CipherSuite,
    /// It is not the one that the commit leads to.
    #[error("the GroupInfo is not the one that the commit leads to, or its tag is not the commit's")]
    NotOfCommit,
    /// The signature does not verify.
    #[error("the signature of the GroupInfo does not verify under the device's key")]
    Signature,
    /// `external_pub` is missing, though devices may join by external commits.
    #[error("the GroupInfo needs external_pub, because devices may join by external commits")]
    NoExternalPub,
    /// No tree came with it.
    #[error("the ratchet tree is missing")]
    NoTree,
    /// The tree is invalid, or another one.
    #[error("the ratchet tree is invalid, or not the one that the GroupInfo names")]
    Tree,
    /// A new group's tree has other leaves than its founder's at index 0.
    #[error("a new group has one leaf, its founder's")]
    Leaves,
    /// The founder's leaf is not the calling device's.
    #[error(
        "the leaf's credential must be basic, with the identity \"user_id:device_id\" of the calling device"
    )]
    Identity,
    /// The founder's key is not the registered one.
    #[error("the leaf's signature key must be the one that the calling device registered")]
    UnregisteredKey,
    /// The founder's leaf has ended, or lives longer than it may.
    #[error("the lifetime of the leaf has ended, has not begun, or is too long")]
    Lifetime,
    /// The group context holds an extension that is not on the allow-list.
    #[error(
        "only required capabilities and extensions of the private-use range may stand in the group context"
    )]
    Extension,
}

/// Why a Welcome does not fit its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WelcomeFault {
    /// The commit adds devices, and no Welcome came.
    #[error("a commit that adds devices needs a Welcome")]
    Missing,
    /// The commit adds nobody, and a Welcome came.
    #[error("a commit that adds nobody takes no Welcome")]
    Superfluous,
    /// The bytes are not a Welcome, or of another suite.
    #[error("the bytes are not a Welcome of the group's suite")]
    Malformed,
    /// Split into one for each joiner it would be too much to keep: it carries a large tree for many.
    #[error(
        "the Welcome is too large for so many joiners: leave the ratchet tree out, or add fewer at a time"
    )]
    TooLarge,
    /// The key packages it names are not those that the commit adds.
    #[error("the Welcome must name exactly the key packages that the commit adds")]
    References,
}

/// Why something of MLS is refused. A refusal changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no `MLSMessage`.
    #[error("{0}")]
    NotMls(#[from] NotMls),
    /// For this caller there is no such group.
    #[error("there is no such group")]
    NotFound,
    /// The message was not made by the calling device's leaf.
    #[error("the message is not signed by the calling device's leaf")]
    NotYou,
    /// The group is in another epoch: this one.
    #[error("the group is in another epoch")]
    StaleEpoch(Epoch),
    /// The commit is invalid.
    #[error("{0}")]
    InvalidCommit(CommitFault),
    /// A proposal is not allowed.
    #[error("{0}")]
    ProposalNotAllowed(ProposalFault),
    /// The Welcome does not fit.
    #[error("{0}")]
    WelcomeMismatch(WelcomeFault),
    /// The group would have more leaves than it may.
    #[error("a group has at most 1500 members")]
    GroupFull,
    /// A key package was not handed out, or entered a group before.
    #[error("a key package was never handed out, was dropped, or has entered a group")]
    PackageUsed(KeyPackageRef),
    /// A device that would be added is not active.
    #[error("a device that would be added is not active")]
    UnknownDevice(DeviceNo),
    /// Devices that leave are not removed.
    #[error("the commit must remove every device that has proposed to leave")]
    PendingLeave,
    /// The `GroupInfo` is refused.
    #[error("{0}")]
    BadGroupInfo(GroupInfoFault),
    /// What the store holds cannot be read; nothing that a client can do anything about.
    #[error("the stored state of the group cannot be used")]
    Unavailable(StateFault),
}

impl Refusal {
    /// The stable code of the problem; none where it is the relay's own fault.
    #[must_use]
    pub const fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotMls(_) => "not-mls",
            Self::NotFound => "not-found",
            Self::NotYou => "not-you",
            Self::StaleEpoch(_) => "stale-epoch",
            Self::InvalidCommit(_) => "invalid-commit",
            Self::ProposalNotAllowed(_) => "proposal-not-allowed",
            Self::WelcomeMismatch(_) => "welcome-mismatch",
            Self::GroupFull => "group-full",
            Self::PackageUsed(_) => "package-used",
            Self::UnknownDevice(_) => "unknown-device",
            Self::PendingLeave => "pending-leave",
            Self::BadGroupInfo(_) => "bad-group-info",
            Self::Unavailable(_) => return None,
        })
    }
}

/// Why the stored state of a group cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateFault {
    /// It has a format number that this build does not know.
    #[error("unknown state format")]
    Format,
    /// It cannot be decoded.
    #[error("undecodable state")]
    Codec,
    /// It is of another group, epoch or suite than the store says.
    #[error("state of another group or epoch")]
    Other,
    /// The tree has a leaf that the roster does not know.
    #[error("tree and roster differ")]
    Roster,
    /// A step failed that only a fault of the library can make fail.
    #[error("mls library fault")]
    Library,
}

impl From<StateFault> for Refusal {
    fn from(fault: StateFault) -> Self {
        Self::Unavailable(fault)
    }
}

impl From<CommitFault> for Refusal {
    fn from(fault: CommitFault) -> Self {
        Self::InvalidCommit(fault)
    }
}

impl From<ProposalFault> for Refusal {
    fn from(fault: ProposalFault) -> Self {
        Self::ProposalNotAllowed(fault)
    }
}

impl From<GroupInfoFault> for Refusal {
    fn from(fault: GroupInfoFault) -> Self {
        Self::BadGroupInfo(fault)
    }
}

impl From<WelcomeFault> for Refusal {
    fn from(fault: WelcomeFault) -> Self {
        Self::WelcomeMismatch(fault)
    }
}
