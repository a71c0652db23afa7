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
        let codec = Codec::new().max_size(limit);
        Self {
            payload,
            codec,
            buffer: BytesMut::new(),
            limit,
            discard: 0,
            fragments: Fragments::None,
            parts: 0,
        }
    }

    /// The largest message that is taken, in bytes.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// The next thing the peer sent; none when the connection has ended. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Inbound> {
        loop {
            match self.take() {
                Ok(Some(inbound)) => return Some(inbound),
                Ok(None) => {}
                Err(error) => return Some(Inbound::Broken(error)),
            }
            let chunk: Result<Bytes, Error> = self.payload.next().await?.map_err(Into::into);
            self.buffer.extend_from_slice(&chunk.ok()?);
        }
    }

    fn take(&mut self) -> Result<Option<Inbound>, ProtocolError> {
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
    /// oversized by itself ends the conversation, because the codec would lose count of the parts.
    fn discard_oversized(&mut self) -> Result<bool, ProtocolError> {
        if self.discard == 0 {
            let Some(frame) = announced(&self.buffer).filter(|frame| frame.length > self.limit as u64) else {
                return Ok(false);
            };
            if frame.is_part || frame.length > MOST_DISCARDED {
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
    /// Whether the frame is a part of a longer message.
    is_part: bool,
}

/// What the head of the frame at the start of `buffer` announces, once that can be told.
fn announced(buffer: &[u8]) -> Option<Announced> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (last, continues) = (first & 0x80 != 0, first.trailing_zeros() >= 4);
    let is_part = !last || continues;
    let (head, length) = match second & 0x7f {
        126 => (4 + mask, u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?))),
        127 => (10 + mask, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)),
        short => (2 + mask, u64::from(short)),
    };
    Some(Announced { head, length, is_part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_length_is_read_as_soon_as_it_can_be_told() {
        let whole = |head, length| Some(Announced { head, length, is_part: false });
        assert_eq!(announced(&[0x81]), None);
        assert_eq!(announced(&[0x81, 0x85]), whole(6, 5));
        assert_eq!(announced(&[0x82, 0xfe, 1]), None);
        assert_eq!(announced(&[0x82, 0xfe, 1, 0]), whole(8, 256));
        assert_eq!(announced(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]), whole(14, 1 << 32));
        assert_eq!(announced(&[0x02, 0x85]), Some(Announced { head: 6, length: 5, is_part: true }));
        assert_eq!(announced(&[0x80, 0x85]), Some(Announced { head: 6, length: 5, is_part: true }));
    }
}
