//! From a parsed request to a send that the store can accept: shape, size, guard, expiry, digest.

use std::time::Duration;

use bytes::Bytes;

use super::{Refusal, SendRules, structure};
use crate::domain::{
    Addressed, Bodies, Caller, Conversation, ConversationId, ConversationKey, DeviceName, Envelope,
    MessageId, MessageType, Send, Timestamp, UserId, is_plaintext,
};

/// The longest a body may be asked to wait.
const LONGEST: Duration = Duration::from_hours(30 * 24);

/// A send as it came, its ids and names parsed.
#[derive(Debug, Clone)]
pub struct SendRequest {
    /// The conversation; none for the pair's own.
    pub conversation_id: Option<ConversationId>,
    /// The recipient.
    pub recipient_id: UserId,
    /// The hint.
    pub message_type: MessageType,
    /// The client's id of the message.
    pub message_id: Option<MessageId>,
    /// Whether erasure is asked for.
    pub is_self_destructing: Option<bool>,
    /// After how many seconds.
    pub expires_in_seconds: Option<u64>,
    /// Whether the message is for connected devices only, and is never stored.
    pub online_only: bool,
    /// The bodies.
    pub bodies: Bodies,
}

/// Checks a request and makes it a send.
pub(super) fn prepare(
    caller: Caller,
    request: SendRequest,
    rules: &SendRules,
    conversations: &ConversationKey,
    now: Timestamp,
) -> Result<Send, Refusal> {
    check_bodies(&request.bodies, rules)?;
    let life = life(&request)?;
    let own = conversations.of(caller.user_id, request.recipient_id);
    let conversation = match request.conversation_id {
        Some(id) if !id.is_nil() && id != own => Conversation::Named(id),
        _ => Conversation::Own(own),
    };
    Ok(Send {
        message_id: request.message_id.unwrap_or_else(|| MessageId::fresh(now)),
        digest: digest(&request, conversation, life),
        recipient_id: request.recipient_id,
        conversation,
        message_type: request.message_type,
        self_destructing: life.is_some(),
        expires_at: now.plus(life.unwrap_or(rules.queue_life).min(rules.queue_life)),
        bodies: request.bodies,
        sender: caller,
    })
}

fn life(request: &SendRequest) -> Result<Option<Duration>, Refusal> {
    match (request.is_self_destructing, request.expires_in_seconds) {
        (None | Some(false), None) => Ok(None),
        (Some(true), None) => Err(Refusal::BadExpiry("is_self_destructing needs expires_in_seconds")),
        (Some(false), Some(_)) => {
            Err(Refusal::BadExpiry("expires_in_seconds contradicts is_self_destructing: false"))
        }
        (None | Some(true), Some(seconds)) if (1..=LONGEST.as_secs()).contains(&seconds) => {
            Ok(Some(Duration::from_secs(seconds)))
        }
        (None | Some(true), Some(_)) => {
            Err(Refusal::BadExpiry("expires_in_seconds lies between 1 and 2592000"))
        }
    }
}

fn check_bodies(bodies: &Bodies, rules: &SendRules) -> Result<(), Refusal> {
    match bodies {
        Bodies::Same(envelope) => check_envelope("", envelope, rules),
        Bodies::Each(named) => {
            let total: usize = named.iter().map(|addressed| addressed.envelope.ciphertext.len()).sum();
            if total > rules.send {
                return Err(Refusal::TooLarge("envelopes".into(), rules.send));
            }
            named.iter().enumerate().try_for_each(|(index, addressed)| {
                check_envelope(&format!("envelopes[{index}]."), &addressed.envelope, rules)
            })
        }
    }
}

fn check_envelope(prefix: &str, envelope: &Envelope, rules: &SendRules) -> Result<(), Refusal> {
    let body = &envelope.ciphertext;
    let field = || format!("{prefix}ciphertext");
    if body.len() > rules.envelope {
        return Err(Refusal::TooLarge(field(), rules.envelope));
    }
    if rules.plaintext_guard && is_plaintext(body) {
        return Err(Refusal::NotCiphertext(field()));
    }
    structure::check(envelope.envelope_type, body)
        .map_err(|why| Refusal::BadEnvelope(field(), why.to_string()))?;
    match &envelope.ephemeral_key {
        Some(key) if !matches!(key.len(), 32 | 33) => {
            Err(Refusal::BadEnvelope(format!("{prefix}ephemeral_key"), "32 or 33 bytes are expected".into()))
        }
        _ => Ok(()),
    }
}

/// Everything the client decided, but for the id and the sender, in one unambiguous row: each part with its length.
fn digest(request: &SendRequest, conversation: Conversation, life: Option<Duration>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut put = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    };
    put(request.recipient_id.uuid().as_bytes());
    put(conversation.id().uuid().as_bytes());
    put(&[request.message_type as u8]);
    put(&life.map_or(0, |life| life.as_secs()).to_be_bytes());
    let mut put_envelope = |name: &[u8], registration_id: u16, envelope: &Envelope| {
        put(name);
        put(&registration_id.to_be_bytes());
        put(&[envelope.envelope_type as u8]);
        put(envelope.ephemeral_key.as_ref().map_or(&[][..], Bytes::as_ref));
        put(&envelope.ciphertext);
    };
    match &request.bodies {
        Bodies::Same(envelope) => put_envelope(b"*", 0, envelope),
        Bodies::Each(named) => {
            for Addressed { device, registration_id, envelope } in named {
                let registration_id = registration_id.map_or(0, crate::domain::RegistrationId::get);
                match device {
                    DeviceName::Id(id) => put_envelope(id.as_str().as_bytes(), registration_id, envelope),
                    DeviceName::Number(number) => put_envelope(&[0, number.get()], registration_id, envelope),
                }
            }
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{DeviceId, DeviceNo, DeviceNumber, EnvelopeType};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn rules() -> SendRules {
        SendRules { envelope: 1000, send: 2000, plaintext_guard: true, queue_life: LONGEST }
    }

    fn envelope(byte: u8, len: usize) -> Envelope {
        Envelope {
            envelope_type: EnvelopeType::Opaque,
            ciphertext: vec![byte; len].into(),
            ephemeral_key: None,
        }
    }

    fn request(bodies: Bodies) -> SendRequest {
        SendRequest {
            conversation_id: None,
            recipient_id: UserId::new(Uuid::from_u128(2)),
            message_type: MessageType::Opaque,
            message_id: None,
            is_self_destructing: None,
            expires_in_seconds: None,
            online_only: false,
            bodies,
        }
    }

    fn prepared(request: SendRequest) -> Result<Send, Refusal> {
        let caller = Caller {
            user_id: UserId::new(Uuid::from_u128(1)),
            device_id: DeviceId::parse("phone").unwrap(),
            device_number: DeviceNumber::new(1).unwrap(),
            device_no: DeviceNo(1),
        };
        prepare(caller, request, &rules(), &ConversationKey::new([0; 32]), NOW)
    }

    #[test]
    fn text_short_and_large_bodies_are_refused() {
        let same = |byte, len| prepared(request(Bodies::Same(envelope(byte, len))));
        assert!(matches!(same(b'a', 64), Err(Refusal::NotCiphertext(field)) if field == "ciphertext"));
        assert!(matches!(same(0x80, 27), Err(Refusal::BadEnvelope(..))));
        assert!(matches!(same(0x80, 1001), Err(Refusal::TooLarge(_, 1000))));
        assert!(same(0x80, 28).is_ok() && same(0x80, 1000).is_ok());
    }

    #[test]
    fn a_nil_conversation_is_the_pairs_own() {
        let with = |id: Option<u128>| {
            let id = id.map(|id| ConversationId::new(Uuid::from_u128(id)));
            prepared(SendRequest { conversation_id: id, ..request(Bodies::Same(envelope(0x80, 30))) })
                .unwrap()
        };
        assert!(matches!(with(None).conversation, Conversation::Own(_)));
        assert_eq!(with(None).conversation, with(Some(0)).conversation);
        assert!(matches!(with(Some(7)).conversation, Conversation::Named(_)));
        let own = with(None).conversation.id().uuid().as_u128();
        assert_eq!(with(Some(own)).conversation, with(None).conversation);
    }

    #[test]
    fn expiry_needs_both_its_fields_in_agreement() {
        let life = |destructs, seconds| {
            let base = request(Bodies::Same(envelope(0x80, 30)));
            prepared(SendRequest { is_self_destructing: destructs, expires_in_seconds: seconds, ..base })
        };
        assert!(life(Some(true), None).is_err() && life(Some(false), Some(5)).is_err());
        assert!(life(Some(true), Some(0)).is_err() && life(None, Some(2_592_001)).is_err());
        let send = life(Some(true), Some(5)).unwrap();
        assert!(send.self_destructing && send.expires_at == NOW.plus(Duration::from_secs(5)));
        assert!(!life(None, None).unwrap().self_destructing);
    }

    #[test]
    fn the_digest_covers_everything_the_client_decides() {
        let base = || request(Bodies::Same(envelope(0x80, 30)));
        let digest = |request| prepared(request).unwrap().digest;
        let id = |id| Some(MessageId::new(Uuid::from_u128(id)));
        assert_eq!(digest(base()), digest(base()));
        assert_eq!(
            digest(base()),
            digest(SendRequest { message_id: id(5), ..base() }),
            "the id is compared apart"
        );
        let others = [
            SendRequest { recipient_id: UserId::new(Uuid::from_u128(3)), ..base() },
            SendRequest { message_type: MessageType::Text, ..base() },
            SendRequest { expires_in_seconds: Some(9), ..base() },
            request(Bodies::Same(envelope(0x81, 30))),
            request(Bodies::Each(vec![])),
        ];
        for other in others {
            assert_ne!(digest(base()), digest(other));
        }
    }
}
