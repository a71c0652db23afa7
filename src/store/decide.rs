//! What becomes of a batch of sends, given what the store holds under the locks of every mailbox concerned.
//!
//! Pure, and the same for both engines: an engine locks, reads a [`Snapshot`], asks here, and writes the [`Writes`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Accepted, Limits};
use crate::domain::{
    Addressee, Conversation, ConversationId, Delivery, DeviceId, DeviceNo, DeviceNumber, Envelope, Item,
    METADATA_LIFE, Message, MessageId, Position, Receipt, RegistrationId, Send, Sequence, Status, Timestamp,
    UserId, address,
};

/// An active mailbox whose row is locked.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    pub device_no: DeviceNo,
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub device_number: DeviceNumber,
    pub registration_id: RegistrationId,
    /// The last position given.
    pub head: Position,
    /// The highest sequence of a message in it.
    pub sequence: Sequence,
    /// While the head is at most here, no limit of this mailbox can be reached and nothing needs counting.
    pub spare: Position,
}

impl Addressee for Mailbox {
    fn device_id(&self) -> &DeviceId {
        &self.device_id
    }

    fn device_number(&self) -> DeviceNumber {
        self.device_number
    }

    fn registration_id(&self) -> RegistrationId {
        self.registration_id
    }
}

/// A message id that is taken.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub sender: DeviceNo,
    pub digest: [u8; 32],
    pub receipt: Receipt,
}

/// What the store holds, read after the locks were taken and so with a fresh snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Every active mailbox of every recipient in the batch, oldest device first for each user.
    pub mailboxes: HashMap<UserId, Vec<Mailbox>>,
    /// Which of the batch's message ids are taken.
    pub known: HashMap<MessageId, Known>,
    /// The two participants of each named conversation that exists, in any order.
    pub conversations: HashMap<ConversationId, (UserId, UserId)>,
    /// The highest sequence in the senders' own mailboxes; others may stand here too.
    pub sender_sequences: HashMap<UserId, Sequence>,
    /// For each mailbox whose head has passed `spare`: how many items of each sending user lie in it.
    pub counts: HashMap<DeviceNo, HashMap<UserId, u32>>,
}

/// A message row to insert.
#[derive(Debug)]
pub(super) struct NewMessage<'a> {
    pub send: &'a Send,
    pub receipt: Receipt,
    /// When this row needs attention next: the body's expiry, or the end of the metadata's life if that is earlier.
    pub due_at: Timestamp,
    pub places: Vec<(DeviceNo, Position)>,
}

/// A mailbox row to insert.
#[derive(Debug)]
pub(super) struct NewItem<'a> {
    pub device_no: DeviceNo,
    pub position: Position,
    pub send: &'a Send,
    pub envelope: &'a Envelope,
}

/// What to write for the batch.
#[derive(Debug, Default)]
pub(super) struct Writes<'a> {
    pub messages: Vec<NewMessage<'a>>,
    pub items: Vec<NewItem<'a>>,
    /// The mailboxes that changed, as they are to be.
    pub mailboxes: Vec<Mailbox>,
}

/// The decision about a batch.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    /// One for each send, in order.
    pub outcomes: Vec<Accepted>,
    pub writes: Writes<'a>,
    /// What to hand to hot delivery once committed.
    pub deliveries: Vec<Delivery>,
}

/// The mailboxes that must be counted before a decision, because this batch may pass their `spare`.
pub(super) fn to_count(batch: &[Send], mailboxes: &HashMap<UserId, Vec<Mailbox>>) -> Vec<DeviceNo> {
    let mut arrivals: HashMap<UserId, i64> = HashMap::new();
    for send in batch {
        *arrivals.entry(send.recipient_id).or_default() += 1;
    }
    let near = |mailbox: &&Mailbox| {
        mailbox.head.0 + arrivals.get(&mailbox.user_id).copied().unwrap_or(0) > mailbox.spare.0
    };
    mailboxes.values().flatten().filter(near).map(|mailbox| mailbox.device_no).collect()
}

/// Decides about a batch, send by send in order of arrival.
pub(super) fn decide(batch: &[Send], mut snapshot: Snapshot, now: Timestamp, limits: Limits) -> Verdict<'_> {
    let mut verdict = Verdict { outcomes: Vec::new(), writes: Writes::default(), deliveries: Vec::new() };
    let mut changed: BTreeSet<DeviceNo> = BTreeSet::new();
    refresh_spare(&mut snapshot, limits, &mut changed);
    for send in batch {
        let outcome = match refusal(send, &snapshot, limits) {
            Err(refused) => refused,
            Ok(addressed) => {
                Accepted::Stored(place(send, addressed, &mut snapshot, &mut changed, &mut verdict, now))
            }
        };
        verdict.outcomes.push(outcome);
    }
    let mailboxes = snapshot.mailboxes.into_values().flatten();
    verdict.writes.mailboxes = mailboxes.filter(|mailbox| changed.contains(&mailbox.device_no)).collect();
    verdict.writes.mailboxes.sort_by_key(|mailbox| mailbox.device_no);
    verdict
}

/// Where a counted mailbox is far from every limit, remembers until when it need not be counted again.
fn refresh_spare(snapshot: &mut Snapshot, limits: Limits, changed: &mut BTreeSet<DeviceNo>) {
    for mailbox in snapshot.mailboxes.values_mut().flatten() {
        let Some(counts) = snapshot.counts.get(&mailbox.device_no) else { continue };
        let total: u32 = counts.values().sum();
        let busiest = counts.values().copied().max().unwrap_or(0);
        let room = limits.mailbox_items.saturating_sub(total);
        let room = room.min(limits.mailbox_items_per_sender.saturating_sub(busiest));
        let spare = Position(mailbox.head.0 + i64::from(room));
        if spare != mailbox.spare {
            mailbox.spare = spare;
            changed.insert(mailbox.device_no);
        }
    }
}

/// Which device gets which envelope, by index into the recipient's mailboxes; or why the send is refused.
fn refusal<'a>(
    send: &'a Send,
    snapshot: &Snapshot,
    limits: Limits,
) -> Result<Vec<(usize, &'a Envelope)>, Accepted> {
    if let Some(known) = snapshot.known.get(&send.message_id) {
        let same = known.sender == send.sender.device_no && known.digest == send.digest;
        return Err(if same { Accepted::Repeated(known.receipt) } else { Accepted::MessageIdReused });
    }
    let to_self = send.recipient_id == send.sender.user_id;
    let mailboxes = snapshot.mailboxes.get(&send.recipient_id).map_or(&[][..], Vec::as_slice);
    if mailboxes.is_empty() {
        return Err(Accepted::NoDevices);
    }
    if let Conversation::Named(id) = send.conversation
        && let Some(&(one, other)) = snapshot.conversations.get(&id)
    {
        let (sender, recipient) = (send.sender.user_id, send.recipient_id);
        if (one, other) != (sender, recipient) && (other, one) != (sender, recipient) {
            return Err(Accepted::ConversationUnknown);
        }
    }
    let own = |mailbox: &Mailbox| to_self && mailbox.device_no == send.sender.device_no;
    let (indexes, addressees): (Vec<_>, Vec<_>) =
        mailboxes.iter().enumerate().filter(|(_, mailbox)| !own(mailbox)).unzip();
    let addressed = address(&send.bodies, &addressees).map_err(Accepted::DeviceListMismatch)?;
    let addressed: Vec<_> =
        addressed.into_iter().map(|(index, envelope)| (indexes[index], envelope)).collect();
    let full = |&&(index, _): &&(usize, _)| is_full(&mailboxes[index], send.sender.user_id, snapshot, limits);
    if addressed.iter().any(|entry| full(&entry)) {
        return Err(Accepted::MailboxFull);
    }
    Ok(addressed)
}

fn is_full(mailbox: &Mailbox, sender: UserId, snapshot: &Snapshot, limits: Limits) -> bool {
    let Some(counts) = snapshot.counts.get(&mailbox.device_no) else { return false };
    counts.values().sum::<u32>() >= limits.mailbox_items
        || counts.get(&sender).copied().unwrap_or(0) >= limits.mailbox_items_per_sender
}

/// Gives the send its sequence and its positions, and remembers it for the rest of the batch.
fn place<'a>(
    send: &'a Send,
    addressed: Vec<(usize, &'a Envelope)>,
    snapshot: &mut Snapshot,
    changed: &mut BTreeSet<DeviceNo>,
    verdict: &mut Verdict<'a>,
    now: Timestamp,
) -> Receipt {
    let receipt = Receipt {
        message_id: send.message_id,
        conversation_id: send.conversation.id(),
        sequence: next_sequence(send, snapshot, now),
        accepted_at: now,
    };
    let known = Known { sender: send.sender.device_no, digest: send.digest, receipt };
    snapshot.known.insert(send.message_id, known);
    if let Conversation::Named(id) = send.conversation {
        snapshot.conversations.insert(id, (send.sender.user_id, send.recipient_id));
    }
    let highest = snapshot.sender_sequences.entry(send.sender.user_id).or_insert(receipt.sequence);
    *highest = receipt.sequence.max(*highest);

    let mailboxes = snapshot.mailboxes.entry(send.recipient_id).or_default();
    for mailbox in mailboxes.iter_mut() {
        mailbox.sequence = receipt.sequence;
        changed.insert(mailbox.device_no);
    }
    let mut places = Vec::with_capacity(addressed.len());
    for (index, envelope) in addressed {
        let mailbox = &mut mailboxes[index];
        mailbox.head = mailbox.head.next();
        let (device_no, position) = (mailbox.device_no, mailbox.head);
        if let Some(counts) = snapshot.counts.get_mut(&device_no) {
            *counts.entry(send.sender.user_id).or_default() += 1;
        }
        places.push((device_no, position));
        verdict.writes.items.push(NewItem { device_no, position, send, envelope });
        verdict.deliveries.push(Delivery {
            device_no,
            position,
            item: Arc::new(item(send, receipt, envelope)),
        });
    }
    let due_at = send.expires_at.min(now.plus(METADATA_LIFE));
    verdict.writes.messages.push(NewMessage { send, receipt, due_at, places });
    receipt
}

/// Microseconds of acceptance, but more than any number of this conversation so far. Every earlier message of the
/// conversation lies in a mailbox of the recipient, which is locked, or of the sender, whose highest was read after the
/// lock; the last bit tells the direction, so that two messages that cross at the same moment differ.
fn next_sequence(send: &Send, snapshot: &Snapshot, now: Timestamp) -> Sequence {
    let received =
        snapshot.mailboxes.get(&send.recipient_id).into_iter().flatten().map(|mailbox| mailbox.sequence.0);
    let own = snapshot.sender_sequences.get(&send.sender.user_id).map(|sequence| sequence.0);
    let highest = received.chain(own).max().unwrap_or(0);
    let floor = (now.millis() * 1000).max((highest >> 1) + 1);
    Sequence((floor << 1) | i64::from(send.sender.user_id > send.recipient_id))
}

/// The message as its addressee sees it.
pub(super) fn item(send: &Send, receipt: Receipt, envelope: &Envelope) -> Item {
    Item::Message(Message {
        message_id: receipt.message_id,
        conversation_id: receipt.conversation_id,
        sender_id: send.sender.user_id,
        sender_device_id: send.sender.device_id.clone(),
        sender_device_number: send.sender.device_number,
        recipient_id: send.recipient_id,
        message_type: send.message_type,
        envelope: Some(envelope.clone()),
        sequence: Some(receipt.sequence),
        accepted_at: receipt.accepted_at,
        status: Status::Sent,
        delivered_at: None,
        read_at: None,
        self_destructing: send.self_destructing,
        expires_at: send.expires_at,
    })
}

#[cfg(test)]
mod tests;
