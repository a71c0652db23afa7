//! Admission by the host application: a JWT says whose user id may be claimed, or brought back.

mod key;
mod source;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AdmissionAlgorithm, AdmissionSettings},
    domain::{Timestamp, UserId},
    store::SingleUse,
    wire::parse_uuid,
};
use key::{KeySet, PublicKey};
use source::Source;

/// The longest token that is looked at.
const LONGEST: usize = 8 << 10;

/// How far the host application's clock may be off.
const SKEW: Duration = Duration::from_mins(1);

/// The last second of the year 9999: no claim lies beyond it.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// How often keys are read again.
const READ_EVERY: Duration = Duration::from_mins(5);

/// How long keys are not read again, whatever tokens ask for.
const READ_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// What is wrong with the settings of admission, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct AdmissionFault {
    /// The setting.
    pub setting: &'static str,
    /// What is wrong, without a word of its value.
    pub reason: String,
}

/// What a good admission token says.
#[derive(Debug)]
pub struct Admission {
    /// Whether the user may come back when no device is left.
    pub recover: bool,
    /// What must be used up where the token counts once.
    pub single_use: SingleUse,
}

/// Why an admission token does not count. Nothing more is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefusal {
    /// It is no token, or the host application's key did not sign it.
    #[error("not a token of the host application")]
    Invalid,
    /// It has ended.
    #[error("the token has ended")]
    Expired,
    /// It does not count yet.
    #[error("the token does not count yet")]
    NotYet,
    /// It is meant for somebody else than this relay.
    #[error("the token is not meant for this relay")]
    WrongAudience,
    /// It is about another user.
    #[error("the token is about another user")]
    WrongSubject,
    /// The host application's keys could not be read so far.
    #[error("the host application's keys are not known yet")]
    KeysUnavailable,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    aud: Option<Audience>,
    exp: f64,
    nbf: Option<f64>,
    recover: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Checks admission tokens, and follows the keys of the host application.
pub struct Admissions {
    algorithm: AdmissionAlgorithm,
    audience: String,
    source: Source,
    /// None until keys were read for the first time.
    keys: RwLock<Option<KeySet>>,
    wanted: Notify,
}

impl Admissions {
    /// Admission as it is configured; None where it is not. Keys in settings and files are read at once, those of a URL
    /// when [`Admissions::follow`] runs.
    ///
    /// # Errors
    /// What is wrong with a setting.
    pub fn new(settings: &AdmissionSettings) -> Result<Option<Self>, AdmissionFault> {
        let (setting, source) = match (&settings.key, &settings.jwks) {
            (None, None) => return Ok(None),
            (Some(key), _) => ("ADMISSION_KEY", Ok(Source::of_key(key))),
            (None, Some(jwks)) => ("ADMISSION_JWKS", Source::of_jwks(jwks.expose_secret())),
        };
        let fault = |reason: String| AdmissionFault { setting, reason };
        let source = source.map_err(|reason| fault(reason.to_owned()))?;
        let keys = if source.is_remote() {
            None
        } else {
            let keys = source.read(settings.algorithm).map_err(|error| fault(error.to_string()))?;
            if keys.is_empty() {
                return Err(fault("there is no key in it that fits ADMISSION_ALGORITHM".to_owned()));
            }
            Some(keys)
        };
        Ok(Some(Self {
            algorithm: settings.algorithm,
            audience: settings.audience.clone(),
            source,
            keys: RwLock::new(keys),
            wanted: Notify::new(),
        }))
    }

    /// What a token says, if it admits this user now.
    ///
    /// # Errors
    /// An [`AdmissionRefusal`].
    pub fn check(&self, token: &str, user: UserId, now: Timestamp) -> Result<Admission, AdmissionRefusal> {
        if token.len() > LONGEST {
            return Err(AdmissionRefusal::Invalid);
        }
        let (input, signature) = token.rsplit_once('.').ok_or(AdmissionRefusal::Invalid)?;
        let (header, payload) = input.split_once('.').ok_or(AdmissionRefusal::Invalid)?;
        let header: Header = decoded(header)?;
        // The setting decides about the algorithm; the token may only agree. An extension that must be understood is not.
        if header.alg != algorithm_name(self.algorithm) || header.crit.is_some() {
            return Err(AdmissionRefusal::Invalid);
        }
        let key = self.key(header.kid.as_deref())?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| AdmissionRefusal::Invalid)?;
        if !key.verifies(input.as_bytes(), &signature) {
            return Err(AdmissionRefusal::Invalid);
        }
        let claims: Claims = decoded(payload)?;
        let expires_at = self.check_claims(&claims, user, now)?;
        // The input that was verified and not the token, whose signature may have a second spelling.
        let hash = blake3::derive_key("restante v1 admission token", input.as_bytes());
        Ok(Admission { recover: claims.recover.unwrap_or(false), single_use: SingleUse { hash, expires_at } })
    }

    /// The moment from which the token is refused for its age.
    fn check_claims(
        &self,
        claims: &Claims,
        user: UserId,
        now: Timestamp,
    ) -> Result<Timestamp, AdmissionRefusal> {
        let meant_for_us = match &claims.aud {
            Some(Audience::One(audience)) => *audience == self.audience,
            Some(Audience::Many(audiences)) => audiences.contains(&self.audience),
            None => false,
        };
        if !meant_for_us {
            return Err(AdmissionRefusal::WrongAudience);
        }
        if claims.sub.as_deref().and_then(parse_uuid) != Some(user.uuid()) {
            return Err(AdmissionRefusal::WrongSubject);
        }
        if let Some(begin) = claims.nbf
            && now < moment(begin)?.minus(SKEW)
        {
            return Err(AdmissionRefusal::NotYet);
        }
        let expires_at = moment(claims.exp)?.plus(SKEW);
        if now < expires_at { Ok(expires_at) } else { Err(AdmissionRefusal::Expired) }
    }

    fn key(&self, id: Option<&str>) -> Result<PublicKey, AdmissionRefusal> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let usable = keys.as_ref().filter(|keys| !keys.is_empty());
        let Some(key) = usable.and_then(|keys| keys.find(id)) else {
            // A new key of the host application, perhaps; or nothing could be read so far.
            self.wanted.notify_one();
            let refusal = usable.map_or(AdmissionRefusal::KeysUnavailable, |_| AdmissionRefusal::Invalid);
            return Err(refusal);
        };
        Ok(key.clone())
    }

    /// Reads the keys again. Blocks, for 10 s at most. When it fails the last good keys stay.
    pub fn refresh(&self) {
        match self.source.read(self.algorithm) {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!("the host application publishes no admission key that fits");
                }
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys);
            }
            Err(error) => {
                tracing::warn!(%error, "the admission keys could not be read; the last good ones stay");
            }
        }
    }

    /// Follows the keys until stopped: reads them every 5 minutes, and when a token names one that is not known, at most
    /// once in 10 s.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if !self.source.can_change() {
            return stop.cancelled().await;
        }
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = self.wanted.notified() => {}
            }
            let this = Arc::clone(&self);
            let reading = tokio::task::spawn_blocking(move || this.refresh());
            match stop.run_until_cancelled(reading).await {
                None => return,
                Some(Err(_)) => tracing::error!("the task that reads admission keys failed"),
                Some(Ok(())) => {}
            }
            if stop.run_until_cancelled(sleep(READ_AT_MOST_EVERY)).await.is_none() {
                return;
            }
        }
    }
}

const fn algorithm_name(algorithm: AdmissionAlgorithm) -> &'static str {
    match algorithm {
        AdmissionAlgorithm::EdDsa => "EdDSA",
        AdmissionAlgorithm::Es256 => "ES256",
        AdmissionAlgorithm::Rs256 => "RS256",
    }
}

fn decoded<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, AdmissionRefusal> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| AdmissionRefusal::Invalid)?;
    serde_json::from_slice(&json).map_err(|_| AdmissionRefusal::Invalid)
}

/// The moment of a `NumericDate` (RFC 7519), which may have a fraction; that is cut off.
fn moment(seconds: f64) -> Result<Timestamp, AdmissionRefusal> {
    if !(0.0..=LAST_SECOND).contains(&seconds) {
        return Err(AdmissionRefusal::Invalid);
    }
    #[expect(clippy::cast_possible_truncation, reason = "within the range of the line above")]
    let seconds = seconds as i64;
    Ok(Timestamp::from_millis(seconds * 1000))
}

/// Whether a fuzzer's bytes are a JWK set with a key that some algorithm can use.
#[cfg(any(fuzzing, test))]
pub(super) fn reads_keys(json: &[u8]) -> bool {
    let algorithms = [AdmissionAlgorithm::EdDsa, AdmissionAlgorithm::Es256, AdmissionAlgorithm::Rs256];
    let usable = |algorithm| KeySet::from_jwks(json, algorithm).is_some_and(|keys: KeySet| !keys.is_empty());
    algorithms.map(usable).contains(&true)
}

#[cfg(any(fuzzing, test))]
pub(super) use key::ED25519_INFO;

#[cfg(test)]
mod tests;
