//! Tokens for fuzzers; see [`crate::fuzzed`].

use std::{sync::LazyLock, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ed25519_dalek::{Signer as _, SigningKey};

use super::{Admissions, Challenges, RefreshTokens, SigningKeys, Tokens, admission, tokens::Claims};
use crate::{
    config::{AdmissionAlgorithm, AdmissionSettings},
    fuzzed::{NOW, caller},
};

const LIFE: Duration = Duration::from_mins(15);

/// Seeds of the key that signs the relay's tokens, and of the host application's.
const RELAY: [u8; 32] = [7; 32];
const HOST: [u8; 32] = [8; 32];

struct Checkers {
    tokens: Tokens,
    refresh: RefreshTokens,
    challenges: Challenges,
    admissions: Admissions,
}

static CHECKERS: LazyLock<Option<Checkers>> = LazyLock::new(|| {
    let keys = SigningKeys::parse(&STANDARD.encode(RELAY)).ok()?;
    let host = SigningKey::from_bytes(&HOST).verifying_key();
    let info = [&admission::ED25519_INFO[..], host.as_bytes()].concat();
    let settings = AdmissionSettings {
        key: Some(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(info))),
        jwks: None,
        algorithm: AdmissionAlgorithm::EdDsa,
        audience: "restante".to_owned(),
    };
    Some(Checkers {
        tokens: Tokens::new("localhost", &keys, LIFE),
        refresh: RefreshTokens::new([1; 32]),
        challenges: Challenges::new([2; 32], "localhost"),
        admissions: Admissions::new(&settings).ok()??,
    })
});

/// A token of any kind: an access token, a ticket, a refresh token, a challenge, an admission token, or the host application's
/// keys. What begins with a brace is a payload that is signed first, since a fuzzer cannot sign.
pub fn tokens(data: &[u8]) -> bool {
    let Some(checkers) = &*CHECKERS else { unreachable!("the settings are good") };
    let is_jwks = admission::reads_keys(data);
    if data.starts_with(b"{") {
        return payload(checkers, data) | is_jwks;
    }
    str::from_utf8(data).is_ok_and(|text| token(checkers, text))
}

fn token(checkers: &Checkers, text: &str) -> bool {
    let caller = caller(1, "phone");
    let refresh =
        checkers.refresh.read(text).map(|token| assert_eq!(token.text(), text, "one text for a token"));
    let challenge = checkers.challenges.check(text, caller.user_id, &caller.device_id, NOW);
    let admission = checkers.admissions.check(text, caller.user_id, NOW).ok();
    let access = checkers.tokens.check(text, NOW);
    let ticket = checkers.tokens.check_ticket(text, NOW);
    assert!(access.is_none() || ticket.is_none(), "a token is of one kind");
    let ends = [challenge.map(|once| once.expires_at), admission.map(|token| token.single_use.expires_at)];
    assert!(ends.iter().flatten().all(|end| *end > NOW), "what counts has not ended");
    if let Some(claims) = &access {
        check_claims(checkers, text, claims);
    }
    refresh.is_some() || ends.iter().any(Option::is_some) || access.is_some() || ticket.is_some()
}

/// Remembered or not, a token says the same.
fn check_claims(checkers: &Checkers, text: &str, claims: &Claims) {
    let again = checkers.tokens.check(text, NOW);
    assert!(claims.expires_at > NOW);
    assert!(again.is_some_and(|again| {
        (again.session, again.expires_at, again.caller)
            == (claims.session, claims.expires_at, claims.caller.clone())
    }));
}

/// The payload of an access token, a ticket or an admission token.
fn payload(checkers: &Checkers, payload: &[u8]) -> bool {
    let kid = super::signing::key_id(&SigningKey::from_bytes(&RELAY));
    let headers = [
        (RELAY, format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#)),
        (RELAY, format!(r#"{{"alg":"EdDSA","typ":"ticket+jwt","kid":"{kid}"}}"#)),
        (HOST, r#"{"alg":"EdDSA"}"#.to_owned()),
    ];
    headers.map(|(seed, header)| token(checkers, &signed(seed, &header, payload))).contains(&true)
}

fn signed(seed: [u8; 32], header: &str, payload: &[u8]) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = SigningKey::from_bytes(&seed).sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}
