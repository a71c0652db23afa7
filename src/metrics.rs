//! What the relay counts about itself, for its operator: sums over everybody, never anybody's name.
//!
//! The figures are the process's, whichever relays run in it. proto-docs/metrics.md describes every one; a test compares
//! that page with what is told here. What happens often is counted through handles that are made once.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use ::metrics::{
    Counter, Gauge, Histogram, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge,
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
const ENTRIES: &str = "restante_group_entries_total";
const DELIVERED: &str = "restante_items_delivered_total";
const ENTRIES_DELIVERED: &str = "restante_group_entries_delivered_total";
const DRAIN_SECONDS: &str = "restante_drain_seconds";
const MLS_WAIT: &str = "restante_mls_wait_seconds";
const MLS_SECONDS: &str = "restante_mls_check_seconds";
const WAITING: &str = "restante_waiting";
const POOLED: &str = "restante_db_connections";
const PANICS: &str = "restante_panics_total";
const JOB_FAILURES: &str = "restante_job_failures_total";
const TRACE_FAILURES: &str = "restante_trace_export_failures_total";
const TLS_RELOADS: &str = "restante_tls_reloads_total";
const TLS_EXPIRES: &str = "restante_tls_certificate_expires_seconds";
const BUILD: &str = "restante_build_info";

/// Items of a batch; a lane takes 256 at most.
const ITEMS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Seconds of a commit: a quiet disk takes a tenth of a millisecond, and after six seconds a batch is given up.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Seconds of what somebody waits for: a drain, a check of MLS.
const WAITS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

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
    entries: Counter,
    delivered: [Counter; 2],
    entries_delivered: [Counter; 2],
    drain_seconds: Histogram,
    mls_wait: Histogram,
    mls_seconds: Histogram,
    panics: Counter,
    trace_failures: Counter,
    tls_expires: Gauge,
    blocks: Counter,
}

/// How an item or an entry reaches its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Written to its socket.
    Socket,
    /// In an answer to a request.
    Request,
}

impl Way {
    const ALL: [Self; 2] = [Self::Socket, Self::Request];

    const fn word(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Request => "request",
        }
    }
}

impl Figures {
    fn new() -> Self {
        let bounds = |builder: PrometheusBuilder, name: &str, bounds: &[f64]| {
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
        };
        let builder = bounds(PrometheusBuilder::new(), BATCH_ITEMS, &ITEMS)
            .and_then(|builder| bounds(builder, COMMIT_SECONDS, &SECONDS))
            .and_then(|builder| bounds(builder, DRAIN_SECONDS, &WAITS))
            .and_then(|builder| bounds(builder, MLS_WAIT, &WAITS))
            .and_then(|builder| bounds(builder, MLS_SECONDS, &WAITS));
        // Only an empty list of bounds is refused; without bounds there would be quantiles.
        let recorder = builder.unwrap_or_default().build_recorder();
        let page = recorder.handle();
        with_local_recorder(&recorder, || {
            describe();
            for outcome in ["ok", "failed"] {
                counter!(TLS_RELOADS, "outcome" => outcome).increment(0);
            }
            gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
        });
        let count = |name: &'static str| with_local_recorder(&recorder, || counter!(name));
        let by_way = |name: &'static str| {
            let of = |way: Way| with_local_recorder(&recorder, || counter!(name, "way" => way.word()));
            Way::ALL.map(of)
        };
        let times = |name: &'static str| with_local_recorder(&recorder, || histogram!(name));
        let level = |name: &'static str| with_local_recorder(&recorder, || gauge!(name));
        Self {
            page,
            connections: level(CONNECTIONS),
            hot_reachable: level(HOT_REACHABLE),
            accepted: count(ACCEPTED),
            acked: count(ACKED),
            finds: count(FINDS),
            hot_skipped: count(HOT_SKIPPED),
            entries: count(ENTRIES),
            delivered: by_way(DELIVERED),
            entries_delivered: by_way(ENTRIES_DELIVERED),
            drain_seconds: times(DRAIN_SECONDS),
            mls_wait: times(MLS_WAIT),
            mls_seconds: times(MLS_SECONDS),
            panics: count(PANICS),
            trace_failures: count(TRACE_FAILURES),
            tls_expires: level(TLS_EXPIRES),
            blocks: count(BLOCKS),
            recorder,
        }
    }

    fn level(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        with_local_recorder(&self.recorder, || gauge!(name, labels))
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
    describe_counter!(ENTRIES, "entries of group logs that were stored");
    describe_counter!(DELIVERED, "mailbox items given to their devices, again after a lost connection");
    describe_counter!(ENTRIES_DELIVERED, "entries of group logs given to devices");
    describe_histogram!(DRAIN_SECONDS, "from a socket's opening until it was given all that waited");
    describe_histogram!(MLS_WAIT, "how long a check of MLS waited for its turn");
    describe_histogram!(MLS_SECONDS, "how long a check of MLS took");
    describe_gauge!(WAITING, "what waits in each of the relay's own queues");
    describe_gauge!(POOLED, "open connections to the database");
    describe_counter!(PANICS, "panics, which are faults of the relay");
    describe_counter!(JOB_FAILURES, "rounds of the relay's jobs that failed");
    describe_counter!(TRACE_FAILURES, "batches of spans that no collector took");
    describe_counter!(TLS_RELOADS, "times the certificate's files were read again");
    describe_gauge!(TLS_EXPIRES, "when the certificate ends, in seconds of Unix; 0 without TLS");
    describe_gauge!(BUILD, "1; the label tells the version");
}

/// What one lane counts.
pub struct Lane {
    name: &'static str,
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
            name: lane,
            items: with_local_recorder(recorder, || histogram!(BATCH_ITEMS, "lane" => lane)),
            seconds: with_local_recorder(recorder, || histogram!(COMMIT_SECONDS, "lane" => lane)),
            overloaded: FIGURES.labelled(OVERLOADED, "lane", lane),
        }
    }

    /// The lane's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
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

/// So many entries of group logs were stored.
pub fn entries_stored(entries: usize) {
    FIGURES.entries.increment(entries as u64);
}

/// So many mailbox items were given to their devices.
pub fn items_delivered(way: Way, items: usize) {
    FIGURES.delivered[way as usize].increment(items as u64);
}

/// So many entries of group logs were given to devices.
pub fn entries_delivered(way: Way, entries: usize) {
    FIGURES.entries_delivered[way as usize].increment(entries as u64);
}

/// A device was given all that waited, so long after its socket opened.
pub fn drained(after: Duration) {
    FIGURES.drain_seconds.record(after);
}

/// A check of MLS waited so long for its turn, and took so long.
pub fn mls_checked(waited: Duration, took: Duration) {
    FIGURES.mls_wait.record(waited);
    FIGURES.mls_seconds.record(took);
}

/// Something panicked.
pub fn panicked() {
    FIGURES.panics.increment(1);
}

/// A round of a job failed so many times; none makes it known that there is such a job.
pub fn job_failed(job: &'static str, times: u64) {
    FIGURES.labelled(JOB_FAILURES, "task", job).increment(times);
}

/// A batch of spans reached no collector.
pub fn trace_export_failed() {
    FIGURES.trace_failures.increment(1);
}

/// So many wait in a queue of the relay's own.
pub fn waiting(queue: &'static str, waiting: usize) {
    FIGURES.level(WAITING, vec![Label::from_static_parts("queue", queue)]).set(whole(waiting));
}

/// A pool has so many open connections, of which so many are idle.
pub fn pooled(pool: &'static str, open: usize, idle: usize) {
    for (state, connections) in [("busy", open.saturating_sub(idle)), ("idle", idle)] {
        let labels = vec![Label::from_static_parts("pool", pool), Label::from_static_parts("state", state)];
        FIGURES.level(POOLED, labels).set(whole(connections));
    }
}

fn whole(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
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

/// The certificate's files were read again: `ok` or `failed`.
pub fn tls_reloaded(outcome: &'static str) {
    FIGURES.labelled(TLS_RELOADS, "outcome", outcome).increment(1);
}

/// The certificate ends then, counted from the epoch of Unix.
pub fn certificate_expires(at: Duration) {
    FIGURES.tls_expires.set(at.as_secs_f64());
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
    FIGURES.connections.set(whole(connections));
    FIGURES.hot_reachable.set(u8::from(hot_reachable));
    FIGURES.page.render()
}

/// Adds the samples that wait to their distributions. Without it memory would grow while nobody asks for the page.
pub fn keep_up() {
    FIGURES.page.run_upkeep();
}
