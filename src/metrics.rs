//! What the relay counts about itself, for its operator: sums over everybody, never anybody's name.
//!
//! The figures are the process's, whichever relays run in it. proto-docs/metrics.md describes every one; a test compares
//! that page with what is told here. What happens often is counted through handles that are made once.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ::metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// How often [`keep_up`] is to be called: samples wait in memory until then.
pub const KEEP_UP_EVERY: Duration = Duration::from_secs(5);

const CONNECTIONS: &str = "restante_connections";
const ACCEPTED: &str = "restante_messages_accepted_total";
const ACKED: &str = "restante_items_acked_total";
const BATCH_ITEMS: &str = "restante_batch_items";
const COMMIT_SECONDS: &str = "restante_commit_seconds";
const OVERLOADED: &str = "restante_overloaded_total";
const FINDS: &str = "restante_reconciler_finds_total";
const HOT_REACHABLE: &str = "restante_hot_reachable";
const HOT_FAILURES: &str = "restante_hot_failures_total";
const HOT_SKIPPED: &str = "restante_hot_skipped_batches_total";
const LIMITS_TRIPPED: &str = "restante_limits_tripped_total";
const BLOCKS: &str = "restante_blocks_total";
const SOCKETS_CLOSED: &str = "restante_sockets_closed_total";
const BUILD: &str = "restante_build_info";

/// Items of a batch; a lane takes 256 at most.
const ITEMS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Seconds of a commit: a quiet disk takes a tenth of a millisecond, and after six seconds a batch is given up.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

static FIGURES: LazyLock<Figures> = LazyLock::new(Figures::new);

/// The recorder is the process's own and not the one that the crate lets be installed once: nothing is lost to who
/// comes first, and no second relay in the process is refused.
struct Figures {
    recorder: PrometheusRecorder,
    page: PrometheusHandle,
    connections: Gauge,
    hot_reachable: Gauge,
    accepted: Counter,
    acked: Counter,
    finds: Counter,
    hot_skipped: Counter,
    blocks: Counter,
}

impl Figures {
    fn new() -> Self {
        let bounds = |builder: PrometheusBuilder, name: &str, bounds: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
        };
        let builder = bounds(PrometheusBuilder::new(), BATCH_ITEMS, &ITEMS)
            .and_then(|builder| bounds(builder, COMMIT_SECONDS, &SECONDS));
        // Only an empty list of bounds is refused; without bounds there would be quantiles.
        let recorder = builder.unwrap_or_default().build_recorder();
        let page = recorder.handle();
        with_local_recorder(&recorder, || {
            describe();
            gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
        });
        let count = |name: &'static str| with_local_recorder(&recorder, || counter!(name));
        let level = |name: &'static str| with_local_recorder(&recorder, || gauge!(name));
        Self {
            page,
            connections: level(CONNECTIONS),
            hot_reachable: level(HOT_REACHABLE),
            accepted: count(ACCEPTED),
            acked: count(ACKED),
            finds: count(FINDS),
            hot_skipped: count(HOT_SKIPPED),
            blocks: count(BLOCKS),
            recorder,
        }
    }

    fn labelled(&self, name: &'static str, label: &'static str, value: &'static str) -> Counter {
        with_local_recorder(&self.recorder, || counter!(name, label => value))
    }
}

fn describe() {
    describe_gauge!(CONNECTIONS, "devices connected to this node");
    describe_counter!(ACCEPTED, "messages stored for the first time; repeats are not counted");
    describe_counter!(ACKED, "mailbox items erased because their device acked them");
    describe_histogram!(BATCH_ITEMS, "items of a batch");
    describe_histogram!(COMMIT_SECONDS, "how long a batch took, tries included");
    describe_counter!(OVERLOADED, "items refused because their lane was full");
    describe_counter!(FINDS, "sessions that only the reconciler told of an item");
    describe_gauge!(HOT_REACHABLE, "whether hot state answers: 1 or 0");
    describe_counter!(HOT_FAILURES, "acts of hot state that failed");
    describe_counter!(HOT_SKIPPED, "batches left to the reconciler because hot delivery did not keep up");
    describe_counter!(LIMITS_TRIPPED, "acts and openings refused by a limit");
    describe_counter!(BLOCKS, "networks that this node shut out");
    describe_counter!(SOCKETS_CLOSED, "sockets that ended");
    describe_gauge!(BUILD, "1; the label tells the version");
}

/// What one lane counts.
pub struct Lane {
    items: Histogram,
    seconds: Histogram,
    overloaded: Counter,
}

impl Lane {
    /// The figures of the lane of this name.
    #[must_use]
    pub fn named(lane: &'static str) -> Self {
        let recorder = &FIGURES.recorder;
        Self {
            items: with_local_recorder(recorder, || histogram!(BATCH_ITEMS, "lane" => lane)),
            seconds: with_local_recorder(recorder, || histogram!(COMMIT_SECONDS, "lane" => lane)),
            overloaded: FIGURES.labelled(OVERLOADED, "lane", lane),
        }
    }

    /// A batch of so many items was run, begun at that moment.
    #[expect(clippy::cast_precision_loss, reason = "a batch has 256 items at most")]
    pub fn batch(&self, items: usize, began: Instant) {
        self.items.record(items as f64);
        self.seconds.record(began.elapsed());
    }

    /// An item was refused because the lane is full.
    pub fn overloaded(&self) {
        self.overloaded.increment(1);
    }
}

/// So many messages were stored that were not there before.
pub fn messages_accepted(messages: usize) {
    FIGURES.accepted.increment(messages as u64);
}

/// So many items were erased because their devices acked them.
pub fn items_acked(items: usize) {
    FIGURES.acked.increment(items as u64);
}

/// So many sessions learned only from the reconciler that their mailbox has more.
pub fn reconciler_found(sessions: usize) {
    FIGURES.finds.increment(sessions as u64);
}

/// An act of hot state failed so many times; none makes it known that there is such an act.
pub fn hot_failed(act: &'static str, times: u64) {
    FIGURES.labelled(HOT_FAILURES, "act", act).increment(times);
}

/// A committed batch was not given to hot state, which does not keep up.
pub fn hot_skipped() {
    FIGURES.hot_skipped.increment(1);
}

/// So many sockets ended for a reason; none makes it known that there is such a reason.
pub fn sockets_closed(reason: &'static str, sockets: u64) {
    FIGURES.labelled(SOCKETS_CLOSED, "reason", reason).increment(sockets);
}

/// A limit of that name, of devices, networks or users, was tripped so many times; none makes it known that there is such
/// a limit.
pub fn limit_tripped(limit: &'static str, of: &'static str, times: u64) {
    let tripped =
        with_local_recorder(&FIGURES.recorder, || counter!(LIMITS_TRIPPED, "limit" => limit, "of" => of));
    tripped.increment(times);
}

/// This node shut so many networks out.
pub fn blocks_begun(networks: u64) {
    FIGURES.blocks.increment(networks);
}

/// All figures in the text format of Prometheus, with what was looked at just now.
#[must_use]
pub fn page(connections: usize, hot_reachable: bool) -> String {
    FIGURES.connections.set(u32::try_from(connections).unwrap_or(u32::MAX));
    FIGURES.hot_reachable.set(u8::from(hot_reachable));
    FIGURES.page.render()
}

/// Adds the samples that wait to their distributions. Without it memory would grow while nobody asks for the page.
pub fn keep_up() {
    FIGURES.page.run_upkeep();
}
