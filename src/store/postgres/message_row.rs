//! A message's metadata, as columns and as the domain has it.

use sqlx::{Error, FromRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::{device_id, device_number, message_type, missing, moment};
use crate::domain::{ConversationId, Message, MessageId, Sequence, Status, Timestamp, UserId};

/// The columns of a message and of its sender's device; those that a notice lacks may be null.
#[derive(FromRow)]
pub(super) struct MessageRow {
    pub(super) message_id: Uuid,
    conversation_id: Option<Uuid>,
    sender_id: Uuid,
    recipient_id: Uuid,
    message_type: Option<i16>,
    sequence: Option<i64>,
    accepted_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
    pub(super) delivered_at: Option<OffsetDateTime>,
    pub(super) read_at: Option<OffsetDateTime>,
    self_destructing: bool,
    device_id: Option<String>,
    device_number: Option<i16>,
}

impl MessageRow {
    /// The message without its body. Its status is what its marks say, `Sent` without any.
    pub(super) fn message(self, now: Timestamp) -> Result<Message, Error> {
        let expires_at = moment(self.expires_at);
        let status = match (self.read_at, self.delivered_at) {
            (Some(_), _) => Status::Read,
            (None, Some(_)) => Status::Delivered,
            (None, None) if expires_at <= now => Status::Expired,
            (None, None) => Status::Sent,
        };
        Ok(Message {
            message_id: MessageId::new(self.message_id),
            conversation_id: self.conversation_id.map(ConversationId::new).ok_or_else(missing)?,
            sender_id: UserId::new(self.sender_id),
            sender_device_id: device_id(&self.device_id.ok_or_else(missing)?)?,
            sender_device_number: device_number(self.device_number.ok_or_else(missing)?)?,
            recipient_id: UserId::new(self.recipient_id),
            message_type: message_type(self.message_type.ok_or_else(missing)?)?,
            envelope: None,
            sequence: self.sequence.map(Sequence),
            accepted_at: moment(self.accepted_at),
            status,
            delivered_at: self.delivered_at.map(moment),
            read_at: self.read_at.map(moment),
            self_destructing: self.self_destructing,
            expires_at,
        })
    }
}
