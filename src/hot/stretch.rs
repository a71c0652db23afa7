//! Entries of a group's log in memory, and what is known of the places between them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use crate::domain::{LogEntry, Position};

/// Bytes that entries and their frames hold in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Weight(Arc<AtomicUsize>);

impl Weight {
    /// How many bytes that is now.
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The two forms in which sockets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text frames.
    Text,
    /// Binary frames.
    Binary,
}

/// An entry of a group's log with the frames in which it is told: each is written once in this process, and shared by all
/// sessions that push it.
#[derive(Debug)]
pub struct Told {
    entry: Arc<LogEntry>,
    text: OnceLock<Bytes>,
    binary: OnceLock<Bytes>,
    weight: Weight,
}

impl Told {
    pub(super) fn new(entry: Arc<LogEntry>, weight: &Weight) -> Arc<Self> {
        weight.0.fetch_add(entry.weight(), Ordering::Relaxed);
        let weight = weight.clone();
        Arc::new(Self { entry, text: OnceLock::new(), binary: OnceLock::new(), weight })
    }

    /// The entry.
    #[must_use]
    pub const fn entry(&self) -> &Arc<LogEntry> {
        &self.entry
    }

    /// The frame of this form, as `write` writes it the first time; none when it cannot be written.
    pub fn frame(&self, form: Form, write: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let place = match form {
            Form::Text => &self.text,
            Form::Binary => &self.binary,
        };
        if let Some(frame) = place.get() {
            return Some(frame.clone());
        }
        let frame = write()?;
        // Another thread may have been faster; then its frame stays, and this one is used once.
        if place.set(frame.clone()).is_ok() {
            self.weight.0.fetch_add(frame.len(), Ordering::Relaxed);
        }
        Some(frame)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let frames = [&self.text, &self.binary];
        let frames: usize = frames.into_iter().filter_map(OnceLock::get).map(Bytes::len).sum();
        self.weight.0.fetch_sub(self.entry.weight() + frames, Ordering::Relaxed);
    }
}

/// What comes after a place in a log.
#[derive(Debug, Clone)]
pub enum Next {
    /// This entry; whatever lay between is gone for good.
    Entry(Arc<Told>),
    /// Nothing up to here, for good.
    Bare(Position),
    /// The store must be asked.
    Unknown,
    /// The place is the head.
    Nothing,
}

/// Entries of one log, not all of them. Of each it is known after which place it is the next one, so that any may be dropped
/// and what is left is still true.
#[derive(Debug, Clone, Default)]
pub struct Stretch {
    entries: BTreeMap<Position, Known>,
    /// After the first of these up to the second there is nothing, for good.
    bare: Option<(Position, Position)>,
}

#[derive(Debug, Clone)]
struct Known {
    after: Position,
    told: Arc<Told>,
}

impl Stretch {
    /// Adds an entry that is the next one after a place. False when the entry was there; then it stays, with its frames.
    pub(super) fn add(&mut self, after: Position, told: Arc<Told>) -> bool {
        let position = told.entry.position;
        if let Some(known) = self.entries.get_mut(&position) {
            known.after = known.after.min(after);
            return false;
        }
        self.entries.insert(position, Known { after, told });
        true
    }

    /// The entry at a position.
    pub(super) fn get(&self, position: Position) -> Option<Arc<Told>> {
        self.entries.get(&position).map(|known| Arc::clone(&known.told))
    }

    /// Notes that there is nothing after a place up to another, for good.
    pub(super) fn lay_bare(&mut self, after: Position, to: Position) {
        if after < to {
            self.bare = Some((after, to));
        }
    }

    /// Drops an entry.
    pub(super) fn forget(&mut self, position: Position) {
        self.entries.remove(&position);
    }

    /// What comes after a place, as far as this stretch tells.
    #[must_use]
    pub fn next(&self, seen: Position) -> Next {
        let next = self.entries.range(seen.next()..).next().map(|(_, known)| known);
        if let Some(known) = next.filter(|known| known.after <= seen) {
            return Next::Entry(Arc::clone(&known.told));
        }
        match self.bare {
            Some((after, to)) if after <= seen && seen < to => Next::Bare(to),
            Some(_) | None => Next::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
