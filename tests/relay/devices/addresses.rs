//! How often one address may register, log in and refresh, and whose address a proxy tells.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    devices::cluster_at_noon,
    support::{
        client::{Answer, Device, Kind},
        faults::nowhere,
        login::{self, response},
        relay::{Backend, Settings, on_both_backends},
    },
};

on_both_backends! {
    registrations_from_one_address_are_limited,
    challenges_and_answers_share_a_limit,
    refreshes_from_one_address_are_limited,
    a_trusted_proxy_tells_whose_address_it_is,
    nobodys_word_counts_where_no_proxy_is_trusted,
    nobody_elses_word_counts_where_another_proxy_is_trusted,
    the_forwarded_header_is_read_where_it_is_set,
}

/// The refusal of somebody who asks too often.
fn assert_limited(answer: &Answer) {
    answer.clone().refused(429, "rate-limited");
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

async fn registrations_from_one_address_are_limited(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("REGISTER_LIMIT_PER_ADDRESS", "3")]).await;
    for _ in 0..2 {
        Device::registered(&relay, Kind::Ed25519).await;
    }
    // A refused one counts as well.
    let mut twice = Device::registered(&relay, Kind::Ed25519).await;
    let body = twice.registration();
    let refused = twice.register(&body).await;
    assert_limited(&refused);
    let mut late = Device::new(&relay.url(), Kind::Ed25519);
    let body = late.registration();
    assert_limited(&late.register(&body).await);
    clock.advance(Duration::from_secs(refused.header("retry-after").parse().unwrap()));
    late.register(&body).await.is(201);
    let mut next = Device::new(&relay.url(), Kind::Ed25519);
    let body = next.registration();
    assert_limited(&next.register(&body).await);
    // Other acts have their own limits.
    login::log_in(&late).await;
    login::refreshed(&late).await;
}

async fn challenges_and_answers_share_a_limit(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("LOGIN_LIMIT_PER_ADDRESS", "4")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    login::log_in(&alice).await;
    let challenge = login::challenge(&alice).await.is(200);
    let challenge = challenge["challenge"].as_str().unwrap();
    let wrong = json!({ "user_id": alice.user_id, "device_id": "nobody", "challenge": challenge,
        "signature": response(&alice, challenge)["signature"] });
    alice.anonymous(Method::POST, "/api/v1/auth/token", Some(&wrong)).await.refused(401, "bad-proof");
    let refused = login::answer(&alice, challenge).await;
    assert_limited(&refused);
    assert_limited(&login::challenge(&alice).await);
    // A refusal changes nothing: the challenge is as good as it was.
    clock.advance(Duration::from_secs(refused.header("retry-after").parse().unwrap()));
    login::answer(&alice, challenge).await.is(200);
    alice.queue("limit=1").await.is(200);
}

async fn refreshes_from_one_address_are_limited(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[("REFRESH_LIMIT_PER_ADDRESS", "2")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let last = login::refreshed(&login::refreshed(&alice).await).await;
    let refused = login::refresh(&last).await;
    assert_limited(&refused);
    // Not even a reused one is looked at.
    assert_limited(&login::refresh(&alice).await);
    clock.advance(Duration::from_secs(refused.header("retry-after").parse().unwrap()));
    login::refreshed(&last).await.queue("limit=1").await.is(200);
}

/// Asks for a challenge with a header; whether it was given.
async fn asks(device: &Device, header: &str, values: &[&str]) -> bool {
    let body: Value = json!({ "user_id": device.user_id, "device_id": device.device_id });
    let mut request = device.request(Method::POST, "/api/v1/auth/challenge").json(&body);
    for value in values {
        request = request.header(header, *value);
    }
    let answer = Answer::of(request.send().await.unwrap()).await;
    if answer.status == 200 {
        return true;
    }
    assert_limited(&answer);
    false
}

/// Asserts that two requests with this header are answered, and no more.
async fn has_a_budget_of_its_own(device: &Device, header: &str, values: &[&str]) {
    for expected in [true, true, false] {
        assert_eq!(asks(device, header, values).await, expected, "{values:?}");
    }
}

const TWO: (&str, &str) = ("LOGIN_LIMIT_PER_ADDRESS", "2");

async fn a_trusted_proxy_tells_whose_address_it_is(backend: &Backend) {
    let trusted = ("TRUSTED_PROXIES", "127.0.0.1/32, 10.0.0.0/8");
    let (relay, _clock) = backend.relay_at_noon(&[TWO, trusted]).await;
    let device = Device::new(&relay.url(), Kind::Ed25519);
    let header = "x-forwarded-for";
    has_a_budget_of_its_own(&device, header, &["198.51.100.1"]).await;
    has_a_budget_of_its_own(&device, header, &["198.51.100.2"]).await;
    // What a client wrote itself stands further left, and counts for nothing.
    assert!(!asks(&device, header, &["203.0.113.9, 198.51.100.1"]).await);
    assert!(!asks(&device, header, &["203.0.113.9", "198.51.100.2"]).await);
    // A trusted hop on the way is passed over.
    assert!(!asks(&device, header, &["198.51.100.1, 10.1.2.3"]).await);
    // An IPv6 network of 64 bits counts as one address.
    has_a_budget_of_its_own(&device, header, &["2001:db8::1"]).await;
    assert!(!asks(&device, header, &["2001:db8::2"]).await);
    has_a_budget_of_its_own(&device, header, &["2001:db8:0:1::1"]).await;
    assert!(!asks(&device, header, &["::ffff:198.51.100.1"]).await);
    // Without a word, or with one that is no address, it is the proxy that is counted.
    has_a_budget_of_its_own(&device, header, &[]).await;
    assert!(!asks(&device, header, &["unknown"]).await);
    assert!(!asks(&device, "forwarded", &["for=198.51.100.77"]).await, "the other header is not read");
}

async fn nobodys_word_counts_where_no_proxy_is_trusted(backend: &Backend) {
    word_counts_for_nothing(backend, &[TWO]).await;
}

async fn nobody_elses_word_counts_where_another_proxy_is_trusted(backend: &Backend) {
    word_counts_for_nothing(backend, &[TWO, ("TRUSTED_PROXIES", "192.0.2.0/24")]).await;
}

/// Asserts that two requests are answered and no more, whatever their headers say.
async fn word_counts_for_nothing(backend: &Backend, settings: Settings<'_>) {
    let (relay, _clock) = backend.relay_at_noon(settings).await;
    let device = Device::new(&relay.url(), Kind::Ed25519);
    assert!(asks(&device, "x-forwarded-for", &["198.51.100.1"]).await);
    assert!(asks(&device, "forwarded", &["for=198.51.100.2"]).await);
    assert!(!asks(&device, "x-forwarded-for", &["198.51.100.3"]).await);
    assert!(!asks(&device, "forwarded", &["for=198.51.100.4"]).await);
    assert!(!asks(&device, "x-real-ip", &["198.51.100.5"]).await);
}

async fn the_forwarded_header_is_read_where_it_is_set(backend: &Backend) {
    let trusted = [TWO, ("TRUSTED_PROXIES", "127.0.0.1/32"), ("TRUSTED_PROXY_HEADER", "forwarded")];
    let (relay, _clock) = backend.relay_at_noon(&trusted).await;
    let device = Device::new(&relay.url(), Kind::Ed25519);
    has_a_budget_of_its_own(&device, "forwarded", &["for=198.51.100.1;proto=https"]).await;
    has_a_budget_of_its_own(&device, "forwarded", &["proto=https; For=\"[2001:db8::1]:4711\""]).await;
    assert!(!asks(&device, "forwarded", &["for=\"[2001:db8::9]\""]).await);
    assert!(!asks(&device, "forwarded", &["for=203.0.113.9, for=198.51.100.1"]).await);
    has_a_budget_of_its_own(&device, "x-forwarded-for", &["198.51.100.3"]).await;
    assert!(!asks(&device, "x-forwarded-for", &["198.51.100.4"]).await, "it is the proxy that was counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_count_an_address_together() {
    let Some(backend) = Backend::production().await else { return };
    let trusted = ("TRUSTED_PROXIES", "127.0.0.1/32");
    let (nodes, clock) = cluster_at_noon(&backend, 2, &[TWO, trusted]).await;
    let seats = [&nodes[0], &nodes[1]].map(|node| Device::new(&node.url(), Kind::Ed25519));
    let header = "x-forwarded-for";
    assert!(asks(&seats[0], header, &["198.51.100.1"]).await);
    assert!(asks(&seats[1], header, &["198.51.100.1"]).await);
    for seat in &seats {
        assert!(!asks(seat, header, &["198.51.100.1"]).await);
        assert!(asks(seat, header, &["198.51.100.2"]).await);
    }
    clock.advance(Duration::from_mins(1));
    has_a_budget_of_its_own(&seats[1], header, &["198.51.100.1"]).await;
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_node_counts_an_address_by_itself() {
    let Some(backend) = Backend::production().await else { return };
    let gone = format!("redis://{}", nowhere());
    for redis in [gone.as_str(), ""] {
        let (nodes, _clock) = cluster_at_noon(&backend, 2, &[TWO, ("REDIS_URL", redis)]).await;
        for node in &nodes {
            let device = Device::new(&node.url(), Kind::Ed25519);
            has_a_budget_of_its_own(&device, "x-forwarded-for", &[]).await;
        }
    }
    backend.finish().await;
}
