//! How a device proves itself and stays logged in: challenges, sessions, refreshes, logout.

use std::{sync::Arc, time::Duration};

use super::{
    Authority, Claims,
    admission::{Admission, AdmissionRefusal, Admissions},
    body::TokenAnswer,
    challenge::Challenges,
    refresh::{RefreshToken, RefreshTokens},
    secrets::fresh_session_id,
};
use crate::{
    domain::{
        AuditEntry, Clock, Device, DeviceId, DeviceNo, Drawn, IdentityKey, Quota, SELDOM_ACTS_PER_HOUR,
        SessionId, Signature, Timestamp, UserId,
    },
    hot::{Budgets, Event, Switchboard},
    http::Problem,
    keys::signal,
    store::{LoggedIn, Login, NewSession, Principal, Rotated, Rotation, Session, Store},
    wire::whole_seconds,
};

/// Stand in for the key of the other kind, and for both where there is no such device, so that every answer takes the same
/// time: the curve's base point in either form. What is signed under them is refused all the same.
const NOBODY: (IdentityKey, IdentityKey) =
    (IdentityKey::Ed25519(EDWARDS_BASE), IdentityKey::Signal(MONTGOMERY_BASE));

const MONTGOMERY_BASE: [u8; 33] = {
    let mut key = [0; 33];
    key[0] = 5;
    key[1] = 9;
    key
};

const EDWARDS_BASE: [u8; 32] = [
    0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
];

/// How often a device may log in.
const LOGINS: Quota = Quota::per_hour(SELDOM_ACTS_PER_HOUR);

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
    /// Where logins are counted.
    pub budgets: Arc<Budgets>,
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
    /// 401 `bad-proof` for whatever is wrong, and without saying what; 429 `rate-limited` for a device that logs in too
    /// often.
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
        self.count(device_no, now).await?;
        let (refresh, session) = self.new_session()?;
        let expires_at = session.expires_at;
        let login = Login { device_no, challenge: single_use, session };
        match self.store.open_session(login, now).await? {
            LoggedIn::LoggedIn(principal) => self.answer(&principal, &refresh, now, expires_at),
            LoggedIn::ChallengeUsed | LoggedIn::Gone => Err(bad_proof()),
        }
    }

    /// Counts a login: each leaves traces, and past some sessions the end of another one.
    async fn count(&self, device: DeviceNo, now: Timestamp) -> Result<(), Problem> {
        match self.budgets.draw("logins", &[&device.0.to_be_bytes()], LOGINS, now).await {
            Drawn::Taken => Ok(()),
            Drawn::Empty(wait) => {
                Err(Problem::rate_limited(wait, "this device logs in too often; refresh instead"))
            }
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
    ) -> Option<DeviceNo> {
        let (ed25519, signal_key) = match found.map(|found| found.identity_key) {
            Some(key @ IdentityKey::Ed25519(_)) => (key, NOBODY.1),
            Some(key @ IdentityKey::Signal(_)) => (NOBODY.0, key),
            None => NOBODY,
        };
        let statement = signal::login_statement(&self.relay_name, user, device, challenge);
        let signature = Signature::try_from(signature).unwrap_or([0; 64]);
        let as_ed25519 = signal::verify(&ed25519, &statement, &signature);
        let as_signal = signal::verify(&signal_key, &statement, &signature);
        let verified = |found: &&Device| match found.identity_key {
            IdentityKey::Ed25519(_) => as_ed25519,
            IdentityKey::Signal(_) => as_signal,
        };
        found.filter(verified).map(|found| found.device_no)
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
            refresh_expires_in: whole_seconds(refresh_ends.since(self.clock.now())),
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

    async fn end_sockets(&self, device: DeviceNo, session: SessionId) {
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
    pub fn admission(&self, token: Option<&str>, user: UserId) -> Result<Option<Admission>, Problem> {
        let (Some(admissions), Some(token)) = (&self.admissions, token) else { return Ok(None) };
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
