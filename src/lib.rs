//! Restante.
pub mod domain;
pub mod hot;
pub mod keys;
pub mod messages;
pub mod store;
