//! The public state of a group as it is stored: a format number, then tree, group context, interim transcript hash and
//! confirmation tag, each as a vector (RFC 9420 §2.1.2) of postcard.
//!
//! Postcard does not describe itself: when the library changes what it serialises, the number must change. A test holds a
//! stored state against this build.

use bytes::Bytes;
use openmls::{group::PublicGroup, prelude::GroupId as MlsGroupId};
use tls_codec::Serialize as _;

use super::{
    GroupAt, StateFault,
    memory::{Memory, Part},
    provider,
    reader::{Reader, write_vector},
};

/// The format that this build writes and reads.
const FORMAT: u8 = 1;

/// Writes what the library left in memory.
pub(super) fn encode(memory: Memory) -> Result<Bytes, StateFault> {
    let parts = [memory.tree, memory.context, memory.interim_transcript_hash, memory.confirmation_tag]
        .map(Part::into_bytes);
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum::<usize>() + 1);
    bytes.push(FORMAT);
    for part in parts {
        write_vector(&part, &mut bytes).ok_or(StateFault::Codec)?;
    }
    Ok(bytes.into())
}

fn decode(state: &[u8]) -> Result<Memory, StateFault> {
    let (format, parts) = state.split_first().ok_or(StateFault::Codec)?;
    if *format != FORMAT {
        return Err(StateFault::Format);
    }
    let mut reader = Reader::new(parts);
    let mut part = || reader.vector().map(Part::new).map_err(|_| StateFault::Codec);
    let memory = Memory {
        tree: part()?,
        context: part()?,
        interim_transcript_hash: part()?,
        confirmation_tag: part()?,
    };
    reader.end().map_err(|_| StateFault::Codec)?;
    Ok(memory)
}

/// Loads a group, and makes sure that it is the one the store speaks of.
pub(super) fn load(state: &[u8], group: &GroupAt<'_>) -> Result<(PublicGroup, Memory), StateFault> {
    let memory = decode(state)?;
    let group_id = MlsGroupId::from_slice(group.group_id.uuid().as_bytes());
    let public_group = PublicGroup::load(&memory, &group_id)?.ok_or(StateFault::Codec)?;
    let is_the_one = public_group.group_id() == &group_id
        && public_group.group_context().epoch().as_u64() == group.epoch.wire()
        && public_group.ciphersuite() == provider::suite(group.cipher_suite);
    if is_the_one { Ok((public_group, memory)) } else { Err(StateFault::Other) }
}

/// The ratchet tree in the form of its extension (RFC 9420 §12.4.3.3).
pub(super) fn export_tree(group: &PublicGroup) -> Result<Bytes, StateFault> {
    let tree = group.export_ratchet_tree().tls_serialize_detached().map_err(|_| StateFault::Library)?;
    Ok(tree.into())
}
