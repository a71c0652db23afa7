//! Join tokens.

use std::time::Duration;

use actix_web::{HttpResponse, Responder, delete, get, post, web};
use uuid::Uuid;

use super::{Actor, group_id};
use crate::{
    auth::{Identity, fresh_secret},
    domain::InviteId,
    groups::{
        Groups,
        answers::{InviteAnswer, InviteView, InvitesAnswer, Success},
        body::InviteBody,
    },
    http::{OptionalBody, Problem, Query},
    wire::{Id, Time, parse_uuid},
};

/// How long a join token may be asked to live, in seconds: a minute to 30 days.
const LIVES: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;

/// Makes a join token: whoever holds it may join by an external commit, until it ends.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), Actor), request_body = Option<InviteBody>,
    security(("bearer" = [])), responses((status = 201, body = InviteAnswer),
    (status = 403, description = "`not-allowed`: an admin does this, in groups that take join tokens"),
    (status = 404), (status = 429, description = "`too-many-invites`")))]
#[post("/{group_id}/invites")]
async fn make_invite(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    body: OptionalBody<InviteBody>,
    groups: web::Data<Groups>,
) -> Result<HttpResponse, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let life = body.0.unwrap_or_default().expires_in_seconds;
    if life.is_some_and(|life| !LIVES.contains(&life)) {
        return Err(Problem::bad_field("expires_in_seconds", "a number from 60 to 2592000 is expected"));
    }
    let (join_token, hash) = fresh_secret()
        .map_err(|_| Problem::new(500, "internal", "the operating system gives no randomness"))?;
    let (id, life) = (InviteId::new(Uuid::new_v4()), life.map(Duration::from_secs));
    let invite = groups.invite(&caller, group_id(&path)?, id, life, hash).await?;
    let invite_id = Id(invite.invite_id.uuid());
    Ok(HttpResponse::Created().json(InviteAnswer {
        invite_id,
        join_token,
        expires_at: Time(invite.expires_at),
    }))
}

/// The join tokens that have not ended, oldest first; without the tokens, which the relay does not keep.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), Actor), security(("bearer" = [])),
    responses((status = 200, body = InvitesAnswer), (status = 403, description = "`not-allowed`"), (status = 404)))]
#[get("/{group_id}/invites")]
async fn list_invites(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let invites = groups.invites(&caller, group_id(&path)?).await?;
    let invites: Vec<_> = invites.into_iter().map(InviteView::from).collect();
    Ok(web::Json(InvitesAnswer { count: invites.len(), invites }))
}

/// Ends a join token.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("invite_id" = String, Path), Actor),
    security(("bearer" = [])), responses((status = 200, body = Success),
    (status = 403, description = "`not-allowed`"), (status = 404)))]
#[delete("/{group_id}/invites/{invite_id}")]
async fn revoke_invite(
    identity: Identity,
    path: web::Path<(String, String)>,
    actor: Query<Actor>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let group = group_id(&path.0)?;
    let invite = parse_uuid(&path.1).ok_or_else(|| Problem::bad_field("invite_id", "not a UUID"))?;
    groups.revoke_invite(&caller, group, InviteId::new(invite)).await?;
    Ok(web::Json(Success { success: true }))
}

/// Adds these routes to the scope of groups.
pub(super) fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(make_invite).service(list_invites).service(revoke_invite);
}
