//! What tests share: engines and relays to try the promises on, clients that speak to them, and the mothers of the
//! objects they are tried with.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod crypto;
pub(crate) mod database;
pub(crate) mod engine;
pub(crate) mod faults;
pub(crate) mod group_acts;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod mls;
pub(crate) mod mls_mothers;
pub(crate) mod mothers;
pub(crate) mod packages;
pub(crate) mod packed;
pub(crate) mod postgres;
pub(crate) mod private_postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod relay;
pub(crate) mod rosters;
pub(crate) mod socket;
pub(crate) mod tables;
pub(crate) mod tls;
pub(crate) mod told;
pub(crate) mod wait;
pub(crate) mod wire;
