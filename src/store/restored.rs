//! What both engines do alike to a store that was restored.

use crate::domain::Timestamp;

/// How far numbers go on at least, for a clock that stands before the backup's.
const JUMP: i64 = 1_000_000;

/// What making a restored store fit to be served did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// One-time keys that were erased.
    pub keys: u64,
    /// Sessions that were ended.
    pub sessions: u64,
    /// Mailboxes whose positions jumped.
    pub mailboxes: u64,
}

/// Where numbers go on after a restore: at least `by` beyond the last, and at `floor` at the least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jump {
    pub(super) by: i64,
    pub(super) floor: i64,
}

impl Jump {
    /// The jump at `now`. Its floor is the microseconds since 1970: nothing here is numbered once in a microsecond, so
    /// that no number given before `now` reaches it, whichever restore of which backup gave it. Clients read these numbers
    /// exactly until the year 2255 (2^53).
    pub(super) const fn at(now: Timestamp) -> Self {
        Self { by: JUMP, floor: now.millis().saturating_mul(1000) }
    }
}
