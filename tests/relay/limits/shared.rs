//! Every budget over two nodes: what is used up on one is refused on the other.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BELIEVED, at, attempt, attempt_from, limited, registered, send_frame};
use crate::{
    devices::cluster_at_noon,
    packages::key_body,
    support::{
        client::{Answer, Device, Kind},
        faults::PrivateRedis,
        login,
        packages::MlsKey,
        relay::{Backend, TestRelay},
        socket::Socket,
    },
};

/// Every verb with a setting of its own.
const VERBS: [&str; 8] = ["MESSAGE", "ACK", "READ", "KEYS", "GROUP", "JOIN", "ACCOUNT", "OPEN"];

/// Settings by which each verb may be done twice a minute.
fn twice() -> Vec<(String, &'static str)> {
    VERBS.iter().map(|verb| (format!("RATE_LIMIT_{verb}_LIMIT"), "2")).collect()
}

/// Two nodes on which each verb may be done twice a minute, by a device, or by a network of `devices` times as much.
async fn two_nodes(backend: &Backend, devices: &str) -> Vec<TestRelay> {
    let twice = twice();
    let settings = twice.iter().map(|(name, acts)| (name.as_str(), *acts));
    let settings: Vec<_> = settings.chain([BELIEVED, ("RATE_LIMIT_DEVICES_PER_IP", devices)]).collect();
    cluster_at_noon(backend, 2, &settings).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_did_on_one_node_is_refused_on_another() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = two_nodes(&backend, "1000").await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    for verb in VERBS {
        for _ in 0..2 {
            assert_ne!(attempt(&here, verb).await.status, 429, "{verb}");
        }
        let refused = attempt(&there, verb).await;
        assert_eq!(limited(&refused), 30, "{verb}");
        let policy = format!("\"{}-per-device\";q=2;w=60", verb.to_lowercase());
        assert_eq!(refused.header("ratelimit-policy"), policy);
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_network_did_on_one_node_is_refused_on_another() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = two_nodes(&backend, "1").await;
    // Registrations count against the network that the test calls from.
    let (alice, bob) = (registered(&nodes[0].url()).await, registered(&nodes[0].url()).await);
    let bob = at(&bob, &nodes[1].url());
    for (number, verb) in VERBS.into_iter().chain(["PROBE"]).enumerate() {
        let office = format!("198.51.100.{}", number + 1);
        for _ in 0..2 {
            assert_ne!(attempt_from(&alice, verb, &office).await.status, 429, "{verb}");
        }
        let refused = attempt_from(&bob, verb, &office).await;
        assert_eq!(limited(&refused), 30, "{verb}");
        let policy = format!("\"{}-per-network\";q=2;w=60", verb.to_lowercase());
        assert_eq!(refused.header("ratelimit-policy"), policy);
        let elsewhere = attempt_from(&bob, verb, "203.0.113.1").await;
        assert_ne!(elsewhere.status, 429, "{verb}: {elsewhere:?}");
    }
    backend.finish().await;
}

/// Sends a frame; the code of its refusal, or none when it was taken.
async fn refusal(socket: &mut Socket, frame: &Value) -> Option<Value> {
    let mut frame = frame.clone();
    let reference = Uuid::new_v4().to_string();
    frame["ref"] = json!(reference);
    socket.send(&frame).await;
    let answer = loop {
        let answer = socket.next().await;
        if answer["ref"] == reference.as_str() {
            break answer;
        }
    };
    (answer["type"] == "error").then(|| answer["code"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_on_one_node_are_refused_on_another() {
    let Some(backend) = Backend::production().await else { return };
    for (verb, payer) in [
        ("MESSAGE", "device"),
        ("ACK", "device"),
        ("ACCOUNT", "device"),
        ("MESSAGE", "network"),
        ("ACK", "network"),
    ] {
        let prefix = format!("test-{}", Uuid::new_v4().simple());
        let (limit, devices) =
            (format!("RATE_LIMIT_{verb}_LIMIT"), if payer == "network" { "1" } else { "1000" });
        let settings =
            [(limit.as_str(), "2"), ("RATE_LIMIT_DEVICES_PER_IP", devices), ("REDIS_PREFIX", &prefix)];
        let (nodes, _clock) = cluster_at_noon(&backend, 2, &settings).await;
        let (alice, bob) = (registered(&nodes[0].url()).await, registered(&nodes[0].url()).await);
        let next = if payer == "network" { &bob } else { &alice };
        let frame = |device: &Device| match verb {
            "MESSAGE" => send_frame(device.user_id, 0),
            "ACK" => json!({ "type": "ping" }),
            _ => json!({ "type": "auth", "token": device.access_token }),
        };
        let mut socket = Socket::open(&alice).await;
        for _ in 0..2 {
            assert_eq!(refusal(&mut socket, &frame(&alice)).await, None, "{verb} {payer}");
        }
        let mut other = Socket::open(&at(next, &nodes[1].url())).await;
        assert_eq!(refusal(&mut other, &frame(next)).await, Some(json!("rate-limited")), "{verb} {payer}");
        limited(&attempt(&at(next, &nodes[1].url()), verb).await);
    }
    backend.finish().await;
}

/// An act of somebody who has no token yet.
async fn enter(device: &Device, act: &str) -> Answer {
    match act {
        "REGISTER" => {
            let mut newcomer = Device::new(&device.base, Kind::Ed25519);
            let body = newcomer.registration();
            newcomer.register(&body).await
        }
        "LOGIN" => login::challenge(device).await,
        // A token that is none is counted too.
        "REFRESH" => {
            let body = json!({ "refresh_token": "none" });
            device.anonymous(Method::POST, "/api/v1/auth/refresh", Some(&body)).await
        }
        other => panic!("{other}"),
    }
}

const ENTRANCES: [&str; 3] = ["REGISTER", "LOGIN", "REFRESH"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_logins_and_refreshes_are_counted_over_all_nodes() {
    let Some(backend) = Backend::production().await else { return };
    let names = ENTRANCES.map(|act| format!("{act}_LIMIT_PER_ADDRESS"));
    let settings: Vec<_> = names.iter().map(|name| (name.as_str(), "3")).collect();
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &settings).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    for act in ENTRANCES {
        // The device itself was registered.
        for _ in usize::from(act == "REGISTER")..3 {
            assert_ne!(enter(&here, act).await.status, 429, "{act}");
        }
        for seat in [&there, &here] {
            let refused = enter(seat, act).await;
            assert_eq!(limited(&refused), 20, "{act}");
            let policy = format!("\"{}-per-network\";q=3;w=60", act.to_lowercase());
            assert_eq!(refused.header("ratelimit-policy"), policy);
        }
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_lets_nobody_in_on_the_node_that_counted_them() {
    let Some(backend) = Backend::production().await else { return };
    let Some(redis) = PrivateRedis::start().await else { return };
    let settings = [("LOGIN_LIMIT_PER_ADDRESS", "3"), ("REDIS_URL", &redis.url())];
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &settings).await;
    let here = registered(&nodes[0].url()).await;
    let there = at(&here, &nodes[1].url());
    for _ in 0..3 {
        enter(&here, "LOGIN").await.is(200);
    }
    limited(&enter(&there, "LOGIN").await);
    redis.flush_all().await;
    limited(&enter(&here, "LOGIN").await);
    let mut given = 0;
    while enter(&there, "LOGIN").await.status == 200 {
        given += 1;
    }
    assert!(given <= 3, "no node gives more than the limit: {given}");
    backend.finish().await;
}

/// What a device may do sixty times an hour.
const HOURLY: [&str; 5] = ["logins", "links", "rotations", "mls keys", "packages"];

/// Does it.
async fn act(device: &mut Device, act: &str, round: u32) -> Answer {
    match act {
        "logins" => {
            let challenge = login::challenge(device).await.is(200);
            let answer = login::answer(device, challenge["challenge"].as_str().unwrap()).await;
            // A device has few logins at a time, and the oldest ones end.
            if let Some(token) = answer["access_token"].as_str() {
                token.clone_into(&mut device.access_token);
            }
            answer
        }
        "links" => {
            let newcomer = Device::of(&device.base, device.user_id, "tablet", Kind::Ed25519);
            device.vouch_for(&newcomer).await
        }
        "rotations" => {
            let body = device.keys.signed_prekey(2 + round);
            device.put(&device.own("rotate"), Some(&body)).await
        }
        "mls keys" => {
            let key = MlsKey::fresh(1);
            let body = key_body(device, key.scheme(), &key.public);
            device.put(&device.own("mls-keys"), Some(&body)).await
        }
        "packages" => device.post(&device.own("packages"), &json!({ "key_packages": ["AAAA"] })).await,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_did_this_hour_is_counted_over_all_nodes() {
    let Some(backend) = Backend::production().await else { return };
    let (nodes, _clock) = cluster_at_noon(&backend, 2, &[]).await;
    let mut here = registered(&nodes[0].url()).await;
    for what in HOURLY {
        for round in 0..60 {
            let answer = act(&mut here, what, round).await;
            assert_ne!(answer.status, 429, "{what}: {answer:?}");
        }
        here.base = nodes[1].url();
        assert_eq!(limited(&act(&mut here, what, 60).await), 60, "{what}");
        here.base = nodes[0].url();
    }
    backend.finish().await;
}
