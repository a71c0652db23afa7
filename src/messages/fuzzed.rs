//! Sends and the bodies of Signal clients for fuzzers; see [`crate::fuzzed`].

#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use std::time::Duration;

use super::{
    SendBody, SendRequest, SendRules,
    send::prepare,
    structure::{self, Malformed},
};
use crate::{
    domain::{Bodies, ConversationKey, EnvelopeType, is_plaintext},
    fuzzed::{NOW, caller},
    http::fuzzed::{parsed, taken},
};

const RULES: SendRules = SendRules {
    envelope: 96 << 10,
    send: 384 << 10,
    plaintext_guard: true,
    queue_life: Duration::from_hours(30 * 24),
};

/// The body of a send, from JSON to what the store would get.
pub fn send_body(data: &[u8]) -> bool {
    parsed::<SendBody>(data).is_some_and(sent)
}

/// A send that was read from a body or a frame. Taken when the store would get it.
pub(crate) fn sent(body: SendBody) -> bool {
    let Some(request) = taken(SendRequest::try_from(body)) else { return false };
    let conversations = ConversationKey::new([7; 32]);
    let prepared = |request| taken(prepare(caller(1, "phone"), request, &RULES, &conversations, NOW));
    let Some(send) = prepared(request.clone()) else { return false };
    let Some(again) = prepared(request) else { unreachable!("what was taken once is taken again") };
    assert_eq!(send.digest, again.digest, "the digest is of what the client decided");
    assert!(send.expires_at > NOW && send.expires_at <= NOW.plus(RULES.queue_life));
    check_bodies(&send.bodies);
    true
}

fn check_bodies(bodies: &Bodies) {
    let lengths: Vec<usize> = match bodies {
        Bodies::Same(envelope) => vec![envelope.ciphertext.len()],
        Bodies::Each(named) => named.iter().map(|addressed| addressed.envelope.ciphertext.len()).collect(),
    };
    assert!(lengths.iter().all(|length| (28..=RULES.envelope).contains(length)));
    assert!(lengths.iter().sum::<usize>() <= RULES.send);
}

/// A sealed body, held against every type. Taken when it is well built as one that has a structure.
pub fn signal_body(data: &[u8]) -> bool {
    use EnvelopeType::{Opaque, PlaintextContent, PreKey, Sealed, SenderKey, Whisper};

    let verdict = |kind| structure::check(kind, data);
    assert_eq!(verdict(Opaque).is_ok(), data.len() >= 28);
    if verdict(PlaintextContent).is_ok() {
        // One byte more, and it could hold a text.
        assert_eq!(
            structure::check(PlaintextContent, &[data, b"!"].concat()),
            Err(Malformed::NotDecryptionError)
        );
    }
    let _ = is_plaintext(data);
    [PreKey, Whisper, SenderKey, Sealed, PlaintextContent].into_iter().any(|kind| verdict(kind).is_ok())
}
