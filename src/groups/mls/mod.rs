//! The MLS rules of the relay (RFC 9420, RFC 9750 §5): what a commit, a proposal, a Welcome and a `GroupInfo` must be before
//! the store is asked to make them true.
//!
//! Pure and synchronous: bytes and what the store knows in, a verdict out. [`Header::parse`] is cheap and belongs before
//! anything is loaded; every other function does signatures and belongs on the blocking pool. The relay takes part in no group:
//! the provider behind these functions can hash and verify, and can neither open nor seal nor sign anything.
//!
//! Public handshakes go the way of [`found`], [`judge_commit`], [`judge_proposals`]; private ones that of [`found_private`],
//! [`judge_private_commit`], [`judge_private_proposal`], which check what is left to check.

mod capabilities;
mod changes;
mod commit;
mod external;
mod fault;
mod founding;
mod framed;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod group_info;
mod header;
mod identity;
mod memory;
mod private;
mod proposals;
mod reader;
mod refusal;
mod roster;
mod state;
mod welcome;

use bytes::Bytes;

pub use self::{
    commit::judge_commit,
    founding::{Founded, FoundingRules, found, found_private, founder},
    header::{ContentType, Framing, Header, PublicSender},
    identity::identity,
    private::{judge_private_commit, judge_private_proposal},
    proposals::{added_package, judge_proposals},
    refusal::{CommitFault, GroupInfoFault, NotMls, ProposalFault, Refusal, StateFault, WelcomeFault},
    welcome::Welcome,
};
use crate::{
    domain::{
        Caller, CipherSuite, DeviceNo, Epoch, ExternalJoin, GroupId, KeyPackageRef, Member, MlsSignatureKey,
    },
    verify as provider,
};

/// The calling device, as the relay knows it.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The device.
    pub caller: &'a Caller,
    /// Its registered MLS signature keys.
    pub keys: &'a [MlsSignatureKey],
    /// Whether it showed a join token of the group that has not ended.
    pub join_token: bool,
}

/// A group as its handshakes are judged: all of one moment, and what was true at it is checked again by the store.
#[derive(Debug, Clone, Copy)]
pub struct GroupAt<'a> {
    /// Its id.
    pub group_id: GroupId,
    /// Its current epoch.
    pub epoch: Epoch,
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// Who may join by an external commit.
    pub external_join: ExternalJoin,
    /// Everybody in it.
    pub members: &'a [Member],
}

/// A commit and what comes with it, each an `MLSMessage`.
#[derive(Debug, Clone, Copy)]
pub struct CommitBundle<'a> {
    /// The commit.
    pub commit: &'a Bytes,
    /// The `GroupInfo` of the epoch that it opens.
    pub group_info: &'a Bytes,
    /// The Welcome, if it adds devices.
    pub welcome: Option<&'a Bytes>,
}

/// A key package that a Welcome or an Add proposal names, as the store knows it. What the store does not know is not here.
#[derive(Debug, Clone)]
pub struct KnownPackage {
    /// Its reference.
    pub reference: KeyPackageRef,
    /// Whose.
    pub owner: Caller,
    /// Whether that incarnation is active.
    pub active: bool,
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// Whether it may enter a group: it was handed out and entered none yet, or is a last-resort one, and its signature key
    /// is still its device's.
    pub usable: bool,
}

/// What is to be kept of an epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochMaterial {
    /// The epoch.
    pub epoch: Epoch,
    /// The public state, behind its format number; none with private handshakes.
    pub state: Option<Bytes>,
    /// The `GroupInfo`, an `MLSMessage`.
    pub group_info: Bytes,
    /// The ratchet tree (RFC 9420 §12.4.3.3); none with private handshakes.
    pub tree: Option<Bytes>,
}

/// A device that a commit adds.
#[derive(Clone, PartialEq, Eq)]
pub struct Joining {
    /// The incarnation.
    pub device_no: DeviceNo,
    /// The key package by which it enters.
    pub reference: KeyPackageRef,
    /// Its leaf; none with private handshakes.
    pub leaf_index: Option<u32>,
    /// The Welcome for it alone, an `MLSMessage`.
    pub welcome: Bytes,
}

/// The committer's own new place, when it joins by an external commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExternalLeaf {
    /// Its leaf; none with private handshakes.
    pub leaf_index: Option<u32>,
    /// Whether only the join token lets it in, so that the token must still hold when the commit is made true.
    pub by_token: bool,
}

/// A commit that keeps the rules, and what it makes of the group.
#[derive(Clone, PartialEq, Eq)]
pub struct JudgedCommit {
    /// The epoch that it opens.
    pub next: EpochMaterial,
    /// Whom it adds, in the order of their leaves.
    pub joiners: Vec<Joining>,
    /// Whose leaves it removes, ascending; for a resync also the committer's own.
    pub removed: Vec<DeviceNo>,
    /// Set when the committer joins by it.
    pub external: Option<ExternalLeaf>,
}

/// A proposal that keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedProposal {
    /// The leaf's device that it is about, for Remove and `SelfRemove`.
    pub target: Option<DeviceNo>,
    /// Whether the target leaves by it: a device of the proposer's own user.
    pub leaves: bool,
}
