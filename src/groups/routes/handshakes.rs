//! What changes who is in a group, and in MLS groups its epoch.

use actix_web::{HttpResponse, Responder, delete, post, web};

use super::{Actor, JoinToken, group_id};
use crate::{
    auth::Identity,
    domain::Epoch,
    groups::{
        Changed, CommitRequest, FoundingRequest, Groups,
        answers::{ChangedAnswer, Success},
        body::{CommitBody, CreateBody, MembersBody, ProposalBody, RemovalBody, ReportBody},
        requests::{Adding, Removing},
    },
    http::{Body, OptionalBody, Problem, Query},
};

/// Adds members: to a roster group by their ids, to an MLS group by a commit with its Welcome.
#[utoipa::path(tag = "groups", request_body = MembersBody,
    params(("group_id" = String, Path), ("added_by" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = ChangedAnswer),
    (status = 403, description = "`not-you`, `not-allowed`"), (status = 404),
    (status = 409, description = "`stale-epoch`, `group-rolled-back`"),
    (status = 422, description = "`commit-required`, `not-mls`, `invalid-commit`, `proposal-not-allowed`, \
        `welcome-mismatch`, `bad-group-info`, `pending-leave`, `package-used`, `unknown-device`, `unknown-user`, \
        `group-full`, `too-many-groups`"),
    (status = 429, description = "`mailbox-full`"), (status = 503, description = "`overloaded`")))]
#[post("/{group_id}/members/{added_by}")]
async fn add_members(
    identity: Identity,
    path: web::Path<(String, String)>,
    token: JoinToken,
    body: Body<MembersBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.1, body.0.device_id.as_deref()).await?;
    let group = group_id(&path.0)?;
    let changed = match Adding::try_from(body.0)? {
        Adding::Roster(users) => groups.add_users(&caller, group, users).await?,
        Adding::Commit(request) => groups.commit(&caller, group, request, token.0).await?,
    };
    Ok(web::Json(ChangedAnswer::from(changed)))
}

/// Removes a member, or leaves.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("user_id" = String, Path),
    ("removed_by" = String, Path)), request_body = Option<RemovalBody>, security(("bearer" = [])),
    responses((status = 200, body = ChangedAnswer), (status = 403, description = "`not-you`, `not-allowed`"),
    (status = 404), (status = 409, description = "`stale-epoch`, `group-rolled-back`"),
    (status = 422, description = "`commit-required`, `not-mls`, `invalid-commit`, `proposal-not-allowed`, \
        `bad-group-info`, `pending-leave`, `proposal-exists`, `too-many-proposals`, `leaves-missing`"),
    (status = 503, description = "`overloaded`")))]
#[delete("/{group_id}/members/{user_id}/{removed_by}")]
async fn remove_member(
    identity: Identity,
    path: web::Path<(String, String, String)>,
    body: OptionalBody<RemovalBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    remove(&identity, &path, body.0, &groups).await.map(|changed| web::Json(ChangedAnswer::from(changed)))
}

/// Removes a member, or leaves: the other spelling, for clients whose DELETE takes no body.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), ("user_id" = String, Path),
    ("removed_by" = String, Path)), request_body = Option<RemovalBody>, security(("bearer" = [])),
    responses((status = 200, body = ChangedAnswer, description = "as with DELETE")))]
#[post("/{group_id}/members/{user_id}/{removed_by}/remove")]
async fn remove_member_by_post(
    identity: Identity,
    path: web::Path<(String, String, String)>,
    body: OptionalBody<RemovalBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    remove(&identity, &path, body.0, &groups).await.map(|changed| web::Json(ChangedAnswer::from(changed)))
}

async fn remove(
    identity: &Identity,
    (group, user, removed_by): &(String, String, String),
    body: Option<RemovalBody>,
    groups: &Groups,
) -> Result<Changed, Problem> {
    let body = body.unwrap_or_default();
    let caller = identity.act_as(removed_by, body.device_id.as_deref()).await?;
    let (group, user) = (group_id(group)?, identity.user(user)?);
    Ok(match body.removing(user)? {
        Removing::Roster => groups.remove_user(&caller, group, user).await?,
        Removing::Commit(request) => groups.commit(&caller, group, request, None).await?,
        Removing::Leaving(_) if user != caller.user_id => {
            return Err(Problem::bad_field(
                "proposals",
                "only for leaving oneself; others are removed by a commit",
            ));
        }
        Removing::Leaving(proposals) => groups.leave(&caller, group, proposals).await?,
    })
}

/// Brings a commit, which moves the group into its next epoch; an external one too.
#[utoipa::path(tag = "groups", request_body = CommitBody,
    params(("group_id" = String, Path), ("sender_id" = String, Path),
    ("x-join-token" = Option<String>, Header)), security(("bearer" = [])),
    responses((status = 200, body = ChangedAnswer), (status = 403, description = "`not-you`, `not-allowed`"),
    (status = 404), (status = 409, description = "`stale-epoch`, `group-rolled-back`"),
    (status = 422, description = "`not-mls`, `invalid-commit`, `proposal-not-allowed`, `welcome-mismatch`, \
        `bad-group-info`, `pending-leave`, `package-used`, `unknown-device`, `group-full`, `too-many-groups`"),
    (status = 429, description = "`mailbox-full`"), (status = 503, description = "`overloaded`")))]
#[post("/{group_id}/commits/{sender_id}")]
async fn bring_commit(
    identity: Identity,
    path: web::Path<(String, String)>,
    token: JoinToken,
    body: Body<CommitBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.1, body.0.device_id.as_deref()).await?;
    let request = CommitRequest::try_from(body.0)?;
    let changed = groups.commit(&caller, group_id(&path.0)?, request, token.0).await?;
    Ok(web::Json(ChangedAnswer::from(changed)))
}

/// Brings a proposal for the next commit.
#[utoipa::path(tag = "groups", request_body = ProposalBody,
    params(("group_id" = String, Path), ("sender_id" = String, Path)),
    security(("bearer" = [])), responses((status = 202, body = ChangedAnswer),
    (status = 403, description = "`not-you`"), (status = 404),
    (status = 409, description = "`stale-epoch`, `group-rolled-back`"),
    (status = 422, description = "`not-mls`, `proposal-not-allowed`, `proposal-exists`, `too-many-proposals`"),
    (status = 503, description = "`overloaded`")))]
#[post("/{group_id}/proposals/{sender_id}")]
async fn propose(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<ProposalBody>,
    groups: web::Data<Groups>,
) -> Result<HttpResponse, Problem> {
    let caller = identity.act_as(&path.1, body.0.device_id.as_deref()).await?;
    let changed = groups.propose(&caller, group_id(&path.0)?, body.0.proposal.0).await?;
    Ok(HttpResponse::Accepted().json(ChangedAnswer::from(changed)))
}

/// Reports a commit that the device could not process (RFC 9420 §16.12).
#[utoipa::path(tag = "groups", request_body = ReportBody,
    params(("group_id" = String, Path), Actor), security(("bearer" = [])),
    responses((status = 202, body = Success), (status = 404), (status = 422, description = "`not-mls`")))]
#[post("/{group_id}/reports")]
async fn report_commit(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    body: Body<ReportBody>,
    groups: web::Data<Groups>,
) -> Result<HttpResponse, Problem> {
    let caller = actor.0.caller(&identity).await?;
    let (epoch, commit) = body.0.parsed()?;
    groups.report(&caller, group_id(&path)?, epoch, commit, body.0.reason).await?;
    Ok(HttpResponse::Accepted().json(Success { success: true }))
}

/// Makes an MLS group anew under its id, with the body of its creation.
#[utoipa::path(tag = "groups", params(("group_id" = String, Path), Actor), request_body = CreateBody,
    security(("bearer" = [])), responses((status = 200, body = ChangedAnswer),
    (status = 403, description = "`not-allowed`: the owner does this"), (status = 404),
    (status = 409, description = "`stale-epoch`: it was reset meanwhile"),
    (status = 422, description = "as when a group is made, and `laxer-handshake`")))]
#[post("/{group_id}/reset")]
async fn reset_group(
    identity: Identity,
    path: web::Path<String>,
    actor: Query<Actor>,
    body: Body<CreateBody>,
    groups: web::Data<Groups>,
) -> Result<impl Responder, Problem> {
    let Actor { user_id, device_id } = actor.0;
    let actor = Actor { user_id, device_id: device_id.or(body.0.device_id.clone()) };
    let caller = actor.caller(&identity).await?;
    let changed = groups.reset(&caller, group_id(&path)?, FoundingRequest::try_from(body.0)?).await?;
    Ok(web::Json(ChangedAnswer::from(changed)))
}

impl ReportBody {
    /// The report, as far as it can be checked without the group.
    pub(in crate::groups) fn parsed(&self) -> Result<(Epoch, [u8; 32]), Problem> {
        let out_of_range = || Problem::bad_field("epoch", "an epoch below 2^53 is expected");
        let epoch = Epoch::from_wire(self.epoch).ok_or_else(out_of_range)?;
        let commit = self.commit_blake3.0.as_ref().try_into();
        let commit = commit.map_err(|_| Problem::bad_field("commit_blake3", "32 bytes are expected"))?;
        if self.reason.len() > 256 || self.reason.chars().any(char::is_control) {
            return Err(Problem::bad_field("reason", "at most 256 bytes without control characters"));
        }
        Ok((epoch, commit))
    }
}

/// Adds these routes to the scope of groups.
pub(super) fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services
        .service(add_members)
        .service(remove_member)
        .service(remove_member_by_post)
        .service(bring_commit)
        .service(propose)
        .service(report_commit)
        .service(reset_group);
}
