//! Which node of a cluster has which keys.

use redis::Value;

use super::place::Node;

/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// The owners of the slots as one node told them.
#[derive(Debug)]
pub(super) struct Slots {
    /// Sorted by slot.
    ranges: Vec<Range>,
    /// Every owner once, sorted.
    owners: Vec<Node>,
}

#[derive(Debug)]
struct Range {
    first: u16,
    last: u16,
    owner: Node,
}

impl Slots {
    /// Reads the answer to `CLUSTER SLOTS`; none when it is not one, or names no owner.
    pub(super) fn read(answer: &Value, teller: &Node) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut ranges: Vec<_> =
            ranges.iter().map(|range| read_range(range, teller)).collect::<Option<_>>()?;
        ranges.sort_unstable_by_key(|range| range.first);
        let mut owners: Vec<_> = ranges.iter().map(|range| range.owner.clone()).collect();
        owners.sort_unstable();
        owners.dedup();
        (!owners.is_empty()).then_some(Self { ranges, owners })
    }

    /// The master that has a slot, if one has.
    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let after = self.ranges.partition_point(|range| range.first <= slot);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= range.last).then_some(&range.owner)
    }

    /// Every master that has slots.
    pub(super) fn owners(&self) -> &[Node] {
        &self.owners
    }

    /// The masters in the order in which they are tried for what any node could do: the owner of `slot` first. With the
    /// same slot everybody tries in the same order.
    pub(super) fn owners_from(&self, slot: u16) -> impl Iterator<Item = &Node> {
        let first = self.owner(slot).and_then(|owner| self.owners.iter().position(|it| it == owner));
        self.owners.iter().cycle().skip(first.unwrap_or(0)).take(self.owners.len())
    }
}

fn read_range(range: &Value, teller: &Node) -> Option<Range> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        // Redis writes it so when clients shall go on using the address they know.
        Value::Nil => "",
        _ => return None,
    };
    let host = if host.is_empty() || host == "?" { teller.host.clone() } else { host.into() };
    let owner = Node { host, port: u16::try_from(*port).ok()? };
    let slot = |number: &i64| u16::try_from(*number).ok().filter(|slot| *slot < SLOTS);
    Some(Range { first: slot(first)?, last: slot(last)?, owner })
}

/// The slot of a key: that of the text between its first braces, if there is any.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let inside = key.get(open + 1..)?;
    let close = inside.iter().position(|byte| *byte == b'}')?;
    inside.get(..close).filter(|tag| !tag.is_empty())
}

/// CRC-16/XMODEM, by which Redis spreads keys (the cluster specification names it).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Node {
        Node { host: "h".into(), port }
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]),
            Value::Array(vec![Value::BulkString(b"replica".to_vec()), Value::Int(1)]),
        ])
    }

    fn h() -> Value {
        Value::BulkString(b"h".to_vec())
    }

    #[test]
    fn keys_have_the_slots_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [("foo", 12_182), ("bar", 5_061), ("{foo}pattern", 12_182), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn slots_have_the_owners_that_were_told() {
        let told = Value::Array(vec![
            range(8_000, 16_383, h(), 2),
            range(0, 99, h(), 1),
            range(101, 200, Value::Nil, 3),
        ]);
        let slots = Slots::read(&told, &node(9)).unwrap();
        for (slot, owner) in [(0, Some(1)), (99, Some(1)), (100, None), (101, Some(3)), (201, None)] {
            assert_eq!(slots.owner(slot), owner.map(node).as_ref(), "{slot}");
        }
        assert_eq!(slots.owner(16_383), Some(&node(2)));
        assert_eq!(slots.owners(), [node(1), node(2), node(3)]);
        let from: Vec<_> = slots.owners_from(9_000).map(|owner| owner.port).collect();
        assert_eq!(from, [2, 3, 1]);
        let from: Vec<_> = slots.owners_from(100).map(|owner| owner.port).collect();
        assert_eq!(from, [1, 2, 3]);
    }

    #[test]
    fn an_answer_that_names_no_owners_is_none() {
        for bad in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16_384, h(), 1)]),
            Value::Array(vec![range(0, 1, h(), 65_536)]),
        ] {
            assert!(Slots::read(&bad, &node(9)).is_none(), "{bad:?}");
        }
    }
}
