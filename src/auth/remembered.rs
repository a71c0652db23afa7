//! Access tokens whose signature was checked, remembered by their hash so that it is checked once.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::tokens::Claims;
use crate::domain::Timestamp;

/// Tokens of one generation; two are kept.
const GENERATION: usize = 25_000;

/// Two generations of tokens: when the young one is full or as old as a token can become, the old one is dropped and
/// the young one takes its place. So memory is bounded, and what has ended is soon forgotten, without ever being
/// searched for.
pub(super) struct Remembered {
    life: Duration,
    most: usize,
    generations: Mutex<Generations>,
}

struct Generations {
    young: HashMap<[u8; 32], Claims>,
    old: HashMap<[u8; 32], Claims>,
    begun: Timestamp,
}

impl Remembered {
    /// Remembers nothing yet; tokens live as long as this.
    pub(super) fn new(life: Duration) -> Self {
        let begun = Timestamp::from_millis(0);
        let generations = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new(), begun });
        Self { life, most: GENERATION, generations }
    }

    /// What the token of this hash said.
    pub(super) fn find(&self, hash: &[u8; 32]) -> Option<Claims> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(hash).or_else(|| generations.old.get(hash)).cloned()
    }

    /// Keeps what a token said that has not ended.
    pub(super) fn keep(&self, hash: [u8; 32], claims: Claims, now: Timestamp) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= self.most || now.since(generations.begun) >= self.life {
            generations.old = mem::take(&mut generations.young);
            generations.begun = now;
        }
        generations.young.insert(hash, claims);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Caller, DeviceId, DeviceNo, DeviceNumber, SessionId, UserId};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const LIFE: Duration = Duration::from_mins(15);

    fn claims() -> Claims {
        Claims {
            caller: Caller {
                user_id: UserId::new(Uuid::from_u128(7)),
                device_id: DeviceId::parse("phone").unwrap(),
                device_number: DeviceNumber::new(3).unwrap(),
                device_no: DeviceNo(99),
            },
            session: SessionId::new(Uuid::from_u128(8)),
            user_since: NOW,
            expires_at: NOW.plus(LIFE),
        }
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_half_and_never_grows() {
        let remembered = Remembered { most: 10, ..Remembered::new(LIFE) };
        for number in 0..200_u8 {
            remembered.keep([number; 32], claims(), NOW);
            let generations = remembered.generations.lock().unwrap();
            assert!(generations.young.len() + generations.old.len() <= 20);
        }
        assert!(remembered.find(&[199; 32]).is_some() && remembered.find(&[189; 32]).is_some());
        assert!(remembered.find(&[0; 32]).is_none());
    }

    #[test]
    fn tokens_are_forgotten_after_two_lives_however_few_there_are() {
        let remembered = Remembered::new(LIFE);
        remembered.keep([1; 32], claims(), NOW);
        remembered.keep([2; 32], claims(), NOW.plus(LIFE));
        assert!(remembered.find(&[1; 32]).is_some());
        remembered.keep([3; 32], claims(), NOW.plus(2 * LIFE));
        assert!(remembered.find(&[1; 32]).is_none() && remembered.find(&[2; 32]).is_some());
    }
}
