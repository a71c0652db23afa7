//! The HTTP edge of keys and devices: `/api/v1/keys`.

mod packages;
pub(super) mod register;

use actix_web::{HttpResponse, Responder, delete, get, post, put, web};

use super::{
    Fetcher, Keys, LOW, ROTATION_AGE, UploadRequest,
    body::{
        BundleAnswer, BundleQuery, BundlesAnswer, CheckBody, DeviceAnswer, DevicesAnswer, LinkAnswer,
        LinkBody, PreKeysAnswer, PreKeysBody, RotateAnswer, RotateBody, SignedPreKey, StatsAnswer, Success,
        raw,
    },
    problem::refused_rotation,
};
use crate::{
    auth::{Authority, Identity, fresh_secret},
    domain::{DeviceId, InvalidId},
    http::{Body, Problem, Query},
    wire::{Id, Time},
};

/// Lets the calling device vouch for a newcomer of its user.
#[utoipa::path(tag = "keys", request_body = LinkBody,
    params(("user_id" = String, Path)), security(("bearer" = [])), responses(
    (status = 201, body = LinkAnswer), (status = 422, description = "`invalid-key`, `invalid-signature`"),
))]
#[post("/link/{user_id}")]
async fn link_device(
    identity: Identity,
    path: web::Path<String>,
    body: Body<LinkBody>,
    keys: web::Data<Keys>,
) -> Result<HttpResponse, Problem> {
    let caller = identity.act_as(&path, None).await?;
    let (link_token, hash) = secret()?;
    let LinkBody { device_id: newcomer, identity_key, signature } = body.0;
    let expires_at = keys.link(&caller, device_id(&newcomer)?, &identity_key.0, &signature.0, hash).await?;
    Ok(HttpResponse::Created().json(LinkAnswer { link_token, expires_at: Time(expires_at) }))
}

/// Takes the bundle of one device.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), BundleQuery), security(("bearer" = [])), responses(
    (status = 200, body = BundleAnswer), (status = 404, description = "no such active device"),
))]
#[get("/bundle/{user_id}")]
async fn take_bundle(
    identity: Identity,
    path: web::Path<String>,
    query: Query<BundleQuery>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let device = query.0.device_id.as_deref().map(device_id).transpose()?;
    let user = identity.user(&path)?;
    let taken = keys.bundle(fetcher(&identity), user, device.as_ref()).await?;
    Ok(web::Json(BundleAnswer::from(taken)))
}

/// Takes a bundle of every active device of a user; of oneself, of every other one.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path)), security(("bearer" = [])), responses(
    (status = 200, body = BundlesAnswer), (status = 404, description = "no active device"),
))]
#[get("/bundles/{user_id}")]
async fn take_bundles(
    identity: Identity,
    path: web::Path<String>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let user = identity.user(&path)?;
    let bundles = keys.bundles(fetcher(&identity), user).await?.into_iter().map(BundleAnswer::from).collect();
    Ok(web::Json(BundlesAnswer { user_id: Id(user.uuid()), bundles }))
}

/// Replaces the signed pre-key, and adds or replaces more.
#[utoipa::path(tag = "keys", request_body = RotateBody,
    params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = RotateAnswer),
    (status = 422, description = "`invalid-key`, `invalid-signature`, `prekey-reused`, `too-many-prekeys`")))]
#[put("/rotate/{user_id}/{device_id}")]
async fn rotate_signed_prekey(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<RotateBody>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let flat = body.0.new_signed_prekey.is_none();
    let uploaded =
        keys.upload(&caller, rotation(body.0)?).await.map_err(|refusal| refused_rotation(refusal, flat))?;
    Ok(web::Json(RotateAnswer { success: true, rotated_at: Time(uploaded.at) }))
}

/// What a rotation brings, in either of its forms.
pub(super) fn rotation(body: RotateBody) -> Result<UploadRequest, Problem> {
    let signed = match (body.id, body.public_key, body.signature, body.new_signed_prekey) {
        (None, None, None, Some(signed)) => signed,
        (Some(id), Some(public_key), Some(signature), None) => SignedPreKey { id, public_key, signature },
        _ => {
            return Err(Problem::bad_field(
                "new_signed_prekey",
                "one signed pre-key is needed, in one of the two forms",
            ));
        }
    };
    Ok(UploadRequest {
        signed_prekey: Some(signed.into()),
        onetime_prekeys: raw(body.new_onetime_prekeys),
        kem_prekeys: Vec::new(),
        last_resort_kem_prekey: body.new_last_resort_kem_prekey.map(Into::into),
    })
}

/// Adds pre-keys: all or nothing, and the same upload again does no harm.
#[utoipa::path(tag = "keys", request_body = PreKeysBody,
    params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = PreKeysAnswer),
    (status = 422, description = "`invalid-key`, `invalid-signature`, `prekey-reused`, `too-many-prekeys`, \
        `duplicate-prekey-id`")))]
#[post("/prekeys/{user_id}/{device_id}")]
async fn add_prekeys(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<PreKeysBody>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let uploaded = keys.upload(&caller, prekeys(body.0)).await?;
    Ok(web::Json(PreKeysAnswer {
        success: true,
        accepted: uploaded.accepted,
        already_known: uploaded.already_known,
        onetime_prekey_count: uploaded.onetime_count,
        kem_prekey_count: uploaded.kem_count,
    }))
}

pub(super) fn prekeys(PreKeysBody(body): PreKeysBody) -> UploadRequest {
    UploadRequest {
        signed_prekey: None,
        onetime_prekeys: raw(body.onetime_prekeys),
        kem_prekeys: raw(body.kem_prekeys),
        last_resort_kem_prekey: body.last_resort_kem_prekey.map(Into::into),
    }
}

/// Ends a device: its tokens, sockets, keys and mailbox are gone.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = Success),
    (status = 403, description = "`not-allowed`: linked less than 24 hours ago"), (status = 404)))]
#[delete("/deactivate/{user_id}/{device_id}")]
async fn deactivate_device(
    identity: Identity,
    path: web::Path<(String, String)>,
    keys: web::Data<Keys>,
    authority: web::Data<Authority>,
) -> Result<impl Responder, Problem> {
    // In open mode the path names the only actor there is.
    let actor = if identity.is_open() { Some(path.1.as_str()) } else { None };
    let caller = identity.act_as(&path.0, actor).await?;
    let target = if path.1 == "me" { caller.device_id.clone() } else { device_id(&path.1)? };
    let device = keys.deactivate(&caller, &target).await?;
    authority.revoke(device);
    keys.part(device).await;
    Ok(web::Json(Success { success: true }))
}

/// The active devices of a user, oldest first.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path)), security(("bearer" = [])),
    responses((status = 200, body = DevicesAnswer)))]
#[get("/devices/{user_id}")]
async fn list_devices(
    identity: Identity,
    path: web::Path<String>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let user = identity.user(&path)?;
    let owner = identity.is_open() || identity.device().is_some_and(|caller| caller.user_id == user);
    let devices: Vec<_> =
        keys.devices(user).await?.into_iter().map(|device| DeviceAnswer::of(device, owner)).collect();
    Ok(web::Json(DevicesAnswer { count: devices.len(), devices }))
}

/// How many keys the calling device has left.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = StatsAnswer)))]
#[get("/stats/{user_id}/{device_id}")]
async fn key_stats(
    identity: Identity,
    path: web::Path<(String, String)>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let (stats, age) = keys.stats(&caller).await?;
    Ok(web::Json(StatsAnswer {
        unused_prekeys: stats.unused_prekeys,
        total_prekeys: stats.total_prekeys,
        used_prekeys: stats.total_prekeys.saturating_sub(stats.unused_prekeys),
        kem_prekeys: stats.kem_prekeys,
        key_packages: stats.key_packages,
        low: stats.unused_prekeys < LOW,
        signed_prekey_age_days: age.as_secs() / 86_400,
        rotation_due: age >= ROTATION_AGE,
    }))
}

/// Whether the relay holds the same lasting keys as the calling device.
#[utoipa::path(tag = "keys", request_body = CheckBody,
    params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = Success), (status = 409, description = "`keys-differ`")))]
#[post("/check/{user_id}/{device_id}")]
async fn check_keys(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<CheckBody>,
    keys: web::Data<Keys>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let digest = body.0.digest.0;
    if digest.len() != 32 {
        return Err(Problem::bad_field("digest", "32 bytes are expected"));
    }
    keys.compare(&caller, &digest).await?;
    Ok(web::Json(Success { success: true }))
}

/// Adds these routes.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(
        utoipa_actix_web::scope::scope("/api/v1/keys")
            .service(register::register_device)
            .service(link_device)
            .service(take_bundle)
            .service(take_bundles)
            .service(rotate_signed_prekey)
            .service(add_prekeys)
            // Before the upload, for whose path `claim` would pass as a device id.
            .service(packages::claim_packages)
            .service(packages::add_packages)
            .service(packages::set_mls_key)
            .service(deactivate_device)
            .service(list_devices)
            .service(key_stats)
            .service(check_keys),
    );
}

fn fetcher(identity: &Identity) -> Option<Fetcher> {
    let claims = identity.claims()?;
    let caller = &claims.caller;
    Some(Fetcher { user_id: caller.user_id, device_no: caller.device_no, user_since: claims.user_since })
}

fn device_id(text: &str) -> Result<DeviceId, Problem> {
    DeviceId::parse(text).map_err(bad("device_id"))
}

fn bad(field: &'static str) -> impl Fn(InvalidId) -> Problem {
    move |error| Problem::bad_field(field, error)
}

fn secret() -> Result<(String, [u8; 32]), Problem> {
    fresh_secret().map_err(|_| Problem::new(500, "internal", "the operating system gives no randomness"))
}
