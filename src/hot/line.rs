//! The line from everywhere to one session.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{Event, switchboard::lock};
use crate::domain::{DeviceNo, GroupId, Position, SessionId};

/// Events that may wait for a session. Past them durable ones become "read the store" and live-only ones are dropped.
const WAITING_EVENTS: usize = 64;

/// Bytes that may wait for a session likewise; one event of any size always fits.
const WAITING_BYTES: usize = 256 << 10;

/// Two sockets of one device that open within this time settle by session id which of them is the newer.
const SAME_MOMENT: Duration = Duration::from_secs(5);

/// Why a session has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The device opened a newer socket.
    Replaced,
    /// The device was deactivated.
    Deactivated,
    /// The login whose tokens the socket lives by was ended.
    LoggedOut,
}

/// What a session hears next.
#[derive(Debug)]
pub enum Signal {
    /// The session has to end.
    End(End),
    /// Something to push.
    Event(Event),
    /// The mailbox may have more than was heard of; read the store.
    Behind,
    /// The logs of these groups may have more than was given.
    Logs(HashSet<GroupId>),
}

/// The line from everywhere to one session.
pub struct Line {
    session: Uuid,
    opened: Instant,
    seen: AtomicI64,
    /// How far the session knows its mailbox to reach, because it read so.
    read: AtomicI64,
    /// How far hot delivery has told.
    told: AtomicI64,
    state: Mutex<LineState>,
    stirred: Notify,
}

#[derive(Default)]
struct LineState {
    events: VecDeque<Event>,
    /// Bytes in `events`.
    weight: usize,
    behind: bool,
    /// Groups whose logs moved: however often, once.
    logs: HashSet<GroupId>,
    end: Option<End>,
    /// Whose tokens the socket lives by; none in open mode.
    login: Option<SessionId>,
}

impl LineState {
    fn is_full(&self, event: &Event) -> bool {
        let too_heavy = !self.events.is_empty() && self.weight + event.weight() > WAITING_BYTES;
        self.events.len() >= WAITING_EVENTS || too_heavy
    }
}

impl Line {
    pub(super) fn new(session: Uuid) -> Self {
        Self {
            session,
            opened: Instant::now(),
            seen: AtomicI64::new(0),
            read: AtomicI64::new(0),
            told: AtomicI64::new(0),
            state: Mutex::default(),
            stirred: Notify::new(),
        }
    }

    /// Waits for the next signal: an end first, then events in order, then "read the store", then what moved among the
    /// groups' logs. Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Signal {
        loop {
            if let Some(signal) = self.take() {
                return signal;
            }
            self.stirred.notified().await;
        }
    }

    /// Tells the reconciler up to where the session has written, and how far it knows its mailbox to reach.
    pub fn set_place(&self, seen: Position, read: Position) {
        self.seen.store(seen.0, Ordering::Relaxed);
        self.read.store(read.0, Ordering::Relaxed);
    }

    /// Notes whose tokens the socket lives by from now on.
    pub fn live_by(&self, login: SessionId) {
        lock(&self.state).login = Some(login);
    }

    fn take(&self) -> Option<Signal> {
        let mut state = lock(&self.state);
        if let Some(end) = state.end {
            return Some(Signal::End(end));
        }
        if let Some(event) = state.events.pop_front() {
            state.weight = state.weight.saturating_sub(event.weight());
            return Some(Signal::Event(event));
        }
        if std::mem::take(&mut state.behind) {
            return Some(Signal::Behind);
        }
        // An idle session holds nothing for it.
        (!state.logs.is_empty()).then(|| Signal::Logs(std::mem::take(&mut state.logs)))
    }

    pub(super) fn put(&self, event: Event) {
        if let Event::Item(position, _) | Event::Wake(position) = &event {
            self.told.fetch_max(position.0, Ordering::Relaxed);
        }
        let mut state = lock(&self.state);
        match event {
            Event::Deactivated => state.end = Some(End::Deactivated),
            Event::LoggedOut(login) if state.login == Some(login) => {
                state.end = state.end.or(Some(End::LoggedOut));
            }
            Event::Replaced(by) if self.yields_to(by) => state.end = state.end.or(Some(End::Replaced)),
            Event::LoggedOut(_) | Event::Replaced(_) => return,
            Event::Wake(position) => state.behind |= self.is_behind(position),
            Event::Item(..) if state.is_full(&event) => state.behind = true,
            // Live only, and the session is not keeping up: the truth is in the history and in the statistics.
            _ if state.is_full(&event) => {}
            event => {
                state.weight += event.weight();
                state.events.push_back(event);
            }
        }
        drop(state);
        self.stirred.notify_one();
    }

    pub(super) fn fall_behind(&self) {
        lock(&self.state).behind = true;
        self.stirred.notify_one();
    }

    /// Tells that the log of a group moved.
    pub(super) fn stir(&self, group: GroupId) {
        lock(&self.state).logs.insert(group);
        self.stirred.notify_one();
    }

    pub(super) fn is_behind(&self, head: Position) -> bool {
        head.0 > self.seen.load(Ordering::Relaxed)
    }

    /// Ends the session, unless it ends already.
    pub(super) fn end(&self, why: End) {
        lock(&self.state).end.get_or_insert(why);
        self.stirred.notify_one();
    }

    /// Up to where the session has written.
    pub(super) fn seen(&self) -> Position {
        Position(self.seen.load(Ordering::Relaxed))
    }

    /// Which session it leads to.
    pub(super) const fn session(&self) -> Uuid {
        self.session
    }

    /// Given back when neither the store nor hot delivery has told that the mailbox reaches up to here.
    pub(super) fn overlooked(self: &Arc<Self>, device: DeviceNo, head: Position) -> Option<Overlooked> {
        let known = self.read.load(Ordering::Relaxed).max(self.told.load(Ordering::Relaxed));
        (known < head.0).then(|| Overlooked { device, line: Arc::downgrade(self), head })
    }

    fn yields_to(&self, by: Uuid) -> bool {
        by != self.session && (by > self.session || self.opened.elapsed() > SAME_MOMENT)
    }
}

/// An item that the reconciler saw before hot delivery told its session: lost, or only on its way.
pub struct Overlooked {
    pub(super) device: DeviceNo,
    line: Weak<Line>,
    head: Position,
}

impl Overlooked {
    /// Whether hot delivery has not told the session to this day.
    pub(super) fn is_lost(&self) -> bool {
        self.line.upgrade().is_some_and(|line| line.told.load(Ordering::Relaxed) < self.head.0)
    }
}
