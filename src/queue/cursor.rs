//! How far a session has read its mailbox, and what it reads next.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Queue;
use crate::{
    domain::{DeviceNo, Item, Position},
    store::StoreError,
};

/// Items read at a time at first, and again after a reader did not take them all, so that it holds little memory.
const SMALL_PAGE: usize = 16;

/// Items read at a time for a reader that is far behind and keeps up.
const LARGE_PAGE: usize = 128;

/// How long a session waits before it asks a store again that could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// A session's place in its mailbox. Items come in position order and without a gap: from the store, or live when they
/// are the very next.
pub(super) struct Cursor {
    /// The last position given, or known to be erased.
    seen: Position,
    /// The last head that was read.
    head: Position,
    /// The head at first, until it was reached.
    backlog: Option<Position>,
    /// Whether the head at first was read.
    opened: bool,
    /// Up to where `ready` tells everything.
    covered: Position,
    /// Items read, not yet given.
    ready: VecDeque<(Position, Arc<Item>)>,
    /// Items to read at a time.
    page: usize,
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
            head: Position::START,
            backlog: None,
            opened: false,
            covered: Position::START,
            ready: VecDeque::new(),
            page: SMALL_PAGE,
            behind: true,
            retry_at: None,
        }
    }

    /// The last position given, or known to be erased.
    pub(super) const fn seen(&self) -> Position {
        self.seen
    }

    /// How far the mailbox reached when it was read last.
    pub(super) const fn head(&self) -> Position {
        self.head
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
        let idle = self.ready.is_empty() && !self.behind && self.retry_at.is_none();
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

    /// Lets go of what was read and cannot be given now: it may be erased before there is room.
    pub(super) fn let_go(&mut self) {
        if !self.ready.is_empty() {
            self.ready.clear();
            self.page = SMALL_PAGE;
            self.behind = true;
        }
    }

    /// Whether everything that lay in the mailbox at first has been given; true once.
    pub(super) fn is_drained(&mut self) -> bool {
        if !self.behind && self.ready.is_empty() {
            self.seen = self.seen.max(self.covered);
        }
        let drained = self.backlog.is_some_and(|head| head <= self.seen);
        if drained {
            self.backlog = None;
        }
        drained
    }

    /// The next item; none when there is nothing, or the store could not be asked. At most `room` items are read.
    pub(super) async fn next(
        &mut self,
        queue: &Queue,
        device: DeviceNo,
        room: usize,
    ) -> Option<(Position, Arc<Item>)> {
        while self.ready.is_empty() && self.behind && self.retry_at.is_none() {
            if let Err(error) = self.fetch(queue, device, room.clamp(1, self.page)).await {
                tracing::debug!(%error, "a mailbox could not be read; trying again");
                self.retry_at = Some(Instant::now() + RETRY);
            } else if self.ready.is_empty() {
                self.seen = self.seen.max(self.covered);
            }
        }
        let (position, item) = self.ready.pop_front()?;
        self.seen = self.seen.max(position);
        Some((position, item))
    }

    /// Reads what is left after `seen`.
    async fn fetch(&mut self, queue: &Queue, device: DeviceNo, limit: usize) -> Result<(), StoreError> {
        let left = queue.left(device, self.seen, u32::try_from(limit).unwrap_or(u32::MAX)).await?;
        let items = queue.items(device, &left).await?;
        self.head = left.head;
        if !self.opened {
            self.opened = true;
            self.backlog = Some(left.head);
        }
        let last = left.items.last().map(|(position, _)| *position);
        self.behind = left.items.len() >= limit;
        self.page = if self.behind { (2 * limit).clamp(SMALL_PAGE, LARGE_PAGE) } else { SMALL_PAGE };
        self.covered = last.filter(|_| self.behind).unwrap_or(left.head);
        self.ready = items.into();
        Ok(())
    }
}
