//! What happens in a history: the acts of every device, and the faults meanwhile. Made from a seed.

use std::fmt;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

/// The devices of a history: whose each is, and its name. The first user has two.
pub(super) const CAST: [(usize, &str); 4] = [(0, "phone"), (0, "tablet"), (1, "phone"), (2, "phone")];

/// Users of a history.
pub(super) const USERS: usize = 3;

/// What a device does. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Sends over REST, again with the same id until there is an answer.
    Send { to: usize, life: Option<u64> },
    /// Sends over the socket without waiting between; what stays unanswered goes over REST.
    Burst { to: usize, count: usize },
    /// Sends, and drops the connection instead of waiting for the answer.
    Hurried { to: usize },
    /// Repeats a send of its own, perhaps with another body.
    Repeat { which: usize, altered: bool },
    /// Deletes a message of its own for everyone.
    Delete { which: usize },
    /// Reads the socket for so long.
    Listen { millis: u64 },
    /// Acks what it has, over the socket if it is open.
    Ack { most: usize, confirmed: bool },
    /// Leaves the socket and reads a page over REST.
    Page { limit: usize },
    /// Opens a socket, on this node.
    Move { node: usize },
    /// Drops the socket without a goodbye.
    Leave,
}

/// Between whom a line runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Clients,
    Store,
    Hot,
}

/// What a line does wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    Cut,
    Swallows,
    Late,
    Unanswered,
}

#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// A node's line.
    Line { node: usize, place: Place, harm: Harm },
    /// Postgres ends every connection.
    ConnectionsEnded,
    /// Redis forgets everything.
    Flushed,
    /// Redis is killed, and comes back with nothing.
    RedisKilled,
    /// A node stops gracefully, and comes back.
    Stopped { node: usize },
    /// A node is killed, and comes back.
    Killed { node: usize },
    /// A node's clock jumps.
    Clock { node: usize, seconds: i64 },
}

/// A fault, how long after the one before, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) after: u64,
    pub(super) fault: Fault,
    pub(super) lasts: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) acts: Vec<Vec<Act>>,
    pub(super) troubles: Vec<Trouble>,
    /// What hot state suffers on every node while everybody is connected and sends for the last time.
    pub(super) ending: Option<Harm>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (device, acts) in self.acts.iter().enumerate() {
            writeln!(f, "device {device}: {acts:?}")?;
        }
        for trouble in &self.troubles {
            writeln!(f, "{trouble:?}")?;
        }
        writeln!(f, "in the end hot state suffers {:?}", self.ending)
    }
}

/// What a history is played on, and so what can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// A relay in this process, over SQLite.
    Embedded,
    /// Two relays in this process, over Postgres and Redis.
    Production,
    /// Three relay processes over Postgres and Redis, for long histories.
    Processes,
}

impl Ground {
    pub(super) const fn nodes(self) -> usize {
        match self {
            Self::Embedded => 1,
            Self::Production => 2,
            Self::Processes => 3,
        }
    }

    /// The history of a seed.
    pub(super) fn tree(self, seed: u64) -> impl ValueTree<Value = Script> {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        self.script().new_tree(&mut TestRunner::new_with_rng(ProptestConfig::default(), rng)).unwrap()
    }

    fn script(self) -> impl Strategy<Value = Script> {
        let (acts, troubles) = if self == Self::Processes { (240..300, 16..24) } else { (16..36, 3..7) };
        let acts = prop::collection::vec(prop::collection::vec(act(), acts), CAST.len());
        let troubles = prop::collection::vec(self.trouble(), troubles);
        let ending = if self == Self::Embedded {
            Just(None).boxed()
        } else {
            prop_oneof![8 => Just(None), 1 => Just(Some(Harm::Cut)), 1 => Just(Some(Harm::Swallows))].boxed()
        };
        (acts, troubles, ending).prop_map(|(acts, troubles, ending)| Script { acts, troubles, ending })
    }

    fn trouble(self) -> impl Strategy<Value = Trouble> {
        (20..160_u64, self.fault(), 30..350_u64).prop_map(|(after, fault, lasts)| Trouble {
            after,
            fault,
            lasts,
        })
    }

    fn fault(self) -> BoxedStrategy<Fault> {
        let node = || 0..3_usize;
        let line =
            move |place| (node(), harm()).prop_map(move |(node, harm)| Fault::Line { node, place, harm });
        let clock = (node(), prop_oneof![1..120_i64, -60..0_i64, Just(3600)])
            .prop_map(|(node, seconds)| Fault::Clock { node, seconds });
        let stopped = node().prop_map(|node| Fault::Stopped { node });
        let clients = line(Place::Clients);
        if self == Self::Embedded {
            return prop_oneof![3 => clients, 2 => clock, 1 => stopped].boxed();
        }
        let ended = match self {
            Self::Processes => prop_oneof![
                2 => node().prop_map(|node| Fault::Killed { node }),
                1 => stopped,
            ]
            .boxed(),
            _ => prop_oneof![1 => stopped, 2 => clock].boxed(),
        };
        prop_oneof![
            3 => clients,
            5 => line(Place::Store),
            3 => line(Place::Hot),
            1 => Just(Fault::ConnectionsEnded),
            2 => Just(Fault::Flushed),
            1 => Just(Fault::RedisKilled),
            3 => ended,
        ]
        .boxed()
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        1 => Just(Harm::Cut),
        1 => Just(Harm::Swallows),
        1 => Just(Harm::Late),
        2 => Just(Harm::Unanswered),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let to = || 0..USERS;
    let life = prop_oneof![6 => Just(None), 1 => (1..4_u64).prop_map(Some), 1 => (20..90_u64).prop_map(Some)];
    prop_oneof![
        6 => (to(), life).prop_map(|(to, life)| Act::Send { to, life }),
        4 => (to(), 1..9_usize).prop_map(|(to, count)| Act::Burst { to, count }),
        2 => to().prop_map(|to| Act::Hurried { to }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, altered)| Act::Repeat { which, altered }),
        1 => any::<usize>().prop_map(|which| Act::Delete { which }),
        8 => (10..60_u64).prop_map(|millis| Act::Listen { millis }),
        5 => (1..12_usize, any::<bool>()).prop_map(|(most, confirmed)| Act::Ack { most, confirmed }),
        2 => (1..15_usize).prop_map(|limit| Act::Page { limit }),
        4 => (0..3_usize).prop_map(|node| Act::Move { node }),
        1 => Just(Act::Leave),
    ]
}
