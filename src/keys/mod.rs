//! Public keys of devices: published, taken once, rotated.

pub mod signal;
