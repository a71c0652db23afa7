//! Access tokens: whoever does not hold a living one of this relay gets in nowhere, by request or by socket.

use std::{sync::Arc, time::Duration};

use ed25519_dalek::SigningKey;
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use restante::domain::ManualClock;
use serde_json::{Value, json};

use super::jwt;
use crate::support::{
    client::{Answer, Device, Kind},
    relay::{Backend, TestRelay, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! {
    tokens_that_are_none_open_nothing,
    forged_tokens_open_nothing,
    browsers_get_in_by_no_worse_a_token,
    a_ticket_opens_one_socket_in_half_a_minute,
    a_token_lives_fifteen_minutes,
    a_token_opens_nothing_of_another,
    a_deactivated_device_stays_dead_when_its_id_comes_back,
    a_logged_out_session_is_dead_and_no_other,
}

struct Scene {
    relay: TestRelay,
    clock: Arc<ManualClock>,
    key: SigningKey,
    alice: Device,
}

async fn scene(backend: &Backend) -> Scene {
    let key = jwt::fresh_key();
    let (relay, clock) = backend.relay_at_noon(&[("TOKEN_SIGNING_KEY", &jwt::setting(&key))]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    Scene { relay, clock, key, alice }
}

/// The opening of a socket, as far as its refusal.
fn opening(device: &Device) -> RequestBuilder {
    let request = device.request(Method::GET, &format!("/ws/{}/{}", device.user_id, device.device_id));
    request
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Both doors of a device, with this `Authorization`.
async fn at_both_doors(device: &Device, authorization: Option<&str>) -> [Answer; 2] {
    let doors = [device.request(Method::GET, &device.own("stats")), opening(device)];
    let mut answers = Vec::new();
    for door in doors {
        let request = match authorization {
            Some(value) => door.header("authorization", value),
            None => door,
        };
        answers.push(Answer::of(request.send().await.unwrap()).await);
    }
    answers.try_into().unwrap()
}

async fn is_refused(device: &Device, name: &str, authorization: Option<&str>, code: &str) {
    for answer in at_both_doors(device, authorization).await {
        assert_eq!((answer.status, answer.code()), (401, code), "{name}: {answer:?}");
    }
}

async fn is_a_bad_token(device: &Device, name: &str, token: &str) {
    is_refused(device, name, Some(&format!("Bearer {token}")), "bad-token").await;
}

/// That nothing of what was refused has harmed the device.
async fn still_gets_in(device: &Device) {
    device.is_alive().await;
    Socket::open(device).await.close().await;
}

async fn ticket(device: &Device) -> String {
    let answer = device.post("/api/v1/auth/ticket", &json!({})).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.is(201)["ticket"].as_str().unwrap().to_owned()
}

async fn tokens_that_are_none_open_nothing(backend: &Backend) {
    let Scene { relay, alice, .. } = scene(backend).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let good = &alice.access_token;
    let not_bearer = [
        ("absent", None),
        ("another scheme", Some("Basic YWxpY2U6c2VjcmV0".to_owned())),
        ("the token under another scheme", Some(format!("Token {good}"))),
        ("the token without a scheme", Some(good.clone())),
    ];
    for (name, authorization) in not_bearer {
        is_refused(&alice, name, authorization.as_deref(), "no-token").await;
    }
    let [header, payload, signature] = jwt::parts(good);
    let [_, foreign_payload, foreign_signature] = jwt::parts(&bob.access_token);
    let ticket = ticket(&alice).await;
    let ticket_header = jwt::parts(&ticket)[0];
    assert_ne!(header, ticket_header, "a ticket says that it is one");
    let bad = [
        ("garbage", "garbage".to_owned()),
        ("three empty parts", "..".to_owned()),
        ("empty objects", "e30.e30.e30".to_owned()),
        ("the header of another", format!("{ticket_header}.{payload}.{signature}")),
        ("the payload of another", format!("{header}.{foreign_payload}.{signature}")),
        ("the signature of another", format!("{header}.{payload}.{foreign_signature}")),
        ("without signature", format!("{header}.{payload}.")),
        ("without its last part", format!("{header}.{payload}")),
        ("with a fourth part", format!("{good}.{signature}")),
        ("twice", format!("{good},{good}")),
        ("with something after it", format!("{good} x")),
        ("a ticket", ticket),
        ("a refresh token", alice.refresh_token.clone()),
        ("a challenge", alice.challenge().await),
    ];
    for (name, token) in bad {
        is_a_bad_token(&alice, name, &token).await;
    }
    for length in [1, header.len(), good.len() / 2, good.len() - 1] {
        is_a_bad_token(&alice, "truncated", &good[..length]).await;
    }
    for place in (0..good.len()).step_by(7) {
        is_a_bad_token(&alice, "one letter changed", &super::bent(good, place)).await;
    }
    // The name of a scheme has no case (RFC 9110, 11.1).
    for answer in at_both_doors(&alice, Some(&format!("bearer {good}"))).await {
        assert!(matches!(answer.status, 101 | 200), "{answer:?}");
    }
    still_gets_in(&alice).await;
    still_gets_in(&bob).await;
}

/// Tokens that only somebody with the relay's own key could make are among them: the claims count too.
fn forgeries(good: &str, key: &SigningKey) -> Vec<(&'static str, String)> {
    let (header, payload) = (jwt::header(good), jwt::payload(good));
    let (public, pem) = (key.verifying_key().to_bytes(), jwt::pem(key));
    let told = |name: &str, value: Value| jwt::signed(&header, &jwt::with(&payload, name, value), key);
    let under = |name: &str, value: Value| jwt::signed(&jwt::with(&header, name, value), &payload, key);
    vec![
        ("another key under the same kid", jwt::signed(&header, &payload, &jwt::fresh_key())),
        ("alg none", jwt::unsigned(&header, &payload, "none")),
        ("alg None", jwt::unsigned(&header, &payload, "None")),
        ("HS256 by the public key", jwt::by_hmac(&header, &payload, &public)),
        (
            "HS256 by the public key in base64",
            jwt::by_hmac(&header, &payload, crate::support::crypto::b64(public).as_bytes()),
        ),
        ("HS256 by the public key in PEM", jwt::by_hmac(&header, &payload, pem.as_bytes())),
        ("HS256 by nothing", jwt::by_hmac(&header, &payload, b"")),
        ("another algorithm over a good signature", under("alg", json!("ES256"))),
        ("an unknown kid", under("kid", json!("another"))),
        ("another relay's iss", told("iss", json!("relay.example.org"))),
        ("another relay's aud", told("aud", json!("relay.example.org"))),
        ("no iss", told("iss", Value::Null)),
        ("no aud", told("aud", Value::Null)),
        ("no sub", told("sub", Value::Null)),
        ("no exp", told("exp", Value::Null)),
        ("exp in the past", told("exp", json!(payload["iat"].as_i64().unwrap() - 1))),
        ("exp as text", told("exp", json!("9999999999"))),
    ]
}

async fn forged_tokens_open_nothing(backend: &Backend) {
    let Scene { relay: _relay, key, alice, .. } = scene(backend).await;
    for (name, token) in forgeries(&alice.access_token, &key) {
        is_a_bad_token(&alice, name, &token).await;
    }
    // The forger's tool itself makes good tokens when it has the key and says the truth.
    let good = &alice.access_token;
    alice.stats_as(&jwt::signed(&jwt::header(good), &jwt::payload(good), &key)).await.is(200);
    still_gets_in(&alice).await;
}

async fn browsers_get_in_by_no_worse_a_token(backend: &Backend) {
    let Scene { relay, key, alice, .. } = scene(backend).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let (ticket, foreign) = (ticket(&alice).await, ticket(&bob).await);
    let mut bad = vec![
        format!("ticket.{}", alice.access_token),
        format!("ticket.{}", alice.refresh_token),
        format!("ticket.{}", &ticket[..ticket.len() - 1]),
        "ticket.garbage".to_owned(),
        format!("bearer.{ticket}"),
        format!("bearer.{}", alice.refresh_token),
    ];
    bad.extend(forgeries(&alice.access_token, &key).into_iter().map(|(_, token)| format!("bearer.{token}")));
    for protocol in bad {
        let request = opening(&alice).header("sec-websocket-protocol", format!("restante.v1, {protocol}"));
        Answer::of(request.send().await.unwrap()).await.refused(401, "bad-token");
    }
    let request = opening(&alice).header("sec-websocket-protocol", format!("restante.v1, ticket.{foreign}"));
    Answer::of(request.send().await.unwrap()).await.refused(403, "not-you");
    let request = opening(&alice).header("sec-websocket-protocol", "restante.v1");
    Answer::of(request.send().await.unwrap()).await.refused(401, "no-token");
    let mut socket = Socket::connect(&alice, Format::Json, Door::Subprotocol).await.unwrap();
    socket.expect("hello").await;
}

async fn a_token_lives_fifteen_minutes(backend: &Backend) {
    let Scene { relay: _relay, clock, mut alice, .. } = scene(backend).await;
    let old = alice.access_token.clone();
    clock.advance(Duration::from_secs(899));
    still_gets_in(&alice).await;
    clock.advance(Duration::from_secs(1));
    is_a_bad_token(&alice, "ended", &old).await;
    assert_eq!(alice.log_in().await["expires_in"], 900);
    still_gets_in(&alice).await;
    is_a_bad_token(&alice, "ended", &old).await;
}

async fn a_token_opens_nothing_of_another(backend: &Backend) {
    let Scene { relay, alice, .. } = scene(backend).await;
    let laptop = alice.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    for other in [&laptop, &bob] {
        let authorization = format!("Bearer {}", alice.access_token);
        for answer in at_both_doors(other, Some(&authorization)).await {
            answer.refused(403, "not-you");
        }
        alice.call(Method::POST, &other.own("prekeys"), Some(&json!([]))).await.refused(403, "not-you");
        still_gets_in(other).await;
    }
    still_gets_in(&alice).await;
}

async fn a_deactivated_device_stays_dead_when_its_id_comes_back(backend: &Backend) {
    let Scene { relay: _relay, alice, .. } = scene(backend).await;
    let mut former = alice.linked("laptop").await;
    let first = former.access_token.clone();
    former.log_in().await;
    let ticket = ticket(&former).await;
    alice.deactivate(&former).await.is(200);
    let dead = async || {
        for token in [&first, &former.access_token] {
            is_a_bad_token(&former, "a dead device's", token).await;
        }
        former.show(&former.refresh_token).await.refused(401, "bad-token");
        let request =
            opening(&former).header("sec-websocket-protocol", format!("restante.v1, ticket.{ticket}"));
        Answer::of(request.send().await.unwrap()).await.refused(401, "bad-token");
        let login = former.login(&former.challenge().await);
        former.answer(&login).await.refused(401, "bad-proof");
    };
    dead().await;
    let laptop = alice.linked("laptop").await;
    dead().await;
    still_gets_in(&laptop).await;
    still_gets_in(&alice).await;
}

async fn a_logged_out_session_is_dead_and_no_other(backend: &Backend) {
    let Scene { relay: _relay, mut alice, .. } = scene(backend).await;
    let (access, refresh) = (alice.access_token.clone(), alice.refresh_token.clone());
    let ticket = ticket(&alice).await;
    alice.log_in().await;
    assert_eq!(alice.log_out(&access).await.is(204), "");
    alice.log_out(&access).await.refused(401, "bad-token");
    is_a_bad_token(&alice, "a logged-out session's", &access).await;
    alice.show(&refresh).await.refused(401, "bad-token");
    let request = opening(&alice).header("sec-websocket-protocol", format!("restante.v1, ticket.{ticket}"));
    Answer::of(request.send().await.unwrap()).await.refused(401, "bad-token");
    still_gets_in(&alice).await;
    alice.refresh().await;
    alice.log_out(&alice.access_token).await.is(204);
    alice.stats_as(&alice.access_token).await.refused(401, "bad-token");
}

/// What the opening of a socket by this ticket is answered.
async fn opened_by(device: &Device, ticket: &str) -> (u16, String) {
    let request = opening(device).header("sec-websocket-protocol", format!("restante.v1, ticket.{ticket}"));
    let answer = request.send().await.unwrap();
    if answer.status() == 101 {
        return (101, String::new());
    }
    let answer = Answer::of(answer).await;
    (answer.status, answer.code().to_owned())
}

async fn a_ticket_opens_one_socket_in_half_a_minute(backend: &Backend) {
    let Scene { relay: _relay, clock, alice, .. } = scene(backend).await;
    let refused = (401, "bad-token".to_owned());
    let [first, second, late] = [ticket(&alice).await, ticket(&alice).await, ticket(&alice).await];
    let laptop = alice.linked("laptop").await;
    assert_eq!(opened_by(&laptop, &first).await, (403, "not-you".to_owned()));
    clock.advance(Duration::from_secs(29));
    assert_eq!(opened_by(&alice, &second).await.0, 101);
    assert_eq!(opened_by(&alice, &second).await, refused);
    clock.advance(Duration::from_secs(1));
    assert_eq!(opened_by(&alice, &late).await, refused);
    let last = ticket(&alice).await;
    let answers = join_all((0..16).map(|_| opened_by(&alice, &last))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 101).count(), 1, "{answers:?}");
    still_gets_in(&alice).await;
}
