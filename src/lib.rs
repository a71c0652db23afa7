//! Restante.
pub mod domain;
pub mod hot;
pub mod store;
