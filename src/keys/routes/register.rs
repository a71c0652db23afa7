//! Registering a device.

use actix_web::{HttpRequest, HttpResponse, post, web};

use super::{bad, device_id};
use crate::{
    auth::{Logins, bearer, parse_user, secret_hash},
    domain::{self, RegistrationId, UserId},
    http::{Body, Problem},
    keys::{
        Admission, Keys, RegistrationRequest,
        body::{
            packages::packages,
            raw,
            register::{RegisterAnswer, RegisterBody},
        },
    },
    store::NewSession,
    wire::{Id, Time},
};

/// Registers a device: a first one claims the user id, a further one needs a link token.
#[utoipa::path(tag = "keys", request_body = RegisterBody,
    params(("user_id" = String, Path)), responses(
    (status = 201, body = RegisterAnswer),
    (status = 401, description = "`bad-admission`"),
    (status = 403, description = "`link-required`, `admission-required`, `admission-used`"),
    (status = 409, description = "`device-exists`, `too-many-devices`"),
    (status = 422, description = "`invalid-proof`, `invalid-signature`, `invalid-key`, `kem-required`, \
        `too-few-prekeys`, `too-many-prekeys`, `duplicate-prekey-id`, `prekey-reused`, `signature-key-reused`, \
        `invalid-key-package`, `package-reused`, `unknown-signature-key`, `too-many-packages`"),
    (status = 429, description = "`rate-limited`"),
    (status = 503, description = "`admission-unavailable`"),
))]
#[post("/register/{user_id}")]
pub(super) async fn register_device(
    request: HttpRequest,
    path: web::Path<String>,
    body: Body<RegisterBody>,
    keys: web::Data<Keys>,
    logins: web::Data<Logins>,
) -> Result<HttpResponse, Problem> {
    let body = body.0;
    let counts = (body.onetime_prekeys.len(), body.kem_prekeys.len(), body.key_packages.len());
    let (refresh, session) = logins.new_session()?;
    let mut registration = registration(&path, body, session.clone())?;
    registration.admission = admission(&request, registration.user_id, &keys, &logins).await?;
    let registration_id = registration.registration_id.get();
    let (principal, created_at) = keys.register(registration).await?;
    let caller = &principal.caller;
    Ok(HttpResponse::Created().json(RegisterAnswer {
        user_id: Id(caller.user_id.uuid()),
        device_id: caller.device_id.as_str().to_owned(),
        device_number: caller.device_number.get(),
        registration_id,
        created_at: Time(created_at),
        onetime_prekey_count: counts.0,
        kem_prekey_count: counts.1,
        key_package_count: counts.2,
        tokens: logins.answer(&principal, &refresh, created_at, session.expires_at)?,
    }))
}

/// What the host application says of a registration: a refused token is entered into the user's trail.
async fn admission(
    request: &HttpRequest,
    user: UserId,
    keys: &Keys,
    logins: &Logins,
) -> Result<Option<Admission>, Problem> {
    match logins.admission(bearer(request.headers()), user) {
        Ok(None) => Ok(None),
        Ok(Some(admission)) => {
            let recover = admission.recover.then_some(admission.single_use);
            Ok(Some(Admission { recover }))
        }
        Err(problem) => {
            if problem.code() == "bad-admission" {
                keys.note_refused_admission(user).await?;
            }
            Err(problem)
        }
    }
}

pub(in crate::keys) fn registration(
    user: &str,
    body: RegisterBody,
    session: NewSession,
) -> Result<RegistrationRequest, Problem> {
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
        mls_signature_keys: raw(body.mls_signature_keys),
        packages: packages(body.key_packages, body.last_resort_key_package, "last_resort_key_package"),
        link_token_hash: body.link_token.as_deref().map(secret_hash),
        recovery_proof: body.recovery_proof.map(|proof| proof.0),
        admission: None,
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
