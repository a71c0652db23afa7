//! The group logs of one session: which are read, whose turn it is, and what the store must be asked for.
//!
//! Entries come in position order within the device's windows: from the group's room in this process while it has the next one,
//! otherwise from the store. Nothing of a window comes before the mailbox item that opened it. A reader that does not ack the
//! entries of a group stops that group alone, neither its mailbox nor its other groups.

mod log;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    sync::Arc,
    time::Duration,
};

pub(super) use log::Give;
use log::{Log, Step};
use tokio::time::Instant;

use super::{
    Queue,
    errand::Errand,
    reading::{Opened, Seats},
};
use crate::{
    domain::{DeviceNo, GroupId, Position},
    hot::{Line, Stretch},
    store::StoreError,
};

/// How long a session waits before it asks a store again that could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What the store was asked for.
pub(super) enum Asked {
    /// The windows of one group, or of all.
    Windows(Option<GroupId>, Result<Opened, StoreError>),
    /// What comes next in a group's log; none when its room has it.
    Page(GroupId, Result<Option<Stretch>, StoreError>),
    /// Whether the item that opened a group's window is gone from the mailbox.
    Gate(GroupId, Position, Result<bool, StoreError>),
}

/// See the module's text. Holds no memory to speak of for a device without groups.
pub(super) struct Logs {
    device: DeviceNo,
    of: HashMap<GroupId, Log>,
    /// Groups that may have something to give. Each gives one entry when its turn comes.
    turn: VecDeque<GroupId>,
    /// Groups that wait for the mailbox to come to a position.
    gated: Vec<(Position, GroupId)>,
    /// Gates that the store was asked about.
    known_gates: HashSet<Position>,
    /// Groups whose windows must be read, unless one with this gate is known by then.
    windows_wanted: VecDeque<(GroupId, Option<Position>)>,
    /// Groups whose logs must be read.
    pages_wanted: VecDeque<GroupId>,
    asked: Option<Errand<Asked>>,
    /// What was read last, until it was given.
    page: Option<(GroupId, Stretch)>,
    /// Where the last window ended of groups that the device was taken out of: what was given is not given again when it
    /// comes back.
    ended: HashMap<GroupId, Position>,
    /// Whether the windows were read that were there at first.
    opened: bool,
    /// Groups of which something has yet to be given that was there at first.
    backlogs: usize,
    retry_at: Option<Instant>,
}

impl Logs {
    /// The logs of a device, of which nothing is known yet.
    pub(super) fn new(device: DeviceNo) -> Self {
        Self {
            device,
            of: HashMap::new(),
            turn: VecDeque::new(),
            gated: Vec::new(),
            known_gates: HashSet::new(),
            windows_wanted: VecDeque::new(),
            pages_wanted: VecDeque::new(),
            asked: None,
            page: None,
            ended: HashMap::new(),
            opened: false,
            backlogs: 0,
            retry_at: None,
        }
    }

    /// Whether everything that lay in the logs at first has been given.
    pub(super) const fn are_drained(&self) -> bool {
        self.opened && self.backlogs == 0
    }

    /// The logs of these groups may have moved.
    pub(super) fn hear_of(&mut self, groups: impl IntoIterator<Item = GroupId>) {
        for group in groups {
            self.queue_up(group);
        }
    }

    /// A mailbox item was given that opens a window of the group.
    pub(super) fn hear_of_window(&mut self, group: GroupId, gate: Position) {
        self.want_windows(group, Some(gate));
    }

    /// An entry of the group was acked, and whatever came before it.
    pub(super) fn ack(&mut self, group: GroupId, position: Position) {
        if let Some(log) = self.of.get_mut(&group) {
            log.ack(position);
            self.queue_up(group);
        }
    }

    /// The mailbox was given up to here.
    pub(super) fn open_gates(&mut self, mailbox: Position) {
        if self.gated.is_empty() {
            return;
        }
        let open: Vec<_> = self.gated.extract_if(.., |(gate, _)| *gate <= mailbox).collect();
        for (_, group) in open {
            self.queue_up(group);
        }
    }

    /// What is to be written next, for a device whose mailbox was given up to `mailbox` and which may have `most` unacked
    /// entries of each group.
    pub(super) fn next(&mut self, mailbox: Position, most: usize) -> Option<(GroupId, Give)> {
        while let Some(group) = self.turn.pop_front() {
            let Some(log) = self.of.get_mut(&group) else { continue };
            log.in_turn = false;
            let page = self.page.as_ref().filter(|(of, _)| *of == group).map(|(_, page)| page);
            let step = log.step(self.device, mailbox, most, page);
            if log.takes_leave_of_backlog() {
                self.backlogs -= 1;
            }
            match step {
                Step::Give(give) => {
                    self.queue_up(group);
                    return Some((group, give));
                }
                Step::Idle | Step::Full => {}
                Step::Read if self.pages_wanted.contains(&group) => {}
                Step::Read => self.pages_wanted.push_back(group),
                Step::ReadWindows => self.want_windows(group, None),
                Step::Gated(gate) if self.gated.contains(&(gate, group)) => {}
                Step::Gated(gate) => self.gated.push((gate, group)),
                Step::Over => {
                    let seen = log.seen();
                    self.ended.insert(group, seen);
                    self.end(group);
                }
            }
            self.page.take_if(|(of, _)| *of == group);
        }
        None
    }

    /// Lets go of what was read and cannot be given now.
    pub(super) fn let_go(&mut self) {
        self.page = None;
    }

    /// Asks the store for what is wanted next, one thing at a time. With `stuck` the mailbox does not move until items are
    /// acked, so that gates are asked about that lie behind them.
    pub(super) fn ask(&mut self, queue: &Arc<Queue>, line: &Arc<Line>, stuck: bool) {
        if self.asked.is_some() || self.retry_at.is_some() {
            return;
        }
        self.asked = self.next_question(queue, line, stuck);
    }

    fn next_question(&mut self, queue: &Arc<Queue>, line: &Arc<Line>, stuck: bool) -> Option<Errand<Asked>> {
        let (queue, device) = (Arc::clone(queue), self.device);
        if !self.opened {
            let seats = Seats { line: Arc::clone(line), taken: None };
            return Some(Errand::start(async move {
                Asked::Windows(None, queue.open_logs(device, None, seats).await)
            }));
        }
        while let Some((group, gate)) = self.windows_wanted.pop_front() {
            if gate.is_some_and(|gate| self.of.get(&group).is_some_and(|log| log.has_gate(gate))) {
                continue;
            }
            let taken = self.of.contains_key(&group).then_some(group);
            let seats = Seats { line: Arc::clone(line), taken };
            return Some(Errand::start(async move {
                Asked::Windows(Some(group), queue.open_logs(device, Some(group), seats).await)
            }));
        }
        while let Some(group) = self.pages_wanted.pop_front() {
            let Some(log) = self.of.get(&group) else { continue };
            let (room, seen) = (Arc::clone(log.watch.room()), log.seen());
            return Some(Errand::start(async move {
                Asked::Page(group, queue.read_log(&room, group, seen).await)
            }));
        }
        let unknown = |(gate, _): &&(Position, GroupId)| !self.known_gates.contains(gate);
        let (gate, group) = *self.gated.iter().find(unknown).filter(|_| stuck)?;
        self.known_gates.insert(gate);
        Some(Errand::start(async move { Asked::Gate(group, gate, queue.is_gone(device, gate).await) }))
    }

    /// Waits for what the store was asked for. Nothing is lost when the future is dropped.
    pub(super) async fn answer(&mut self) -> Asked {
        let Some(asked) = &mut self.asked else { return pending().await };
        let answer = asked.await;
        self.asked = None;
        answer
    }

    /// Takes what the store answered.
    pub(super) fn take(&mut self, asked: Asked) {
        let failed = match asked {
            Asked::Windows(group, Ok(opened)) => return self.take_windows(group, opened),
            Asked::Page(group, Ok(page)) => {
                self.page = page.map(|page| (group, page));
                return self.queue_up(group);
            }
            Asked::Gate(group, gate, Ok(gone)) => {
                if let Some(log) = self.of.get_mut(&group).filter(|_| gone) {
                    log.pass_gate(gate);
                    self.gated.retain(|(_, of)| *of != group);
                    self.queue_up(group);
                }
                return;
            }
            Asked::Windows(group, Err(error)) => {
                self.windows_wanted.extend(group.map(|group| (group, None)));
                error
            }
            Asked::Page(group, Err(error)) => {
                self.pages_wanted.push_back(group);
                error
            }
            Asked::Gate(_, gate, Err(error)) => {
                self.known_gates.remove(&gate);
                error
            }
        };
        tracing::debug!(error = %failed, "a group's log could not be read; trying again");
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// When to call [`Logs::retry`].
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Asks the store again, if it is time.
    pub(super) fn retry(&mut self, now: Instant) {
        self.retry_at.take_if(|at| *at <= now);
    }

    fn take_windows(&mut self, group: Option<GroupId>, opened: Opened) {
        let mut windows: HashMap<GroupId, Vec<_>> = HashMap::new();
        for (window, head) in opened.windows {
            let given = self.ended.get(&window.group_id);
            if given.is_some_and(|given| window.closed_at.is_some_and(|end| end <= *given)) {
                continue;
            }
            windows.entry(window.group_id).or_default().push(window);
            if let Some((_, watch)) = opened.watches.iter().find(|(of, _)| *of == window.group_id) {
                watch.room().hear_of(head);
            }
        }
        if let Some(group) = group.filter(|group| !windows.contains_key(group)) {
            return self.end(group);
        }
        let mut watches: HashMap<_, _> = opened.watches.into_iter().collect();
        for (group, windows) in windows {
            match (self.of.get_mut(&group), watches.remove(&group)) {
                (Some(log), _) => log.set_windows(windows),
                (None, Some(watch)) => {
                    let mut log = Log::new(watch, windows);
                    let head = log.watch.room().head();
                    self.backlogs += usize::from(!self.opened && log.set_backlog(head));
                    self.of.insert(group, log);
                }
                // Its last window ended while it was being read.
                (None, None) => self.want_windows(group, None),
            }
            self.gated.retain(|(_, of)| *of != group);
            self.queue_up(group);
        }
        self.opened = true;
    }

    fn end(&mut self, group: GroupId) {
        if self.of.remove(&group).is_some_and(|log| log.has_backlog()) {
            self.backlogs -= 1;
        }
    }

    fn want_windows(&mut self, group: GroupId, gate: Option<Position>) {
        if !self.windows_wanted.contains(&(group, gate)) {
            self.windows_wanted.push_back((group, gate));
        }
    }

    fn queue_up(&mut self, group: GroupId) {
        if let Some(log) = self.of.get_mut(&group).filter(|log| !log.in_turn) {
            log.in_turn = true;
            self.turn.push_back(group);
        }
    }
}

#[cfg(test)]
mod tests;
