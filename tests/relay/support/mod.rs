//! What tests share: engines to try the promises on, and the mothers of the objects they are tried with.

pub(crate) mod engine;
pub(crate) mod mothers;
pub(crate) mod postgres;
