//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// Which engines the relay runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engines {
    /// The embedded ones: a database file, and in-process hot state.
    Embedded,
    /// Postgres and Redis, from `RESTANTE_TEST_DATABASE_URL` and `RESTANTE_TEST_REDIS_URL`.
    Production,
}

impl Engines {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Production => "production",
        }
    }
}

/// How senders send. Receivers always listen on sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Socket,
    Rest,
}

impl By {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Rest => "rest",
        }
    }
}

/// Drives a relay and tells what it carried.
#[derive(Debug, Clone, Parser)]
#[command(name = "load")]
pub(crate) struct Options {
    /// The relay's engines
    #[arg(long, value_enum, default_value = "embedded")]
    pub(crate) engines: Engines,
    /// How messages are sent
    #[arg(long, value_enum, default_value = "socket")]
    pub(crate) by: By,
    /// Senders, each with a receiver of its own
    #[arg(long, default_value_t = 100)]
    pub(crate) pairs: usize,
    /// Unanswered sends of one sender; by REST as many connections
    #[arg(long, default_value_t = 8)]
    pub(crate) in_flight: usize,
    /// Random bytes in a body
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(28..=98_304))]
    pub(crate) size: u32,
    /// Seconds of load, over all rounds
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Rounds, each with the raw rates measured before it
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Seconds for each raw rate of a round; 0 leaves them out
    #[arg(long, default_value_t = 1.0)]
    pub(crate) raw_seconds: f64,
    /// Sends a second over all senders, for figures on latency; without it as many as are answered
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// This many devices with waiting messages connect at once
    #[arg(long, value_parser = up_to_19_000)]
    pub(crate) storm: Option<usize>,
    /// Messages that wait for each device of a storm
    #[arg(long, default_value_t = 10)]
    pub(crate) waiting: usize,
    /// This many connections that do nothing
    #[arg(long, value_parser = up_to_19_000)]
    pub(crate) idle: Option<usize>,
    /// This many users take bundles of one device at the same time
    #[arg(long, value_parser = up_to_19_000)]
    pub(crate) bundles: Option<usize>,
    /// A group with this many members: all connected, then all but a few away
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1500))]
    pub(crate) group: Option<u16>,
    /// Threads of the relay that serve HTTP; 0 for its default
    #[arg(long, default_value_t = 0)]
    pub(crate) workers: u32,
    /// Another build of the relay, to compare it with this one
    #[arg(long)]
    pub(crate) relay: Option<PathBuf>,
    /// Writes the figures to this file too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A run of a second to see that everything works
    #[arg(long)]
    test: bool,
    /// Set by cargo bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// One process may have about 20,000 files open.
fn up_to_19_000(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=19_000) => Ok(count),
        _ => Err("a number from 1 to 19000 is expected".into()),
    }
}

impl Options {
    /// The options as they hold: `cargo test` runs benches too, and then everything is small.
    pub(crate) fn settled(self) -> Self {
        if self.bench && !self.test {
            return self;
        }
        let small = [
            "load",
            "--pairs",
            "1",
            "--in-flight",
            "4",
            "--rounds",
            "1",
            "--seconds",
            "0.5",
            "--raw-seconds",
        ];
        Self { json: self.json, ..Self::parse_from(small.into_iter().chain(["0.05"])) }
    }

    /// Whether this run only shows that everything works.
    pub(crate) const fn is_smoke(&self) -> bool {
        !self.bench
    }

    /// How long one round of load is.
    pub(crate) fn round(&self) -> Duration {
        Duration::from_secs_f64(self.seconds / f64::from(self.rounds.max(1)))
    }
}
