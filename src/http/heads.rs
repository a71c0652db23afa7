//! The heads of requests and answers: how large the one may be, and what the other always says.

use actix_web::{
    HttpRequest,
    dev::ServiceRequest,
    http::{
        Method,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};

use super::Problem;
use crate::config::Config;

/// The longest path with its query, in bytes.
const MOST_TARGET: usize = 8 << 10;

/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// The most bytes of all names and values of a request's headers.
const MOST_HEADER_BYTES: usize = 32 << 10;

/// Where a GET hands out one-time keys, or becomes a socket: a HEAD would use something up for nothing.
const NOT_FOR_HEAD: [&str; 2] = ["/api/v1/keys/bundle", "/ws/"];

/// What every answer says, unless its route has said otherwise.
const ALWAYS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    // Pages of other origins may call (CORS), but not embed.
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A year, as RFC 6797 shows it. Other names below the relay's are not the relay's to decide about.
const STRICT: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What is wrong with the head of a request.
pub(super) fn fault(request: &ServiceRequest) -> Option<Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MOST_TARGET {
        let detail = format!("the path and query are longer than {MOST_TARGET} bytes");
        return Some(Problem::new(414, "uri-too-long", detail).with("limit", MOST_TARGET));
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > MOST_HEADERS || bytes > MOST_HEADER_BYTES {
        let detail =
            format!("there are more than {MOST_HEADERS} headers or {MOST_HEADER_BYTES} bytes of them");
        return Some(Problem::new(431, "headers-too-large", detail));
    }
    None
}

/// Whether a HEAD for this path is answered like a GET without its body.
pub(super) fn takes_head(path: &str) -> bool {
    !NOT_FOR_HEAD.iter().any(|start| path.starts_with(start))
}

/// Lets a HEAD find the route of its GET. The connection remembers that no body is to be sent.
pub(super) fn route_head_as_get(request: &mut ServiceRequest) {
    // As the router sees it: decoded, so that no spelling of a path leads around the list.
    if request.method() == Method::HEAD && takes_head(request.match_info().as_str()) {
        request.head_mut().method = Method::GET;
    }
}

/// Adds what every answer says.
pub(super) fn guard(headers: &mut HeaderMap, path: &str, config: Option<&Config>) {
    for (name, value) in ALWAYS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if config.is_some_and(|config| config.transport.is_strict()) {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT);
    }
    if path.starts_with("/api/") {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Refuses a socket to a web page that may not call the relay. A page could do little with it, because tokens are not
/// cookies and no browser adds them; but the list of origins means the same at every door. Who is no browser names no
/// origin, or the relay itself.
///
/// # Errors
/// 403 `origin-not-allowed`.
pub fn check_origin(request: &HttpRequest, config: &Config) -> Result<(), Problem> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    let is_own = !authority.is_empty() && [host, config.relay_name.as_str()].contains(&authority);
    if is_own || config.cors_allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    Err(Problem::new(403, "origin-not-allowed", "pages of this origin may not call the relay"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actix_web::test::TestRequest;

    use super::*;

    fn config(own: &[(&str, &str)]) -> Config {
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_vars(&BTreeMap::new(), &own.collect()).unwrap()
    }

    #[test]
    fn a_route_may_have_a_policy_of_its_own() {
        let mut headers = HeaderMap::new();
        let own = HeaderValue::from_static("default-src 'self'");
        headers.insert(header::CONTENT_SECURITY_POLICY, own.clone());
        guard(&mut headers, "/docs", Some(&config(&[])));
        assert_eq!(headers.get_all(header::CONTENT_SECURITY_POLICY).collect::<Vec<_>>(), [&own]);
        assert!(headers.contains_key(header::X_CONTENT_TYPE_OPTIONS));
        assert!(!headers.contains_key(header::CACHE_CONTROL));
    }

    #[test]
    fn a_page_is_listed_or_the_relays_own_and_none_is_no_page() {
        let config = config(&[
            ("RELAY_NAME", "relay.example.org"),
            ("CORS_ALLOWED_ORIGINS", "https://app.example.org,capacitor://localhost"),
        ]);
        let checked = |origin: &str| {
            let request = TestRequest::get().insert_header(("host", "10.0.0.1:8091"));
            check_origin(&request.insert_header(("origin", origin)).to_http_request(), &config).is_ok()
        };
        for good in [
            "https://app.example.org",
            "capacitor://localhost",
            "https://relay.example.org",
            "http://10.0.0.1:8091",
        ] {
            assert!(checked(good), "{good}");
        }
        for bad in
            ["https://app.example.org:444", "null", "", "https://", "http://10.0.0.1", "relay.example.org"]
        {
            assert!(!checked(bad), "{bad}");
        }
        assert!(check_origin(&TestRequest::get().to_http_request(), &config).is_ok());
        let own = TestRequest::get().insert_header(("origin", "https://")).insert_header(("host", ""));
        assert!(check_origin(&own.to_http_request(), &config).is_err(), "nothing is not the relay");
    }
}
