//! The one connection for pub/sub, and the task that owns it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use redis::{AsyncConnectionConfig, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    fault::{Fault, jittered},
    link,
    listener::Listener,
    names::Topic,
    place::Node,
    way::{Post, Way},
};

/// How often the connection is asked whether it still lives; a half-open one says nothing by itself.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long an answer may take here: it comes behind whatever pushes came before it.
const DEADLINE: Duration = Duration::from_secs(2);

/// The first and the longest wait before another attempt to connect.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// How many wishes may wait for the task; more wait with their callers.
const WAITING: usize = 1_024;

/// How many channels one command names.
const CHANNELS_AT_ONCE: usize = 1_000;

/// How long a caller waits for its wish to be confirmed.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tells the task what this node wants to listen for.
pub(super) struct Wishes(mpsc::Sender<Wish>);

struct Wish {
    topic: Topic,
    listen: bool,
    confirmed: oneshot::Sender<Result<(), Fault>>,
}

impl Wishes {
    /// Returns once Redis has confirmed. After an error the wish stands all the same, if it got as far as the task.
    pub(super) async fn wish(&self, topic: Topic, listen: bool) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        let (confirmed, confirmation) = oneshot::channel();
        let sent = timeout_at(deadline, self.0.send(Wish { topic, listen, confirmed })).await;
        sent.map_err(|_| Fault::Deadline)?.map_err(|_| Fault::Closed)?;
        timeout_at(deadline, confirmation).await.map_err(|_| Fault::Deadline)?.map_err(|_| Fault::Closed)?
    }
}

/// Keeps the node's subscriptions, over any number of connections.
pub(super) struct Subscriber {
    way: Arc<Way>,
    listener: Arc<Listener>,
    wishes: mpsc::Receiver<Wish>,
    wanted: HashSet<Topic>,
    /// Whether events may have been missed that a session counted on.
    interrupted: bool,
}

/// A connection that pushes to the listener until it is dropped or `lost`.
struct Line {
    _silence_when_dropped: DropGuard,
    lost: CancellationToken,
    connection: MultiplexedConnection,
    /// Which node of a cluster it is to.
    node: Option<Node>,
}

impl Subscriber {
    pub(super) fn new(way: Arc<Way>, listener: Arc<Listener>) -> (Wishes, Self) {
        let (sender, wishes) = mpsc::channel(WAITING);
        let subscriber = Self { way, listener, wishes, wanted: HashSet::new(), interrupted: false };
        (Wishes(sender), subscriber)
    }

    /// Listens, connecting again and again, until dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.establish().await {
                Ok(line) => {
                    backoff = FIRST_BACKOFF;
                    self.serve(line).await;
                    tracing::warn!("connection for pub/sub was lost");
                    self.interrupted = true;
                }
                Err(fault) => {
                    if backoff == FIRST_BACKOFF {
                        tracing::warn!(reason = fault.reason(), "no connection for pub/sub");
                    }
                }
            }
            self.refuse_for(jittered(backoff)).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Connects and subscribes to all that is wanted, wherever that works first. Wishes wait meanwhile.
    async fn establish(&mut self) -> Result<Line, Fault> {
        let mut outcome = Err(Fault::NoSlots);
        for post in self.way.posts().await? {
            outcome = self.listen_at(post).await;
            if outcome.is_ok() {
                break;
            }
        }
        let line = outcome?;
        if self.interrupted {
            self.interrupted = false;
            tracing::info!("connection for pub/sub is back");
            self.listener.doorbell.resubscribed();
        }
        Ok(line)
    }

    async fn listen_at(&self, post: Post) -> Result<Line, Fault> {
        let lost = CancellationToken::new();
        let config = pushing_config(Arc::clone(&self.listener), lost.clone());
        let connection = post.client.get_multiplexed_async_connection_with_config(&config).await?;
        let silence = lost.clone().drop_guard();
        let mut line = Line { _silence_when_dropped: silence, lost, connection, node: post.node };
        let wanted: Vec<_> = self.wanted.iter().copied().collect();
        self.settle(&mut line, &wanted).await?;
        Ok(line)
    }

    /// Fulfils wishes until the line is lost.
    async fn serve(&mut self, mut line: Line) {
        let mut keepalive = interval(KEEPALIVE);
        keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let outcome = tokio::select! {
                () = line.lost.cancelled() => return,
                count = self.wishes.recv_many(&mut batch, CHANNELS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    self.fulfil(&mut line, std::mem::take(&mut batch)).await
                }
                _ = keepalive.tick() => {
                    if self.way.has_better_post(line.node.as_ref()).await {
                        tracing::debug!("going back to where publishers and subscribers meet");
                        return;
                    }
                    redis::cmd("PING").exec_async(&mut line.connection).await
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(reason = error.category(), "giving up the connection for pub/sub");
                return;
            }
        }
    }

    /// Wishes that came together are settled together: for each channel the last one counts.
    async fn fulfil(&mut self, line: &mut Line, batch: Vec<Wish>) -> RedisResult<()> {
        for wish in &batch {
            self.remember(wish);
        }
        let topics: HashSet<_> = batch.iter().map(|wish| wish.topic).collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let outcome = self.settle(line, &topics).await;
        for wish in batch {
            wish.answer(outcome.clone().map_err(Fault::from));
        }
        outcome
    }

    /// Brings the line's subscriptions to these channels into agreement with what is wanted.
    async fn settle(&self, line: &mut Line, topics: &[Topic]) -> RedisResult<()> {
        for topics in topics.chunks(CHANNELS_AT_ONCE) {
            let (wanted, unwanted): (Vec<_>, Vec<_>) =
                topics.iter().partition(|topic| self.wanted.contains(topic));
            let names = |topics: Vec<Topic>| -> Vec<String> {
                topics.into_iter().map(|topic| self.listener.names.channel(topic)).collect()
            };
            if !wanted.is_empty() {
                line.connection.subscribe(names(wanted)).await?;
            }
            // Without a name this command would end every subscription.
            if !unwanted.is_empty() {
                line.connection.unsubscribe(names(unwanted)).await?;
            }
        }
        Ok(())
    }

    /// Refuses wishes for a while, and remembers them.
    async fn refuse_for(&mut self, span: Duration) {
        let over = sleep(span);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(wish) = self.wishes.recv() => self.refuse(wish),
            }
        }
    }

    fn refuse(&mut self, wish: Wish) {
        self.remember(&wish);
        if wish.listen {
            self.interrupted = true;
            return wish.answer(Err(Fault::NotListening));
        }
        // Nothing is listened for without a connection.
        wish.answer(Ok(()));
    }

    fn remember(&mut self, wish: &Wish) {
        if wish.listen {
            self.wanted.insert(wish.topic);
        } else {
            self.wanted.remove(&wish.topic);
        }
    }
}

impl Wish {
    fn answer(self, outcome: Result<(), Fault>) {
        if self.confirmed.send(outcome).is_err() {
            tracing::debug!("a subscriber went away before its wish was settled");
        }
    }
}

/// RESP3 pushes are read with the answers, on one connection and in one order, and answers have deadlines.
fn pushing_config(listener: Arc<Listener>, lost: CancellationToken) -> AsyncConnectionConfig {
    link::config().set_response_timeout(Some(DEADLINE)).set_push_sender(move |push| {
        listener.hear(&push, &lost);
        Ok::<(), RedisError>(())
    })
}
