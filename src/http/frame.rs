//! The frame around every request: its id, its problem, its log line, the guard of open mode.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ResourceDef, ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use futures_util::FutureExt as _;
use tracing::{Instrument as _, field};
use uuid::Uuid;

use super::{Problem, heads};
use crate::config::{AuthMode, Config};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives the request an id, refuses an oversized head, turns what was refused into a problem, adds what every answer says,
/// and writes one log line without identities.
pub async fn frame<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let request_id = fresh_request_id();
    let began = Instant::now();
    let config = request.app_data::<web::Data<Config>>().cloned();
    let refused = heads::fault(&request)
        .or_else(|| config.as_ref().and_then(|config| open_mode_refusal(&request, config)));
    heads::route_head_as_get(&mut request);
    let response = match refused {
        Some(problem) => {
            let response = HttpResponse::from_error(problem);
            request.into_response(response).map_into_right_body()
        }
        None => answered(next, request, &request_id).await?.map_into_left_body(),
    };
    let route = response.request().match_pattern().unwrap_or_default();
    let mut response = with_problem(response, &request_id);
    let (method, status) = (method_word(response.request().method()), response.status().as_u16());
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::warn!(request_id, method, route, status, millis, "request failed");
    } else {
        tracing::debug!(request_id, method, route, status, millis, "request");
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (request, response) = response.into_parts();
    let mut response = response;
    heads::guard(response.headers_mut(), request.path(), config.as_deref().map(AsRef::as_ref));
    Ok(ServiceResponse::new(request, response))
}

/// The answer of the route, under a span of its own. A panic is answered 500, and the connection goes on.
async fn answered<B: MessageBody + 'static>(
    next: Next<B>,
    request: ServiceRequest,
    request_id: &str,
) -> Result<ServiceResponse<B>, actix_web::Error> {
    let span = tracing::trace_span!(
        target: "restante::spans",
        "request",
        otel.kind = "server",
        http.request.method = method_word(request.method()),
        http.route = field::Empty,
        http.response.status_code = field::Empty,
    );
    let answering = async move { next.call(request).await }.instrument(span.clone());
    let Ok(answer) = AssertUnwindSafe(answering).catch_unwind().await else {
        span.record("http.response.status_code", 500);
        return Err(panicked(request_id));
    };
    if let Ok(response) = &answer {
        span.record("http.route", response.request().match_pattern());
        span.record("http.response.status_code", response.status().as_u16());
    }
    answer
}

/// The request is gone with whoever panicked, so that this answer is written here whole.
fn panicked(request_id: &str) -> actix_web::Error {
    tracing::warn!(request_id, status = 500, "request failed");
    let problem = Problem::new(500, "internal", "internal server error");
    let response = HttpResponse::InternalServerError()
        .content_type("application/problem+json")
        .insert_header((REQUEST_ID, request_id))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(problem.body(request_id).to_string());
    InternalError::from_response("a handler panicked", response).into()
}

/// A method that a client may have made up is not told.
fn method_word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// Unique over processes by a random half and within one by a count: a request costs no system call for it.
fn fresh_request_id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| Uuid::new_v4().as_u64_pair().0);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}{:016x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Every error status gets a problem body: the one that was raised, or one that tells the status.
fn with_problem<B>(
    response: ServiceResponse<EitherBody<B, BoxBody>>,
    request_id: &str,
) -> ServiceResponse<EitherBody<B, BoxBody>> {
    if response.status().as_u16() < 400 {
        return response;
    }
    let raised = response.response().extensions().get::<Problem>().cloned();
    let problem = raised.unwrap_or_else(|| generic(&response));
    let status = response.status();
    let body = problem.body(request_id).to_string();
    let mut response = response.map_body(|_, _| EitherBody::right(BoxBody::new(body)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::REQUEST_TIMEOUT {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = problem.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn generic<B>(response: &ServiceResponse<B>) -> Problem {
    let status = response.status();
    let detail = status.canonical_reason().unwrap_or("error").to_lowercase();
    Problem::new(status.as_u16(), if status.is_server_error() { "internal" } else { "bad-request" }, detail)
}

/// In open mode whoever reaches the socket is trusted, so it must be reachable by nobody but this machine's own tools:
/// not through a proxy, not by a name that a web page could have rebound, not from a web page.
fn open_mode_refusal(request: &ServiceRequest, config: &Config) -> Option<Problem> {
    if config.auth_mode != AuthMode::Open {
        return None;
    }
    let headers = request.headers();
    let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let strange_origin =
        origin.is_some_and(|origin| !config.cors_allowed_origins.iter().any(|known| known == origin));
    let proxied = headers.keys().any(|name| {
        matches!(name.as_str(), "forwarded" | "via") || name.as_str().starts_with("x-forwarded-")
    });
    let foreign_peer = !request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let foreign_host = !host.is_some_and(is_loopback_host);
    // A page can make plain requests without an origin, but cannot hide that it does.
    let fetched = headers.get("sec-fetch-site").map(|site| site.to_str().unwrap_or_default());
    let from_page = fetched.is_some_and(|site| !matches!(site, "none" | "same-origin")) && origin.is_none();
    let remote = (proxied || foreign_peer || foreign_host) && !config.auth_open_allow_remote;
    (strange_origin || from_page || remote).then(|| {
        Problem::new(403, "open-mode-local-only", "AUTH_MODE=open answers direct local requests only")
    })
}

fn is_loopback_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The paths there are and the methods each of them knows, to tell 405 from 404.
pub struct KnownPaths(Vec<(ResourceDef, Vec<Method>)>);

impl KnownPaths {
    /// From path templates (`/a/{b}`) and their methods.
    pub fn new(paths: impl IntoIterator<Item = (String, Vec<Method>)>) -> Self {
        Self(paths.into_iter().map(|(path, methods)| (ResourceDef::new(path), methods)).collect())
    }

    fn methods(&self, path: &str) -> Vec<Method> {
        self.0
            .iter()
            .filter(|(pattern, _)| pattern.is_match(path))
            .flat_map(|(_, methods)| methods.clone())
            .collect()
    }
}

/// Answers what no route answers.
///
/// # Errors
/// Always: 405 with `Allow` when the path is known with other methods, else 404.
pub async fn unknown_path(request: HttpRequest, known: web::Data<KnownPaths>) -> HttpResponse {
    let mut methods = known.methods(request.path());
    if methods.contains(&Method::GET) && heads::takes_head(request.path()) {
        methods.push(Method::HEAD);
    }
    if methods.is_empty() {
        return HttpResponse::from_error(Problem::not_found("route"));
    }
    let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let detail = format!("this path knows {allow} only");
    let mut response = HttpResponse::from_error(Problem::new(405, "method-not-allowed", detail));
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpServer, middleware::from_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[actix_web::test]
    async fn a_panic_is_answered_500_without_its_words_and_the_connection_goes_on() {
        let app = || {
            let panics =
                || async { if true { panic!("alices-secret") } else { HttpResponse::Ok().finish() } };
            let fine = || async { HttpResponse::Ok().body("fine") };
            App::new().wrap(from_fn(frame)).route("/panics", web::to(panics)).route("/fine", web::to(fine))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let (address, server) = (server.addrs()[0], server.run());
        let handle = server.handle();
        let serving = tokio::spawn(server);
        let mut connection = TcpStream::connect(address).await.unwrap();
        for path in ["/panics", "/fine", "/panics"] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            connection.write_all(head.as_bytes()).await.unwrap();
            let mut answer = vec![0; 4096];
            let length = connection.read(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
            if path == "/fine" {
                assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("fine"), "{answer}");
                continue;
            }
            assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
            assert!(answer.contains("content-type: application/problem+json"), "{answer}");
            let body: serde_json::Value =
                serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            assert_eq!((&body["code"], &body["status"]), (&"internal".into(), &500.into()));
            let id = body["request_id"].as_str().unwrap();
            assert!(answer.contains(&format!("x-request-id: {id}")), "{answer}");
            assert!(!answer.contains("alices-secret"), "{answer}");
        }
        handle.stop(false).await;
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn methods_that_clients_make_up_are_not_told() {
        assert_eq!(method_word(&Method::DELETE), "DELETE");
        assert_eq!(method_word(&Method::from_bytes(b"alices-secret").unwrap()), "_OTHER");
    }

    #[test]
    fn only_loopback_names_and_addresses_count_as_local_hosts() {
        for local in ["localhost", "LOCALHOST:8091", "127.0.0.1:1", "127.9.9.9", "[::1]:8091", "[::1]"] {
            assert!(is_loopback_host(local), "{local}");
        }
        for foreign in ["example.org", "localhost.example.org", "10.0.0.1:80", "", "[2001:db8::1]:80", "::1x"]
        {
            assert!(!is_loopback_host(foreign), "{foreign}");
        }
    }
}
