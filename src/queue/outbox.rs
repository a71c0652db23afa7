//! What a socket has yet to write: bounded in bytes, drained by the connection as its peer reads.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use actix_http::ws::{CloseCode, CloseReason, OpCode, Parser};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::Notify;

/// Bytes that may wait before nothing more is given; one frame of any legal size always fits into an empty outbox.
const ROOM: usize = 64 << 10;

/// The writing half of a socket, as the session sees it.
pub(super) struct Outbox {
    shared: Arc<Shared>,
}

/// The writing half of a socket, as the connection sees it.
pub(super) struct Writing {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    waker: Option<Waker>,
    /// No frame follows.
    closed: bool,
    /// The connection is gone.
    gone: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A data frame as it goes over the wire (RFC 6455 §5.2), which any number of outboxes may share.
pub(super) fn data_frame(payload: &[u8], binary: bool) -> Bytes {
    frame(payload, if binary { OpCode::Binary } else { OpCode::Text })
}

fn frame(payload: &[u8], code: OpCode) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 10);
    Parser::write_message(&mut frame, payload, code, true, false);
    frame.freeze()
}

/// An empty outbox and its other end.
pub(super) fn outbox() -> (Outbox, Writing) {
    let shared = Arc::<Shared>::default();
    (Outbox { shared: Arc::clone(&shared) }, Writing { shared })
}

impl Outbox {
    /// Puts a data frame.
    pub(super) fn push(&self, payload: &[u8], binary: bool) {
        self.put(data_frame(payload, binary));
    }

    /// Puts a frame that [`data_frame`] made.
    pub(super) fn push_frame(&self, frame: Bytes) {
        self.put(frame);
    }

    /// Puts a ping.
    pub(super) fn ping(&self) {
        self.put(frame(&[], OpCode::Ping));
    }

    /// Puts a pong with the ping's own payload.
    pub(super) fn pong(&self, payload: &[u8]) {
        self.put(frame(payload, OpCode::Pong));
    }

    /// Drops what waits, for a peer that is not given it any more.
    pub(super) fn clear(&self) {
        let mut state = self.shared.lock();
        state.frames.clear();
        state.bytes = 0;
    }

    /// Puts a close frame, after which nothing follows.
    pub(super) fn close(&self, code: u16, reason: &str) {
        let mut frame = BytesMut::new();
        let reason = CloseReason { code: CloseCode::from(code), description: Some(reason.to_owned()) };
        Parser::write_close(&mut frame, Some(reason), false);
        self.finish(Some(frame.freeze()));
    }

    /// Ends the stream without another frame.
    pub(super) fn finish(&self, last: Option<Bytes>) {
        let mut state = self.shared.lock();
        if !state.closed {
            state.frames.extend(last);
            state.closed = true;
        }
        wake(state);
    }

    fn put(&self, frame: Bytes) {
        let mut state = self.shared.lock();
        if state.closed || state.gone {
            return;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        wake(state);
    }

    /// Whether another frame may be given.
    pub(super) fn has_room(&self) -> bool {
        self.shared.lock().bytes < ROOM
    }

    /// Whether the connection is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.shared.lock().gone
    }

    /// Waits until the connection has taken something, or is gone.
    pub(super) async fn moved(&self) {
        self.shared.moved.notified().await;
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Stream for Writing {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        let Some(frame) = state.frames.pop_front() else {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.bytes = state.bytes.saturating_sub(frame.len());
        drop(state);
        self.shared.moved.notify_one();
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.gone = true;
        state.frames.clear();
        state.bytes = 0;
        drop(state);
        self.shared.moved.notify_one();
    }
}
