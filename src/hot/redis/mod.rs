//! Hot state in Redis: one channel and one offline queue (a stream) for each device, one channel and one state for each group,
//! one counter for each budget and one set for each crowd, for any number of nodes, on one server or on a cluster.
//!
//! Every command names one key or channel, so that a cluster can take it. Nothing waits for Redis for long: acts have
//! deadlines, and fail at once for a moment after one failed.

mod budget;
mod cluster;
mod codec;
mod crowd;
mod fault;
mod flush;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod link;
mod listener;
mod names;
mod place;
mod script;
mod slots;
mod subscriber;
mod way;

pub use flush::flush;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{ErrorKind, Pipeline, ServerErrorKind};
use secrecy::SecretString;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    budget::{Budgets, Time},
    codec::NodeId,
    crowd::Crowds,
    fault::Fault,
    listener::Listener,
    names::{Names, Topic},
    place::Place,
    subscriber::{Subscriber, Wishes},
    way::Way,
};
use super::{Doorbell, Event, GroupEvent, Hot, HotError, QUEUE_LENGTH, STATE_LIFE, STATE_WEIGHT};
use crate::domain::{
    BudgetKey, Delivery, DeviceNo, GroupId, Item, Lease, LogEntry, Position, Quota, Timestamp,
};

/// How long an offline queue outlives its last item.
const QUEUE_LIFE: Duration = Duration::from_hours(30 * 24);

/// How much one pipeline carries at most, in deliveries and in bytes, so that its answer comes within the deadline.
const PIPELINE_LENGTH: usize = 256;
const PIPELINE_WEIGHT: usize = 1024 * 1024;

/// How many bodies are asked for at once, for the same reason.
const POSITIONS_AT_ONCE: usize = 64;

/// A node's engine on Redis. Its tasks and connections end when it is closed or dropped.
pub struct RedisHot {
    node: NodeId,
    names: Names,
    way: Arc<Way>,
    budgets: Budgets,
    crowds: Crowds,
    wishes: Wishes,
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// An entry of a stream: its id, its fields and values.
type Entry = (String, Vec<Vec<u8>>);

impl RedisHot {
    /// Whether this can be read as the address of a server or a cluster. Nothing is asked there.
    #[must_use]
    pub fn is_address(url: &SecretString) -> bool {
        Place::of(url).is_ok()
    }

    /// Begins to connect to `redis://…`, or to the cluster that the nodes of `redis+cluster://host:port,host:port` are
    /// of, with channels and keys under `prefix`. Redis 6 or later is needed, but may be away: acts fail until it is
    /// there. Must be called on a Tokio runtime.
    ///
    /// # Errors
    /// When the URL is not usable, or there is no runtime.
    pub fn connect(url: &SecretString, prefix: &str, doorbell: Arc<dyn Doorbell>) -> Result<Self, HotError> {
        let place = Place::of(url).map_err(Fault::Url)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(Fault::from)?;
        let node = NodeId::random();
        let names = Names::under(prefix);
        let listener = Arc::new(Listener::new(node, names.clone(), doorbell));
        // Any slot would do, but relays that share a cluster had better not all choose the same one.
        let way = Way::to(place, slots::slot(prefix.as_bytes()));
        let (wishes, subscriber) = Subscriber::new(Arc::clone(&way), listener);
        let closed = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn_on(closed.clone().run_until_cancelled_owned(subscriber.run()), &runtime);
        tasks.close();
        let (budgets, crowds) = (Budgets::by(Time::OfRedis), Crowds::of(node));
        Ok(Self { node, names, way, budgets, crowds, wishes, tasks, closed })
    }

    /// Fills budgets by the time that callers tell instead of Redis' own: for nodes that read one and the same clock
    /// ([`Clock::is_common`](crate::domain::Clock::is_common)).
    #[must_use]
    pub fn by_callers_time(mut self) -> Self {
        self.budgets = Budgets::by(Time::OfCallers);
        self
    }

    /// Publishes the deliveries and gives back those that nobody received.
    async fn publish<'a>(&self, deliveries: &'a [Delivery]) -> Result<Vec<&'a Delivery>, Fault> {
        let mut pipeline = Pipeline::with_capacity(deliveries.len());
        for delivery in deliveries {
            let payload = codec::encode(self.node, delivery.device_no, &Event::about(delivery))?;
            pipeline.cmd("PUBLISH").arg(self.names.channel(Topic::Device(delivery.device_no))).arg(payload);
        }
        let mut unheard = Vec::new();
        for (delivery, receivers) in deliveries.iter().zip(self.way.publish::<u64>(&mut pipeline).await?) {
            if receivers? == 0 {
                unheard.push(delivery);
            }
        }
        Ok(unheard)
    }

    /// Appends the deliveries to their devices' offline queues.
    async fn keep(&self, deliveries: &[&Delivery]) -> Result<(), Fault> {
        let mut pipeline = Pipeline::with_capacity(deliveries.len() + 1);
        for delivery in deliveries {
            let event = Event::Item(delivery.position, Arc::clone(&delivery.item));
            let payload = codec::encode(self.node, delivery.device_no, &event)?;
            pipeline.cmd("XADD").arg(self.names.queue(delivery.device_no));
            pipeline.arg("MAXLEN").arg("~").arg(QUEUE_LENGTH);
            pipeline.arg(entry_id(delivery.position)).arg("b").arg(payload);
        }
        let mut devices: Vec<_> = deliveries.iter().map(|delivery| delivery.device_no).collect();
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            pipeline.cmd("EXPIRE").arg(self.names.queue(device)).arg(QUEUE_LIFE.as_secs());
        }
        let mut failed = Ok(());
        for answer in self.way.run::<()>(&mut pipeline).await? {
            match answer {
                Err(fault) if !is_plain_refusal(&fault) => failed = Err(fault),
                Ok(()) | Err(_) => {}
            }
        }
        failed
    }

    /// Runs commands of which only success matters.
    async fn act(&self, pipeline: &mut Pipeline) -> Result<(), Fault> {
        for answer in self.way.run::<()>(pipeline).await? {
            answer?;
        }
        Ok(())
    }
}

impl Drop for RedisHot {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

#[async_trait]
impl Hot for RedisHot {
    async fn subscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        Ok(self.wishes.wish(Topic::Device(device), true).await?)
    }

    async fn unsubscribe(&self, device: DeviceNo) -> Result<(), HotError> {
        Ok(self.wishes.wish(Topic::Device(device), false).await?)
    }

    async fn deliver(&self, deliveries: &[Delivery]) -> Result<(), HotError> {
        let mut rest = deliveries;
        let mut failed = Ok(());
        while !rest.is_empty() {
            let weights = rest.iter().map(|delivery| delivery.item.weight());
            let (batch, later) = rest.split_at(batch_length(weights));
            let unheard = self.publish(batch).await?;
            // A body that is to be erased early lies in the store alone.
            let lasting: Vec<_> = unheard.into_iter().filter(|it| !it.item.is_self_destructing()).collect();
            // In a cluster one node may be away, and the others are not.
            failed = self.keep(&lasting).await.and(failed);
            rest = later;
        }
        Ok(failed?)
    }

    async fn notify(&self, device: DeviceNo, event: Event) -> Result<(), HotError> {
        let payload = codec::encode(self.node, device, &event).map_err(Fault::from)?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("PUBLISH").arg(self.names.channel(Topic::Device(device))).arg(payload);
        for answer in self.way.publish::<()>(&mut pipeline).await? {
            answer?;
        }
        Ok(())
    }

    async fn cached(
        &self,
        device: DeviceNo,
        positions: &[Position],
    ) -> Result<HashMap<Position, Arc<Item>>, HotError> {
        let queue = self.names.queue(device);
        let mut items = HashMap::with_capacity(positions.len());
        for positions in positions.chunks(POSITIONS_AT_ONCE) {
            let mut pipeline = Pipeline::new();
            for (first, last) in runs(positions) {
                pipeline.cmd("XRANGE").arg(&queue).arg(entry_id(first)).arg(entry_id(last));
            }
            for entries in self.way.run::<Vec<Entry>>(&mut pipeline).await? {
                items.extend(entries?.iter().filter_map(|entry| read(device, entry)));
            }
        }
        Ok(items)
    }

    async fn forget(&self, device: DeviceNo, positions: &[Position]) -> Result<(), HotError> {
        let ids: Vec<_> =
            positions.iter().filter(|position| position.0 >= 0).map(|at| entry_id(*at)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipeline = Pipeline::new();
        pipeline.cmd("XDEL").arg(self.names.queue(device)).arg(ids);
        Ok(self.act(&mut pipeline).await?)
    }

    async fn forget_device(&self, device: DeviceNo) -> Result<(), HotError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("DEL").arg(self.names.queue(device));
        Ok(self.act(&mut pipeline).await?)
    }

    async fn subscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        Ok(self.wishes.wish(Topic::Group(group), true).await?)
    }

    async fn unsubscribe_group(&self, group: GroupId) -> Result<(), HotError> {
        Ok(self.wishes.wish(Topic::Group(group), false).await?)
    }

    async fn publish_entries(&self, entries: &[Arc<LogEntry>]) -> Result<(), HotError> {
        let mut rest = entries;
        let mut failed = Ok(());
        while !rest.is_empty() {
            let weights = rest.iter().map(|entry| entry.weight());
            let (batch, later) = rest.split_at(batch_length(weights));
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for entry in batch {
                let event = GroupEvent::about(entry);
                let payload = codec::encode_group(self.node, entry.group_id, &event).map_err(Fault::from)?;
                pipeline.cmd("PUBLISH").arg(self.names.channel(Topic::Group(entry.group_id))).arg(payload);
            }
            for answer in self.way.publish::<()>(&mut pipeline).await? {
                failed = answer.and(failed);
            }
            rest = later;
        }
        Ok(failed?)
    }

    async fn keep_state(&self, group: GroupId, _digest: [u8; 32], state: Bytes) -> Result<(), HotError> {
        let mut pipeline = Pipeline::with_capacity(1);
        if state.len() > STATE_WEIGHT {
            pipeline.cmd("DEL").arg(self.names.state(group));
        } else {
            pipeline.cmd("SET").arg(self.names.state(group)).arg(state.as_ref());
            pipeline.arg("EX").arg(STATE_LIFE.as_secs());
        }
        Ok(self.act(&mut pipeline).await?)
    }

    async fn state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, HotError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("GET").arg(self.names.state(group));
        let mut answers = self.way.run::<Option<Vec<u8>>>(&mut pipeline).await?;
        let state = answers.pop().ok_or(Fault::NoAnswer)??;
        // What lies there may be another epoch's, or anything.
        Ok(state.filter(|state| *blake3::hash(state).as_bytes() == digest).map(Bytes::from))
    }

    async fn lease(
        &self,
        budget: BudgetKey,
        quota: Quota,
        most: u32,
        now: Timestamp,
    ) -> Result<Lease, HotError> {
        let key = self.names.budget(budget);
        Ok(self.budgets.lease(&self.way, key, quota, most, now).await?)
    }

    async fn hold(
        &self,
        crowd: BudgetKey,
        holder: Uuid,
        most: u32,
        life: Duration,
    ) -> Result<bool, HotError> {
        Ok(self.crowds.hold(&self.way, &self.names, (crowd, holder), most, life).await?)
    }

    async fn renew(&self, held: &[(BudgetKey, Uuid)], life: Duration) -> Result<(), HotError> {
        Ok(self.crowds.renew(&self.way, &self.names, held, life).await?)
    }

    async fn release(&self, held: &[(BudgetKey, Uuid)]) -> Result<(), HotError> {
        Ok(self.crowds.release(&self.way, &self.names, held).await?)
    }

    async fn check(&self) -> Result<(), HotError> {
        Ok(self.way.check().await?)
    }

    async fn close(&self) {
        self.closed.cancel();
        self.way.close();
        self.tasks.wait().await;
    }
}

/// A queue's entries are named by their positions, so that Redis itself refuses to go back.
fn entry_id(position: Position) -> String {
    format!("{}-0", position.0)
}

/// How many things of these weights go into the next pipeline: at least one.
fn batch_length(weights: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    let fitting = weights.take(PIPELINE_LENGTH).take_while(|weight| {
        sum += weight;
        sum <= PIPELINE_WEIGHT
    });
    fitting.count().max(1)
}

/// The positions as ranges without gaps, so that nothing is read that was not asked for.
fn runs(positions: &[Position]) -> Vec<(Position, Position)> {
    let mut sorted: Vec<_> = positions.iter().copied().filter(|position| position.0 >= 0).collect();
    sorted.sort_unstable();
    let mut runs: Vec<(Position, Position)> = Vec::new();
    for position in sorted {
        match runs.last_mut() {
            Some((_, last)) if position <= last.next() => *last = position,
            _ => runs.push((position, position)),
        }
    }
    runs
}

/// The item of an entry, if it is what its place says it is.
fn read(device: DeviceNo, (id, fields): &Entry) -> Option<(Position, Arc<Item>)> {
    let [_, payload] = fields.as_slice() else { return None };
    match codec::decode(payload) {
        Ok((owner, Event::Item(position, item))) if owner == device && *id == entry_id(position) => {
            Some((position, item))
        }
        // A cache may hold anything, and the store has the item.
        Ok(_) | Err(_) => None,
    }
}

/// Whether Redis only found the entry's id not greater than the last one, which leaves the item uncached.
fn is_plain_refusal(fault: &Fault) -> bool {
    matches!(fault, Fault::Redis(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError))
}
