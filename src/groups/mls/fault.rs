//! What the library found wrong, in the relay's own words. Every variant is named, so that a new one stops the build.

use openmls::{
    group::{
        ExternalCommitValidationError, GroupContextExtensionsProposalValidationError,
        ProposalValidationError, PublicProcessMessageError, StageCommitError, ValidationError,
    },
    key_packages::errors::KeyPackageVerifyError,
    treesync::errors::{ApplyUpdatePathError, LeafNodeValidationError, UpdatePathError},
};

use super::{CommitFault, ProposalFault, Refusal, StateFault};
use crate::domain::Epoch;

/// What to answer for a commit or proposal that the library did not accept in a group of this epoch.
pub(super) fn of_message(error: &PublicProcessMessageError, current: Epoch) -> Refusal {
    match error {
        PublicProcessMessageError::LibraryError(_) => StateFault::Library.into(),
        PublicProcessMessageError::IncompatibleWireFormat => CommitFault::Framing.into(),
        PublicProcessMessageError::ValidationError(error) => of_validation(error, current),
        PublicProcessMessageError::InvalidCommit(error) => of_staging(error),
        PublicProcessMessageError::UnauthorizedExternalApplicationMessage
        | PublicProcessMessageError::UnauthorizedExternalCommitMessage
        | PublicProcessMessageError::UnsupportedProposalType => ProposalFault::Type.into(),
    }
}

fn of_validation(error: &ValidationError, current: Epoch) -> Refusal {
    match error {
        ValidationError::LibraryError(_) => StateFault::Library.into(),
        ValidationError::WrongGroupId => CommitFault::WrongGroup.into(),
        ValidationError::WrongEpoch => Refusal::StaleEpoch(current),
        ValidationError::UnknownMember
        | ValidationError::InvalidSignature
        | ValidationError::UnauthorizedExternalSender
        | ValidationError::NoExternalSendersExtension => Refusal::NotYou,
        ValidationError::NoPath => CommitFault::NoPath.into(),
        ValidationError::KeyPackageVerifyError(error) => of_package(error),
        ValidationError::UpdatePathError(error) => of_path_leaf(error),
        ValidationError::ExternalCommitValidation(error) => of_external(error),
        ValidationError::NotACommit
        | ValidationError::NotAnExternalAddProposal
        | ValidationError::UnencryptedApplicationMessage
        | ValidationError::MissingMembershipTag
        | ValidationError::InvalidMembershipTag
        | ValidationError::MissingConfirmationTag
        | ValidationError::WrongWireFormat
        | ValidationError::NonMemberApplicationMessage
        | ValidationError::UnableToDecrypt(_)
        | ValidationError::NoPastEpochData => CommitFault::Framing.into(),
        ValidationError::InvalidLeafNodeSignature
        | ValidationError::InvalidLeafNodeSourceType
        | ValidationError::InvalidSenderType
        | ValidationError::InvalidAddProposalCiphersuite
        | ValidationError::InvalidExtension(_) => CommitFault::Rules.into(),
        ValidationError::CommitterIncludedOwnUpdate => CommitFault::LeafTwice.into(),
    }
}

const fn of_package(error: &KeyPackageVerifyError) -> Refusal {
    Refusal::InvalidCommit(match error {
        KeyPackageVerifyError::LibraryError(_) => return Refusal::Unavailable(StateFault::Library),
        KeyPackageVerifyError::LifetimeError(_) | KeyPackageVerifyError::MissingLifetime => {
            CommitFault::Lifetime
        }
        KeyPackageVerifyError::UnsupportedExtension => CommitFault::Capabilities,
        KeyPackageVerifyError::InvalidSignature
        | KeyPackageVerifyError::InvalidLeafNodeSignature
        | KeyPackageVerifyError::InvalidLeafNodeSourceType
        | KeyPackageVerifyError::InitKeyEqualsEncryptionKey
        | KeyPackageVerifyError::InvalidProtocolVersion
        | KeyPackageVerifyError::ExtensionTypeNotValidInKeyPackage(_) => CommitFault::Rules,
    })
}

const fn of_path_leaf(error: &UpdatePathError) -> Refusal {
    Refusal::InvalidCommit(match error {
        UpdatePathError::InvalidType | UpdatePathError::SignatureError(_) => CommitFault::Path,
    })
}

fn of_external(error: &ExternalCommitValidationError) -> Refusal {
    match error {
        ExternalCommitValidationError::LibraryError(_) => StateFault::Library.into(),
        ExternalCommitValidationError::NoPath => CommitFault::NoPath.into(),
        ExternalCommitValidationError::UnsupportedGroupContextExtensions => CommitFault::Capabilities.into(),
        ExternalCommitValidationError::NoExternalInitProposals
        | ExternalCommitValidationError::MultipleExternalInitProposals
        | ExternalCommitValidationError::InvalidInlineProposals
        | ExternalCommitValidationError::MultipleRemoveProposals
        | ExternalCommitValidationError::InvalidRemoveProposal
        | ExternalCommitValidationError::ReferencedProposal => ProposalFault::External.into(),
    }
}

fn of_staging(error: &StageCommitError) -> Refusal {
    match error {
        StageCommitError::LibraryError(_)
        | StageCommitError::OwnCommitMismatch
        | StageCommitError::OwnKeyNotFound
        | StageCommitError::MissingDecryptionKey => StateFault::Library.into(),
        StageCommitError::AttemptedSelfRemoval => CommitFault::LeafTwice.into(),
        StageCommitError::MissingProposal => CommitFault::UnknownProposal.into(),
        StageCommitError::RequiredPathNotFound => CommitFault::NoPath.into(),
        StageCommitError::TooManyNewMembers => Refusal::GroupFull,
        StageCommitError::EpochMismatch
        | StageCommitError::WrongPlaintextContentType
        | StageCommitError::ConfirmationTagMissing
        | StageCommitError::ConfirmationTagMismatch
        | StageCommitError::SenderTypeExternal
        | StageCommitError::SenderTypeNewMemberProposal => CommitFault::Framing.into(),
        StageCommitError::PathLeafNodeVerificationFailure | StageCommitError::InconsistentSenderIndex => {
            CommitFault::Path.into()
        }
        StageCommitError::PskError(_) | StageCommitError::DuplicatePskId(_) => CommitFault::Rules.into(),
        StageCommitError::ProposalValidationError(error) => of_proposal(error),
        StageCommitError::ExternalCommitValidation(error) => of_external(error),
        StageCommitError::UpdatePathError(error) => of_path(error),
        StageCommitError::VerifiedUpdatePathError(error) => of_path_leaf(error),
        StageCommitError::GroupContextExtensionsProposalValidationError(error) => of_extensions(error),
        StageCommitError::LeafNodeValidation(error) => of_leaf(error),
    }
}

fn of_proposal(error: &ProposalValidationError) -> Refusal {
    match error {
        ProposalValidationError::LibraryError(_) => StateFault::Library.into(),
        ProposalValidationError::DuplicateSignatureKey => CommitFault::SecondLeaf.into(),
        ProposalValidationError::DuplicateMemberRemoval
        | ProposalValidationError::CommitterIncludedOwnUpdate => CommitFault::LeafTwice.into(),
        ProposalValidationError::UnknownMemberRemoval => ProposalFault::NoSuchLeaf.into(),
        ProposalValidationError::InsufficientCapabilities
        | ProposalValidationError::UnsupportedProposalType => CommitFault::Capabilities.into(),
        ProposalValidationError::LeafNodeValidation(error) => of_leaf(error),
        ProposalValidationError::ExternalInitProposalInRegularCommit => ProposalFault::ExternalInit.into(),
        ProposalValidationError::UnknownMember
        | ProposalValidationError::DuplicateEncryptionKey
        | ProposalValidationError::DuplicateInitKey
        | ProposalValidationError::InitEncryptionKeyCollision
        | ProposalValidationError::UpdateFromNonMember
        | ProposalValidationError::InvalidAddProposalCiphersuiteOrVersion
        | ProposalValidationError::Psk(_) => CommitFault::Rules.into(),
    }
}

fn of_path(error: &ApplyUpdatePathError) -> Refusal {
    match error {
        ApplyUpdatePathError::LibraryError(_) => StateFault::Library.into(),
        ApplyUpdatePathError::TreeFull => Refusal::GroupFull,
        ApplyUpdatePathError::PathLengthMismatch
        | ApplyUpdatePathError::PathMismatch
        | ApplyUpdatePathError::ParentHashMismatch
        | ApplyUpdatePathError::MissingParentHash
        | ApplyUpdatePathError::UnableToDecrypt
        | ApplyUpdatePathError::MissingSender
        | ApplyUpdatePathError::InconsistentSenderIndex
        | ApplyUpdatePathError::MissingOwnLeaf
        | ApplyUpdatePathError::MissingCiphertext => CommitFault::Path.into(),
    }
}

fn of_extensions(error: &GroupContextExtensionsProposalValidationError) -> Refusal {
    match error {
        GroupContextExtensionsProposalValidationError::LibraryError(_) => StateFault::Library.into(),
        GroupContextExtensionsProposalValidationError::TooManyGCEProposals => CommitFault::Rules.into(),
        GroupContextExtensionsProposalValidationError::InvalidExtensionTypeError { .. } => {
            ProposalFault::Extension.into()
        }
        GroupContextExtensionsProposalValidationError::ExtensionNotSupportedByAllMembers
        | GroupContextExtensionsProposalValidationError::ChangedImmutableMetadata
        | GroupContextExtensionsProposalValidationError::RequiredExtensionNotSupportedByAllMembers
        | GroupContextExtensionsProposalValidationError::ExtensionNotInRequiredCapabilities => {
            CommitFault::Capabilities.into()
        }
    }
}

const fn of_leaf(error: &LeafNodeValidationError) -> Refusal {
    Refusal::InvalidCommit(match error {
        LeafNodeValidationError::Lifetime(_) => CommitFault::Lifetime,
        LeafNodeValidationError::UnsupportedExtensions
        | LeafNodeValidationError::UnsupportedProposals
        | LeafNodeValidationError::UnsupportedCredentials
        | LeafNodeValidationError::CredentialNotInCapabilities
        | LeafNodeValidationError::ExtensionsNotInCapabilities
        | LeafNodeValidationError::CiphersuiteNotInCapabilities
        | LeafNodeValidationError::LeafNodeCredentialNotSupportedByMember
        | LeafNodeValidationError::MemberCredentialNotSupportedByLeafNode => CommitFault::Capabilities,
        LeafNodeValidationError::SignatureKeyAlreadyInUse => CommitFault::SecondLeaf,
        LeafNodeValidationError::EncryptionKeyAlreadyInUse
        | LeafNodeValidationError::InvalidLeafNodeSource => CommitFault::Rules,
    })
}
