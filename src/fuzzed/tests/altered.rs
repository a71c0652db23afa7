//! Inputs that are altered, the same way for the same seed.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// Bytes that are ends of something.
const EDGES: [u8; 12] = [0, 1, 0x1f, 0x20, b'"', b'[', b'{', 0x7f, 0x80, 0xc1, 0xfe, 0xff];

/// The alterations of one seed.
pub(super) struct Alterations(StdRng);

impl Alterations {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// One of the inputs, altered in one to six places.
    pub(super) fn alter(mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs.choose(&mut self.0).unwrap().clone();
        for _ in 0..self.0.random_range(1..=6) {
            self.alter_once(&mut input, inputs);
        }
        input
    }

    fn alter_once(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let random = &mut self.0;
        let at = random.random_range(0..=input.len());
        let until = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..until)),
            2 => input.insert(at, *EDGES.choose(random).unwrap()),
            3 => {
                let piece = input[at..until].repeat(random.random_range(1..40));
                input.splice(at..at, piece);
            }
            4 => {
                let other = inputs.choose(random).unwrap();
                let from = random.random_range(0..=other.len());
                input.splice(at..until, other[from..].iter().copied().take(200));
            }
            5 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            6 if at < input.len() => input[at] = *EDGES.choose(random).unwrap(),
            _ => input.push(random.random()),
        }
    }
}
