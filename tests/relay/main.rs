//! One integration binary: the promises of the relay, tried over both engines of each seam.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod store;
mod support;
