//! What every answer says, whom web pages may be, and HEAD.

use reqwest::{Method, header::HeaderMap};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, client::IntoClientRequest, http::HeaderValue},
};

use super::borrowed;
use crate::support::{
    client::{Answer, Device, Kind},
    relay::{Backend, TestRelay},
    tls::{BOTH, Credentials, HTTP1, connect, exchange, exchanged},
};

const APP: &str = "https://app.example.org";
const EVIL: &str = "https://evil.example.org";

fn guarded(headers: &HeaderMap) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()), "{name}");
    }
    assert!(!headers.contains_key("server"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_guards_itself_against_browsers() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("CORS_ALLOWED_ORIGINS", APP)]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let answers = [
        (200, device.get("/").await),
        (200, device.get("/health").await),
        (200, device.get(&device.own("stats")).await),
        (404, device.get("/nowhere").await),
        (404, device.get("/api/v1/nowhere").await),
        (405, device.put("/health", None).await),
        (401, device.anonymous(Method::GET, &device.own("stats"), None).await),
        (400, device.get("/ws/me/me").await),
        (414, device.get(&format!("/{}", "x".repeat(9000))).await),
        (200, preflight(&relay, APP, "GET", "authorization").await),
    ];
    for (status, answer) in answers {
        assert_eq!(answer.status, status);
        guarded(&answer.headers);
        assert_eq!(answer.header("strict-transport-security"), "", "there is no TLS");
    }
    for (path, expected) in [(device.own("stats"), "no-store"), ("/health".to_owned(), "")] {
        assert_eq!(device.get(&path).await.header("cache-control"), expected, "{path}");
    }
    let raw = exchanged(
        relay.address,
        format!(
            "GET /ws/me/me HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             authorization: Bearer {}\r\n\r\n\u{8}\u{0}",
            device.access_token
        ),
    );
    let opened = raw.await;
    assert!(opened.starts_with("HTTP/1.1 101 "), "{opened}");
    assert!(opened.contains("x-content-type-options: nosniff\r\n"), "{opened}");
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_are_held_to_tls_where_there_is_tls_or_the_operator_says_so() {
    const STRICT: &str = "strict-transport-security: max-age=31536000\r\n";
    const HEALTH: &str = "GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let (files, root) = Credentials::fresh();
    for (setting, is_strict) in [("auto", true), ("on", true), ("off", false)] {
        let backend = Backend::embedded();
        let mut settings = files.settings().to_vec();
        settings.push(("STRICT_TRANSPORT_SECURITY", setting.to_owned()));
        let relay = backend.relay(&borrowed(&settings)).await;
        let mut stream = connect(relay.address, &root, HTTP1, BOTH).await.unwrap();
        let answer = exchange(&mut stream, HEALTH).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert_eq!(answer.contains(STRICT), is_strict, "{setting}: {answer}");
        backend.finish().await;
    }
    let backend = Backend::embedded();
    let relay = backend.relay(&[("STRICT_TRANSPORT_SECURITY", "on")]).await;
    assert!(exchanged(relay.address, HEALTH).await.contains(STRICT), "a proxy has TLS");
    backend.finish().await;
}

async fn preflight(relay: &TestRelay, origin: &str, method: &str, headers: &str) -> Answer {
    let url = format!("{}/api/v1/limits", relay.url());
    let request = reqwest::Client::new().request(Method::OPTIONS, url).header("origin", origin);
    let request = request.header("access-control-request-method", method);
    let request = request.header("access-control-request-headers", headers);
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_pages_may_use_every_method_and_header_of_the_api_and_others_none() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("CORS_ALLOWED_ORIGINS", &format!("{APP},capacitor://localhost"))]).await;
    for origin in [APP, "capacitor://localhost"] {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
            let allowed = preflight(&relay, origin, method, "authorization,content-type,x-join-token").await;
            assert_eq!(allowed.status, 200, "{method}: {allowed:?}");
            assert_eq!(allowed.header("access-control-allow-origin"), origin);
            assert!(allowed.header("access-control-allow-methods").contains(method));
            let headers = allowed.header("access-control-allow-headers").to_lowercase();
            assert!(
                ["authorization", "content-type", "x-join-token"].iter().all(|name| headers.contains(name))
            );
            assert_eq!(allowed.header("access-control-allow-credentials"), "", "there are no cookies");
        }
    }
    for origin in [EVIL, "null", "https://app.example.org.evil.org", "http://app.example.org"] {
        let refused = preflight(&relay, origin, "GET", "authorization").await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
        let client = reqwest::Client::new();
        let plain =
            client.get(format!("{}/health", relay.url())).header("origin", origin).send().await.unwrap();
        assert!(!plain.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    let client = reqwest::Client::new();
    let answer = client.get(format!("{}/nowhere", relay.url())).header("origin", APP).send().await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], APP, "refusals can be read too");
    let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    for name in ["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name} in {exposed}");
    }
    backend.finish().await;
}

async fn opened_from(device: &Device, origin: Option<&str>) -> Result<u16, tungstenite::Error> {
    let url = format!("{}/ws/me/me", device.base.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    let token = HeaderValue::try_from(format!("Bearer {}", device.access_token)).unwrap();
    request.headers_mut().insert("authorization", token);
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", HeaderValue::try_from(origin).unwrap());
    }
    connect_async(request).await.map(|(_, answer)| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_opened_for_listed_pages_and_for_whoever_is_no_page() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[("CORS_ALLOWED_ORIGINS", APP)]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    let own = relay.url();
    for origin in [None, Some(APP), Some(own.as_str()), Some("https://localhost")] {
        assert_eq!(opened_from(&device, origin).await.unwrap(), 101, "{origin:?}");
    }
    for origin in [EVIL, "null", "", "https://", "http://app.example.org"] {
        let refused = opened_from(&device, Some(origin)).await.unwrap_err();
        let tungstenite::Error::Http(answer) = refused else { panic!("{origin}: {refused}") };
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        let body = String::from_utf8(answer.body().clone().unwrap()).unwrap();
        assert!(body.contains("origin-not-allowed"), "{body}");
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_answered_like_get_without_its_body_and_uses_nothing_up() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let device = Device::registered(&relay, Kind::Ed25519).await;
    for path in ["/health/live".to_owned(), "/api/v1/limits".to_owned(), device.own("stats")] {
        let get = device.get(&path).await;
        let head = device.call(Method::HEAD, &path, None).await;
        assert_eq!((head.status, head.body.as_str()), (200, Some("")), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
    let lost = device.call(Method::HEAD, "/nowhere", None).await;
    assert_eq!((lost.status, lost.body.as_str()), (404, Some("")));
    // The connection can be used again: nobody took a body for the next answer.
    let two = "HEAD /health HTTP/1.1\r\nhost: x\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = exchanged(relay.address, two).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches(r#""status":"healthy""#).count(), 1, "{answers}");

    let stats = device.get(&device.own("stats")).await.is(200);
    let bundle = format!("/api/v1/keys/bundle/{}", device.user_id);
    let spelled = format!("/api/v1/keys/%62undle/{}", device.user_id);
    assert!(device.call(Method::HEAD, &spelled, None).await.status >= 400);
    let refused = device.call(Method::HEAD, &bundle, None).await;
    assert_eq!((refused.status, refused.header("allow")), (405, "GET"));
    assert_eq!(device.get(&device.own("stats")).await.is(200), stats, "no key was used up");
    assert_eq!(device.post("/health", &serde_json::json!({})).await.header("allow"), "GET, HEAD");
    backend.finish().await;
}
