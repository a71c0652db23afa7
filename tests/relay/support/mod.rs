//! What tests share: engines and relays to try the promises on, clients that speak to them, and the mothers of the
//! objects they are tried with.

pub mod client;
pub mod crypto;
pub mod database;
pub mod engine;
pub mod faults;
pub mod mothers;
pub mod packed;
pub mod process;
pub mod relay;
pub mod socket;
pub mod wire;
