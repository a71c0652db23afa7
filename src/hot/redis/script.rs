//! Acts that Redis does in one step, by scripts that it knows by name once it has run them.

use std::fmt::Write as _;

use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::{fault::Fault, way::Way};

/// A script on one key, and the name under which a Redis that has run it once knows it.
pub(super) struct Script {
    code: &'static str,
    name: String,
}

/// A key, and the arguments behind it.
pub(super) struct Call {
    pub(super) key: String,
    pub(super) arguments: Vec<String>,
}

impl Script {
    pub(super) fn new(code: &'static str) -> Self {
        // Redis names scripts so; nothing is secured by it.
        Self { code, name: hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, code.as_bytes()).as_ref()) }
    }

    /// Runs the script for each call and gives each one's own answer. Of several calls each must bear to be run twice.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        way: &Way,
        calls: &[Call],
    ) -> Result<Vec<Result<T, Fault>>, Fault> {
        let answers = way.run::<T>(&mut pipeline("EVALSHA", &self.name, calls)).await?;
        // Of several calls some may have been known to their node of a cluster; a script of several may run twice.
        if answers.iter().any(|answer| answer.as_ref().is_err_and(is_unknown_script)) {
            return way.run::<T>(&mut pipeline("EVAL", self.code, calls)).await;
        }
        Ok(answers)
    }

    /// Runs the script once.
    pub(super) async fn run_once<T: FromRedisValue>(&self, way: &Way, call: Call) -> Result<T, Fault> {
        self.run(way, &[call]).await?.pop().ok_or(Fault::NoAnswer)?
    }
}

fn pipeline(command: &str, script: &str, calls: &[Call]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    for call in calls {
        pipeline.cmd(command).arg(script).arg(1).arg(&call.key).arg(&call.arguments);
    }
    pipeline
}

/// Whether this Redis was started or flushed since it last ran the script; nothing was done then.
fn is_unknown_script(fault: &Fault) -> bool {
    let Fault::Redis(error) = fault else { return false };
    RedisError::kind(error) == ErrorKind::Server(ServerErrorKind::NoScript)
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
