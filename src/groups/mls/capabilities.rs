//! Whether every leaf can do what the group requires (RFC 9420 §7.2, §11.1), after the requirements changed. The library
//! checks some of it, and the added leaves against the former requirements only.

use openmls::{
    group::PublicGroup,
    prelude::{Capabilities, CredentialType, ExtensionType, ProposalType},
};

use super::CommitFault;

/// Whether every leaf of the tree keeps what its group context now asks.
pub(super) fn check(public_group: &PublicGroup) -> Result<(), CommitFault> {
    let context = public_group.group_context();
    let mut extensions: Vec<_> =
        context.extensions().iter().map(openmls::prelude::Extension::extension_type).collect();
    let (mut proposals, mut credentials): (&[ProposalType], &[CredentialType]) = (&[], &[]);
    if let Some(required) = context.required_capabilities() {
        extensions.extend(required.extension_types());
        (proposals, credentials) = (required.proposal_types(), required.credential_types());
    }
    let can = |leaf: &Capabilities| {
        extensions.iter().all(|wanted| is_default_extension(*wanted) || leaf.extensions().contains(wanted))
            && proposals
                .iter()
                .all(|wanted| is_default_proposal(*wanted) || leaf.proposals().contains(wanted))
            && credentials.iter().all(|wanted| leaf.credentials().contains(wanted))
    };
    let all = public_group.treesync().full_leaves().all(|(_, leaf)| can(leaf.capabilities()));
    if all { Ok(()) } else { Err(CommitFault::Capabilities) }
}

/// What every client can, without saying so (RFC 9420 §7.2).
const fn is_default_extension(extension: ExtensionType) -> bool {
    match extension {
        ExtensionType::ApplicationId
        | ExtensionType::RatchetTree
        | ExtensionType::RequiredCapabilities
        | ExtensionType::ExternalPub
        | ExtensionType::ExternalSenders => true,
        ExtensionType::LastResort | ExtensionType::Grease(_) | ExtensionType::Unknown(_) => false,
    }
}

const fn is_default_proposal(proposal: ProposalType) -> bool {
    match proposal {
        ProposalType::Add
        | ProposalType::Update
        | ProposalType::Remove
        | ProposalType::PreSharedKey
        | ProposalType::Reinit
        | ProposalType::ExternalInit
        | ProposalType::GroupContextExtensions => true,
        ProposalType::SelfRemove | ProposalType::Grease(_) | ProposalType::Custom(_) => false,
    }
}
