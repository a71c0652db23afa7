//! The acts, each handed to the file that knows it.

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::SqlitePool;

use super::{
    SqliteStore,
    audit::{self, Entry},
    blocks, bundles, delete, devices, expire,
    folder::MIGRATOR,
    history, keys, links, mailbox, recovery, register, restore, revocations, rows, sessions, unavailable,
    used,
};
use crate::{
    domain::{
        AuditEntry, Block, Bodies, Caller, ConversationId, Device, DeviceId, DeviceNo, IdentityKey, Item,
        KeyStats, LastingKeys, Message, MessageId, NetworkKey, Position, SecurityEvent, Send, SessionId,
        Timestamp, UserId,
    },
    store::{
        Accepted, Deactivated, Deleted, Expired, HistoryQuery, KeyUpload, Left, LinkOffer, Load, LoggedIn,
        Login, Mark, Marked, OneTimeKeys, Pool, Published, Registered, Registration, Restored, Revocation,
        Rotated, Rotation, Session, SingleUse, Store, StoreError, TakenBundle, ack::ItemAck,
    },
};

/// Roughly how many bytes a send holds.
fn weight(send: &Send) -> usize {
    let bodies = match &send.bodies {
        Bodies::Same(envelope) => envelope.ciphertext.len(),
        Bodies::Each(each) => each.iter().map(|addressed| addressed.envelope.ciphertext.len() + 128).sum(),
    };
    bodies + 512
}

#[async_trait]
impl Store for SqliteStore {
    async fn register_device(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<Registered, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| register::register_device(tx, registration, context).boxed()).await
    }

    async fn offer_link(&self, offer: LinkOffer, now: Timestamp) -> Result<bool, StoreError> {
        let context = self.context(now);
        self.write(move |tx| links::offer_link(tx, offer, context).boxed()).await
    }

    async fn take_bundle(
        &self,
        user: UserId,
        device: Option<&DeviceId>,
        onetime: OneTimeKeys,
    ) -> Result<Option<TakenBundle>, StoreError> {
        let device = device.cloned();
        self.write(move |tx| bundles::take_bundle(tx, user, device, onetime).boxed()).await
    }

    async fn take_bundles(
        &self,
        user: UserId,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
    ) -> Result<Option<Vec<TakenBundle>>, StoreError> {
        self.write(move |tx| bundles::take_bundles(tx, user, except, onetime).boxed()).await
    }

    async fn publish_keys(
        &self,
        device: DeviceNo,
        upload: KeyUpload,
        now: Timestamp,
    ) -> Result<Published, StoreError> {
        let context = self.context(now);
        self.write(move |tx| keys::publish_keys(tx, device, upload, context).boxed()).await
    }

    async fn deactivate(
        &self,
        by: &Caller,
        target: &DeviceId,
        now: Timestamp,
    ) -> Result<Deactivated, StoreError> {
        let (by, target, context) = (by.clone(), target.clone(), self.context(now));
        self.write_and_emit(move |tx| devices::deactivate(tx, by, target, context).boxed()).await
    }

    async fn devices(&self, user: UserId) -> Result<Vec<Device>, StoreError> {
        self.look(|conn| devices::devices(conn, user).boxed()).await
    }

    async fn note_seen(&self, device: DeviceNo, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |tx| devices::note_seen(tx, device, now).boxed()).await
    }

    async fn key_stats(&self, device: DeviceNo, now: Timestamp) -> Result<Option<KeyStats>, StoreError> {
        self.read(|conn| keys::key_stats(conn, device, now).boxed()).await
    }

    async fn lasting_keys(&self, device: DeviceNo) -> Result<Option<LastingKeys>, StoreError> {
        self.read(|conn| keys::lasting_keys(conn, device).boxed()).await
    }

    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        self.read(|conn| revocations::since(conn, since).boxed()).await
    }

    async fn block(&self, network: NetworkKey, now: Timestamp) -> Result<Block, StoreError> {
        self.write(move |tx| blocks::block(tx, network, now).boxed()).await
    }

    async fn blocks(&self, now: Timestamp) -> Result<Vec<Block>, StoreError> {
        self.read(|conn| blocks::present(conn, now).boxed()).await
    }

    async fn recovery_keys(&self, user: UserId) -> Result<Vec<IdentityKey>, StoreError> {
        self.read(|conn| recovery::keys(conn, user).boxed()).await
    }

    async fn has_written(&self, conversation: ConversationId, from: UserId) -> Result<bool, StoreError> {
        self.read(|conn| history::has_written(conn, conversation, from).boxed()).await
    }

    async fn open_session(&self, login: Login, now: Timestamp) -> Result<LoggedIn, StoreError> {
        let context = self.context(now);
        self.write(move |tx| sessions::open_session(tx, login, context).boxed()).await
    }

    async fn rotate_session(&self, rotation: Rotation, now: Timestamp) -> Result<Rotated, StoreError> {
        let context = self.context(now);
        self.write(move |tx| sessions::rotate_session(tx, rotation, context).boxed()).await
    }

    async fn end_session(
        &self,
        device: DeviceNo,
        session: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let context = self.context(now);
        self.write(move |tx| sessions::end_session(tx, device, session, context).boxed()).await
    }

    async fn sessions(&self, user: UserId, now: Timestamp) -> Result<Vec<Session>, StoreError> {
        self.read(|conn| sessions::sessions(conn, user, now).boxed()).await
    }

    async fn use_once(&self, token: SingleUse) -> Result<bool, StoreError> {
        self.write(move |tx| used::use_once(tx, token).boxed()).await
    }

    async fn note_event(&self, user: UserId, event: SecurityEvent, now: Timestamp) -> Result<(), StoreError> {
        let context = self.context(now);
        let entry = Entry { user, event, device: None, by: None };
        self.write(move |tx| async move { audit::note(tx, entry, &context).await }.boxed()).await
    }

    async fn audit(
        &self,
        user: UserId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let subject = self.pseudonyms.of(user);
        self.read(|conn| audit::entries(conn, subject, before, limit).boxed()).await
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
        let ids = rows::uuids(ids.iter().map(|id| id.uuid()));
        self.read(|conn| mailbox::positions_of(conn, device, ids).boxed()).await
    }

    async fn mailbox_heads(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, Position)>, StoreError> {
        let devices = rows::numbers(devices.iter().map(|device| device.0));
        self.read(|conn| mailbox::heads(conn, devices).boxed()).await
    }

    async fn mailbox_left(
        &self,
        device: DeviceNo,
        after: Position,
        limit: u32,
        now: Timestamp,
    ) -> Result<Left, StoreError> {
        self.read(|conn| mailbox::left(conn, device, after, limit, now).boxed()).await
    }

    async fn mailbox_count(&self, device: DeviceNo, limit: u32, now: Timestamp) -> Result<u32, StoreError> {
        self.read(|conn| mailbox::count(conn, device, limit, now).boxed()).await
    }

    async fn mailbox_items(
        &self,
        device: DeviceNo,
        positions: &[Position],
        now: Timestamp,
    ) -> Result<Vec<(Position, Item)>, StoreError> {
        let positions = rows::numbers(positions.iter().map(|position| position.0));
        self.read(|conn| mailbox::items(conn, device, positions, now).boxed()).await
    }

    async fn history(&self, query: HistoryQuery, now: Timestamp) -> Result<Option<Vec<Message>>, StoreError> {
        self.read(|conn| history::history(conn, query, now).boxed()).await
    }

    async fn mark(
        &self,
        recipient: UserId,
        message: MessageId,
        mark: Mark,
        now: Timestamp,
    ) -> Result<Option<Marked>, StoreError> {
        self.write(move |tx| history::mark(tx, recipient, message, mark, now).boxed()).await
    }

    async fn delete_for_me(
        &self,
        user: UserId,
        message: MessageId,
    ) -> Result<Option<Vec<(DeviceNo, Position)>>, StoreError> {
        self.write(move |tx| delete::delete_for_me(tx, user, message).boxed()).await
    }

    async fn delete_for_everyone(
        &self,
        sender: UserId,
        message: MessageId,
        now: Timestamp,
    ) -> Result<Deleted, StoreError> {
        let limits = self.limits;
        self.write_and_emit(move |tx| delete::delete_for_everyone(tx, sender, message, limits, now).boxed())
            .await
    }

    async fn expire(&self, now: Timestamp, limit: u32) -> Result<Expired, StoreError> {
        let expired = self.write(move |tx| expire::expire(tx, now, limit).boxed()).await?;
        if !expired.more {
            self.checkpoint().await?;
        }
        Ok(expired)
    }

    async fn after_restore(&self, now: Timestamp) -> Result<Restored, StoreError> {
        self.write(move |tx| restore::after(tx, now).boxed()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let latest: Option<i64> = self
            .read(|conn| {
                sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
                    .fetch_one(conn)
                    .boxed()
            })
            .await?;
        if latest == MIGRATOR.iter().map(|migration| migration.version).max() {
            return Ok(());
        }
        Err(unavailable("the schema is not the one this relay knows"))
    }

    fn load(&self) -> Load {
        let pool = |name, pool: &SqlitePool| Pool { name, open: pool.size() as usize, idle: pool.num_idle() };
        let lanes = [
            self.sends.waiting(),
            self.acks.waiting(),
            self.group_sends.waiting(),
            self.group_acks.waiting(),
        ];
        Load {
            pools: vec![pool("writer", &self.folder.writer), pool("readers", &self.folder.readers)],
            waiting: lanes.into_iter().chain([self.committed.waiting()]).collect(),
        }
    }

    async fn close(&self) {
        self.folder.close().await;
    }
}
