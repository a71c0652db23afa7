//! The HTTP edge of messages: `/api/v1/messages`.

use actix_web::{HttpResponse, Responder, delete, get, http::StatusCode, post, put, web};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{Messages, Refusal, SendBody, SendRequest, Sent, SentAnswer};
use crate::{
    auth::Identity,
    domain::{ConversationId, DeviceId, DeviceName, DeviceNumber, MessageId, Mismatch, Sequence},
    http::{Allowance, Body, Problem, Query},
    store::Mark,
    wire::{MessageView, Time, parse_uuid},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    /// The conversation.
    conversation_id: String,
    /// Only messages with a smaller sequence number.
    before_sequence: Option<i64>,
    /// 1–100, default 50.
    limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct HistoryAnswer {
    messages: Vec<MessageView>,
    count: usize,
    /// For the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_before_sequence: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeliveredAnswer {
    success: bool,
    delivered_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
struct ReadAnswer {
    success: bool,
    read_at: Time,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeleteAnswer {
    success: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct DeleteQuery {
    /// `me` (default) or `everyone`.
    #[serde(rename = "for")]
    #[param(inline)]
    whom: Option<Whom>,
}

/// For whom a message is deleted.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Whom {
    Me,
    Everyone,
}

/// Sends a sealed message. 201 means that it is committed.
#[utoipa::path(tag = "messages", params(("sender_id" = String, Path)), request_body = SendBody,
    security(("bearer" = [])), responses(
    (status = 201, body = SentAnswer),
    (status = 200, body = SentAnswer, description = "the same send was accepted before"),
    (status = 202, body = SentAnswer, description = "`online_only`"),
    (status = 404, description = "the conversation is not this pair's"),
    (status = 409, description = "`device-list-mismatch`, `message-id-reused`"),
    (status = 413, description = "`too-large`"),
    (status = 422, description = "`no-devices`, `not-ciphertext`, `bad-envelope`, `bad-expiry`"),
    (status = 429, description = "`mailbox-full`"),
))]
#[post("/send/{sender_id}")]
async fn send_message(
    identity: Identity,
    path: web::Path<String>,
    body: Body<SendBody>,
    messages: web::Data<Messages>,
) -> Result<HttpResponse, Problem> {
    let caller = identity.act_as(&path, body.0.device_id.as_deref()).await?;
    let request = SendRequest::try_from(body.0)?;
    let sent = messages.into_inner().send(caller, request).await?;
    let status = match sent {
        Sent::Stored(_) => StatusCode::CREATED,
        Sent::Repeated(_) => StatusCode::OK,
        Sent::Relayed(..) => StatusCode::ACCEPTED,
    };
    Ok(HttpResponse::build(status).json(SentAnswer::from(sent)))
}

/// A page of a conversation, newest first, as the calling device sees it.
#[utoipa::path(tag = "messages", params(("user_id" = String, Path), HistoryQuery), security(("bearer" = [])),
    responses((status = 200, body = HistoryAnswer), (status = 404, description = "no such conversation")))]
#[get("/conversation/{user_id}")]
async fn read_conversation(
    identity: Identity,
    path: web::Path<String>,
    query: Query<HistoryQuery>,
    allowance: Allowance,
    messages: web::Data<Messages>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path, None).await?;
    let limit = query.0.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_field("limit", "a number from 1 to 100 is expected"));
    }
    let conversation = parse_uuid(&query.0.conversation_id);
    let conversation = conversation.ok_or_else(|| Problem::bad_field("conversation_id", "not a UUID"))?;
    let before = query.0.before_sequence.map(Sequence);
    allowance.reserve(limit as usize * messages.rules.envelope).await?;
    let page = messages.history(&caller, ConversationId::new(conversation), before, limit).await?;
    let full = page.len() == limit as usize;
    let last = page.last().and_then(|message| message.sequence).map(|sequence| sequence.0);
    Ok(web::Json(HistoryAnswer {
        count: page.len(),
        next_before_sequence: last.filter(|_| full),
        messages: page.iter().map(MessageView::from).collect(),
    }))
}

/// The recipient got the message.
#[utoipa::path(tag = "messages", params(("user_id" = String, Path), ("message_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = DeliveredAnswer), (status = 404)))]
#[put("/delivered/{user_id}/{message_id}")]
async fn mark_delivered(
    identity: Identity,
    path: web::Path<(String, String)>,
    messages: web::Data<Messages>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, None).await?;
    let at = messages.mark(&caller, message_id(&path.1)?, Mark::Delivered).await?;
    Ok(web::Json(DeliveredAnswer { success: true, delivered_at: Time(at) }))
}

/// The recipient read the message.
#[utoipa::path(tag = "messages", params(("user_id" = String, Path), ("message_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = ReadAnswer), (status = 404)))]
#[put("/read/{user_id}/{message_id}")]
async fn mark_read(
    identity: Identity,
    path: web::Path<(String, String)>,
    messages: web::Data<Messages>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, None).await?;
    let at = messages.mark(&caller, message_id(&path.1)?, Mark::Read).await?;
    Ok(web::Json(ReadAnswer { success: true, read_at: Time(at) }))
}

/// Deletes a message for the caller, or by its sender for everyone.
#[utoipa::path(tag = "messages", params(("user_id" = String, Path), ("message_id" = String, Path), DeleteQuery),
    security(("bearer" = [])), responses((status = 200, body = DeleteAnswer),
    (status = 403, description = "`not-allowed`: only the sender deletes for everyone"), (status = 404)))]
#[delete("/delete/{user_id}/{message_id}")]
async fn delete_message(
    identity: Identity,
    path: web::Path<(String, String)>,
    query: Query<DeleteQuery>,
    messages: web::Data<Messages>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, None).await?;
    let message = message_id(&path.1)?;
    match query.0.whom.unwrap_or(Whom::Me) {
        Whom::Me => messages.delete_for_me(&caller, message).await?,
        Whom::Everyone => messages.delete_for_everyone(&caller, message).await?,
    }
    Ok(web::Json(DeleteAnswer { success: true }))
}

/// Adds these routes.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(
        utoipa_actix_web::scope::scope("/api/v1/messages")
            .service(send_message)
            .service(read_conversation)
            .service(mark_delivered)
            .service(mark_read)
            .service(delete_message)
            .configure(crate::queue::routes::queue_routes),
    );
}

fn message_id(text: &str) -> Result<MessageId, Problem> {
    parse_uuid(text).map(MessageId::new).ok_or_else(|| Problem::bad_field("message_id", "not a UUID"))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadEnvelope(field, why) => {
                Self::new(422, "bad-envelope", format!("{field}: {why}")).with("field", field)
            }
            Refusal::NotCiphertext(field) => Self::new(
                422,
                "not-ciphertext",
                format!(
                    "{field}: this is readable text; the relay takes sealed bodies only (decode text-armoured ciphertext \
                     before sending it), though it cannot prove that a body is encrypted"
                ),
            )
            .with("field", field),
            Refusal::TooLarge(field, limit) => {
                Self::new(413, "too-large", format!("{field}: at most {limit} bytes are taken"))
                    .with("field", field)
                    .with("limit", limit)
            }
            Refusal::BadExpiry(why) => Self::new(422, "bad-expiry", why).with("field", "expires_in_seconds"),
            Refusal::NoDevices => Self::new(422, "no-devices", "the recipient has no active device"),
            Refusal::UnknownConversation => Self::not_found("conversation"),
            Refusal::DeviceListMismatch(mismatch) => mismatch.into(),
            Refusal::MessageIdReused => {
                Self::new(409, "message-id-reused", "this message id belongs to another send").with("field", "message_id")
            }
            Refusal::MailboxFull => Self::too_many("mailbox-full", "a mailbox of the recipient is full", 60),
            Refusal::UnknownMessage => Self::not_found("message"),
            Refusal::NotSender => Self::new(403, "not-allowed", "only its sender deletes a message for everyone"),
            Refusal::Store(error) => error.into(),
        }
    }
}

impl From<Mismatch> for Problem {
    fn from(mismatch: Mismatch) -> Self {
        let known = |devices: std::collections::BTreeSet<(DeviceId, DeviceNumber)>| {
            let entry = |(id, number): (DeviceId, DeviceNumber)| json!({ "device_id": id.as_str(), "device_number": number.get() });
            devices.into_iter().map(entry).collect::<Vec<_>>()
        };
        let named = |name: DeviceName| match name {
            DeviceName::Id(id) => json!({ "device_id": id.as_str() }),
            DeviceName::Number(number) => json!({ "device_number": number.get() }),
        };
        Self::new(
            409,
            "device-list-mismatch",
            "the envelopes do not name exactly the recipient's active devices",
        )
        .with("missing", known(mismatch.missing))
        .with("extra", mismatch.extra.into_iter().map(named).collect::<Vec<_>>())
        .with("stale", known(mismatch.stale))
    }
}
