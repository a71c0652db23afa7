//! What no client should send: refused with a status and a code that say why, and nothing has changed.

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::{
    client::{Answer, Device, Kind, opaque_send},
    crypto::{b64, opaque, unb64},
    relay::{Backend, TestRelay, on_both_backends},
    socket::PATIENCE,
};

on_both_backends! {
    keys_that_are_none_are_refused,
    bodies_that_are_not_what_they_say_are_refused,
    json_that_is_not_what_is_expected_is_refused,
    nobody_acts_for_another,
    paths_and_queries_that_name_nothing_are_refused,
    bodies_over_the_limit_are_refused_however_they_come,
    garbage_on_the_wire_ends_with_a_refusal,
}

/// What a test watches to see that nothing changed.
struct Scene {
    relay: TestRelay,
    alice: Device,
    bob: Device,
    before: Value,
}

async fn scene(backend: &Backend, kind: Kind) -> Scene {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, kind).await;
    let bob = Device::registered(&relay, kind).await;
    alice.send_opaque(bob.user_id).await;
    let before = state(&alice, &bob).await;
    Scene { relay, alice, bob, before }
}

/// Everything the two can see of themselves.
async fn state(alice: &Device, bob: &Device) -> Value {
    let mut state = Vec::new();
    for device in [alice, bob] {
        state.push(device.get(&device.own("stats")).await.is(200));
        state.push(device.queue("limit=100").await.is(200));
        state.push(device.get(&format!("/api/v1/keys/devices/{}", device.user_id)).await.is(200));
    }
    json!(state)
}

impl Scene {
    async fn is_unchanged(&self) {
        assert_eq!(state(&self.alice, &self.bob).await, self.before);
    }
}

/// Low-order points of Curve25519, canonical and not.
fn low_order() -> Vec<[u8; 32]> {
    let mut one = [0; 32];
    one[0] = 1;
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let mut p_minus_1 = p;
    p_minus_1[0] = 0xec;
    let mut p_plus_1 = p;
    p_plus_1[0] = 0xee;
    vec![[0; 32], one, p, p_minus_1, p_plus_1]
}

fn with_prefix(prefix: u8, key: &[u8]) -> Vec<u8> {
    [&[prefix], key].concat()
}

async fn keys_that_are_none_are_refused(backend: &Backend) {
    for kind in [Kind::Ed25519, Kind::Signal] {
        let mut scene = scene(backend, kind).await;
        let path = scene.alice.own("prekeys");
        let good = unb64(&scene.alice.keys.onetime_prekey(500)["public_key"]);
        let mut bad = vec![
            vec![],
            good[..good.len() - 1].to_vec(),
            [&good[..], &[0]].concat(),
            with_prefix(0x05, &good),
            vec![0xff; good.len()],
        ];
        for point in low_order() {
            bad.push(if kind == Kind::Signal { with_prefix(5, &point) } else { point.to_vec() });
        }
        if kind == Kind::Signal {
            bad.extend([with_prefix(0x06, &good[1..]), with_prefix(0, &good[1..]), good[1..].to_vec()]);
        }
        for key in bad {
            let body = json!([{ "id": 500, "public_key": b64(&key) }]);
            let problem = scene.alice.post(&path, &body).await.refused(422, "invalid-key");
            assert_eq!(problem["index"], 0, "{problem}");
        }
        kem_and_signed_keys_that_are_none(&mut scene).await;
        scene.is_unchanged().await;
        scene.relay.stop().await;
    }
}

async fn kem_and_signed_keys_that_are_none(scene: &mut Scene) {
    let (path, rotate) = (scene.alice.own("prekeys"), scene.alice.own("rotate"));
    let good = scene.alice.keys.kem_prekey(600);
    let key = unb64(&good["public_key"]);
    for bad in [&key[..1568], &key[1..], &[&key[..], &[0]].concat(), &with_prefix(0x07, &key[1..]), &[]] {
        let mut item = good.clone();
        item["public_key"] = json!(b64(bad));
        let body = json!({ "kem_prekeys": [item] });
        scene.alice.post(&path, &body).await.refused(422, "invalid-key");
    }
    let good = scene.alice.keys.signed_prekey(600);
    let signature = unb64(&good["signature"]);
    let mut flipped = signature.clone();
    flipped[40] ^= 1;
    for bad in [&signature[..63], &[&signature[..], &[0]].concat(), &flipped, &[0; 64]] {
        let mut item = good.clone();
        item["signature"] = json!(b64(bad));
        scene.alice.put(&rotate, Some(&item)).await.refused(422, "invalid-signature");
    }
    let mut item = good.clone();
    item["id"] = json!(-1);
    scene.alice.put(&rotate, Some(&item)).await.refused(422, "invalid-key");
}

/// A field of a send, the value it gets, and the refusal.
type BadField = (&'static str, fn() -> Value, u16, &'static str);

const SENDS: &[BadField] = &[
    ("ciphertext", || json!(b64(opaque(27))), 422, "bad-envelope"),
    ("ciphertext", || json!(b64([])), 422, "bad-envelope"),
    ("ciphertext", || json!(b64(opaque((96 << 10) + 1))), 413, "too-large"),
    (
        "ciphertext",
        || json!(b64("is anybody there, and can anybody read this line of text?")),
        422,
        "not-ciphertext",
    ),
    ("ciphertext", || json!("not base64!"), 400, "bad-field"),
    ("ciphertext", || json!("AQIDBA"), 400, "bad-field"),
    ("ciphertext", || json!("AQID-_=="), 400, "bad-field"),
    ("ciphertext", || json!([1, 2, 3]), 400, "bad-field"),
    ("ciphertext", || Value::Null, 400, "bad-field"),
    ("type", || json!("whisper"), 422, "bad-envelope"),
    ("type", || json!("prekey"), 422, "bad-envelope"),
    ("type", || json!("sealed"), 422, "bad-envelope"),
    ("type", || json!("sender_key"), 422, "bad-envelope"),
    ("type", || json!("plaintext_content"), 422, "bad-envelope"),
    ("type", || json!("shout"), 400, "bad-field"),
    ("message_type", || json!("text"), 400, "bad-field"),
    ("message_type", || json!(3), 400, "bad-field"),
    ("ephemeral_key", || json!(b64([0x80; 31])), 422, "bad-envelope"),
    ("ephemeral_key", || json!(b64([0x80; 34])), 422, "bad-envelope"),
    ("recipient_id", || json!("me"), 400, "bad-field"),
    ("recipient_id", || json!("00000000000000000000000000000001"), 400, "bad-field"),
    ("recipient_id", || Value::Null, 400, "bad-field"),
    ("recipient_id", || json!(Uuid::nil()), 422, "no-devices"),
    ("message_id", || json!("7"), 400, "bad-field"),
    ("message_id", || json!(Uuid::nil()), 400, "bad-field"),
    ("conversation_id", || json!("x"), 400, "bad-field"),
    ("device_id", || json!("laptop"), 403, "not-you"),
    ("device_id", || json!("a b"), 400, "bad-field"),
    ("expires_in_seconds", || json!(-1), 400, "bad-field"),
    ("expires_in_seconds", || json!(1.5), 400, "bad-field"),
    ("expires_in_seconds", || json!(0), 422, "bad-expiry"),
    ("online_only", || json!("yes"), 400, "bad-field"),
    ("envelopes", || json!([]), 400, "bad-field"),
    ("plaintext", || json!("hello"), 400, "bad-field"),
];

async fn bodies_that_are_not_what_they_say_are_refused(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    for (field, value, status, code) in SENDS {
        let mut body = opaque_send(scene.bob.user_id);
        body[field] = value();
        let problem = scene.alice.send(&body).await.refused(*status, code);
        if *code == "bad-field" && !matches!(*field, "envelopes") && !body[field].is_null() {
            assert_eq!(problem["field"], *field, "{problem}");
        }
    }
    let envelope = |extra: &str, value: Value| {
        let mut envelope = json!({ "device_id": "phone", "ciphertext": b64(opaque(40)) });
        envelope[extra] = value;
        envelope
    };
    let each = [
        (envelope("ciphertext", json!(b64(opaque(27)))), 422, "bad-envelope", "envelopes[0].ciphertext"),
        (envelope("ephemeral_key", json!(b64([0x80; 3]))), 422, "bad-envelope", "envelopes[0].ephemeral_key"),
        (envelope("registration_id", json!(0)), 400, "bad-field", "envelopes[0].registration_id"),
        (envelope("device_number", json!(1)), 400, "bad-field", "envelopes[0].device_id"),
        (envelope("device_id", json!("me")), 400, "bad-field", "envelopes[0].device_id"),
        (envelope("device_id", Value::Null), 400, "bad-field", "envelopes[0].device_id"),
        (envelope("surprise", json!(1)), 400, "bad-field", "envelopes[0].surprise"),
    ];
    for (envelope, status, code, field) in each {
        let body = json!({ "recipient_id": scene.bob.user_id, "envelopes": [envelope] });
        let problem = scene.alice.send(&body).await.refused(status, code);
        assert_eq!(problem["field"], field, "{problem}");
    }
    let large: Vec<_> = (0..5)
        .map(|n| json!({ "device_id": format!("d{n}"), "ciphertext": b64(opaque(90 << 10)) }))
        .collect();
    let body = json!({ "recipient_id": scene.bob.user_id, "envelopes": large });
    scene.alice.send(&body).await.refused(413, "too-large");
    scene.is_unchanged().await;
}

async fn json_that_is_not_what_is_expected_is_refused(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    let alice = &scene.alice;
    let send = format!("/api/v1/messages/send/{}", alice.user_id);
    let deep = format!("{{\"recipient_id\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let deep_array = "[".repeat(100_000);
    let twice = format!("{{\"recipient_id\":\"{0}\",\"recipient_id\":\"{0}\"}}", scene.bob.user_id);
    let texts = [
        "",
        "null",
        "true",
        "7",
        "\"text\"",
        "[]",
        "{}",
        "{\"a\":",
        "{}{}",
        "\u{feff}{}",
        &deep,
        &deep_array,
        &twice,
    ];
    for path in
        [send, alice.own("prekeys"), alice.own("check"), "/api/v1/messages/queue/me/me/ack".to_owned()]
    {
        for text in texts {
            let request = alice.request(Method::POST, &path).bearer_auth(&alice.access_token);
            let request = request.header("content-type", "application/json").body(text.to_owned());
            let answer = Answer::of(request.send().await.unwrap()).await;
            let empty = (path.ends_with("/ack") && text == "{}")
                || (path.contains("prekeys") && matches!(text, "[]" | "{}"));
            let expected: &[u16] = if empty { &[200] } else { &[400, 413] };
            assert!(expected.contains(&answer.status), "{path} {text:.40}: {answer:?}");
        }
    }
    let not_utf8 = alice.request(Method::POST, "/api/v1/messages/send/me").bearer_auth(&alice.access_token);
    let not_utf8 = not_utf8.header("content-type", "application/json").body(&b"{\"\xff\xfe\":1}"[..]);
    assert_eq!(Answer::of(not_utf8.send().await.unwrap()).await.status, 400);
    let mut newcomer = Device::new(&scene.relay.url(), Kind::Ed25519);
    let mut body = newcomer.registration();
    body["onetime_prekeys"][3]["private_key"] = json!("oops");
    let problem = newcomer.register(&body).await.refused(400, "bad-field");
    assert_eq!(problem["field"], "onetime_prekeys[3].private_key");
    assert!(!problem.to_string().contains("oops"));
    scene.is_unchanged().await;
}

async fn nobody_acts_for_another(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let laptop = alice.linked("laptop").await;
    let before = state(alice, bob).await;
    let (user, message) = (bob.user_id, Uuid::new_v4());
    let own_send = opaque_send(alice.user_id);
    let keys = json!([{ "id": 900, "public_key": b64([9; 32]) }]);
    let foreign = [
        (Method::POST, format!("/api/v1/messages/send/{user}"), Some(own_send)),
        (Method::GET, format!("/api/v1/messages/queue/{user}/phone"), None),
        (Method::DELETE, format!("/api/v1/messages/queue/{user}/phone"), Some(json!([message]))),
        (
            Method::POST,
            format!("/api/v1/messages/queue/{user}/phone/ack"),
            Some(json!({ "message_ids": [message] })),
        ),
        (Method::GET, format!("/api/v1/messages/conversation/{user}?conversation_id={message}"), None),
        (Method::PUT, format!("/api/v1/messages/read/{user}/{message}"), None),
        (Method::PUT, format!("/api/v1/messages/delivered/{user}/{message}"), None),
        (Method::DELETE, format!("/api/v1/messages/delete/{user}/{message}?for=me"), None),
        (Method::POST, format!("/api/v1/keys/link/{user}"), Some(alice.vouch(&laptop))),
        (
            Method::PUT,
            bob.own("rotate"),
            Some(json!({ "id": 1, "public_key": b64([9; 32]), "signature": b64([0; 64]) })),
        ),
        (Method::POST, bob.own("prekeys"), Some(keys.clone())),
        (Method::GET, bob.own("stats"), None),
        (Method::POST, bob.own("check"), Some(json!({ "digest": b64([0; 32]) }))),
        (Method::DELETE, bob.own("deactivate"), None),
        // Of the same user, but another device.
        (Method::GET, laptop.own("stats"), None),
        (Method::POST, laptop.own("prekeys"), Some(keys)),
        (Method::GET, format!("/api/v1/messages/queue/{}/laptop", alice.user_id), None),
    ];
    for (method, path, body) in foreign {
        alice.call(method.clone(), &path, body.as_ref()).await.refused(403, "not-you");
        alice.anonymous(method.clone(), &path, body.as_ref()).await.refused(401, "no-token");
        alice.call_as("e30.e30.e30", method.clone(), &path, body.as_ref()).await.refused(401, "bad-token");
        alice.call_as(&alice.refresh_token, method, &path, body.as_ref()).await.refused(401, "bad-token");
    }
    let basic = alice.request(Method::GET, &alice.own("stats")).basic_auth("alice", Some("secret"));
    Answer::of(basic.send().await.unwrap()).await.refused(401, "no-token");
    assert_eq!(state(alice, bob).await, before);
}

async fn paths_and_queries_that_name_nothing_are_refused(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    let alice = &scene.alice;
    let user = alice.user_id;
    let bad = [
        "/api/v1/messages/queue/not-a-uuid/phone".to_owned(),
        format!("/api/v1/messages/queue/{}/phone", user.simple()),
        format!("/api/v1/messages/queue/{{{user}}}/phone"),
        format!("/api/v1/messages/queue/{user}/%00"),
        format!("/api/v1/messages/queue/{user}/%ff%fe"),
        format!("/api/v1/messages/queue/{user}/a%2Fb"),
        format!("/api/v1/messages/queue/{user}/{}", "x".repeat(65)),
        format!("/api/v1/messages/queue/{user}/phone?limit=many"),
        format!("/api/v1/messages/queue/{user}/phone?limit=-1"),
        format!("/api/v1/messages/queue/{user}/phone?after=1&after=2"),
        format!("/api/v1/messages/queue/{user}/phone?limit=%ff"),
        format!("/api/v1/messages/conversation/{user}"),
        format!("/api/v1/messages/conversation/{user}?conversation_id=x"),
        "/api/v1/keys/devices/%E2%82".to_owned(),
        "/api/v1/keys/bundle/%2e%2e%2f".to_owned(),
        format!("/api/v1/keys/bundle/{user}?device_id=%20"),
        format!("/api/v1/keys/bundle/{user}?device=phone"),
    ];
    for path in bad {
        let answer = alice.get(&path).await;
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        let code = answer.code().to_owned();
        assert!(
            matches!((answer.status, &*code), (400, "bad-field") | (404, "not-found")),
            "{path}: {answer:?}"
        );
        assert!(!answer.header("x-request-id").is_empty(), "{path}");
    }
    let upper = format!("/api/v1/messages/queue/{}/phone", user.to_string().to_uppercase());
    alice.get(&upper).await.is(200);
    let nil = format!("/api/v1/keys/register/{}", Uuid::nil());
    let body = Device::new(&scene.relay.url(), Kind::Ed25519).registration();
    alice.anonymous(Method::POST, &nil, Some(&body)).await.refused(400, "bad-field");
    scene.is_unchanged().await;
}

async fn bodies_over_the_limit_are_refused_however_they_come(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    let alice = &scene.alice;
    for (path, limit) in [
        ("/api/v1/messages/send/me".to_owned(), 1 << 20),
        (alice.own("prekeys"), 1 << 20),
        (alice.own("check"), 64 << 10),
        ("/api/v1/messages/queue/me/me/ack".to_owned(), 64 << 10),
    ] {
        // Chunked, so that nothing says beforehand how much comes.
        let chunk = Bytes::from(vec![b' '; 16 << 10]);
        let chunks = limit / chunk.len() + 2;
        let answer = raw(
            &scene.relay,
            &chunked_head(alice, &path),
            (0..chunks).map(|_| {
                Bytes::from([format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat())
            }),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
        assert!(answer.contains("too-large"), "{answer}");
        let request = alice.request(Method::POST, &path).bearer_auth(&alice.access_token);
        let request = request.header("content-type", "application/json").body(vec![b' '; limit + 1]);
        if let Ok(answer) = request.send().await {
            Answer::of(answer).await.refused(413, "too-large");
        }
    }
    let claimed = format!(
        "POST /api/v1/messages/send/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
        content-type: application/json\r\ncontent-length: 99999999999\r\n\r\n",
        alice.access_token
    );
    let answer = raw(&scene.relay, &claimed, std::iter::empty()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "refused before it comes: {answer}");
    scene.is_unchanged().await;
}

fn chunked_head(device: &Device, path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        device.access_token
    )
}

/// Writes to a connection of its own and returns the beginning of the answer; empty when the relay just closes.
async fn raw(relay: &TestRelay, head: &str, parts: impl Iterator<Item = Bytes>) -> String {
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let writes = async {
        let all = std::iter::once(Bytes::copy_from_slice(head.as_bytes())).chain(parts);
        // The relay may answer and close before everything is written.
        for part in all {
            if writing.write_all(&part).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let reads = async {
        let mut buffer = [0; 4096];
        loop {
            let count = reading.read(&mut buffer).await.unwrap_or(0);
            answer.extend_from_slice(&buffer[..count]);
            if count == 0 || answer.ends_with(b"}") {
                return;
            }
        }
    };
    timeout(PATIENCE, async {
        tokio::select! { () = writes => {}, () = reads => {} }
    })
    .await
    .expect("an answer or an end");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn garbage_on_the_wire_ends_with_a_refusal(backend: &Backend) {
    let scene = scene(backend, Kind::Ed25519).await;
    let huge =
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-filler: {}\r\n\r\n", "a".repeat(300 << 10));
    let many = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x-a: b\r\n".repeat(2000));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(300 << 10));
    let smuggled = "POST /api/v1/messages/send/me HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\
        transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let bad_chunk = format!("{}zz\r\n\r\n", chunked_head(&scene.alice, "/api/v1/messages/send/me"));
    for garbage in
        [&huge, &many, &long_path, smuggled, &bad_chunk, "\u{16}\u{3}\u{1}\u{2}\u{0}\r\n\r\n", "GET\r\n\r\n"]
    {
        let answer = raw(&scene.relay, garbage, std::iter::empty()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{garbage:.60}: {answer}");
    }
    let token = "x".repeat(20_000);
    let answer = scene.alice.call_as(&token, Method::GET, &scene.alice.own("stats"), None).await;
    answer.refused(401, "bad-token");
    scene.is_unchanged().await;
}
