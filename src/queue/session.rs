//! A device's socket: one owner loop, one writer.
//!
//! What is written comes from the session's cursor: a live item only when it is the next one, otherwise the store is
//! read. So positions are shown in order and without a gap, whatever the speed of publish and page.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::Arc,
    time::Duration,
};

use actix_web::rt;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use uuid::Uuid;

use super::{
    Queue,
    cursor::{Cursor, Step},
    frames::{ClientFrame, Format, ServerFrame, read},
    goodbye::Goodbye,
    inbox::{Inbound, Inbox},
    outbox::Outbox,
};
use crate::{
    auth::Authority,
    config::SocketTimes,
    domain::{Caller, Item, MessageId, Position, Timestamp},
    hot::{End, Event, KeysLow, Seat, Signal},
    http::Problem,
    keys::LOW,
    messages::{Messages, SendBody, SendFrame, SendRequest, SentAnswer},
    store::{Mark, StoreError},
    wire::{Id, Time},
};

/// Requests of one socket that may be answered at the same time; past them nothing more is read.
const UNANSWERED: usize = 64;

/// Bad frames within a minute that a socket survives.
const BAD_FRAMES: usize = 9;

/// The highest number of waiting items that `hello` tells.
const MOST_PENDING: u32 = 1000;

/// What every session needs.
pub(super) struct Sockets {
    pub queue: Arc<Queue>,
    pub messages: Arc<Messages>,
    pub authority: Arc<Authority>,
    pub times: SocketTimes,
    pub in_flight: usize,
    /// Cancelled when the relay stops.
    pub stop: CancellationToken,
}

/// What a request became, to be written when it is ready.
type Answer = LocalBoxFuture<'static, Option<ServerFrame>>;

/// A connected device.
pub(super) struct Session {
    sockets: Arc<Sockets>,
    caller: Caller,
    id: Uuid,
    format: Format,
    inbox: Inbox,
    outbox: Outbox,
    /// When the token ends; none in open mode.
    expires_at: Option<Timestamp>,
    cursor: Cursor,
    /// Written and not yet acked.
    in_flight: HashMap<MessageId, Position>,
    answers: FuturesUnordered<Answer>,
    bad_frames: VecDeque<Instant>,
    heard_at: Instant,
    /// Since when nothing could be written.
    stalled_since: Option<Instant>,
}

impl Session {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        caller: Caller,
        expires_at: Option<Timestamp>,
        format: Format,
        inbox: Inbox,
        outbox: Outbox,
    ) -> Self {
        Self {
            caller,
            // In the order of time, so that two nodes that hear of each other's session at the same moment agree which
            // one is the newer.
            id: MessageId::fresh(sockets.queue.clock.now()).uuid(),
            format,
            inbox,
            outbox,
            expires_at,
            cursor: Cursor::new(),
            in_flight: HashMap::new(),
            answers: FuturesUnordered::new(),
            bad_frames: VecDeque::new(),
            heard_at: Instant::now(),
            stalled_since: None,
            sockets,
        }
    }

    /// Serves the socket to its end. `_running` keeps the relay from stopping before the goodbye is written.
    pub(super) async fn run(mut self, _running: TaskTrackerToken) {
        // Listening comes before reading, so that nothing falls between.
        let seat = self.sockets.queue.switchboard.clone().open(self.caller.device_no, self.id).await;
        let goodbye = match self.greet().await {
            Ok(()) => self.serve(&seat).await,
            Err(error) => {
                tracing::debug!(%error, "a socket could not be opened");
                Goodbye::TryAgain
            }
        };
        drop(seat);
        if matches!(goodbye, Goodbye::GoingAway) {
            while let Some(answer) = self.answers.next().await {
                self.write_all(answer.as_ref());
            }
        }
        match goodbye.frame() {
            Some((code, reason)) => self.outbox.close(code, reason),
            None => self.outbox.finish(None),
        }
    }

    async fn greet(&mut self) -> Result<(), StoreError> {
        let queue = Arc::clone(&self.sockets.queue);
        let (device, now) = (self.caller.device_no, queue.clock.now());
        let pending = queue.store.mailbox_count(device, MOST_PENDING, now).await?;
        queue.store.note_seen(device, now).await?;
        self.write(&ServerFrame::Hello {
            session_id: Id(self.id),
            heartbeat_seconds: self.sockets.times.heartbeat.as_secs(),
            server_time: Time(now),
            pending,
        });
        if let Some(stats) = queue.store.key_stats(device).await?
            && stats.unused_prekeys < LOW
        {
            self.write(&ServerFrame::keys_low(KeysLow {
                onetime_prekeys: stats.unused_prekeys,
                kem_prekeys: stats.kem_prekeys,
                last_resort_used: stats.last_resort_used,
            }));
        }
        Ok(())
    }

    async fn serve(&mut self, seat: &Seat) -> Goodbye {
        let times = self.sockets.times;
        let mut heartbeat = interval_at(Instant::now() + times.heartbeat, times.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.sockets.stop.clone();
        loop {
            self.advance(seat).await;
            let room = self.outbox.has_room();
            self.note_stall(room);
            if let Some(goodbye) = self.overdue() {
                return goodbye;
            }
            let reading = room && self.answers.len() < UNANSWERED;
            let (deadline, why) = self.next_deadline();
            let retry = self.cursor.retry_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Goodbye::GoingAway,
                signal = seat.line().next() => if let Some(goodbye) = self.hear(signal) { return goodbye },
                Some(answer) = self.answers.next(), if room => self.write_all(answer.as_ref()),
                inbound = self.inbox.next(), if reading => if let Some(goodbye) = self.read(inbound) { return goodbye },
                () = self.outbox.moved(), if !room => if self.outbox.is_gone() { return Goodbye::Gone },
                _ = heartbeat.tick() => self.outbox.ping(),
                () = sleep_until(deadline) => return why,
                () = async { match retry { Some(at) => sleep_until(at).await, None => pending().await } } => self.cursor.retry(),
            }
        }
    }

    /// What ends the session if nothing else happens, and when.
    fn next_deadline(&self) -> (Instant, Goodbye) {
        let times = self.sockets.times;
        let mut next = (self.heard_at + times.silence, Goodbye::Silent);
        if let Some(since) = self.stalled_since {
            next = (since + times.stall, Goodbye::Stalled);
        }
        if let Some(expires_at) = self.expires_at {
            let left = expires_at.since(self.sockets.queue.clock.now());
            if Instant::now() + left < next.0 {
                next = (Instant::now() + left, Goodbye::TokenExpired);
            }
        }
        next
    }

    /// What has to end however busy the socket is: the deadline below is reached by an idle one only.
    fn overdue(&self) -> Option<Goodbye> {
        let now = self.sockets.queue.clock.now();
        if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Some(Goodbye::TokenExpired);
        }
        let stalled = self.stalled_since.is_some_and(|since| since.elapsed() >= self.sockets.times.stall);
        stalled.then_some(Goodbye::Stalled)
    }

    fn note_stall(&mut self, room: bool) {
        if room {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
        if !room {
            // What cannot be heard for lack of room does not count as silence.
            self.heard_at = Instant::now();
        }
    }

    /// Whether another mailbox item may be written.
    fn takes_more(&self) -> bool {
        self.outbox.has_room() && self.in_flight.len() < self.sockets.in_flight
    }

    /// Writes what comes next in the mailbox, as far as the peer's window and the outbox have room.
    async fn advance(&mut self, seat: &Seat) {
        let queue = Arc::clone(&self.sockets.queue);
        while self.takes_more() {
            match self.cursor.next(&queue, self.caller.device_no).await {
                Some(Step::Item(position, item)) => {
                    self.push(position, &item);
                    if self.cursor.drains() {
                        self.write(&ServerFrame::QueueDrained);
                    }
                }
                Some(Step::Drained) => self.write(&ServerFrame::QueueDrained),
                None => break,
            }
        }
        seat.line().set_seen(self.cursor.seen());
    }

    fn push(&mut self, position: Position, item: &Item) {
        if let Item::Deleted { deletes, .. } = item {
            // What was deleted need not be acked, and so must not fill the window.
            self.in_flight.remove(deletes);
        }
        if item.expires_at() > self.sockets.queue.clock.now() {
            self.in_flight.insert(item.message_id(), position);
            self.write(&ServerFrame::item(item));
        }
    }

    fn hear(&mut self, signal: Signal) -> Option<Goodbye> {
        match signal {
            Signal::End(End::Replaced) => return Some(Goodbye::Replaced),
            Signal::End(End::Deactivated) | Signal::Event(Event::Deactivated) => {
                return Some(Goodbye::Deactivated);
            }
            Signal::Behind => self.cursor.fall_behind(),
            Signal::Event(Event::Item(position, item)) => {
                if self.cursor.take_live(position, self.takes_more()) {
                    self.push(position, &item);
                }
            }
            Signal::Event(Event::Wake(position)) => self.cursor.hear_of(position),
            // A peer that does not read misses what is live only.
            Signal::Event(Event::Fleeting(_) | Event::Receipt(_) | Event::KeysLow(_))
                if !self.outbox.has_room() => {}
            Signal::Event(Event::Fleeting(item)) => self.write(&ServerFrame::item(&item)),
            Signal::Event(Event::Receipt(receipt)) => self.write(&ServerFrame::receipt(receipt)),
            Signal::Event(Event::KeysLow(low)) => self.write(&ServerFrame::keys_low(low)),
            // The line has settled already which session yields.
            Signal::Event(Event::Replaced(_)) => {}
        }
        None
    }

    fn read(&mut self, inbound: Option<Inbound>) -> Option<Goodbye> {
        self.heard_at = Instant::now();
        match inbound {
            None | Some(Inbound::Close) => {
                self.outbox.close(1000, "");
                Some(Goodbye::Gone)
            }
            Some(Inbound::Broken(error)) => {
                tracing::debug!(%error, "a peer does not speak the protocol");
                Some(Goodbye::ProtocolError)
            }
            Some(Inbound::Pong) => None,
            Some(Inbound::Ping(payload)) => {
                self.outbox.pong(&payload);
                None
            }
            Some(Inbound::TooLarge) => {
                let problem = Problem::new(413, "too-large", "the frame is larger than the limit");
                self.refuse(None, &problem.with("limit", self.inbox.limit()))
            }
            Some(Inbound::Text(_)) if self.format == Format::MessagePack => {
                self.refuse(None, &Problem::new(400, "bad-frame", "frames of this subprotocol are binary"))
            }
            Some(Inbound::Binary(_)) if self.format == Format::Json => {
                self.refuse(None, &Problem::new(400, "bad-frame", "frames of this subprotocol are text"))
            }
            Some(Inbound::Text(bytes) | Inbound::Binary(bytes)) => self.frame(&bytes),
        }
    }

    fn frame(&mut self, bytes: &Bytes) -> Option<Goodbye> {
        let (reference, frame) = read(self.format, bytes);
        let refused = match frame {
            Ok(ClientFrame::Ping) => {
                self.write(&ServerFrame::Pong { reference });
                return None;
            }
            Ok(ClientFrame::Ack(ids)) => {
                self.ack(reference, &ids);
                return None;
            }
            Ok(ClientFrame::Read(message_id)) => {
                self.mark_read(reference, message_id);
                return None;
            }
            Ok(ClientFrame::Send(frame)) => self.send(reference.clone(), *frame),
            Ok(ClientFrame::Auth(token)) => self.renew(reference.as_deref(), &token),
            Err(problem) => Err(problem),
        };
        refused.err().and_then(|problem| self.refuse(reference, &problem))
    }

    /// Answers a frame that could not be taken; too many of them end the session.
    fn refuse(&mut self, reference: Option<String>, problem: &Problem) -> Option<Goodbye> {
        self.write(&ServerFrame::error(reference, problem));
        let now = Instant::now();
        self.bad_frames.retain(|at| now.duration_since(*at) < Duration::from_mins(1));
        self.bad_frames.push_back(now);
        (self.bad_frames.len() > BAD_FRAMES).then_some(Goodbye::ProtocolError)
    }

    fn send(&self, reference: Option<String>, frame: SendFrame) -> Result<(), Problem> {
        if frame.device_id.as_deref().is_some_and(|id| id != "me" && id != self.caller.device_id.as_str()) {
            return Err(Problem::new(403, "not-you", "the socket belongs to another device"));
        }
        let request = SendRequest::try_from(SendBody::from(frame))?;
        // The send takes its place here, so that a socket's sends keep their order.
        let sent = self.sockets.messages.send(self.caller.clone(), request);
        self.answers.push(Box::pin(async move {
            Some(match sent.await {
                Ok(sent) => ServerFrame::Sent { reference, answer: SentAnswer::from(sent) },
                Err(refusal) => ServerFrame::error(reference, &refusal.into()),
            })
        }));
        Ok(())
    }

    fn ack(&mut self, reference: Option<String>, ids: &[MessageId]) {
        let (queue, device) = (Arc::clone(&self.sockets.queue), self.caller.device_no);
        let (mut positions, mut others) = (Vec::new(), Vec::new());
        for id in ids {
            match self.in_flight.remove(id) {
                Some(position) => positions.push(position),
                None => others.push(*id),
            }
        }
        let waited = positions.iter().any(|position| self.cursor.had_waited(*position));
        let erased = (!positions.is_empty()).then(|| queue.ack(device, positions, waited));
        let queue = Arc::clone(&self.sockets.queue);
        self.answers.push(Box::pin(async move {
            let mut done = Ok(0);
            if let Some(erased) = erased {
                done = erased.await;
            }
            if done.is_ok() && !others.is_empty() {
                done = queue.ack_ids(device, &others).await;
            }
            match done {
                Ok(_) => reference.map(|reference| ServerFrame::Acked { reference }),
                Err(error) => Some(ServerFrame::error(reference, &error.into())),
            }
        }));
    }

    fn mark_read(&self, reference: Option<String>, message_id: MessageId) {
        let (messages, caller) = (Arc::clone(&self.sockets.messages), self.caller.clone());
        self.answers.push(
            async move {
                match messages.mark(&caller, message_id, Mark::Read).await {
                    Ok(_) => reference.map(|reference| ServerFrame::Acked { reference }),
                    Err(refusal) => Some(ServerFrame::error(reference, &refusal.into())),
                }
            }
            .boxed_local(),
        );
    }

    /// Goes on with a fresh token of the same device.
    fn renew(&mut self, reference: Option<&str>, token: &str) -> Result<(), Problem> {
        let claims = self.sockets.authority.claims(token)?;
        if claims.caller.device_no != self.caller.device_no {
            return Err(Problem::new(403, "not-you", "the token belongs to another device"));
        }
        self.expires_at = self.expires_at.map(|_| claims.expires_at);
        if let Some(reference) = reference {
            self.write(&ServerFrame::Acked { reference: reference.to_owned() });
        }
        Ok(())
    }

    fn write_all(&self, frame: Option<&ServerFrame>) {
        if let Some(frame) = frame {
            self.write(frame);
        }
    }

    fn write(&self, frame: &ServerFrame) {
        if let Some(bytes) = self.format.encode(frame) {
            self.outbox.push(&bytes, self.format == Format::MessagePack);
        } else {
            tracing::error!("a frame could not be written");
        }
    }
}

/// Starts a session on this thread.
pub(super) fn start(session: Session, running: TaskTrackerToken) {
    rt::spawn(session.run(running));
}
