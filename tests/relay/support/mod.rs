//! What tests share: engines to try the promises on, and the mothers of the objects they are tried with.

pub mod engine;
pub mod mothers;
