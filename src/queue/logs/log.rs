//! One group's log as one session gives it: its windows, and how far it is.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    domain::{DeviceNo, Position, Window},
    hot::{Next, Stretch, Told, Watch},
};

/// What a session writes of a log.
#[derive(Debug)]
pub(in crate::queue) enum Give {
    /// The next entry.
    Entry(Arc<Told>),
    /// These positions are gone for good, and the device must catch up another way.
    Gap(Position, Position),
}

/// What comes next in a log.
#[derive(Debug)]
pub(super) enum Step {
    /// This is to be written.
    Give(Give),
    /// Nothing, until the log moves.
    Idle,
    /// The log must be read.
    Read,
    /// The windows must be read.
    ReadWindows,
    /// Nothing, until the mailbox has been given up to here.
    Gated(Position),
    /// Nothing, until entries are acked.
    Full,
    /// No window is left.
    Over,
}

/// See the module's text.
pub(super) struct Log {
    pub(super) watch: Watch,
    /// Those that are left, the present one first.
    windows: VecDeque<Window>,
    /// The last position given, or known to be gone.
    seen: Position,
    /// The last position acked.
    acked: Position,
    /// From where unacked entries are counted: the last gap, which nobody acks.
    counted_after: Position,
    /// Whether the item that opened the present window is known to have been given, although the mailbox has not come to it.
    gate_passed: bool,
    /// Up to where a gap is known to end no window that was thought open.
    sure_to: Position,
    /// The gap that waits for the windows to be read again.
    doubted: Option<Position>,
    /// The end of what waited when the session began, until it was given.
    backlog: Option<Position>,
    /// Whether it stands in the turn.
    pub(super) in_turn: bool,
}

impl Log {
    /// A log to be given from what was acked on, within these windows, oldest first.
    pub(super) fn new(watch: Watch, windows: Vec<Window>) -> Self {
        let mut log = Self {
            watch,
            windows: VecDeque::new(),
            seen: Position::START,
            acked: Position::START,
            counted_after: Position::START,
            gate_passed: false,
            sure_to: Position::START,
            doubted: None,
            backlog: None,
            in_turn: false,
        };
        log.set_windows(windows);
        log
    }

    /// Takes the windows as they were read anew.
    pub(super) fn set_windows(&mut self, windows: Vec<Window>) {
        if let Some(gap) = self.doubted.take() {
            self.sure_to = self.sure_to.max(gap);
        }
        let before = self.windows.front().map(|window| window.gate);
        self.windows = windows.into();
        self.drop_past_windows();
        if self.windows.front().map(|window| window.gate) != before {
            self.gate_passed = false;
        }
        self.enter_window();
    }

    /// Whether a window was opened by the mailbox item at this position.
    pub(super) fn has_gate(&self, gate: Position) -> bool {
        self.windows.iter().any(|window| window.gate == gate)
    }

    /// The item that opened the present window was given or is gone: the mailbox need not come to it.
    pub(super) fn pass_gate(&mut self, gate: Position) {
        self.gate_passed |= self.windows.front().is_some_and(|window| window.gate == gate);
    }

    /// What lay in the log up to `head` is to be given before the backlog is. False when nothing is.
    pub(super) fn set_backlog(&mut self, head: Position) -> bool {
        let end = self.windows.back().and_then(|window| window.closed_at).unwrap_or(head);
        self.backlog = Some(head.min(end)).filter(|head| *head > self.seen);
        self.backlog.is_some()
    }

    /// Whether the backlog was given since the last call; true once.
    pub(super) fn takes_leave_of_backlog(&mut self) -> bool {
        let given = self.backlog.is_some_and(|head| head <= self.seen);
        if given {
            self.backlog = None;
        }
        given
    }

    /// Whether the backlog has yet to be given.
    pub(super) const fn has_backlog(&self) -> bool {
        self.backlog.is_some()
    }

    /// Notes an ack. What is not known to be in the log is not believed.
    pub(super) fn ack(&mut self, position: Position) {
        self.acked = self.acked.max(position.min(self.watch.room().head()));
    }

    /// The last position given, or known to be gone.
    pub(super) const fn seen(&self) -> Position {
        self.seen
    }

    /// What comes next for a device whose mailbox was given up to `mailbox`, and which may have `most` unacked entries of a
    /// group. What the room does not know may stand in `page`.
    pub(super) fn step(
        &mut self,
        device: DeviceNo,
        mailbox: Position,
        most: usize,
        page: Option<&Stretch>,
    ) -> Step {
        loop {
            let Some(window) = self.windows.front() else { return Step::Over };
            if window.closed_at.is_some_and(|end| end <= self.seen) {
                self.drop_past_windows();
                self.gate_passed = false;
                self.enter_window();
                continue;
            }
            if window.gate > mailbox && window.cursor <= window.opened_after && !self.gate_passed {
                return Step::Gated(window.gate);
            }
            if self.unacked() >= most {
                return Step::Full;
            }
            let next = match (self.watch.room().next(self.seen), page) {
                (Next::Unknown, Some(page)) => page.next(self.seen),
                (next, _) => next,
            };
            let gone_to = match &next {
                Next::Entry(told) => Position(told.entry().position.0 - 1),
                Next::Bare(to) => *to,
                Next::Unknown => return Step::Read,
                Next::Nothing => return Step::Idle,
            };
            if gone_to > self.seen {
                match self.cross(window.closed_at.map_or(gone_to, |end| gone_to.min(end))) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            if let Next::Entry(told) = next
                && let Some(give) = self.take(device, told)
            {
                return Step::Give(give);
            }
        }
    }

    /// Goes over a gap, once it is sure that no window ended in it.
    fn cross(&mut self, to: Position) -> Option<Step> {
        if to > self.sure_to {
            self.doubted = Some(to);
            return Some(Step::ReadWindows);
        }
        let from = self.seen.next();
        self.seen = to;
        self.counted_after = to;
        (to > self.acked).then_some(Step::Give(Give::Gap(from, to)))
    }

    /// Takes the next entry; none when it was acked before it was given.
    fn take(&mut self, device: DeviceNo, told: Arc<Told>) -> Option<Give> {
        let entry = told.entry();
        self.seen = entry.position;
        if let Some(window) = self.windows.front_mut().filter(|_| entry.closes_window_of(device)) {
            window.closed_at = Some(entry.position);
        }
        (entry.position > self.acked).then_some(Give::Entry(told))
    }

    fn unacked(&self) -> usize {
        let counted = self.seen.0 - self.acked.max(self.counted_after).0;
        usize::try_from(counted).unwrap_or(0)
    }

    fn drop_past_windows(&mut self) {
        while self.windows.front().and_then(|window| window.closed_at).is_some_and(|end| end <= self.seen) {
            self.windows.pop_front();
        }
    }

    /// Goes to the beginning of the present window, or to what was acked of it.
    fn enter_window(&mut self) {
        let Some(window) = self.windows.front() else { return };
        let begin = window.opened_after.max(window.cursor);
        self.acked = self.acked.max(begin);
        if begin > self.seen {
            self.seen = begin;
            self.counted_after = begin;
        }
    }
}
