//! Groups.

pub mod mls;
