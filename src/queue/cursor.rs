//! How far a session has read its mailbox, and what it reads next.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Queue;
use crate::{
    domain::{DeviceNo, Item, Position},
    store::StoreError,
};

/// Positions asked for at a time; keys only.
const PAGE: u32 = 256;

/// Bodies read at a time, so that a stalled reader holds little memory.
const BODIES: usize = 16;

/// How long a session waits before it asks a store again that could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// The next item.
    Item(Position, Arc<Item>),
    /// Everything that lay in the mailbox at first has been given; once.
    Drained,
}

/// A session's place in its mailbox. Items come in position order and without a gap: from the store, or live when they
/// are the very next.
pub(super) struct Cursor {
    /// The last position given, or known to be erased.
    seen: Position,
    /// The head at first, until `Drained` was given.
    backlog: Option<Position>,
    /// The head at first, once it was read: what lies up to there may lie in the offline queue too.
    waited: Option<Position>,
    /// Positions that are left, not yet read.
    to_read: VecDeque<Position>,
    /// Up to where `to_read` tells everything.
    covered: Position,
    /// Items read, not yet given.
    ready: VecDeque<(Position, Arc<Item>)>,
    /// The store may have more than `covered`.
    behind: bool,
    /// When a store that could not be asked is asked again.
    retry_at: Option<Instant>,
}

impl Cursor {
    /// A cursor before the first item, to be read from the store.
    pub(super) const fn new() -> Self {
        Self {
            seen: Position::START,
            backlog: None,
            waited: None,
            to_read: VecDeque::new(),
            covered: Position::START,
            ready: VecDeque::new(),
            behind: true,
            retry_at: None,
        }
    }

    /// The last position given, or known to be erased.
    pub(super) const fn seen(&self) -> Position {
        self.seen
    }

    /// Whether this position lay in the mailbox at first.
    pub(super) fn had_waited(&self, position: Position) -> bool {
        self.waited >= Some(position)
    }

    /// The mailbox may have more than was heard of.
    pub(super) const fn fall_behind(&mut self) {
        self.behind = true;
    }

    /// The mailbox reaches up to here.
    pub(super) fn hear_of(&mut self, position: Position) {
        self.behind |= position > self.seen;
    }

    /// Takes a live item if it is the very next and `room` allows it; else it will be read from the store in its turn.
    pub(super) fn take_live(&mut self, position: Position, room: bool) -> bool {
        let idle =
            self.ready.is_empty() && self.to_read.is_empty() && !self.behind && self.retry_at.is_none();
        if idle && room && position == self.seen.next() {
            self.seen = position;
            self.covered = position;
            return true;
        }
        self.hear_of(position);
        false
    }

    /// When to call [`Cursor::retry`].
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Asks the store again.
    pub(super) const fn retry(&mut self) {
        self.retry_at = None;
        self.behind = true;
    }

    /// What comes next; none when there is nothing, or the store could not be asked.
    pub(super) async fn next(&mut self, queue: &Queue, device: DeviceNo) -> Option<Step> {
        while self.retry_at.is_none() {
            if let Some((position, item)) = self.ready.pop_front() {
                self.seen = self.seen.max(position);
                return Some(Step::Item(position, item));
            }
            if let Err(error) = self.fetch(queue, device).await {
                tracing::debug!(%error, "a mailbox could not be read; trying again");
                self.retry_at = Some(Instant::now() + RETRY);
            } else if self.drains() {
                return Some(Step::Drained);
            } else if self.is_through() && !self.behind {
                return None;
            }
        }
        None
    }

    /// Whether everything that lay in the mailbox at first has been given; true once. Asked apart from
    /// [`Cursor::next`] by a session whose peer takes no more, so that a backlog that fills the window ends too.
    pub(super) fn drains(&mut self) -> bool {
        if !self.is_through() {
            return false;
        }
        self.seen = self.seen.max(self.covered);
        self.backlog.take_if(|head| *head <= self.seen).is_some()
    }

    /// Whether everything that was read has been given.
    fn is_through(&self) -> bool {
        self.ready.is_empty() && self.to_read.is_empty()
    }

    /// Reads the next bodies, or else what is left after `seen`.
    async fn fetch(&mut self, queue: &Queue, device: DeviceNo) -> Result<(), StoreError> {
        if !self.to_read.is_empty() {
            let positions: Vec<_> = self.to_read.iter().copied().take(BODIES).collect();
            self.ready.extend(queue.items(device, &positions).await?);
            self.to_read.drain(..positions.len());
            return Ok(());
        }
        if !self.behind {
            return Ok(());
        }
        let left = queue.left(device, self.seen, PAGE).await?;
        if self.waited.is_none() {
            self.waited = Some(left.head);
            self.backlog = Some(left.head);
        }
        self.behind = left.positions.len() >= PAGE as usize;
        self.covered =
            if self.behind { left.positions.last().copied().unwrap_or(left.head) } else { left.head };
        self.to_read = left.positions.into();
        Ok(())
    }
}
