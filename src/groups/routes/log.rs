//! What is written to groups and read of them.

use actix_web::{HttpResponse, Responder, get, http::StatusCode, post, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Actor, JoinToken, group_id, page_limit};
use crate::{
    auth::Identity,
    domain::{Epoch, Position},
    groups::{
        GroupSendBody, GroupSent, GroupSentAnswer, Groups, PAGE_BYTES,
        answers::{InfoAnswer, LogAnswer, TreeAnswer},
    },
    http::{Allowance, Body, Problem, Query},
};

/// Bytes of a `GroupInfo` with its tree, about, as a large group has them.
const STATE_BYTES: usize = 4 << 20;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    /// Only entries after this position.
    after: Option<i64>,
    /// 1–100, default 50.
    limit: Option<u32>,
    /// As everywhere: needed with `AUTH_MODE=open` only.
    user_id: Option<String>,
    device_id: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct TreeQuery {
    /// The epoch that the device joined at; the current one where nothing is said.
    epoch: Option<u64>,
    /// As everywhere: needed with `AUTH_MODE=open` only.
    user_id: Option<String>,
    device_id: Option<String>,
}

/// Sends a sealed message to a group. 201 means that it is committed.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("sender_id" = String, Path)),
    request_body = GroupSendBody, security(("bearer" = [])), responses(
    (status = 201, body = GroupSentAnswer),
    (status = 200, body = GroupSentAnswer, description = "the same send was accepted before"),
    (status = 404),
    (status = 409, description = "`stale-epoch`, `message-id-reused`, `group-rolled-back`"),
    (status = 413, description = "`too-large`"),
    (status = 422, description = "`not-ciphertext`, `bad-envelope`, `bad-expiry`, `not-mls`"),
))]
#[post("/{group_id}/send/{sender_id}")]
async fn send_group_message(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<GroupSendBody>,
    groups: web::Data<Groups>,
) -> Result<HttpResponse, Problem> {
    let caller = identity.act_as(&path.1, body.0.device_id.as_deref()).await?;
    let sent = groups.send(caller, body.0.request(group_id(&path.0)?)?).await?;
    let status = match sent {
        GroupSent::Stored(_) => StatusCode::CREATED,
        GroupSent::Repeated(_) => StatusCode::OK,
    };
    Ok(HttpResponse::build(status).json(GroupSentAnswer::from(sent)))
}

/// A page of the group's log, within the device's windows.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), LogQuery), security(("bearer" = [])),
    responses((status = 200, body = LogAnswer), (status = 404)))]
#[get("/{group_id}/messages")]
async fn read_log(
    identity: Identity,
    path: web::Path<String>,
    query: Query<LogQuery>,
    allowance: Allowance,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let LogQuery { after, limit, user_id, device_id } = query.0;
    let caller = Actor { user_id, device_id }.caller(&identity).await?;
    let after = Position(after.unwrap_or(0).max(0));
    let (group, limit) = (group_id(&path)?, page_limit(limit)?);
    allowance.reserve(PAGE_BYTES).await?;
    let page = groups.read_log(&caller, group, after, limit).await?;
    Ok(web::Json(LogAnswer::from(page)))
}

/// The ratchet tree (RFC 9420 §12.4.3.3): the current one, or the one of the epoch that the device joined at.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("x-join-token" = Option<String>, Header), TreeQuery),
    security(("bearer" = [])), responses((status = 200, body = TreeAnswer), (status = 404),
    (status = 422, description = "`not-mls`")))]
#[get("/{group_id}/tree")]
async fn get_tree(
    identity: Identity,
    path: web::Path<String>,
    query: Query<TreeQuery>,
    token: JoinToken,
    allowance: Allowance,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let TreeQuery { epoch, user_id, device_id } = query.0;
    let caller = Actor { user_id, device_id }.caller(&identity).await?;
    let out_of_range = || Problem::bad_field("epoch", "an epoch below 2^53 is expected");
    let epoch = epoch.map(|epoch| Epoch::from_wire(epoch).ok_or_else(out_of_range)).transpose()?;
    let group = group_id(&path)?;
    allowance.reserve(STATE_BYTES).await?;
    let (epoch, tree) = groups.tree(&caller, group, epoch, token.0).await?;
    Ok(web::Json(TreeAnswer::new(group, epoch, tree)))
}

/// What an external joiner needs, and a member that lost its state: the current `GroupInfo`, the tree, the pending
/// proposals.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("x-join-token" = Option<String>, Header), Actor),
    security(("bearer" = [])), responses((status = 200, body = InfoAnswer), (status = 404),
    (status = 422, description = "`not-mls`")))]
#[get("/{group_id}/info")]
async fn get_info(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    token: JoinToken,
    allowance: Allowance,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let group = group_id(&path)?;
    allowance.reserve(STATE_BYTES).await?;
    let info = groups.info(&caller, group, token.0).await?;
    Ok(web::Json(InfoAnswer::new(group, info)))
}

/// Adds these routes to the scope of groups.
pub(super) fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(send_group_message).service(read_log).service(get_tree).service(get_info);
}
