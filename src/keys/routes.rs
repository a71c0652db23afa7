//! The HTTP edge of keys and devices: `/api/v1/keys`.

use actix_web::{HttpResponse, Responder, delete, get, http::StatusCode, post, put, web};

use super::{
    Keys, LOW, ROTATION_AGE, Refusal, RegistrationRequest, UploadRequest,
    body::{
        BundleAnswer, BundleQuery, BundlesAnswer, CheckBody, DeviceAnswer, DevicesAnswer, LinkAnswer,
        LinkBody, PreKeysAnswer, PreKeysBody, RegisterAnswer, RegisterBody, RotateAnswer, RotateBody,
        SignedPreKey, StatsAnswer, Success, raw,
    },
};
use crate::{
    auth::{Authority, Identity, fresh_secret, fresh_session_id, parse_user, secret_hash},
    config::Config,
    domain::{self, DeviceId, InvalidId, RegistrationId},
    http::{Body, Problem, Query},
    store::NewSession,
    wire::{Id, Time},
};

/// Registers a device: a first one claims the user id, a further one needs a link token.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path)), responses(
    (status = 201, body = RegisterAnswer),
    (status = 403, description = "`link-required`"),
    (status = 409, description = "`device-exists`, `too-many-devices`"),
    (status = 422, description = "`invalid-proof`, `invalid-signature`, `invalid-key`, `kem-required`, \
        `too-few-prekeys`, `too-many-prekeys`, `duplicate-prekey-id`, `prekey-reused`"),
))]
#[post("/register/{user_id}")]
async fn register_device(
    path: web::Path<String>,
    body: Body<RegisterBody>,
    keys: web::Data<Keys>,
    authority: web::Data<Authority>,
    config: web::Data<Config>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let counts = (body.onetime_prekeys.len(), body.kem_prekeys.len());
    let (refresh_token, refresh_hash) = secret()?;
    let session_id = fresh_session_id();
    let expires_at = keys.clock.now().plus(config.refresh_token_life);
    let request = registration(&path, body, NewSession { session_id, refresh_hash, expires_at })?;
    let registration_id = request.registration_id.get();
    let (principal, created_at) = keys.register(request).await?;
    let (access_token, expires_in) = authority.issue(&principal, session_id, created_at)?;
    let caller = principal.caller;
    Ok(HttpResponse::Created().json(RegisterAnswer {
        user_id: Id(caller.user_id.uuid()),
        device_id: caller.device_id.as_str().to_owned(),
        device_number: caller.device_number.get(),
        registration_id,
        created_at: Time(created_at),
        onetime_prekey_count: counts.0,
        kem_prekey_count: counts.1,
        token_type: "Bearer",
        access_token,
        expires_in,
        refresh_token,
        refresh_expires_in: config.refresh_token_life.as_secs(),
    }))
}

fn registration(user: &str, body: RegisterBody, session: NewSession) -> Result<RegistrationRequest, Problem> {
    if body.device_name.as_ref().is_some_and(|name| name.len() > 128 || name.chars().any(char::is_control)) {
        return Err(Problem::bad_field("device_name", "at most 128 bytes without control characters"));
    }
    Ok(RegistrationRequest {
        user_id: first_id(user)?,
        device_id: device_id(&body.device_id)?,
        device_name: body.device_name,
        registration_id: RegistrationId::new(body.registration_id).map_err(bad("registration_id"))?,
        identity_key: body.identity_key.0,
        proof: body.proof.map(|proof| proof.0),
        signed_prekey: body.signed_prekey.into(),
        onetime_prekeys: raw(body.onetime_prekeys),
        kem_prekeys: raw(body.kem_prekeys),
        last_resort_kem_prekey: body.last_resort_kem_prekey.map(Into::into),
        link_token_hash: body.link_token.as_deref().map(secret_hash),
        session,
    })
}

/// A user id that is to be claimed: the nil UUID stands for "nobody" in old scripts and cannot be.
fn first_id(user: &str) -> Result<domain::UserId, Problem> {
    let user = parse_user(user)?;
    if user.is_nil() {
        Err(Problem::bad_field("user_id", "the nil UUID belongs to nobody"))
    } else {
        Ok(user)
    }
}

/// Lets the calling device vouch for a newcomer of its user.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path)), security(("bearer" = [])), responses(
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
    let taken = keys.bundle(identity.user(&path)?, device.as_ref()).await?;
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
    let own = identity.device().filter(|caller| caller.user_id == user).map(|caller| caller.device_no);
    let bundles = keys.bundles(user, own).await?.into_iter().map(BundleAnswer::from).collect();
    Ok(web::Json(BundlesAnswer { user_id: Id(user.uuid()), bundles }))
}

/// Replaces the signed pre-key, and adds or replaces more.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ("device_id" = String, Path)),
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
    let RotateBody { id, public_key, signature, new_signed_prekey, .. } = body.0;
    let flat = new_signed_prekey.is_none();
    let signed = match (id, public_key, signature, new_signed_prekey) {
        (None, None, None, Some(signed)) => signed,
        (Some(id), Some(public_key), Some(signature), None) => SignedPreKey { id, public_key, signature },
        _ => {
            return Err(Problem::bad_field(
                "new_signed_prekey",
                "one signed pre-key is needed, in one of the two forms",
            ));
        }
    };
    let request = UploadRequest {
        signed_prekey: Some(signed.into()),
        onetime_prekeys: raw(body.0.new_onetime_prekeys),
        kem_prekeys: Vec::new(),
        last_resort_kem_prekey: body.0.new_last_resort_kem_prekey.map(Into::into),
    };
    let uploaded = keys.upload(&caller, request).await.map_err(|refusal| refused_rotation(refusal, flat))?;
    Ok(web::Json(RotateAnswer { success: true, rotated_at: Time(uploaded.at) }))
}

/// Adds pre-keys: all or nothing, and the same upload again does no harm.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ("device_id" = String, Path)),
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
    let PreKeysBody(body) = body.0;
    let request = UploadRequest {
        signed_prekey: None,
        onetime_prekeys: raw(body.onetime_prekeys),
        kem_prekeys: raw(body.kem_prekeys),
        last_resort_kem_prekey: body.last_resort_kem_prekey.map(Into::into),
    };
    let uploaded = keys.upload(&caller, request).await?;
    Ok(web::Json(PreKeysAnswer {
        success: true,
        accepted: uploaded.accepted,
        already_known: uploaded.already_known,
        onetime_prekey_count: uploaded.onetime_count,
        kem_prekey_count: uploaded.kem_count,
    }))
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
        low: stats.unused_prekeys < LOW,
        signed_prekey_age_days: age.as_secs() / 86_400,
        rotation_due: age >= ROTATION_AGE,
    }))
}

/// Whether the relay holds the same lasting keys as the calling device.
#[utoipa::path(tag = "keys", params(("user_id" = String, Path), ("device_id" = String, Path)),
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
            .service(register_device)
            .service(link_device)
            .service(take_bundle)
            .service(take_bundles)
            .service(rotate_signed_prekey)
            .service(add_prekeys)
            .service(deactivate_device)
            .service(list_devices)
            .service(key_stats)
            .service(check_keys),
    );
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

/// The place in a list that a field's path names, if it names one.
fn index_in(field: &str) -> Option<u64> {
    let (_, rest) = field.split_once('[')?;
    rest.split_once(']')?.0.parse().ok()
}

/// A refused rotation, its field named as it stands in the body, which has two forms.
fn refused_rotation(refusal: Refusal, flat: bool) -> Problem {
    let problem = Problem::from(refusal);
    let part = if problem.code() == "invalid-signature" { "signature" } else { "id" };
    problem.renamed(|field| match field.strip_prefix("signed_prekey") {
        Some("") if flat => part.to_owned(),
        Some(rest) if flat => rest.trim_start_matches('.').to_owned(),
        _ => format!("new_{field}"),
    })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let unprocessable = |code, field: &str, detail: String| {
            let problem = Self::new(422, code, detail).with("field", field);
            if let Some(index) = index_in(field) { problem.with("index", index) } else { problem }
        };
        match refusal {
            Refusal::InvalidKey(field, why) => {
                unprocessable("invalid-key", &field, format!("{field}: {why}"))
            }
            Refusal::InvalidSignature(field) => {
                unprocessable("invalid-signature", &field, format!("{field}: the signature does not verify"))
            }
            Refusal::InvalidProof => unprocessable(
                "invalid-proof",
                "proof",
                "proof: it does not verify under the identity key".into(),
            ),
            Refusal::KemRequired => unprocessable(
                "kem-required",
                "last_resort_kem_prekey",
                "last_resort_kem_prekey: needed with a 33-byte identity key".into(),
            ),
            Refusal::TooFew(field, least) => {
                unprocessable("too-few-prekeys", field, format!("{field}: at least {least} are needed"))
                    .with("least", least)
            }
            Refusal::TooMany(field, most) => {
                unprocessable("too-many-prekeys", field, format!("{field}: at most {most} are kept"))
                    .with("most", most)
            }
            Refusal::Duplicate(field, index) => unprocessable(
                "duplicate-prekey-id",
                &field,
                format!("{field}[{index}]: this id or key occurs twice"),
            )
            .with("index", index),
            Refusal::Reused(field, index) => {
                let problem =
                    unprocessable("prekey-reused", field, format!("{field}: an id or key was used before"));
                if let Some(index) = index { problem.with("index", index) } else { problem }
            }
            Refusal::DeviceExists => {
                Self::new(409, "device-exists", "this device id is active; log in instead")
            }
            Refusal::LinkRequired => Self::new(
                403,
                "link-required",
                "the user id is claimed: an existing device must link this one",
            ),
            Refusal::TooManyDevices(most) => Self::new(
                StatusCode::CONFLICT.as_u16(),
                "too-many-devices",
                "the user has as many devices as it may have",
            )
            .with("most", most),
            Refusal::NotAllowed => {
                Self::new(403, "not-allowed", "a device linked less than 24 hours ago cannot end older ones")
            }
            Refusal::UnknownDevice => Self::not_found("device"),
            Refusal::KeysDiffer => {
                Self::new(409, "keys-differ", "the relay holds other keys for this device")
            }
            Refusal::Store(error) => error.into(),
        }
    }
}
