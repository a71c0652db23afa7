//! Who is calling: the bearer token or ticket of a device, or in open mode the path; and by what devices and host
//! applications prove themselves: challenges, refresh tokens, admission tokens.

mod admission;
mod body;
mod challenge;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod logins;
mod provider;
mod refresh;
mod remembered;
pub mod routes;
mod secrets;
mod signing;
mod tokens;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web,
};
use futures_util::future::{Ready, ready};

pub use admission::{Admission, AdmissionFault, AdmissionRefusal, Admissions};
pub use body::TokenAnswer;
pub use challenge::Challenges;
pub use logins::Logins;
pub use refresh::{RefreshToken, RefreshTokens};
pub use secrets::{fresh_secret, fresh_session_id, secret_hash};
pub use signing::{InvalidSigningKeys, SigningKeys};
pub use tokens::{Claims, Tokens};

use crate::{
    domain::{Caller, Clock, DeviceId, DeviceNo, SessionId, Timestamp, UserId},
    http::Problem,
    store::{Principal, Revocation, SingleUse, Store, StoreError},
    wire::{parse_uuid, whole_seconds},
};

/// How old the knowledge of revocations may be before nobody is let in any more.
const STALE: Duration = Duration::from_secs(3);

/// How far back revocations are read beyond what is known to be read: for clocks that disagree, and for acts that take
/// their time to commit.
const OVERLAP: Duration = Duration::from_mins(5);

/// Decides who a caller is.
pub struct Authority {
    tokens: Tokens,
    open: bool,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    revoked: RwLock<Revoked>,
}

struct Revoked {
    /// The devices and sessions, and when this node learned of each. What was learned is kept for as long as a token could
    /// live, so that a poll which began before a revocation cannot let anyone in again.
    learned: HashMap<Revocation, Instant>,
    read_at: Instant,
    /// Up to when, by the clock, everything was read; none before the first time.
    read_up_to: Option<Timestamp>,
}

impl Revoked {
    fn cover(&self, claims: &Claims) -> bool {
        let device = claims.caller.device_no;
        self.learned.contains_key(&Revocation::Device(device))
            || self.learned.contains_key(&Revocation::Session(device, claims.session))
    }
}

impl Authority {
    /// An authority that knows the revocations of this moment.
    ///
    /// # Errors
    /// When the store cannot be asked for them.
    pub async fn new(
        tokens: Tokens,
        open: bool,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        let revoked =
            RwLock::new(Revoked { learned: HashMap::new(), read_at: Instant::now(), read_up_to: None });
        let authority = Arc::new(Self { tokens, open, store, clock, revoked });
        authority.read_revocations().await?;
        Ok(authority)
    }

    /// Reads what was revoked of late, the first time whatever was revoked while a token of it could still be alive, and
    /// returns it: a socket may have opened in the moment before this was known.
    ///
    /// # Errors
    /// When the store cannot be asked; after 3 s of that every call is answered 503.
    pub async fn read_revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        let asked_at = Instant::now();
        let (now, longest) = (self.clock.now(), self.tokens.life() + OVERLAP);
        let read_up_to = self.revoked.read().unwrap_or_else(PoisonError::into_inner).read_up_to;
        let since = read_up_to.map_or(now.minus(longest), |read| read.min(now).minus(OVERLAP));
        let found = self.store.revocations(since).await?;
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.read_up_to = Some(now);
        revoked.learned.retain(|_, learned| learned.elapsed() < longest);
        revoked.read_at = asked_at;
        for revocation in &found {
            revoked.learned.entry(*revocation).or_insert(asked_at);
        }
        Ok(found)
    }

    /// Shuts a device out at once on this node.
    pub fn revoke(&self, device: DeviceNo) {
        self.learn(Revocation::Device(device));
    }

    /// Shuts a session of a device out at once on this node.
    pub fn revoke_session(&self, device: DeviceNo, session: SessionId) {
        self.learn(Revocation::Session(device, session));
    }

    fn learn(&self, revocation: Revocation) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.learned.insert(revocation, Instant::now());
    }

    /// The token that a device got at `at`, and for how many seconds from now it lives. The same arguments give the same
    /// token, so that an answer that was lost can be given again.
    ///
    /// # Errors
    /// 500 when it could not be signed.
    pub fn issue(
        &self,
        principal: &Principal,
        session: SessionId,
        at: Timestamp,
    ) -> Result<(String, u64), Problem> {
        let token = self.tokens.issue(principal, session, at);
        let token = token.ok_or_else(|| Problem::new(500, "internal", "no token could be signed"))?;
        Ok((token, whole_seconds(at.plus(self.tokens.life()).since(self.clock.now()))))
    }

    /// What a token says.
    ///
    /// # Errors
    /// 401 `bad-token` for a token that is none, has ended or was revoked; 503 when revocations are not known.
    pub fn claims(&self, token: &str) -> Result<Claims, Problem> {
        let bad = || Problem::new(401, "bad-token", "the access token is not valid or has ended");
        let claims = self.tokens.check(token, self.clock.now()).ok_or_else(bad)?;
        self.check_revocations(&claims, bad)?;
        Ok(claims)
    }

    /// A ticket with which the device of these claims opens one socket within 30 s.
    ///
    /// # Errors
    /// 500 when it could not be made.
    pub fn ticket(&self, claims: &Claims) -> Result<String, Problem> {
        let ticket = self.tokens.issue_ticket(claims, self.clock.now());
        ticket.ok_or_else(|| Problem::new(500, "internal", "no ticket could be made"))
    }

    /// Who presents this ticket, and what [`Authority::use_ticket`] is to use up before anything is done for it.
    ///
    /// # Errors
    /// 401 `bad-token` for a ticket that is none, has ended or was revoked; 503 when revocations are not known.
    pub fn read_ticket(self: &Arc<Self>, ticket: &str) -> Result<(Identity, SingleUse), Problem> {
        let read = self.tokens.check_ticket(ticket, self.clock.now()).ok_or_else(bad_ticket)?;
        self.check_revocations(&read.claims, bad_ticket)?;
        Ok((Identity { authority: Arc::clone(self), claims: Some(read.claims) }, read.single_use))
    }

    /// Uses a ticket up.
    ///
    /// # Errors
    /// 401 `bad-token` when it was used before; 503 when the store cannot be asked.
    pub async fn use_ticket(&self, ticket: SingleUse) -> Result<(), Problem> {
        if self.store.use_once(ticket).await? { Ok(()) } else { Err(bad_ticket()) }
    }

    fn check_revocations(&self, claims: &Claims, bad: impl Fn() -> Problem) -> Result<(), Problem> {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        if revoked.cover(claims) {
            return Err(bad());
        }
        if revoked.read_at.elapsed() > STALE {
            return Err(Problem::unavailable(
                "store-unavailable",
                "revocations cannot be read at the moment",
            ));
        }
        Ok(())
    }

    /// Whether this relay trusts paths.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Who presents these headers.
    ///
    /// # Errors
    /// 401 `no-token` without a bearer token, and as [`Authority::claims`].
    pub fn identify(
        self: &Arc<Self>,
        headers: &HeaderMap,
        socket_token: Option<&str>,
    ) -> Result<Identity, Problem> {
        if self.open {
            return Ok(Identity { authority: Arc::clone(self), claims: None });
        }
        let token = bearer(headers).or(socket_token);
        let token = token.ok_or_else(|| {
            Problem::new(401, "no-token", "this needs authorization: Bearer <access token>")
        })?;
        Ok(Identity { authority: Arc::clone(self), claims: Some(self.claims(token)?) })
    }
}

/// Who presented a request, before it is known in whose name the request acts.
pub struct Identity {
    authority: Arc<Authority>,
    /// None in open mode.
    claims: Option<Claims>,
}

impl Identity {
    /// The caller, acting as this user and, where the request names one, this device. `me` stands for the caller's own.
    ///
    /// # Errors
    /// 403 `not-you` when the token belongs to somebody else; 400 for what is no id; in open mode 404 for a device that
    /// does not exist.
    pub async fn act_as(&self, user: &str, device: Option<&str>) -> Result<Caller, Problem> {
        let device = device.filter(|device| *device != "me").map(DeviceId::parse).transpose();
        let device = device.map_err(|error| Problem::bad_field("device_id", error))?;
        let Some(claims) = &self.claims else {
            return self.trust(user, device.as_ref()).await;
        };
        let caller = &claims.caller;
        let same_user = user == "me" || parse_user(user)? == caller.user_id;
        let same_device = device.is_none_or(|device| device == caller.device_id);
        if same_user && same_device { Ok(caller.clone()) } else { Err(not_you()) }
    }

    /// The user that the request names, `me` being the caller's own, without acting as it.
    ///
    /// # Errors
    /// 400 for what is no id, and for `me` in open mode.
    pub fn user(&self, user: &str) -> Result<UserId, Problem> {
        match &self.claims {
            Some(claims) if user == "me" => Ok(claims.caller.user_id),
            _ => parse_user(user),
        }
    }

    /// The calling device, when a token tells it.
    #[must_use]
    pub fn device(&self) -> Option<&Caller> {
        self.claims.as_ref().map(|claims| &claims.caller)
    }

    /// What the token or ticket says; none in open mode.
    #[must_use]
    pub const fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    /// Whether this relay trusts paths.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.claims.is_none()
    }

    async fn trust(&self, user: &str, device: Option<&DeviceId>) -> Result<Caller, Problem> {
        let user_id = parse_user(user)?;
        let devices = self.authority.store.devices(user_id).await?;
        let found =
            devices.into_iter().find(|candidate| device.is_none_or(|device| *device == candidate.device_id));
        let found = found.ok_or_else(|| Problem::not_found("device"))?;
        Ok(Caller {
            user_id,
            device_id: found.device_id,
            device_number: found.device_number,
            device_no: found.device_no,
        })
    }
}

impl FromRequest for Identity {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(authority) = request.app_data::<web::Data<Authority>>() else {
            return ready(Err(Problem::new(500, "internal", "the relay is not set up")));
        };
        let authority = authority.clone().into_inner();
        let recognised = request.extensions().get::<Recognised>().map(|Recognised(claims)| claims.clone());
        ready(match recognised {
            Some(claims) => claims.map(|claims| Self { authority, claims: Some(claims) }),
            None => authority.identify(request.headers(), None),
        })
    }
}

fn device_of(claims: &Result<Claims, Problem>) -> Option<DeviceNo> {
    claims.as_ref().ok().map(|claims| claims.caller.device_no)
}

/// What a request's bearer token says, once it was looked at.
struct Recognised(Result<Claims, Problem>);

/// The device whose bearer token a request has, before anything else of it is read. What the token says is remembered in
/// the request, so that it is verified once.
#[must_use]
pub fn recognise(request: &HttpRequest) -> Option<DeviceNo> {
    let authority = request.app_data::<web::Data<Authority>>()?;
    if authority.is_open() {
        return None;
    }
    let before = request.extensions().get::<Recognised>().map(|Recognised(claims)| device_of(claims));
    if let Some(device) = before {
        return device;
    }
    let claims = authority.claims(bearer(request.headers())?);
    let device = device_of(&claims);
    request.extensions_mut().insert(Recognised(claims));
    device
}

/// A user id from a path.
///
/// # Errors
/// 400 naming `user_id`.
pub fn parse_user(text: &str) -> Result<UserId, Problem> {
    parse_uuid(text).map(UserId::new).ok_or_else(|| Problem::bad_field("user_id", "not a UUID"))
}

/// The bearer token in these headers (RFC 6750).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn bad_ticket() -> Problem {
    Problem::new(401, "bad-token", "the ticket is not valid, has ended or was used")
}

fn not_you() -> Problem {
    Problem::new(403, "not-you", "the token belongs to another user or device")
}
