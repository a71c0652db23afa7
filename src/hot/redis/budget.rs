//! Drawing from a budget in one step of Redis, so that nodes that race for a place cannot both get it.

use std::{fmt::Write as _, time::Duration};

use redis::{ErrorKind, Pipeline, RedisError, ServerErrorKind};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::{fault::Fault, way::Way};
use crate::domain::{Drawn, Quota, Timestamp};

const CODE: &str = include_str!("budget.lua");

/// Up to here Lua's numbers, which are floating, count exactly; half of what they could, because they are added up.
const EXACT: u64 = 1 << 52;

/// The script, and the name under which a Redis that has run it once knows it.
pub(super) struct Script {
    name: String,
}

impl Script {
    pub(super) fn new() -> Self {
        // Redis names scripts so; nothing is secured by it.
        Self { name: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, CODE.as_bytes()).as_ref()) }
    }

    /// Draws a place in the budget under `key`.
    pub(super) async fn draw(
        &self,
        way: &Way,
        key: &str,
        quota: Quota,
        now: Timestamp,
    ) -> Result<Drawn, Fault> {
        let now = now.millis().saturating_mul(1000);
        let period = quota.period_micros();
        if now.unsigned_abs() > EXACT || period.unsigned_abs() > EXACT {
            return Err(Fault::Inexact);
        }
        let forgotten_after = period.unsigned_abs().div_ceil(1000).max(1);
        let call = |command: &str, script: &str| {
            let mut pipeline = Pipeline::with_capacity(1);
            pipeline.cmd(command).arg(script).arg(1).arg(key);
            pipeline.arg(now).arg(quota.interval_micros()).arg(period).arg(forgotten_after);
            pipeline
        };
        let answer = match one_answer(way, call("EVALSHA", &self.name)).await {
            Err(Fault::Redis(error)) if is_unknown_script(&error) => {
                one_answer(way, call("EVAL", CODE)).await?
            }
            answer => answer?,
        };
        Ok(match answer {
            0 => Drawn::Taken,
            wait => Drawn::Empty(Duration::from_micros(wait.unsigned_abs())),
        })
    }
}

async fn one_answer(way: &Way, mut pipeline: Pipeline) -> Result<i64, Fault> {
    let mut answers = way.run::<i64>(&mut pipeline).await?;
    answers.pop().ok_or(Fault::NoAnswer)?
}

/// Whether this Redis was started or flushed since it last ran the script; nothing was done then.
fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
