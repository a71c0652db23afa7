//! The restore drill: scripts/backup beside a running relay, a life that goes on and is lost, scripts/restore, and what
//! the restored relay must neither repeat nor believe.

mod drill;
mod refusals;
pub mod scripts;
