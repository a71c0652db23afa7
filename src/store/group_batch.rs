//! What becomes of a batch of messages for groups, given what the store holds under the locks of those groups.
//!
//! Pure, and the same for both engines: an engine locks, reads a [`Snapshot`], asks here, and writes the [`Writes`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::GroupAccepted;
use crate::domain::{
    DeviceNo, EntryKind, Epoch, GroupId, GroupReceipt, GroupSend, LogEntry, MessageId, Position, Timestamp,
    UserId,
};

/// A group whose row is locked.
#[derive(Debug, Clone, Copy)]
pub(super) struct LockedGroup {
    /// Whether it is a roster group, whose messages name no epoch.
    pub is_roster: bool,
    pub epoch: Epoch,
    /// The lowest epoch from which messages are taken.
    pub oldest_epoch: Epoch,
    /// The last position given.
    pub head: Position,
    pub rolled_back: bool,
}

/// A message id that is taken.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub sender: DeviceNo,
    pub digest: [u8; 32],
    /// What its sender was told, if it is the id of an application entry; none for any other entry or item, which no
    /// message for a group is like.
    pub receipt: Option<GroupReceipt>,
}

/// What the store holds, read after the locks were taken and so with a fresh snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The groups of the batch that exist.
    pub groups: HashMap<GroupId, LockedGroup>,
    /// Which of the batch's message ids are taken, in a log or in a mailbox.
    pub known: HashMap<MessageId, Known>,
    /// Which of the batch's devices have a window of the group that has not ended.
    pub writers: HashSet<(GroupId, DeviceNo)>,
    /// Which of the batch's senders are invited and no members yet.
    pub invited: HashSet<(GroupId, UserId)>,
}

/// A row of a group's log to insert, of kind [`EntryKind::Application`].
#[derive(Debug)]
pub(super) struct NewEntry<'a> {
    pub send: &'a GroupSend,
    pub receipt: GroupReceipt,
}

/// What to write for the batch.
#[derive(Debug, Default)]
pub(super) struct Writes<'a> {
    pub entries: Vec<NewEntry<'a>>,
    /// The groups that changed and their heads, ascending.
    pub heads: Vec<(GroupId, Position)>,
    /// Invited users who are members now.
    pub joined: Vec<(GroupId, UserId)>,
}

/// The decision about a batch.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    /// One for each send, in order.
    pub outcomes: Vec<GroupAccepted>,
    pub writes: Writes<'a>,
    /// What to hand to hot delivery once committed.
    pub entries: Vec<Arc<LogEntry>>,
}

/// Decides about a batch, send by send in order of arrival.
pub(super) fn decide<'a>(
    batch: impl IntoIterator<Item = &'a GroupSend>,
    mut snapshot: Snapshot,
    now: Timestamp,
) -> Verdict<'a> {
    let mut verdict = Verdict { outcomes: Vec::new(), writes: Writes::default(), entries: Vec::new() };
    let mut heads = BTreeMap::new();
    for send in batch {
        let outcome = match epoch_of(send, &snapshot) {
            Err(refused) => refused,
            Ok(epoch) => GroupAccepted::Stored(place(send, epoch, &mut snapshot, &mut verdict, now)),
        };
        if let GroupAccepted::Stored(receipt) = outcome {
            heads.insert(receipt.group_id, receipt.position);
        }
        verdict.outcomes.push(outcome);
    }
    verdict.writes.heads = heads.into_iter().collect();
    verdict
}

/// The epoch that the entry carries, or why the send is refused.
fn epoch_of(send: &GroupSend, snapshot: &Snapshot) -> Result<Epoch, GroupAccepted> {
    let known = snapshot.known.get(&send.message_id);
    if let Some(Known { sender, digest, receipt: Some(receipt) }) = known
        && *sender == send.sender.device_no
        && *digest == send.digest
    {
        return Err(GroupAccepted::Repeated(*receipt));
    }
    let Some(group) = snapshot.groups.get(&send.group_id) else { return Err(GroupAccepted::NotMember) };
    if !snapshot.writers.contains(&(send.group_id, send.sender.device_no)) {
        return Err(GroupAccepted::NotMember);
    }
    if known.is_some() {
        return Err(GroupAccepted::MessageIdReused);
    }
    if send.epoch.is_none() != group.is_roster {
        return Err(GroupAccepted::WrongKind);
    }
    if group.rolled_back {
        return Err(GroupAccepted::RolledBack);
    }
    let epoch = send.epoch.unwrap_or(group.epoch);
    let is_taken = group.is_roster || (group.oldest_epoch..=group.epoch).contains(&epoch);
    if is_taken { Ok(epoch) } else { Err(GroupAccepted::Stale(group.epoch)) }
}

/// Gives the send its position, and remembers it for the rest of the batch.
fn place<'a>(
    send: &'a GroupSend,
    epoch: Epoch,
    snapshot: &mut Snapshot,
    verdict: &mut Verdict<'a>,
    now: Timestamp,
) -> GroupReceipt {
    let (group_id, message_id) = (send.group_id, send.message_id);
    let position = snapshot.groups.get_mut(&group_id).map_or(Position::START, |group| {
        group.head = group.head.next();
        group.head
    });
    let receipt = GroupReceipt { message_id, group_id, position, epoch, accepted_at: now };
    let (sender, digest) = (send.sender.device_no, send.digest);
    snapshot.known.insert(message_id, Known { sender, digest, receipt: Some(receipt) });
    let member = (group_id, send.sender.user_id);
    if snapshot.invited.remove(&member) {
        verdict.writes.joined.push(member);
    }
    verdict.entries.push(Arc::new(entry(send, receipt)));
    verdict.writes.entries.push(NewEntry { send, receipt });
    receipt
}

/// The entry as every reader sees it.
fn entry(send: &GroupSend, receipt: GroupReceipt) -> LogEntry {
    LogEntry {
        group_id: receipt.group_id,
        position: receipt.position,
        kind: EntryKind::Application,
        message_id: receipt.message_id,
        sender_id: send.sender.user_id,
        sender_device_id: send.sender.device_id.clone(),
        message_type: Some(send.message_type),
        epoch: receipt.epoch,
        body: Some(send.body.clone()),
        accepted_at: receipt.accepted_at,
        expires_at: send.expires_at,
        closes: Arc::default(),
    }
}

#[cfg(test)]
mod tests;
