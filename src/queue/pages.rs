//! The logs of groups as the queue routes show them: what follows each stored cursor, within bounds.

use super::Queue;
use crate::{
    domain::{DeviceNo, GroupId, LogEntry, Position, Window},
    store::StoreError,
};

/// Entries and bytes in one answer, and groups that the store is asked about for one.
const ENTRIES: usize = 100;
pub(super) const BYTES: usize = 1 << 20;
const GROUPS: usize = 50;

/// Entries that a group may have in an answer, however many groups there are.
const LEAST: usize = 4;

/// What waits for a device in a group's log.
pub(super) struct GroupPage {
    pub(super) group_id: GroupId,
    /// After the stored cursor, ascending.
    pub(super) entries: Vec<LogEntry>,
    /// Whether more follows.
    pub(super) more: bool,
}

/// What may still go into an answer.
struct Space {
    entries: usize,
    bytes: usize,
    groups: usize,
    /// Entries of one window.
    share: usize,
}

impl Queue {
    /// What waits in the logs of a device that has been given its mailbox up to `mailbox`. Nothing of a window whose item comes
    /// after that, unless the item is gone. Groups with nothing to show are left out; those that the bounds leave no space for
    /// have no entries, and more.
    pub(super) async fn group_pages(
        &self,
        device: DeviceNo,
        mailbox: Position,
    ) -> Result<Vec<GroupPage>, StoreError> {
        let mut unread = self.store.windows(device, None).await?;
        unread.retain(|(window, head)| *head > window.cursor.max(window.opened_after));
        let share = (ENTRIES / unread.len().max(1)).max(LEAST);
        let mut space = Space { entries: ENTRIES, bytes: BYTES, groups: GROUPS, share };
        let mut pages: Vec<GroupPage> = Vec::new();
        for (window, _) in unread {
            let last = pages.last_mut().filter(|page| page.group_id == window.group_id);
            if last.as_ref().is_some_and(|page| page.more)
                || !self.is_open(device, &window, mailbox, &mut space).await?
            {
                continue;
            }
            let (entries, more) = self.after_cursor(device, &window, &mut space).await?;
            match last {
                Some(page) => {
                    page.entries.extend(entries);
                    page.more = more;
                }
                None if entries.is_empty() && !more => {}
                None => pages.push(GroupPage { group_id: window.group_id, entries, more }),
            }
        }
        Ok(pages)
    }

    async fn is_open(
        &self,
        device: DeviceNo,
        window: &Window,
        mailbox: Position,
        space: &mut Space,
    ) -> Result<bool, StoreError> {
        if window.gate <= mailbox || window.cursor > window.opened_after {
            return Ok(true);
        }
        let may_ask = space.groups > 0;
        space.groups -= usize::from(may_ask);
        Ok(may_ask && self.is_gone(device, window.gate).await?)
    }

    async fn after_cursor(
        &self,
        device: DeviceNo,
        window: &Window,
        space: &mut Space,
    ) -> Result<(Vec<LogEntry>, bool), StoreError> {
        if space.entries == 0 || space.bytes == 0 || space.groups == 0 {
            return Ok((Vec::new(), true));
        }
        space.groups -= 1;
        let limit = u32::try_from(space.entries.min(space.share)).unwrap_or(u32::MAX);
        let after = window.cursor.max(window.opened_after);
        let page = self.store.group_log(window.group_id, after, limit, space.bytes, self.clock.now()).await?;
        // The window may have ended since it was read.
        let closing = page.entries.iter().find(|entry| entry.closes_window_of(device));
        let end = closing.map(|entry| entry.position).or(window.closed_at).unwrap_or(page.head);
        let reached = page.entries.last().is_some_and(|entry| entry.position >= end);
        let mut entries = page.entries;
        entries.retain(|entry| entry.position <= end);
        space.entries -= space.entries.min(entries.len());
        space.bytes -= space.bytes.min(entries.iter().map(LogEntry::weight).sum());
        Ok((entries, page.more && !reached))
    }
}
