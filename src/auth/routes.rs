//! The HTTP edge of logins: `/api/v1/auth`.

use actix_web::{HttpResponse, Responder, get, post, web};

use super::{
    Claims, Identity, Logins,
    body::{
        AuditAnswer, AuditItem, AuditQuery, ChallengeAnswer, ChallengeBody, RefreshBody, SessionAnswer,
        SessionsAnswer, TicketAnswer, TokenAnswer, TokenBody,
    },
};
use crate::{
    domain::{DeviceId, UserId},
    http::{Body, Problem, Query},
    wire::Time,
};

/// Gives a challenge out, for a device that exists or not.
#[utoipa::path(tag = "auth", request_body = ChallengeBody, responses((status = 200, body = ChallengeAnswer),
    (status = 429, description = "`rate-limited`")))]
#[post("/challenge")]
async fn get_challenge(
    body: Body<ChallengeBody>,
    logins: web::Data<Logins>,
) -> Result<impl Responder, Problem> {
    let device = device_id(&body.0.device_id)?;
    let (challenge, expires_at) = logins.challenge(UserId::new(body.0.user_id.0), &device)?;
    Ok(web::Json(ChallengeAnswer { challenge, expires_at: Time(expires_at) }))
}

/// Opens a session for a device that answers its challenge.
#[utoipa::path(tag = "auth", request_body = TokenBody, responses((status = 200, body = TokenAnswer),
    (status = 401, description = "`bad-proof`"), (status = 429, description = "`rate-limited`")))]
#[post("/token")]
async fn get_token(body: Body<TokenBody>, logins: web::Data<Logins>) -> Result<impl Responder, Problem> {
    let TokenBody { user_id, device_id: device, challenge, signature } = body.0;
    let device = device_id(&device)?;
    Ok(web::Json(logins.log_in(UserId::new(user_id.0), &device, &challenge, &signature.0).await?))
}

/// Gives a new pair of tokens for a refresh token, which is then used.
#[utoipa::path(tag = "auth", request_body = RefreshBody, responses((status = 200, body = TokenAnswer),
    (status = 401, description = "`bad-token`, `token-reused`"), (status = 429, description = "`rate-limited`")))]
#[post("/refresh")]
async fn refresh_token(
    body: Body<RefreshBody>,
    logins: web::Data<Logins>,
) -> Result<impl Responder, Problem> {
    Ok(web::Json(logins.refresh(&body.0.refresh_token).await?))
}

/// Ends the calling session: its tokens and its socket.
#[utoipa::path(tag = "auth", security(("bearer" = [])), responses((status = 204, description = "ended")))]
#[post("/logout")]
async fn log_out(identity: Identity, logins: web::Data<Logins>) -> Result<HttpResponse, Problem> {
    logins.log_out(claims(&identity)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Gives a ticket out that opens one socket, for browsers, which cannot set headers.
#[utoipa::path(tag = "auth", security(("bearer" = [])), responses((status = 201, body = TicketAnswer)))]
#[post("/ticket")]
async fn get_ticket(identity: Identity, logins: web::Data<Logins>) -> Result<HttpResponse, Problem> {
    let ticket = logins.authority.ticket(claims(&identity)?)?;
    Ok(HttpResponse::Created().json(TicketAnswer { ticket }))
}

/// The caller's sessions, on all its devices.
#[utoipa::path(tag = "auth", security(("bearer" = [])), responses((status = 200, body = SessionsAnswer)))]
#[get("/sessions")]
async fn list_sessions(identity: Identity, logins: web::Data<Logins>) -> Result<impl Responder, Problem> {
    let claims = claims(&identity)?;
    let sessions = logins.sessions(claims.caller.user_id).await?;
    let sessions: Vec<_> = sessions
        .iter()
        .map(|session| SessionAnswer::of(session, session.session_id == claims.session))
        .collect();
    Ok(web::Json(SessionsAnswer { count: sessions.len(), sessions }))
}

/// The caller's security events, newest first.
#[utoipa::path(tag = "auth", params(AuditQuery), security(("bearer" = [])),
    responses((status = 200, body = AuditAnswer)))]
#[get("/audit")]
async fn read_audit(
    identity: Identity,
    query: Query<AuditQuery>,
    logins: web::Data<Logins>,
) -> Result<impl Responder, Problem> {
    let limit = query.0.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_field("limit", "a number from 1 to 100 is expected"));
    }
    let user = claims(&identity)?.caller.user_id;
    let entries = logins.audit(user, query.0.before, limit).await?;
    let next_before = entries.last().filter(|_| entries.len() == limit as usize).map(|entry| entry.entry);
    let events: Vec<_> = entries.iter().map(AuditItem::from).collect();
    Ok(web::Json(AuditAnswer { count: events.len(), events, next_before }))
}

/// Adds these routes.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(
        utoipa_actix_web::scope::scope("/api/v1/auth")
            .service(get_challenge)
            .service(get_token)
            .service(refresh_token)
            .service(log_out)
            .service(get_ticket)
            .service(list_sessions)
            .service(read_audit),
    );
}

/// What the caller's token says. In open mode nobody has a session.
fn claims(identity: &Identity) -> Result<&Claims, Problem> {
    identity.claims().ok_or_else(|| Problem::new(401, "no-token", "open mode knows no sessions"))
}

fn device_id(text: &str) -> Result<DeviceId, Problem> {
    DeviceId::parse(text).map_err(|error| Problem::bad_field("device_id", error))
}
