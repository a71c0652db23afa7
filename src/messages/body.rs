//! A send on the wire: as a REST body and as a socket frame, and its answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{SendRequest, Sent};
use crate::{
    domain::{
        Addressed, Bodies, ConversationId, DeviceId, DeviceName, DeviceNumber, Envelope, MessageId,
        RegistrationId, UserId,
    },
    http::{BodyKind, Problem, RequestBody},
    wire::{B64, EnvelopeType, Id, MessageType, Time},
};

/// An envelope for one device, named by id or by number.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvelopeBody {
    device_id: Option<String>,
    /// 1–127.
    device_number: Option<i64>,
    /// The registration id the sender's session is with.
    registration_id: Option<i64>,
    #[serde(rename = "type")]
    kind: Option<EnvelopeType>,
    ciphertext: B64,
    ephemeral_key: Option<B64>,
}

/// A send: either `ciphertext` for every active device of the recipient, or `envelopes`, one for each.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendBody {
    /// Absent or nil: the pair's own.
    conversation_id: Option<Id>,
    recipient_id: Id,
    /// The sender's own device.
    pub(super) device_id: Option<String>,
    message_type: Option<MessageType>,
    /// Makes the send repeatable.
    message_id: Option<Id>,
    is_self_destructing: Option<bool>,
    /// 1–2592000.
    expires_in_seconds: Option<u64>,
    /// Only to connected devices, never stored.
    #[serde(default)]
    online_only: bool,
    #[serde(rename = "type")]
    kind: Option<EnvelopeType>,
    ciphertext: Option<B64>,
    ephemeral_key: Option<B64>,
    envelopes: Option<Vec<EnvelopeBody>>,
}

impl RequestBody for SendBody {
    const KIND: BodyKind = BodyKind::Message;
}

/// A send as a socket frame. `type` is the frame's, so the body's type is `envelope_type`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendFrame {
    #[serde(rename = "type")]
    _type: String,
    /// The client's name for this request; comes back with the answer.
    #[serde(rename = "ref")]
    _reference: Option<String>,
    conversation_id: Option<Id>,
    recipient_id: Id,
    /// The sender's own device.
    pub device_id: Option<String>,
    message_type: Option<MessageType>,
    message_id: Option<Id>,
    is_self_destructing: Option<bool>,
    expires_in_seconds: Option<u64>,
    #[serde(default)]
    online_only: bool,
    envelope_type: Option<EnvelopeType>,
    ciphertext: Option<B64>,
    ephemeral_key: Option<B64>,
    envelopes: Option<Vec<EnvelopeBody>>,
}

impl From<SendFrame> for SendBody {
    fn from(frame: SendFrame) -> Self {
        Self {
            conversation_id: frame.conversation_id,
            recipient_id: frame.recipient_id,
            device_id: frame.device_id,
            message_type: frame.message_type,
            message_id: frame.message_id,
            is_self_destructing: frame.is_self_destructing,
            expires_in_seconds: frame.expires_in_seconds,
            online_only: frame.online_only,
            kind: frame.envelope_type,
            ciphertext: frame.ciphertext,
            ephemeral_key: frame.ephemeral_key,
            envelopes: frame.envelopes,
        }
    }
}

impl TryFrom<SendBody> for SendRequest {
    type Error = Problem;

    fn try_from(body: SendBody) -> Result<Self, Problem> {
        let bodies = match (body.ciphertext, body.envelopes) {
            (Some(ciphertext), None) => Bodies::Same(envelope(body.kind, ciphertext, body.ephemeral_key)),
            (None, Some(envelopes)) => {
                if body.kind.is_some() || body.ephemeral_key.is_some() {
                    return Err(Problem::bad_field(
                        "envelopes",
                        "each envelope has its own type and ephemeral_key",
                    ));
                }
                Bodies::Each(addressed(envelopes)?)
            }
            _ => return Err(Problem::bad_field("ciphertext", "either ciphertext or envelopes is needed")),
        };
        Ok(Self {
            conversation_id: body.conversation_id.map(|id| ConversationId::new(id.0)),
            recipient_id: UserId::new(body.recipient_id.0),
            message_type: body.message_type.unwrap_or(MessageType::Opaque).into(),
            message_id: body.message_id.map(message_id).transpose()?,
            is_self_destructing: body.is_self_destructing,
            expires_in_seconds: body.expires_in_seconds,
            online_only: body.online_only,
            bodies,
        })
    }
}

fn message_id(id: Id) -> Result<MessageId, Problem> {
    let id = MessageId::new(id.0);
    if id.is_nil() { Err(Problem::bad_field("message_id", "the nil UUID names no message")) } else { Ok(id) }
}

fn addressed(envelopes: Vec<EnvelopeBody>) -> Result<Vec<Addressed>, Problem> {
    let parse = |(index, body): (usize, EnvelopeBody)| {
        let at = |field: &str| format!("envelopes[{index}].{field}");
        let device = match (&body.device_id, body.device_number) {
            (Some(id), None) => {
                DeviceName::Id(DeviceId::parse(id).map_err(|why| Problem::bad_field(&at("device_id"), why))?)
            }
            (None, Some(number)) => DeviceName::Number(
                DeviceNumber::new(number).map_err(|why| Problem::bad_field(&at("device_number"), why))?,
            ),
            _ => {
                return Err(Problem::bad_field(
                    &at("device_id"),
                    "either device_id or device_number is needed",
                ));
            }
        };
        let registration_id = body.registration_id.map(RegistrationId::new).transpose();
        let registration_id =
            registration_id.map_err(|why| Problem::bad_field(&at("registration_id"), why))?;
        Ok(Addressed {
            device,
            registration_id,
            envelope: envelope(body.kind, body.ciphertext, body.ephemeral_key),
        })
    };
    envelopes.into_iter().enumerate().map(parse).collect()
}

fn envelope(kind: Option<EnvelopeType>, ciphertext: B64, ephemeral_key: Option<B64>) -> Envelope {
    Envelope {
        envelope_type: kind.unwrap_or(EnvelopeType::Opaque).into(),
        ciphertext: ciphertext.0,
        ephemeral_key: ephemeral_key.map(|key| key.0),
    }
}

/// What a sender learns.
#[derive(Debug, Serialize, ToSchema)]
pub struct SentAnswer {
    message_id: Id,
    /// Absent for `online_only`, like the sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_number: Option<i64>,
    timestamp: Time,
    #[schema(example = "Sent")]
    status: &'static str,
}

impl From<Sent> for SentAnswer {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Stored(receipt) | Sent::Repeated(receipt) => Self {
                message_id: Id(receipt.message_id.uuid()),
                conversation_id: Some(Id(receipt.conversation_id.uuid())),
                sequence_number: Some(receipt.sequence.0),
                timestamp: Time(receipt.accepted_at),
                status: "Sent",
            },
            Sent::Relayed(message_id, at) => Self {
                message_id: Id(message_id.uuid()),
                conversation_id: None,
                sequence_number: None,
                timestamp: Time(at),
                status: "Relayed",
            },
        }
    }
}
