//! Events as bytes, on channels and in offline queues alike.
//!
//! A frame is a version byte, the 16 bytes of the sending node, and a [`mirror::Frame`] or, about a group, a [`log::Frame`] in
//! `MessagePack`. The version
//! changes whenever an older node would misread the rest; nodes ignore frames of versions they do not know, since the
//! store has whatever matters.

mod log;
mod mirror;

use uuid::Uuid;

use crate::{
    domain::{DeviceNo, GroupId},
    hot::{Event, GroupEvent},
};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 16;

/// Which process sent a frame; made anew by every connected engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(Uuid);

impl NodeId {
    /// An id that no other node has.
    pub(super) fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id in 32 hexadecimal digits.
    pub(super) fn text(self) -> String {
        self.0.simple().to_string()
    }
}

/// Why bytes are not a frame of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// Shorter than a header.
    #[error("frame is cut short")]
    Short,
    /// Written by a newer or older relay.
    #[error("frame has an unknown version")]
    Version,
    /// Not the record that the version promises.
    #[error("frame is not readable")]
    Unreadable(#[from] rmp_serde::decode::Error),
    /// A field holds a value that the domain does not have.
    #[error("frame holds an impossible value")]
    Impossible,
}

/// Writes an event for a device.
pub(super) fn encode(
    from: NodeId,
    device: DeviceNo,
    event: &Event,
) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut bytes = header(from, weight(event));
    rmp_serde::encode::write(&mut bytes, &mirror::Frame::new(device, event))?;
    Ok(bytes)
}

/// Writes an event about a group's log.
pub(super) fn encode_group(
    from: NodeId,
    group: GroupId,
    event: &GroupEvent,
) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let weight = match event {
        GroupEvent::Entry(entry) => entry.weight() + 256,
        GroupEvent::Wake(_) => 64,
    };
    let mut bytes = header(from, weight);
    rmp_serde::encode::write(&mut bytes, &log::Frame::new(group, event))?;
    Ok(bytes)
}

fn header(from: NodeId, weight: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + weight);
    bytes.push(VERSION);
    bytes.extend_from_slice(from.0.as_bytes());
    bytes
}

/// Reads the sender of a frame, without its contents.
pub(super) fn sender(bytes: &[u8]) -> Result<NodeId, Malformed> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return Err(Malformed::Short) };
    let [version, node @ ..] = header;
    if *version != VERSION {
        return Err(Malformed::Version);
    }
    Ok(NodeId(Uuid::from_bytes(*node)))
}

/// Reads the device and the event of a frame. Never panics, whatever the bytes.
pub(super) fn decode(bytes: &[u8]) -> Result<(DeviceNo, Event), Malformed> {
    sender(bytes)?;
    let record = bytes.get(HEADER..).ok_or(Malformed::Short)?;
    rmp_serde::from_slice::<mirror::Frame>(record)?.open().ok_or(Malformed::Impossible)
}

/// Reads the group and the event of a frame. Never panics, whatever the bytes.
pub(super) fn decode_group(bytes: &[u8]) -> Result<(GroupId, GroupEvent), Malformed> {
    sender(bytes)?;
    let record = bytes.get(HEADER..).ok_or(Malformed::Short)?;
    rmp_serde::from_slice::<log::Frame>(record)?.open().ok_or(Malformed::Impossible)
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Item(_, item) | Event::Fleeting(item) => item.weight() + 256,
        Event::Wake(_)
        | Event::Receipt(_)
        | Event::KeysLow(_)
        | Event::Replaced(_)
        | Event::Deactivated
        | Event::LoggedOut(_) => 128,
    }
}

#[cfg(test)]
mod tests;
