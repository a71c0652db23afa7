//! What senders have in common: a lane sends at a pace and remembers how long each commit took.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    Outcome,
    frames::{Pace, Stamps},
    rest::RestLane,
    sender::SocketLane,
};

/// How long after the end of a round answers are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a lane rests after a refusal.
pub(crate) const REST_AFTER_REFUSAL: Duration = Duration::from_millis(5);

/// What has happened so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) committed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) acked: AtomicU64,
    /// Messages that came again, too late or after a gap.
    pub(crate) disordered: AtomicU64,
    /// Whether how long things take is being remembered.
    pub(crate) measuring: AtomicBool,
    told: AtomicBool,
}

impl Tally {
    /// Counts a refusal and tells the first one.
    pub(crate) fn refuse(&self, why: &str) {
        self.refused.fetch_add(1, Relaxed);
        if !self.told.swap(true, Relaxed) {
            eprintln!("a send was refused: {why}");
        }
    }

    /// Remembers how long something took, if it counts.
    pub(crate) fn note(&self, latencies: &mut Vec<u32>, micros: u32) {
        if self.measuring.load(Relaxed) {
            latencies.push(micros);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            committed: self.committed.load(Relaxed),
            received: self.received.load(Relaxed),
            acked: self.acked.load(Relaxed),
            refused: self.refused.load(Relaxed),
            disordered: self.disordered.load(Relaxed),
        }
    }
}

/// A tally at one moment, or what lies between two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) received: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) disordered: u64,
}

impl Counts {
    pub(crate) const fn add(&mut self, more: Self) {
        self.committed += more.committed;
        self.received += more.received;
        self.acked += more.acked;
        self.refused += more.refused;
        self.disordered += more.disordered;
    }

    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            committed: self.committed - before.committed,
            received: self.received - before.received,
            acked: self.acked - before.acked,
            refused: self.refused - before.refused,
            disordered: self.disordered - before.disordered,
        }
    }
}

/// One stream of sends.
pub(crate) enum Lane {
    /// A socket with several sends under way.
    Socket(Box<SocketLane>),
    /// An HTTP connection with one.
    Rest(RestLane),
}

impl Lane {
    async fn run(&mut self, pace: Pace, stamps: Stamps, tally: &Tally) -> Outcome<Vec<u32>> {
        match self {
            Self::Socket(lane) => lane.run(pace, stamps, tally).await,
            Self::Rest(lane) => lane.run(pace, stamps, tally).await,
        }
    }
}

/// Runs all lanes to the end of the pace, gives them back and tells how long commits took.
pub(crate) async fn run(
    lanes: Vec<Lane>,
    pace: Pace,
    stamps: Stamps,
    tally: &'static Tally,
) -> Outcome<(Vec<Lane>, Vec<u32>)> {
    let mut running = JoinSet::new();
    let count = u32::try_from(lanes.len())?.max(1);
    for (index, mut lane) in lanes.into_iter().enumerate() {
        // Spread over the gap, so that lanes do not send in step.
        let offset = pace.gap.unwrap_or_default() * u32::try_from(index)? / count;
        let pace = Pace { start: pace.start + offset, ..pace };
        let patience = pace.until.saturating_duration_since(std::time::Instant::now()) + PATIENCE;
        running.spawn(async move {
            let latencies = timeout(patience, lane.run(pace, stamps, tally)).await;
            let latencies = latencies.map_err(|_| "sends stalled: no answer for 30 s")??;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((lane, latencies))
        });
    }
    let (mut lanes, mut latencies) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (lane, of_lane) = ended??;
        lanes.push(lane);
        latencies.extend(of_lane);
    }
    Ok((lanes, latencies))
}
