//! What a socket's peer sends: frames put together, bounded in bytes before they are read.
//!
//! The codec alone would buffer a frame of any announced length before it refuses it, so the length is looked at here
//! first and an oversized frame is thrown away as it arrives.

use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use actix_web::{Error, web};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_util::codec::Decoder;

/// The longest frame that is thrown away rather than ending the conversation, in bytes.
const MOST_DISCARDED: u64 = 16 << 20;

/// The most parts of one message. A part may be empty, and costs the relay work all the same.
const MOST_PARTS: usize = 4096;

/// Something a peer sent.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A whole text message.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping, to be answered with its payload.
    Ping(Bytes),
    /// A sign of life.
    Pong,
    /// The peer closes.
    Close,
    /// A message over the limit; it was thrown away.
    TooLarge,
    /// The peer does not speak RFC 6455; nothing more can be read.
    Broken(ProtocolError),
}

/// The reading half of a socket.
pub(super) struct Inbox {
    payload: web::Payload,
    arrived: Arrived,
}

/// What has come and was not taken yet.
pub(super) struct Arrived {
    codec: Codec,
    buffer: BytesMut,
    limit: usize,
    /// Bytes of an oversized frame that are still to come.
    discard: u64,
    fragments: Fragments,
    /// Parts of the message so far.
    parts: usize,
}

/// A message that comes in parts (RFC 6455 §5.4).
enum Fragments {
    None,
    Text(BytesMut),
    Binary(BytesMut),
    /// Over the limit: thrown away up to its last part.
    Oversized,
}

impl Inbox {
    /// Reads from a connection; no message is larger than `limit` bytes.
    pub(super) fn new(payload: web::Payload, limit: usize) -> Self {
        Self { payload, arrived: Arrived::new(limit) }
    }

    /// The largest message that is taken, in bytes.
    pub(super) const fn limit(&self) -> usize {
        self.arrived.limit
    }

    /// The next thing the peer sent; none when the connection has ended. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Inbound> {
        loop {
            match self.arrived.take() {
                Ok(Some(inbound)) => return Some(inbound),
                Ok(None) => {}
                Err(error) => return Some(Inbound::Broken(error)),
            }
            let chunk: Result<Bytes, Error> = self.payload.next().await?.map_err(Into::into);
            self.arrived.add(&chunk.ok()?);
        }
    }
}

impl Arrived {
    /// Nothing so far; no message is larger than `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let codec = Codec::new().max_size(limit);
        Self { codec, buffer: BytesMut::new(), limit, discard: 0, fragments: Fragments::None, parts: 0 }
    }

    /// More has come.
    pub(super) fn add(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Bytes that wait to become a frame.
    #[cfg(any(fuzzing, test))]
    pub(super) fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next thing that has come as a whole.
    pub(super) fn take(&mut self) -> Result<Option<Inbound>, ProtocolError> {
        loop {
            if self.discard_oversized()? {
                return Ok(Some(Inbound::TooLarge));
            }
            if self.discard > 0 {
                return Ok(None);
            }
            let Some(frame) = self.codec.decode(&mut self.buffer)? else { return Ok(None) };
            self.count_part(&frame)?;
            if let Some(inbound) = self.whole(frame) {
                return Ok(Some(inbound));
            }
        }
    }

    /// Throws away what has come of an oversized frame; true when its end was reached. A part of a message that is
    /// oversized by itself ends the conversation, because the codec would lose count of the parts; and so does a control
    /// frame, which is never large (RFC 6455 §5.5).
    fn discard_oversized(&mut self) -> Result<bool, ProtocolError> {
        if self.discard == 0 {
            let Some(frame) = announced(&self.buffer).filter(|frame| frame.length > self.limit as u64) else {
                return Ok(false);
            };
            if !frame.is_message || frame.length > MOST_DISCARDED {
                return Err(ProtocolError::Overflow);
            }
            self.discard = frame.head + frame.length;
        }
        let here = usize::try_from(self.discard).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(here);
        self.discard -= here as u64;
        Ok(self.discard == 0)
    }

    fn count_part(&mut self, frame: &Frame) -> Result<(), ProtocolError> {
        match frame {
            Frame::Continuation(Item::FirstText(_) | Item::FirstBinary(_)) => self.parts = 1,
            Frame::Continuation(Item::Continue(_) | Item::Last(_)) => self.parts += 1,
            Frame::Text(_) | Frame::Binary(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_) => {}
        }
        if self.parts > MOST_PARTS { Err(ProtocolError::Overflow) } else { Ok(()) }
    }

    fn whole(&mut self, frame: Frame) -> Option<Inbound> {
        match frame {
            Frame::Text(bytes) => Some(Inbound::Text(bytes)),
            Frame::Binary(bytes) => Some(Inbound::Binary(bytes)),
            Frame::Ping(bytes) => Some(Inbound::Ping(bytes)),
            Frame::Pong(_) => Some(Inbound::Pong),
            Frame::Close(_) => Some(Inbound::Close),
            Frame::Continuation(part) => self.part(part),
        }
    }

    fn part(&mut self, part: Item) -> Option<Inbound> {
        let (bytes, last) = match part {
            Item::FirstText(bytes) => {
                self.fragments = Fragments::Text(BytesMut::new());
                (bytes, false)
            }
            Item::FirstBinary(bytes) => {
                self.fragments = Fragments::Binary(BytesMut::new());
                (bytes, false)
            }
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        if let Fragments::Text(message) | Fragments::Binary(message) = &mut self.fragments {
            if message.len() + bytes.len() > self.limit {
                self.fragments = Fragments::Oversized;
            } else {
                message.extend_from_slice(&bytes);
            }
        }
        if !last {
            return None;
        }
        match std::mem::replace(&mut self.fragments, Fragments::None) {
            // The codec refuses a last part without a first one.
            Fragments::None => None,
            Fragments::Text(message) => Some(Inbound::Text(message.freeze())),
            Fragments::Binary(message) => Some(Inbound::Binary(message.freeze())),
            Fragments::Oversized => Some(Inbound::TooLarge),
        }
    }
}

/// What the head of a frame announces.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    head: u64,
    length: u64,
    /// Whether the frame is a whole message.
    is_message: bool,
}

/// What the head of the frame at the start of `buffer` announces, once that can be told. None for a head that the codec
/// refuses by its first two bytes: it must do so however many of them have come.
fn announced(buffer: &[u8]) -> Option<Announced> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    let (is_last, reserved, kind) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let is_masked = second & 0x80 != 0;
    if !is_masked || reserved != 0 || !matches!(kind, 0..=2 | 8..=10) {
        return None;
    }
    let is_message = is_last && matches!(kind, 1 | 2);
    let (head, length) = match second & 0x7f {
        126 => (8, u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?))),
        127 => (14, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)),
        short => (6, u64::from(short)),
    };
    Some(Announced { head, length, is_message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_length_is_read_as_soon_as_it_can_be_told() {
        let whole = |head, length| Some(Announced { head, length, is_message: true });
        assert_eq!(announced(&[0x81]), None);
        assert_eq!(announced(&[0x81, 0x85]), whole(6, 5));
        assert_eq!(announced(&[0x82, 0xfe, 1]), None);
        assert_eq!(announced(&[0x82, 0xfe, 1, 0]), whole(8, 256));
        assert_eq!(announced(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]), whole(14, 1 << 32));
        assert_eq!(announced(&[0x02, 0x85]), Some(Announced { head: 6, length: 5, is_message: false }));
        assert_eq!(announced(&[0x80, 0x85]), Some(Announced { head: 6, length: 5, is_message: false }));
    }

    #[test]
    fn a_frame_that_breaks_the_protocol_is_refused_at_once_in_whatever_pieces_it_comes() {
        // Larger than the limit: with a reserved bit, unmasked, of an unknown kind, and a ping.
        for head in [[0xc1, 0xfe, 2, 188], [0x81, 0x7e, 2, 188], [0x83, 0xfe, 2, 188], [0x89, 0xfe, 2, 188]] {
            let frame = [&head[..], &[0; 704]].concat();
            for piece in [1, 2, 3, 4, frame.len()] {
                let mut arrived = Arrived::new(600);
                let mut taken = Vec::new();
                for chunk in frame.chunks(piece).take(4) {
                    arrived.add(chunk);
                    taken.push(arrived.take());
                }
                assert!(taken.iter().any(Result::is_err), "{head:?} in pieces of {piece}");
                assert!(taken.iter().flatten().all(Option::is_none), "{head:?} in pieces of {piece}");
            }
        }
    }
}
