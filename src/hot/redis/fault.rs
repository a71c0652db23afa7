//! Why an act on Redis failed, and how long to leave it alone then.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

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
    #[error("redis cannot be connected to")]
    Unreachable(#[source] RedisError),
    #[error("no node of the cluster tells which node has which slot")]
    NoSlots,
    #[error("no node of the cluster has the slot")]
    NoOwner,
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

impl Fault {
    /// Whether nothing was sent, so that the same may be sent elsewhere.
    pub(super) const fn is_unsent(&self) -> bool {
        matches!(self, Self::Resting | Self::Unreachable(_))
    }

    /// Whether it may come from slots or masters having moved: anything but a server's plain answer to a command.
    pub(super) fn hints_at_change(&self) -> bool {
        let Self::Redis(error) = self else { return true };
        !matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::NoScript))
    }

    /// What may be logged of it.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Redis(error) | Self::Unreachable(error) => error.category().to_owned(),
            other => other.to_string(),
        }
    }
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
