//! Reading the logs of groups for sessions.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::Queue;
use crate::{
    domain::{DeviceNo, GroupId, Position, Window},
    hot::{Line, Next, Reading, Room, Stretch, Switchboard, Watch},
    store::{LogPage, StoreError},
};

/// Entries and bytes that are read of a log at a time.
const PAGE: u32 = 128;
const PAGE_BYTES: usize = 256 << 10;

/// Groups that a session begins to watch at the same time.
const WATCHED_AT_ONCE: usize = 64;

/// For whom groups are watched.
pub(super) struct Seats {
    pub(super) line: Arc<Line>,
    /// The group that is watched already.
    pub(super) taken: Option<GroupId>,
}

/// The windows of a device, and its places in the rooms of those groups that were not watched yet.
pub(super) struct Opened {
    pub(super) windows: Vec<(Window, Position)>,
    pub(super) watches: Vec<(GroupId, Watch)>,
}

impl Queue {
    /// Reads the windows of a device, of one group or of all, and watches their groups. What is committed after the read is
    /// heard of, so that no entry falls between: a log is read after it is watched.
    pub(super) async fn open_logs(
        &self,
        device: DeviceNo,
        group: Option<GroupId>,
        seats: Seats,
    ) -> Result<Opened, StoreError> {
        let windows = self.store.windows(device, group).await?;
        let groups: BTreeSet<_> = windows.iter().map(|(window, _)| window.group_id).collect();
        let new = groups.into_iter().filter(|group| seats.taken != Some(*group));
        let watches = stream::iter(new)
            .map(async |group| (group, self.switchboard.watch(&seats.line, group).await))
            .buffer_unordered(WATCHED_AT_ONCE)
            .collect()
            .await;
        Ok(Opened { windows, watches })
    }

    /// What comes after a place in a group's log, unless its room has it when the turn to read comes.
    pub(super) async fn read_log(
        &self,
        room: &Arc<Room>,
        group: GroupId,
        seen: Position,
    ) -> Result<Option<Stretch>, StoreError> {
        let now = self.clock.now();
        fill(&self.switchboard, room, seen, || self.store.group_log(group, seen, PAGE, PAGE_BYTES, now)).await
    }

    /// Whether the item at a position of a mailbox was acked, deleted or has expired.
    pub(super) async fn is_gone(&self, device: DeviceNo, gate: Position) -> Result<bool, StoreError> {
        let left = self.left(device, Position(gate.0 - 1), 1).await?;
        Ok(left.items.first().is_none_or(|(position, _)| *position != gate))
    }
}

/// Reads a log for everybody in its room, unless somebody else has done so when the turn comes.
async fn fill<F>(
    switchboard: &Switchboard,
    room: &Arc<Room>,
    seen: Position,
    read: impl FnOnce() -> F,
) -> Result<Option<Stretch>, StoreError>
where
    F: Future<Output = Result<LogPage, StoreError>>,
{
    let turn = room.turn().await;
    if !matches!(room.next(seen), Next::Unknown) {
        return Ok(None);
    }
    if turn.is_resting() {
        return Err(StoreError::Unavailable("the log could not be read a moment ago".into()));
    }
    let heard = room.heard();
    match read().await {
        Ok(LogPage { entries, more, head, .. }) => {
            Ok(Some(switchboard.learn(room, Reading { after: seen, entries, more, head, heard })))
        }
        Err(error) => {
            turn.failed();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
