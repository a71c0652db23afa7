//! A connection as HTTP/1.1 reads it: in the clear or under TLS, and not for ever.
//!
//! The library gives only the first request of a connection a time to come. Here every one has it: while nobody is being
//! answered, what has begun to arrive must become a request in time, or the line ends. And an answer must be taken in the
//! time that its length allows, or the line ends as well. Who does not take answers is not read: the library answers as
//! long as it is given requests, whatever it has yet to write.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io, mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_web::HttpRequest;
use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

use super::pace::{Pace, SLICE};

/// Bytes that are read for requests before what was written is looked at.
const READ_AHEAD: usize = 16 << 10;

/// A connection's bytes.
pub(super) enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// Under TLS.
    Secured(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Has the kernel forget what it was given and the peer has not taken, when this is dropped.
    fn forget_unsent(&self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Secured(stream) => stream.get_ref().0,
        };
        if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "the kernel keeps what a peer does not take");
        }
    }
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
    /// Whether something was written that the peer has not taken yet.
    held_up: Cell<bool>,
    /// The line, while it waits for the peer to take something.
    writing: RefCell<Option<Waker>>,
}

impl Turn {
    /// An answer of this size is given from now on.
    fn begin(&self, size: BodySize, pace: Pace) {
        let due = pace.time_for(size).map(|time| Instant::now() + time);
        // What is still to be taken has its time already, and the next answer only adds what its length needs: otherwise
        // requests without end would put it off for ever.
        let put_off = |old: Instant| old + pace.time_of(size);
        let held_up = self.due.get().filter(|_| self.held_up.get());
        self.due.set(due.map(|due| held_up.map_or(due, put_off).min(due)));
    }

    /// All that was written must be taken within this time.
    fn end_within(&self, time: Duration) {
        self.due.set(Some(Instant::now() + time));
        let writing = self.writing.take();
        if let Some(writing) = writing {
            writing.wake();
        }
    }
}

/// What a connection is given without an end to be due at, such as a socket's frames.
pub struct Giving(Option<Rc<Turn>>);

impl Giving {
    /// What is given in answer to this request.
    #[must_use]
    pub fn to(request: &HttpRequest) -> Self {
        Self(request.conn_data::<Rc<Turn>>().map(Rc::clone))
    }

    /// Nothing follows: the connection ends when its peer has not taken all of it within this time.
    pub fn end_within(&self, time: Duration) {
        if let Some(turn) = &self.0 {
            turn.end_within(time);
        }
    }
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
            turn.begin(body.size(), pace);
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
    /// Bytes that were read since all was written.
    ahead: usize,
    /// Whether somebody wanted to read who was told to wait until something is taken.
    is_awaited: bool,
}

struct Alarm {
    timer: Pin<Box<Sleep>>,
    /// Of how many requests the one to come is the next.
    after: u64,
    has_begun: bool,
}

impl Line {
    pub(super) fn new(stream: Stream, patience: Patience) -> Self {
        Self {
            stream,
            turn: Rc::default(),
            patience,
            alarm: None,
            overdue: None,
            ahead: 0,
            is_awaited: false,
        }
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
        if written.is_ready() {
            return written;
        }
        self.turn.held_up.set(true);
        let Some(due) = self.turn.due.get() else {
            *self.turn.writing.borrow_mut() = Some(cx.waker().clone());
            return written;
        };
        let timer = self.overdue.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        self.stream.forget_unsent();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether requests must wait, because answers wait to be taken or may have to. Has the task woken when they need not.
    fn must_wait(&mut self, cx: &Context<'_>) -> bool {
        // Who is being answered may have a body to send, or a socket.
        if self.turn.answering.get() > 0 {
            return false;
        }
        if self.turn.held_up.get() {
            self.is_awaited = true;
            return true;
        }
        let is_far = self.ahead >= READ_AHEAD;
        if is_far {
            // The library writes what it can before it reads again.
            cx.waker().wake_by_ref();
        }
        is_far
    }

    /// All that was written has been taken.
    fn note_taken(&mut self, cx: &Context<'_>) {
        self.turn.held_up.set(false);
        self.ahead = 0;
        if mem::take(&mut self.is_awaited) {
            cx.waker().wake_by_ref();
        }
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
        if line.must_wait(cx) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut line.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Secured(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let count = buffer.filled().len() - before;
        if count > 0 {
            line.ahead += count;
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
        if flushed.is_ready() {
            line.note_taken(cx);
        }
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

#[cfg(test)]
mod tests;
