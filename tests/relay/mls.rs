//! Real MLS clients in groups of the relay.

mod contests;
mod large;
mod libraries;
mod party;
mod refusals;
mod restored;
mod sharing;
mod traces;
