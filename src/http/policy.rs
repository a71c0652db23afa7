//! What clients are told of a limit: the headers of draft-ietf-httpapi-ratelimit-headers.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    domain::{Drawn, Quota},
    hot::Spent,
};

/// The limits that hold, and how large they are.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How much is left.
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// A limit by name.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    name: &'static str,
    of: &'static str,
    quota: Quota,
    /// How many acts are left, and after how many seconds more are. None where that would tell what others do.
    state: Option<(u32, u64)>,
}

impl Policy {
    /// A limit of a device or a network, nothing being said of how much is left.
    #[must_use]
    pub const fn new(name: &'static str, of: &'static str, quota: Quota) -> Self {
        Self { name, of, quota, state: None }
    }

    /// This limit, with what is left of it.
    #[must_use]
    pub fn with(self, spent: Spent) -> Self {
        let quota = self.quota;
        // With places left: when they all are back. Without: when there is the next one.
        let seconds = match spent.drawn {
            Drawn::Empty(wait) => wait.as_micros().div_ceil(1_000_000),
            Drawn::Taken => {
                let missing = i64::from(quota.acts.saturating_sub(spent.left));
                let micros = missing.saturating_mul(quota.interval_micros());
                u128::from(micros.unsigned_abs()).div_ceil(1_000_000)
            }
        };
        let left = if spent.drawn == Drawn::Taken { spent.left } else { 0 };
        Self { state: Some((left, u64::try_from(seconds).unwrap_or(u64::MAX))), ..self }
    }

    /// Writes the headers.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let Self { name, of, quota, state } = self;
        let (acts, window) = (quota.acts, quota.period.as_secs());
        let policy = format!("\"{name}-per-{of}\";q={acts};w={window}");
        if let Ok(value) = HeaderValue::from_str(&policy) {
            headers.insert(POLICY, value);
        }
        let state = state.map(|(left, seconds)| format!("\"{name}-per-{of}\";r={left};t={seconds}"));
        if let Some(value) = state.and_then(|state| HeaderValue::from_str(&state).ok()) {
            headers.insert(STATE, value);
        }
    }
}
