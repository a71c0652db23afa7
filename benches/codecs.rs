//! What it costs to read a send and to write a message, in JSON and in `MessagePack`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has to stop")]

use std::hint::black_box;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use restante::{
    domain::{
        ConversationId, DeviceId, DeviceNumber, Envelope, EnvelopeType, Message, MessageId, MessageType,
        Sequence, Status, Timestamp, UserId,
    },
    http::read_json,
    messages::{SendBody, SendFrame, SendRequest},
    wire::{MessageView, Time},
};
use uuid::Uuid;

/// The sizes of sealed bodies: a text, and a long one.
const SIZES: [usize; 2] = [600, 64 << 10];

fn message(size: usize) -> Message {
    let user = |number| UserId::new(Uuid::from_u128(number));
    let now = Timestamp::from_millis(1_800_000_000_000);
    Message {
        message_id: MessageId::new(Uuid::from_u128(1)),
        conversation_id: ConversationId::new(Uuid::from_u128(2)),
        sender_id: user(3),
        sender_device_id: DeviceId::parse("phone").unwrap(),
        sender_device_number: DeviceNumber::new(1).unwrap(),
        recipient_id: user(4),
        message_type: MessageType::Opaque,
        envelope: Some(Envelope {
            envelope_type: EnvelopeType::Opaque,
            ciphertext: vec![0xa5; size].into(),
            ephemeral_key: None,
        }),
        sequence: Some(Sequence(7)),
        accepted_at: now,
        status: Status::Sent,
        delivered_at: None,
        read_at: None,
        self_destructing: false,
        expires_at: now,
    }
}

fn writing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    for size in SIZES {
        let message = message(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("json/{size}"), |bencher| {
            bencher.iter(|| serde_json::to_vec(&MessageView::from(black_box(&message))).unwrap());
        });
        group.bench_function(format!("messagepack/{size}"), |bencher| {
            bencher.iter(|| rmp_serde::to_vec_named(&MessageView::from(black_box(&message))).unwrap());
        });
    }
    group.finish();
    let now = Time(Timestamp::from_millis(1_800_000_000_007));
    criterion.bench_function("time/text", |bencher| bencher.iter(|| black_box(now).text()));
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send");
    for size in SIZES {
        let ciphertext = STANDARD.encode(vec![0xa5; size]);
        let (to, id) = (Uuid::from_u128(4), Uuid::from_u128(1));
        let fields = format!(r#""recipient_id":"{to}","ciphertext":"{ciphertext}","message_id":"{id}""#);
        let body = format!("{{{fields}}}").into_bytes();
        let frame = format!(r#"{{"type":"send","ref":"1",{fields}}}"#).into_bytes();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("body/{size}"), |bencher| {
            bencher.iter(|| {
                let body: SendBody = read_json(black_box(&body)).unwrap();
                SendRequest::try_from(body).unwrap()
            });
        });
        group.bench_function(format!("frame/{size}"), |bencher| {
            bencher.iter(|| {
                let frame: SendFrame = read_json(black_box(&frame)).unwrap();
                SendRequest::try_from(SendBody::from(frame)).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(codecs, writing, reading);
criterion_main!(codecs);
