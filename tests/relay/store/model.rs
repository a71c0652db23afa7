//! Random acts against a model that keeps everything in plain collections: the store answers as the model does, and
//! the same items are left.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use restante::{
    domain::{Caller, DeviceNo, METADATA_LIFE, Receipt, Send, Timestamp, UserId},
    store::{Accepted, Deleted, Limits},
};
use tokio::runtime::Runtime;

use crate::support::{
    engine::{self, Engine, tight},
    mothers, postgres,
};

/// One act. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
enum Act {
    Send { from: usize, to: usize, minutes: u64 },
    Repeat { send: usize, altered: bool },
    Ack { device: usize, positions: Vec<i64> },
    DeleteForMe { send: usize, user: usize },
    DeleteForEveryone { send: usize, user: usize },
    Expire,
    Advance { minutes: u64 },
    StepBack { minutes: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let minutes = || prop_oneof![3 => 1..120_u64, 1 => Just(29 * 24 * 60), 1 => Just(31 * 24 * 60)];
    let act = prop_oneof![
        8 => (0..4_usize, 0..3_usize, minutes()).prop_map(|(from, to, minutes)| Act::Send { from, to, minutes }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(send, altered)| Act::Repeat { send, altered }),
        3 => (0..4_usize, prop::collection::vec(0..12_i64, 0..4))
            .prop_map(|(device, positions)| Act::Ack { device, positions }),
        1 => (any::<usize>(), 0..3_usize).prop_map(|(send, user)| Act::DeleteForMe { send, user }),
        3 => (any::<usize>(), 0..3_usize).prop_map(|(send, user)| Act::DeleteForEveryone { send, user }),
        2 => Just(Act::Expire),
        2 => minutes().prop_map(|minutes| Act::Advance { minutes }),
        1 => (1..90_u64).prop_map(|minutes| Act::StepBack { minutes }),
    ];
    prop::collection::vec(act, 1..60)
}

#[derive(Default)]
struct Mailbox {
    head: i64,
    items: BTreeMap<i64, (UserId, Timestamp)>,
}

struct Sent {
    send: Send,
    receipt: Receipt,
    places: Vec<(DeviceNo, i64)>,
    is_deleted: bool,
}

struct Notice {
    accepted_at: Timestamp,
    expires_at: Timestamp,
    places: Vec<(DeviceNo, i64)>,
}

struct Model {
    limits: Limits,
    devices: Vec<Caller>,
    mailboxes: HashMap<DeviceNo, Mailbox>,
    sends: Vec<Sent>,
    notices: Vec<Notice>,
}

impl Model {
    fn put(&mut self, device: DeviceNo, sender: UserId, expires_at: Timestamp) -> (DeviceNo, i64) {
        let mailbox = self.mailboxes.entry(device).or_default();
        mailbox.head += 1;
        mailbox.items.insert(mailbox.head, (sender, expires_at));
        (device, mailbox.head)
    }

    fn erase(&mut self, places: &[(DeviceNo, i64)]) -> usize {
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

    /// Says what a new or repeated send must be answered with, and notes what it does.
    fn send(&mut self, send: &Send, answer: &Accepted) {
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

    fn delete_for_me(&mut self, index: usize, user: UserId) -> bool {
        let sent = &self.sends[index];
        if sent.send.recipient_id == user {
            let places = sent.places.clone();
            self.erase(&places);
            return true;
        }
        sent.send.sender.user_id == user
    }

    fn delete_for_everyone(&mut self, index: usize, user: UserId, now: Timestamp) -> Deleted {
        let sent = &mut self.sends[index];
        let sender = sent.send.sender.user_id;
        if sender != user {
            return if sent.send.recipient_id == user { Deleted::NotSender } else { Deleted::Unknown };
        }
        if !std::mem::replace(&mut sent.is_deleted, true) {
            let places = sent.places.clone();
            self.erase(&places);
            let expires_at = now.plus(self.limits.notice_life);
            let places = places.iter().map(|(device, _)| self.put(*device, sender, expires_at)).collect();
            self.notices.push(Notice { accepted_at: now, expires_at, places });
        }
        Deleted::Deleted
    }

    fn expire(&mut self, now: Timestamp) {
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

    fn left(&self, device: DeviceNo, now: Timestamp) -> (Vec<i64>, i64) {
        let Some(mailbox) = self.mailboxes.get(&device) else { return (Vec::new(), 0) };
        let waiting = mailbox.items.iter().filter(|(_, (_, expires_at))| *expires_at > now);
        (waiting.map(|(position, _)| *position).collect(), mailbox.head)
    }
}

/// Two users with one device and one with two, who act, and are compared after every act.
async fn agree(engine: &Engine, acts: Vec<Act>) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&carol, "tablet").await;
    let users = [alice.user_id, bob.user_id, carol.user_id];
    let devices = vec![alice, bob, carol, tablet];
    let mut model = Model {
        limits: tight(),
        devices: devices.clone(),
        mailboxes: HashMap::new(),
        sends: Vec::new(),
        notices: Vec::new(),
    };
    for act in acts {
        perform(engine, &mut model, &users, act).await;
        for device in &devices {
            let left = engine.left(device.device_no).await;
            let positions: Vec<i64> = left.positions.iter().map(|position| position.0).collect();
            assert_eq!((positions, left.head.0), model.left(device.device_no, engine.now()));
            let items = engine.items(device.device_no).await;
            assert_eq!(items.len(), left.positions.len());
        }
    }
}

async fn perform(engine: &Engine, model: &mut Model, users: &[UserId; 3], act: Act) {
    let now = engine.now();
    match act {
        Act::Send { from, to, minutes } => {
            let from = model.devices[from % model.devices.len()].clone();
            let life = Duration::from_mins(minutes);
            let send = mothers::fleeting(&from, users[to % users.len()], now, life);
            model.send(&send, &engine.accept(send.clone()).await);
        }
        Act::Repeat { send, altered } if !model.sends.is_empty() => {
            let mut send = model.sends[send % model.sends.len()].send.clone();
            if altered {
                send.digest = mothers::bytes();
            }
            model.send(&send, &engine.accept(send.clone()).await);
        }
        Act::Ack { device, positions } => {
            let device = model.devices[device % model.devices.len()].device_no;
            let places: Vec<_> = positions.iter().map(|&position| (device, position)).collect();
            let removed = engine.ack(device, &positions).await;
            assert_eq!(removed as usize, model.erase(&places));
        }
        Act::DeleteForMe { send, user } if !model.sends.is_empty() => {
            let (index, user) = (send % model.sends.len(), users[user % users.len()]);
            let message = model.sends[index].send.message_id;
            let hidden = engine.store.delete_for_me(user, message).await.unwrap();
            assert_eq!(hidden, model.delete_for_me(index, user));
        }
        Act::DeleteForEveryone { send, user } if !model.sends.is_empty() => {
            let (index, user) = (send % model.sends.len(), users[user % users.len()]);
            let message = model.sends[index].send.message_id;
            let deleted = engine.store.delete_for_everyone(user, message, now).await.unwrap();
            assert_eq!(deleted, model.delete_for_everyone(index, user, now));
        }
        Act::Expire => {
            engine.store.expire(now, 1000).await.unwrap();
            model.expire(now);
        }
        Act::Advance { minutes } => engine.advance(Duration::from_mins(minutes)),
        Act::StepBack { minutes } => engine.clock.set(now.minus(Duration::from_mins(minutes))),
        Act::Repeat { .. } | Act::DeleteForMe { .. } | Act::DeleteForEveryone { .. } => {}
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

#[test]
fn sqlite_agrees_with_the_model() {
    let runtime = Runtime::new().unwrap();
    let run = |acts| {
        runtime.block_on(async { agree(&engine::sqlite(tight()).await, acts).await });
        Ok(())
    };
    runner(48).run(&acts(), run).unwrap();
}

#[test]
fn postgres_agrees_with_the_model() {
    let runtime = Runtime::new().unwrap();
    let Some((engine, database)) = runtime.block_on(postgres::make(tight())) else { return };
    // Every case has users of its own, so one database serves all.
    let run = |acts| {
        engine.clock.set(engine::NOON);
        runtime.block_on(agree(&engine, acts));
        Ok(())
    };
    let result = runner(24).run(&acts(), run);
    runtime.block_on(database.drop());
    result.unwrap();
}
