//! Coming back: a user without devices is brought back by an earlier key of its own, and by nothing else.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    an_earlier_key_brings_its_user_back,
    nothing_else_brings_a_user_back,
    nobody_comes_back_beside_an_active_device,
    a_key_that_another_device_ended_brings_nobody_back,
    a_key_of_either_kind_brings_back_one_of_the_other,
    a_shared_key_counts_while_one_of_its_devices_left_by_itself,
    nothing_is_inherited,
}

const BOTH: [Kind; 2] = [Kind::Ed25519, Kind::Signal];

/// A device of the same user and id with fresh keys.
fn successor(of: &Device, kind: Kind) -> Device {
    Device::of(&of.base, of.user_id, &of.device_id, kind)
}

async fn an_earlier_key_brings_its_user_back(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let first = Device::registered(&relay, kind).await;
        first.deactivate(&first).await.is(200);
        let mut second = successor(&first, kind);
        let body = first.recovery_of(&mut second);
        second.register(&body).await.is(201);
        second.is_alive().await;
        second.deactivate(&second).await.is(200);
        // Any earlier key, not only the last one.
        let mut third = successor(&first, kind);
        let body = first.recovery_of(&mut third);
        third.register(&body).await.is(201);
        third.is_alive().await;
        let seen = third.get(&format!("/api/v1/keys/devices/{}", first.user_id)).await.is(200);
        assert_eq!((&seen["count"], &seen["devices"][0]["linked_by"]), (&json!(1), &Value::Null));
    }
}

async fn nothing_else_brings_a_user_back(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let first = Device::registered(&relay, kind).await;
        let bob = Device::registered(&relay, kind).await;
        first.deactivate(&first).await.is(200);
        let mut second = successor(&first, kind);
        let mut body = second.registration();
        second.register(&body).await.refused(403, "link-required");
        let user = first.user_id.to_string();
        let (identity, foreign) = (second.keys.identity(), bob.user_id.to_string());
        let good = first.recovery_proof("localhost", &user, &identity);
        let wrong = [
            ("by a key that never was the user's", bob.recovery_proof("localhost", &user, &identity)),
            ("by the new key itself", second.recovery_proof("localhost", &user, &identity)),
            ("over another new key", first.recovery_proof("localhost", &user, &bob.keys.identity())),
            ("over the earlier key", first.recovery_proof("localhost", &user, &first.keys.identity())),
            ("over another user", first.recovery_proof("localhost", &foreign, &identity)),
            ("over upper case", first.recovery_proof("localhost", &user.to_uppercase(), &identity)),
            ("over another relay", first.recovery_proof("relay.example.org", &user, &identity)),
            ("over nothing", b64(first.keys.sign(b""))),
            ("of zeros", b64([0; 64])),
            ("too short", b64([1; 63])),
            ("too long", b64([1; 65])),
            ("empty", String::new()),
            ("a registration proof", body["proof"].as_str().unwrap().to_owned()),
        ];
        for (name, proof) in wrong {
            body["recovery_proof"] = json!(proof);
            let answer = second.register(&body).await;
            assert_eq!((answer.status, answer.code()), (422, "invalid-proof"), "{name}: {answer:?}");
            assert_eq!(answer["field"], "recovery_proof", "{name}");
        }
        body["recovery_proof"] = json!("?");
        second.register(&body).await.refused(400, "bad-field");
        body["recovery_proof"] = json!(good);
        second.register(&body).await.is(201);
        let refusals = second.events().await.iter().filter(|event| *event == "admission_refused").count();
        assert_eq!(refusals, 1, "told, but once an hour");
    }
}

async fn nobody_comes_back_beside_an_active_device(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let phone = Device::registered(&relay, kind).await;
        let laptop = phone.linked("laptop").await;
        phone.deactivate(&phone).await.is(200);
        for prover in [&phone, &laptop] {
            let mut back = successor(&phone, kind);
            let body = prover.recovery_of(&mut back);
            let answer = back.register(&body).await;
            assert_eq!((answer.status, answer.code()), (403, "link-required"), "{answer:?}");
        }
        laptop.is_alive().await;
        let seen = laptop.get(&format!("/api/v1/keys/devices/{}", phone.user_id)).await.is(200);
        assert_eq!(seen["count"], 1);
    }
}

async fn a_key_that_another_device_ended_brings_nobody_back(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let phone = Device::registered(&relay, kind).await;
        let stolen = phone.linked("laptop").await;
        phone.deactivate(&stolen).await.is(200);
        phone.deactivate(&phone).await.is(200);
        let mut thief = successor(&stolen, kind);
        let body = stolen.recovery_of(&mut thief);
        thief.register(&body).await.refused(422, "invalid-proof");
        let mut back = successor(&phone, kind);
        let body = phone.recovery_of(&mut back);
        back.register(&body).await.is(201);
        back.is_alive().await;
    }
}

async fn a_key_of_either_kind_brings_back_one_of_the_other(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for (before, after) in [(Kind::Ed25519, Kind::Signal), (Kind::Signal, Kind::Ed25519)] {
        let first = Device::registered(&relay, before).await;
        first.deactivate(&first).await.is(200);
        let mut second = successor(&first, after);
        let body = first.recovery_of(&mut second);
        second.register(&body).await.is(201);
        second.is_alive().await;
        // Signal clients can open sessions with the returned one.
        let mut bob = Device::registered(&relay, after).await;
        if after == Kind::Signal {
            bob.send_signal(second.user_id, b"welcome back").await.is(201);
            let message = second.mailbox().await.remove(0);
            assert_eq!(second.keys.decrypt(&message), b"welcome back");
        }
    }
}

async fn a_shared_key_counts_while_one_of_its_devices_left_by_itself(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut phone = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = Device::of(&relay.url(), phone.user_id, "laptop", Kind::Ed25519);
    // As Signal's clients do: one identity for all devices of a user.
    laptop.keys = crate::support::crypto::Keys::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(
        phone.keys.identity_secret().as_slice().try_into().unwrap(),
    )));
    let token = phone.vouch_for(&laptop).await.is(201)["link_token"].clone();
    let mut body = laptop.registration();
    body["link_token"] = token;
    laptop.register(&body).await.is(201);
    phone.deactivate(&laptop).await.is(200);
    phone.deactivate(&phone).await.is(200);
    let mut back = successor(&phone, Kind::Ed25519);
    let body = phone.recovery_of(&mut back);
    back.register(&body).await.is(201);
    phone = back;
    phone.is_alive().await;
}

async fn nothing_is_inherited(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for kind in BOTH {
        let first = Device::registered(&relay, kind).await;
        let bob = Device::registered(&relay, kind).await;
        for _ in 0..3 {
            bob.send_opaque(first.user_id).await;
        }
        bob.bundle(&first).await.is(200);
        let link = first.vouch_for(&Device::of(&relay.url(), first.user_id, "laptop", kind)).await.is(201);
        first.deactivate(&first).await.is(200);
        let mut second = successor(&first, kind);
        let body = first.recovery_of(&mut second);
        let answer = second.register(&body).await.is(201);
        assert_eq!(answer["device_number"], 2, "a number that no device of the user had");

        let page = second.queue("limit=100").await.is(200);
        assert_eq!((&page["count"], &page["notices"], &page["more"]), (&json!(0), &json!([]), &json!(false)));
        let stats = second.get(&second.own("stats")).await.is(200);
        assert_eq!((&stats["unused_prekeys"], &stats["total_prekeys"]), (&json!(50), &json!(50)), "{stats}");
        assert_eq!(stats["used_prekeys"], 0, "{stats}");
        first.stats_as(&first.access_token).await.refused(401, "bad-token");
        first.show(&first.refresh_token).await.refused(401, "bad-token");
        first.answer(&first.login(&first.challenge().await)).await.refused(401, "bad-proof");
        assert_eq!(second.sessions().await.len(), 1);
        let bundle = bob.bundle(&second).await.is(200);
        assert_eq!(bundle["identity_key"], b64(second.keys.identity()));
        assert_eq!(bundle["signed_prekey"], body["signed_prekey"]["public_key"]);

        // A link that the former device gave out is gone with it.
        let mut laptop = Device::of(&relay.url(), first.user_id, "laptop", kind);
        let mut body = laptop.registration();
        body["link_token"] = link["link_token"].clone();
        laptop.register(&body).await.refused(403, "link-required");
        let reads = format!("/api/v1/messages/queue/{}/phone", first.user_id);
        first.call(Method::GET, &reads, None).await.refused(401, "bad-token");
    }
}
