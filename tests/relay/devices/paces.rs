//! How often one device may do what leaves traces for long, and what is counted before anything is read or known.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind},
    login,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_device_logs_in_so_many_times_an_hour,
    a_device_vouches_so_many_times_an_hour,
    a_device_rotates_so_many_times_an_hour,
    what_cannot_be_read_counts_against_its_address,
    fetches_of_nobody_count_nothing,
}

/// Acts of one kind in an hour.
const MOST: usize = 60;

fn assert_limited(answer: Answer) {
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    answer.refused(429, "rate-limited");
}

async fn a_device_logs_in_so_many_times_an_hour(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..MOST {
        login::log_in(&alice).await;
    }
    let challenge = login::challenge(&alice).await.is(200);
    assert_limited(login::answer(&alice, challenge["challenge"].as_str().unwrap()).await);
    login::log_in(&Device::registered(&relay, Kind::Ed25519).await).await;
    clock.advance(Duration::from_mins(1));
    login::log_in(&alice).await;
}

async fn a_device_vouches_so_many_times_an_hour(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let newcomer = Device::of(&relay.url(), alice.user_id, "tablet", Kind::Ed25519);
    for _ in 0..MOST {
        alice.vouch_for(&newcomer).await.is(201);
    }
    assert_limited(alice.vouch_for(&newcomer).await);
    let links = alice.get("/api/v1/auth/audit?limit=100").await.is(200);
    let issued = links["events"].as_array().unwrap().iter().filter(|event| event["event"] == "link_issued");
    assert_eq!(issued.count(), MOST);
}

async fn a_device_rotates_so_many_times_an_hour(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let path = format!("/api/v1/keys/rotate/{}/phone", alice.user_id);
    for id in 2..2 + u32::try_from(MOST).unwrap() {
        let body = alice.keys.signed_prekey(id);
        alice.put(&path, Some(&body)).await.is(200);
    }
    let body = alice.keys.signed_prekey(1_000);
    assert_limited(alice.put(&path, Some(&body)).await);
}

async fn what_cannot_be_read_counts_against_its_address(backend: &Backend) {
    let (relay, _clock) = backend.relay_at_noon(&[("REGISTER_LIMIT_PER_ADDRESS", "3")]).await;
    let mut alice = Device::new(&relay.url(), Kind::Ed25519);
    let path = format!("/api/v1/keys/register/{}", alice.user_id);
    for _ in 0..3 {
        alice.anonymous(Method::POST, &path, Some(&json!({}))).await.refused(400, "bad-field");
    }
    let body = alice.registration();
    assert_limited(alice.register(&body).await);
}

async fn fetches_of_nobody_count_nothing(backend: &Backend) {
    let settings = [("FETCH_LIMIT_PER_PAIR", "3"), ("FETCH_LIMIT_PER_USER", "6")];
    let (relay, _clock) = backend.relay_at_noon(&settings).await;
    let (alice, bob) =
        (Device::registered(&relay, Kind::Ed25519).await, Device::registered(&relay, Kind::Ed25519).await);
    for _ in 0..10 {
        let path = format!("/api/v1/keys/bundle/{}?device_id=absent", bob.user_id);
        alice.get(&path).await.refused(404, "not-found");
        alice.get(&format!("/api/v1/keys/bundles/{}", Uuid::new_v4())).await.refused(404, "not-found");
    }
    for _ in 0..3 {
        let bundle: Value = alice.bundle(&bob).await.is(200);
        assert!(!bundle["onetime_prekey"].is_null());
    }
    assert!(alice.bundle(&bob).await.is(200)["onetime_prekey"].is_null());
}
