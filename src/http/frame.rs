//! The frame around every request: its id, its problem, its log line, the guard of open mode.

use std::{
    net::IpAddr,
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
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
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
        None => next.call(request).await?.map_into_left_body(),
    };
    let route = response.request().match_pattern().unwrap_or_default();
    let mut response = with_problem(response, &request_id);
    let status = response.status().as_u16();
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::warn!(request_id, method = %response.request().method(), route, status, millis, "request failed");
    } else {
        tracing::debug!(request_id, method = %response.request().method(), route, status, millis, "request");
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (request, response) = response.into_parts();
    let mut response = response;
    heads::guard(response.headers_mut(), request.path(), config.as_deref().map(AsRef::as_ref));
    Ok(ServiceResponse::new(request, response))
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
    use super::*;

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
