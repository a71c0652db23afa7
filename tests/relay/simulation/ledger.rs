//! What the devices of a history sent, heard and were promised, and whether the relay kept to it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
};

use restante::domain::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::script::CAST;
use crate::support::{
    client::opaque_send,
    crypto::{b64, opaque},
};

/// A moment of a history, by the order of what was noted.
pub(super) type Moment = u64;

/// The sequence number that was last seen on a connection, by conversation.
pub(super) type Sequences = HashMap<String, i64>;

/// Where a send came in a burst over one socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct InBurst {
    pub(super) burst: Moment,
    pub(super) index: usize,
}

/// The devices to which a send is addressed: all of the recipient's but the one that sends.
pub(super) fn addressed(from: usize, to: usize) -> impl Iterator<Item = usize> {
    (0..CAST.len()).filter(move |&device| CAST[device].0 == to && device != from)
}

/// What the relay answers to a send, first and ever after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipt {
    conversation: String,
    pub(super) sequence: i64,
    timestamp: String,
}

impl Receipt {
    fn of(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Self {
            conversation: text("conversation_id"),
            sequence: answer["sequence_number"].as_i64().unwrap_or(-1),
            timestamp: text("timestamp"),
        }
    }
}

pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) body: Value,
    pub(super) began: Moment,
    pub(super) burst: Option<InBurst>,
    /// When it ends at the earliest, if it ends within the history, by the slowest clock.
    ends: Option<Timestamp>,
    /// It has ended by some clock.
    pub(super) may_be_gone: bool,
    pub(super) receipt: Option<Receipt>,
    pub(super) settled: Option<Moment>,
    /// It was answered over the socket it was sent on, the first time.
    pub(super) at_first_try: bool,
    /// Answers that said it was new.
    created: usize,
    /// Its sender has asked for its deletion.
    pub(super) deleting: bool,
    pub(super) deleted: Option<Moment>,
}

/// What one device has heard.
#[derive(Default)]
pub(super) struct Heard {
    /// Items in the order in which they came first.
    pub(super) firsts: Vec<Uuid>,
    known: HashSet<Uuid>,
    /// Messages whose deletion it was told.
    pub(super) told_deleted: HashSet<Uuid>,
    /// Items whose ack was confirmed.
    confirmed: HashSet<Uuid>,
}

#[derive(Default)]
pub(super) struct Book {
    now: Moment,
    pub(super) sent: BTreeMap<Uuid, Sent>,
    pub(super) heard: [Heard; CAST.len()],
    pub(super) violations: Vec<String>,
    pub(super) copies: usize,
}

/// The book of one history, kept by all its devices.
pub(super) struct Ledger {
    pub(super) users: Vec<Uuid>,
    book: Mutex<Book>,
}

impl Ledger {
    pub(super) fn of(users: Vec<Uuid>) -> Self {
        Self { users, book: Mutex::default() }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(super) fn violated(&self, what: String) {
        self.book().violations.push(what);
    }

    /// The next moment.
    pub(super) fn moment(&self) -> Moment {
        self.book().tick()
    }

    /// Notes a send before it is made; its id and its body.
    pub(super) fn begin(
        &self,
        from: usize,
        to: usize,
        life: Option<u64>,
        burst: Option<InBurst>,
        earliest: Timestamp,
    ) -> (Uuid, Value) {
        let id = Uuid::new_v4();
        let mut body = self.body(from, to, id);
        if let Some(seconds) = life {
            body["is_self_destructing"] = json!(true);
            body["expires_in_seconds"] = json!(seconds);
        }
        let mut book = self.book();
        let began = book.tick();
        let ends = life.map(|seconds| earliest.plus(std::time::Duration::from_secs(seconds)));
        let sent = Sent {
            from,
            to,
            body: body.clone(),
            began,
            burst,
            ends,
            may_be_gone: false,
            receipt: None,
            settled: None,
            at_first_try: false,
            created: 0,
            deleting: false,
            deleted: None,
        };
        book.sent.insert(id, sent);
        (id, body)
    }

    /// Every other send has one body for all devices, the rest one for each.
    fn body(&self, from: usize, to: usize, id: Uuid) -> Value {
        let mut body = opaque_send(self.users[to]);
        body["message_id"] = json!(id);
        if id.as_bytes()[0].is_multiple_of(2) || addressed(from, to).next().is_none() {
            return body;
        }
        let envelope = |device: usize| json!({ "device_id": CAST[device].1, "ciphertext": b64(opaque(64)) });
        let envelopes: Vec<_> = addressed(from, to).map(envelope).collect();
        body.as_object_mut().unwrap().remove("ciphertext");
        body["envelopes"] = json!(envelopes);
        body
    }

    /// What a device is to be given of a send.
    fn ciphertext(sent: &Sent, device: usize) -> Value {
        let Some(envelopes) = sent.body["envelopes"].as_array() else {
            return sent.body["ciphertext"].clone();
        };
        let own = envelopes.iter().find(|envelope| envelope["device_id"] == CAST[device].1);
        own.map_or(Value::Null, |own| own["ciphertext"].clone())
    }

    /// What was accepted for a device and lasts, and was not given to it yet.
    pub(super) fn missing(&self, device: usize) -> Vec<Uuid> {
        let book = self.book();
        let lasts = |sent: &Sent| sent.receipt.is_some() && !sent.may_be_gone && !sent.deleting;
        let is_missing = |(id, sent): &(&Uuid, &Sent)| {
            lasts(sent)
                && addressed(sent.from, sent.to).any(|addressed| addressed == device)
                && !book.heard[device].known.contains(id)
        };
        book.sent.iter().filter(is_missing).map(|(id, _)| *id).collect()
    }

    /// The clocks may now be this late.
    pub(super) fn clocks_are_at(&self, latest: Timestamp) {
        for sent in self.book().sent.values_mut() {
            sent.may_be_gone |= sent.ends.is_some_and(|ends| ends <= latest);
        }
    }

    /// A send was accepted, or is known to have been.
    pub(super) fn accepted(&self, id: Uuid, answer: &Value, created: bool, at_first_try: bool) {
        let mut book = self.book();
        let now = book.tick();
        let sent = book.sent.get_mut(&id).unwrap();
        let receipt = Receipt::of(answer);
        sent.created += usize::from(created);
        let (before, created) = (sent.receipt.clone(), sent.created);
        if sent.settled.is_none() {
            (sent.settled, sent.at_first_try) = (Some(now), at_first_try);
            sent.receipt = Some(receipt.clone());
        }
        if before.as_ref().is_some_and(|before| *before != receipt) {
            book.violations.push(format!("{id} was answered {before:?}, and its repeat {receipt:?}"));
        }
        if created > 1 {
            book.violations.push(format!("{id} was accepted as new twice"));
        }
    }

    /// A device has read an item, from a connection or page that was opened at `since`.
    pub(super) fn received(&self, device: usize, item: &Value, since: Moment, order: &mut Sequences) {
        let id: Uuid = serde_json::from_value(item["message_id"].clone()).unwrap();
        let mut book = self.book();
        book.copies += 1;
        let complaint = match item["deletes"].as_str() {
            Some(deleted) => book.told_of_deletion(device, deleted.parse().unwrap()),
            None if item.get("devices").is_some() => None,
            None => self.misdelivered(&book, device, id, item).or_else(|| out_of_order(item, order)),
        };
        book.violations.extend(complaint);
        if book.heard[device].confirmed.contains(&id) {
            let told = format!("{id} came to device {device} again after its ack was confirmed: {item}");
            book.violations.push(told);
        }
        if book.sent.get(&id).is_some_and(|sent| sent.deleted.is_some_and(|deleted| deleted < since)) {
            book.violations.push(format!("{id} came to device {device} after its deletion was confirmed"));
        }
        let heard = &mut book.heard[device];
        if heard.known.insert(id) {
            heard.firsts.push(id);
        }
    }

    fn misdelivered(&self, book: &Book, device: usize, id: Uuid, item: &Value) -> Option<String> {
        let Some(sent) = book.sent.get(&id) else {
            return Some(format!("device {device} was given what nobody sent: {item}"));
        };
        let (from_user, from_device) = CAST[sent.from];
        let (user, recipient) = (&self.users[from_user], &self.users[sent.to]);
        let right = CAST[device].0 == sent.to
            && device != sent.from
            && item["sender_id"] == json!(user)
            && item["sender_device_id"] == from_device
            && item["recipient_id"] == json!(recipient)
            && item["ciphertext"] == Self::ciphertext(sent, device);
        (!right).then(|| format!("{id}, sent by device {}, came to device {device} as {item}", sent.from))
    }

    /// The relay has promised a device that these do not come again.
    pub(super) fn confirmed(&self, device: usize, ids: &[Uuid]) {
        self.book().heard[device].confirmed.extend(ids);
    }

    pub(super) fn deleting(&self, id: Uuid) {
        self.book().sent.get_mut(&id).unwrap().deleting = true;
    }

    pub(super) fn deleted(&self, id: Uuid) {
        let mut book = self.book();
        let now = book.tick();
        let sent = book.sent.get_mut(&id).unwrap();
        sent.deleted = sent.deleted.or(Some(now));
    }

    /// What a device has sent, in that order, as far as `fits` goes.
    pub(super) fn own(&self, device: usize, fits: impl Fn(&Sent) -> bool) -> Vec<(Uuid, Value)> {
        let book = self.book();
        let mut own: Vec<_> =
            book.sent.iter().filter(|(_, sent)| sent.from == device && fits(sent)).collect();
        own.sort_by_key(|(_, sent)| sent.began);
        own.into_iter().map(|(id, sent)| (*id, sent.body.clone())).collect()
    }
}

impl Book {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn told_of_deletion(&mut self, device: usize, deleted: Uuid) -> Option<String> {
        self.heard[device].told_deleted.insert(deleted);
        let mine = |sent: &Sent| sent.deleting && sent.to == CAST[device].0 && sent.from != device;
        (!self.sent.get(&deleted).is_some_and(mine))
            .then(|| format!("device {device} was told of the deletion of {deleted}"))
    }
}

fn out_of_order(item: &Value, order: &mut Sequences) -> Option<String> {
    let conversation = item["conversation_id"].as_str()?.to_owned();
    let sequence = item["sequence_number"].as_i64()?;
    let before = order.insert(conversation, sequence);
    before
        .filter(|before| *before >= sequence)
        .map(|before| format!("on one connection {before} came before {sequence}: {item}"))
}
