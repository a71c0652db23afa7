//! What a store holds, in plain collections.

use std::collections::{BTreeMap, HashMap};

use restante::{
    domain::{Caller, DeviceNo, METADATA_LIFE, Position, Receipt, Send, Timestamp, UserId},
    store::{Accepted, Deleted, Limits},
};

use crate::support::engine::tight;

#[derive(Default)]
struct Mailbox {
    head: i64,
    items: BTreeMap<i64, (UserId, Timestamp)>,
}

pub(super) struct Sent {
    pub(super) send: Send,
    receipt: Receipt,
    places: Vec<(DeviceNo, i64)>,
    is_deleted: bool,
}

struct Notice {
    /// Whose list of devices it tells; none for the notice of a deletion.
    list_of: Option<UserId>,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    places: Vec<(DeviceNo, i64)>,
}

pub(super) struct Model {
    limits: Limits,
    /// The active devices, oldest first.
    pub(super) devices: Vec<Caller>,
    mailboxes: HashMap<DeviceNo, Mailbox>,
    pub(super) sends: Vec<Sent>,
    notices: Vec<Notice>,
}

impl Model {
    pub(super) fn of(devices: Vec<Caller>) -> Self {
        Self { limits: tight(), devices, mailboxes: HashMap::new(), sends: Vec::new(), notices: Vec::new() }
    }

    fn put(&mut self, device: DeviceNo, sender: UserId, expires_at: Timestamp) -> (DeviceNo, i64) {
        let mailbox = self.mailboxes.entry(device).or_default();
        mailbox.head += 1;
        mailbox.items.insert(mailbox.head, (sender, expires_at));
        (device, mailbox.head)
    }

    pub(super) fn erase(&mut self, places: &[(DeviceNo, i64)]) -> usize {
        let gone = |(device, position): &&(DeviceNo, i64)| {
            self.mailboxes.entry(*device).or_default().items.remove(position).is_some()
        };
        places.iter().filter(gone).count()
    }

    fn is_full(&self, device: DeviceNo, sender: UserId) -> bool {
        let Some(mailbox) = self.mailboxes.get(&device) else { return false };
        let of_sender = mailbox.items.values().filter(|(from, _)| *from == sender).count();
        mailbox.items.len() >= self.limits.mailbox_items as usize
            || of_sender >= self.limits.mailbox_items_per_sender as usize
    }

    fn has_room(&self, device: DeviceNo) -> bool {
        let items = self.mailboxes.get(&device).map_or(0, |mailbox| mailbox.items.len());
        items < self.limits.mailbox_items as usize
    }

    /// Says what a new or repeated send must be answered with, and notes what it does.
    pub(super) fn send(&mut self, send: &Send, answer: &Accepted) {
        if let Some(known) = self.sends.iter().find(|known| known.send.message_id == send.message_id) {
            let same = known.send.digest == send.digest;
            let expected = if same { Accepted::Repeated(known.receipt) } else { Accepted::MessageIdReused };
            assert_eq!(*answer, expected);
            return;
        }
        let sender = &send.sender;
        let addressed: Vec<_> = (self.devices.iter())
            .filter(|device| device.user_id == send.recipient_id && device.device_no != sender.device_no)
            .map(|device| device.device_no)
            .collect();
        if addressed.iter().any(|&device| self.is_full(device, sender.user_id)) {
            assert_eq!(*answer, Accepted::MailboxFull);
            return;
        }
        let Accepted::Stored(receipt) = answer else { panic!("not stored: {answer:?}") };
        let in_conversation =
            self.sends.iter().filter(|sent| sent.receipt.conversation_id == receipt.conversation_id);
        assert!(
            in_conversation
                .max_by_key(|sent| sent.receipt.sequence)
                .is_none_or(|last| last.receipt.sequence < receipt.sequence)
        );
        let places =
            addressed.into_iter().map(|device| self.put(device, sender.user_id, send.expires_at)).collect();
        self.sends.push(Sent { send: send.clone(), receipt: *receipt, places, is_deleted: false });
    }

    pub(super) fn delete_for_me(&mut self, index: usize, user: UserId) -> bool {
        let sent = &self.sends[index];
        if sent.send.recipient_id == user {
            let places = sent.places.clone();
            self.erase(&places);
            return true;
        }
        sent.send.sender.user_id == user
    }

    pub(super) fn delete_for_everyone(&mut self, index: usize, user: UserId, now: Timestamp) -> Deleted {
        let sent = &mut self.sends[index];
        let sender = sent.send.sender.user_id;
        if sender != user {
            return if sent.send.recipient_id == user { Deleted::NotSender } else { Deleted::Unknown };
        }
        let places = sent.places.clone();
        if !std::mem::replace(&mut sent.is_deleted, true) {
            let mut told = Vec::new();
            for place in &places {
                let is_active = self.devices.iter().any(|device| device.device_no == place.0);
                if is_active && (self.erase(&[*place]) > 0 || self.has_room(place.0)) {
                    told.push(place.0);
                }
            }
            let expires_at = now.plus(self.limits.notice_life);
            let places: Vec<_> =
                told.into_iter().map(|device| self.put(device, sender, expires_at)).collect();
            self.notices.push(Notice { list_of: None, accepted_at: now, expires_at, places });
        }
        Deleted::Deleted(places.into_iter().map(|(device, position)| (device, Position(position))).collect())
    }

    /// The user's devices but the newcomer find a notice, in place of an older one and in a full mailbox too.
    pub(super) fn tell_of_devices(&mut self, user: UserId, newcomer: Option<DeviceNo>, now: Timestamp) {
        let told: Vec<_> = (self.devices.iter())
            .filter(|device| device.user_id == user && Some(device.device_no) != newcomer)
            .map(|device| device.device_no)
            .collect();
        let older = self.notices.iter().filter(|notice| notice.list_of == Some(user));
        let older: Vec<_> = older.flat_map(|notice| notice.places.clone()).collect();
        self.erase(&older);
        let expires_at = now.plus(self.limits.notice_life);
        let places = told.into_iter().map(|device| self.put(device, user, expires_at)).collect();
        self.notices.push(Notice { list_of: Some(user), accepted_at: now, expires_at, places });
    }

    pub(super) fn end(&mut self, device: &Caller, now: Timestamp) {
        self.devices.retain(|active| active.device_no != device.device_no);
        self.mailboxes.remove(&device.device_no);
        self.tell_of_devices(device.user_id, None, now);
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        let is_over =
            |accepted_at: Timestamp, expires_at| accepted_at.plus(METADATA_LIFE).min(expires_at) <= now;
        let mut over = Vec::new();
        for sent in &self.sends {
            if is_over(sent.receipt.accepted_at, sent.send.expires_at) {
                over.extend_from_slice(&sent.places);
            }
        }
        for notice in &self.notices {
            if is_over(notice.accepted_at, notice.expires_at) {
                over.extend_from_slice(&notice.places);
            }
        }
        self.erase(&over);
        self.sends.retain(|sent| sent.receipt.accepted_at.plus(METADATA_LIFE) > now);
    }

    pub(super) fn left(&self, device: DeviceNo, now: Timestamp) -> (Vec<i64>, i64) {
        let Some(mailbox) = self.mailboxes.get(&device) else { return (Vec::new(), 0) };
        let waiting = mailbox.items.iter().filter(|(_, (_, expires_at))| *expires_at > now);
        (waiting.map(|(position, _)| *position).collect(), mailbox.head)
    }
}
