//! The store on Postgres 14 or later.
//!
//! Sends and acks go through lanes, which commit them in batches; every other act is one transaction. An act that is
//! dropped at an await rolls back: sqlx does so when a transaction is dropped.

mod accept;
mod ack;
mod audit;
mod blocks;
mod bundles;
mod connect;
mod deactivate;
mod deletion;
mod devices;
mod expiry;
mod fault;
mod groups;
mod history;
mod ledger;
mod mailbox;
mod message_row;
mod notices;
mod packages;
mod publish;
mod register;
mod restore;
mod revocations;
mod rows;
mod sessions;
mod single_use;
mod standing;
mod stock;
mod write_batch;

#[cfg(test)]
mod device_races;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod group_races;
#[cfg(test)]
mod logins;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use sqlx::PgPool;

use self::{
    accept::Accept,
    ack::{EntryAcks, ItemAcks},
    fault::{Repeat, attempt},
    groups::send::GroupSends,
};
use super::{
    Accepted, Committed, Deactivated, Deleted, Expired, GroupAccepted, HistoryQuery, KeyUpload, Left, Limits,
    LinkOffer, Load, LoggedIn, Login, Mark, Marked, OneTimeKeys, Pool, Published, Registered, Registration,
    Restored, Revocation, Rotated, Rotation, Session, SingleUse, Store, StoreError, TakenBundle,
    ack::{EntryAck, ItemAck},
    lane::{Bounds, Lane},
};
use crate::domain::{
    AuditEntry, Block, Caller, Clock, ConversationId, Device, DeviceId, DeviceNo, GroupSend, IdentityKey,
    Item, KeyStats, LastingKeys, Message, MessageId, NetworkKey, Position, Pseudonyms, SecurityEvent, Send,
    SessionId, Timestamp, UserId,
};
use connect::LaneConnection;

/// Connections for the lanes alone, one each, so that other acts never make a batch wait for one.
const LANES: u32 = 4;

/// Connections for what every node polls, revocations and heads: no flood of calls may make those wait.
const WATCH: u32 = 1;

const BOUNDS: Bounds = Bounds { items: 4_096, bytes: 64 << 20, batch: 256 };

/// The store on Postgres. Several may work on one database, in one process or many.
pub struct PostgresStore {
    pseudonyms: Pseudonyms,
    pool: PgPool,
    watch: PgPool,
    lanes: [Arc<LaneConnection>; 4],
    limits: Limits,
    committed: Committed,
    sends: Lane<Send, Accepted>,
    acks: Lane<ItemAck, u32>,
    group_sends: Lane<GroupSend, GroupAccepted>,
    group_acks: Lane<EntryAck, ()>,
}

impl PostgresStore {
    /// Whether this can be read as the address of a database. Nothing is asked there.
    #[must_use]
    pub fn is_address(url: &SecretString) -> bool {
        connect::is_address(url)
    }

    /// Connects, brings the schema up to date and starts the lanes on the current runtime. `clock` says when a send is
    /// accepted; what was committed goes to `committed`; security events are entered under `pseudonyms`.
    /// Of `max_connections` the lanes take four, what is polled one, and calls share the rest; at least six are used.
    pub async fn connect(
        url: &SecretString,
        max_connections: u32,
        limits: Limits,
        committed: Committed,
        clock: Arc<dyn Clock>,
        pseudonyms: Pseudonyms,
    ) -> Result<Self, StoreError> {
        connect::migrate(url).await?;
        let pool = connect::pool(url, max_connections.saturating_sub(LANES + WATCH).max(1)).await?;
        let watch = connect::pool(url, WATCH).await?;
        let lane = || LaneConnection::new(url).map(Arc::new);
        let lanes = [lane()?, lane()?, lane()?, lane()?];
        let [connection, for_acks, for_groups, for_group_acks] = lanes.clone();
        let for_groups =
            GroupSends { connection: for_groups, committed: committed.clone(), clock: Arc::clone(&clock) };
        let group_sends = Lane::start("group sends", BOUNDS, for_groups);
        let accept = Accept { connection, limits, committed: committed.clone(), clock };
        let sends = Lane::start("sends", BOUNDS, accept);
        let acks = Lane::start("acks", BOUNDS, ItemAcks { connection: for_acks });
        let group_acks = Lane::start("group acks", BOUNDS, EntryAcks { connection: for_group_acks });
        Ok(Self { pseudonyms, pool, watch, lanes, limits, committed, sends, acks, group_sends, group_acks })
    }

    /// The blocks that have not ended at `now`, for an operator beside the relay: nothing is migrated or started.
    pub async fn blocks_beside(url: &SecretString, now: Timestamp) -> Result<Vec<Block>, StoreError> {
        blocks::present_beside(url, now).await
    }

    /// Ends and forgets the block of one network, or all, and tells how many there were. Every node learns of it within
    /// seconds.
    pub async fn lift_blocks_beside(
        url: &SecretString,
        network: Option<NetworkKey>,
    ) -> Result<u64, StoreError> {
        blocks::lift_beside(url, network).await
    }

    /// Brings the schema up to date and does nothing else.
    pub async fn migrate(url: &SecretString) -> Result<(), StoreError> {
        connect::migrate(url).await
    }
}

/// Roughly how many bytes a send holds while it waits.
fn weight(send: &Send) -> usize {
    let bodies = match &send.bodies {
        crate::domain::Bodies::Same(envelope) => envelope.ciphertext.len(),
        crate::domain::Bodies::Each(each) => {
            each.iter().map(|addressed| addressed.envelope.ciphertext.len() + 128).sum()
        }
    };
    bodies + 512
}

#[async_trait]
impl Store for PostgresStore {
    async fn register_device(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        let subject = self.pseudonyms.of(registration.user_id);
        let act = || register::register(&self.pool, self.limits, subject, &registration, now);
        let (registered, deliveries) = attempt(Repeat::WhenUndone, act).await?;
        self.committed.hand_over(deliveries);
        Ok(registered)
    }

    async fn recovery_keys(&self, user: UserId) -> Result<Vec<IdentityKey>, StoreError> {
        attempt(Repeat::Always, || standing::recovery_keys(&self.pool, user)).await
    }

    async fn offer_link(&self, offer: LinkOffer, now: Timestamp) -> Result<bool, StoreError> {
        let subject = self.pseudonyms.of(offer.user_id);
        attempt(Repeat::WhenUndone, || devices::offer_link(&self.pool, subject, &offer, now)).await
    }

    async fn take_bundle(
        &self,
        user: UserId,
        device: Option<&DeviceId>,
        onetime: OneTimeKeys,
    ) -> Result<Option<TakenBundle>, StoreError> {
        attempt(Repeat::WhenUndone, || bundles::take_one(&self.pool, user, device, onetime)).await
    }

    async fn take_bundles(
        &self,
        user: UserId,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
    ) -> Result<Option<Vec<TakenBundle>>, StoreError> {
        attempt(Repeat::WhenUndone, || bundles::take_all(&self.pool, user, except, onetime)).await
    }

    async fn publish_keys(
        &self,
        device: DeviceNo,
        upload: KeyUpload,
        now: Timestamp,
    ) -> Result<Published, StoreError> {
        let act = || publish::publish(&self.pool, self.limits, &self.pseudonyms, device, &upload, now);
        attempt(Repeat::Always, act).await
    }

    async fn deactivate(
        &self,
        by: &Caller,
        target: &DeviceId,
        now: Timestamp,
    ) -> Result<Deactivated, StoreError> {
        let subject = self.pseudonyms.of(by.user_id);
        let act = || deactivate::deactivate(&self.pool, self.limits, subject, by, target, now);
        let (deactivated, deliveries) = attempt(Repeat::WhenUndone, act).await?;
        self.committed.hand_over(deliveries);
        Ok(deactivated)
    }

    async fn devices(&self, user: UserId) -> Result<Vec<Device>, StoreError> {
        attempt(Repeat::Always, || devices::list(&self.pool, user)).await
    }

    async fn note_seen(&self, device: DeviceNo, now: Timestamp) -> Result<(), StoreError> {
        attempt(Repeat::Always, || devices::note_seen(&self.pool, device, now)).await
    }

    async fn key_stats(&self, device: DeviceNo, now: Timestamp) -> Result<Option<KeyStats>, StoreError> {
        attempt(Repeat::Always, || publish::stats(&self.pool, device, now)).await
    }

    async fn lasting_keys(&self, device: DeviceNo) -> Result<Option<LastingKeys>, StoreError> {
        attempt(Repeat::Always, || publish::lasting(&self.pool, device)).await
    }

    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        attempt(Repeat::Always, || revocations::since(&self.watch, since)).await
    }

    async fn block(&self, network: NetworkKey, now: Timestamp) -> Result<Block, StoreError> {
        attempt(Repeat::Always, || blocks::block(&self.pool, network, now)).await
    }

    async fn blocks(&self, now: Timestamp) -> Result<Vec<Block>, StoreError> {
        attempt(Repeat::Always, || async { blocks::present(&mut *self.watch.acquire().await?, now).await })
            .await
    }

    async fn has_written(&self, conversation: ConversationId, from: UserId) -> Result<bool, StoreError> {
        attempt(Repeat::Always, || history::has_written(&self.pool, conversation, from)).await
    }

    async fn open_session(&self, login: Login, now: Timestamp) -> Result<LoggedIn, StoreError> {
        attempt(Repeat::WhenUndone, || sessions::open(&self.pool, &self.pseudonyms, &login, now)).await
    }

    async fn rotate_session(&self, rotation: Rotation, now: Timestamp) -> Result<Rotated, StoreError> {
        attempt(Repeat::Always, || sessions::rotate(&self.pool, &self.pseudonyms, &rotation, now)).await
    }

    async fn end_session(
        &self,
        device: DeviceNo,
        session: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let act = || sessions::end(&self.pool, &self.pseudonyms, device, session, now);
        attempt(Repeat::WhenUndone, act).await
    }

    async fn sessions(&self, user: UserId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        attempt(Repeat::Always, || sessions::list(&self.pool, user, now)).await
    }

    async fn use_once(&self, token: SingleUse) -> Result<bool, StoreError> {
        attempt(Repeat::WhenUndone, || single_use::use_up(&self.pool, token)).await
    }

    async fn note_event(&self, user: UserId, event: SecurityEvent, now: Timestamp) -> Result<(), StoreError> {
        let subject = self.pseudonyms.of(user);
        attempt(Repeat::WhenUndone, || audit::note(&self.pool, user, subject, event, now)).await
    }

    async fn audit(
        &self,
        user: UserId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let subject = self.pseudonyms.of(user);
        attempt(Repeat::Always, || audit::page(&self.pool, subject, before, limit)).await
    }

    fn accept_envelopes(&self, send: Send) -> BoxFuture<'static, Result<Accepted, StoreError>> {
        let weight = weight(&send);
        self.sends.submit(send, weight)
    }

    fn ack(&self, device: DeviceNo, positions: Vec<Position>) -> BoxFuture<'static, Result<u32, StoreError>> {
        let ack = ItemAck { device, positions };
        let weight = ack.weight();
        self.acks.submit(ack, weight)
    }

    async fn positions_of(&self, device: DeviceNo, ids: &[MessageId]) -> Result<Vec<Position>, StoreError> {
        attempt(Repeat::Always, || mailbox::positions_of(&self.pool, device, ids)).await
    }

    async fn mailbox_heads(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, Position)>, StoreError> {
        attempt(Repeat::Always, || mailbox::heads(&self.watch, devices)).await
    }

    async fn mailbox_left(
        &self,
        device: DeviceNo,
        after: Position,
        limit: u32,
        now: Timestamp,
    ) -> Result<Left, StoreError> {
        attempt(Repeat::Always, || mailbox::left(&self.pool, device, after, limit, now)).await
    }

    async fn mailbox_count(&self, device: DeviceNo, limit: u32, now: Timestamp) -> Result<u32, StoreError> {
        attempt(Repeat::Always, || mailbox::waiting(&self.pool, device, limit, now)).await
    }

    async fn mailbox_items(
        &self,
        device: DeviceNo,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<Vec<(Position, Item)>, StoreError> {
        attempt(Repeat::Always, || mailbox::items(&self.pool, device, positions, now)).await
    }

    async fn history(&self, query: HistoryQuery, now: Timestamp) -> Result<Option<Vec<Message>>, StoreError> {
        attempt(Repeat::Always, || history::page(&self.pool, query, now)).await
    }

    async fn mark(
        &self,
        recipient: UserId,
        message: MessageId,
        mark: Mark,
        now: Timestamp,
    ) -> Result<Option<Marked>, StoreError> {
        attempt(Repeat::Always, || history::mark(&self.pool, recipient, message, mark, now)).await
    }

    async fn delete_for_me(
        &self,
        user: UserId,
        message: MessageId,
    ) -> Result<Option<Vec<(DeviceNo, Position)>>, StoreError> {
        attempt(Repeat::Always, || deletion::for_me(&self.pool, user, message)).await
    }

    async fn delete_for_everyone(
        &self,
        sender: UserId,
        message: MessageId,
        now: Timestamp,
    ) -> Result<Deleted, StoreError> {
        let act = || deletion::for_everyone(&self.pool, self.limits, sender, message, now);
        let (deleted, deliveries) = attempt(Repeat::Always, act).await?;
        self.committed.hand_over(deliveries);
        Ok(deleted)
    }

    async fn expire(&self, now: Timestamp, limit: u32) -> Result<Expired, StoreError> {
        let mut expired = attempt(Repeat::Always, || expiry::messages(&self.pool, now, limit)).await?;
        let rest = attempt(Repeat::Always, || expiry::the_rest(&self.pool, now, limit)).await?;
        expired.forgotten = expired.forgotten.saturating_add(rest);
        expired.more |= rest >= limit;
        let of_groups = attempt(Repeat::Always, || groups::expiry::expire(&self.pool, now, limit)).await?;
        expired.bodies = expired.bodies.saturating_add(of_groups.bodies);
        expired.forgotten = expired.forgotten.saturating_add(of_groups.forgotten);
        expired.more |= of_groups.more;
        Ok(expired)
    }

    async fn after_restore(&self, now: Timestamp) -> Result<Restored, StoreError> {
        // Not attempted like the other acts: it takes as long as the store is large.
        restore::after(&self.pool, now).await.map_err(fault::unavailable)
    }

    async fn check(&self) -> Result<(), StoreError> {
        connect::check(&self.pool).await
    }

    fn load(&self) -> Load {
        let pool = |name, pool: &PgPool| Pool { name, open: pool.size() as usize, idle: pool.num_idle() };
        let lanes = [
            self.sends.waiting(),
            self.acks.waiting(),
            self.group_sends.waiting(),
            self.group_acks.waiting(),
        ];
        Load {
            pools: vec![pool("calls", &self.pool), pool("polls", &self.watch)],
            waiting: lanes.into_iter().chain([self.committed.waiting()]).collect(),
        }
    }

    async fn close(&self) {
        for lane in &self.lanes {
            lane.close();
        }
        tokio::join!(self.pool.close(), self.watch.close());
    }
}
