//! The relay is blind: what must not be known is searched for in everything it writes.

mod logins;
mod search;

use reqwest::Method;
use search::{Secret, assert_absent, store};
use serde_json::json;

use crate::support::{
    client::{Device, Kind, opaque_send},
    crypto::{b64, opaque},
    process::RelayProcess,
    relay::{Backend, Settings, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! { nothing_secret_is_written_anywhere }

/// Everything that the relay's own code can say, and much of what its libraries can.
const TALKATIVE: Settings<'_> = &[("RUST_LOG", "debug,restante=trace"), ("LOG_FORMAT", "json")];

const PLAINTEXT: &[u8] = b"meet me by the old lighthouse at nine";

/// Everything a device has that nobody else may know.
fn secrets(device: &Device) -> Vec<Secret> {
    vec![
        Secret("an access token", device.access_token.clone().into_bytes()),
        Secret("the signature of an access token", device.access_token.rsplit('.').next().unwrap().into()),
        Secret("a refresh token", device.refresh_token.clone().into_bytes()),
        Secret("a private identity key", device.keys.identity_secret()),
    ]
}

/// Ids, which the store must know and the log must not.
fn identities(device: &Device) -> Vec<Secret> {
    vec![
        Secret("a user id", device.user_id.to_string().into_bytes()),
        Secret("a user id", device.user_id.simple().to_string().into_bytes()),
        Secret("a device id", device.device_id.clone().into_bytes()),
        Secret("an identity key", device.keys.identity()),
    ]
}

async fn nothing_secret_is_written_anywhere(backend: &Backend) {
    let mut process = RelayProcess::start(backend, TALKATIVE).await;
    let (mut alice, mut bob) =
        (named(&process, "alices-handset").await, named(&process, "bobs-handset").await);
    let mut tablet = Device::of(&process.url(), bob.user_id, "bobs-tablet", Kind::Signal);
    let link_token = bob.vouch_for(&tablet).await.is(201)["link_token"].clone();
    let mut body = tablet.registration();
    body["link_token"] = link_token.clone();
    tablet.register(&body).await.is(201);

    use_everything(&mut alice, &mut bob, &tablet).await;
    let group = use_a_group(&alice, &bob).await;
    let unused = bob.vouch_for(&Device::of(&process.url(), bob.user_id, "bobs-watch00", Kind::Signal)).await;
    let unused = unused.is(201)["link_token"].clone();

    let devices = [&alice, &bob, &tablet];
    let mut secret: Vec<_> = devices.into_iter().flat_map(secrets).collect();
    secret.push(Secret("a plaintext", PLAINTEXT.to_vec()));
    for token in [&link_token, &unused] {
        secret.push(Secret("a link token", token.as_str().unwrap().into()));
    }
    assert_absent("the store of a running relay", &store(backend).await, &secret);
    assert!(process.stop().await.success());
    assert_absent("the store", &store(backend).await, &secret);

    let mut private: Vec<_> = devices.into_iter().flat_map(identities).collect();
    private.extend(secret);
    private.extend(group);
    let written = process.written();
    for level in ["\"DEBUG\"", "\"INFO\""] {
        assert!(written.contains(level), "the log was to be searched at its most talkative:\n{written}");
    }
    let lines = written.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
    assert_eq!(lines.collect::<Vec<_>>(), [""; 0], "every line is an object");
    assert_absent("the log", written.as_bytes(), &private);
}

async fn named(process: &RelayProcess, name: &str) -> Device {
    let mut device = Device::new(&process.url(), Kind::Signal);
    name.clone_into(&mut device.device_id);
    let body = device.registration();
    device.register(&body).await.is(201);
    device
}

/// Every route once, and every way of being refused that could tempt a relay to tell too much.
async fn use_everything(alice: &mut Device, bob: &mut Device, tablet: &Device) {
    let mut socket = Socket::connect(bob, Format::Json, Door::Subprotocol).await.unwrap();
    socket.expect("queue_drained").await;
    let sent = alice.send_signal(bob.user_id, PLAINTEXT).await.is(201);
    let frame = socket.expect("message").await;
    assert_eq!(bob.keys.decrypt(&frame), PLAINTEXT);
    bob.send_signal(alice.user_id, PLAINTEXT).await.is(201);
    socket.send(&json!({ "type": "nonsense", "token": bob.access_token })).await;
    socket.expect("error").await;
    socket.send(&json!({ "type": "auth", "token": format!("{}x", bob.access_token) })).await;
    socket.expect("error").await;
    socket.ack(&[&frame["message_id"]]).await;

    let readable = json!({ "recipient_id": bob.user_id, "ciphertext": b64(PLAINTEXT) });
    alice.send(&readable).await.refused(422, "not-ciphertext");
    let mut unknown = opaque_send(bob.user_id);
    unknown["text"] = json!(String::from_utf8_lossy(PLAINTEXT));
    alice.send(&unknown).await.refused(400, "bad-field");
    let broken = alice.request(Method::POST, "/api/v1/messages/send/me").bearer_auth(&alice.access_token);
    let broken = broken.header("content-type", "application/json").body(PLAINTEXT);
    assert_eq!(broken.send().await.unwrap().status(), 400);
    let mut short = opaque_send(bob.user_id);
    short["ciphertext"] = json!(b64(opaque(4)));
    alice.send(&short).await.refused(422, "bad-envelope");

    alice.mark("read", &sent["message_id"]).await.refused(404, "not-found");
    bob.mark("read", &sent["message_id"]).await.is(200);
    alice.history(&sent["conversation_id"], "").await.is(200);
    alice.delete_message(&sent["message_id"], "everyone").await.is(200);
    let path = format!("/api/v1/keys/devices/{}?token={}", bob.user_id, alice.access_token);
    alice.get(&path).await;
    alice.get(&format!("/nowhere/{}/{}", alice.user_id, alice.access_token)).await.refused(404, "not-found");
    alice.get(&bob.own("stats")).await.refused(403, "not-you");
    alice.bundles(bob.user_id).await.is(200);
    let rotated = alice.keys.signed_prekey(7);
    alice.put(&alice.own("rotate"), Some(&rotated)).await.is(200);
    alice
        .call_as(&alice.refresh_token, Method::GET, "/api/v1/keys/stats/me/me", None)
        .await
        .refused(401, "bad-token");
    bob.deactivate(tablet).await.is(200);
    tablet.queue("").await.refused(401, "bad-token");
}

/// A roster group from its founding to its last member; what names it.
async fn use_a_group(alice: &Device, bob: &Device) -> [Secret; 2] {
    let group = alice.founds(&[bob]).await;
    alice.says(group).await;
    bob.waiting_in(group).await;
    bob.send_to_group(group, &json!({ "ciphertext": b64(PLAINTEXT) })).await.refused(422, "not-ciphertext");
    alice.removes(group, bob.user_id).await;
    bob.send_to_group(group, &json!({ "ciphertext": b64(opaque(64)) })).await.refused(404, "not-found");
    [
        Secret("a group id", group.to_string().into_bytes()),
        Secret("a group id", group.simple().to_string().into_bytes()),
    ]
}
