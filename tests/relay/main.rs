//! One integration binary: the promises of the relay, tried over both engines of each seam.

#![expect(unreachable_pub, reason = "a test binary has no public face")]

mod faults;
mod harness;
mod hot;
mod races;
mod socket;
mod store;
mod support;
