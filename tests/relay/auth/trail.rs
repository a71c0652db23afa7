//! Sessions and the audit trail: what an owner is told of its devices, all of it and nothing else.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{a_second_less_than, host::Host, jwt};
use crate::support::{
    client::{Device, Kind, opaque_send},
    relay::{Backend, on_both_backends},
    socket::PATIENCE,
    wait::until,
};

on_both_backends! {
    the_sessions_of_all_own_devices_are_listed,
    a_session_tells_when_it_is_used_and_ends,
    an_eleventh_session_ends_the_stalest,
    every_event_has_its_cause,
    the_trail_tells_nothing_of_messages,
    the_trail_is_read_in_pages,
    the_trail_reaches_back_ninety_days,
    queries_that_are_none_are_refused,
}

const DAY: Duration = Duration::from_hours(24);

/// The names of an object's members, sorted.
fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

async fn the_sessions_of_all_own_devices_are_listed(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut phone = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = phone.linked("laptop").await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    phone.log_in().await;
    for device in [&phone, &laptop] {
        let sessions = device.sessions().await;
        let of: Vec<_> = sessions.iter().map(|session| session["device_id"].as_str().unwrap()).collect();
        assert_eq!(of, ["phone", "laptop", "phone"], "oldest first");
        assert_eq!(
            sessions.iter().map(|session| session["device_number"].clone()).collect::<Value>(),
            json!([1, 2, 1])
        );
        let current: Vec<_> = sessions.iter().filter(|session| session["current"] == true).collect();
        assert_eq!(current.len(), 1);
        assert_eq!(current[0]["device_id"], device.device_id);
        let names =
            ["created_at", "current", "device_id", "device_number", "expires_at", "last_used", "session_id"];
        for session in &sessions {
            assert_eq!(members(session), names);
        }
    }
    assert_eq!(phone.sessions().await[2]["current"], true, "the latest login is the calling session");
    assert_eq!(bob.sessions().await.len(), 1);
    phone.log_out(&phone.access_token).await.is(204);
    assert_eq!(laptop.sessions().await.len(), 2);
}

async fn a_session_tells_when_it_is_used_and_ends(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let first = alice.sessions().await.remove(0);
    let day = |session: &Value| {
        let text = session["last_used"].as_str().unwrap().to_owned();
        assert!(text.ends_with("T00:00:00.000Z"), "by the day: {text}");
        text
    };
    assert_eq!(day(&first)[..10], first["created_at"].as_str().unwrap()[..10]);
    clock.advance(DAY);
    alice.refresh().await;
    let then = alice.sessions().await.remove(0);
    assert_eq!((&then["session_id"], &then["created_at"]), (&first["session_id"], &first["created_at"]));
    assert!(day(&then) > day(&first) && then["expires_at"].as_str() > first["expires_at"].as_str());
    clock.advance(a_second_less_than(7 * DAY));
    alice.refresh().await;
    assert_eq!(alice.sessions().await.len(), 1);
}

async fn an_eleventh_session_ends_the_stalest(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let laptop = alice.linked("laptop").await;
    let mut tokens = vec![(alice.access_token.clone(), alice.refresh_token.clone())];
    for _ in 1..10 {
        clock.advance(Duration::from_secs(1));
        alice.log_in().await;
        tokens.push((alice.access_token.clone(), alice.refresh_token.clone()));
    }
    assert_eq!(alice.sessions().await.len(), 11);
    // The oldest is refreshed: now the second is the stalest.
    clock.advance(Duration::from_secs(1));
    alice.show(&tokens[0].1).await.is(200);
    clock.advance(Duration::from_secs(1));
    alice.log_in().await;
    assert_eq!(alice.sessions().await.len(), 11, "ten of this device, one of the other");
    until(PATIENCE, "the ended session's token is dead", async || {
        alice.stats_as(&tokens[1].0).await.code() == "bad-token"
    })
    .await;
    alice.show(&tokens[1].1).await.refused(401, "bad-token");
    for (number, (access, _)) in tokens.iter().enumerate().filter(|(number, _)| *number != 1) {
        assert_eq!(alice.stats_as(access).await.status, 200, "session {number}");
    }
    laptop.is_alive().await;
    alice.is_alive().await;
}

/// What the owner is told: event, device, by which device.
fn told(event: &Value) -> (String, Option<u64>, Option<u64>) {
    assert_eq!(members(event), ["at", "by_device_number", "device_number", "event"]);
    let name = event["event"].as_str().unwrap().to_owned();
    (name, event["device_number"].as_u64(), event["by_device_number"].as_u64())
}

async fn every_event_has_its_cause(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    let mut phone = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut seen = 0;
    let mut new = async |device: &Device| -> Vec<_> {
        let trail: Vec<_> = device.trail().await.iter().rev().map(told).collect();
        let new = trail[seen..].to_vec();
        seen = trail.len();
        new
    };
    let event = |name: &str, device: u64| (name.to_owned(), Some(device), None);
    assert_eq!(new(&phone).await, [event("device_added", 1)]);

    let mut laptop = Device::of(&relay.url(), phone.user_id, "laptop", Kind::Ed25519);
    let link = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    let issued = new(&phone).await;
    assert_eq!((issued.len(), &*issued[0].0), (1, "link_issued"));
    let mut body = laptop.registration();
    body["link_token"] = link;
    laptop.register(&body).await.is(201);
    assert_eq!(new(&phone).await, [("device_added".to_owned(), Some(2), Some(1))]);

    let rotation = laptop.keys.signed_prekey(2);
    laptop.put(&laptop.own("rotate"), Some(&rotation)).await.is(200);
    assert_eq!(new(&phone).await, [event("key_rotated", 2)]);

    let first = laptop.access_token.clone();
    laptop.log_in().await;
    assert_eq!(new(&phone).await, [event("logged_in", 2)]);
    laptop.log_out(&first).await.is(204);
    assert_eq!(new(&phone).await, [event("logged_out", 2)]);

    let old = laptop.refresh_token.clone();
    laptop.refresh().await;
    laptop.refresh().await;
    assert_eq!(new(&phone).await, [], "refreshing is no event");
    laptop.show(&old).await.refused(401, "token-reused");
    assert_eq!(new(&phone).await, [event("token_reused", 2)]);

    let mut intruder = Device::of(&relay.url(), phone.user_id, "tower", Kind::Ed25519);
    let body = intruder.registration();
    for _ in 0..2 {
        intruder
            .register_by(&Host::new().bring_back(phone.user_id), &body)
            .await
            .refused(401, "bad-admission");
    }
    assert_eq!(new(&phone).await, [("admission_refused".to_owned(), None, None)], "once an hour");

    phone.deactivate(&laptop).await.is(200);
    assert_eq!(new(&phone).await, [("device_deactivated".to_owned(), Some(2), Some(1))]);
    let laptop = phone.linked("laptop").await;
    new(&phone).await;
    phone.deactivate(&phone).await.is(200);
    assert_eq!(new(&laptop).await, [event("device_deactivated", 1)]);
    phone = laptop;
    phone.is_alive().await;
    assert_eq!(bob.events().await, ["device_added"], "everybody sees only its own");
}

async fn the_trail_tells_nothing_of_messages(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let before = (alice.trail().await, bob.trail().await);
    let sent = alice.send_opaque(bob.user_id).await;
    bob.mailbox().await;
    bob.mark("delivered", &sent["message_id"]).await.is(200);
    bob.mark("read", &sent["message_id"]).await.is(200);
    bob.ack(&[&sent["message_id"]]).await.is(200);
    alice.history(&sent["conversation_id"], "").await.is(200);
    alice.delete_message(&sent["message_id"], "everyone").await.is(200);
    alice.send(&opaque_send(uuid::Uuid::new_v4())).await.refused(422, "no-devices");
    alice.bundle(&bob).await.is(200);
    assert_eq!((alice.trail().await, bob.trail().await), before);
}

/// The pages of the trail, walked to the end.
async fn walked(device: &Device, limit: usize) -> Vec<Value> {
    let mut events = Vec::new();
    let mut query = format!("limit={limit}");
    loop {
        let page = device.get(&format!("/api/v1/auth/audit?{query}")).await.is(200);
        let on_it = page["events"].as_array().unwrap();
        assert_eq!(page["count"], on_it.len());
        assert!(on_it.len() <= limit);
        events.extend_from_slice(on_it);
        let Some(next) = page.get("next_before") else { return events };
        query = format!("limit={limit}&before={next}");
    }
}

async fn the_trail_is_read_in_pages(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut bob = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..54 {
        clock.advance(Duration::from_secs(1));
        alice.log_in().await;
        bob.log_in().await;
    }
    let all = alice.trail().await;
    assert_eq!(all.len(), 55);
    assert_eq!((&all[0]["event"], &all[54]["event"]), (&json!("logged_in"), &json!("device_added")));
    let times: Vec<_> = all.iter().map(|event| event["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer > older), "newest first");
    for limit in [1, 5, 11, 54, 55, 100] {
        assert_eq!(walked(&alice, limit).await, all, "by {limit}");
    }
    let page = alice.get("/api/v1/auth/audit").await.is(200);
    assert_eq!(page["count"], 50, "the default");
    let beyond = alice.get("/api/v1/auth/audit?before=0").await.is(200);
    assert_eq!((&beyond["events"], &beyond["count"]), (&json!([]), &json!(0)));
}

async fn the_trail_reaches_back_ninety_days(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    clock.advance(a_second_less_than(90 * DAY));
    alice.log_in().await;
    assert_eq!(alice.events().await, ["device_added", "logged_in"]);
    clock.advance(Duration::from_secs(2));
    until(PATIENCE, "the older event is forgotten", async || alice.events().await == ["logged_in"]).await;
}

async fn queries_that_are_none_are_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999", "limit"),
        ("before=now", "before"),
        ("before=9223372036854775808", "before"),
        ("user_id=me", "user_id"),
    ] {
        let problem = alice.get(&format!("/api/v1/auth/audit?{query}")).await.refused(400, "bad-field");
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
    for path in ["/api/v1/auth/audit", "/api/v1/auth/sessions"] {
        alice.anonymous(Method::GET, path, None).await.refused(401, "no-token");
        alice.call_as("garbage", Method::GET, path, None).await.refused(401, "bad-token");
        alice.call_as(&alice.refresh_token, Method::GET, path, None).await.refused(401, "bad-token");
    }
    alice.get("/api/v1/auth/audit?limit=1").await.is(200);
}
