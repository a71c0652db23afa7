//! A connection as HTTP/1.1 reads it: in the clear or under TLS, and not for ever.
//!
//! The library gives only the first request of a connection a time to come. Here every one has it: while nobody is being
//! answered, what has begun to arrive must become a request in time, or the line ends. And an answer must be taken in the
//! time that its length allows, or the line ends as well.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

use super::pace::{Pace, SLICE};

/// A connection's bytes.
pub(super) enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// Under TLS.
    Secured(Box<TlsStream<TcpStream>>),
}

/// How long a line may be without an answer to give.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a request that has begun to arrive.
    pub(super) begun: Duration,
    /// For one to begin.
    pub(super) idle: Duration,
}

/// Whose turn it is on a line: ours while requests are answered, else the peer's.
#[derive(Debug, Default)]
pub(super) struct Turn {
    answering: Cell<usize>,
    /// Requests so far.
    requests: Cell<u64>,
    /// When the answer that is being given must have been taken; none while that is not to be said.
    due: Cell<Option<Instant>>,
}

/// Held while a request is answered, up to the last byte of the answer's body.
#[derive(Debug)]
pub(super) struct Answering(Rc<Turn>);

impl Answering {
    pub(super) fn on(turn: &Rc<Turn>) -> Self {
        turn.answering.set(turn.answering.get() + 1);
        turn.requests.set(turn.requests.get() + 1);
        Self(Rc::clone(turn))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get().saturating_sub(1));
    }
}

/// The body of an answer, which keeps the turn until it was given, and gives it slice by slice: the library keeps a copy of
/// what it was given.
pub(super) struct Answer {
    body: BoxBody,
    /// What has come of the body, and was not given yet.
    rest: Bytes,
    _turn: Option<Answering>,
}

impl Answer {
    /// An answer that is to be taken at this pace from now on.
    pub(super) fn new(body: BoxBody, turn: Option<Answering>, pace: Pace) -> Self {
        if let Some(Answering(turn)) = &turn {
            turn.due.set(pace.time_for(body.size()).map(|time| Instant::now() + time));
        }
        Self { body, rest: Bytes::new(), _turn: turn }
    }
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.rest.len().min(SLICE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}

/// A connection that ends by itself when its peer holds it for nothing.
pub(super) struct Line {
    stream: Stream,
    turn: Rc<Turn>,
    patience: Patience,
    /// Runs while it is the peer's turn.
    alarm: Option<Alarm>,
    /// Runs while the peer does not take what is written.
    overdue: Option<Pin<Box<Sleep>>>,
}

struct Alarm {
    timer: Pin<Box<Sleep>>,
    /// Of how many requests the one to come is the next.
    after: u64,
    has_begun: bool,
}

impl Line {
    pub(super) fn new(stream: Stream, patience: Patience) -> Self {
        Self { stream, turn: Rc::default(), patience, alarm: None, overdue: None }
    }

    pub(super) fn turn(&self) -> &Rc<Turn> {
        &self.turn
    }

    /// Whether the peer's time is over. Has the task woken when it will be.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.turn.answering.get() > 0 {
            self.alarm = None;
            return false;
        }
        let requests = self.turn.requests.get();
        let idle = self.patience.idle;
        let alarm = self.alarm.get_or_insert_with(|| Alarm {
            timer: Box::pin(sleep(idle)),
            after: requests,
            has_begun: false,
        });
        if alarm.after != requests {
            alarm.after = requests;
            alarm.has_begun = false;
            alarm.timer.as_mut().reset(Instant::now() + idle);
        }
        alarm.timer.as_mut().poll(cx).is_ready()
    }

    /// What came of writing; an error when the peer did not take it in time. Has the task woken when it will be so.
    fn in_time<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(due) = self.turn.due.get().filter(|_| written.is_pending()) else { return written };
        let timer = self.overdue.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn note_bytes(&mut self) {
        if let Some(alarm) = self.alarm.as_mut().filter(|alarm| !alarm.has_begun) {
            alarm.has_begun = true;
            alarm.timer.as_mut().reset(Instant::now() + self.patience.begun);
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        if line.is_late(cx) {
            // The end of the stream: what is to be written still is.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut line.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Secured(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            line.note_bytes();
        }
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = match &mut line.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Secured(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        line.in_time(written, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let flushed = match &mut line.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Secured(stream) => Pin::new(stream).poll_flush(cx),
        };
        line.in_time(flushed, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let ended = match &mut line.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        line.in_time(ended, cx)
    }
}
