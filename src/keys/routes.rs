//! The HTTP edge of keys and devices: `/api/v1/keys`.

use std::fmt;

use actix_web::{HttpResponse, Responder, delete, get, http::StatusCode, post, put, web};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{IntoParams, ToSchema};

use super::{
    Keys, LOW, ROTATION_AGE, RawPreKey, RawSignedPreKey, Refusal, RegistrationRequest, UploadRequest,
};
use crate::{
    auth::{Authority, Identity, fresh_secret, fresh_session_id, parse_user, secret_hash},
    config::Config,
    domain::{self, Device, DeviceId, InvalidId, RegistrationId},
    http::{Body, BodyKind, Problem, Query, RequestBody},
    store::{NewSession, TakenBundle},
    wire::{B64, Id, Time},
};

/// An unsigned one-time pre-key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PreKey {
    /// 0 … 2^31−1, never used before by this device.
    id: i64,
    /// 32 bytes with an Ed25519 identity, `0x05` and 32 bytes with a Signal identity.
    public_key: B64,
}

/// A pre-key signed by the identity key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignedPreKey {
    /// 0 … 2^31−1, never used before by this device.
    id: i64,
    /// The serialised key.
    public_key: B64,
    /// 64 bytes over the serialised key.
    signature: B64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RegisterBody {
    #[schema(example = "phone")]
    device_id: String,
    device_name: Option<String>,
    /// 1–16383.
    registration_id: i64,
    /// 32 bytes: Ed25519. 33 bytes, the first `0x05`: Signal's Curve25519.
    identity_key: B64,
    /// The identity key's signature over the registration statement; may be absent in open mode.
    proof: Option<B64>,
    signed_prekey: SignedPreKey,
    /// 50–200.
    onetime_prekeys: Vec<PreKey>,
    #[serde(default)]
    kem_prekeys: Vec<SignedPreKey>,
    /// Required with a 33-byte identity key.
    last_resort_kem_prekey: Option<SignedPreKey>,
    /// For every device of a user but the first.
    link_token: Option<String>,
}

impl RequestBody for RegisterBody {
    const KIND: BodyKind = BodyKind::Keys;
}

#[derive(Debug, Serialize, ToSchema)]
struct RegisterAnswer {
    user_id: Id,
    device_id: String,
    device_number: u8,
    registration_id: u16,
    created_at: Time,
    onetime_prekey_count: usize,
    kem_prekey_count: usize,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    access_token: String,
    expires_in: u64,
    refresh_token: String,
    refresh_expires_in: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LinkBody {
    device_id: String,
    identity_key: B64,
    /// The calling device's signature over the link statement.
    signature: B64,
}

impl RequestBody for LinkBody {}

#[derive(Debug, Serialize, ToSchema)]
struct LinkAnswer {
    link_token: String,
    expires_at: Time,
}

/// Who vouched for a device.
#[derive(Debug, Serialize, ToSchema)]
struct LinkedBy {
    device_id: String,
    identity_key: B64,
    signature: B64,
}

#[derive(Debug, Serialize, ToSchema)]
struct BundleAnswer {
    user_id: Id,
    device_id: String,
    device_number: u8,
    registration_id: u16,
    identity_key: B64,
    linked_by: Option<LinkedBy>,
    signed_prekey_id: u32,
    signed_prekey: B64,
    signed_prekey_signature: B64,
    onetime_prekey_id: Option<u32>,
    onetime_prekey: Option<B64>,
    kem_prekey_id: Option<u32>,
    kem_prekey: Option<B64>,
    kem_prekey_signature: Option<B64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct BundlesAnswer {
    user_id: Id,
    bundles: Vec<BundleAnswer>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct BundleQuery {
    /// The device; the oldest active one when absent.
    device_id: Option<String>,
}

/// Either `id`, `public_key` and `signature` of the new signed pre-key, or `new_signed_prekey` and more.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    id: Option<i64>,
    public_key: Option<B64>,
    signature: Option<B64>,
    new_signed_prekey: Option<SignedPreKey>,
    #[serde(default)]
    new_onetime_prekeys: Vec<PreKey>,
    new_last_resort_kem_prekey: Option<SignedPreKey>,
}

impl RequestBody for RotateBody {
    const KIND: BodyKind = BodyKind::Keys;
}

#[derive(Debug, Serialize, ToSchema)]
struct RotateAnswer {
    success: bool,
    rotated_at: Time,
}

/// Pre-keys of any kind. An array alone means one-time pre-keys.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PreKeysByKind {
    #[serde(default)]
    onetime_prekeys: Vec<PreKey>,
    #[serde(default)]
    kem_prekeys: Vec<SignedPreKey>,
    last_resort_kem_prekey: Option<SignedPreKey>,
}

/// Pre-keys: an array of one-time ones, or an object by kind.
#[derive(Debug, ToSchema)]
#[schema(value_type = PreKeysByKind)]
struct PreKeysBody(PreKeysByKind);

impl<'de> Deserialize<'de> for PreKeysBody {
    /// By hand, because an untagged enum would not tell which field is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrKinds;
        impl<'de> de::Visitor<'de> for ListOrKinds {
            type Value = PreKeysBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of one-time pre-keys or an object")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<PreKeysBody, A::Error> {
                let onetime_prekeys = Vec::deserialize(de::value::SeqAccessDeserializer::new(list))?;
                Ok(PreKeysBody(PreKeysByKind {
                    onetime_prekeys,
                    kem_prekeys: Vec::new(),
                    last_resort_kem_prekey: None,
                }))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PreKeysBody, A::Error> {
                PreKeysByKind::deserialize(de::value::MapAccessDeserializer::new(map)).map(PreKeysBody)
            }
        }
        deserializer.deserialize_any(ListOrKinds)
    }
}

impl RequestBody for PreKeysBody {
    const KIND: BodyKind = BodyKind::Keys;
}

#[derive(Debug, Serialize, ToSchema)]
struct PreKeysAnswer {
    success: bool,
    accepted: u32,
    already_known: u32,
    onetime_prekey_count: u32,
    kem_prekey_count: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeviceAnswer {
    device_id: String,
    device_number: u8,
    registration_id: u16,
    identity_key: B64,
    linked_by: Option<LinkedBy>,
    /// For the owner only, like the two below.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Time>,
    /// By the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<Time>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DevicesAnswer {
    devices: Vec<DeviceAnswer>,
    count: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct StatsAnswer {
    unused_prekeys: u32,
    total_prekeys: u32,
    used_prekeys: u32,
    kem_prekeys: u32,
    /// Fewer than 20 one-time pre-keys are left.
    low: bool,
    signed_prekey_age_days: u64,
    /// The signed pre-key is 7 days old or older.
    rotation_due: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    /// SHA-256 over the identity key, then id (u64, big endian) and key of the signed and of the last-resort pre-key.
    digest: B64,
}

impl RequestBody for CheckBody {}

/// That an act was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success {
    /// Always true.
    pub success: bool,
}

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
    let (caller, created_at) = keys.register(request).await?;
    let (access_token, expires_in) = authority.issue(&caller, session_id)?;
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
    let uploaded = keys.upload(&caller, request).await?;
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

fn raw<T, R: From<T>>(keys: Vec<T>) -> Vec<R> {
    keys.into_iter().map(R::from).collect()
}

impl From<PreKey> for RawPreKey {
    fn from(key: PreKey) -> Self {
        Self { id: key.id, public_key: key.public_key.0 }
    }
}

impl From<SignedPreKey> for RawSignedPreKey {
    fn from(key: SignedPreKey) -> Self {
        Self { id: key.id, public_key: key.public_key.0, signature: key.signature.0 }
    }
}

impl From<domain::LinkedBy> for LinkedBy {
    fn from(linked_by: domain::LinkedBy) -> Self {
        Self {
            device_id: linked_by.device_id.as_str().to_owned(),
            identity_key: b64(linked_by.identity_key.as_bytes()),
            signature: b64(&linked_by.signature),
        }
    }
}

impl From<TakenBundle> for BundleAnswer {
    fn from(taken: TakenBundle) -> Self {
        let bundle = taken.bundle;
        let onetime = bundle.onetime_prekey;
        let kem = bundle.kem_prekey;
        Self {
            user_id: Id(bundle.user_id.uuid()),
            device_id: bundle.device_id.as_str().to_owned(),
            device_number: bundle.device_number.get(),
            registration_id: bundle.registration_id.get(),
            identity_key: b64(bundle.identity_key.as_bytes()),
            linked_by: bundle.linked_by.map(Into::into),
            signed_prekey_id: bundle.signed_prekey.id.get(),
            signed_prekey: B64(bundle.signed_prekey.public_key),
            signed_prekey_signature: b64(&bundle.signed_prekey.signature),
            onetime_prekey_id: onetime.as_ref().map(|key| key.id.get()),
            onetime_prekey: onetime.map(|key| B64(key.public_key)),
            kem_prekey_id: kem.as_ref().map(|key| key.id.get()),
            kem_prekey_signature: kem.as_ref().map(|key| b64(&key.signature)),
            kem_prekey: kem.map(|key| B64(key.public_key)),
        }
    }
}

impl DeviceAnswer {
    fn of(device: Device, owner: bool) -> Self {
        Self {
            device_id: device.device_id.as_str().to_owned(),
            device_number: device.device_number.get(),
            registration_id: device.registration_id.get(),
            identity_key: b64(device.identity_key.as_bytes()),
            linked_by: device.linked_by.map(Into::into),
            device_name: device.device_name.filter(|_| owner),
            created_at: owner.then_some(Time(device.created_at)),
            last_seen: owner.then_some(Time(device.last_seen)),
        }
    }
}

fn b64(bytes: &[u8]) -> B64 {
    B64(Bytes::copy_from_slice(bytes))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let unprocessable =
            |code, field: &str, detail: String| Self::new(422, code, detail).with("field", field);
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
