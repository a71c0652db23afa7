//! How fast a peer must take its answer.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::body::BodySize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::SEND_BUFFER;

/// Bytes of an answer that are given to a connection at a time, so that what was not taken stays with the answer.
pub(super) const SLICE: usize = 16 << 10;

/// How long a peer may take over an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Without a byte, and beside what the length needs.
    pub(super) stall: Duration,
    /// Bytes a second, on the average.
    pub(super) least: u32,
}

impl Pace {
    /// For all of an answer of this size. None for what has no end of its own, such as a socket.
    pub(super) fn time_for(self, size: BodySize) -> Option<Duration> {
        match size {
            BodySize::Sized(_) | BodySize::None => Some(self.stall + self.time_of(size)),
            BodySize::Stream => None,
        }
    }

    /// What the length of an answer needs, as far as it has one.
    pub(super) fn time_of(self, size: BodySize) -> Duration {
        let BodySize::Sized(length) = size else { return Duration::ZERO };
        Duration::from_millis(length.saturating_mul(1000).div_ceil(u64::from(self.least.max(1))))
    }

    /// How long it may take until the kernel takes something: it says so only when a good part of what it keeps for a peer is
    /// gone, which at the least pace takes its time.
    pub(super) fn hold(self) -> Duration {
        let kept = Duration::from_secs(2) * SEND_BUFFER / self.least.max(1);
        self.stall.max(kept)
    }
}

/// A connection that ends when its peer takes bytes too slowly, whoever wrote them: HTTP/2 keeps a little of every stream
/// after its answer is done with.
///
/// What is written may be held up for as long as [`Pace::hold`] says; each byte that is taken earns some of it back.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    left: Duration,
    held_up: Option<HeldUp>,
    is_held_up: Rc<Cell<bool>>,
}

struct HeldUp {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, left: pace.hold(), held_up: None, is_held_up: Rc::default() }
    }

    /// Where it is told whether something waits for the peer to take it.
    pub(super) const fn held_up(&self) -> &Rc<Cell<bool>> {
        &self.is_held_up
    }

    /// What came of writing `taken` bytes, or an error when it is held up for too long.
    fn in_time<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        self.is_held_up.set(written.is_pending());
        let Poll::Ready(ended) = written else {
            let left = self.left;
            let fresh = || HeldUp { since: Instant::now(), timer: Box::pin(sleep(left)) };
            let held_up = self.held_up.get_or_insert_with(fresh);
            return held_up.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some(held_up) = self.held_up.take() {
            self.left = self.left.saturating_sub(held_up.since.elapsed());
        }
        if let Ok(count) = &ended {
            let bytes = u32::try_from(taken(count)).unwrap_or(u32::MAX);
            let earned = Duration::from_secs(1) * bytes / self.pace.least.max(1);
            self.left = (self.left + earned).min(self.pace.hold());
        }
        Poll::Ready(ended)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let paced = self.get_mut();
        let written = Pin::new(&mut paced.stream).poll_write(cx, bytes);
        paced.in_time(written, |count| *count, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let flushed = Pin::new(&mut paced.stream).poll_flush(cx);
        paced.in_time(flushed, |()| 0, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let paced = self.get_mut();
        let ended = Pin::new(&mut paced.stream).poll_shutdown(cx);
        paced.in_time(ended, |()| 0, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    const PACE: Pace = Pace { stall: Duration::from_secs(1), least: 4 << 10 };

    /// With which the kernel's share is soon taken.
    const HASTY: Pace = Pace { stall: Duration::from_secs(1), least: 512 << 10 };

    #[test]
    fn an_answer_has_the_stalls_time_and_what_its_length_needs() {
        let time = |length| PACE.time_for(BodySize::Sized(length)).unwrap().as_millis();
        assert_eq!((time(0), time(1), time(4096), time(6144)), (1000, 1001, 2000, 2500));
        assert!(PACE.time_for(BodySize::Stream).is_none(), "a socket has no end to be due at");
    }

    #[test]
    fn a_connection_may_be_held_up_until_the_kernel_says_that_it_has_room() {
        let hasty = Pace { stall: Duration::from_secs(1), least: 8 << 10 };
        assert_eq!(hasty.hold(), Duration::from_secs(64), "twice what the kernel keeps, at the least pace");
        assert_eq!(Pace { stall: Duration::from_secs(90), ..hasty }.hold(), Duration::from_secs(90));
    }

    #[tokio::test]
    async fn a_connection_ends_when_its_peer_drips_and_not_when_it_rests_between_answers() {
        let (ours, mut theirs) = duplex(1 << 10);
        let mut ours = Paced::new(ours, HASTY);
        for _ in 0..3 {
            let (written, read) = tokio::join!(ours.write_all(&[0; 8 << 10]), async {
                theirs.read_exact(&mut [0; 8 << 10]).await.map(|_| ())
            });
            assert!(written.is_ok() && read.is_ok());
            // Nothing waits for the peer meanwhile.
            tokio::time::sleep(HASTY.stall * 3 / 2).await;
        }
        let dripping = async {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let written = tokio::select! {
            written = timeout(Duration::from_mins(1), async { ours.write_all(&[0; 8 << 10]).await }) => written,
            () = dripping => unreachable!("ours is open"),
        };
        assert_eq!(written.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
