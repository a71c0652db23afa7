//! Acks as they wait for their batch.

use std::{cmp::Reverse, collections::HashSet};

use crate::domain::{DeviceNo, GroupId, Position};

/// An ack of one device.
pub(super) enum Ack {
    /// Items of its mailbox.
    Items(DeviceNo, Vec<Position>),
    /// Entries of groups: of each the last, with all before it.
    Entries(DeviceNo, Vec<(GroupId, Position)>),
}

impl Ack {
    /// Roughly how many bytes it holds while it waits.
    pub(super) const fn weight(&self) -> usize {
        64 + match self {
            Self::Items(_, positions) => positions.len() * size_of::<Position>(),
            Self::Entries(_, entries) => entries.len() * size_of::<(GroupId, Position)>(),
        }
    }

    fn items(&self) -> impl Iterator<Item = (DeviceNo, Position)> {
        let (device, positions) = match self {
            Self::Items(device, positions) => (*device, positions.as_slice()),
            Self::Entries(device, _) => (*device, &[][..]),
        };
        positions.iter().map(move |position| (device, *position))
    }
}

/// The items that a batch names.
pub(super) fn items(batch: &[Ack]) -> impl Iterator<Item = (DeviceNo, Position)> {
    batch.iter().flat_map(Ack::items)
}

/// Where a batch moves cursors: ascending by device and group, each once, to the furthest of its places.
pub(super) fn cursors(batch: &[Ack]) -> Vec<(DeviceNo, GroupId, Position)> {
    let mut cursors = Vec::new();
    for ack in batch {
        if let Ack::Entries(device, entries) = ack {
            cursors.extend(entries.iter().map(|(group, position)| (*device, *group, *position)));
        }
    }
    cursors.sort_unstable_by_key(|(device, group, position)| (*device, *group, Reverse(*position)));
    cursors.dedup_by_key(|(device, group, _)| (*device, *group));
    cursors
}

/// How many items each ack removed. Of two that name the same item the earlier did.
pub(super) fn credit(batch: &[Ack], mut removed: HashSet<(DeviceNo, Position)>) -> Vec<u32> {
    let count = |ack: &Ack| ack.items().filter(|item| removed.remove(item)).count();
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
        let batch = [
            Ack::Items(ONE, vec![Position(1), Position(1), Position(2)]),
            Ack::Entries(ONE, vec![(GroupId::new(Uuid::nil()), Position(2))]),
            Ack::Items(ONE, vec![Position(2), Position(3)]),
            Ack::Items(TWO, vec![Position(1)]),
        ];
        let removed = HashSet::from([(ONE, Position(1)), (ONE, Position(2)), (ONE, Position(3))]);
        assert_eq!(credit(&batch, removed), [2, 0, 1, 0]);
    }

    #[test]
    fn a_cursor_moves_to_the_furthest_place_that_is_named() {
        let group = |number| GroupId::new(Uuid::from_u128(number));
        let batch = [
            Ack::Entries(TWO, vec![(group(1), Position(4))]),
            Ack::Entries(ONE, vec![(group(2), Position(9)), (group(1), Position(3))]),
            Ack::Items(ONE, vec![Position(70)]),
            Ack::Entries(ONE, vec![(group(1), Position(8)), (group(1), Position(5))]),
        ];
        let moved =
            [(ONE, group(1), Position(8)), (ONE, group(2), Position(9)), (TWO, group(1), Position(4))];
        assert_eq!(cursors(&batch), moved);
    }
}
