//! The lane of sends: lock the recipients' mailboxes, read with a fresh snapshot, decide, write once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use sqlx::{Connection, Error, FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    connect::LaneConnection,
    fault::{answered, classify},
    rows::{corrupt, device_id, device_number, device_numbers, digest, moment, registration_id, uuids},
    write_batch,
};
use crate::{
    domain::{
        Clock, Conversation, ConversationId, DeviceNo, MessageId, Position, Receipt, Send, Sequence, UserId,
    },
    metrics,
    store::{
        Accepted, Committed, Limits,
        decide::{self, Known, Mailbox, Snapshot},
        lane::{Commit, Fault},
    },
};

const LOCK_CONVERSATIONS: &str = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key";

pub(crate) const LOCK_MAILBOXES: &str = "\
    SELECT m.device_no, m.user_id, d.device_id, d.device_number, d.registration_id, m.head, m.sequence, m.spare \
    FROM mailboxes m JOIN devices d ON d.device_no = m.device_no \
    WHERE m.user_id = ANY($1) ORDER BY m.device_no FOR UPDATE OF m";

/// The id of an entry of a group's log is taken as well; no send is like it.
pub(crate) const KNOWN: &str = "\
    SELECT message_id, sender_no, digest, conversation_id, sequence, accepted_at \
    FROM messages WHERE message_id = ANY($1) UNION ALL \
    SELECT message_id, 0, NULL, NULL, NULL, accepted_at FROM group_log WHERE message_id = ANY($1)";

/// A group, whose ids come from the same space, counts as a conversation of nobody.
pub(crate) const PARTICIPANTS: &str = "\
    SELECT group_id, $2::uuid, $2::uuid FROM groups WHERE group_id = ANY($1) UNION ALL \
    SELECT c.id, m.sender_id, m.recipient_id FROM unnest($1::uuid[]) AS c(id) CROSS JOIN LATERAL \
    (SELECT sender_id, recipient_id FROM messages WHERE conversation_id = c.id ORDER BY sequence LIMIT 1) AS m";

/// Locks the name of a conversation or group until the end of the transaction, so that none is made under it meanwhile.
pub(super) async fn lock_conversation(tx: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    sqlx::query(LOCK_CONVERSATIONS).bind(lock_keys(&[id])).execute(tx).await?;
    Ok(())
}

pub(crate) const SUMS: &str =
    "SELECT user_id, max(sequence), count(*) FROM mailboxes WHERE user_id = ANY($1) GROUP BY user_id";

pub(crate) const COUNTS: &str = "\
    SELECT device_no, sender_id, count(*) FROM mailbox_items WHERE device_no = ANY($1) GROUP BY device_no, sender_id";

/// Commits batches of sends.
pub(super) struct Accept {
    pub(super) connection: Arc<LaneConnection>,
    pub(super) limits: Limits,
    pub(super) committed: Committed,
    pub(super) clock: Arc<dyn Clock>,
}

impl Commit<Send, Accepted> for Accept {
    fn commit<'a>(&'a self, batch: &'a [Send]) -> BoxFuture<'a, Result<Vec<Accepted>, Fault>> {
        Box::pin(async move { answered(self.run(batch)).await.map_err(classify) })
    }
}

impl Accept {
    async fn run(&self, batch: &[Send]) -> Result<Vec<Accepted>, Error> {
        let mut connection = self.connection.take().await?;
        let (mut tx, snapshot) = loop {
            let mut tx = connection.begin().await?;
            match snapshot(&mut tx, batch).await? {
                Some(snapshot) => break (tx, snapshot),
                None => tx.rollback().await?,
            }
        };
        let verdict = decide::decide(batch, snapshot, self.clock.now(), self.limits);
        let messages = verdict.writes.messages.len();
        write_batch::write(&mut tx, verdict.writes).await?;
        tx.commit().await?;
        metrics::messages_accepted(messages);
        self.connection.keep(connection);
        self.committed.hand_over(verdict.deliveries);
        Ok(verdict.outcomes)
    }
}

/// Locks, and then reads in new statements, which see what was committed while the locks were waited for. None when a
/// device was registered meanwhile whose mailbox is not locked: then everything must be let go and locked anew, because
/// one more lock on top of these could be out of order.
async fn snapshot(tx: &mut PgConnection, batch: &[Send]) -> Result<Option<Snapshot>, Error> {
    let named = named_conversations(batch);
    if !named.is_empty() {
        sqlx::query(LOCK_CONVERSATIONS).bind(lock_keys(&named)).execute(&mut *tx).await?;
    }
    let mailboxes = lock_mailboxes(tx, batch).await?;
    let sums = sums(tx, batch).await?;
    if !is_whole(&mailboxes, &sums, batch) {
        return Ok(None);
    }
    let crowded = decide::to_count(batch, &mailboxes);
    Ok(Some(Snapshot {
        known: known(tx, batch).await?,
        conversations: participants(tx, &named).await?,
        sender_sequences: sums.into_iter().map(|(user, sum)| (user, sum.sequence)).collect(),
        counts: counts(tx, &crowded).await?,
        mailboxes,
    }))
}

/// Whether every mailbox of every recipient is locked. The statement that locks takes its list before it waits: a device
/// that was registered during the wait is not on it, and the send would be stored without it. The number of mailboxes is
/// enough to tell, because none that is locked can be gone; and it comes with a statement that runs anyway.
fn is_whole(mailboxes: &HashMap<UserId, Vec<Mailbox>>, sums: &HashMap<UserId, Sum>, batch: &[Send]) -> bool {
    batch.iter().all(|send| {
        let locked = mailboxes.get(&send.recipient_id).map_or(0, Vec::len);
        let there = sums.get(&send.recipient_id).map_or(0, |sum| sum.mailboxes);
        locked == there
    })
}

fn named_conversations(batch: &[Send]) -> Vec<Uuid> {
    let named = batch.iter().filter_map(|send| match send.conversation {
        Conversation::Named(id) => Some(id),
        Conversation::Own(_) => None,
    });
    uuids(named, ConversationId::uuid)
}

/// Sorted, so that two batches wait for each other in one direction only.
fn lock_keys(conversations: &[Uuid]) -> Vec<i64> {
    let key = |id: &Uuid| {
        let hash = blake3::hash(id.as_bytes());
        hash.as_bytes().iter().take(8).fold(0_i64, |key, byte| (key << 8) | i64::from(*byte))
    };
    conversations.iter().map(key).collect::<BTreeSet<_>>().into_iter().collect()
}

#[derive(FromRow)]
struct MailboxRow {
    device_no: i64,
    user_id: Uuid,
    device_id: String,
    device_number: i16,
    registration_id: i32,
    head: i64,
    sequence: i64,
    spare: i64,
}

impl MailboxRow {
    fn mailbox(self) -> Result<Mailbox, Error> {
        Ok(Mailbox {
            device_no: DeviceNo(self.device_no),
            user_id: UserId::new(self.user_id),
            device_id: device_id(&self.device_id)?,
            device_number: device_number(self.device_number)?,
            registration_id: registration_id(self.registration_id)?,
            head: Position(self.head),
            sequence: Sequence(self.sequence),
            spare: Position(self.spare),
        })
    }
}

async fn lock_mailboxes(
    tx: &mut PgConnection,
    batch: &[Send],
) -> Result<HashMap<UserId, Vec<Mailbox>>, Error> {
    let recipients = uuids(batch.iter().map(|send| send.recipient_id), UserId::uuid);
    let rows: Vec<MailboxRow> = sqlx::query_as(LOCK_MAILBOXES).bind(recipients).fetch_all(tx).await?;
    let mut mailboxes: HashMap<UserId, Vec<Mailbox>> = HashMap::new();
    for row in rows {
        let mailbox = row.mailbox()?;
        mailboxes.entry(mailbox.user_id).or_default().push(mailbox);
    }
    Ok(mailboxes)
}

#[derive(FromRow)]
struct KnownRow {
    message_id: Uuid,
    sender_no: i64,
    digest: Option<Vec<u8>>,
    conversation_id: Option<Uuid>,
    sequence: Option<i64>,
    accepted_at: OffsetDateTime,
}

impl KnownRow {
    /// A notice has no sending device, digest or conversation; its id is taken all the same, and no send is like it.
    fn known(self) -> Result<Known, Error> {
        Ok(Known {
            sender: DeviceNo(self.sender_no),
            digest: self.digest.as_deref().map_or(Ok([0; 32]), digest)?,
            receipt: Receipt {
                message_id: MessageId::new(self.message_id),
                conversation_id: ConversationId::new(self.conversation_id.unwrap_or_default()),
                sequence: Sequence(self.sequence.unwrap_or_default()),
                accepted_at: moment(self.accepted_at),
            },
        })
    }
}

async fn known(tx: &mut PgConnection, batch: &[Send]) -> Result<HashMap<MessageId, Known>, Error> {
    let ids = uuids(batch.iter().map(|send| send.message_id), MessageId::uuid);
    let rows: Vec<KnownRow> = sqlx::query_as(KNOWN).bind(ids).fetch_all(tx).await?;
    let mut known = HashMap::with_capacity(rows.len());
    // An id that came to both lanes at one time lies in both tables. The send's own row tells repeats; it alone has a digest.
    let (own, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.digest.is_some());
    for row in others.into_iter().chain(own) {
        known.insert(MessageId::new(row.message_id), row.known()?);
    }
    Ok(known)
}

async fn participants(
    tx: &mut PgConnection,
    conversations: &[Uuid],
) -> Result<HashMap<ConversationId, (UserId, UserId)>, Error> {
    if conversations.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, Uuid, Uuid)> =
        sqlx::query_as(PARTICIPANTS).bind(conversations).bind(Uuid::nil()).fetch_all(tx).await?;
    let pair = |(id, one, other)| (ConversationId::new(id), (UserId::new(one), UserId::new(other)));
    Ok(rows.into_iter().map(pair).collect())
}

/// All mailboxes of a user together.
struct Sum {
    /// The highest sequence.
    sequence: Sequence,
    mailboxes: usize,
}

/// The mailboxes of everybody in the batch, with a snapshot from after the locks.
async fn sums(tx: &mut PgConnection, batch: &[Send]) -> Result<HashMap<UserId, Sum>, Error> {
    let users = batch.iter().flat_map(|send| [send.sender.user_id, send.recipient_id]);
    let rows: Vec<(Uuid, i64, i64)> =
        sqlx::query_as(SUMS).bind(uuids(users, UserId::uuid)).fetch_all(tx).await?;
    let sum = |(user, sequence, mailboxes): (Uuid, i64, i64)| {
        let mailboxes = usize::try_from(mailboxes).map_err(corrupt)?;
        Ok((UserId::new(user), Sum { sequence: Sequence(sequence), mailboxes }))
    };
    rows.into_iter().map(sum).collect()
}

async fn counts(
    tx: &mut PgConnection,
    mailboxes: &[DeviceNo],
) -> Result<HashMap<DeviceNo, HashMap<UserId, u32>>, Error> {
    if mailboxes.is_empty() {
        return Ok(HashMap::new());
    }
    let mut counts: HashMap<_, HashMap<_, _>> =
        mailboxes.iter().map(|device| (*device, HashMap::new())).collect();
    let rows: Vec<(i64, Uuid, i64)> =
        sqlx::query_as(COUNTS).bind(device_numbers(mailboxes)).fetch_all(tx).await?;
    for (device, sender, items) in rows {
        let of_senders = counts.entry(DeviceNo(device)).or_default();
        of_senders.insert(UserId::new(sender), super::rows::count(items));
    }
    Ok(counts)
}
