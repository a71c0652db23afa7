//! Restante.
pub mod domain;
pub mod hot;
pub mod keys;

pub mod store;
