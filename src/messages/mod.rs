//! Pairwise messages: send, history, delivered, read, delete.

mod body;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
pub mod routes;
mod send;
pub mod structure;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub use body::{SendBody, SendFrame, SentAnswer};
pub use send::SendRequest;

use crate::{
    domain::{
        Caller, Clock, Conversation, ConversationId, ConversationKey, DeviceNo, Item, Message, MessageId,
        Mismatch, Position, Receipt, Sequence, Status, Timestamp, UserId, address,
    },
    hot::{Event, ReceiptEvent, Switchboard},
    store::{Accepted, Deleted, HistoryQuery, Mark, Marked, Store, StoreError},
};

/// Why an act on messages was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The body of an envelope is not what its type says: the field and why.
    #[error("bad envelope")]
    BadEnvelope(String, String),
    /// The body is readable text: the field.
    #[error("not ciphertext")]
    NotCiphertext(String),
    /// One body, or all of them together, are larger than allowed: the field and the limit in bytes.
    #[error("too large")]
    TooLarge(String, usize),
    /// Expiry is asked for in a way that cannot be.
    #[error("bad expiry")]
    BadExpiry(&'static str),
    /// The recipient has no active device.
    #[error("no devices")]
    NoDevices,
    /// The conversation is not this pair's.
    #[error("unknown conversation")]
    UnknownConversation,
    /// The named devices are not the recipient's.
    #[error("device list mismatch")]
    DeviceListMismatch(Mismatch),
    /// The id belongs to another send.
    #[error("message id reused")]
    MessageIdReused,
    /// A mailbox of the recipient is full.
    #[error("mailbox full")]
    MailboxFull,
    /// There is no such message for this caller.
    #[error("unknown message")]
    UnknownMessage,
    /// Only the sender deletes for everyone.
    #[error("not the sender")]
    NotSender,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a sender learns.
#[derive(Debug, Clone, Copy)]
pub enum Sent {
    /// Committed by this send.
    Stored(Receipt),
    /// Committed by an earlier, equal send.
    Repeated(Receipt),
    /// Handed to whichever devices are connected; promised to none.
    Relayed(MessageId, Timestamp),
}

/// The rules that sends are held against.
#[derive(Debug, Clone, Copy)]
pub struct SendRules {
    /// Bytes of one body.
    pub envelope: usize,
    /// Bytes of all bodies of a send.
    pub send: usize,
    /// Whether readable text is refused.
    pub plaintext_guard: bool,
    /// How long a body waits when the sender does not say.
    pub queue_life: Duration,
}

/// The acts on messages.
pub struct Messages {
    /// The store.
    pub store: Arc<dyn Store>,
    /// To push what is live only.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What sends are held against.
    pub rules: SendRules,
    /// Derives the conversation of a pair.
    pub conversations: ConversationKey,
}

impl Messages {
    /// Sends a message. It takes its place in the order of this node when this is called; dropping the future does not
    /// take it back.
    pub fn send(
        self: &Arc<Self>,
        caller: Caller,
        request: SendRequest,
    ) -> BoxFuture<'static, Result<Sent, Refusal>> {
        let online_only = request.online_only;
        let prepared = send::prepare(caller, request, &self.rules, &self.conversations, self.clock.now());
        let send = match prepared {
            Ok(send) => send,
            Err(refusal) => return Box::pin(async { Err(refusal) }),
        };
        if online_only {
            let messages = Arc::clone(self);
            return Box::pin(async move { messages.relay(send).await });
        }
        let accepted = self.store.accept_envelopes(send);
        Box::pin(async move {
            match accepted.await? {
                Accepted::Stored(receipt) => Ok(Sent::Stored(receipt)),
                Accepted::Repeated(receipt) => Ok(Sent::Repeated(receipt)),
                Accepted::MessageIdReused => Err(Refusal::MessageIdReused),
                Accepted::NoDevices => Err(Refusal::NoDevices),
                Accepted::ConversationUnknown => Err(Refusal::UnknownConversation),
                Accepted::DeviceListMismatch(mismatch) => Err(Refusal::DeviceListMismatch(mismatch)),
                Accepted::MailboxFull => Err(Refusal::MailboxFull),
            }
        })
    }

    /// Hands a message to the recipient's connected devices, and forgets it.
    async fn relay(&self, send: crate::domain::Send) -> Result<Sent, Refusal> {
        let devices = self.store.devices(send.recipient_id).await?;
        if devices.is_empty() {
            return Err(Refusal::NoDevices);
        }
        self.check_conversation(&send).await?;
        let addressees: Vec<_> =
            devices.iter().filter(|device| device.device_no != send.sender.device_no).collect();
        let addressed = address(&send.bodies, &addressees).map_err(Refusal::DeviceListMismatch)?;
        let now = self.clock.now();
        for (index, envelope) in addressed {
            let message = Message {
                message_id: send.message_id,
                conversation_id: send.conversation.id(),
                sender_id: send.sender.user_id,
                sender_device_id: send.sender.device_id.clone(),
                sender_device_number: send.sender.device_number,
                recipient_id: send.recipient_id,
                message_type: send.message_type,
                envelope: Some(envelope.clone()),
                sequence: None,
                accepted_at: now,
                status: Status::Sent,
                delivered_at: None,
                read_at: None,
                self_destructing: send.self_destructing,
                expires_at: send.expires_at,
            };
            let event = Event::Fleeting(Arc::new(Item::Message(message)));
            self.switchboard.notify(addressees[index].device_no, event).await;
        }
        Ok(Sent::Relayed(send.message_id, now))
    }

    /// A message that is never stored cannot make a conversation, only belong to one of the pair's.
    async fn check_conversation(&self, send: &crate::domain::Send) -> Result<(), Refusal> {
        let Conversation::Named(conversation_id) = send.conversation else { return Ok(()) };
        let latest = self.history(&send.sender, conversation_id, None, 1).await?;
        let is_theirs = |message: &Message| {
            [message.sender_id, message.recipient_id].contains(&send.recipient_id)
                && (send.recipient_id != send.sender.user_id || message.sender_id == message.recipient_id)
        };
        if latest.iter().all(is_theirs) { Ok(()) } else { Err(Refusal::UnknownConversation) }
    }

    /// A page of a conversation, newest first, as the calling device sees it.
    ///
    /// # Errors
    /// `UnknownConversation` when the caller has no part in it.
    pub async fn history(
        &self,
        caller: &Caller,
        conversation_id: ConversationId,
        before: Option<Sequence>,
        limit: u32,
    ) -> Result<Vec<Message>, Refusal> {
        let query = HistoryQuery {
            user_id: caller.user_id,
            device_no: caller.device_no,
            conversation_id,
            before,
            limit,
        };
        self.store.history(query, self.clock.now()).await?.ok_or(Refusal::UnknownConversation)
    }

    /// Notes that the caller got or read a message, and tells the sender's connected devices the first time.
    ///
    /// # Errors
    /// `UnknownMessage` when it is not a message to the caller.
    pub async fn mark(
        &self,
        caller: &Caller,
        message_id: MessageId,
        mark: Mark,
    ) -> Result<Timestamp, Refusal> {
        let marked = self.store.mark(caller.user_id, message_id, mark, self.clock.now()).await?;
        let marked = marked.ok_or(Refusal::UnknownMessage)?;
        if marked.newly {
            self.tell_sender(caller.user_id, message_id, mark, &marked).await;
        }
        Ok(marked.at)
    }

    async fn tell_sender(&self, by: UserId, message_id: MessageId, mark: Mark, marked: &Marked) {
        let status = match mark {
            Mark::Delivered => Status::Delivered,
            Mark::Read => Status::Read,
        };
        let receipt =
            ReceiptEvent { message_id, conversation_id: marked.conversation_id, by, status, at: marked.at };
        for device in &marked.sender_devices {
            self.switchboard.notify(*device, Event::Receipt(receipt)).await;
        }
    }

    /// Hides a message from the caller's history and erases what waits of it for the caller.
    ///
    /// # Errors
    /// `UnknownMessage` when the caller has no part in it.
    pub async fn delete_for_me(&self, caller: &Caller, message_id: MessageId) -> Result<(), Refusal> {
        let places = self.store.delete_for_me(caller.user_id, message_id).await?;
        self.forget(&places.ok_or(Refusal::UnknownMessage)?).await;
        Ok(())
    }

    /// Erases a message the caller sent, and tells every device it was addressed to.
    ///
    /// # Errors
    /// `UnknownMessage` when the caller has no part in it, `NotSender` when it was sent to the caller.
    pub async fn delete_for_everyone(&self, caller: &Caller, message_id: MessageId) -> Result<(), Refusal> {
        match self.store.delete_for_everyone(caller.user_id, message_id, self.clock.now()).await? {
            Deleted::Deleted(places) => {
                self.forget(&places).await;
                Ok(())
            }
            Deleted::NotSender => Err(Refusal::NotSender),
            Deleted::Unknown => Err(Refusal::UnknownMessage),
        }
    }

    async fn forget(&self, places: &[(DeviceNo, Position)]) {
        for (device, position) in places {
            self.switchboard.forget(*device, &[*position]).await;
        }
    }
}
