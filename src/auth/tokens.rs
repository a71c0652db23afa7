//! Access tokens and socket tickets: JWTs signed with Ed25519 (RFC 7519, RFC 8037, RFC 9068), checked without asking
//! the store.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{provider, remembered::Remembered, secrets::canonical, signing::SigningKeys};
use crate::{
    domain::{Caller, DeviceId, DeviceNo, DeviceNumber, SessionId, Timestamp, UserId},
    store::{Principal, SingleUse},
    wire::Id,
};

/// How long a ticket lives.
const TICKET_LIFE: Duration = Duration::from_secs(30);

/// `typ` of an access token (RFC 9068).
const ACCESS: &str = "at+jwt";

/// `typ` of a ticket.
const TICKET: &str = "ticket+jwt";

/// What an access token says.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The device it was given to.
    pub caller: Caller,
    /// The session it belongs to.
    pub session: SessionId,
    /// When the device's user id was claimed, to the second.
    pub user_since: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a ticket says.
#[derive(Debug)]
pub struct Ticket {
    /// The claims of the access token that asked for it, and its end.
    pub claims: Claims,
    /// What must be used up for the ticket to count.
    pub single_use: SingleUse,
}

/// Who a token is about.
#[derive(Serialize, Deserialize)]
struct Subject {
    sub: Id,
    sid: Id,
    device_id: String,
    device_number: u8,
    device_no: i64,
    user_since: i64,
}

#[derive(Serialize, Deserialize)]
struct AccessPayload {
    iss: String,
    aud: String,
    #[serde(flatten)]
    subject: Subject,
    iat: i64,
    exp: i64,
}

#[derive(Serialize, Deserialize)]
struct TicketPayload {
    iss: String,
    aud: String,
    #[serde(flatten)]
    subject: Subject,
    iat: i64,
    exp: i64,
    until: i64,
    jti: String,
}

/// Signs and checks access tokens and tickets.
pub struct Tokens {
    relay_name: String,
    ticket_audience: String,
    signing: (String, EncodingKey),
    verifying: Vec<(String, DecodingKey)>,
    life: Duration,
    remembered: Remembered,
}

impl Tokens {
    /// Tokens of the relay of this name that live so long.
    #[must_use]
    pub fn new(relay_name: &str, keys: &SigningKeys, life: Duration) -> Self {
        provider::install();
        Self {
            relay_name: relay_name.to_owned(),
            ticket_audience: format!("{relay_name}/ticket"),
            signing: keys.signing(),
            verifying: keys.verifying(),
            life,
            remembered: Remembered::new(life),
        }
    }

    /// How long a token lives.
    #[must_use]
    pub const fn life(&self) -> Duration {
        self.life
    }

    /// A token for a device: always the same one for the same arguments. None when it could not be signed, which would be
    /// a fault of this program.
    #[must_use]
    pub fn issue(&self, principal: &Principal, session: SessionId, issued_at: Timestamp) -> Option<String> {
        let payload = AccessPayload {
            iss: self.relay_name.clone(),
            aud: self.relay_name.clone(),
            subject: Subject::of(&principal.caller, session, principal.user_since),
            iat: issued_at.seconds(),
            exp: issued_at.plus(self.life).seconds(),
        };
        self.sign(ACCESS, &payload)
    }

    /// What a token says, when it is this relay's and has not ended.
    #[must_use]
    pub fn check(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(claims) = self.remembered.find(&hash) {
            return (now < claims.expires_at).then_some(claims);
        }
        let payload: AccessPayload = self.verify(ACCESS, &self.relay_name, token)?;
        let expires_at = self.end(payload.iat, payload.exp)?;
        let claims = payload.subject.claims(expires_at).filter(|_| now < expires_at)?;
        self.remembered.keep(hash, claims.clone(), now);
        Some(claims)
    }

    /// A ticket for a socket of the device that these claims are about; it never outlives them. None when it could not be
    /// made: no randomness, or as in [`Tokens::issue`].
    #[must_use]
    pub fn issue_ticket(&self, claims: &Claims, now: Timestamp) -> Option<String> {
        let mut jti = [0; 16];
        if getrandom::fill(&mut jti).is_err() {
            tracing::error!("the operating system gives no randomness");
            return None;
        }
        let payload = TicketPayload {
            iss: self.relay_name.clone(),
            aud: self.ticket_audience.clone(),
            subject: Subject::of(&claims.caller, claims.session, claims.user_since),
            iat: now.seconds(),
            exp: now.plus(TICKET_LIFE).min(claims.expires_at).seconds(),
            until: claims.expires_at.seconds(),
            jti: URL_SAFE_NO_PAD.encode(jti),
        };
        self.sign(TICKET, &payload)
    }

    /// What a ticket says, when it is this relay's and has not ended. Whether it was used before the store knows.
    #[must_use]
    pub fn check_ticket(&self, ticket: &str, now: Timestamp) -> Option<Ticket> {
        let payload: TicketPayload = self.verify(TICKET, &self.ticket_audience, ticket)?;
        let expires_at = seconds(payload.exp)?;
        let jti: [u8; 16] = canonical(&payload.jti)?;
        if now >= expires_at {
            return None;
        }
        let claims = payload.subject.claims(self.end(payload.iat, payload.until)?)?;
        let hash = blake3::derive_key("restante v1 socket ticket", &jti);
        Some(Ticket { claims, single_use: SingleUse { hash, expires_at } })
    }

    fn sign(&self, kind: &str, payload: &impl Serialize) -> Option<String> {
        let (name, key) = &self.signing;
        let header =
            Header { typ: Some(kind.to_owned()), kid: Some(name.clone()), ..Header::new(Algorithm::EdDSA) };
        match jsonwebtoken::encode(&header, payload, key) {
            Ok(token) => Some(token),
            Err(error) => {
                tracing::error!(kind = ?error.kind(), "a token could not be signed");
                None
            }
        }
    }

    fn verify<P: DeserializeOwned>(&self, kind: &str, audience: &str, token: &str) -> Option<P> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(kind) || header.crit.is_some() {
            return None;
        }
        let name = header.kid?;
        let (_, key) = self.verifying.iter().find(|(known, _)| *known == name)?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        rules.set_issuer(&[&self.relay_name]);
        rules.set_audience(&[audience]);
        // The injected clock decides about the end, not the machine's.
        rules.validate_exp = false;
        Some(jsonwebtoken::decode::<P>(token, key, &rules).ok()?.claims)
    }

    /// When something ends that was issued then: a token from before the life was shortened ends earlier than it says,
    /// because revocations are remembered for the present life only.
    fn end(&self, issued_at: i64, says: i64) -> Option<Timestamp> {
        let longest = issued_at.checked_add(i64::try_from(self.life.as_secs()).ok()?)?;
        seconds(says.min(longest))
    }
}

impl Subject {
    fn of(caller: &Caller, session: SessionId, user_since: Timestamp) -> Self {
        Self {
            sub: Id(caller.user_id.uuid()),
            sid: Id(session.uuid()),
            device_id: caller.device_id.as_str().to_owned(),
            device_number: caller.device_number.get(),
            device_no: caller.device_no.0,
            user_since: user_since.seconds(),
        }
    }

    fn claims(&self, expires_at: Timestamp) -> Option<Claims> {
        let caller = Caller {
            user_id: UserId::new(self.sub.0),
            device_id: DeviceId::parse(&self.device_id).ok()?,
            device_number: DeviceNumber::new(self.device_number.into()).ok()?,
            device_no: DeviceNo(self.device_no),
        };
        let session = SessionId::new(self.sid.0);
        Some(Claims { caller, session, user_since: seconds(self.user_since)?, expires_at })
    }
}

fn seconds(seconds: i64) -> Option<Timestamp> {
    seconds.checked_mul(1000).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests;
