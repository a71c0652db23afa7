//! Restante.
pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod domain;
pub mod hot;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod messages;
pub mod queue;
pub mod store;
pub mod telemetry;
pub mod wire;
