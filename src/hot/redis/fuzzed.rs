//! What comes over Redis for fuzzers; see [`crate::fuzzed`].

#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use super::codec::{decode, decode_group, encode, encode_group, sender};

/// A frame of another node, about a device or about a group: whatever is read is written again to the same effect.
pub fn events(data: &[u8]) -> bool {
    let Ok(node) = sender(data) else {
        assert!(decode(data).is_err() && decode_group(data).is_err(), "a frame of nobody is no frame");
        return false;
    };
    let device = decode(data).ok().map(|(device, event)| {
        let Ok(written) = encode(node, device, &event) else { unreachable!("what was read can be written") };
        let Ok((again, event)) = decode(&written) else { unreachable!("what was written can be read") };
        assert_eq!(again, device);
        assert_eq!(encode(node, device, &event).ok(), Some(written));
    });
    let group = decode_group(data).ok().map(|(group, event)| {
        let Ok(written) = encode_group(node, group, &event) else {
            unreachable!("what was read can be written")
        };
        let Ok((again, event)) = decode_group(&written) else { unreachable!("what was written can be read") };
        assert_eq!(again, group);
        assert_eq!(encode_group(node, group, &event).ok(), Some(written));
    });
    device.or(group).is_some()
}

/// Frames of every kind, for the corpus.
#[cfg(test)]
pub(crate) fn samples() -> Vec<(&'static str, Vec<u8>)> {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::codec::NodeId;
    use crate::{
        domain::{
            ConversationId, DeviceNo, EntryKind, Envelope, EnvelopeType, Epoch, GroupId, Item, LogEntry,
            Message, MessageId, MessageType, Position, Sequence, Status,
        },
        fuzzed::{NOW, caller, user},
        hot::{Event, GroupEvent, KeysLow, ReceiptEvent},
    };

    let (node, id) = (NodeId::random(), Uuid::from_u128);
    let phone = caller(1, "phone");
    let message = Message {
        message_id: MessageId::new(id(1)),
        conversation_id: ConversationId::new(id(2)),
        sender_id: user(1),
        sender_device_id: phone.device_id.clone(),
        sender_device_number: phone.device_number,
        recipient_id: user(2),
        message_type: MessageType::Text,
        envelope: Some(Envelope {
            envelope_type: EnvelopeType::Whisper,
            ciphertext: vec![0x80; 40].into(),
            ephemeral_key: Some(vec![5; 33].into()),
        }),
        sequence: Some(Sequence(3)),
        accepted_at: NOW,
        status: Status::Delivered,
        delivered_at: Some(NOW),
        read_at: None,
        self_destructing: true,
        expires_at: NOW,
    };
    let welcome = Item::Welcome {
        message_id: MessageId::new(id(3)),
        group_id: GroupId::new(id(4)),
        epoch: Epoch(5),
        welcome: vec![1; 30].into(),
        expires_at: NOW,
    };
    let entry = LogEntry {
        group_id: GroupId::new(id(4)),
        position: Position(6),
        kind: EntryKind::Commit,
        message_id: MessageId::new(id(7)),
        sender_id: user(1),
        sender_device_id: phone.device_id,
        message_type: None,
        epoch: Epoch(5),
        body: Some(vec![2; 30].into()),
        accepted_at: NOW,
        expires_at: None,
        closes: vec![DeviceNo(8), DeviceNo(9)].into(),
    };
    let receipt = ReceiptEvent {
        message_id: MessageId::new(id(1)),
        conversation_id: ConversationId::new(id(2)),
        by: user(2),
        status: Status::Read,
        at: NOW,
    };
    let low = KeysLow {
        onetime_prekeys: 1,
        kem_prekeys: 2,
        key_packages: 3,
        last_resort_used: true,
        limit_tripped: false,
    };
    let device = |event| encode(node, DeviceNo(8), &event).unwrap_or_default();
    let group = |event| encode_group(node, GroupId::new(id(4)), &event).unwrap_or_default();
    vec![
        ("message", device(Event::Item(Position(1), Arc::new(Item::Message(message))))),
        ("welcome", device(Event::Item(Position(2), Arc::new(welcome)))),
        ("wake", device(Event::Wake(Position(3)))),
        ("receipt", device(Event::Receipt(receipt))),
        ("keys-low", device(Event::KeysLow(low))),
        ("replaced", device(Event::Replaced(id(9)))),
        ("deactivated", device(Event::Deactivated)),
        ("entry", group(GroupEvent::Entry(Arc::new(entry)))),
        ("group-wake", group(GroupEvent::Wake(Position(6)))),
    ]
}
