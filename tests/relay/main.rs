//! One integration binary: the promises of the relay, tried over both engines of each seam.

#![expect(unreachable_pub, reason = "a test binary has no public face")]

mod architecture;
mod bad_input;
mod harness;
mod hot;
mod keys;
mod messages;
mod open_mode;
mod service;
mod store;
mod support;
mod zero_knowledge;
