use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::domain::{Caller, DeviceId, DeviceNumber, MessageType};

const NOW: Timestamp = Timestamp::from_millis(1_780_000_000_000);

const GROUP: GroupId = GroupId::new(Uuid::from_u128(900));
const ROSTER: GroupId = GroupId::new(Uuid::from_u128(901));

fn caller(device: i64) -> Caller {
    Caller {
        user_id: UserId::new(Uuid::from_u128(device.unsigned_abs().into())),
        device_id: DeviceId::parse("phone").unwrap(),
        device_number: DeviceNumber::new(1).unwrap(),
        device_no: DeviceNo(device),
    }
}

fn send(device: i64, message: u128) -> GroupSend {
    GroupSend {
        sender: caller(device),
        group_id: GROUP,
        message_id: MessageId::new(Uuid::from_u128(message)),
        digest: [u8::try_from(message).unwrap(); 32],
        epoch: Some(Epoch(5)),
        message_type: MessageType::Opaque,
        expires_at: None,
        body: Bytes::from_static(b"sealed"),
    }
}

/// An MLS group in epoch 5 that takes messages from epoch 4 on and a roster group, both with the devices 1 and 2.
fn snapshot() -> Snapshot {
    let mls = LockedGroup {
        is_roster: false,
        epoch: Epoch(5),
        oldest_epoch: Epoch(4),
        head: Position(10),
        rolled_back: false,
    };
    let roster = LockedGroup { is_roster: true, epoch: Epoch(3), oldest_epoch: Epoch(3), ..mls };
    let pairs = [GROUP, ROSTER].map(|group| [1, 2].map(|device| (group, DeviceNo(device))));
    Snapshot {
        groups: HashMap::from([(GROUP, mls), (ROSTER, roster)]),
        writers: pairs.into_iter().flatten().collect(),
        ..Snapshot::default()
    }
}

fn outcomes(batch: &[GroupSend], snapshot: Snapshot) -> Vec<GroupAccepted> {
    decide(batch, snapshot, NOW).outcomes
}

#[test]
fn positions_follow_arrival_and_groups_count_for_themselves() {
    let elsewhere = GroupSend { group_id: ROSTER, epoch: None, ..send(1, 2) };
    let batch = [send(1, 1), elsewhere, send(2, 3)];
    let verdict = decide(&batch, snapshot(), NOW);
    let places: Vec<_> = verdict
        .writes
        .entries
        .iter()
        .map(|entry| (entry.receipt.group_id, entry.receipt.position.0, entry.receipt.epoch.0))
        .collect();
    assert_eq!(places, [(GROUP, 11, 5), (ROSTER, 11, 3), (GROUP, 12, 5)]);
    assert_eq!(verdict.writes.heads, [(GROUP, Position(12)), (ROSTER, Position(11))]);
    let handed: Vec<_> = verdict.entries.iter().map(|entry| entry.position.0).collect();
    assert_eq!(handed, [11, 11, 12]);
    assert!(verdict.outcomes.iter().all(|outcome| matches!(outcome, GroupAccepted::Stored(_))));
}

#[test]
fn a_repeat_in_one_batch_gets_the_first_answer_and_no_other_place() {
    let other = GroupSend { digest: [9; 32], ..send(1, 1) };
    let batch = [send(1, 1), send(1, 1), other, send(2, 1)];
    let verdict = decide(&batch, snapshot(), NOW);
    let GroupAccepted::Stored(receipt) = verdict.outcomes[0] else { panic!("{:?}", verdict.outcomes) };
    assert_eq!(
        verdict.outcomes[1..],
        [GroupAccepted::Repeated(receipt), GroupAccepted::MessageIdReused, GroupAccepted::MessageIdReused]
    );
    assert_eq!(verdict.entries.len(), 1);
}

#[test]
fn what_is_wrong_is_told_in_the_stated_order() {
    let receipt = GroupReceipt {
        message_id: MessageId::new(Uuid::from_u128(1)),
        group_id: GROUP,
        position: Position(2),
        epoch: Epoch(1),
        accepted_at: NOW,
    };
    let known = Known { sender: DeviceNo(1), digest: [1; 32], receipt: Some(receipt) };
    let mut held = snapshot();
    held.known.insert(receipt.message_id, known.clone());
    held.groups.get_mut(&GROUP).unwrap().rolled_back = true;

    // Each send has the faults of those after it as well.
    let old = GroupSend { epoch: Some(Epoch(0)), ..send(1, 2) };
    let wrong_kind = GroupSend { epoch: None, ..old.clone() };
    let reused = GroupSend { message_id: receipt.message_id, ..wrong_kind.clone() };
    let stranger = GroupSend { sender: caller(3), ..reused.clone() };
    let repeat = GroupSend { digest: known.digest, ..reused.clone() };
    let nowhere = GroupSend { group_id: GroupId::new(Uuid::nil()), ..reused.clone() };
    let batch = [repeat, stranger, nowhere, reused, wrong_kind, old];
    let told = [
        GroupAccepted::Repeated(receipt),
        GroupAccepted::NotMember,
        GroupAccepted::NotMember,
        GroupAccepted::MessageIdReused,
        GroupAccepted::WrongKind,
        GroupAccepted::RolledBack,
    ];
    assert_eq!(outcomes(&batch, held), told);
}

#[test]
fn messages_are_taken_from_the_oldest_epoch_to_the_current_one() {
    let from = |epoch, message| GroupSend { epoch: Some(Epoch(epoch)), ..send(1, message) };
    let taken = outcomes(&[from(3, 1), from(4, 2), from(5, 3), from(6, 4)], snapshot());
    assert_eq!((taken[0], taken[3]), (GroupAccepted::Stale(Epoch(5)), GroupAccepted::Stale(Epoch(5))));
    let epoch = |outcome: &GroupAccepted| match outcome {
        GroupAccepted::Stored(receipt) => Some((receipt.epoch.0, receipt.position.0)),
        _ => None,
    };
    assert_eq!((epoch(&taken[1]), epoch(&taken[2])), (Some((4, 11)), Some((5, 12))));
}

#[test]
fn an_id_that_lies_in_a_mailbox_is_taken() {
    let mut held = snapshot();
    let item = Known { sender: DeviceNo(1), digest: [1; 32], receipt: None };
    held.known.insert(MessageId::new(Uuid::from_u128(1)), item);
    assert_eq!(outcomes(&[send(1, 1)], held), [GroupAccepted::MessageIdReused]);
}

#[test]
fn an_invited_user_is_a_member_once_something_was_stored() {
    let mut held = snapshot();
    let member = (GROUP, caller(2).user_id);
    held.invited.insert(member);
    let stale = GroupSend { epoch: Some(Epoch(1)), ..send(2, 1) };
    let batch = [stale.clone(), send(2, 2), send(2, 3)];
    assert_eq!(decide(&batch, held, NOW).writes.joined, [member]);

    let mut held = snapshot();
    held.invited.insert(member);
    assert!(decide(&[stale], held, NOW).writes.joined.is_empty());
}
