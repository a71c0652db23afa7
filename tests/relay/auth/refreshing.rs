//! Refreshing: each token once, a lost answer again, and the end of the session for whoever comes with an old one.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{a_second_less_than, bent};
use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_session_goes_on_from_token_to_token,
    a_lost_answer_comes_again,
    an_old_token_ends_the_session_and_no_other,
    a_token_from_more_than_a_minute_ago_ends_the_session,
    tokens_that_are_none_end_nothing,
    a_refresh_token_ends_after_seven_days,
    an_ended_session_is_not_refreshed,
    refreshes_at_once_get_one_answer,
}

/// The pair of an answer.
fn pair(answer: &Value) -> (String, String) {
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"))
}

async fn a_session_goes_on_from_token_to_token(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let session = alice.sessions().await[0]["session_id"].clone();
    let mut seen = BTreeSet::from([alice.access_token.clone(), alice.refresh_token.clone()]);
    for _ in 0..8 {
        clock.advance(Duration::from_mins(10));
        let answer = alice.show(&alice.refresh_token).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let answer = answer.is(200);
        assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(900)));
        assert_eq!(answer["refresh_expires_in"], 7 * 86_400);
        let (access, refresh) = pair(&answer);
        assert!(seen.insert(access.clone()) && seen.insert(refresh.clone()), "no token comes twice");
        // A pair that was made does not end the one before it.
        alice.is_alive().await;
        (alice.access_token, alice.refresh_token) = (access, refresh);
        alice.is_alive().await;
    }
    let sessions = alice.sessions().await;
    assert_eq!((sessions.len(), &sessions[0]["session_id"]), (1, &session));
}

async fn a_lost_answer_comes_again(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Signal).await;
    let first = alice.refresh_token.clone();
    let lost = pair(&alice.show(&first).await.is(200));
    for seconds in [0, 1, 29, 29] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!(pair(&alice.show(&first).await.is(200)), lost);
    }
    (alice.access_token, alice.refresh_token) = lost;
    alice.is_alive().await;
    alice.refresh().await;
    alice.is_alive().await;
    assert_eq!(alice.sessions().await.len(), 1);
    assert!(!alice.events().await.contains(&"token_reused".to_owned()));
}

/// That this session is over and its user's other one is not.
async fn is_over(alice: &Device, access: &[&str], refresh: &[&str]) {
    for token in access {
        alice.stats_as(token).await.refused(401, "bad-token");
    }
    for token in refresh {
        let answer = alice.show(token).await;
        assert!(answer.status == 401 && matches!(answer.code(), "bad-token" | "token-reused"), "{answer:?}");
    }
    alice.is_alive().await;
    assert_eq!(alice.sessions().await.len(), 1);
    assert_eq!(alice.events().await.iter().filter(|event| *event == "token_reused").count(), 1);
}

async fn an_old_token_ends_the_session_and_no_other(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let zeroth = (alice.access_token.clone(), alice.refresh_token.clone());
    alice.log_in().await;
    let first = pair(&alice.show(&zeroth.1).await.is(200));
    let second = pair(&alice.show(&first.1).await.is(200));
    alice.show(&zeroth.1).await.refused(401, "token-reused");
    is_over(&alice, &[&zeroth.0, &first.0, &second.0], &[&second.1, &first.1, &zeroth.1]).await;
    alice.refresh().await;
    alice.is_alive().await;
}

async fn a_token_from_more_than_a_minute_ago_ends_the_session(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let zeroth = (alice.access_token.clone(), alice.refresh_token.clone());
    alice.log_in().await;
    let first = pair(&alice.show(&zeroth.1).await.is(200));
    clock.advance(Duration::from_secs(61));
    alice.show(&zeroth.1).await.refused(401, "token-reused");
    is_over(&alice, &[&zeroth.0, &first.0], &[&first.1, &zeroth.1]).await;
}

async fn tokens_that_are_none_end_nothing(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let other = Backend::embedded();
    let elsewhere = other.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let there = Device::registered(&elsewhere, Kind::Ed25519).await;
    let good = alice.refresh_token.clone();
    let mut bad = vec![
        String::new(),
        "garbage".to_owned(),
        "A".repeat(good.len()),
        "A".repeat(20_000),
        good[..good.len() - 1].to_owned(),
        format!("{good}A"),
        format!("{good}="),
        format!(" {good}"),
        b64(&good),
        good.to_ascii_lowercase(),
        alice.access_token.clone(),
        there.refresh_token.clone(),
    ];
    bad.extend((0..good.len()).map(|place| bent(&good, place)));
    for token in bad {
        alice.show(&token).await.refused(401, "bad-token");
    }
    let path = "/api/v1/auth/refresh";
    for body in [json!({}), json!({ "refresh_token": 7 }), json!({ "refresh_token": good, "x": 1 })] {
        alice.anonymous(Method::POST, path, Some(&body)).await.refused(400, "bad-field");
    }
    alice
        .call_as(&good, Method::POST, path, Some(&json!({ "refresh_token": "x" })))
        .await
        .refused(401, "bad-token");
    alice.is_alive().await;
    alice.refresh().await;
    assert_eq!(alice.sessions().await.len(), 1);
    assert_eq!(alice.events().await, ["device_added"]);
    there.is_alive().await;
    other.finish().await;
}

async fn a_refresh_token_ends_after_seven_days(backend: &Backend) {
    const WEEK: Duration = Duration::from_hours(7 * 24);
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    clock.advance(a_second_less_than(WEEK));
    alice.refresh().await;
    // Renewed at each use.
    clock.advance(a_second_less_than(WEEK));
    alice.refresh().await;
    clock.advance(WEEK);
    alice.show(&alice.refresh_token).await.refused(401, "bad-token");
    alice.log_in().await;
    alice.is_alive().await;
    assert_eq!(alice.sessions().await.len(), 1, "an ended session is not listed");
    assert!(!alice.events().await.contains(&"token_reused".to_owned()));
}

async fn an_ended_session_is_not_refreshed(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = alice.linked("laptop").await;
    let zeroth = laptop.refresh_token.clone();
    laptop.refresh().await;
    laptop.log_out(&laptop.access_token).await.is(204);
    for token in [&laptop.refresh_token, &zeroth] {
        laptop.show(token).await.refused(401, "bad-token");
    }
    laptop.log_in().await;
    laptop.is_alive().await;
    let zeroth = laptop.refresh_token.clone();
    laptop.refresh().await;
    alice.deactivate(&laptop).await.is(200);
    for token in [&laptop.refresh_token, &zeroth] {
        laptop.show(token).await.refused(401, "bad-token");
    }
    assert!(!alice.events().await.contains(&"token_reused".to_owned()));
    alice.is_alive().await;
}

async fn refreshes_at_once_get_one_answer(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..3 {
        let answers = join_all((0..16).map(|_| alice.show(&alice.refresh_token))).await;
        let pairs: BTreeSet<_> = answers.into_iter().map(|answer| pair(&answer.is(200))).collect();
        assert_eq!(pairs.len(), 1);
        (alice.access_token, alice.refresh_token) = pairs.into_iter().next().unwrap();
        alice.is_alive().await;
    }
    assert_eq!(alice.sessions().await.len(), 1);
}
