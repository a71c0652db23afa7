//! The steady load: rounds of raw writing and of sending through the relay, one after the other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    Outcome,
    frames::{Pace, Socket, Stamps, body, send_head},
    lanes::{self, Counts, Lane, Tally},
    meter::{Meter, Used},
    options::{By, Options},
    people::Registrar,
    raw::{BATCHES, Raw},
    receiver::Receiver,
    relay::Relay,
    rest::RestLane,
    sender::SocketLane,
};

/// Load before each round that is not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long deliveries and acks are waited for after the last send.
const TO_SETTLE: Duration = Duration::from_secs(20);

/// The people, connected.
struct Stage {
    lanes: Vec<Lane>,
    receivers: Vec<Receiver>,
    stamps: Stamps,
    tally: &'static Tally,
    meter: Meter,
}

/// One round's figures.
struct Round {
    raw: Vec<f64>,
    counts: Counts,
    used: Used,
}

/// Runs all rounds and tells the figures.
pub(crate) async fn run(relay: &Relay, registrar: &Registrar, options: &Options) -> Outcome<Value> {
    let mut stage = Stage::set(relay, registrar, options).await?;
    let mut raw = Raw::open(relay, options, stage.stamps).await?;
    let (mut rounds, mut committed, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=options.rounds.max(1) {
        let rates = raw_rates(&mut raw, options).await?;
        let (counts, used) = stage.play(options, &mut committed).await?;
        received.extend(stage.receivers.iter().flat_map(Receiver::take));
        let round = Round { raw: rates, counts, used };
        println!("round {number}: {}", round.told(options.by));
        rounds.push(round);
    }
    let mean = Round::mean(&rounds);
    println!("all rounds: {}", mean.told(options.by));
    let resident_kb = stage.meter.resident_kb()?;
    let totals = stage.tally.counts();
    if totals.received != totals.committed || totals.acked != totals.committed {
        eprintln!("not everything arrived: {totals:?}");
    }
    Ok(json!({
        "by": options.by.name(), "pairs": options.pairs, "in_flight": options.in_flight,
        "size": options.size, "rate": options.rate,
        "rounds": rounds.iter().map(Round::figures).collect::<Vec<_>>(),
        "mean": mean.figures(),
        "committed_ms": percentiles("sent to committed", committed),
        "received_ms": percentiles("sent to received", received),
        "relay_rss_kb": resident_kb,
        "total": { "committed": totals.committed, "received": totals.received, "acked": totals.acked,
            "refused": totals.refused, "disordered": totals.disordered },
    }))
}

async fn raw_rates(raw: &mut Raw, options: &Options) -> Outcome<Vec<f64>> {
    if options.raw_seconds <= 0.0 {
        return Ok(Vec::new());
    }
    let mut rates = Vec::new();
    for batch in BATCHES {
        rates.push(raw.rate(batch, Duration::from_secs_f64(options.raw_seconds)).await?);
    }
    Ok(rates)
}

impl Stage {
    async fn set(relay: &Relay, registrar: &Registrar, options: &Options) -> Outcome<Self> {
        let (stamps, tally): (_, &'static Tally) = (Stamps::new()?, Box::leak(Box::default()));
        let people = registrar.register(options.pairs * 2).await?;
        let (senders, recipients) = people.split_at(options.pairs);
        let (mut lanes, mut receivers) = (Vec::new(), Vec::new());
        for (sender, recipient) in senders.iter().zip(recipients) {
            let socket = Socket::open(relay.address, recipient).await?;
            receivers.push(Receiver::start(socket, options.by == By::Socket, stamps, tally));
            let connections = if options.by == By::Socket { 1 } else { options.in_flight };
            for _ in 0..connections {
                let number = u32::try_from(lanes.len())?;
                let (user, size) = (recipient.user, options.size);
                lanes.push(if options.by == By::Socket {
                    let socket = Socket::open(relay.address, sender).await?;
                    let head = send_head(r#""type":"send","#, user, &body(size));
                    let lane = SocketLane::new(socket, head, number, options.in_flight);
                    Lane::Socket(Box::new(lane))
                } else {
                    Lane::Rest(RestLane::open(relay.address, sender, user, size, number).await?)
                });
            }
        }
        println!("{} devices registered and connected", people.len());
        Ok(Self { lanes, receivers, stamps, tally, meter: Meter::new(relay).await? })
    }

    /// Sends for a round and measures after the warm-up, until the senders stop; then lets everything arrive.
    async fn play(&mut self, options: &Options, latencies: &mut Vec<u32>) -> Outcome<(Counts, Used)> {
        let start = Instant::now();
        let warm_up = if options.is_smoke() { Duration::ZERO } else { WARM_UP };
        let lanes = std::mem::take(&mut self.lanes);
        #[expect(clippy::cast_precision_loss, reason = "lanes are few")]
        let gap = options.rate.map(|rate| Duration::from_secs_f64(lanes.len() as f64 / rate));
        let pace = Pace { start, until: start + warm_up + options.round(), gap };
        let running = tokio::spawn(lanes::run(lanes, pace, self.stamps, self.tally));
        sleep(warm_up).await;
        let (counted, read) = (self.tally.counts(), self.meter.read().await?);
        self.tally.measuring.store(true, std::sync::atomic::Ordering::Relaxed);
        sleep(pace.until.saturating_duration_since(Instant::now())).await;
        self.tally.measuring.store(false, std::sync::atomic::Ordering::Relaxed);
        let (counts, used) = (self.tally.counts().since(counted), self.meter.read().await?.since(&read));
        let (lanes, of_lanes) = running.await??;
        self.lanes = lanes;
        latencies.extend(of_lanes);
        self.settle().await;
        Ok((counts, used))
    }

    async fn settle(&self) {
        let deadline = Instant::now() + TO_SETTLE;
        while Instant::now() < deadline {
            let counts = self.tally.counts();
            if counts.acked >= counts.committed {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}

impl Round {
    /// All rounds taken together: ratios of sums and not means of ratios.
    fn mean(rounds: &[Self]) -> Self {
        let mut mean =
            Self { raw: vec![0.0; BATCHES.len()], counts: Counts::default(), used: Used::default() };
        #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
        let share = 1.0 / rounds.len().max(1) as f64;
        for round in rounds {
            for (sum, rate) in mean.raw.iter_mut().zip(&round.raw) {
                *sum += rate * share;
            }
            mean.counts.add(round.counts);
            mean.used.add(round.used);
        }
        mean
    }

    fn per_second(&self, count: u64) -> f64 {
        float(count) * 1e6 / self.used.wall
    }

    fn per_message(&self, micros: f64) -> f64 {
        micros / float(self.counts.committed.max(1))
    }

    /// The share of the raw rate at a batch of this index.
    fn ratio(&self, index: usize) -> f64 {
        self.raw.get(index).map_or(0.0, |raw| self.per_second(self.counts.committed) / raw)
    }

    fn told(&self, by: By) -> String {
        let raw: Vec<_> =
            BATCHES.iter().zip(&self.raw).map(|(batch, rate)| format!("{rate:.0} at {batch}")).collect();
        format!(
            "{:.0} sends/s by {}, {:.0} deliveries/s, {:.0} acks/s; raw {}; relay/raw {:.2} at 64, {:.2} at 256; CPU µs a \
             message: relay {:.1}, Postgres {:.1}, driver {:.1}; others used {:.0} % of a core",
            self.per_second(self.counts.committed),
            by.name(),
            self.per_second(self.counts.received),
            self.per_second(self.counts.acked),
            raw.join(", "),
            self.ratio(1),
            self.ratio(2),
            self.per_message(self.used.relay),
            self.per_message(self.used.postgres),
            self.per_message(self.used.driver),
            self.used.others / self.used.wall * 100.0,
        )
    }

    fn figures(&self) -> Value {
        let rounded = |value: f64, places: f64| (value * places).round() / places;
        json!({
            "sends_per_s": self.per_second(self.counts.committed).round(),
            "deliveries_per_s": self.per_second(self.counts.received).round(),
            "acks_per_s": self.per_second(self.counts.acked).round(),
            "refused": self.counts.refused,
            "raw_per_s": BATCHES.iter().zip(&self.raw)
                .map(|(batch, rate)| (batch.to_string(), json!(rate.round())))
                .collect::<serde_json::Map<_, _>>(),
            "to_raw_64": rounded(self.ratio(1), 1000.0),
            "to_raw_256": rounded(self.ratio(2), 1000.0),
            "relay_cpu_us": rounded(self.per_message(self.used.relay), 10.0),
            "postgres_cpu_us": rounded(self.per_message(self.used.postgres), 10.0),
            "driver_cpu_us": rounded(self.per_message(self.used.driver), 10.0),
            "others_cpu_percent": (self.used.others / self.used.wall * 100.0).round(),
        })
    }
}

/// The percentiles of latencies in microseconds, told and as milliseconds.
pub(crate) fn percentiles(what: &str, mut micros: Vec<u32>) -> Value {
    micros.sort_unstable();
    let at = |percent: usize| {
        let place = (micros.len() * percent / 100).min(micros.len().saturating_sub(1));
        f64::from(micros.get(place).copied().unwrap_or_default()) / 1000.0
    };
    let (p50, p90, p99, most) = (at(50), at(90), at(99), at(100));
    println!(
        "{what}: p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, max {most:.2} ms ({} samples)",
        micros.len()
    );
    json!({ "p50": p50, "p90": p90, "p99": p99, "max": most })
}
