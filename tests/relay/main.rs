//! One integration binary: the promises of the relay, tried over both engines of each seam.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod documents;
mod hot;
mod store;
mod support;

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
