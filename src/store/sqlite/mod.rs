//! The embedded engine: one `SQLite` database in the data folder, for a relay of one process.
//!
//! Every act that writes runs alone, on the one writing connection and under `BEGIN IMMEDIATE`, and in a task of its
//! own, so that dropping the caller's future leaves no transaction open. Reads use other connections and see what was
//! committed before they began. A commit is on the disk when it returns.

mod accept;
mod delete;
mod devices;
mod expire;
mod folder;
mod history;
mod keys;
mod ledger;
mod mailbox;
mod register;
mod rows;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{Connection as _, SqliteConnection};

use self::{
    accept::{Acceptance, Ack, Acking},
    folder::{Folder, MIGRATOR},
};
use super::{
    Accepted, Committed, Deactivated, Deleted, Expired, HistoryQuery, KeyUpload, Left, Limits, LinkOffer,
    LoggedIn, Login, Mark, Marked, OneTimeKeys, Published, Registered, Registration, Revocation, Rotated,
    Rotation, Session, SingleUse, Store, StoreError, TakenBundle,
    lane::{Bounds, Lane},
};
use crate::domain::{
    AuditEntry, Bodies, Caller, Clock, ConversationId, Delivery, Device, DeviceId, DeviceNo, IdentityKey,
    Item, KeyStats, LastingKeys, Message, MessageId, Position, Pseudonyms, SecurityEvent, Send, SessionId,
    Timestamp, UserId,
};

const BEGIN: &str = "BEGIN IMMEDIATE";

/// Rows of one INSERT: `SQLite` binds at most 32,766 values.
const ROWS_AT_ONCE: usize = 1000;

const SENDS: Bounds = Bounds { items: 4096, bytes: 64 << 20, batch: 256 };
const ACKS: Bounds = Bounds { items: 4096, bytes: 64 << 20, batch: 256 };

/// What a writing act hands back: its outcome and what it committed for hot delivery.
type Act<'c, T> = BoxFuture<'c, Result<(T, Vec<Delivery>), sqlx::Error>>;

/// The durable store in a data folder.
pub struct SqliteStore {
    pseudonyms: Pseudonyms,
    folder: Folder,
    limits: Limits,
    committed: Committed,
    sends: Lane<Send, Accepted>,
    acks: Lane<Ack, u32>,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made if it is missing and belongs to this process from now on, and brings
    /// its schema up to date. Sends are accepted at the time of `clock`; security events are entered under `pseudonyms`. Must be called within a runtime.
    ///
    /// # Errors
    /// When the folder or the database in it cannot be used, or another relay uses it.
    pub async fn open(
        folder: &Path,
        limits: Limits,
        committed: Committed,
        clock: Arc<dyn Clock>,
        pseudonyms: Pseudonyms,
    ) -> Result<Self, StoreError> {
        let folder = Folder::open(folder).await?;
        let writer = folder.writer.clone();
        let acceptance = Acceptance { writer: writer.clone(), limits, committed: committed.clone(), clock };
        Ok(Self {
            pseudonyms,
            folder,
            limits,
            committed,
            sends: Lane::start(SENDS, acceptance),
            acks: Lane::start(ACKS, Acking { writer }),
        })
    }

    /// Brings the schema of the database in `folder` up to date, and nothing else.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn migrate(folder: &Path) -> Result<(), StoreError> {
        Folder::open(folder).await?.close().await;
        Ok(())
    }

    /// Runs a writing act to its end, whatever becomes of the caller, and emits what it committed in commit order.
    async fn write_and_emit<T, F>(&self, act: F) -> Result<T, StoreError>
    where
        T: std::marker::Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Act<'c, T> + std::marker::Send + 'static,
    {
        let (pool, committed) = (self.folder.writer.clone(), self.committed.clone());
        let run = async move {
            let mut writer = pool.acquire().await?;
            let mut tx = writer.begin_with(BEGIN).await?;
            let (outcome, deliveries) = act(&mut tx).await?;
            tx.commit().await?;
            committed.hand_over(deliveries);
            Ok::<_, sqlx::Error>(outcome)
        };
        match tokio::spawn(run).await {
            Ok(done) => done.map_err(unavailable),
            Err(ended) => Err(unavailable(ended)),
        }
    }

    async fn write<T, F>(&self, act: F) -> Result<T, StoreError>
    where
        T: std::marker::Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + std::marker::Send
            + 'static,
    {
        self.write_and_emit(move |tx| act(tx).map(|outcome| outcome.map(|done| (done, Vec::new()))).boxed())
            .await
    }

    async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        let mut reader = self.folder.readers.acquire().await.map_err(unavailable)?;
        look(&mut reader).await.map_err(unavailable)
    }

    /// Moves what was committed into the database file and cuts the log, so that no erased body lingers there.
    async fn checkpoint(&self) -> Result<(), StoreError> {
        let mut writer = self.folder.writer.acquire().await.map_err(unavailable)?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *writer).await.map_err(unavailable)?;
        Ok(())
    }
}

fn unavailable(error: impl Into<Box<dyn std::error::Error + std::marker::Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

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
        let limits = self.limits;
        self.write(move |tx| register::register_device(tx, registration, limits, now).boxed()).await
    }

    async fn offer_link(&self, offer: LinkOffer, _now: Timestamp) -> Result<bool, StoreError> {
        self.write(move |tx| register::offer_link(tx, offer).boxed()).await
    }

    async fn take_bundle(
        &self,
        user: UserId,
        device: Option<&DeviceId>,
        _onetime: OneTimeKeys,
    ) -> Result<Option<TakenBundle>, StoreError> {
        let device = device.cloned();
        self.write(move |tx| keys::take_bundle(tx, user, device).boxed()).await
    }

    async fn take_bundles(
        &self,
        user: UserId,
        except: Option<DeviceNo>,
        _onetime: OneTimeKeys,
    ) -> Result<Option<Vec<TakenBundle>>, StoreError> {
        self.write(move |tx| keys::take_bundles(tx, user, except).boxed()).await
    }

    async fn publish_keys(
        &self,
        device: DeviceNo,
        upload: KeyUpload,
        now: Timestamp,
    ) -> Result<Published, StoreError> {
        let limits = self.limits;
        self.write(move |tx| keys::publish_keys(tx, device, upload, limits, now).boxed()).await
    }

    async fn deactivate(
        &self,
        by: &Caller,
        target: &DeviceId,
        now: Timestamp,
    ) -> Result<Deactivated, StoreError> {
        let (by, target) = (by.clone(), target.clone());
        self.write(move |tx| devices::deactivate(tx, by, target, now).boxed()).await
    }

    async fn devices(&self, user: UserId) -> Result<Vec<Device>, StoreError> {
        self.read(|conn| devices::devices(conn, user).boxed()).await
    }

    async fn note_seen(&self, device: DeviceNo, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |tx| devices::note_seen(tx, device, now).boxed()).await
    }

    async fn key_stats(&self, device: DeviceNo) -> Result<Option<KeyStats>, StoreError> {
        self.read(|conn| keys::key_stats(conn, device).boxed()).await
    }

    async fn lasting_keys(&self, device: DeviceNo) -> Result<Option<LastingKeys>, StoreError> {
        self.read(|conn| keys::lasting_keys(conn, device).boxed()).await
    }

    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        self.read(|conn| devices::revocations(conn, since).boxed()).await
    }

    async fn recovery_keys(&self, _user: UserId) -> Result<Vec<IdentityKey>, StoreError> {
        Err(not_built())
    }

    async fn has_written(&self, _conversation: ConversationId, _from: UserId) -> Result<bool, StoreError> {
        Err(not_built())
    }

    async fn open_session(&self, _login: Login, _now: Timestamp) -> Result<LoggedIn, StoreError> {
        Err(not_built())
    }

    async fn rotate_session(&self, _rotation: Rotation, _now: Timestamp) -> Result<Rotated, StoreError> {
        Err(not_built())
    }

    async fn end_session(
        &self,
        _device: DeviceNo,
        _session: SessionId,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        Err(not_built())
    }

    async fn sessions(&self, _user: UserId, _now: Timestamp) -> Result<Vec<Session>, StoreError> {
        Err(not_built())
    }

    async fn use_once(&self, _token: SingleUse) -> Result<bool, StoreError> {
        Err(not_built())
    }

    async fn note_event(
        &self,
        _user: UserId,
        _event: SecurityEvent,
        _now: Timestamp,
    ) -> Result<(), StoreError> {
        Err(not_built())
    }

    async fn audit(
        &self,
        _user: UserId,
        _before: Option<i64>,
        _limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        Err(not_built())
    }

    fn accept_envelopes(&self, send: Send) -> BoxFuture<'static, Result<Accepted, StoreError>> {
        let weight = weight(&send);
        self.sends.submit(send, weight)
    }

    fn ack(&self, device: DeviceNo, positions: Vec<Position>) -> BoxFuture<'static, Result<u32, StoreError>> {
        let weight = 64 + positions.len() * size_of::<Position>();
        self.acks.submit(Ack { device, positions }, weight)
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

    async fn close(&self) {
        self.folder.close().await;
    }
}

fn not_built() -> StoreError {
    StoreError::Unavailable("not built".into())
}
