use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::domain::{Bodies, Caller, EnvelopeType, MessageType};

const NOW: Timestamp = Timestamp::from_millis(1_780_000_000_000);

const LIMITS: Limits = Limits {
    max_devices: 5,
    max_prekeys: 100,
    mailbox_items: 6,
    mailbox_items_per_sender: 4,
    notice_life: std::time::Duration::from_hours(24),
    max_members: 1_500,
    max_groups: 2_000,
    past_epochs: 2,
};

const ALICE: u128 = 1;
const BOB: u128 = 2;
const CAROL: u128 = 3;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// An empty mailbox. A user's first device has the user's number.
fn mailbox(owner: u128, device: i64) -> Mailbox {
    Mailbox {
        device_no: DeviceNo(device),
        user_id: user(owner),
        device_id: DeviceId::parse(&format!("device-{device}")).unwrap(),
        device_number: DeviceNumber::new(device).unwrap(),
        registration_id: RegistrationId::new(device).unwrap(),
        head: Position::START,
        sequence: Sequence(0),
        spare: Position(100),
    }
}

fn caller(owner: u128, device: i64) -> Caller {
    let mailbox = mailbox(owner, device);
    Caller {
        user_id: mailbox.user_id,
        device_id: mailbox.device_id,
        device_number: mailbox.device_number,
        device_no: mailbox.device_no,
    }
}

/// A send by the first device of a user.
fn send(from: u128, to: u128, message: u128) -> Send {
    Send {
        sender: caller(from, i64::try_from(from).unwrap()),
        message_id: MessageId::new(Uuid::from_u128(message)),
        digest: [7; 32],
        recipient_id: user(to),
        conversation: Conversation::Own(ConversationId::new(Uuid::from_u128(1000 + from + to))),
        message_type: MessageType::Text,
        self_destructing: false,
        expires_at: NOW.plus(std::time::Duration::from_hours(1)),
        bodies: Bodies::Same(Envelope {
            envelope_type: EnvelopeType::Opaque,
            ciphertext: Bytes::from_static(&[0xfe; 40]),
            ephemeral_key: None,
        }),
    }
}

fn snapshot(mailboxes: impl IntoIterator<Item = Mailbox>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for mailbox in mailboxes {
        snapshot.mailboxes.entry(mailbox.user_id).or_default().push(mailbox);
    }
    snapshot
}

fn sequence(outcome: &Accepted) -> i64 {
    let Accepted::Stored(receipt) = outcome else { panic!("not stored: {outcome:?}") };
    receipt.sequence.0
}

#[test]
fn sends_are_placed_in_order_of_arrival_and_without_gap() {
    let batch = [send(ALICE, BOB, 1), send(CAROL, BOB, 2), send(ALICE, BOB, 3)];
    let started = Mailbox { head: Position(40), ..mailbox(BOB, 2) };
    let verdict = decide(&batch, snapshot([started, mailbox(BOB, 12)]), NOW, LIMITS);
    let placed: Vec<_> = verdict
        .writes
        .items
        .iter()
        .map(|item| (item.send.message_id.uuid().as_u128(), item.device_no.0, item.position.0))
        .collect();
    assert_eq!(placed, [(1, 2, 41), (1, 12, 1), (2, 2, 42), (2, 12, 2), (3, 2, 43), (3, 12, 3)]);
    let emitted: Vec<_> = verdict
        .deliveries
        .iter()
        .map(|delivery| {
            (delivery.item.message_id().uuid().as_u128(), delivery.device_no.0, delivery.position.0)
        })
        .collect();
    assert_eq!(emitted, placed, "what is emitted is what is written");
    let heads: Vec<_> =
        verdict.writes.mailboxes.iter().map(|mailbox| (mailbox.device_no.0, mailbox.head.0)).collect();
    assert_eq!(heads, [(2, 43), (12, 3)], "in the order of locks");
    assert_eq!(verdict.writes.messages[0].places, [(DeviceNo(2), Position(41)), (DeviceNo(12), Position(1))]);
}

#[test]
fn a_sequence_increases_although_the_clock_steps_back() {
    let batch = [send(ALICE, BOB, 1), send(ALICE, BOB, 2), send(ALICE, BOB, 3)];
    let first = decide(&batch, snapshot([mailbox(BOB, 2)]), NOW, LIMITS);
    let numbers: Vec<_> = first.outcomes.iter().map(sequence).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "within a moment: {numbers:?}");
    let bob = first.writes.mailboxes[0].clone();
    let highest = bob.sequence;
    assert_eq!(highest.0, numbers[2], "the mailbox remembers the highest");

    let earlier = NOW.minus(std::time::Duration::from_hours(5));
    let later_send = [send(ALICE, BOB, 4)];
    let second = decide(&later_send, snapshot([bob]), earlier, LIMITS);
    assert!(sequence(&second.outcomes[0]) > highest.0);

    // The way back: the sender's own mailboxes hold the highest.
    let back = [send(BOB, ALICE, 5)];
    let mut held = snapshot([mailbox(ALICE, 1)]);
    held.sender_sequences.insert(user(BOB), highest);
    let third = decide(&back, held, earlier, LIMITS);
    assert!(sequence(&third.outcomes[0]) > highest.0);
}

#[test]
fn messages_that_cross_at_one_moment_have_different_numbers() {
    let (there, back) = ([send(ALICE, BOB, 1)], [send(BOB, ALICE, 2)]);
    let one = decide(&there, snapshot([mailbox(BOB, 2)]), NOW, LIMITS);
    let other = decide(&back, snapshot([mailbox(ALICE, 1)]), NOW, LIMITS);
    let (one, other) = (sequence(&one.outcomes[0]), sequence(&other.outcomes[0]));
    assert_ne!(one, other);
    assert_eq!(one >> 1, other >> 1, "by their last bit alone");

    let both = [&there[..], &back[..]].concat();
    let batch = decide(&both, snapshot([mailbox(ALICE, 1), mailbox(BOB, 2)]), NOW, LIMITS);
    let numbers: Vec<_> = batch.outcomes.iter().map(sequence).collect();
    assert!(numbers[0] < numbers[1], "in one batch, in its order: {numbers:?}");
}

#[test]
fn a_repeat_within_a_batch_gets_the_first_receipt() {
    let first = send(ALICE, BOB, 1);
    let other_body = Send { digest: [8; 32], ..first.clone() };
    let other_device = Send { sender: caller(ALICE, 11), ..first.clone() };
    let batch = [first.clone(), first, other_body, other_device];
    let verdict = decide(&batch, snapshot([mailbox(BOB, 2)]), NOW, LIMITS);
    let Accepted::Stored(receipt) = verdict.outcomes[0] else { panic!("{:?}", verdict.outcomes) };
    assert_eq!(
        verdict.outcomes[1..],
        [Accepted::Repeated(receipt), Accepted::MessageIdReused, Accepted::MessageIdReused]
    );
    assert_eq!(
        (verdict.writes.messages.len(), verdict.writes.items.len(), verdict.deliveries.len()),
        (1, 1, 1)
    );
}

#[test]
fn a_repeat_is_recognised_although_the_recipient_is_gone() {
    let batch = [send(ALICE, BOB, 1)];
    let receipt = Receipt {
        message_id: batch[0].message_id,
        conversation_id: batch[0].conversation.id(),
        sequence: Sequence(5),
        accepted_at: NOW,
    };
    let mut gone = Snapshot::default();
    let known = Known { sender: DeviceNo(1), digest: [7; 32], receipt };
    gone.known.insert(batch[0].message_id, known);
    assert_eq!(decide(&batch, gone, NOW, LIMITS).outcomes, [Accepted::Repeated(receipt)]);
    assert_eq!(decide(&batch, Snapshot::default(), NOW, LIMITS).outcomes, [Accepted::NoDevices]);
}

#[test]
fn a_note_to_self_goes_to_the_siblings_alone() {
    let batch = [send(ALICE, ALICE, 1)];
    let verdict = decide(&batch, snapshot([mailbox(ALICE, 1), mailbox(ALICE, 11)]), NOW, LIMITS);
    assert_eq!(verdict.writes.messages[0].places, [(DeviceNo(11), Position(1))]);
    let lonely = decide(&batch, snapshot([mailbox(ALICE, 1)]), NOW, LIMITS);
    let number = sequence(&lonely.outcomes[0]);
    assert!(lonely.writes.messages[0].places.is_empty() && lonely.deliveries.is_empty());
    assert_eq!(lonely.writes.mailboxes[0].sequence.0, number, "and its number is remembered all the same");
    assert_eq!(lonely.writes.mailboxes[0].head, Position::START);
}

#[test]
fn a_conversation_named_first_in_a_batch_is_closed_to_others_in_it() {
    let named = Conversation::Named(ConversationId::new(Uuid::from_u128(99)));
    let into = |send: Send| Send { conversation: named, ..send };
    let batch =
        [send(ALICE, BOB, 1), send(CAROL, BOB, 2), send(ALICE, CAROL, 3), send(BOB, ALICE, 4)].map(into);
    let all = snapshot([mailbox(ALICE, 1), mailbox(BOB, 2), mailbox(CAROL, 3)]);
    let outcomes = decide(&batch, all, NOW, LIMITS).outcomes;
    assert_eq!(outcomes[1..3], [Accepted::ConversationUnknown, Accepted::ConversationUnknown]);
    assert!(sequence(&outcomes[3]) > sequence(&outcomes[0]));
}

#[test]
fn a_mailbox_is_counted_when_a_batch_may_pass_its_spare() {
    let batch = [send(ALICE, BOB, 1), send(CAROL, BOB, 2)];
    let counted = |spare| {
        let near = Mailbox { head: Position(10), spare: Position(spare), ..mailbox(BOB, 2) };
        to_count(&batch, &snapshot([near, mailbox(ALICE, 1)]).mailboxes)
    };
    assert_eq!(counted(11), [DeviceNo(2)]);
    assert!(counted(12).is_empty(), "two more still fit");
}

#[test]
fn a_counted_mailbox_remembers_how_far_no_limit_can_be_reached() {
    let spare = |counts: &[(u128, u32)]| {
        let passed = Mailbox { head: Position(10), spare: Position(0), ..mailbox(BOB, 2) };
        let mut counted = snapshot([passed]);
        let counts = counts.iter().map(|(sender, count)| (user(*sender), *count)).collect();
        counted.counts.insert(DeviceNo(2), counts);
        decide(&[], counted, NOW, LIMITS).writes.mailboxes[0].spare.0
    };
    assert_eq!(spare(&[]), 14, "four of one sender");
    assert_eq!(spare(&[(ALICE, 1), (CAROL, 3)]), 11, "one more of the busiest");
    assert_eq!(spare(&[(ALICE, 2), (CAROL, 2), (9, 1)]), 11, "one more of anybody");
    assert_eq!(spare(&[(ALICE, 4), (CAROL, 3)]), 10, "none, even when it is overfull");
}

#[test]
fn what_a_batch_puts_into_a_counted_mailbox_counts() {
    let of_alice = (1..=5).map(|message| send(ALICE, BOB, message));
    let of_carol = (6..=9).map(|message| send(CAROL, BOB, message));
    let batch: Vec<_> = of_alice.chain(of_carol).collect();
    let mut counted = snapshot([mailbox(BOB, 2)]);
    counted.counts.insert(DeviceNo(2), HashMap::from([(user(ALICE), 1)]));
    let outcomes = decide(&batch, counted, NOW, LIMITS).outcomes;
    let stored: Vec<_> = outcomes.iter().map(|outcome| matches!(outcome, Accepted::Stored(_))).collect();
    // One lay there: three more of the first sender make four of it, two more of the other make six in all.
    assert_eq!(stored, [true, true, true, false, false, true, true, false, false]);
    assert_eq!(outcomes[3], Accepted::MailboxFull);
}
