//! One integration binary: the promises of the relay, tried over both engines of each seam.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking, and a test binary has no public face"
)]
#![expect(clippy::similar_names, reason = "a group of three has a tree")]

mod architecture;
mod auth;
mod back_pressure;
mod bad_input;
mod crash;
mod devices;
mod documents;
mod erased;
mod faults;
mod groups;
mod harness;
mod hot;
mod keys;
mod limits;
mod messages;
mod metrics;
mod mls;
mod mls_rules;
mod open_mode;
mod packages;
mod races;
mod restore;
mod rolling;
mod service;
mod settings;
mod simulation;
mod slow_readers;
mod socket;
mod store;
mod support;
mod transport;
mod zero_knowledge;

/// Written past the test runner's capture, because a half run must not look like a whole one.
#[test]
fn what_is_left_out_is_told() {
    use std::io::Write;

    for (variable, part) in [("RESTANTE_TEST_DATABASE_URL", "Postgres"), ("RESTANTE_TEST_REDIS_URL", "Redis")]
    {
        if std::env::var_os(variable).is_none() {
            writeln!(
                std::io::stderr(),
                "\nLEFT OUT: every test over {part}, because {variable} is not set; scripts/test runs them\n"
            )
            .expect("standard error takes a line");
        }
    }
}
