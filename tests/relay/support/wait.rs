//! Waiting for what must become true, with a deadline.

use std::time::{Duration, Instant};

/// Asks again and again until it is so; panics when it is not in time.
pub async fn until(patience: Duration, what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
