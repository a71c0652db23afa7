//! What proves devices and users is worth something to whoever reads it: it must not be written anywhere.

use std::io::{Read as _, Write as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use reqwest::Method;
use restante::domain::{Clock, SystemClock};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    PLAINTEXT, identities,
    search::{Secret, assert_absent, audit, redis, store},
};
use crate::support::{
    client::{Answer, Device, Kind},
    crypto::{b64, statement, unb64},
    login,
    mothers::bytes,
    process::RelayProcess,
    relay::{Backend, on_both_backends},
    socket::{Door, Format, Socket},
};

on_both_backends! { nothing_that_proves_somebody_is_written_anywhere }

/// The address that the proxy before the relay tells of.
const ADDRESS: &str = "203.0.113.77";

/// A user of the relay who remembers what must not be written.
struct Run {
    base: String,
    host: SigningKey,
    secrets: Vec<Secret>,
    /// What the store must know, and the log must not.
    private: Vec<Secret>,
}

impl Run {
    fn new(base: &str, host: SigningKey) -> Self {
        let address = Secret("an address", ADDRESS.into());
        let octets = Secret("an address", b"203, 0, 113, 77".to_vec());
        let secrets = vec![
            Secret("a plaintext", PLAINTEXT.to_vec()),
            Secret("the key of the host application", host.to_bytes().to_vec()),
            address,
            octets,
        ];
        Self { base: base.to_owned(), host, secrets, private: Vec::new() }
    }

    /// Remembers a text, each of its parts, and the bytes it stands for.
    fn remember(&mut self, what: &'static str, text: &str) {
        self.secrets.push(Secret(what, text.into()));
        let parts: Vec<_> = text.split('.').collect();
        // The header of a JWT is the same for all.
        let parts = if parts.len() == 3 { &parts[1..] } else { &parts[..] };
        for part in parts {
            self.secrets.push(Secret(what, (*part).into()));
            self.secrets.push(Secret(what, URL_SAFE_NO_PAD.decode(part).unwrap()));
        }
    }

    fn remember_tokens(&mut self, tokens: &Value) {
        self.remember("an access token", tokens["access_token"].as_str().unwrap());
        let refresh = tokens["refresh_token"].as_str().unwrap();
        self.remember("a refresh token", refresh);
        let secret = URL_SAFE_NO_PAD.decode(refresh).unwrap()[16..48].to_vec();
        self.secrets.push(Secret("the secret of a refresh token", secret));
    }

    /// An admission token.
    fn admission(&mut self, key: &SigningKey, user: Uuid, audience: &str, recover: bool) -> String {
        let exp = SystemClock.now().millis() / 1000 + 600;
        let claims =
            json!({ "sub": user, "aud": audience, "exp": exp, "recover": recover, "n": bytes::<16>() });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "typ": "JWT" })), part(&claims));
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes()));
        self.remember("an admission token", &token);
        token
    }

    /// A request from behind the proxy.
    async fn ask(&self, device: &Device, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let request = device.request(Method::POST, path).header("x-forwarded-for", ADDRESS).json(body);
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        Answer::of(request.send().await.unwrap()).await
    }

    async fn register(&mut self, device: &mut Device, body: &Value, admission: Option<&str>) -> Answer {
        let path = format!("/api/v1/keys/register/{}", device.user_id);
        let answer = self.ask(device, &path, admission, body).await;
        self.private.extend(identities(device));
        self.private.push(Secret("a proof", unb64(&body["proof"])));
        self.secrets.push(Secret("a private identity key", device.keys.identity_secret()));
        if answer.status == 201 {
            self.remember_tokens(&answer.body);
            answer["access_token"].as_str().unwrap().clone_into(&mut device.access_token);
            answer["refresh_token"].as_str().unwrap().clone_into(&mut device.refresh_token);
            device.device_number = u8::try_from(answer["device_number"].as_u64().unwrap()).unwrap();
        }
        answer
    }

    /// A device of a user whom the host application admits.
    async fn admitted(&mut self, name: &str) -> Device {
        let mut device = Device::of(&self.base, Uuid::new_v4(), name, Kind::Signal);
        let body = device.registration();
        let host = self.host.clone();
        let token = self.admission(&host, device.user_id, "restante", false);
        self.register(&mut device, &body, None).await.refused(403, "admission-required");
        let stranger = SigningKey::from_bytes(&bytes());
        for (key, audience) in [(&stranger, "restante"), (&host, "somebody")] {
            let wrong = self.admission(key, device.user_id, audience, false);
            self.register(&mut device, &body, Some(&wrong)).await.refused(401, "bad-admission");
        }
        self.register(&mut device, &body, Some(&token)).await.is(201);
        device
    }

    async fn link(&mut self, by: &Device, name: &str) -> Device {
        let mut newcomer = Device::of(&self.base, by.user_id, name, Kind::Signal);
        let vouch = by.vouch(&newcomer);
        self.private.push(Secret("a link signature", unb64(&vouch["signature"])));
        let offer = self.ask(by, "/api/v1/keys/link/me", Some(&by.access_token), &vouch).await.is(201);
        let mut body = newcomer.registration();
        body["link_token"] = offer["link_token"].clone();
        self.remember("a link token", offer["link_token"].as_str().unwrap());
        self.register(&mut newcomer, &body, None).await.is(201);
        let mut thief = Device::of(&self.base, by.user_id, "thiefs-phone", Kind::Signal);
        let mut stolen = thief.registration();
        stolen["link_token"] = offer["link_token"].clone();
        self.register(&mut thief, &stolen, None).await.refused(403, "link-required");
        newcomer
    }

    /// Logs a device in, and is refused for a wrong signature and for a challenge that was used.
    async fn log_in(&mut self, device: &mut Device) {
        let who = json!({ "user_id": device.user_id, "device_id": device.device_id });
        let answer = self.ask(device, "/api/v1/auth/challenge", None, &who).await.is(200);
        let challenge = answer["challenge"].as_str().unwrap();
        self.remember("a challenge", challenge);
        let right = login::response(device, challenge);
        self.secrets.push(Secret("a login signature", unb64(&right["signature"])));
        let mut wrong = right.clone();
        wrong["signature"] = json!(b64(bytes::<64>()));
        self.secrets.push(Secret("a wrong signature", unb64(&wrong["signature"])));
        self.ask(device, "/api/v1/auth/token", None, &wrong).await.refused(401, "bad-proof");
        let tokens = self.ask(device, "/api/v1/auth/token", None, &right).await.is(200);
        self.ask(device, "/api/v1/auth/token", None, &right).await.refused(401, "bad-proof");
        self.adopt(device, &tokens);
    }

    fn adopt(&mut self, device: &mut Device, tokens: &Value) {
        self.remember_tokens(tokens);
        tokens["access_token"].as_str().unwrap().clone_into(&mut device.access_token);
        tokens["refresh_token"].as_str().unwrap().clone_into(&mut device.refresh_token);
    }

    /// Refreshes twice, and then uses the first token again, which ends the session.
    async fn refresh_and_reuse(&mut self, device: &mut Device) {
        let first = json!({ "refresh_token": device.refresh_token });
        for _ in 0..2 {
            let body = json!({ "refresh_token": device.refresh_token });
            let tokens = self.ask(device, "/api/v1/auth/refresh", None, &body).await.is(200);
            self.adopt(device, &tokens);
        }
        self.ask(device, "/api/v1/auth/refresh", None, &first).await.refused(401, "token-reused");
        let unknown = json!({ "refresh_token": device.refresh_token, "also": device.access_token });
        self.ask(device, "/api/v1/auth/refresh", None, &unknown).await.refused(400, "bad-field");
        let cut = format!("{{\"refresh_token\": \"{}", device.refresh_token);
        let cut = device.request(Method::POST, "/api/v1/auth/refresh").body(cut);
        let cut = cut.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(cut.status(), 400);
        self.log_in(device).await;
    }

    /// Opens sockets by tickets, and is refused for used ones and for those in the wrong place.
    async fn use_tickets(&mut self, device: &Device) {
        let (used, unused) = (login::ticket(device).await, login::ticket(device).await);
        self.remember("a ticket", &used);
        self.remember("a ticket", &unused);
        let open = |path: &'static str, ticket: String| {
            let base = self.base.clone();
            async move { Socket::connect_to(&base, path, &ticket, Format::Json, Door::Ticket).await }
        };
        let mut socket = open("/ws/me/me", used.clone()).await.unwrap();
        socket.expect("hello").await;
        for (token, answer) in
            [(&device.access_token, "acked"), (&used, "error"), (&device.refresh_token, "error")]
        {
            socket.send(&json!({ "type": "auth", "ref": "a", "token": token })).await;
            socket.expect(answer).await;
        }
        assert!(open("/ws/me/me", used.clone()).await.is_err());
        assert!(open("/ws/me/nobody", unused.clone()).await.is_err());
        device.get(&format!("/ws/me/me?ticket={unused}&token={used}")).await;
        device.call_as(&unused, Method::GET, "/api/v1/auth/sessions", None).await.refused(401, "bad-token");
        socket.close().await;
    }

    /// Loses its only device and comes back, by an earlier key and by a word of the host application.
    async fn come_back(&mut self, mut device: Device) -> Device {
        for by_key in [true, false] {
            device.deactivate(&device).await.is(200);
            let name = if by_key { "alices-second" } else { "alices-third0" };
            let mut next = Device::of(&self.base, device.user_id, name, Kind::Signal);
            let mut body = next.registration();
            let host = self.host.clone();
            let admission = if by_key {
                let (user, identity) = (next.user_id.to_string(), next.keys.identity());
                let parts: [&[u8]; 4] = [b"restante-recover-v1", b"localhost", user.as_bytes(), &identity];
                let proof = device.keys.sign(&statement(&parts));
                body["recovery_proof"] = json!(b64(&proof));
                self.secrets.push(Secret("a recovery proof", proof));
                None
            } else {
                Some(self.admission(&host, next.user_id, "restante", true))
            };
            self.register(&mut next, &body, admission.as_deref()).await.is(201);
            device = next;
        }
        device
    }
}

/// A request by hand, so that the peer's own address is known.
fn refused_by_hand(base: &str, token: &str) -> String {
    let mut stream = std::net::TcpStream::connect(base.trim_start_matches("http://")).unwrap();
    let own = stream.local_addr().unwrap().to_string();
    let request = format!(
        "GET /api/v1/auth/sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}x\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    own
}

async fn nothing_that_proves_somebody_is_written_anywhere(backend: &Backend) {
    let host = SigningKey::from_bytes(&bytes());
    // A SubjectPublicKeyInfo (RFC 8410).
    let mut info = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".to_vec();
    info.extend(host.verifying_key().to_bytes());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", b64(info));
    let settings = [
        ("RUST_LOG", "debug,restante=trace"),
        ("REGISTRATION", "token"),
        ("ADMISSION_KEY", pem.as_str()),
        ("TRUSTED_PROXIES", "127.0.0.1/32"),
        ("FETCH_LIMIT_PER_PAIR", "1"),
    ];
    let mut process = RelayProcess::start(backend, &settings).await;
    let mut run = Run::new(&process.url(), host);
    let mut alice = run.admitted("alices-handset").await;
    let mut bob = run.admitted("bobs-handset").await;
    let tablet = run.link(&bob, "bobs-tablet").await;
    alice.send_signal(bob.user_id, PLAINTEXT).await.is(201);
    for _ in 0..3 {
        alice.bundle(&bob).await.is(200);
    }
    run.log_in(&mut bob).await;
    run.refresh_and_reuse(&mut bob).await;
    run.use_tickets(&bob).await;
    bob.get("/api/v1/auth/sessions").await.is(200);
    let trail = login::audit(&bob).await;
    for event in ["limit_tripped", "token_reused", "link_issued"] {
        assert!(trail.iter().any(|entry| entry == event), "{event}: {trail:?}");
    }
    let logged_out = bob.access_token.clone();
    login::log_out(&bob).await.is(204);
    bob.queue("limit=1").await.refused(401, "bad-token");
    run.log_in(&mut bob).await;
    let alice = run.come_back(alice).await;
    let peer = refused_by_hand(&run.base, &logged_out);
    run.secrets.push(Secret("an address", peer.into_bytes()));
    bob.send_signal(alice.user_id, PLAINTEXT).await.is(201);
    bob.deactivate(&tablet).await.is(200);
    keys_of_the_relay(backend, &mut run.secrets);
    search(backend, &mut process, run).await;
}

/// The relay's own secrets, set or made.
fn keys_of_the_relay(backend: &Backend, secrets: &mut Vec<Secret>) {
    let settings = backend.settings(&[]);
    for (name, file) in [("MASTER_SECRET", "master.key"), ("TOKEN_SIGNING_KEY", "token-signing.key")] {
        let text = match settings.get(name) {
            Some(text) => text.clone(),
            None => std::fs::read_to_string(backend.folder().join(file)).unwrap().trim().to_owned(),
        };
        secrets.push(Secret("a key of the relay", unb64(&json!(text))));
        secrets.push(Secret("a key of the relay", text.into_bytes()));
    }
}

async fn search(backend: &Backend, process: &mut RelayProcess, run: Run) {
    let Run { secrets, mut private, .. } = run;
    assert_absent("the store of a running relay", &store(backend).await, &secrets);
    if let Some(prefix) = backend.settings(&[]).get("REDIS_PREFIX") {
        let hot = redis(&std::env::var("RESTANTE_TEST_REDIS_URL").unwrap(), prefix).await;
        assert!(!hot.plain.is_empty() && !hot.mail.is_empty(), "Redis was to be searched");
        assert_absent("Redis", &hot.plain, &secrets);
        assert_absent("Redis", &hot.plain, &private);
        assert_absent("the mail in Redis", &hot.mail, &secrets);
    }
    assert_absent("the trail, which knows pseudonyms only,", &audit(backend).await, &private);
    assert!(process.stop().await.success());
    assert_absent("the store", &store(backend).await, &secrets);
    private.extend(secrets);
    let written = process.written();
    assert!(written.contains("request"), "the log was to be searched at its most talkative:\n{written}");
    assert_absent("the log", written.as_bytes(), &private);
}
