//! MLS signature keys and key packages.

use actix_web::{Responder, post, put, web};

use super::fetcher;
use crate::{
    auth::Identity,
    domain::{CipherSuite, InvalidId},
    http::{Body, Problem, Query},
    keys::{
        Keys,
        body::packages::{
            ClaimAnswer, ClaimQuery, ClaimedPackageAnswer, MlsKeyBody, MlsKeySetAnswer, PackagesAnswer,
            PackagesBody,
        },
    },
    wire::Id,
};

/// Adds key packages: all or nothing, and the same upload again does no harm.
#[utoipa::path(tag = "keys", request_body = PackagesBody, params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = PackagesAnswer),
    (status = 422, description = "`invalid-key-package` with a reason, `package-reused`, `unknown-signature-key`, \
        `too-many-packages`")))]
#[post("/packages/{user_id}/{device_id}")]
pub(super) async fn add_packages(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<PackagesBody>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let kept = keys.publish_packages(&caller, body.0.into()).await?;
    Ok(web::Json(PackagesAnswer {
        accepted: kept.accepted,
        already_known: kept.already_known,
        key_package_count: kept.count,
        has_last_resort: kept.has_last_resort,
    }))
}

/// Takes a key package of every active device of a user; of oneself, of every other one.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ClaimQuery), security(("bearer" = [])), responses(
    (status = 200, body = ClaimAnswer), (status = 404, description = "no device, or none with a package of this suite"),
))]
#[post("/packages/{user_id}/claim")]
pub(super) async fn claim_packages(
    identity: Identity,
    path: web::Path<String>,
    query: Query<ClaimQuery>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let user = identity.user(&path)?;
    let suite = CipherSuite::new(query.0.cipher_suite).map_err(bad_suite)?;
    if !keys.packages.takes(suite) {
        return Err(bad_suite(InvalidId("the relay does not take this cipher suite")));
    }
    let claimed = keys.claim_packages(fetcher(&identity), user, suite).await?;
    let key_packages = claimed.into_iter().map(ClaimedPackageAnswer::from).collect();
    Ok(web::Json(ClaimAnswer { user_id: Id(user.uuid()), key_packages }))
}

/// Sets the calling device's MLS signature key of a scheme. Packages of the former one are dropped.
#[utoipa::path(tag = "keys", request_body = MlsKeyBody, params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = MlsKeySetAnswer),
    (status = 422, description = "`invalid-key`, `invalid-signature`, `signature-key-reused`"),
    (status = 429, description = "`rate-limited`")))]
#[put("/mls-keys/{user_id}/{device_id}")]
pub(super) async fn set_mls_key(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<MlsKeyBody>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let dropped_packages = keys.set_mls_key(&caller, body.0.into()).await?;
    Ok(web::Json(MlsKeySetAnswer { success: true, dropped_packages }))
}

fn bad_suite(error: InvalidId) -> Problem {
    Problem::bad_field("cipher_suite", error)
}
