//! The HTTP edge of groups: `/api/v1/groups`.

mod handshakes;
mod invites;
mod log;

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, dev::Payload, get, post, put, web};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    FoundingRequest, Groups, Made,
    answers::{GroupsAnswer, MembersAnswer, Success},
    body::{CreateBody, DescribeBody, RoleBody},
};
use crate::{
    auth::{Identity, secret_hash},
    domain::{Caller, GroupId, Membership},
    http::{Body, Problem, Query},
    wire::{GroupView, Id, MemberView, parse_uuid},
};

/// Who calls, where the path does not say: needed with `AUTH_MODE=open` only, else the caller's own.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Actor {
    user_id: Option<String>,
    device_id: Option<String>,
}

impl Actor {
    async fn caller(&self, identity: &Identity) -> Result<Caller, Problem> {
        identity.act_as(self.user_id.as_deref().unwrap_or("me"), self.device_id.as_deref()).await
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct GroupsQuery {
    /// `next_after` of the page before.
    after: Option<String>,
    /// 1–100, default 50.
    limit: Option<u32>,
    /// As everywhere: needed with `AUTH_MODE=open` only.
    user_id: Option<String>,
    device_id: Option<String>,
}

/// BLAKE3 of the join token in the header `X-Join-Token`, if one came.
struct JoinToken(Option<[u8; 32]>);

impl FromRequest for JoinToken {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let token = request.headers().get("x-join-token").and_then(|token| token.to_str().ok());
        ready(Ok(Self(token.map(secret_hash))))
    }
}

/// Makes a group: an MLS group with `group_info`, without a roster group.
#[utoipa::path(tag = "groups", request_body = CreateBody, params(("creator_id" = String, Path)), security(("bearer" = [])), responses(
    (status = 201, body = GroupView),
    (status = 200, body = GroupView, description = "the same request made it before"),
    (status = 409, description = "`group-exists`"),
    (status = 422, description = "`not-ciphertext`, `unknown-user`, `group-full`, `too-many-groups`, \
        `not-mls`, `bad-group-info`, `invalid-commit`, `proposal-not-allowed`, `welcome-mismatch`, `package-used`, `unknown-device`"),
    (status = 429, description = "`mailbox-full`"), (status = 503, description = "`overloaded`"),
))]
#[post("/create/{creator_id}")]
async fn create_group(
    identity: Identity,
    path: web::Path<String>,
    body: Body<CreateBody>,
    groups: web::Data<Groups>,
) -> Result<HttpResponse, Problem> {
    let caller = identity.act_as(&path, body.0.device_id.as_deref()).await?;
    let made = groups.create(&caller, FoundingRequest::try_from(body.0)?).await?;
    let (mut answer, group) = match made {
        Made::New(group) => (HttpResponse::Created(), group),
        Made::Before(group) => (HttpResponse::Ok(), group),
    };
    Ok(answer.json(view(group, &groups)))
}

/// The groups of the caller's user, by id.
#[utoipa::path(tag = "groups", params(GroupsQuery), security(("bearer" = [])),
    responses((status = 200, body = GroupsAnswer)))]
#[get("")]
async fn list_groups(
    identity: Identity,
    query: Query<GroupsQuery>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let GroupsQuery { after, limit, user_id, device_id } = query.0;
    let caller = Actor { user_id, device_id }.caller(&identity).await?;
    let limit = page_limit(limit)?;
    let after = after.as_deref().map(|after| id("after", after)).transpose()?;
    let page = groups.groups(&caller, after, limit).await?;
    let last = page.last().filter(|_| page.len() == limit as usize);
    let next_after = last.map(|last| Id(last.group.group_id.uuid()));
    let views: Vec<_> = page.into_iter().map(|group| view(group, &groups)).collect();
    Ok(web::Json(GroupsAnswer { count: views.len(), groups: views, next_after }))
}

/// A group of the caller's user.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), Actor), security(("bearer" = [])),
    responses((status = 200, body = GroupView), (status = 404)))]
#[get("/{group_id}")]
async fn get_group(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let group = groups.group(&caller, group_id(&path)?).await?;
    Ok(web::Json(view(group, &groups)))
}

/// Gives a group a new name, a new description, or both.
#[utoipa::path(tag = "groups", request_body = DescribeBody, params(("group_id" = String, Path), Actor), security(("bearer" = [])), responses(
    (status = 200, body = GroupView), (status = 403, description = "`not-allowed`: an admin does this"), (status = 404),
    (status = 413, description = "`too-large`"), (status = 422, description = "`not-ciphertext`")))]
#[put("/{group_id}")]
async fn describe_group(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    body: Body<DescribeBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let group = group_id(&path)?;
    body.0.check()?;
    groups.describe(&caller, group, body.0.name, body.0.description).await?;
    Ok(web::Json(view(groups.group(&caller, group).await?, &groups)))
}

/// Everybody in a group, the owner first, then by the moment of joining.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), Actor), security(("bearer" = [])),
    responses((status = 200, body = MembersAnswer), (status = 404)))]
#[get("/{group_id}/members")]
async fn list_members(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let members = groups.members(&caller, group_id(&path)?).await?;
    let members: Vec<_> = members.into_iter().map(MemberView::from).collect();
    Ok(web::Json(MembersAnswer { count: members.len(), members }))
}

/// Gives a member a role. Giving away the owner's makes the former owner an admin.
#[utoipa::path(tag = "groups", request_body = RoleBody, params(("group_id" = String, Path), ("user_id" = String, Path), Actor),
    security(("bearer" = [])), responses((status = 200, body = Success),
    (status = 403, description = "`not-allowed`: the owner does this"), (status = 404)))]
#[put("/{group_id}/roles/{user_id}")]
async fn give_role(
    identity: Identity,
    path: web::Path<(String, String)>,
    actor: Query<Actor>,
    body: Body<RoleBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let user = identity.user(&path.1)?;
    groups.give_role(&caller, group_id(&path.0)?, user, body.0.role.into()).await?;
    Ok(web::Json(Success { success: true }))
}

/// Adds these routes.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(
        utoipa_actix_web::scope::scope("/api/v1/groups")
            .service(create_group)
            .service(list_groups)
            .service(get_group)
            .service(describe_group)
            .service(list_members)
            .service(give_role)
            .configure(handshakes::routes)
            .configure(invites::routes)
            .configure(log::routes),
    );
}

fn view(membership: Membership, groups: &Groups) -> GroupView {
    let Membership { group, role, invited } = membership;
    GroupView::new(group, role, invited, groups.rules.max_members)
}

fn group_id(text: &str) -> Result<GroupId, Problem> {
    id("group_id", text)
}

fn id(field: &str, text: &str) -> Result<GroupId, Problem> {
    parse_uuid(text).map(GroupId::new).ok_or_else(|| Problem::bad_field(field, "not a UUID"))
}

fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(50);
    if (1..=100).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad_field("limit", "a number from 1 to 100 is expected"))
    }
}
