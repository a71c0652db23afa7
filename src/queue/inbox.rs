//! What a socket's peer sends: frames put together, bounded in bytes before they are read.
//!
//! The codec alone would buffer a frame of any announced length before it refuses it, so the length is looked at here
//! first and an oversized frame is thrown away as it arrives.

use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use actix_web::{Error, web};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_util::codec::Decoder;

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
        Self { payload, codec, buffer: BytesMut::new(), limit, discard: 0, fragments: Fragments::None }
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
            if self.discard_oversized() {
                return Ok(Some(Inbound::TooLarge));
            }
            if self.discard > 0 {
                return Ok(None);
            }
            let Some(frame) = self.codec.decode(&mut self.buffer)? else { return Ok(None) };
            if let Some(inbound) = self.whole(frame) {
                return Ok(Some(inbound));
            }
        }
    }

    /// Throws away what has come of an oversized frame; true when its end was reached.
    fn discard_oversized(&mut self) -> bool {
        if self.discard == 0 {
            self.discard = announced(&self.buffer)
                .filter(|(_, length)| *length > self.limit as u64)
                .map_or(0, |(head, length)| head + length);
            if self.discard == 0 {
                return false;
            }
        }
        let here = usize::try_from(self.discard).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.advance(here);
        self.discard -= here as u64;
        self.discard == 0
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

/// How long the head of the frame at the start of `buffer` is and how much it announces, once that can be told.
fn announced(buffer: &[u8]) -> Option<(u64, u64)> {
    let second = *buffer.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    match second & 0x7f {
        126 => Some((4 + mask, u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?)))),
        127 => Some((10 + mask, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?) & (u64::MAX >> 1))),
        short => Some((2 + mask, u64::from(short))),
    }
}

#[cfg(test)]
mod tests {
    use super::announced;

    #[test]
    fn the_announced_length_is_read_as_soon_as_it_can_be_told() {
        assert_eq!(announced(&[0x81]), None);
        assert_eq!(announced(&[0x81, 0x85]), Some((6, 5)));
        assert_eq!(announced(&[0x82, 0xfe, 1]), None);
        assert_eq!(announced(&[0x82, 0xfe, 1, 0]), Some((8, 256)));
        assert_eq!(announced(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]), Some((14, 1 << 32)));
    }
}
