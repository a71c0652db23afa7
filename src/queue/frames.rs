//! The socket's frames, in JSON and in MessagePack. proto-docs/websocket.md describes every one.

use std::{collections::HashMap, io::Cursor};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    domain::{GroupId, Item, LogEntry, MessageId, Position},
    groups::{GroupSendFrame, GroupSentAnswer},
    hot::{Form, KeysLow, ReceiptEvent},
    http::{Problem, read_json},
    messages::{SendFrame, SentAnswer},
    wire::{Id, ListedDeviceView, LogEntryView, MessageStatus, MessageView, Time, WelcomeView},
};

/// How frames are written on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `restante.v1`
    Json,
    /// `restante.v1.msgpack`
    MessagePack,
}

impl Format {
    /// The subprotocol that asks for this format.
    pub(super) const fn protocol(self) -> &'static str {
        match self {
            Self::Json => "restante.v1",
            Self::MessagePack => "restante.v1.msgpack",
        }
    }

    /// The form of its frames.
    pub(super) const fn form(self) -> Form {
        match self {
            Self::Json => Form::Text,
            Self::MessagePack => Form::Binary,
        }
    }

    /// Writes a frame.
    pub(super) fn encode(self, frame: &ServerFrame) -> Option<Vec<u8>> {
        match self {
            Self::Json => serde_json::to_vec(frame).ok(),
            Self::MessagePack => rmp_serde::to_vec_named(frame).ok(),
        }
    }

    fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Problem> {
        match self {
            Self::Json => read_json(bytes),
            Self::MessagePack => {
                let mut reader = rmp_serde::Deserializer::new(Cursor::new(bytes));
                let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
                    let field = error.path().to_string();
                    let told: String = error.inner().to_string().chars().take(200).collect();
                    Problem::bad_field(&field, told)
                })?;
                let read = usize::try_from(reader.position()).unwrap_or(usize::MAX);
                if read == bytes.len() {
                    return Ok(value);
                }
                Err(Problem::new(400, "bad-frame", "something follows the MessagePack value"))
            }
        }
    }
}

/// A frame to the client.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ServerFrame {
    Hello {
        session_id: Id,
        heartbeat_seconds: u64,
        server_time: Time,
        /// Items that wait, counted up to 1000.
        pending: u32,
    },
    Message(MessageView),
    Deleted {
        message_id: Id,
        deletes: Id,
    },
    DevicesChanged {
        message_id: Id,
        /// The active devices after the change, oldest first.
        devices: Vec<ListedDeviceView>,
    },
    Welcome(WelcomeView),
    Joined {
        group_id: Id,
        message_id: Id,
    },
    GroupEntry(LogEntryView),
    GroupGap {
        group_id: Id,
        /// The first position that is gone.
        from: i64,
        /// The last one.
        to: i64,
    },
    QueueDrained,
    Receipt {
        message_id: Id,
        conversation_id: Id,
        by: Id,
        status: MessageStatus,
        at: Time,
    },
    KeysLow {
        onetime_prekeys: u32,
        kem_prekeys: u32,
        key_packages: u32,
        last_resort_used: bool,
        limit_tripped: bool,
    },
    Sent {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        #[serde(flatten)]
        answer: Sent,
    },
    Acked {
        #[serde(rename = "ref")]
        reference: String,
    },
    Error {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        code: &'static str,
        detail: String,
        /// When the same request may be sent again, in seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        #[serde(flatten)]
        members: Map<String, Value>,
    },
    Pong {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
}

/// What became of a send, as over REST.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Sent {
    Message(SentAnswer),
    Group(GroupSentAnswer),
}

impl ServerFrame {
    /// A mailbox item.
    pub(super) fn item(item: &Item) -> Self {
        match item {
            Item::Message(message) => Self::Message(MessageView::from(message)),
            Item::Deleted { message_id, deletes, .. } => {
                Self::Deleted { message_id: Id(message_id.uuid()), deletes: Id(deletes.uuid()) }
            }
            Item::DevicesChanged { message_id, devices, .. } => Self::DevicesChanged {
                message_id: Id(message_id.uuid()),
                devices: devices.iter().map(ListedDeviceView::from).collect(),
            },
            Item::Welcome { message_id, group_id, epoch, welcome, .. } => {
                Self::Welcome(WelcomeView::new(*message_id, *group_id, *epoch, welcome))
            }
            Item::Joined { message_id, group_id, .. } => {
                Self::Joined { group_id: Id(group_id.uuid()), message_id: Id(message_id.uuid()) }
            }
        }
    }

    /// An entry of a group's log.
    pub(super) fn entry(entry: &LogEntry) -> Self {
        Self::GroupEntry(LogEntryView::from(entry))
    }

    /// That positions of a group's log are gone for good.
    pub(super) fn gap(group: GroupId, from: Position, to: Position) -> Self {
        Self::GroupGap { group_id: Id(group.uuid()), from: from.0, to: to.0 }
    }

    /// A receipt.
    pub(super) fn receipt(receipt: ReceiptEvent) -> Self {
        Self::Receipt {
            message_id: Id(receipt.message_id.uuid()),
            conversation_id: Id(receipt.conversation_id.uuid()),
            by: Id(receipt.by.uuid()),
            status: receipt.status.into(),
            at: Time(receipt.at),
        }
    }

    /// That keys run low.
    pub(super) const fn keys_low(low: KeysLow) -> Self {
        Self::KeysLow {
            onetime_prekeys: low.onetime_prekeys,
            kem_prekeys: low.kem_prekeys,
            key_packages: low.key_packages,
            last_resort_used: low.last_resort_used,
            limit_tripped: low.limit_tripped,
        }
    }

    /// A refusal, of the request with this `ref` if it is known.
    pub(super) fn error(reference: Option<String>, problem: &Problem) -> Self {
        Self::Error {
            reference,
            code: problem.code(),
            detail: problem.detail().to_owned(),
            members: problem.members().clone(),
            retry_after: problem.retry_after(),
        }
    }
}

/// A frame from the client.
pub(super) enum ClientFrame {
    Send(Box<SendFrame>),
    GroupSend(Box<GroupSendFrame>),
    Ack(Vec<MessageId>, Vec<(GroupId, Position)>),
    Read(MessageId),
    Auth(String),
    Ping,
}

#[derive(Debug, Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AckFrame {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref")]
    _reference: Option<String>,
    #[serde(default)]
    message_ids: Vec<Id>,
    /// Of each group the last position that is acked, with all before it.
    #[serde(default)]
    groups: HashMap<Id, i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadFrame {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref")]
    _reference: Option<String>,
    message_id: Id,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthFrame {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref")]
    _reference: Option<String>,
    token: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PingFrame {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref")]
    _reference: Option<String>,
}

/// The longest `ref`, in bytes.
const LONGEST_REF: usize = 64;

/// Message ids in one ack, and groups.
const MOST_IDS: usize = 1000;

/// The message ids of an ack.
pub(super) fn acked_ids(ids: Vec<Id>) -> Result<Vec<MessageId>, Problem> {
    if ids.len() > MOST_IDS {
        return Err(Problem::bad_field("message_ids", "at most 1000 ids are taken"));
    }
    Ok(ids.into_iter().map(|id| MessageId::new(id.0)).collect())
}

/// The acks of group entries of an ack.
pub(super) fn acked_entries(groups: HashMap<Id, i64>) -> Result<Vec<(GroupId, Position)>, Problem> {
    if groups.len() > MOST_IDS {
        return Err(Problem::bad_field("groups", "at most 1000 groups are taken"));
    }
    if groups.values().any(|position| *position < 0) {
        return Err(Problem::bad_field("groups", "a position is not negative"));
    }
    Ok(groups.into_iter().map(|(group, position)| (GroupId::new(group.0), Position(position))).collect())
}

/// Reads a frame. The `ref` comes back whenever it could be read, so that a refusal finds its request.
pub(super) fn read(format: Format, bytes: &Bytes) -> (Option<String>, Result<ClientFrame, Problem>) {
    let head = match format.decode::<Head>(bytes) {
        Ok(head) => head,
        Err(problem) => return (None, Err(problem)),
    };
    if head.reference.as_ref().is_some_and(|reference| reference.len() > LONGEST_REF) {
        return (None, Err(Problem::bad_field("ref", "at most 64 bytes are taken")));
    }
    (head.reference, frame(format, &head.kind, bytes))
}

fn frame(format: Format, kind: &str, bytes: &Bytes) -> Result<ClientFrame, Problem> {
    match kind {
        "send" => format.decode::<SendFrame>(bytes).map(|frame| ClientFrame::Send(Box::new(frame))),
        "group_send" => {
            format.decode::<GroupSendFrame>(bytes).map(|frame| ClientFrame::GroupSend(Box::new(frame)))
        }
        "ack" => {
            let AckFrame { message_ids, groups, .. } = format.decode(bytes)?;
            Ok(ClientFrame::Ack(acked_ids(message_ids)?, acked_entries(groups)?))
        }
        "read" => Ok(ClientFrame::Read(MessageId::new(format.decode::<ReadFrame>(bytes)?.message_id.0))),
        "auth" => Ok(ClientFrame::Auth(format.decode::<AuthFrame>(bytes)?.token)),
        "ping" => format.decode::<PingFrame>(bytes).map(|_| ClientFrame::Ping),
        _ => Err(Problem::bad_field("type", "no frame of this type is known")),
    }
}
