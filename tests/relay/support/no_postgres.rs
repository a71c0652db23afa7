//! In place of `postgres.rs` until that engine is there.

use restante::store::Limits;

use super::engine::Engine;

/// None, loudly.
#[expect(clippy::unused_async, reason = "the engine's own does await")]
pub(crate) async fn make(_limits: Limits) -> Option<(Engine, Database)> {
    eprintln!("skipped on postgres: the engine is not there yet");
    None
}

/// A database to be dropped after its test.
pub(crate) struct Database;

impl Database {
    #[expect(clippy::unused_async, reason = "the engine's own does await")]
    pub(crate) async fn drop(self) {}
}
