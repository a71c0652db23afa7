//! The one writing statement of a batch of sends.

use sqlx::{Error, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::at;
use crate::{
    domain::{DeviceNo, Position},
    store::decide::{NewItem, NewMessage, Writes},
};

/// Arrays of arrays do not pass UNNEST, so the places of a message travel as array literals.
pub(crate) const WRITE: &str = "\
    WITH moved AS ( \
        UPDATE mailboxes m SET head = n.head, sequence = n.sequence, spare = n.spare \
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS n(device_no, head, sequence, spare) \
        WHERE m.device_no = n.device_no \
    ), noted AS ( \
        INSERT INTO messages (message_id, kind, digest, sender_no, sender_id, recipient_id, conversation_id, \
            sequence, message_type, accepted_at, expires_at, due_at, self_destructing, device_nos, positions) \
        SELECT n.message_id, 0, n.digest, n.sender_no, n.sender_id, n.recipient_id, n.conversation_id, \
            n.sequence, n.message_type, n.accepted_at, n.expires_at, n.due_at, n.self_destructing, \
            n.device_nos::bigint[], n.positions::bigint[] \
        FROM unnest($5::uuid[], $6::bytea[], $7::bigint[], $8::uuid[], $9::uuid[], $10::uuid[], $11::bigint[], \
            $12::smallint[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::boolean[], \
            $17::text[], $18::text[]) \
        AS n(message_id, digest, sender_no, sender_id, recipient_id, conversation_id, sequence, message_type, \
            accepted_at, expires_at, due_at, self_destructing, device_nos, positions) \
    ) \
    INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, envelope_type, \
        ephemeral_key, body) \
    SELECT n.device_no, n.position, n.message_id, n.sender_id, n.expires_at, n.envelope_type, n.ephemeral_key, n.body \
    FROM unnest($19::bigint[], $20::bigint[], $21::uuid[], $22::uuid[], $23::timestamptz[], $24::smallint[], \
        $25::bytea[], $26::bytea[]) \
    AS n(device_no, position, message_id, sender_id, expires_at, envelope_type, ephemeral_key, body)";

/// Writes what was decided, in the order in which every node locks: mailboxes were locked already, messages by id.
pub(super) async fn write(tx: &mut PgConnection, mut writes: Writes<'_>) -> Result<(), Error> {
    if writes.messages.is_empty() && writes.mailboxes.is_empty() {
        return Ok(());
    }
    writes.messages.sort_unstable_by_key(|message| message.receipt.message_id);
    let messages = MessageColumns::of(&writes.messages);
    let items = ItemColumns::of(&writes.items);
    let mailboxes = &writes.mailboxes;
    sqlx::query(WRITE)
        .bind(mailboxes.iter().map(|mailbox| mailbox.device_no.0).collect::<Vec<_>>())
        .bind(mailboxes.iter().map(|mailbox| mailbox.head.0).collect::<Vec<_>>())
        .bind(mailboxes.iter().map(|mailbox| mailbox.sequence.0).collect::<Vec<_>>())
        .bind(mailboxes.iter().map(|mailbox| mailbox.spare.0).collect::<Vec<_>>())
        .bind(messages.message_ids)
        .bind(messages.digests)
        .bind(messages.sender_nos)
        .bind(messages.sender_ids)
        .bind(messages.recipient_ids)
        .bind(messages.conversation_ids)
        .bind(messages.sequences)
        .bind(messages.message_types)
        .bind(messages.accepted_at)
        .bind(messages.expires_at)
        .bind(messages.due_at)
        .bind(messages.self_destructing)
        .bind(messages.device_nos)
        .bind(messages.positions)
        .bind(items.device_nos)
        .bind(items.positions)
        .bind(items.message_ids)
        .bind(items.sender_ids)
        .bind(items.expires_at)
        .bind(items.envelope_types)
        .bind(items.ephemeral_keys)
        .bind(items.bodies)
        .execute(tx)
        .await?;
    Ok(())
}

#[derive(Default)]
struct MessageColumns<'a> {
    message_ids: Vec<Uuid>,
    digests: Vec<&'a [u8]>,
    sender_nos: Vec<i64>,
    sender_ids: Vec<Uuid>,
    recipient_ids: Vec<Uuid>,
    conversation_ids: Vec<Uuid>,
    sequences: Vec<i64>,
    message_types: Vec<i16>,
    accepted_at: Vec<OffsetDateTime>,
    expires_at: Vec<OffsetDateTime>,
    due_at: Vec<OffsetDateTime>,
    self_destructing: Vec<bool>,
    device_nos: Vec<String>,
    positions: Vec<String>,
}

impl<'a> MessageColumns<'a> {
    fn of(messages: &[NewMessage<'a>]) -> Self {
        let mut columns = Self::default();
        for NewMessage { send, receipt, due_at, places } in messages {
            columns.message_ids.push(receipt.message_id.uuid());
            columns.digests.push(&send.digest);
            columns.sender_nos.push(send.sender.device_no.0);
            columns.sender_ids.push(send.sender.user_id.uuid());
            columns.recipient_ids.push(send.recipient_id.uuid());
            columns.conversation_ids.push(receipt.conversation_id.uuid());
            columns.sequences.push(receipt.sequence.0);
            columns.message_types.push(send.message_type as i16);
            columns.accepted_at.push(at(receipt.accepted_at));
            columns.expires_at.push(at(send.expires_at));
            columns.due_at.push(at(*due_at));
            columns.self_destructing.push(send.self_destructing);
            columns.device_nos.push(literal(places, |(device, _)| device.0));
            columns.positions.push(literal(places, |(_, position)| position.0));
        }
        columns
    }
}

#[derive(Default)]
struct ItemColumns<'a> {
    device_nos: Vec<i64>,
    positions: Vec<i64>,
    message_ids: Vec<Uuid>,
    sender_ids: Vec<Uuid>,
    expires_at: Vec<OffsetDateTime>,
    envelope_types: Vec<i16>,
    ephemeral_keys: Vec<Option<&'a [u8]>>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> ItemColumns<'a> {
    fn of(items: &[NewItem<'a>]) -> Self {
        let mut columns = Self::default();
        for NewItem { device_no, position, send, envelope } in items {
            columns.device_nos.push(device_no.0);
            columns.positions.push(position.0);
            columns.message_ids.push(send.message_id.uuid());
            columns.sender_ids.push(send.sender.user_id.uuid());
            columns.expires_at.push(at(send.expires_at));
            columns.envelope_types.push(envelope.envelope_type as i16);
            columns.ephemeral_keys.push(envelope.ephemeral_key.as_deref());
            columns.bodies.push(&envelope.ciphertext);
        }
        columns
    }
}

/// Numbers as an array literal: `{1,2}`.
fn literal(places: &[(DeviceNo, Position)], number: impl Fn(&(DeviceNo, Position)) -> i64) -> String {
    let numbers: Vec<String> = places.iter().map(|place| number(place).to_string()).collect();
    format!("{{{}}}", numbers.join(","))
}
