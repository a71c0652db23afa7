//! The groups that sessions of this process read: for each a room, in which an entry is heard once for all of them and a gap
//! is filled by one read.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use tokio::sync::MutexGuard as AsyncGuard;
use uuid::Uuid;

use super::{
    GroupEvent,
    line::Line,
    stretch::{Next, Stretch, Told, Weight},
    switchboard::lock,
};
use crate::domain::{GroupId, LogEntry, Position};

/// Bytes of entries and their frames that all rooms of a process keep. Past them the oldest go.
const RECENT_BYTES: usize = 64 << 20;

/// Entries that all rooms of a process keep.
const RECENT_ENTRIES: usize = 1 << 16;

/// How long nobody asks a store again that could not be asked for a log.
const REST: Duration = Duration::from_secs(1);

/// What a room had heard when a read began, so that what comes meanwhile is not overlooked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    doubts: u64,
    news: u64,
}

/// A group that sessions of this process read.
pub struct Room {
    group: GroupId,
    weight: Weight,
    state: Mutex<State>,
    /// Held by who reads the log from the store; when that failed last.
    reading: tokio::sync::Mutex<Option<Instant>>,
    pub(super) subscription: tokio::sync::Mutex<Subscription>,
}

struct State {
    recent: Stretch,
    /// The last position heard of.
    head: Position,
    /// How often it was heard that the head moved.
    news: u64,
    /// Whether `head` is the log's, but for what is being told at this moment.
    sure: bool,
    doubts: u64,
    lines: HashMap<Uuid, Arc<Line>>,
}

/// Whether the engine listens for a room's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subscription {
    None,
    Live,
    /// It could not be asked, at this moment.
    Refused(Instant),
}

/// The turn to read a group's log for everybody in its room. See [`Room::turn`].
pub struct Turn<'a>(AsyncGuard<'a, Option<Instant>>);

impl Turn<'_> {
    /// Whether the store could not be asked a moment ago.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.0.is_some_and(|failed| failed.elapsed() < REST)
    }

    /// The store could not be asked: who waits for a turn need not try.
    pub fn failed(mut self) {
        *self.0 = Some(Instant::now());
    }
}

impl State {
    fn raise(&mut self, head: Position) -> bool {
        let news = head > self.head;
        if news {
            self.head = head;
            self.news += 1;
        }
        news
    }

    fn stir(&self, group: GroupId) {
        for line in self.lines.values() {
            line.stir(group);
        }
    }
}

impl Room {
    fn new(group: GroupId, weight: Weight) -> Self {
        let state = State {
            recent: Stretch::default(),
            head: Position::START,
            news: 0,
            sure: false,
            doubts: 0,
            lines: HashMap::new(),
        };
        Self {
            group,
            weight,
            state: Mutex::new(state),
            reading: tokio::sync::Mutex::default(),
            subscription: tokio::sync::Mutex::new(Subscription::None),
        }
    }

    /// What comes after a place in the log.
    #[must_use]
    pub fn next(&self, seen: Position) -> Next {
        let state = lock(&self.state);
        match state.recent.next(seen) {
            Next::Unknown if state.sure && state.head <= seen => Next::Nothing,
            next => next,
        }
    }

    /// The last position heard of.
    #[must_use]
    pub fn head(&self) -> Position {
        lock(&self.state).head
    }

    /// The log reaches at least up to here.
    pub fn hear_of(&self, head: Position) {
        let mut state = lock(&self.state);
        if state.raise(head) {
            state.stir(self.group);
        }
    }

    /// Waits for the turn to read the log: one reader at a time, whose page is there for the others when their turn comes.
    pub async fn turn(&self) -> Turn<'_> {
        Turn(self.reading.lock().await)
    }

    /// To be asked before a read, and told with what was read.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let state = lock(&self.state);
        Heard { doubts: state.doubts, news: state.news }
    }

    /// Whether somebody reads the log here.
    pub(super) fn is_watched(&self) -> bool {
        !lock(&self.state).lines.is_empty()
    }

    /// The group.
    pub(super) const fn group(&self) -> GroupId {
        self.group
    }

    /// Takes a line out. True when it was the last one.
    pub(super) fn leave(&self, session: Uuid) -> bool {
        let mut state = lock(&self.state);
        state.lines.remove(&session).is_some() && state.lines.is_empty()
    }

    /// What was known may be out of date: the log is to be read before `Next::Nothing` is said again.
    pub(super) fn doubt(&self) {
        let mut state = lock(&self.state);
        state.sure = false;
        state.doubts += 1;
        state.stir(self.group);
    }
}

/// What was read of a group's log after a place.
pub struct Reading {
    /// After which place.
    pub after: Position,
    /// The entries, ascending; a position left out between them is gone for good.
    pub entries: Vec<LogEntry>,
    /// Whether the page ended by its limits, and not at the head.
    pub more: bool,
    /// The log's head as of the same moment.
    pub head: Position,
    /// What the room had heard when the read began.
    pub heard: Heard,
}

/// Every room of a process, and what they keep of their logs.
#[derive(Default)]
pub(super) struct Rooms {
    by_group: Mutex<HashMap<GroupId, Arc<Room>>>,
    weight: Weight,
    /// What the rooms keep, the oldest first.
    ages: Mutex<VecDeque<(Weak<Room>, Position)>>,
}

impl Rooms {
    pub(super) fn get(&self, group: GroupId) -> Option<Arc<Room>> {
        lock(&self.by_group).get(&group).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Room>> {
        lock(&self.by_group).values().cloned().collect()
    }

    /// The groups with a room, and the last position heard of in each.
    pub(super) fn heads(&self) -> Vec<(GroupId, Position)> {
        lock(&self.by_group).values().map(|room| (room.group, room.head())).collect()
    }

    /// Lets a line into a group's room.
    pub(super) fn enter(&self, group: GroupId, line: &Arc<Line>) -> Arc<Room> {
        let mut rooms = lock(&self.by_group);
        let room = rooms.entry(group).or_insert_with(|| Arc::new(Room::new(group, self.weight.clone())));
        lock(&room.state).lines.insert(line.session(), Arc::clone(line));
        Arc::clone(room)
    }

    /// Closes a room that nobody is in.
    pub(super) fn close(&self, room: &Arc<Room>) {
        let mut rooms = lock(&self.by_group);
        if !room.is_watched() && rooms.get(&room.group).is_some_and(|there| Arc::ptr_eq(there, room)) {
            rooms.remove(&room.group);
        }
    }

    /// Tells a room of an event; false when there is none.
    pub(super) fn ring(&self, group: GroupId, event: GroupEvent) -> bool {
        let Some(room) = self.get(group) else { return false };
        match event {
            GroupEvent::Wake(head) => room.hear_of(head),
            GroupEvent::Entry(entry) => self.hear(&room, entry),
        }
        true
    }

    fn hear(&self, room: &Arc<Room>, entry: Arc<LogEntry>) {
        let position = entry.position;
        let told = Told::new(entry, &room.weight);
        let mut state = lock(&room.state);
        let is_new = state.recent.add(Position(position.0 - 1), told);
        state.raise(position);
        state.stir(room.group);
        drop(state);
        if is_new {
            self.note_age(room, position);
        }
    }

    /// Takes in what was read for a room, and gives it back as a stretch of its own, which lasts whatever the room forgets.
    pub(super) fn learn(&self, room: &Arc<Room>, reading: Reading) -> Stretch {
        let (mut page, mut after, mut new) = (Stretch::default(), reading.after, Vec::new());
        let mut state = lock(&room.state);
        for entry in reading.entries {
            let position = entry.position;
            let known = state.recent.get(position);
            // Read anew, because its body may have expired since.
            let known = known.filter(|told| told.entry().body.is_some() == entry.body.is_some());
            let told = known.unwrap_or_else(|| {
                state.recent.forget(position);
                Told::new(Arc::new(entry), &room.weight)
            });
            page.add(after, Arc::clone(&told));
            if state.recent.add(after, told) {
                new.push(position);
            }
            after = position;
        }
        // The store knows better than what was told of an entry, unless that came since.
        if state.news == reading.heard.news {
            state.head = reading.head;
        }
        state.head = state.head.max(reading.head);
        if !reading.more {
            page.lay_bare(after, reading.head);
            state.recent.lay_bare(after, reading.head);
        }
        // The head is told whether or not the page reaches it.
        state.sure |= state.doubts == reading.heard.doubts;
        drop(state);
        for position in new {
            self.note_age(room, position);
        }
        page
    }

    /// Makes room for what a room has just kept.
    fn note_age(&self, room: &Arc<Room>, position: Position) {
        let mut ages = lock(&self.ages);
        ages.push_back((Arc::downgrade(room), position));
        while self.weight.bytes() > RECENT_BYTES || ages.len() > RECENT_ENTRIES {
            let Some((room, position)) = ages.pop_front() else { return };
            if let Some(room) = room.upgrade() {
                lock(&room.state).recent.forget(position);
            }
        }
    }

    /// Every room must read its log before it believes its head.
    pub(super) fn doubt(&self) {
        for room in self.all() {
            room.doubt();
        }
    }
}
