//! What a session waits for beside everything else.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::task::AbortOnDropHandle;

/// A future that goes on by itself, whether or not it is polled, and ends when it is dropped. A session that asks the store
/// in its own loop would otherwise wait for a connection, or for a room's turn, that a future of its own holds.
pub(super) struct Errand<T>(AbortOnDropHandle<T>);

impl<T: Send + 'static> Errand<T> {
    /// Sets out, on the runtime of the calling thread.
    pub(super) fn start(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(AbortOnDropHandle::new(tokio::spawn(future)))
    }
}

impl<T> Future for Errand<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(context)) {
            Ok(outcome) => Poll::Ready(outcome),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is being shut down, and so is whoever waits.
                Err(_cancelled) => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_errand_gives_back_what_it_holds_while_nobody_looks_at_it() {
        let (done, told) = oneshot::channel();
        let errand = Errand::start(async move { done.send(()).is_ok() });
        told.await.unwrap();
        assert!(errand.await);
    }

    #[tokio::test]
    async fn an_errand_that_is_dropped_ends() {
        let (held, released) = oneshot::channel::<()>();
        drop(Errand::start(async move {
            std::future::pending::<()>().await;
            drop(held);
        }));
        assert!(released.await.is_err(), "what it held is free");
    }

    #[tokio::test]
    #[should_panic(expected = "lost on the way")]
    async fn an_errand_that_panics_does_so_where_it_is_waited_for() {
        Errand::start(async { panic!("lost on the way") }).await;
    }
}
