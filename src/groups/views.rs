//! What a device reads of a group's log: its windows, and what opens them.

use crate::domain::{Caller, GroupId, Item, LogEntry, Position, Window};

use super::{Groups, Refusal};

/// Bytes of bodies in one page of a log, about.
pub const PAGE_BYTES: usize = 1 << 20;

/// A page of a group's log, out of one of the device's windows.
#[derive(Debug)]
pub struct Page {
    /// What opened the window, while it waits in the device's mailbox: nothing of the window may be read before it.
    pub opening: Option<Item>,
    /// The entries, ascending.
    pub entries: Vec<LogEntry>,
    /// Where the next page begins.
    pub next_after: Position,
    /// Whether there is more now.
    pub more: bool,
    /// The last position that the device may see as of now.
    pub head: Position,
    /// The first position that the device may see and that is left.
    pub oldest: Position,
}

impl Groups {
    /// A page of a group's log after a place: of the first window of the device that holds something after it.
    ///
    /// # Errors
    /// `UnknownGroup` for a device without a window.
    pub async fn read_log(
        &self,
        caller: &Caller,
        group: GroupId,
        after: Position,
        limit: u32,
    ) -> Result<Page, Refusal> {
        let windows = self.store.windows_in(caller.device_no, group).await?;
        let is_left = |window: &&Window| window.closed_at.is_none_or(|end| end > after);
        let window = windows.iter().find(is_left).or(windows.last()).ok_or(Refusal::UnknownGroup)?;
        let from = window.opened_after.max(after);
        let log = self.store.group_log(group, from, limit, PAGE_BYTES, self.clock.now()).await?;
        // Asked again, because the window may have ended before the log was read.
        let windows = self.store.windows_in(caller.device_no, group).await?;
        let is_same = |other: &&Window| other.opened_after == window.opened_after;
        let window = windows.iter().find(is_same).ok_or(Refusal::UnknownGroup)?;
        let end = window.closed_at.unwrap_or(log.head);
        let last = if log.more { log.entries.last().map_or(from, |entry| entry.position) } else { log.head };
        let head = windows.last().and_then(|newest| newest.closed_at).unwrap_or(log.head);
        let next_after = last.min(end).max(from);
        Ok(Page {
            opening: self.opening(caller, window).await?,
            entries: log.entries.into_iter().filter(|entry| entry.position <= end).collect(),
            next_after,
            more: next_after < head,
            head,
            oldest: windows.first().map_or(log.oldest, |first| log.oldest.max(first.opened_after.next())),
        })
    }

    async fn opening(&self, caller: &Caller, window: &Window) -> Result<Option<Item>, Refusal> {
        let items = self.store.mailbox_items(caller.device_no, &[window.gate], self.clock.now()).await?;
        Ok(items.into_iter().map(|(_, item)| item).find(|item| match item {
            Item::Welcome { group_id, .. } | Item::Joined { group_id, .. } => *group_id == window.group_id,
            Item::Message(_) | Item::Deleted { .. } | Item::DevicesChanged { .. } => false,
        }))
    }
}
