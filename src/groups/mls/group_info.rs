//! `GroupInfo` (RFC 9420 §12.4.3): what a committer, or a founder, signs of an epoch.

use openmls::{
    messages::group_info::VerifiableGroupInfo,
    prelude::{
        Extension, ExtensionType, Extensions, GroupContext, MlsMessageBodyIn, MlsMessageIn,
        OpenMlsSignaturePublicKey, SignaturePublicKey, Verifiable,
    },
};
use tls_codec::{Deserialize as _, Serialize as _};

use super::{
    GroupInfoFault, NotMls,
    provider::{self, Verifier},
    reader::Reader,
};
use crate::domain::{CipherSuite, Epoch, ExternalJoin, GroupId};

/// The private-use range of extension types (RFC 9420 §17.3), which applications define.
const PRIVATE_USE: std::ops::RangeInclusive<u16> = 0xf000..=0xffff;

/// Reads a `GroupInfo`. Here, as everywhere, by the codec's reader: its reading of slices panics over short ones where
/// assertions are on. Only the one encoding that the library itself would write is taken, so that what is kept is what was
/// verified.
pub(super) fn parse(message: &[u8]) -> Result<VerifiableGroupInfo, GroupInfoFault> {
    let parsed = MlsMessageIn::tls_deserialize_exact(message).map_err(|_| GroupInfoFault::Malformed)?;
    let written = parsed.tls_serialize_detached().map_err(|_| GroupInfoFault::Malformed)?;
    if written != message {
        return Err(GroupInfoFault::Malformed);
    }
    match parsed.extract() {
        MlsMessageBodyIn::GroupInfo(group_info) => Ok(group_info),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::KeyPackage(_) => Err(GroupInfoFault::Malformed),
    }
}

/// Whether it is of this group and epoch, and has `external_pub` where devices may join by external commits.
pub(super) fn check_place(
    group_info: &VerifiableGroupInfo,
    group_id: GroupId,
    epoch: Epoch,
    external_join: ExternalJoin,
) -> Result<(), GroupInfoFault> {
    if group_info.group_id().as_slice() != group_id.uuid().as_bytes() {
        return Err(GroupInfoFault::WrongGroup);
    }
    if group_info.epoch().as_u64() != epoch.wire() {
        return Err(GroupInfoFault::WrongEpoch);
    }
    if external_join != ExternalJoin::None && group_info.extensions().external_pub().is_none() {
        return Err(GroupInfoFault::NoExternalPub);
    }
    Ok(())
}

/// The confirmation tag of a `GroupInfo` that [`parse`] takes.
pub(super) fn confirmation_tag(message: &[u8]) -> Result<&[u8], NotMls> {
    let mut reader = Reader::new(message);
    let (_version, _wire_format) = (reader.u16()?, reader.u16()?);
    let (_version, _suite, _group_id) = (reader.u16()?, reader.u16()?, reader.vector()?);
    let (_epoch, _tree_hash, _transcript_hash) = (reader.u64()?, reader.vector()?, reader.vector()?);
    let (_of_context, _of_group_info) = (reader.vector()?, reader.vector()?);
    reader.vector()
}

/// Whether its signature verifies under a key of the suite's scheme.
pub(super) fn check_signature(
    group_info: &VerifiableGroupInfo,
    suite: CipherSuite,
    key: &[u8],
) -> Result<(), GroupInfoFault> {
    let scheme = provider::suite(suite).signature_algorithm();
    let key = OpenMlsSignaturePublicKey::from_signature_key(SignaturePublicKey::from(key), scheme);
    group_info.verify_no_out(&Verifier, &key).map_err(|_| GroupInfoFault::Signature)
}

/// Whether the tree that it carries, if it carries one, is this one. Joiners believe it no more than any other tree, but they
/// would not get in.
pub(super) fn check_tree(group_info: &VerifiableGroupInfo, tree: &[u8]) -> Result<(), GroupInfoFault> {
    let Some(carried) = group_info.extensions().ratchet_tree() else { return Ok(()) };
    let carried = carried.ratchet_tree().tls_serialize_detached().map_err(|_| GroupInfoFault::Tree)?;
    if carried == tree { Ok(()) } else { Err(GroupInfoFault::Tree) }
}

/// Whether only such extensions stand in a group context as every group may have. `external_senders` would let somebody
/// outside of the roster propose.
pub(super) fn only_allowed(extensions: &Extensions<GroupContext>) -> bool {
    extensions.iter().map(Extension::extension_type).all(|extension_type| match extension_type {
        ExtensionType::RequiredCapabilities => true,
        ExtensionType::Unknown(number) => PRIVATE_USE.contains(&number),
        ExtensionType::ApplicationId
        | ExtensionType::RatchetTree
        | ExtensionType::ExternalPub
        | ExtensionType::ExternalSenders
        | ExtensionType::LastResort
        | ExtensionType::Grease(_) => false,
    })
}
