//! What a database error means for the act that met it.

use std::{future::Future, io, time::Duration};

use sqlx::Error;
use tokio::time::timeout;

use crate::store::{StoreError, lane::Fault};

/// Attempts at a plain act before its error is given out.
const ATTEMPTS: u32 = 4;

/// How long the engine may say nothing: longer than it lets a statement of its own run, so that only one that has
/// fallen silent (its machine or the way to it is gone, and no packet tells) is given up.
const SILENCE: Duration = Duration::from_secs(12);

/// Runs an act against an engine that may never answer. Its outcome is unknown then, and its connection lost.
pub(super) async fn answered<T>(act: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(SILENCE, act).await.unwrap_or_else(|_| Err(Error::Io(io::ErrorKind::TimedOut.into())))
}

/// When an act may be run again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Only when it is certain that nothing was done.
    WhenUndone,
    /// Also when the connection was lost and it may have been done: running it twice does no harm.
    Always,
}

/// Runs an act, each time in a transaction of its own, until it is decided.
pub(super) async fn attempt<T, F>(repeat: Repeat, mut act: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = Duration::from_millis(5);
    for _ in 1..ATTEMPTS {
        match answered(act()).await {
            Err(error) if was_undone(&error) => tokio::time::sleep(pause).await,
            // The caller has waited long enough.
            Err(error) if is_silence(&error) => return Err(unavailable(error)),
            Err(error) if repeat == Repeat::Always && lost_connection(&error) => {
                tokio::time::sleep(pause).await;
            }
            decided => return decided.map_err(unavailable),
        }
        pause *= 4;
    }
    answered(act()).await.map_err(unavailable)
}

/// Whether a batch of a lane may be run again as it is. A unique violation may: the other node's commit that caused it
/// is seen the next time.
pub(super) fn classify(error: Error) -> Fault {
    let transient = lost_connection(&error)
        || matches!(error, Error::PoolTimedOut)
        || code(&error).is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03" | "57014" | "23505"));
    if transient { Fault::Transient(error) } else { Fault::Refused(error) }
}

pub(super) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// The engine rolled the transaction back because of what another one did.
fn was_undone(error: &Error) -> bool {
    code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

fn is_silence(error: &Error) -> bool {
    matches!(error, Error::Io(source) if source.kind() == io::ErrorKind::TimedOut)
}

fn lost_connection(error: &Error) -> bool {
    match error {
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed | Error::BeginFailed => true,
        other => code(other).is_some_and(|code| {
            code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03" | "53300" | "25P03")
        }),
    }
}

fn code(error: &Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}
