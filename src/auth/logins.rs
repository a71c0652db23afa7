//! How a device proves itself and stays logged in: challenges, sessions, refreshes, logout.

use std::{sync::Arc, time::Duration};

use actix_web::http::header::HeaderMap;

use super::{
    Authority, Claims,
    admission::{Admission, AdmissionRefusal, Admissions},
    body::TokenAnswer,
    challenge::Challenges,
    refresh::{RefreshToken, RefreshTokens},
    secrets::fresh_session_id,
};
use crate::{
    domain::{AuditEntry, Clock, Device, DeviceId, IdentityKey, SessionId, Signature, Timestamp, UserId},
    hot::{Event, Switchboard},
    http::Problem,
    keys::signal,
    store::{LoggedIn, Login, NewSession, Principal, Rotated, Rotation, Session, Store},
};

/// Stands in for the key of a device that does not exist, so that its answer takes the same time: the curve's base point.
/// What is signed under it is refused all the same.
const NOBODY: IdentityKey = IdentityKey::Ed25519([
    0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
]);

/// The acts by which sessions come and go.
pub struct Logins {
    /// The store.
    pub store: Arc<dyn Store>,
    /// To end sockets.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who is calling.
    pub authority: Arc<Authority>,
    /// The name that devices sign for.
    pub relay_name: String,
    /// Gives challenges out.
    pub challenges: Challenges,
    /// Makes refresh tokens.
    pub refresh_tokens: RefreshTokens,
    /// How long a refresh token lives.
    pub refresh_life: Duration,
    /// The host application's word; none when it has no say.
    pub admissions: Option<Arc<Admissions>>,
}

impl Logins {
    /// A challenge for a device, existing or not, and when it ends.
    ///
    /// # Errors
    /// 500 when the operating system gives no randomness.
    pub fn challenge(&self, user: UserId, device: &DeviceId) -> Result<(String, Timestamp), Problem> {
        self.challenges.issue(user, device, self.clock.now()).map_err(|_| no_randomness())
    }

    /// A session for a device that answers its challenge.
    ///
    /// # Errors
    /// 401 `bad-proof` for whatever is wrong, and without saying what.
    pub async fn log_in(
        &self,
        user: UserId,
        device: &DeviceId,
        challenge: &str,
        signature: &[u8],
    ) -> Result<TokenAnswer, Problem> {
        let now = self.clock.now();
        let single_use = self.challenges.check(challenge, user, device, now).ok_or_else(bad_proof)?;
        let found = self.store.devices(user).await?.into_iter().find(|known| known.device_id == *device);
        let device_no =
            self.proven(found.as_ref(), user, device, challenge, signature).ok_or_else(bad_proof)?;
        let (refresh, session) = self.new_session()?;
        let expires_at = session.expires_at;
        let login = Login { device_no, challenge: single_use, session };
        match self.store.open_session(login, now).await? {
            LoggedIn::LoggedIn(principal) => self.answer(&principal, &refresh, now, expires_at),
            LoggedIn::ChallengeUsed | LoggedIn::Gone => Err(bad_proof()),
        }
    }

    /// The incarnation, when the signature is its identity key's.
    fn proven(
        &self,
        found: Option<&Device>,
        user: UserId,
        device: &DeviceId,
        challenge: &str,
        signature: &[u8],
    ) -> Option<crate::domain::DeviceNo> {
        let key = found.map_or(&NOBODY, |found| &found.identity_key);
        let statement = signal::login_statement(&self.relay_name, user, device, challenge);
        let signature = Signature::try_from(signature).unwrap_or([0; 64]);
        let verified = signal::verify(key, &statement, &signature);
        found.filter(|_| verified).map(|found| found.device_no)
    }

    /// A session that nobody has yet, and its first refresh token.
    ///
    /// # Errors
    /// 500 when the operating system gives no randomness.
    pub fn new_session(&self) -> Result<(RefreshToken, NewSession), Problem> {
        let session_id = fresh_session_id();
        let refresh = self.refresh_tokens.first(session_id).map_err(|_| no_randomness())?;
        let expires_at = self.clock.now().plus(self.refresh_life);
        let session = NewSession { session_id, refresh_hash: refresh.hash(), expires_at };
        Ok((refresh, session))
    }

    /// The tokens of a session as of `at`: the same for the same arguments.
    ///
    /// # Errors
    /// 500 when no token could be signed.
    pub fn answer(
        &self,
        principal: &Principal,
        refresh: &RefreshToken,
        at: Timestamp,
        refresh_ends: Timestamp,
    ) -> Result<TokenAnswer, Problem> {
        let (access_token, expires_in) = self.authority.issue(principal, refresh.session(), at)?;
        Ok(TokenAnswer {
            token_type: "Bearer",
            access_token,
            expires_in,
            refresh_token: refresh.text(),
            refresh_expires_in: super::seconds_left(refresh_ends, self.clock.now()),
        })
    }

    /// A new pair of tokens for a refresh token.
    ///
    /// # Errors
    /// 401 `bad-token` for one that is none or has ended, 401 `token-reused` for one that was used before: the session is
    /// then ended.
    pub async fn refresh(&self, text: &str) -> Result<TokenAnswer, Problem> {
        let bad = || Problem::new(401, "bad-token", "the refresh token is not valid or has ended");
        let presented = self.refresh_tokens.read(text).ok_or_else(bad)?;
        let next = presented.successor(&self.refresh_tokens);
        let (session_id, now) = (presented.session(), self.clock.now());
        let expires_at = now.plus(self.refresh_life);
        let rotation = Rotation { session_id, presented: presented.hash(), next: next.hash(), expires_at };
        match self.store.rotate_session(rotation, now).await? {
            Rotated::Rotated { principal, at, expires_at } => self.answer(&principal, &next, at, expires_at),
            Rotated::Reused(device) => {
                self.end_sockets(device, session_id).await;
                Err(Problem::new(
                    401,
                    "token-reused",
                    "the refresh token was used before; its session is ended",
                ))
            }
            Rotated::Unknown => Err(bad()),
        }
    }

    /// Ends the session of these claims: its tokens and its socket. May be repeated.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn log_out(&self, claims: &Claims) -> Result<(), Problem> {
        let device = claims.caller.device_no;
        self.store.end_session(device, claims.session, self.clock.now()).await?;
        self.end_sockets(device, claims.session).await;
        Ok(())
    }

    async fn end_sockets(&self, device: crate::domain::DeviceNo, session: SessionId) {
        self.authority.revoke_session(device, session);
        self.switchboard.notify(device, Event::LoggedOut(session)).await;
    }

    /// The sessions of a user that have not ended.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn sessions(&self, user: UserId) -> Result<Vec<Session>, Problem> {
        Ok(self.store.sessions(user, self.clock.now()).await?)
    }

    /// A page of the user's security events, newest first.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn audit(
        &self,
        user: UserId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Problem> {
        Ok(self.store.audit(user, before, limit).await?)
    }

    /// What the host application says of this user, if it has a say and something came.
    ///
    /// # Errors
    /// 401 `bad-admission`; 503 when its keys are not known.
    pub fn admission(&self, headers: &HeaderMap, user: UserId) -> Result<Option<Admission>, Problem> {
        let Some(admissions) = &self.admissions else { return Ok(None) };
        let Some(token) = super::bearer(headers) else { return Ok(None) };
        admissions.check(token, user, self.clock.now()).map(Some).map_err(refused_admission)
    }
}

fn refused_admission(refusal: AdmissionRefusal) -> Problem {
    let why = match refusal {
        AdmissionRefusal::KeysUnavailable => {
            return Problem::unavailable(
                "admission-unavailable",
                "the keys of the host application cannot be read at the moment",
            );
        }
        AdmissionRefusal::Invalid => "it is not one of the host application's",
        AdmissionRefusal::Expired => "it has ended",
        AdmissionRefusal::NotYet => "it does not hold yet",
        AdmissionRefusal::WrongAudience => "it is for another audience",
        AdmissionRefusal::WrongSubject => "it is for another user",
    };
    Problem::new(401, "bad-admission", format!("the admission token is refused: {why}"))
}

fn bad_proof() -> Problem {
    Problem::new(401, "bad-proof", "the challenge has ended or was used, or the signature does not verify")
}

fn no_randomness() -> Problem {
    Problem::new(500, "internal", "the operating system gives no randomness")
}
