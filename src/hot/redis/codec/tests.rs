use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        ConversationId, DeviceId, DeviceNumber, EntryKind, Envelope, EnvelopeType, Epoch, Item, ListedDevice,
        LogEntry, Message, MessageId, MessageType, Position, RegistrationId, Sequence, SessionId, Status,
        Timestamp, UserId,
    },
    hot::{KeysLow, ReceiptEvent},
};

fn ids() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn times() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_millis)
}

fn statuses() -> impl Strategy<Value = Status> {
    prop::sample::select(vec![Status::Sent, Status::Delivered, Status::Read, Status::Expired])
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let types = prop::sample::select(vec![
        EnvelopeType::PreKey,
        EnvelopeType::Whisper,
        EnvelopeType::SenderKey,
        EnvelopeType::Sealed,
        EnvelopeType::PlaintextContent,
        EnvelopeType::Opaque,
    ]);
    let bytes = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let keys = prop::option::of(prop::collection::vec(any::<u8>(), 32..34).prop_map(Bytes::from));
    (types, bytes, keys).prop_map(|(envelope_type, ciphertext, ephemeral_key)| Envelope {
        envelope_type,
        ciphertext,
        ephemeral_key,
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let types = prop::sample::select(vec![
        MessageType::Text,
        MessageType::Media,
        MessageType::Audio,
        MessageType::File,
        MessageType::Location,
        MessageType::Contact,
        MessageType::Poll,
        MessageType::Event,
        MessageType::Call,
        MessageType::System,
        MessageType::Opaque,
    ]);
    let who = (ids(), ids(), ids(), ids(), "[a-zA-Z0-9._-]{3,64}", 1..=127_i64);
    let what =
        (types, prop::option::of(envelopes()), prop::option::of(any::<i64>()), statuses(), any::<bool>());
    let when = (times(), prop::option::of(times()), prop::option::of(times()), times());
    (who, what, when).prop_map(|(who, what, when)| Message {
        message_id: MessageId::new(who.0),
        conversation_id: ConversationId::new(who.1),
        sender_id: UserId::new(who.2),
        recipient_id: UserId::new(who.3),
        sender_device_id: DeviceId::parse(&who.4).unwrap(),
        sender_device_number: DeviceNumber::new(who.5).unwrap(),
        message_type: what.0,
        envelope: what.1,
        sequence: what.2.map(Sequence),
        status: what.3,
        self_destructing: what.4,
        accepted_at: when.0,
        delivered_at: when.1,
        read_at: when.2,
        expires_at: when.3,
    })
}

fn listed() -> impl Strategy<Value = ListedDevice> {
    let parts = ("[a-zA-Z0-9._-]{3,64}", 1..=127_i64, 1..=16_380_i64);
    parts.prop_map(|(id, number, registration)| ListedDevice {
        device_id: DeviceId::parse(&id).unwrap(),
        device_number: DeviceNumber::new(number).unwrap(),
        registration_id: RegistrationId::new(registration).unwrap(),
    })
}

fn items() -> impl Strategy<Value = Arc<Item>> {
    let deleted = (ids(), ids(), times()).prop_map(|(message_id, deletes, expires_at)| Item::Deleted {
        message_id: MessageId::new(message_id),
        deletes: MessageId::new(deletes),
        expires_at,
    });
    let changed = (ids(), prop::collection::vec(listed(), 0..12), times());
    let changed = changed.prop_map(|(message_id, devices, expires_at)| Item::DevicesChanged {
        message_id: MessageId::new(message_id),
        devices: devices.into(),
        expires_at,
    });
    prop_oneof![messages().prop_map(Item::Message), deleted, changed].prop_map(Arc::new)
}

fn events() -> impl Strategy<Value = Event> {
    let receipts = (ids(), ids(), ids(), statuses(), times());
    prop_oneof![
        (any::<i64>(), items()).prop_map(|(position, item)| Event::Item(Position(position), item)),
        any::<i64>().prop_map(|position| Event::Wake(Position(position))),
        items().prop_map(Event::Fleeting),
        receipts.prop_map(|(message_id, conversation_id, by, status, at)| {
            Event::Receipt(ReceiptEvent {
                message_id: MessageId::new(message_id),
                conversation_id: ConversationId::new(conversation_id),
                by: UserId::new(by),
                status,
                at,
            })
        }),
        any::<(u32, u32, u32, bool)>().prop_map(
            |(onetime_prekeys, kem_prekeys, key_packages, last_resort_used)| {
                Event::KeysLow(KeysLow {
                    onetime_prekeys,
                    kem_prekeys,
                    key_packages,
                    last_resort_used,
                    limit_tripped: last_resort_used,
                })
            }
        ),
        ids().prop_map(Event::Replaced),
        Just(Event::Deactivated),
        ids().prop_map(|login| Event::LoggedOut(SessionId::new(login))),
    ]
}

fn entries() -> impl Strategy<Value = LogEntry> {
    let kinds = prop::sample::select(vec![
        EntryKind::Application,
        EntryKind::Commit,
        EntryKind::Proposal,
        EntryKind::Membership,
        EntryKind::Reset,
    ]);
    let hints = prop::option::of(prop::sample::select(vec![MessageType::Text, MessageType::Opaque]));
    let bodies = prop::option::of(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from));
    let what =
        (1..=i64::MAX, kinds, hints, any::<i64>(), bodies, prop::collection::btree_set(any::<i64>(), 0..5));
    let who = (ids(), ids(), ids(), "[a-zA-Z0-9._-]{3,64}");
    (what, who, times(), prop::option::of(times())).prop_map(|(what, who, accepted_at, expires_at)| {
        LogEntry {
            group_id: GroupId::new(who.0),
            position: Position(what.0),
            kind: what.1,
            message_id: MessageId::new(who.1),
            sender_id: UserId::new(who.2),
            sender_device_id: DeviceId::parse(&who.3).unwrap(),
            message_type: what.2,
            epoch: Epoch(what.3),
            body: what.4,
            accepted_at,
            expires_at,
            closes: what.5.into_iter().map(DeviceNo).collect(),
        }
    })
}

fn group_events() -> impl Strategy<Value = GroupEvent> {
    prop_oneof![
        entries().prop_map(|entry| GroupEvent::Entry(Arc::new(entry))),
        any::<i64>().prop_map(|position| GroupEvent::Wake(Position(position))),
    ]
}

proptest! {
    #[test]
    fn an_event_of_a_group_survives_the_trip_to_the_byte(entry in entries(), head in any::<i64>()) {
        let (node, group) = (NodeId::random(), entry.group_id);
        let bytes = encode_group(node, group, &GroupEvent::Entry(Arc::new(entry.clone()))).unwrap();
        prop_assert_eq!(sender(&bytes).unwrap(), node);
        let (for_group, GroupEvent::Entry(back)) = decode_group(&bytes).unwrap() else { panic!("no entry") };
        prop_assert_eq!(for_group, group);
        prop_assert_eq!(&*back, &entry);
        let wake = encode_group(node, group, &GroupEvent::Wake(Position(head))).unwrap();
        let (_, GroupEvent::Wake(back)) = decode_group(&wake).unwrap() else { panic!("no wake") };
        prop_assert_eq!(back, Position(head));
        prop_assert!(decode(&bytes).is_err() && decode(&wake).is_err(), "devices and groups are not mixed up");
    }

    #[test]
    fn a_damaged_frame_of_a_group_is_refused_or_read_but_never_a_panic(
        event in group_events(), at in any::<prop::sample::Index>(), with in any::<u8>(), keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_group(NodeId::random(), GroupId::new(Uuid::nil()), &event).unwrap();
        prop_assert!(decode_group(&bytes[..keep.index(bytes.len())]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = decode_group(&bytes);
    }

    /// That equal bytes mean equal events is checked field by field in the conformance suite.
    #[test]
    fn an_event_survives_the_trip_to_the_byte(device in any::<i64>(), event in events()) {
        let node = NodeId::random();
        let bytes = encode(node, DeviceNo(device), &event).unwrap();
        prop_assert_eq!(sender(&bytes).unwrap(), node);
        let (for_device, back) = decode(&bytes).unwrap();
        prop_assert_eq!(for_device, DeviceNo(device));
        prop_assert_eq!(encode(node, for_device, &back).unwrap(), bytes);
    }

    #[test]
    fn random_bytes_are_refused_or_read_but_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (decode(&bytes), decode_group(&bytes));
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        let _ = (decode(&bytes), decode_group(&bytes));
    }

    #[test]
    fn a_damaged_frame_is_refused_or_read_but_never_a_panic(
        event in events(), at in any::<prop::sample::Index>(), with in any::<u8>(), keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(NodeId::random(), DeviceNo(1), &event).unwrap();
        let kept = keep.index(bytes.len());
        prop_assert!(decode(&bytes[..kept]).is_err());
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = decode(&bytes);
    }
}

#[test]
fn a_frame_of_another_version_is_refused() {
    let mut bytes = encode(NodeId::random(), DeviceNo(1), &Event::Deactivated).unwrap();
    bytes[0] = VERSION + 1;
    assert!(matches!(sender(&bytes), Err(Malformed::Version)));
    assert!(matches!(decode(&bytes), Err(Malformed::Version)));
    assert!(matches!(decode(&[]), Err(Malformed::Short)));
}

#[test]
fn a_body_travels_as_bytes_and_not_as_a_list_of_numbers() {
    let body = Bytes::from(vec![0xff; 1_000]);
    let envelope = Envelope { envelope_type: EnvelopeType::Opaque, ciphertext: body, ephemeral_key: None };
    let message = Message {
        message_id: MessageId::new(Uuid::nil()),
        conversation_id: ConversationId::new(Uuid::nil()),
        sender_id: UserId::new(Uuid::nil()),
        sender_device_id: DeviceId::parse("phone").unwrap(),
        sender_device_number: DeviceNumber::new(1).unwrap(),
        recipient_id: UserId::new(Uuid::nil()),
        message_type: MessageType::Text,
        envelope: Some(envelope),
        sequence: None,
        accepted_at: Timestamp::from_millis(0),
        status: Status::Sent,
        delivered_at: None,
        read_at: None,
        self_destructing: false,
        expires_at: Timestamp::from_millis(0),
    };
    let event = Event::Item(Position(1), Arc::new(Item::Message(message)));
    let length = encode(NodeId::random(), DeviceNo(1), &event).unwrap().len();
    assert!(length < 1_200, "{length}");
}
