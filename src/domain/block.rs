//! Networks that are shut out for a while: how long, and how they are named.

use std::{fmt, net::IpAddr, time::Duration};

use super::Timestamp;

/// How long a network is blocked, the longer the oftener it was before.
const LADDER: [Duration; 4] =
    [Duration::from_mins(1), Duration::from_mins(5), Duration::from_mins(30), Duration::from_hours(6)];

/// How long after its end a block is remembered, and makes the next one longer.
pub const BLOCK_MEMORY: Duration = Duration::from_hours(24);

/// An address network as it is counted: the first byte tells its family, the others are its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(pub [u8; 9]);

impl Network {
    /// The network of an address: an IPv4 address whole, also where it is written as an IPv6 one, and of an IPv6 address the
    /// 64 bits that one subscriber has at least.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut network = [0; 9];
        let (family, bytes) = network.split_at_mut(1);
        match address.to_canonical() {
            IpAddr::V4(address) => {
                family.fill(4);
                bytes[..4].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                family.fill(6);
                bytes.copy_from_slice(&address.octets()[..8]);
            }
        }
        Self(network)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network(..)")
    }
}

/// A network by a keyed hash, as blocks are kept: without the key nobody learns the network from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkKey(pub [u8; 16]);

impl NetworkKey {
    /// The key as operators are shown it and give it back, 32 hexadecimal digits; none for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
        Some(Self(number.to_be_bytes()))
    }

    /// The key in 32 hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

/// Names networks under a key that the relay's nodes share.
#[derive(Clone)]
pub struct NetworkKeys([u8; 32]);

impl NetworkKeys {
    /// By this key.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// What the network is called.
    #[must_use]
    pub fn of(&self, network: Network) -> NetworkKey {
        let hash = blake3::keyed_hash(&self.0, &network.0);
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_bytes()[..16]);
        NetworkKey(key)
    }
}

impl fmt::Debug for NetworkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKeys(..)")
    }
}

/// A network that is shut out, or was of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Which.
    pub network: NetworkKey,
    /// How often it was blocked, each time within [`BLOCK_MEMORY`] of the time before: from 1.
    pub level: u32,
    /// Until when.
    pub until: Timestamp,
}

impl Block {
    /// The block of a network that gives reason for one at `now`: one that has not ended stays as it is, and one that is
    /// remembered makes it longer.
    #[must_use]
    pub fn after(before: Option<Self>, network: NetworkKey, now: Timestamp) -> Self {
        let level = match before {
            Some(before) if before.until > now => return before,
            Some(before) if before.until.plus(BLOCK_MEMORY) > now => before.level.saturating_add(1),
            _ => 1,
        };
        let step = usize::try_from(level).unwrap_or(usize::MAX).clamp(1, LADDER.len()) - 1;
        Self { network, level, until: now.plus(LADDER[step]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SOMEBODY: NetworkKey = NetworkKey([7; 16]);

    #[test]
    fn blocks_grow_longer_while_the_one_before_is_remembered() {
        let (mut before, mut now, mut minutes) = (None, NOW, Vec::new());
        for _ in 0..6 {
            let block = Block::after(before, SOMEBODY, now);
            minutes.push(block.until.since(now).as_secs() / 60);
            assert_eq!(Block::after(Some(block), SOMEBODY, now), block, "it has not ended");
            (before, now) = (Some(block), block.until);
        }
        assert_eq!(minutes, [1, 5, 30, 360, 360, 360]);
        let last = before.unwrap();
        let forgotten = Block::after(before, SOMEBODY, last.until.plus(BLOCK_MEMORY));
        assert_eq!(forgotten.level, 1);
    }

    #[test]
    fn a_network_is_named_by_its_bits_and_the_key() {
        let (one, two) = (NetworkKeys::new([1; 32]), NetworkKeys::new([2; 32]));
        let key = one.of(Network([4; 9]));
        assert_ne!(key, one.of(Network([6; 9])));
        assert_ne!(key, two.of(Network([4; 9])));
        assert_eq!(NetworkKey::parse(&key.text()), Some(key));
        for other in ["", "+1", "xyz", "0123", &"0".repeat(33), &format!("+{}", "0".repeat(31))] {
            assert_eq!(NetworkKey::parse(other), None, "{other}");
        }
    }
}
