//! Accepting sends and acks, a batch to a transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, QueryBuilder, Row as _, SqliteConnection, SqlitePool};
use uuid::Uuid;

use super::{BEGIN, ROWS_AT_ONCE, groups::windows, notices::NO_DEVICE, rows};
use crate::{
    domain::{
        Clock, Conversation, ConversationId, DeviceNo, MessageId, Position, Receipt, Send, Sequence, UserId,
    },
    metrics,
    store::{
        Accepted, Committed, Limits,
        ack::{EntryAck, ItemAck, credit, cursors, items},
        decide::{self, Known, Mailbox, NewItem, NewMessage, Snapshot, Writes},
        lane::{Commit, Fault},
    },
};

/// Commits batches of sends.
pub(super) struct Acceptance {
    pub(super) writer: SqlitePool,
    pub(super) limits: Limits,
    pub(super) committed: Committed,
    pub(super) clock: Arc<dyn Clock>,
}

impl Commit<Send, Accepted> for Acceptance {
    fn commit<'a>(&'a self, batch: &'a [Send]) -> BoxFuture<'a, Result<Vec<Accepted>, Fault>> {
        Box::pin(async move { self.accept(batch).await.map_err(fault) })
    }
}

impl Acceptance {
    async fn accept(&self, batch: &[Send]) -> Result<Vec<Accepted>, sqlx::Error> {
        let mut writer = self.writer.acquire().await?;
        let mut tx = writer.begin_with(BEGIN).await?;
        let snapshot = snapshot(&mut tx, batch).await?;
        let verdict = decide::decide(batch, snapshot, self.clock.now(), self.limits);
        write(&mut tx, &verdict.writes).await?;
        tx.commit().await?;
        metrics::messages_accepted(verdict.writes.messages.len());
        // The writer is still held: what is emitted follows the order of commits.
        self.committed.hand_over(verdict.deliveries);
        Ok(verdict.outcomes)
    }
}

/// Commits batches of acks of items.
pub(super) struct ItemAcks {
    pub(super) writer: SqlitePool,
}

impl Commit<ItemAck, u32> for ItemAcks {
    fn commit<'a>(&'a self, batch: &'a [ItemAck]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        Box::pin(async move { self.ack(batch).await.map_err(fault) })
    }
}

impl ItemAcks {
    async fn ack(&self, batch: &[ItemAck]) -> Result<Vec<u32>, sqlx::Error> {
        let mut writer = self.writer.acquire().await?;
        let mut tx = writer.begin_with(BEGIN).await?;
        let erased: HashSet<_> = erase(&mut tx, items(batch)).await?.into_keys().collect();
        tx.commit().await?;
        metrics::items_acked(erased.len());
        Ok(credit(batch, erased))
    }
}

/// Commits batches of acks of entries.
pub(super) struct EntryAcks {
    pub(super) writer: SqlitePool,
}

impl Commit<EntryAck, ()> for EntryAcks {
    fn commit<'a>(&'a self, batch: &'a [EntryAck]) -> BoxFuture<'a, Result<Vec<()>, Fault>> {
        Box::pin(async move { self.ack(batch).await.map_err(fault) })
    }
}

impl EntryAcks {
    async fn ack(&self, batch: &[EntryAck]) -> Result<Vec<()>, sqlx::Error> {
        let mut writer = self.writer.acquire().await?;
        let mut tx = writer.begin_with(BEGIN).await?;
        windows::ack(&mut tx, &cursors(batch)).await?;
        tx.commit().await?;
        Ok(vec![(); batch.len()])
    }
}

/// Erases the items at these places, and says which were there and of which messages.
pub(super) async fn erase(
    tx: &mut SqliteConnection,
    places: impl IntoIterator<Item = (DeviceNo, Position)>,
) -> Result<HashMap<(DeviceNo, Position), MessageId>, sqlx::Error> {
    let erased = sqlx::query(
        "DELETE FROM mailbox_items WHERE (device_no, position) IN \
         (SELECT value ->> 0, value ->> 1 FROM json_each(?)) RETURNING device_no, position, message_id",
    )
    .bind(rows::places(places))
    .fetch_all(tx)
    .await?;
    let mut gone = HashMap::with_capacity(erased.len());
    for row in erased {
        let place = (rows::device_no(&row, "device_no")?, rows::position(&row, "position")?);
        gone.insert(place, MessageId::new(row.try_get("message_id")?));
    }
    Ok(gone)
}

async fn snapshot(tx: &mut SqliteConnection, batch: &[Send]) -> Result<Snapshot, sqlx::Error> {
    let mailboxes = mailboxes(tx, batch).await?;
    let counts = counts(tx, &decide::to_count(batch, &mailboxes)).await?;
    Ok(Snapshot {
        mailboxes,
        known: known(tx, batch).await?,
        conversations: conversations(tx, batch).await?,
        sender_sequences: sender_sequences(tx, batch).await?,
        counts,
    })
}

async fn mailboxes(
    tx: &mut SqliteConnection,
    batch: &[Send],
) -> Result<HashMap<UserId, Vec<Mailbox>>, sqlx::Error> {
    let recipients: HashSet<Uuid> = batch.iter().map(|send| send.recipient_id.uuid()).collect();
    let found = sqlx::query(
        "SELECT b.device_no, b.user_id, d.device_id, d.device_number, d.registration_id, \
         b.head, b.sequence, b.spare \
         FROM mailboxes b JOIN devices d ON d.device_no = b.device_no \
         WHERE b.user_id IN (SELECT unhex(value) FROM json_each(?)) ORDER BY b.device_no",
    )
    .bind(rows::uuids(recipients))
    .fetch_all(tx)
    .await?;
    let mut mailboxes: HashMap<UserId, Vec<Mailbox>> = HashMap::new();
    for row in found {
        let user_id = rows::user_id(&row, "user_id")?;
        mailboxes.entry(user_id).or_default().push(Mailbox {
            device_no: rows::device_no(&row, "device_no")?,
            user_id,
            device_id: rows::device_id(&row, "device_id")?,
            device_number: rows::device_number(&row, "device_number")?,
            registration_id: rows::registration_id(&row, "registration_id")?,
            head: rows::position(&row, "head")?,
            sequence: Sequence(row.try_get("sequence")?),
            spare: rows::position(&row, "spare")?,
        });
    }
    Ok(mailboxes)
}

async fn known(tx: &mut SqliteConnection, batch: &[Send]) -> Result<HashMap<MessageId, Known>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT message_id, sender_no, digest, conversation_id, sequence, accepted_at FROM messages \
         WHERE message_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(rows::uuids(batch.iter().map(|send| send.message_id.uuid())))
    .fetch_all(&mut *tx)
    .await?;
    let mut known = HashMap::with_capacity(found.len());
    for row in found {
        let message_id = MessageId::new(row.try_get("message_id")?);
        // A notice has neither digest nor conversation: no send is the same as it.
        let digest = match row.try_get::<Option<&[u8]>, _>("digest")? {
            Some(digest) => rows::digest(digest)?,
            None => [0; 32],
        };
        let receipt = Receipt {
            message_id,
            conversation_id: ConversationId::new(
                row.try_get::<Option<Uuid>, _>("conversation_id")?.unwrap_or_default(),
            ),
            sequence: Sequence(row.try_get::<Option<i64>, _>("sequence")?.unwrap_or_default()),
            accepted_at: rows::timestamp(&row, "accepted_at")?,
        };
        let sender = rows::device_no(&row, "sender_no")?;
        known.insert(message_id, Known { sender, digest, receipt });
    }
    known.extend(entries(tx, batch).await?);
    Ok(known)
}

/// Ids that entries of group logs have: no send is the same as an entry.
async fn entries(
    tx: &mut SqliteConnection,
    batch: &[Send],
) -> Result<HashMap<MessageId, Known>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT message_id, accepted_at FROM group_log \
         WHERE message_id IN (SELECT unhex(value) FROM json_each(?))",
    )
    .bind(rows::uuids(batch.iter().map(|send| send.message_id.uuid())))
    .fetch_all(tx)
    .await?;
    let mut entries = HashMap::with_capacity(found.len());
    for row in found {
        let message_id = MessageId::new(row.try_get("message_id")?);
        let receipt = Receipt {
            message_id,
            conversation_id: ConversationId::new(Uuid::nil()),
            sequence: Sequence(0),
            accepted_at: rows::timestamp(&row, "accepted_at")?,
        };
        entries.insert(message_id, Known { sender: NO_DEVICE, digest: [0; 32], receipt });
    }
    Ok(entries)
}

/// The participants of named conversations, each from one of its messages: all have the same two. A group's id is a
/// conversation of nobody.
async fn conversations(
    tx: &mut SqliteConnection,
    batch: &[Send],
) -> Result<HashMap<ConversationId, (UserId, UserId)>, sqlx::Error> {
    let named: HashSet<Uuid> = batch
        .iter()
        .filter_map(|send| match send.conversation {
            Conversation::Named(id) => Some(id.uuid()),
            Conversation::Own(_) => None,
        })
        .collect();
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    let named = rows::uuids(named);
    let groups =
        sqlx::query("SELECT group_id FROM groups WHERE group_id IN (SELECT unhex(value) FROM json_each(?))")
            .bind(&named)
            .fetch_all(&mut *tx)
            .await?;
    let mut conversations = HashMap::with_capacity(groups.len());
    for row in groups {
        let nobody = UserId::new(Uuid::nil());
        conversations.insert(ConversationId::new(row.try_get("group_id")?), (nobody, nobody));
    }
    let found = sqlx::query(
        "SELECT m.conversation_id, m.sender_id, m.recipient_id FROM json_each(?) c JOIN messages m \
         ON m.rowid = (SELECT first.rowid FROM messages first \
                       WHERE first.conversation_id = unhex(c.value) ORDER BY first.sequence LIMIT 1)",
    )
    .bind(named)
    .fetch_all(tx)
    .await?;
    for row in found {
        let id = ConversationId::new(row.try_get("conversation_id")?);
        conversations.insert(id, (rows::user_id(&row, "sender_id")?, rows::user_id(&row, "recipient_id")?));
    }
    Ok(conversations)
}

async fn sender_sequences(
    tx: &mut SqliteConnection,
    batch: &[Send],
) -> Result<HashMap<UserId, Sequence>, sqlx::Error> {
    let senders: HashSet<Uuid> = batch.iter().map(|send| send.sender.user_id.uuid()).collect();
    let found = sqlx::query(
        "SELECT user_id, max(sequence) AS sequence FROM mailboxes \
         WHERE user_id IN (SELECT unhex(value) FROM json_each(?)) GROUP BY user_id",
    )
    .bind(rows::uuids(senders))
    .fetch_all(tx)
    .await?;
    let mut sequences = HashMap::with_capacity(found.len());
    for row in found {
        sequences.insert(rows::user_id(&row, "user_id")?, Sequence(row.try_get("sequence")?));
    }
    Ok(sequences)
}

async fn counts(
    tx: &mut SqliteConnection,
    devices: &[DeviceNo],
) -> Result<HashMap<DeviceNo, HashMap<UserId, u32>>, sqlx::Error> {
    // An empty mailbox has been counted too.
    let mut counts: HashMap<_, HashMap<_, _>> =
        devices.iter().map(|&device| (device, HashMap::new())).collect();
    if devices.is_empty() {
        return Ok(counts);
    }
    let found = sqlx::query(
        "SELECT device_no, sender_id, count(*) AS items FROM mailbox_items \
         WHERE device_no IN (SELECT value FROM json_each(?)) GROUP BY device_no, sender_id",
    )
    .bind(rows::numbers(devices.iter().map(|device| device.0)))
    .fetch_all(tx)
    .await?;
    for row in found {
        let of_device = counts.entry(rows::device_no(&row, "device_no")?).or_default();
        of_device.insert(rows::user_id(&row, "sender_id")?, rows::count(row.try_get("items")?));
    }
    Ok(counts)
}

async fn write(tx: &mut SqliteConnection, writes: &Writes<'_>) -> Result<(), sqlx::Error> {
    for chunk in writes.messages.chunks(ROWS_AT_ONCE) {
        insert_messages(tx, chunk).await?;
    }
    for chunk in writes.items.chunks(ROWS_AT_ONCE) {
        insert_items(tx, chunk).await?;
    }
    if writes.mailboxes.is_empty() {
        return Ok(());
    }
    let changed = writes.mailboxes.iter();
    let changed =
        changed.map(|mailbox| [mailbox.device_no.0, mailbox.head.0, mailbox.sequence.0, mailbox.spare.0]);
    sqlx::query(
        "UPDATE mailboxes SET head = v.value ->> 1, sequence = v.value ->> 2, spare = v.value ->> 3 \
         FROM json_each(?) v WHERE mailboxes.device_no = v.value ->> 0",
    )
    .bind(rows::tuples(changed))
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_messages(tx: &mut SqliteConnection, chunk: &[NewMessage<'_>]) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO messages (message_id, kind, digest, sender_no, sender_id, recipient_id, \
         conversation_id, sequence, message_type, accepted_at, expires_at, due_at, self_destructing, places) ",
    );
    insert.push_values(chunk, |mut row, message| {
        let (send, receipt) = (message.send, message.receipt);
        row.push_bind(send.message_id.uuid()).push("0").push_bind(send.digest.to_vec());
        row.push_bind(send.sender.device_no.0).push_bind(send.sender.user_id.uuid());
        row.push_bind(send.recipient_id.uuid()).push_bind(receipt.conversation_id.uuid());
        row.push_bind(receipt.sequence.0).push_bind(send.message_type as i64);
        row.push_bind(receipt.accepted_at.millis()).push_bind(send.expires_at.millis());
        row.push_bind(message.due_at.millis()).push_bind(send.self_destructing);
        row.push_bind(rows::places(message.places.iter().copied()));
    });
    insert.build().persistent(false).execute(tx).await?;
    Ok(())
}

async fn insert_items(tx: &mut SqliteConnection, chunk: &[NewItem<'_>]) -> Result<(), sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO mailbox_items (device_no, position, message_id, sender_id, expires_at, \
         envelope_type, ephemeral_key, body) ",
    );
    insert.push_values(chunk, |mut row, item| {
        let (send, envelope) = (item.send, item.envelope);
        row.push_bind(item.device_no.0).push_bind(item.position.0).push_bind(send.message_id.uuid());
        row.push_bind(send.sender.user_id.uuid()).push_bind(send.expires_at.millis());
        row.push_bind(envelope.envelope_type as i64);
        row.push_bind(envelope.ephemeral_key.as_ref().map(|key| key.to_vec()));
        row.push_bind(envelope.ciphertext.to_vec());
    });
    insert.build().persistent(false).execute(tx).await?;
    Ok(())
}

/// Whether the same batch may be tried again, or is itself at fault.
pub(super) fn fault(error: sqlx::Error) -> Fault {
    const BATCH_AT_FAULT: [i64; 4] = [1, 18, 19, 20]; // SQL error, too big, constraint, mismatch
    let refused = match &error {
        sqlx::Error::Database(source) => {
            let code = source.code().and_then(|code| code.parse::<i64>().ok()).unwrap_or_default();
            BATCH_AT_FAULT.contains(&(code & 0xff))
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => false,
        _ => true,
    };
    if refused { Fault::Refused(error) } else { Fault::Transient(error) }
}
