//! The socket for fuzzers, its framing and its frames; see [`crate::fuzzed`].

#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use bytes::Bytes;

use super::{
    frames::{ClientFrame, Format, ServerFrame, read},
    inbox::{Arrived, Inbound},
};
use crate::{
    domain::{GroupId, Position},
    groups::GroupSendRequest,
    http::fuzzed::{check_refusal, taken},
    messages::fuzzed::sent,
};

/// The longest message of the fuzzed socket: short, so that what is longer is soon found.
const LIMIT: usize = 600;

/// The longest head of a frame (RFC 6455 §5.2).
const HEAD: usize = 14;

/// A text message of a socket.
pub fn frames_json(data: &[u8]) -> bool {
    frame(Format::Json, data)
}

/// A binary message of a socket.
pub fn frames_msgpack(data: &[u8]) -> bool {
    frame(Format::MessagePack, data)
}

fn frame(format: Format, data: &[u8]) -> bool {
    let (reference, outcome) = read(format, &Bytes::copy_from_slice(data));
    assert!(reference.as_ref().is_none_or(|reference| reference.len() <= 64));
    match outcome {
        Ok(ClientFrame::Send(frame)) => sent((*frame).into()),
        Ok(ClientFrame::GroupSend(frame)) => taken(GroupSendRequest::try_from(*frame)).is_some(),
        Ok(ClientFrame::Ack(ids, groups)) => {
            assert!(ids.len() <= 1000 && groups.len() <= 1000);
            assert!(groups.iter().all(|(_, Position(position)): &(GroupId, _)| *position >= 0));
            true
        }
        Ok(ClientFrame::Read(_) | ClientFrame::Auth(_) | ClientFrame::Ping) => true,
        Err(problem) => {
            check_refusal(&problem);
            let refusal = ServerFrame::error(reference, &problem);
            assert!(
                [Format::Json, Format::MessagePack].iter().all(|format| format.encode(&refusal).is_some())
            );
            false
        }
    }
}

/// What comes over a socket, after a byte that says in what pieces. Taken when a whole message comes out; and what comes out
/// does not depend on the pieces.
pub fn socket(data: &[u8]) -> bool {
    let Some((piece, data)) = data.split_first() else { return false };
    let whole = told(data, data.len().max(1));
    assert_eq!(told(data, usize::from(*piece % 32) + 1), whole);
    whole.iter().any(|told| told.starts_with("Text") || told.starts_with("Binary"))
}

/// What comes out of these bytes when they come in pieces of this length.
fn told(data: &[u8], piece: usize) -> Vec<String> {
    let (mut arrived, mut told) = (Arrived::new(LIMIT), Vec::new());
    for chunk in data.chunks(piece) {
        arrived.add(chunk);
        loop {
            match arrived.take() {
                Ok(Some(inbound)) => told.push(in_words(&inbound)),
                Ok(None) => break,
                Err(error) => {
                    told.push(format!("{error:?}"));
                    return told;
                }
            }
        }
        assert!(arrived.held() <= LIMIT + HEAD + piece, "{} bytes are held", arrived.held());
    }
    told
}

fn in_words(inbound: &Inbound) -> String {
    if let Inbound::Text(bytes) | Inbound::Binary(bytes) = inbound {
        assert!(bytes.len() <= LIMIT);
    }
    format!("{inbound:?}")
}
