//! New groups: epoch 0, with its founder alone in the tree (RFC 9420 §11).

use std::time::Duration;

use bytes::Bytes;
use openmls::{
    group::{ProposalStore, PublicGroup},
    messages::group_info::VerifiableGroupInfo,
    prelude::{CreationFromExternalError, LeafNode, RatchetTreeIn},
    treesync::{LeafNodeSource, errors::LeafNodeValidationError},
};
use tls_codec::Deserialize as _;

use super::{
    EpochMaterial, GroupInfoFault, Refusal, Sender, StateFault, group_info,
    identity::{names, registered_key},
    memory::Memory,
    provider::{self, Verifier},
    state,
};
use crate::domain::{
    Caller, CipherSuite, Epoch, ExternalJoin, GroupId, Member, MemberDevice, Role, Timestamp,
};

/// What a new group must be.
#[derive(Debug, Clone, Copy)]
pub struct FoundingRules<'a> {
    /// The id that it gets.
    pub group_id: GroupId,
    /// Who will be able to join by an external commit.
    pub external_join: ExternalJoin,
    /// The suites that are taken.
    pub cipher_suites: &'a [CipherSuite],
    /// The longest time from the beginning to the end of a leaf's life (RFC 9420 §7.2).
    pub longest_lifetime: Duration,
    /// The time now.
    pub now: Timestamp,
}

/// A group that may be made.
#[derive(Clone, PartialEq, Eq)]
pub struct Founded {
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// Epoch 0.
    pub first: EpochMaterial,
}

/// The roster of a group that has just been made, by which the commit that fills it is judged.
#[must_use]
pub fn founder(caller: &Caller, joined_at: Timestamp) -> Member {
    Member {
        user_id: caller.user_id,
        role: Role::Owner,
        invited: false,
        joined_at,
        devices: vec![MemberDevice {
            device_no: caller.device_no,
            device_id: caller.device_id.clone(),
            leaf_index: Some(0),
            active: true,
            leaving: false,
        }],
    }
}

/// Judges a new group with public handshakes. The tree comes in the `GroupInfo`, or beside it.
///
/// # Errors
/// [`Refusal::BadGroupInfo`], with the reason.
pub fn found(
    rules: &FoundingRules<'_>,
    sender: &Sender<'_>,
    group_info: &Bytes,
    tree: Option<&Bytes>,
) -> Result<Founded, Refusal> {
    let parsed = group_info::parse(group_info)?;
    let cipher_suite = check_beginning(&parsed, rules)?;
    let tree = tree_of(&parsed, tree)?;
    if tree.leaves().count() != 1 || tree.parents().next().is_some() {
        return Err(GroupInfoFault::Leaves.into());
    }
    let memory = Memory::default();
    let (public_group, _) =
        PublicGroup::from_external(&Verifier, &memory, tree, parsed.clone(), ProposalStore::new())
            .map_err(|error| fault(&error))?;
    let mut leaves = public_group.treesync().full_leaves();
    match (leaves.next(), leaves.next()) {
        (Some((index, leaf)), None) if index.u32() == 0 => check_founder(leaf, cipher_suite, rules, sender)?,
        _ => return Err(GroupInfoFault::Leaves.into()),
    }
    let exported = state::export_tree(&public_group)?;
    group_info::check_tree(&parsed, &exported)?;
    let first = EpochMaterial {
        epoch: Epoch(0),
        state: Some(state::encode(memory)?),
        group_info: group_info.clone(),
        tree: Some(exported),
    };
    Ok(Founded { cipher_suite, first })
}

/// Judges a new group with private handshakes: its `GroupInfo` must verify under the calling device's registered key. No tree
/// is kept.
///
/// # Errors
/// [`Refusal::BadGroupInfo`], with the reason.
pub fn found_private(
    rules: &FoundingRules<'_>,
    sender: &Sender<'_>,
    group_info: &Bytes,
) -> Result<Founded, Refusal> {
    let parsed = group_info::parse(group_info)?;
    let cipher_suite = check_beginning(&parsed, rules)?;
    let key = registered_key(sender.keys, cipher_suite).ok_or(GroupInfoFault::UnregisteredKey)?;
    group_info::check_signature(&parsed, cipher_suite, key)?;
    let first = EpochMaterial { epoch: Epoch(0), state: None, group_info: group_info.clone(), tree: None };
    Ok(Founded { cipher_suite, first })
}

/// What a `GroupInfo` shows of epoch 0, before any cryptography.
fn check_beginning(
    group_info: &VerifiableGroupInfo,
    rules: &FoundingRules<'_>,
) -> Result<CipherSuite, GroupInfoFault> {
    group_info::check_place(group_info, rules.group_id, Epoch(0), rules.external_join)?;
    let suite = group_info.ciphersuite();
    let cipher_suite = rules.cipher_suites.iter().find(|known| provider::suite(**known) == suite);
    let cipher_suite = *cipher_suite.ok_or(GroupInfoFault::CipherSuite)?;
    let context = group_info.group_context();
    if !group_info::only_allowed(context.extensions()) {
        return Err(GroupInfoFault::Extension);
    }
    // No commit has been made yet (RFC 9420 §8.2).
    if !context.confirmed_transcript_hash().is_empty() {
        return Err(GroupInfoFault::WrongEpoch);
    }
    Ok(cipher_suite)
}

fn tree_of(
    group_info: &VerifiableGroupInfo,
    beside: Option<&Bytes>,
) -> Result<RatchetTreeIn, GroupInfoFault> {
    match (beside, group_info.extensions().ratchet_tree()) {
        (Some(tree), _) => RatchetTreeIn::tls_deserialize_exact(tree).map_err(|_| GroupInfoFault::Tree),
        (None, Some(extension)) => Ok(extension.ratchet_tree().clone()),
        (None, None) => Err(GroupInfoFault::NoTree),
    }
}

/// The one leaf is the calling device's, with its registered key, and ends in time.
fn check_founder(
    leaf: &LeafNode,
    suite: CipherSuite,
    rules: &FoundingRules<'_>,
    sender: &Sender<'_>,
) -> Result<(), GroupInfoFault> {
    if !names(leaf.credential(), sender.caller.user_id, &sender.caller.device_id) {
        return Err(GroupInfoFault::Identity);
    }
    if registered_key(sender.keys, suite) != Some(leaf.signature_key().as_slice()) {
        return Err(GroupInfoFault::UnregisteredKey);
    }
    let LeafNodeSource::KeyPackage(lifetime) = leaf.leaf_node_source() else {
        return Err(GroupInfoFault::Leaves);
    };
    let now = rules.now.seconds().unsigned_abs();
    let span = lifetime.not_after().checked_sub(lifetime.not_before());
    if lifetime.not_after() <= now || span.is_none_or(|span| span > rules.longest_lifetime.as_secs()) {
        return Err(GroupInfoFault::Lifetime);
    }
    Ok(())
}

fn fault(error: &CreationFromExternalError<StateFault>) -> Refusal {
    match error {
        CreationFromExternalError::LibraryError(_) => StateFault::Library.into(),
        CreationFromExternalError::WriteToStorageError(fault) => (*fault).into(),
        CreationFromExternalError::InvalidGroupInfoSignature => GroupInfoFault::Signature.into(),
        CreationFromExternalError::UnsupportedMlsVersion => GroupInfoFault::Malformed.into(),
        CreationFromExternalError::UnsupportedCiphersuite(_) => GroupInfoFault::CipherSuite.into(),
        CreationFromExternalError::LeafNodeValidation(LeafNodeValidationError::Lifetime(_)) => {
            GroupInfoFault::Lifetime.into()
        }
        CreationFromExternalError::TreeSyncError(_)
        | CreationFromExternalError::UnknownSender
        | CreationFromExternalError::TreeHashMismatch
        | CreationFromExternalError::LeafNodeValidation(_)
        | CreationFromExternalError::UnmergedLeafNotADescendant
        | CreationFromExternalError::IntermediateNodeMissingUnmergedLeaf
        | CreationFromExternalError::DuplicateEncryptionKey
        | CreationFromExternalError::DuplicateSignatureKey => GroupInfoFault::Tree.into(),
    }
}
