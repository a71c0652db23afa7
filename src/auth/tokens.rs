//! Access tokens: JWTs signed with Ed25519 (RFC 7519, RFC 8037), checked without asking the store.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::{Caller, DeviceId, DeviceNo, DeviceNumber, SessionId, Timestamp, UserId},
    wire::Id,
};

/// Tokens whose signature was checked, remembered so that it is checked once.
const REMEMBERED: usize = 50_000;

/// What an access token says.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The device it was given to.
    pub caller: Caller,
    /// The session it belongs to.
    pub session: SessionId,
    /// When it ends.
    pub expires_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    iss: String,
    aud: String,
    sub: Id,
    sid: Id,
    device_id: String,
    device_number: u8,
    device_no: i64,
    iat: i64,
    exp: i64,
}

/// Signs and checks access tokens.
pub struct Tokens {
    relay_name: String,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    life: Duration,
    remembered: Mutex<HashMap<[u8; 32], Claims>>,
}

impl Tokens {
    /// Tokens of the relay of this name, signed with the key grown from `seed`.
    #[must_use]
    pub fn new(relay_name: &str, seed: &[u8; 32], life: Duration) -> Self {
        if PROVIDER.install_default().is_err() {
            tracing::trace!("another relay of this process installed the same provider");
        }
        let public = SigningKey::from_bytes(seed).verifying_key();
        Self {
            relay_name: relay_name.to_owned(),
            key_id: blake3::hash(public.as_bytes()).to_hex()[..16].to_owned(),
            signing: EncodingKey::from_ed_der(seed),
            verifying: DecodingKey::from_ed_der(public.as_bytes()),
            life,
            remembered: Mutex::default(),
        }
    }

    /// How long a token lives.
    #[must_use]
    pub const fn life(&self) -> Duration {
        self.life
    }

    /// A token for a device. None when it could not be signed, which would be a fault of this program.
    #[must_use]
    pub fn issue(&self, caller: &Caller, session: SessionId, now: Timestamp) -> Option<String> {
        let payload = Payload {
            iss: self.relay_name.clone(),
            aud: self.relay_name.clone(),
            sub: Id(caller.user_id.uuid()),
            sid: Id(session.uuid()),
            device_id: caller.device_id.as_str().to_owned(),
            device_number: caller.device_number.get(),
            device_no: caller.device_no.0,
            iat: now.seconds(),
            exp: now.plus(self.life).seconds(),
        };
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &payload, &self.signing).ok()
    }

    /// What a token says, when it is this relay's and has not ended.
    #[must_use]
    pub fn check(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let digest = *blake3::hash(token.as_bytes()).as_bytes();
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => self.remember(digest, self.decode(token)?),
        };
        (now < claims.expires_at).then_some(claims)
    }

    fn remember(&self, digest: [u8; 32], claims: Claims) -> Claims {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest, claims.clone());
        claims
    }

    fn decode(&self, token: &str) -> Option<Claims> {
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_issuer(&[&self.relay_name]);
        rules.set_audience(&[&self.relay_name]);
        // The injected clock decides about the end, not the machine's.
        rules.validate_exp = false;
        let payload = jsonwebtoken::decode::<Payload>(token, &self.verifying, &rules).ok()?.claims;
        // A token from before the life was shortened: revocations are remembered for the present life only.
        let longest = payload.iat.checked_add(i64::try_from(self.life.as_secs()).ok()?)?;
        Some(Claims {
            caller: Caller {
                user_id: UserId::new(payload.sub.0),
                device_id: DeviceId::parse(&payload.device_id).ok()?,
                device_number: DeviceNumber::new(payload.device_number.into()).ok()?,
                device_no: DeviceNo(payload.device_no),
            },
            session: SessionId::new(payload.sid.0),
            expires_at: Timestamp::from_millis(payload.exp.min(longest).checked_mul(1000)?),
        })
    }
}

/// A fresh refresh token: 32 random bytes as text, and the hash that is stored of it.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn fresh_secret() -> Result<(String, [u8; 32]), getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
    let hash = secret_hash(&text);
    Ok((text, hash))
}

/// What is stored of a secret that was given out.
#[must_use]
pub fn secret_hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A fresh session id.
#[must_use]
pub fn fresh_session_id() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

/// Ed25519 alone, over raw keys: every other algorithm is unknown here, and so cannot be smuggled in.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match (algorithm, <&[u8; 32]>::try_from(key.as_bytes())) {
        (Algorithm::EdDSA, Ok(seed)) => Ok(Box::new(Ed25519Signer(SigningKey::from_bytes(seed)))),
        _ => Err(refused()),
    },
    verifier_factory: |algorithm, key| match (algorithm, <&[u8; 32]>::try_from(key.try_get_as_bytes()?)) {
        (Algorithm::EdDSA, Ok(public)) => {
            Ok(Box::new(Ed25519Verifier(VerifyingKey::from_bytes(public).map_err(|_| refused())?)))
        }
        _ => Err(refused()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

fn refused() -> Error {
    ErrorKind::InvalidAlgorithm.into()
}

struct Ed25519Signer(SigningKey);

impl signature::Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Ed25519Verifier(VerifyingKey);

impl signature::Verifier<Vec<u8>> for Ed25519Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let signature = Signature::from_slice(signature).map_err(|_| signature::Error::new())?;
        self.0.verify_strict(message, &signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ed25519Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn tokens(name: &str, seed: u8) -> Tokens {
        Tokens::new(name, &[seed; 32], Duration::from_mins(15))
    }

    fn caller() -> Caller {
        Caller {
            user_id: UserId::new(Uuid::from_u128(7)),
            device_id: DeviceId::parse("phone").unwrap(),
            device_number: DeviceNumber::new(3).unwrap(),
            device_no: DeviceNo(99),
        }
    }

    #[test]
    fn a_token_names_its_device_until_it_ends() {
        let tokens = tokens("relay", 1);
        let session = fresh_session_id();
        let token = tokens.issue(&caller(), session, NOW).unwrap();
        for _ in 0..2 {
            let claims = tokens.check(&token, NOW).unwrap();
            assert_eq!(claims.caller, caller());
            assert_eq!(claims.session, session);
        }
        assert!(tokens.check(&token, NOW.plus(Duration::from_secs(899))).is_some());
        assert!(tokens.check(&token, NOW.plus(Duration::from_mins(15))).is_none());
    }

    #[test]
    fn a_token_of_another_relay_key_or_algorithm_is_worth_nothing() {
        let tokens_here = tokens("relay", 1);
        let other_key = tokens("relay", 2).issue(&caller(), fresh_session_id(), NOW).unwrap();
        let other_name = tokens("other", 1).issue(&caller(), fresh_session_id(), NOW).unwrap();
        let good = tokens_here.issue(&caller(), fresh_session_id(), NOW).unwrap();
        let (_, rest) = good.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        let header =
            |json: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, json);
        let none = format!("{}.{payload}.", header(r#"{"alg":"none","typ":"JWT"}"#));
        let hmac = format!("{}.{payload}.{signature}", header(r#"{"alg":"HS256","typ":"JWT"}"#));
        for bad in [other_key, other_name, none, hmac, format!("{good}A"), String::new(), "a.b.c".to_owned()]
        {
            assert!(tokens_here.check(&bad, NOW).is_none());
        }
        assert!(tokens_here.check(&good, NOW).is_some());
    }
}
