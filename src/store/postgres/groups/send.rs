//! The lane of group sends: lock the groups that nobody else holds, read with a fresh snapshot, decide, write once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use sqlx::{Connection, Error, FromRow, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    super::{
        connect::LaneConnection,
        fault::{answered, classify},
        rows::{at, digest, missing, moment, uuids},
    },
    rows::handshake,
};
use crate::{
    domain::{
        Clock, DeviceNo, Epoch, GroupId, GroupReceipt, GroupSend, Handshake, MessageId, Position, UserId,
    },
    store::{
        Committed, GroupAccepted,
        group_batch::{self, Known, LockedGroup, Snapshot, Writes},
        lane::{Commit, Fault},
    },
};

pub(in super::super) const LOCK_FREE: &str = "\
    SELECT group_id, handshake, epoch, oldest_epoch, head, rolled_back FROM groups WHERE group_id = ANY($1) \
    ORDER BY group_id FOR UPDATE SKIP LOCKED";

pub(in super::super) const LOCK: &str = "\
    SELECT group_id, handshake, epoch, oldest_epoch, head, rolled_back FROM groups WHERE group_id = ANY($1) \
    ORDER BY group_id FOR UPDATE";

/// Ids that are taken; those of anything but an application entry without what its sender was told.
pub(in super::super) const KNOWN: &str = "\
    SELECT message_id, sender_no, digest, group_id, position, epoch, accepted_at, kind = 0 AS is_message \
    FROM group_log WHERE message_id = ANY($1) UNION ALL \
    SELECT message_id, 0, NULL, NULL, NULL, NULL, accepted_at, false FROM messages WHERE message_id = ANY($1)";

/// How the senders stand in the groups that exist.
pub(in super::super) const SENDERS: &str = "\
    SELECT g.group_id, n.device_no, w.device_no IS NOT NULL AS writes, n.user_id, \
        coalesce(m.invited, false) AS invited \
    FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS n(group_id, device_no, user_id) \
    JOIN groups g ON g.group_id = n.group_id \
    LEFT JOIN group_windows w ON w.group_id = g.group_id AND w.device_no = n.device_no AND w.closed_at IS NULL \
    LEFT JOIN group_members m ON m.group_id = g.group_id AND m.user_id = n.user_id";

pub(in super::super) const WRITE: &str = "\
    WITH moved AS ( \
        UPDATE groups g SET head = n.head FROM unnest($1::uuid[], $2::bigint[]) AS n(group_id, head) \
        WHERE g.group_id = n.group_id \
    ), joined AS ( \
        UPDATE group_members m SET invited = false FROM unnest($3::uuid[], $4::uuid[]) AS n(group_id, user_id) \
        WHERE m.group_id = n.group_id AND m.user_id = n.user_id \
    ) \
    INSERT INTO group_log (group_id, position, kind, message_id, digest, sender_no, sender_id, epoch, \
        message_type, accepted_at, expires_at, body) \
    SELECT n.group_id, n.position, 0, n.message_id, n.digest, n.sender_no, n.sender_id, n.epoch, n.message_type, \
        n.accepted_at, n.expires_at, n.body \
    FROM unnest($5::uuid[], $6::bigint[], $7::uuid[], $8::bytea[], $9::bigint[], $10::uuid[], $11::bigint[], \
        $12::smallint[], $13::timestamptz[], $14::timestamptz[], $15::bytea[]) \
    AS n(group_id, position, message_id, digest, sender_no, sender_id, epoch, message_type, accepted_at, \
        expires_at, body)";

/// Commits batches of group sends.
pub(in super::super) struct GroupSends {
    pub(in super::super) connection: Arc<LaneConnection>,
    pub(in super::super) committed: Committed,
    pub(in super::super) clock: Arc<dyn Clock>,
}

impl Commit<GroupSend, GroupAccepted> for GroupSends {
    fn commit<'a>(&'a self, batch: &'a [GroupSend]) -> BoxFuture<'a, Result<Vec<GroupAccepted>, Fault>> {
        Box::pin(async move {
            loop {
                // One is passed over all the same when its group was made after the locks were taken.
                let outcomes = answered(self.run(batch, LOCK)).await.map_err(classify)?;
                if let Some(outcomes) = outcomes.into_iter().collect() {
                    return Ok(outcomes);
                }
            }
        })
    }

    fn commit_free<'a>(
        &'a self,
        batch: &'a [GroupSend],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupAccepted>>, Fault>> {
        Box::pin(async move { answered(self.run(batch, LOCK_FREE)).await.map_err(classify) })
    }

    fn wait_together(&self, one: &GroupSend, other: &GroupSend) -> bool {
        one.group_id == other.group_id
    }
}

impl GroupSends {
    /// Commits what belongs to groups that `lock` gave.
    async fn run(
        &self,
        batch: &[GroupSend],
        lock: &'static str,
    ) -> Result<Vec<Option<GroupAccepted>>, Error> {
        let mut connection = self.connection.take().await?;
        let mut tx = connection.begin().await?;
        let groups = lock_groups(&mut tx, batch, lock).await?;
        let mut snapshot = Snapshot { groups, ..Snapshot::default() };
        let there = read_senders(&mut tx, batch, &mut snapshot).await?;
        snapshot.known = known(&mut tx, batch).await?;
        let is_held = |group: GroupId| there.contains(&group) && !snapshot.groups.contains_key(&group);
        let turns = turns(batch, is_held);
        let free = batch.iter().zip(&turns).filter(|(_, free)| **free).map(|(send, _)| send);
        let verdict = group_batch::decide(free, snapshot, self.clock.now());
        write(&mut tx, verdict.writes).await?;
        tx.commit().await?;
        self.connection.keep(connection);
        self.committed.hand_over_all(Vec::new(), verdict.entries);
        let mut outcomes = verdict.outcomes.into_iter();
        Ok(turns.into_iter().map(|free| if free { outcomes.next() } else { None }).collect())
    }
}

/// Which sends have their turn: not those to groups that are held, nor what came after those to the same group or from the
/// same device.
fn turns(batch: &[GroupSend], is_held: impl Fn(GroupId) -> bool) -> Vec<bool> {
    let mut groups: HashSet<GroupId> = HashSet::new();
    let mut devices: HashSet<DeviceNo> = HashSet::new();
    let mut turns = Vec::with_capacity(batch.len());
    for send in batch {
        let (group, device) = (send.group_id, send.sender.device_no);
        let waits = is_held(group) || groups.contains(&group) || devices.contains(&device);
        if waits {
            groups.insert(group);
            devices.insert(device);
        }
        turns.push(!waits);
    }
    turns
}

#[derive(FromRow)]
struct GroupRow {
    group_id: Uuid,
    handshake: i16,
    epoch: i64,
    oldest_epoch: i64,
    head: i64,
    rolled_back: bool,
}

impl GroupRow {
    fn locked(&self) -> Result<LockedGroup, Error> {
        Ok(LockedGroup {
            is_roster: handshake(self.handshake)? == Handshake::None,
            epoch: Epoch(self.epoch),
            oldest_epoch: Epoch(self.oldest_epoch),
            head: Position(self.head),
            rolled_back: self.rolled_back,
        })
    }
}

async fn lock_groups(
    tx: &mut PgConnection,
    batch: &[GroupSend],
    lock: &'static str,
) -> Result<HashMap<GroupId, LockedGroup>, Error> {
    let groups = uuids(batch.iter().map(|send| send.group_id), GroupId::uuid);
    let rows: Vec<GroupRow> = sqlx::query_as(lock).bind(groups).fetch_all(tx).await?;
    rows.into_iter().map(|row| Ok((GroupId::new(row.group_id), row.locked()?))).collect()
}

#[derive(FromRow)]
struct SenderRow {
    group_id: Uuid,
    device_no: i64,
    writes: bool,
    user_id: Uuid,
    invited: bool,
}

/// Reads how the senders stand, and returns the groups that exist.
async fn read_senders(
    tx: &mut PgConnection,
    batch: &[GroupSend],
    snapshot: &mut Snapshot,
) -> Result<HashSet<GroupId>, Error> {
    let pair = |send: &GroupSend| (send.group_id, send.sender.device_no, send.sender.user_id);
    let pairs: HashSet<_> = batch.iter().map(pair).collect();
    let rows: Vec<SenderRow> = sqlx::query_as(SENDERS)
        .bind(pairs.iter().map(|(group, _, _)| group.uuid()).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, device, _)| device.0).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, _, user)| user.uuid()).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    let mut there = HashSet::new();
    for row in rows {
        let group = GroupId::new(row.group_id);
        there.insert(group);
        if row.writes {
            snapshot.writers.insert((group, DeviceNo(row.device_no)));
        }
        if row.invited {
            snapshot.invited.insert((group, UserId::new(row.user_id)));
        }
    }
    Ok(there)
}

#[derive(FromRow)]
struct KnownRow {
    message_id: Uuid,
    sender_no: i64,
    digest: Option<Vec<u8>>,
    group_id: Option<Uuid>,
    position: Option<i64>,
    epoch: Option<i64>,
    accepted_at: OffsetDateTime,
    is_message: bool,
}

impl KnownRow {
    fn known(self) -> Result<(MessageId, Known), Error> {
        let message_id = MessageId::new(self.message_id);
        let receipt = if self.is_message {
            Some(GroupReceipt {
                message_id,
                group_id: self.group_id.map(GroupId::new).ok_or_else(missing)?,
                position: self.position.map(Position).ok_or_else(missing)?,
                epoch: self.epoch.map(Epoch).ok_or_else(missing)?,
                accepted_at: moment(self.accepted_at),
            })
        } else {
            None
        };
        let digest = self.digest.as_deref().map_or(Ok([0; 32]), digest)?;
        Ok((message_id, Known { sender: DeviceNo(self.sender_no), digest, receipt }))
    }
}

async fn known(tx: &mut PgConnection, batch: &[GroupSend]) -> Result<HashMap<MessageId, Known>, Error> {
    let ids = uuids(batch.iter().map(|send| send.message_id), MessageId::uuid);
    let rows: Vec<KnownRow> = sqlx::query_as(KNOWN).bind(ids).fetch_all(tx).await?;
    // An id that came to both lanes at one time lies in both tables. The entry's row tells repeats; it alone has a digest.
    let (own, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.digest.is_some());
    others.into_iter().chain(own).map(KnownRow::known).collect()
}

/// Writes what was decided; groups were locked already, entries go by id, as on every node.
async fn write(tx: &mut PgConnection, mut writes: Writes<'_>) -> Result<(), Error> {
    if writes.entries.is_empty() {
        return Ok(());
    }
    writes.entries.sort_unstable_by_key(|entry| entry.receipt.message_id);
    let entries = &writes.entries;
    sqlx::query(WRITE)
        .bind(writes.heads.iter().map(|(group, _)| group.uuid()).collect::<Vec<_>>())
        .bind(writes.heads.iter().map(|(_, head)| head.0).collect::<Vec<_>>())
        .bind(writes.joined.iter().map(|(group, _)| group.uuid()).collect::<Vec<_>>())
        .bind(writes.joined.iter().map(|(_, user)| user.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.receipt.group_id.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.receipt.position.0).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.receipt.message_id.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.send.digest.as_slice()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.send.sender.device_no.0).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.send.sender.user_id.uuid()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.receipt.epoch.0).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.send.message_type as i16).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| at(entry.receipt.accepted_at)).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.send.expires_at.map(at)).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| &*entry.send.body).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{Caller, DeviceId, DeviceNumber, MessageType};

    fn send(device: i64, group: u128) -> GroupSend {
        GroupSend {
            sender: Caller {
                user_id: UserId::new(Uuid::from_u128(7)),
                device_id: DeviceId::parse("phone").unwrap(),
                device_number: DeviceNumber::new(1).unwrap(),
                device_no: DeviceNo(device),
            },
            group_id: GroupId::new(Uuid::from_u128(group)),
            message_id: MessageId::new(Uuid::new_v4()),
            digest: [1; 32],
            epoch: None,
            message_type: MessageType::Opaque,
            expires_at: None,
            body: Bytes::new(),
        }
    }

    #[test]
    fn nothing_overtakes_what_is_held_in_its_group_or_from_its_device() {
        let held = GroupId::new(Uuid::from_u128(1));
        // To the held group; from the same device; to that one's group; from a device that has nothing to do with it.
        let batch =
            [send(1, 2), send(1, 1), send(2, 3), send(1, 4), send(3, 4), send(3, 5), send(2, 5), send(4, 3)];
        let turns = turns(&batch, |group| group == held);
        assert_eq!(turns, [true, false, true, false, false, false, false, true]);
    }
}
