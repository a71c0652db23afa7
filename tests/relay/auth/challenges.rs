//! Logging in: a challenge is answered once, in time, by the right key over the right words, or not at all.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::bent;
use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, unb64},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    bodies_that_are_none_are_refused,
    strangers_get_a_challenge_like_anybody,
    a_wrong_answer_is_refused_without_a_reason_and_harms_nothing,
    a_challenge_ends_after_a_minute,
    a_challenge_opens_exactly_one_session,
    statements_are_for_the_relay_that_was_dialled,
    the_lives_of_tokens_are_settings,
}

const BOTH: [Kind; 2] = [Kind::Ed25519, Kind::Signal];

async fn bodies_that_are_none_are_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let challenge = alice.challenge().await;
    let login = alice.login(&challenge);
    let bad: &[(&str, Value)] = &[
        ("user_id", json!("not-a-uuid")),
        ("user_id", json!(alice.user_id.simple().to_string())),
        ("user_id", json!(7)),
        ("user_id", Value::Null),
        ("device_id", json!("")),
        ("device_id", json!("a b")),
        ("device_id", json!("x".repeat(65))),
        ("device_id", json!("t\u{e9}l\u{e9}phone")),
        ("device_id", json!(["phone"])),
        ("password", json!("secret")),
    ];
    let also_bad: &[(&str, Value)] =
        &[("challenge", json!(7)), ("signature", json!("?")), ("signature", Value::Null)];
    let asking = json!({ "user_id": alice.user_id, "device_id": "phone" });
    for (path, body, fields) in [
        ("/api/v1/auth/challenge", &asking, bad.to_vec()),
        ("/api/v1/auth/token", &login, [bad, also_bad].concat()),
    ] {
        for (field, value) in fields {
            let mut body = body.clone();
            body[field] = value;
            let problem = alice.anonymous(Method::POST, path, Some(&body)).await.refused(400, "bad-field");
            assert_eq!(problem["field"], field, "{problem}");
            body.as_object_mut().unwrap().remove(field);
            if field != "password" {
                alice.anonymous(Method::POST, path, Some(&body)).await.refused(400, "bad-field");
            }
        }
    }
    alice.answer(&login).await.is(200);
    // Ids are signed in lower case, however they are written.
    let mut login = alice.login(&alice.challenge().await);
    login["user_id"] = json!(alice.user_id.to_string().to_uppercase());
    alice.answer(&login).await.is(200);
}

async fn strangers_get_a_challenge_like_anybody(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let asked = async |user: Uuid, device: &str| {
        let body = json!({ "user_id": user, "device_id": device });
        let answer = alice.anonymous(Method::POST, "/api/v1/auth/challenge", Some(&body)).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.is(200)
    };
    let known = asked(alice.user_id, "phone").await;
    let shape = |answer: &Value| -> Vec<(String, usize)> {
        let fields = answer.as_object().unwrap().iter();
        fields.map(|(name, value)| (name.clone(), value.as_str().unwrap().len())).collect()
    };
    assert_eq!(known.as_object().unwrap().len(), 2);
    let mut challenges = BTreeSet::from([known["challenge"].to_string()]);
    for (user, device) in [
        (alice.user_id, "tower"),
        (Uuid::new_v4(), "phone"),
        (Uuid::nil(), "phone"),
        (alice.user_id, "phone"),
    ] {
        let answer = asked(user, device).await;
        assert_eq!(shape(&answer), shape(&known));
        assert_eq!(answer["expires_at"], known["expires_at"]);
        assert!(challenges.insert(answer["challenge"].to_string()), "no challenge comes twice");
    }
}

/// The refusal without what is its own.
fn told(answer: Answer, name: &str) -> Value {
    assert_eq!((answer.status, answer.code()), (401, "bad-proof"), "{name}: {answer:?}");
    let mut problem = answer.body;
    problem.as_object_mut().unwrap().remove("request_id").unwrap();
    problem
}

/// Answers to this challenge of the phone that somebody else could give.
fn wrong_answers(
    phone: &Device,
    laptop: &Device,
    bob: &Device,
    challenge: &str,
) -> Vec<(&'static str, Value)> {
    let good = phone.login(challenge);
    let (user, foreign) = (phone.user_id.to_string(), bob.user_id.to_string());
    let signed = |by: &Device, relay: &str, user: &str, device: &str, challenge: &str| {
        let mut login = good.clone();
        login["signature"] = json!(b64(by.login_signature(relay, user, device, challenge)));
        login
    };
    let told = |field: &str, value: &str| {
        let mut login = good.clone();
        login[field] = json!(value);
        login
    };
    vec![
        ("by the key of a sibling", signed(laptop, "localhost", &user, "phone", challenge)),
        ("by the key of another user", signed(bob, "localhost", &user, "phone", challenge)),
        ("over another user id", signed(phone, "localhost", &foreign, "phone", challenge)),
        ("over another device id", signed(phone, "localhost", &user, "laptop", challenge)),
        ("over another relay name", signed(phone, "relay.example.org", &user, "phone", challenge)),
        ("over no relay name", signed(phone, "", &user, "phone", challenge)),
        ("over upper case", signed(phone, "localhost", &user.to_uppercase(), "phone", challenge)),
        ("over another challenge", signed(phone, "localhost", &user, "phone", &bent(challenge, 0))),
        ("over nothing", told("signature", &b64(phone.keys.sign(b"")))),
        ("of zeros", told("signature", &b64([0; 64]))),
        ("too short", told("signature", &b64([1; 63]))),
        ("too long", told("signature", &b64([1; 65]))),
        ("empty", told("signature", "")),
        ("for a sibling", told("device_id", "laptop")),
        ("for a device that is none", told("device_id", "tower")),
        ("for another user", told("user_id", &foreign)),
        ("for a user who is none", told("user_id", &Uuid::new_v4().to_string())),
        ("to no challenge", phone.login("")),
        ("to a made-up challenge", phone.login("challenge")),
        ("to a truncated challenge", phone.login(&challenge[..challenge.len() - 1])),
        ("to a longer challenge", phone.login(&format!("{challenge}A"))),
        ("to a very long challenge", phone.login(&"A".repeat(50_000))),
    ]
}

async fn a_wrong_answer_is_refused_without_a_reason_and_harms_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let other_relay = Backend::embedded();
    let elsewhere = other_relay.relay(&[]).await;
    for kind in BOTH {
        let phone = Device::registered(&relay, kind).await;
        let laptop = phone.linked("laptop").await;
        let bob = Device::registered(&relay, kind).await;
        let challenge = phone.challenge().await;
        let good = phone.login(&challenge);
        let mut wrong = wrong_answers(&phone, &laptop, &bob, &challenge);
        wrong.push(("to a sibling's challenge", phone.login(&laptop.challenge().await)));
        wrong.push(("to another user's challenge", phone.login(&bob.challenge().await)));
        let there = Device::of(&elsewhere.url(), phone.user_id, "phone", kind);
        wrong.push(("to another relay's challenge", phone.login(&there.challenge().await)));
        wrong.push(("to what is no challenge", phone.login(&URL_SAFE_NO_PAD.encode([7; 40]))));
        let signature = unb64(&good["signature"]);
        for place in 0..signature.len() {
            let mut bytes = signature.clone();
            // The bit that XEdDSA leaves open is not this one.
            bytes[place] ^= 1;
            let mut login = good.clone();
            login["signature"] = json!(b64(bytes));
            wrong.push(("with a flipped bit", login));
        }
        for place in 0..challenge.len() {
            wrong.push(("to a bent challenge", phone.login(&bent(&challenge, place))));
        }
        let mut refusals = BTreeSet::new();
        for (name, login) in wrong {
            refusals.insert(told(phone.answer(&login).await, name).to_string());
        }
        assert_eq!(phone.sessions().await.len(), 2, "nobody got in");
        phone.answer(&good).await.is(200);
        refusals.insert(told(phone.answer(&good).await, "replayed").to_string());
        refusals.insert(told(phone.answer(&phone.login(&challenge)).await, "signed again").to_string());
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert_eq!(phone.sessions().await.len(), 3);
    }
    other_relay.finish().await;
}

async fn a_challenge_ends_after_a_minute(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    for kind in BOTH {
        let alice = Device::registered(&relay, kind).await;
        let [early, late] = [alice.challenge().await, alice.challenge().await];
        clock.advance(Duration::from_millis(59_999));
        let answer = alice.answer(&alice.login(&early)).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let tokens = answer.is(200);
        assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(900)));
        assert_eq!(tokens["refresh_expires_in"], 7 * 86_400);
        clock.advance(Duration::from_millis(1));
        alice.answer(&alice.login(&late)).await.refused(401, "bad-proof");
        alice.answer(&alice.login(&early)).await.refused(401, "bad-proof");
        clock.advance(Duration::from_hours(1));
        alice.answer(&alice.login(&early)).await.refused(401, "bad-proof");
        alice.answer(&alice.login(&alice.challenge().await)).await.is(200);
    }
}

async fn a_challenge_opens_exactly_one_session(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let alice = Device::registered(&relay, kind).await;
        let challenge = alice.challenge().await;
        // Signal signatures are random: every answer is another one.
        let logins: Vec<_> = (0..16).map(|_| alice.login(&challenge)).collect();
        let answers = join_all(logins.iter().map(|login| alice.answer(login))).await;
        let (accepted, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status == 200);
        assert_eq!((accepted.len(), refused.len()), (1, 15));
        for answer in refused {
            answer.refused(401, "bad-proof");
        }
        alice.stats_as(accepted[0]["access_token"].as_str().unwrap()).await.is(200);
        assert_eq!(alice.sessions().await.len(), 2);
    }
}

async fn statements_are_for_the_relay_that_was_dialled(backend: &Backend) {
    const NAME: &str = "chat.example.org";
    let relay = backend.relay(&[("RELAY_NAME", NAME)]).await;
    for kind in BOTH {
        let mut first = Device::new(&relay.url(), kind);
        let mut body = first.registration();
        first.register(&body).await.refused(422, "invalid-proof");
        body["proof"] = json!(first.proof(NAME, &body["signed_prekey"]));
        first.register(&body).await.is(201);
        let challenge = first.challenge().await;
        let mut login = first.login(&challenge);
        first.answer(&login).await.refused(401, "bad-proof");
        let user = first.user_id.to_string();
        login["signature"] = json!(b64(first.login_signature(NAME, &user, "phone", &challenge)));
        first.answer(&login).await.is(200);

        first.deactivate(&first).await.is(200);
        let mut second = Device::of(&first.base, first.user_id, "phone", kind);
        let mut body = first.recovery_of(&mut second);
        body["proof"] = json!(second.proof(NAME, &body["signed_prekey"]));
        second.register(&body).await.refused(422, "invalid-proof");
        body["recovery_proof"] = json!(first.recovery_proof(NAME, &user, &second.keys.identity()));
        second.register(&body).await.is(201);
    }
}

async fn the_lives_of_tokens_are_settings(backend: &Backend) {
    let own = [("ACCESS_TOKEN_TTL_SECONDS", "60"), ("REFRESH_TOKEN_TTL_DAYS", "1")];
    let (relay, clock) = backend.relay_at_noon(&own).await;
    let mut alice = Device::new(&relay.url(), Kind::Ed25519);
    let body = alice.registration();
    let registered = alice.register(&body).await;
    assert_eq!(registered.header("cache-control"), "no-store");
    for answer in [registered.is(201), alice.log_in().await, alice.refresh().await] {
        assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(60)));
        assert_eq!(answer["refresh_expires_in"], 86_400);
    }
    clock.advance(Duration::from_mins(1));
    alice.stats_as(&alice.access_token).await.refused(401, "bad-token");
    alice.refresh().await;
    alice.is_alive().await;
    clock.advance(Duration::from_hours(24));
    alice.show(&alice.refresh_token).await.refused(401, "bad-token");
}
