//! The public states of MLS groups in one process: of each group the last one, for a while, bounded in bytes.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use bytes::Bytes;

use crate::{
    domain::GroupId,
    hot::{STATE_LIFE, STATE_WEIGHT},
};

/// States by group. What does not fit drops the oldest.
pub(super) struct States {
    max_weight: usize,
    weight: usize,
    kept: HashMap<GroupId, Kept>,
    by_age: BTreeMap<u64, GroupId>,
    next_age: u64,
}

struct Kept {
    digest: [u8; 32],
    state: Bytes,
    age: u64,
    since: Instant,
}

impl States {
    /// An empty cache of at most this many bytes.
    pub(super) fn bounded(max_weight: usize) -> Self {
        Self { max_weight, weight: 0, kept: HashMap::new(), by_age: BTreeMap::new(), next_age: 0 }
    }

    /// Keeps a state in place of the group's former one; nothing is kept of one that is too large.
    pub(super) fn keep(&mut self, group: GroupId, digest: [u8; 32], state: Bytes, now: Instant) {
        self.forget(group);
        if state.len() > STATE_WEIGHT.min(self.max_weight) {
            return;
        }
        self.weight += state.len();
        self.by_age.insert(self.next_age, group);
        self.kept.insert(group, Kept { digest, state, age: self.next_age, since: now });
        self.next_age += 1;
        while self.weight > self.max_weight {
            let Some((_, oldest)) = self.by_age.first_key_value() else { return };
            self.forget(*oldest);
        }
    }

    /// The group's state, if it was kept under this digest and its hour is not over.
    pub(super) fn get(&mut self, group: GroupId, digest: [u8; 32], now: Instant) -> Option<Bytes> {
        let kept = self.kept.get(&group)?;
        if now.duration_since(kept.since) >= STATE_LIFE {
            self.forget(group);
            return None;
        }
        (kept.digest == digest).then(|| kept.state.clone())
    }

    fn forget(&mut self, group: GroupId) {
        if let Some(kept) = self.kept.remove(&group) {
            self.by_age.remove(&kept.age);
            self.weight -= kept.state.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn group(number: u8) -> GroupId {
        GroupId::new(Uuid::from_u128(number.into()))
    }

    #[test]
    fn a_state_is_kept_for_an_hour_and_until_the_group_has_another() {
        let (mut states, now) = (States::bounded(100), Instant::now());
        states.keep(group(1), [1; 32], Bytes::from_static(b"one"), now);
        assert_eq!(states.get(group(1), [2; 32], now), None);
        assert_eq!(states.get(group(2), [1; 32], now), None);
        let nearly = now + Duration::from_secs(3599);
        assert_eq!(states.get(group(1), [1; 32], nearly), Some(Bytes::from_static(b"one")));
        assert_eq!(states.get(group(1), [1; 32], now + Duration::from_hours(1)), None);
        assert_eq!(states.weight, 0);
        states.keep(group(1), [1; 32], Bytes::from_static(b"one"), now);
        states.keep(group(1), [2; 32], Bytes::from_static(b"two"), now);
        assert_eq!(states.get(group(1), [1; 32], now), None);
        states.keep(group(1), [3; 32], Bytes::from(vec![0; 101]), now);
        assert_eq!(states.get(group(1), [2; 32], now), None, "what is out of date is not kept either");
    }

    proptest! {
        #[test]
        fn the_books_balance_and_the_oldest_goes_first(acts in prop::collection::vec((0..6_u8, 0..60_usize), 0..100)) {
            let (mut states, now) = (States::bounded(100), Instant::now());
            for (number, weight) in acts {
                states.keep(group(number), [number; 32], vec![0; weight].into(), now);
                prop_assert!(states.get(group(number), [number; 32], now).is_some());
                prop_assert!(states.weight <= states.max_weight);
                prop_assert_eq!(states.weight, states.kept.values().map(|kept| kept.state.len()).sum::<usize>());
                prop_assert_eq!(states.by_age.len(), states.kept.len());
            }
        }
    }
}
