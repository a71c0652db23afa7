//! Why an act on Redis failed, and how long to leave it alone then.

use std::time::Duration;

use redis::RedisError;

use crate::hot::HotError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("redis url is not usable")]
    Url(#[source] RedisError),
    #[error("no runtime to listen on")]
    NoRuntime(#[from] tokio::runtime::TryCurrentError),
    #[error("redis failed a moment ago and is left alone")]
    Resting,
    #[error("redis is not listened to at the moment")]
    NotListening,
    #[error("redis did not answer in time")]
    Deadline,
    #[error("the engine is closed")]
    Closed,
    #[error("redis refused or broke off")]
    Redis(#[from] RedisError),
    #[error("redis answered something else than was asked")]
    Answer(#[from] redis::ParsingError),
    #[error("redis answered nothing")]
    NoAnswer,
    #[error("budget is beyond what redis counts exactly")]
    Inexact,
    #[error("event cannot be encoded")]
    Encode(#[from] rmp_serde::encode::Error),
}

impl From<Fault> for HotError {
    fn from(fault: Fault) -> Self {
        Self(Box::new(fault))
    }
}

/// Between half of `span` and all of it, so that the nodes of a relay do not return in step.
pub(super) fn jittered(span: Duration) -> Duration {
    let half = span / 2;
    // Without randomness the node returns at a time that is not spread, and is none the worse for it.
    let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    half + half.mul_f64(share)
}
