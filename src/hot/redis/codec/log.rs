//! Entries of groups' logs as they stand in a frame. See [`super::mirror`].

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mirror::message_type;
use crate::{
    domain::{self, DeviceId, DeviceNo, EntryKind, Epoch, GroupId, MessageId, Position, Timestamp, UserId},
    hot,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Frame {
    group: Uuid,
    event: Event,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Entry(Box<Entry>),
    Wake(i64),
}

#[derive(Serialize, Deserialize)]
struct Entry {
    position: i64,
    kind: u8,
    message_id: Uuid,
    sender_id: Uuid,
    sender_device_id: String,
    hint: Option<u8>,
    epoch: i64,
    body: Option<Bytes>,
    accepted_at: i64,
    expires_at: Option<i64>,
    closes: Vec<i64>,
}

impl Frame {
    pub(super) fn new(group: GroupId, event: &hot::GroupEvent) -> Self {
        let event = match event {
            hot::GroupEvent::Entry(entry) => Event::Entry(Box::new(Entry::from(&**entry))),
            hot::GroupEvent::Wake(position) => Event::Wake(position.0),
        };
        Self { group: group.uuid(), event }
    }

    /// Back into the domain; none when a value is impossible there.
    pub(super) fn open(self) -> Option<(GroupId, hot::GroupEvent)> {
        let group = GroupId::new(self.group);
        let event = match self.event {
            Event::Entry(entry) => hot::GroupEvent::Entry(Arc::new(entry.open(group)?)),
            Event::Wake(position) => hot::GroupEvent::Wake(Position(position)),
        };
        Some((group, event))
    }
}

impl From<&domain::LogEntry> for Entry {
    fn from(entry: &domain::LogEntry) -> Self {
        Self {
            position: entry.position.0,
            kind: entry.kind as u8,
            message_id: entry.message_id.uuid(),
            sender_id: entry.sender_id.uuid(),
            sender_device_id: entry.sender_device_id.as_str().to_owned(),
            hint: entry.message_type.map(|hint| hint as u8),
            epoch: entry.epoch.0,
            body: entry.body.clone(),
            accepted_at: entry.accepted_at.millis(),
            expires_at: entry.expires_at.map(Timestamp::millis),
            closes: entry.closes.iter().map(|device| device.0).collect(),
        }
    }
}

impl Entry {
    /// The entry of a group. A position before the first is impossible, and so are devices out of order, among which one would
    /// be looked for in vain.
    fn open(self, group_id: GroupId) -> Option<domain::LogEntry> {
        if self.position < 1 || !self.closes.is_sorted() {
            return None;
        }
        let message_type = match self.hint {
            Some(hint) => Some(message_type(hint)?),
            None => None,
        };
        Some(domain::LogEntry {
            group_id,
            position: Position(self.position),
            kind: entry_kind(self.kind)?,
            message_id: MessageId::new(self.message_id),
            sender_id: UserId::new(self.sender_id),
            sender_device_id: DeviceId::parse(&self.sender_device_id).ok()?,
            message_type,
            epoch: Epoch(self.epoch),
            body: self.body,
            accepted_at: Timestamp::from_millis(self.accepted_at),
            expires_at: self.expires_at.map(Timestamp::from_millis),
            closes: self.closes.into_iter().map(DeviceNo).collect(),
        })
    }
}

const fn entry_kind(number: u8) -> Option<EntryKind> {
    Some(match number {
        0 => EntryKind::Application,
        1 => EntryKind::Commit,
        2 => EntryKind::Proposal,
        3 => EntryKind::Membership,
        4 => EntryKind::Reset,
        _ => return None,
    })
}
