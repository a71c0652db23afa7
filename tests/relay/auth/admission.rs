//! Admission by the host application: who may claim a user id, and who may come back to one.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    bent,
    host::{Host, NOW},
    jwt,
};
use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    process,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    without_admission_nobody_claims_a_user_id,
    tokens_that_are_not_the_hosts_admit_nobody,
    tokens_that_are_the_hosts_admit_their_user,
    the_key_may_stand_in_a_file,
    a_key_set_is_searched_by_key_id,
    keys_that_cannot_be_read_are_a_passing_fault,
    a_claimed_user_id_is_not_claimed_again,
    the_host_brings_a_user_back_once,
    a_recovery_token_that_claimed_the_user_id_is_used,
    the_host_brings_a_user_back_where_registration_is_open,
}

const TOKEN: (&str, &str) = ("REGISTRATION", "token");

fn newcomer(base: &str, kind: Kind) -> (Device, Value) {
    let mut device = Device::new(base, kind);
    let body = device.registration();
    (device, body)
}

async fn without_admission_nobody_claims_a_user_id(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    for kind in [Kind::Ed25519, Kind::Signal] {
        let (mut alice, body) = newcomer(&relay.url(), kind);
        alice.register(&body).await.refused(403, "admission-required");
        let path = format!("/api/v1/keys/register/{}", alice.user_id);
        let basic = alice.request(Method::POST, &path).basic_auth("alice", Some("secret")).json(&body);
        assert_eq!(basic.send().await.unwrap().status(), 403, "another scheme is no admission");
        alice.register_by(&host.admit(alice.user_id), &body).await.is(201);
        alice.is_alive().await;
        let laptop = alice.linked("laptop").await;
        laptop.is_alive().await;
    }
}

/// Tokens that look as if they admitted this user.
fn bad_tokens(host: &Host, user: Uuid) -> Vec<(&'static str, String)> {
    let (header, claims) = (Host::header(), Host::claims(user));
    let told = |name: &str, value: Value| host.token(&jwt::with(&claims, name, value));
    let under = |name: &str, value: Value| jwt::signed(&jwt::with(&header, name, value), &claims, &host.key);
    let good = host.admit(user);
    let [head, payload, signature] = jwt::parts(&good);
    let pem = jwt::pem(&host.key);
    vec![
        ("garbage", "garbage".into()),
        ("empty parts", "..".into()),
        ("empty objects", "e30.e30.e30".into()),
        ("huge", "A".repeat(10_000)),
        ("truncated", good[..good.len() - 1].into()),
        ("without signature", format!("{head}.{payload}.")),
        ("without the last part", format!("{head}.{payload}")),
        ("with a fourth part", format!("{good}.{signature}")),
        ("with a bent payload", bent(&good, head.len() + 10)),
        ("with a bent signature", bent(&good, head.len() + payload.len() + 10)),
        ("by another key", jwt::signed(&header, &claims, &jwt::fresh_key())),
        ("none", jwt::unsigned(&header, &claims, "none")),
        ("HS256 by the PEM", jwt::by_hmac(&header, &claims, pem.as_bytes())),
        ("HS256 by the trimmed PEM", jwt::by_hmac(&header, &claims, pem.trim().as_bytes())),
        ("HS256 by the key", jwt::by_hmac(&header, &claims, host.key.verifying_key().as_bytes())),
        ("another algorithm", under("alg", json!("ES256"))),
        ("no algorithm", under("alg", Value::Null)),
        ("an extension that must be understood", under("crit", json!(["exp"]))),
        ("another audience", told("aud", json!("another"))),
        ("other audiences", told("aud", json!(["another", "restante2"]))),
        ("no audience", told("aud", Value::Null)),
        ("another user", told("sub", json!(Uuid::new_v4()))),
        ("no user", told("sub", Value::Null)),
        ("not a user id", told("sub", json!("alice"))),
        ("no end", told("exp", Value::Null)),
        ("an end as text", told("exp", json!((NOW + 600).to_string()))),
        ("ended beyond the skew", told("exp", json!(NOW - 61))),
        ("ended at the skew", told("exp", json!(NOW - 60))),
        ("not yet, beyond the skew", told("nbf", json!(NOW + 61))),
        ("a recovery that is not told by a boolean", told("recover", json!("true"))),
    ]
}

async fn tokens_that_are_not_the_hosts_admit_nobody(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    let (mut bob, body) = newcomer(&relay.url(), Kind::Ed25519);
    bob.register_by(&host.admit(bob.user_id), &body).await.is(201);
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    let mut bad = bad_tokens(&host, alice.user_id);
    bad.push(("a relay's access token", bob.access_token.clone()));
    bad.push(("a refresh token", bob.refresh_token.clone()));
    bad.push(("another's", host.admit(bob.user_id)));
    for (name, token) in bad {
        let answer = alice.register_by(&token, &body).await;
        assert_eq!((answer.status, answer.code()), (401, "bad-admission"), "{name}: {answer:?}");
    }
    bob.bundle(&alice).await.refused(404, "not-found");
    alice.register_by(&host.admit(alice.user_id), &body).await.is(201);
    alice.is_alive().await;
}

async fn tokens_that_are_the_hosts_admit_their_user(backend: &Backend) {
    let host = Host::new();
    let own = [TOKEN, ("ADMISSION_KEY", &*jwt::pem(&host.key)), ("ADMISSION_AUDIENCE", "chat.example.org")];
    let (relay, _clock) = backend.relay_at_noon(&own).await;
    let good: &[(&str, Value)] = &[
        ("exp", json!(NOW - 59)),
        ("exp", json!(NOW + 1)),
        ("nbf", json!(NOW + 59)),
        ("nbf", json!(NOW - 1000)),
        ("aud", json!(["another", "chat.example.org"])),
        ("recover", json!(true)),
        ("recover", json!(false)),
        ("name", json!("Alice")),
        ("iat", json!(NOW)),
    ];
    for (name, value) in good {
        let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
        alice.register_by(&host.admit(alice.user_id), &body).await.refused(401, "bad-admission");
        let claims = jwt::with(&Host::claims(alice.user_id), "aud", json!("chat.example.org"));
        let token = host.token(&jwt::with(&claims, name, value.clone()));
        let answer = alice.register_by(&token, &body).await;
        assert_eq!(answer.status, 201, "{name} {value}: {answer:?}");
        alice.is_alive().await;
    }
}

async fn the_key_may_stand_in_a_file(backend: &Backend) {
    let host = Host::new();
    let path = host.file("key.pem", &jwt::pem(&host.key));
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &path)]).await;
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    alice.register_by(&Host::new().admit(alice.user_id), &body).await.refused(401, "bad-admission");
    alice.register_by(&host.admit(alice.user_id), &body).await.is(201);
}

async fn a_key_set_is_searched_by_key_id(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_JWKS", &host.jwks())]).await;
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    let claims = Host::claims(alice.user_id);
    let by = |id: &str| jwt::signed(&jwt::with(&Host::header(), "kid", json!(id)), &claims, &host.key);
    for id in ["other", "unknown"] {
        alice.register_by(&by(id), &body).await.refused(401, "bad-admission");
    }
    alice.register(&body).await.refused(403, "admission-required");
    alice.register_by(&by("main"), &body).await.is(201);
    alice.is_alive().await;
}

async fn keys_that_cannot_be_read_are_a_passing_fault(backend: &Backend) {
    let nowhere = format!("https://127.0.0.1:{}/jwks.json", process::free_port());
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_JWKS", &nowhere)]).await;
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    let answer = alice.register_by(&Host::new().admit(alice.user_id), &body).await;
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    answer.refused(503, "admission-unavailable");
    alice.register(&body).await.refused(403, "admission-required");
}

async fn a_claimed_user_id_is_not_claimed_again(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    alice.register_by(&host.admit(alice.user_id), &body).await.is(201);
    let mut intruder = Device::of(&relay.url(), alice.user_id, "tower", Kind::Ed25519);
    let body = intruder.registration();
    for token in [host.admit(alice.user_id), host.bring_back(alice.user_id)] {
        intruder.register_by(&token, &body).await.refused(403, "link-required");
    }
    intruder.register(&body).await.refused(403, "link-required");
    alice.is_alive().await;
    alice.deactivate(&alice).await.is(200);
    intruder.register_by(&host.admit(alice.user_id), &body).await.refused(403, "link-required");
    let no = jwt::with(&Host::claims(alice.user_id), "recover", json!(false));
    intruder.register_by(&host.token(&no), &body).await.refused(403, "link-required");
    intruder.register(&body).await.refused(403, "link-required");
    // The user's own key needs no host.
    let body = alice.recovery_of(&mut intruder);
    intruder.register(&body).await.is(201);
}

/// Comes back by the host's word, again and again.
async fn comes_back(mut alice: Device, host: &Host) {
    let base = alice.base.clone();
    let (once, again) = (host.bring_back(alice.user_id), host.bring_back(alice.user_id));
    alice.deactivate(&alice).await.is(200);
    let former = alice.access_token.clone();
    alice = Device::of(&base, alice.user_id, "phone", alice.kind);
    let body = alice.registration();
    let forged = Host::new().bring_back(alice.user_id);
    alice.register_by(&forged, &body).await.refused(401, "bad-admission");
    let mut broken = body.clone();
    broken["proof"] = json!(b64([0; 64]));
    alice.register_by(&once, &broken).await.refused(422, "invalid-proof");
    alice.register_by(&once, &body).await.is(201);
    alice.is_alive().await;
    alice.stats_as(&former).await.refused(401, "bad-token");
    assert!(alice.events().await.contains(&"admission_refused".to_owned()));

    alice.deactivate(&alice).await.is(200);
    alice = Device::of(&base, alice.user_id, "phone", alice.kind);
    let body = alice.registration();
    alice.register_by(&once, &body).await.refused(403, "admission-used");
    alice.register_by(&again, &body).await.is(201);
    alice.is_alive().await;
}

async fn the_host_brings_a_user_back_once(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    for kind in [Kind::Ed25519, Kind::Signal] {
        let (mut alice, body) = newcomer(&relay.url(), kind);
        alice.register_by(&host.admit(alice.user_id), &body).await.is(201);
        comes_back(alice, &host).await;
    }
}

async fn a_recovery_token_that_claimed_the_user_id_is_used(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[TOKEN, ("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    let (mut alice, body) = newcomer(&relay.url(), Kind::Ed25519);
    let token = host.bring_back(alice.user_id);
    alice.register_by(&token, &body).await.is(201);
    alice.deactivate(&alice).await.is(200);
    let mut intruder = Device::of(&relay.url(), alice.user_id, "phone", Kind::Ed25519);
    let body = intruder.registration();
    intruder.register_by(&token, &body).await.refused(403, "admission-used");
}

async fn the_host_brings_a_user_back_where_registration_is_open(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    comes_back(alice, &host).await;
}

#[test]
fn admission_that_cannot_work_is_told_before_the_relay_starts() {
    let host = Host::new();
    let (pem, jwks) = (jwt::pem(&host.key), host.jwks());
    let empty = host.file("empty.json", "{\"keys\":[]}");
    let faults: &[(&[(&str, &str)], &str)] = &[
        (&[TOKEN], "ADMISSION_KEY"),
        (&[("ADMISSION_KEY", &pem), ("ADMISSION_JWKS", &jwks)], "ADMISSION_JWKS"),
        (&[TOKEN, ("ADMISSION_KEY", "mistyped-key")], "ADMISSION_KEY"),
        (&[TOKEN, ("ADMISSION_KEY", &pem), ("ADMISSION_ALGORITHM", "RS256")], "ADMISSION_KEY"),
        (&[TOKEN, ("ADMISSION_KEY", &pem), ("ADMISSION_ALGORITHM", "none")], "ADMISSION_ALGORITHM"),
        (&[TOKEN, ("ADMISSION_KEY", &pem), ("ADMISSION_ALGORITHM", "HS256")], "ADMISSION_ALGORITHM"),
        (&[TOKEN, ("ADMISSION_JWKS", &empty)], "ADMISSION_JWKS"),
        (&[TOKEN, ("ADMISSION_JWKS", "no-such-file.json")], "ADMISSION_JWKS"),
        (&[TOKEN, ("ADMISSION_JWKS", "http://keys.example.org/jwks.json")], "ADMISSION_JWKS"),
        (&[("REGISTRATION", "closed")], "REGISTRATION"),
    ];
    for (settings, name) in faults {
        let mut told: BTreeMap<_, _> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        told.insert("PORT".into(), "0".into());
        let ended = process::run(&[], &told);
        assert!(!ended.status.success(), "{settings:?}");
        let written = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(written.contains(name), "{settings:?}: {written}");
        assert!(!written.contains("mistyped-key"), "{written}");
    }
}
