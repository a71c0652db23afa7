//! A device's socket: one owner loop, one writer.
//!
//! What is written comes from the session's cursor: a live item only when it is the next one, otherwise the store is
//! read. So positions are shown in order and without a gap, whatever the speed of publish and page.

mod goodbye;
mod groups;
mod requests;
mod tolls;

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    sync::Arc,
};

use actix_web::rt;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use goodbye::Goodbye;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tolls::{Held, Tolls};
use uuid::Uuid;

use super::{
    Queue,
    acks::{Acks, LastAcks},
    cursor::Cursor,
    frames::{Format, ServerFrame},
    inbox::{Inbound, Inbox},
    logs::Logs,
    outbox::Outbox,
};
use crate::{
    abuse::{Connection, Doors},
    auth::Authority,
    config::SocketTimes,
    domain::{Caller, Item, MessageId, Network, Position, SessionId, Timestamp},
    groups::Groups,
    hot::{End, Event, KeysLow, Line, Seat, Signal},
    http::Problem,
    keys::LOW,
    messages::Messages,
    metrics::{self, Way},
    net::Giving,
    store::StoreError,
    wire::{Id, Time},
};

/// Requests of one socket that may be answered at the same time; past them nothing more is read.
const UNANSWERED: usize = 64;

/// Mailbox items, and entries of groups, that are written before it is the others' turn.
const BY_TURNS: usize = 32;

/// The highest number of waiting items that `hello` tells.
const MOST_PENDING: u32 = 1000;

/// What every session needs.
pub(super) struct Sockets {
    pub queue: Arc<Queue>,
    pub messages: Arc<Messages>,
    pub groups: Arc<Groups>,
    pub authority: Arc<Authority>,
    pub doors: Doors,
    pub times: SocketTimes,
    pub in_flight: usize,
    pub last_acks: LastAcks,
    /// Cancelled when the relay stops.
    pub stop: CancellationToken,
}

/// Where a socket comes from, and that it may be open.
pub(super) struct Place {
    pub network: Option<Network>,
    /// What its frames are written to.
    pub giving: Giving,
    pub connection: Connection,
}

/// What a request became, to be written when it is ready.
type Answer = BoxFuture<'static, Option<ServerFrame>>;

/// An item that was written.
#[derive(Debug, Clone, Copy)]
struct Written {
    position: Position,
    /// Whether it was read, and so may lie in the offline queue.
    waited: bool,
}

/// Whether everything was given that waited at the opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    /// Not even the mailbox.
    No,
    Mailbox,
    /// All of it, and the device was told.
    Told,
}

/// A connected device.
pub(super) struct Session {
    sockets: Arc<Sockets>,
    caller: Caller,
    id: Uuid,
    format: Format,
    inbox: Inbox,
    outbox: Outbox,
    /// Whose tokens it lives by, and when the present one ends; none in open mode.
    login: Option<(SessionId, Timestamp)>,
    cursor: Cursor,
    logs: Logs,
    acks: Acks,
    /// Mailbox items written and not yet acked.
    in_flight: HashMap<MessageId, Written>,
    drained: Drained,
    answers: FuturesUnordered<Answer>,
    tolls: Tolls,
    held: Option<Held>,
    bad_frames: VecDeque<Instant>,
    opened_at: Instant,
    heard_at: Instant,
    /// Since when nothing could be written.
    stalled_since: Option<Instant>,
    giving: Giving,
    _connection: Connection,
}

impl Session {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        caller: Caller,
        login: Option<(SessionId, Timestamp)>,
        place: Place,
        format: Format,
        (inbox, outbox): (Inbox, Outbox),
    ) -> Self {
        // Ordered by time, so that of two sockets that open at the same moment the later replaces the earlier.
        let id = MessageId::fresh(sockets.queue.clock.now()).uuid();
        let logs = Logs::new(caller.device_no);
        let tolls = Tolls::new(&sockets, caller.device_no, place.network);
        Self {
            sockets,
            caller,
            id,
            format,
            inbox,
            outbox,
            login,
            cursor: Cursor::new(),
            logs,
            acks: Acks::default(),
            in_flight: HashMap::new(),
            drained: Drained::No,
            answers: FuturesUnordered::new(),
            tolls,
            held: None,
            bad_frames: VecDeque::new(),
            opened_at: Instant::now(),
            heard_at: Instant::now(),
            stalled_since: None,
            giving: place.giving,
            _connection: place.connection,
        }
    }

    /// Serves the socket to its end. `_running` keeps the relay from stopping before the goodbye is written. Boxed, because
    /// a future keeps what it is given twice.
    async fn run(mut self: Box<Self>, _running: TaskTrackerToken) {
        // Listening comes before reading, so that nothing falls between.
        let seat = self.sockets.queue.switchboard.clone().open(self.caller.device_no, self.id).await;
        if let Some((login, _)) = self.login {
            seat.line().live_by(login);
        }
        let goodbye = match self.greet().await {
            Ok(true) => self.serve(&seat).await,
            // The device was deactivated between its token's check and its seat.
            Ok(false) => Goodbye::Deactivated,
            Err(error) => {
                tracing::debug!(%error, "a socket could not be opened");
                Goodbye::TryAgain
            }
        };
        let goodbye = match goodbye {
            Goodbye::GoingAway => self.answer_held(seat.line()).await.unwrap_or(goodbye),
            goodbye => goodbye,
        };
        self.logs = Logs::new(self.caller.device_no);
        drop(seat);
        goodbye.count(1);
        if let (Goodbye::ProtocolError, Some(network)) = (goodbye, self.tolls.network()) {
            self.sockets.doors.blocks.strike(network).await;
        }
        let store = self.storing_acks();
        self.acks.finish(store, &self.sockets.last_acks).await;
        if matches!(goodbye, Goodbye::GoingAway) {
            while let Some(answer) = self.answers.next().await {
                self.write_all(answer.as_ref());
            }
        }
        goodbye.say(&self.outbox);
        // Nobody looks after what is left but its connection.
        self.giving.end_within(self.sockets.times.stall);
    }

    /// Greets the device. False when it is not active any more.
    async fn greet(&mut self) -> Result<bool, StoreError> {
        let queue = Arc::clone(&self.sockets.queue);
        let (device, now) = (self.caller.device_no, queue.clock.now());
        let Some(stats) = queue.store.key_stats(device, now).await? else { return Ok(false) };
        let pending = queue.store.mailbox_count(device, MOST_PENDING, now).await?;
        queue.store.note_seen(device, now).await?;
        self.write(&ServerFrame::Hello {
            session_id: Id(self.id),
            heartbeat_seconds: self.sockets.times.heartbeat.as_secs(),
            server_time: Time(now),
            pending,
        });
        // A device without MLS has no packages, and one that ran out gave its last-resort one.
        let few_packages = (1..LOW).contains(&stats.key_packages);
        if stats.unused_prekeys < LOW || few_packages || stats.last_resort_used {
            self.write(&ServerFrame::keys_low(KeysLow {
                onetime_prekeys: stats.unused_prekeys,
                kem_prekeys: stats.kem_prekeys,
                key_packages: stats.key_packages,
                last_resort_used: stats.last_resort_used,
                limit_tripped: false,
            }));
        }
        Ok(true)
    }

    async fn serve(&mut self, seat: &Seat) -> Goodbye {
        let times = self.sockets.times;
        let mut heartbeat = interval_at(Instant::now() + times.heartbeat, times.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.sockets.stop.clone();
        loop {
            // One busy socket must not keep its thread from the others.
            tokio::task::consume_budget().await;
            self.advance(seat).await;
            let room = self.outbox.has_room();
            let reading = room && self.answers.len() < UNANSWERED && self.held.is_none();
            self.note_stall(room, reading);
            let (deadline, why) = self.next_deadline();
            // Looked at here too: a peer that never stops talking must not keep the timer from being heard.
            if deadline <= Instant::now() {
                return why;
            }
            let alarm = self.next_alarm();
            if alarm.is_some_and(|at| at <= Instant::now()) {
                self.sound_alarm();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Goodbye::GoingAway,
                signal = seat.line().next() => if let Some(goodbye) = self.hear(signal) { return goodbye },
                Some(answer) = self.answers.next(), if room => self.write_all(answer.as_ref()),
                asked = self.logs.answer() => self.logs.take(asked),
                () = self.acks.stored() => {}
                verdict = Held::verdict(&mut self.held), if self.held.is_some() => if let Some(goodbye) = self.let_go(verdict, seat.line()) { return goodbye },
                inbound = self.inbox.next(), if reading => if let Some(goodbye) = self.read(inbound, seat.line()) { return goodbye },
                () = self.outbox.moved(), if !room => if self.outbox.is_gone() { return Goodbye::Gone },
                _ = heartbeat.tick() => self.outbox.ping(),
                () = sleep_until(deadline) => return why,
                () = async { match alarm { Some(at) => sleep_until(at).await, None => pending().await } } => self.sound_alarm(),
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
        if let Some((_, expires_at)) = self.login {
            let left = expires_at.since(self.sockets.queue.clock.now());
            if Instant::now() + left < next.0 {
                next = (Instant::now() + left, Goodbye::TokenExpired);
            }
        }
        next
    }

    fn note_stall(&mut self, room: bool, reading: bool) {
        if room {
            self.stalled_since = None;
        } else if self.stalled_since.is_none() {
            self.stalled_since = Some(Instant::now());
        }
        if !reading {
            // What is not listened to does not count as silence.
            self.heard_at = Instant::now();
        }
    }

    /// Whether another mailbox item may be written.
    fn takes_more(&self) -> bool {
        self.outbox.has_room() && self.in_flight.len() < self.sockets.in_flight
    }

    /// Writes what comes next in the mailbox and in the logs of groups by turns, as far as the peer's window and the outbox
    /// have room.
    async fn advance(&mut self, seat: &Seat) {
        while self.write_items().await | self.write_entries() {}
        self.cursor.let_go();
        if !self.outbox.has_room() {
            self.logs.let_go();
        }
        seat.line().set_place(self.cursor.seen(), self.cursor.head());
        self.logs.ask(&self.sockets.queue, seat.line(), !self.takes_more());
    }

    /// Writes some of what comes next in the mailbox; whether there was anything.
    async fn write_items(&mut self) -> bool {
        let queue = Arc::clone(&self.sockets.queue);
        let mut written = 0;
        while written < BY_TURNS && self.takes_more() {
            let room = self.sockets.in_flight - self.in_flight.len();
            let next = self.cursor.next(&queue, self.caller.device_no, room).await;
            let Some((position, item)) = next else { break };
            self.push(Written { position, waited: true }, &item);
            self.tell_drained();
            written += 1;
        }
        self.tell_drained();
        written > 0
    }

    fn tell_drained(&mut self) {
        if self.cursor.is_drained() {
            self.drained = Drained::Mailbox;
        }
        if self.drained == Drained::Mailbox && self.logs.are_drained() {
            self.drained = Drained::Told;
            metrics::drained(self.opened_at.elapsed());
            self.write(&ServerFrame::QueueDrained);
        }
    }

    fn push(&mut self, written: Written, item: &Item) {
        if let Item::Deleted { deletes, .. } = item {
            // What was deleted need not be acked, and so must not fill the window.
            self.in_flight.remove(deletes);
        }
        if let Item::Welcome { group_id, .. } | Item::Joined { group_id, .. } = item {
            self.logs.hear_of_window(*group_id, written.position);
        }
        if item.expires_at() > self.sockets.queue.clock.now() {
            self.in_flight.insert(item.message_id(), written);
            self.write(&ServerFrame::item(item));
            metrics::items_delivered(Way::Socket, 1);
        }
    }

    fn hear(&mut self, signal: Signal) -> Option<Goodbye> {
        match signal {
            Signal::End(End::Replaced) => return Some(Goodbye::Replaced),
            Signal::End(End::LoggedOut) => return Some(Goodbye::TokenExpired),
            Signal::End(End::Deactivated) | Signal::Event(Event::Deactivated) => {
                return Some(Goodbye::Deactivated);
            }
            Signal::Behind => self.cursor.fall_behind(),
            Signal::Logs(groups) => self.logs.hear_of(groups),
            Signal::Event(Event::Item(position, item)) => {
                if self.cursor.take_live(position, self.takes_more()) {
                    self.push(Written { position, waited: false }, &item);
                }
            }
            Signal::Event(Event::Wake(position)) => self.cursor.hear_of(position),
            Signal::Event(Event::Fleeting(item)) => self.write_live(&ServerFrame::item(&item)),
            Signal::Event(Event::Receipt(receipt)) => self.write_live(&ServerFrame::receipt(receipt)),
            Signal::Event(Event::KeysLow(low)) => self.write_live(&ServerFrame::keys_low(low)),
            // The line has settled already whom these concern.
            Signal::Event(Event::Replaced(_) | Event::LoggedOut(_)) => {}
        }
        None
    }

    fn read(&mut self, inbound: Option<Inbound>, line: &Line) -> Option<Goodbye> {
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
            Some(Inbound::Text(bytes) | Inbound::Binary(bytes)) => self.frame(&bytes, line),
        }
    }

    /// Does with a frame that was read and not paid for yet what is found, before the goodbye.
    async fn answer_held(&mut self, line: &Line) -> Option<Goodbye> {
        self.held.as_ref()?;
        let verdict = Held::verdict(&mut self.held).await;
        self.let_go(verdict, line)
    }

    fn write_all(&self, frame: Option<&ServerFrame>) {
        if let Some(frame) = frame {
            self.write(frame);
        }
    }

    /// Writes what is live only, and so is dropped when the peer does not keep up.
    fn write_live(&self, frame: &ServerFrame) {
        if self.outbox.has_room() {
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

/// Lets it be known which endings of sockets are counted.
pub(super) fn count_from_zero() {
    Goodbye::count_from_zero();
}

/// Starts a session on this thread.
pub(super) fn start(session: Session, running: TaskTrackerToken) {
    rt::spawn(Box::new(session).run(running));
}
