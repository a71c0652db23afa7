//! Pairwise messages: sealed bodies from one device to the devices of one user.

pub mod structure;
