//! The drill itself.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use serde_json::{Value, json};
use uuid::Uuid;

use super::scripts::{Shelf, backup, borrowed, elsewhere, restore};
use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    login,
    process::RelayProcess,
    relay::{Backend, on_both_backends},
    socket::Socket,
};

on_both_backends! {
    a_restored_relay_repeats_and_believes_nothing_of_the_lost_timeline,
    hot_state_of_the_lost_timeline_is_never_served,
}

/// Who takes part.
struct Cast {
    alice: Device,
    bob: Device,
    tablet: Device,
    /// The one with KEM keys.
    carol: Device,
}

impl Cast {
    async fn at(base: &str) -> Self {
        let alice = Device::registered_at(base, Kind::Ed25519).await;
        let bob = Device::registered_at(base, Kind::Ed25519).await;
        let tablet = bob.linked("tablet").await;
        let carol = Device::registered_at(base, Kind::Signal).await;
        Self { alice, bob, tablet, carol }
    }

    fn all(&mut self) -> [&mut Device; 4] {
        [&mut self.alice, &mut self.bob, &mut self.tablet, &mut self.carol]
    }
}

fn named(recipient: Uuid) -> Value {
    let mut body = opaque_send(recipient);
    body["message_id"] = json!(Uuid::new_v4());
    body
}

fn fleeting(recipient: Uuid) -> Value {
    let mut body = named(recipient);
    body["is_self_destructing"] = json!(true);
    body["expires_in_seconds"] = json!(2);
    body
}

fn ids(messages: &[Value]) -> Vec<&Value> {
    messages.iter().map(|message| &message["message_id"]).collect()
}

/// Logs a device in by its identity key.
async fn log_in(device: &mut Device) {
    let session = login::log_in(device).await;
    device.access_token = session.access_token;
    device.refresh_token = session.refresh_token;
}

async fn next_after(device: &Device, after: i64) -> i64 {
    device.queue(&format!("limit=100&after={after}")).await.is(200)["next_after"].as_i64().unwrap()
}

/// Takes a bundle, and tells the ids of its one-time keys.
async fn taken(by: &Device, of: &Device) -> (Option<u64>, Option<u64>) {
    let bundle = by.bundle(of).await.is(200);
    (bundle["onetime_prekey_id"].as_u64(), bundle["kem_prekey_id"].as_u64())
}

async fn a_restored_relay_repeats_and_believes_nothing_of_the_lost_timeline(backend: &Backend) {
    let shelf = Shelf::new();
    let file = shelf.file("relay.backup");
    let mut process = RelayProcess::start(backend, &[]).await;
    let mut cast = Cast::at(&process.url()).await;
    let (bob, carol) = (cast.bob.user_id, cast.carol.user_id);
    let acked = cast.alice.send(&named(bob)).await.is(201);
    cast.bob.ack(&[&acked["message_id"]]).await.is(200);
    let waiting = named(bob);
    cast.alice.send(&waiting).await.is(201);
    let short = fleeting(bob);
    cast.alice.send(&short).await.is(201);
    assert_eq!(taken(&cast.alice, &cast.carol).await, (Some(1), Some(1)));

    backup(backend, &file).await.ok();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "for its owner alone");
    backup(backend, &file).await.refused("exists");

    // The life that will be lost.
    let lost = named(bob);
    cast.alice.send(&lost).await.is(201);
    assert_eq!(taken(&cast.alice, &cast.carol).await, (Some(2), Some(1000)));
    cast.bob.ack(&[&waiting["message_id"]]).await.is(200);
    let place = next_after(&cast.bob, 0).await;
    cast.bob.deactivate(&cast.tablet).await.is(200);
    let stranger = Device::registered_at(&process.url(), Kind::Ed25519).await;
    let refreshed = login::refreshed(&cast.alice).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(process.stop().await.success());

    let (there, kept) = elsewhere(backend).await;
    let told = restore(&there, &borrowed(&kept), &file).await.ok();
    assert!(told.contains("messages expired meanwhile: 1"), "{told}");
    if there.is_production() {
        assert!(
            told.contains("fresh TOKEN_SIGNING_KEY") && told.contains("keys erased in Redis: "),
            "{told}"
        );
        assert!(!told.contains("keys erased in Redis: 0"), "{told}");
    }
    restore(&there, &borrowed(&kept), &file).await.refused(if there.is_production() {
        "has tables"
    } else {
        "is not empty"
    });
    let mut process = RelayProcess::start(&there, &borrowed(&kept)).await;

    no_token_of_before_is_good(&mut cast, &process.url(), &stranger, &refreshed).await;
    for device in cast.all() {
        log_in(device).await;
    }
    mailboxes_are_as_they_were(&cast, place, &waiting, &lost).await;
    onetime_keys_are_not_given_again(&mut cast, carol).await;

    // Life goes on.
    let mut socket = Socket::open(&cast.tablet).await;
    socket.until("queue_drained").await;
    let live = named(bob);
    cast.alice.send(&live).await.is(201);
    assert_eq!(socket.expect("message").await["message_id"], live["message_id"]);
    let mut again = Device::of(&process.url(), stranger.user_id, "phone", Kind::Ed25519);
    let body = again.registration();
    again.register(&body).await.is(201);
    login::refreshed(&cast.alice).await;
    assert!(process.stop().await.success());
    there.finish().await;
}

async fn no_token_of_before_is_good(cast: &mut Cast, base: &str, stranger: &Device, refreshed: &Device) {
    let foreign = [login::at(base, stranger), login::at(base, refreshed)];
    for device in cast.all() {
        base.clone_into(&mut device.base);
    }
    let all = cast.all();
    for device in all.iter().map(|device| &**device).chain(&foreign) {
        device.queue("").await.refused(401, "bad-token");
        login::refresh(device).await.refused(401, "bad-token");
    }
}

async fn mailboxes_are_as_they_were(cast: &Cast, place: i64, waiting: &Value, lost: &Value) {
    assert_eq!(
        ids(&cast.bob.mailbox().await),
        [&waiting["message_id"]],
        "acked after the backup, and so back"
    );
    assert_eq!(cast.tablet.mailbox().await.len(), 2, "and a device that was deactivated after it");
    let place_now = next_after(&cast.bob, place).await;
    assert!(place_now > place + 1_000_000, "{place_now} {place}");
    cast.alice.send(waiting).await.is(200);
    cast.alice.send(lost).await.is(201);
    let page = cast.bob.queue(&format!("limit=100&after={place}")).await.is(200);
    let page = page["messages"].as_array().unwrap();
    assert_eq!(ids(page), [&lost["message_id"]], "a reader goes on from where it was");
    assert_eq!(ids(&cast.bob.mailbox().await), [&waiting["message_id"], &lost["message_id"]]);
}

fn counts(answer: &Answer) -> (u64, u64) {
    let number = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("{answer:?}"));
    (number("accepted"), number("already_known"))
}

async fn onetime_keys_are_not_given_again(cast: &mut Cast, carol: Uuid) {
    for _ in 0..3 {
        assert_eq!(taken(&cast.alice, &cast.carol).await, (None, Some(1000)), "the last resort alone");
    }
    assert_eq!(cast.alice.bundles(carol).await.is(200)["bundles"][0]["onetime_prekey_id"], Value::Null);
    let mut socket = Socket::open(&cast.carol).await;
    let low = socket.expect("keys_low").await;
    assert_eq!((&low["onetime_prekeys"], &low["kem_prekeys"]), (&json!(0), &json!(0)), "{low}");
    assert_eq!(low["last_resort_used"], true);
    socket.close().await;

    let path = cast.carol.own("prekeys");
    let forged = json!([cast.carol.keys.onetime_prekey(2)]);
    cast.carol.post(&path, &forged).await.refused(422, "prekey-reused");
    assert_eq!(taken(&cast.alice, &cast.carol).await.0, None);
    let fresh = json!([cast.carol.keys.onetime_prekey(51)]);
    assert_eq!(counts(&cast.carol.post(&path, &fresh).await), (1, 0));
    assert_eq!(taken(&cast.alice, &cast.carol).await.0, Some(51));
}

/// As if Redis could not be reached by scripts/restore: what waits there waits for devices of the lost timeline.
async fn hot_state_of_the_lost_timeline_is_never_served(backend: &Backend) {
    let shelf = Shelf::new();
    let file = shelf.file("relay.backup");
    let mut process = RelayProcess::start(backend, &[]).await;
    let mut cast = Cast::at(&process.url()).await;
    let bob = cast.bob.user_id;
    let before = named(bob);
    cast.alice.send(&before).await.is(201);
    backup(backend, &file).await.ok();
    for _ in 0..20 {
        cast.alice.send(&named(bob)).await.is(201);
    }
    assert_eq!(cast.bob.mailbox().await.len(), 21);
    assert!(process.stop().await.success());

    let (there, kept) = elsewhere(backend).await;
    let mut without_redis = borrowed(&kept);
    without_redis.push(("REDIS_URL", ""));
    restore(&there, &without_redis, &file).await.ok();
    let mut process = RelayProcess::start(&there, &borrowed(&kept)).await;
    process.url().clone_into(&mut cast.bob.base);
    process.url().clone_into(&mut cast.alice.base);
    log_in(&mut cast.alice).await;
    log_in(&mut cast.bob).await;
    let after: Vec<Value> = (0..25).map(|_| named(bob)).collect();
    for body in &after {
        cast.alice.send(body).await.is(201);
    }
    let mailbox = cast.bob.mailbox().await;
    let expected: Vec<&Value> = std::iter::once(&before).chain(&after).collect();
    assert_eq!(mailbox.len(), expected.len());
    for (message, body) in mailbox.iter().zip(&expected) {
        assert_eq!(message["message_id"], body["message_id"]);
        assert_eq!(message["ciphertext"], body["ciphertext"]);
    }
    let mut socket = Socket::open(&cast.bob).await;
    let frames = socket.until("queue_drained").await;
    let drained: Vec<&Value> =
        frames.iter().filter(|frame| frame["type"] == "message").map(|frame| &frame["message_id"]).collect();
    assert_eq!(drained, expected.iter().map(|body| &body["message_id"]).collect::<Vec<_>>());
    assert!(process.stop().await.success());
    there.finish().await;
}
