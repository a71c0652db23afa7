//! Acks as they wait for their batch: those of mailbox items and those of group entries each in a lane of their own, so
//! that a group whose windows another act holds makes no mailbox wait.

use std::{cmp::Reverse, collections::HashSet};

use crate::domain::{DeviceNo, GroupId, Position};

/// An ack of items in a device's mailbox.
pub(super) struct ItemAck {
    pub(super) device: DeviceNo,
    pub(super) positions: Vec<Position>,
}

impl ItemAck {
    /// Roughly how many bytes it holds while it waits.
    pub(super) const fn weight(&self) -> usize {
        64 + self.positions.len() * size_of::<Position>()
    }

    fn items(&self) -> impl Iterator<Item = (DeviceNo, Position)> {
        self.positions.iter().map(|position| (self.device, *position))
    }
}

/// An ack of entries of groups: of each group the last that the device has, with all before it.
pub(super) struct EntryAck {
    pub(super) device: DeviceNo,
    pub(super) entries: Vec<(GroupId, Position)>,
}

impl EntryAck {
    /// Roughly how many bytes it holds while it waits.
    pub(super) const fn weight(&self) -> usize {
        64 + self.entries.len() * size_of::<(GroupId, Position)>()
    }
}

/// The items that a batch names.
pub(super) fn items(batch: &[ItemAck]) -> impl Iterator<Item = (DeviceNo, Position)> {
    batch.iter().flat_map(ItemAck::items)
}

/// Where a batch moves cursors: ascending by device and group, each once, to the furthest of its places.
pub(super) fn cursors(batch: &[EntryAck]) -> Vec<(DeviceNo, GroupId, Position)> {
    let mut cursors = Vec::new();
    for ack in batch {
        cursors.extend(ack.entries.iter().map(|(group, position)| (ack.device, *group, *position)));
    }
    cursors.sort_unstable_by_key(|(device, group, position)| (*device, *group, Reverse(*position)));
    cursors.dedup_by_key(|(device, group, _)| (*device, *group));
    cursors
}

/// How many items each ack removed. Of two that name the same item the earlier did.
pub(super) fn credit(batch: &[ItemAck], mut removed: HashSet<(DeviceNo, Position)>) -> Vec<u32> {
    let count = |ack: &ItemAck| ack.items().filter(|item| removed.remove(item)).count();
    batch.iter().map(count).map(|count| u32::try_from(count).unwrap_or(u32::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ONE: DeviceNo = DeviceNo(1);
    const TWO: DeviceNo = DeviceNo(2);

    #[test]
    fn an_item_that_is_named_twice_counts_once() {
        let ack = |device, positions: &[i64]| ItemAck {
            device,
            positions: positions.iter().copied().map(Position).collect(),
        };
        let batch = [ack(ONE, &[1, 1, 2]), ack(ONE, &[]), ack(ONE, &[2, 3]), ack(TWO, &[1])];
        let removed = HashSet::from([(ONE, Position(1)), (ONE, Position(2)), (ONE, Position(3))]);
        assert_eq!(credit(&batch, removed), [2, 0, 1, 0]);
    }

    #[test]
    fn a_cursor_moves_to_the_furthest_place_that_is_named() {
        let group = |number| GroupId::new(Uuid::from_u128(number));
        let ack = |device, entries: &[(GroupId, Position)]| EntryAck { device, entries: entries.to_vec() };
        let batch = [
            ack(TWO, &[(group(1), Position(4))]),
            ack(ONE, &[(group(2), Position(9)), (group(1), Position(3))]),
            ack(ONE, &[(group(1), Position(8)), (group(1), Position(5))]),
        ];
        let moved =
            [(ONE, group(1), Position(8)), (ONE, group(2), Position(9)), (TWO, group(1), Position(4))];
        assert_eq!(cursors(&batch), moved);
    }
}
