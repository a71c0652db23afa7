//! JSON bodies, read up to their limit and parsed strictly.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web};
use futures_util::{StreamExt, future::LocalBoxFuture};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::timeout;

use super::{
    Problem,
    limits::{Act, Gate},
};
use crate::config::{ClientLimits, Config};

/// Which limit holds for a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Small bodies.
    Plain,
    /// Bodies of the key routes.
    Keys,
    /// Bodies with sealed envelopes.
    Message,
    /// Bodies of the group routes that bring members, commits or state.
    Group,
}

impl BodyKind {
    /// The limit in bytes.
    #[must_use]
    pub const fn limit(self, limits: &ClientLimits) -> usize {
        match self {
            Self::Plain => limits.body,
            Self::Keys => limits.keys_body,
            Self::Message => limits.message_body,
            Self::Group => limits.group_body,
        }
    }
}

/// A type that a request body is parsed into. Unknown fields must be refused by it (`deny_unknown_fields`).
pub trait RequestBody: DeserializeOwned + 'static {
    /// Which limit holds.
    const KIND: BodyKind = BodyKind::Plain;
    /// Whether the body may be an array. Where it may not, an array would be taken for an object's fields in order.
    const ARRAY: bool = false;
    /// What the request counts as against its address, before anything of the body is read.
    const ACT: Option<Act> = None;
}

/// A parsed JSON body.
pub struct Body<T>(pub T);

impl<T: RequestBody> FromRequest for Body<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (limit, time) = (limit::<T>(request), time(request));
        let checked = check_type(request).and(check_length(request, limit));
        let gate = T::ACT.map(|act| Gate::of(request, act));
        let payload = payload.take();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate?.pass().await?;
            }
            checked?;
            parse::<T>(&read_in_time(payload, limit, time).await?).map(Self)
        })
    }
}

/// A parsed JSON body where one may come; none when there is not a byte of it.
pub struct OptionalBody<T>(pub Option<T>);

impl<T: RequestBody> FromRequest for OptionalBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (limit, time) = (limit::<T>(request), time(request));
        let (is_json, fits) = (check_type(request), check_length(request, limit));
        let payload = payload.take();
        Box::pin(async move {
            fits?;
            let bytes = read_in_time(payload, limit, time).await?;
            if bytes.is_empty() {
                return Ok(Self(None));
            }
            is_json?;
            parse::<T>(&bytes).map(|body| Self(Some(body)))
        })
    }
}

fn limit<T: RequestBody>(request: &HttpRequest) -> usize {
    request.app_data::<web::Data<Config>>().map_or(0, |config| T::KIND.limit(&config.limits))
}

/// How long a body may take to come.
fn time(request: &HttpRequest) -> Duration {
    request.app_data::<web::Data<Config>>().map_or(Duration::ZERO, |config| config.transport.body)
}

async fn read_in_time(payload: Payload, limit: usize, time: Duration) -> Result<web::BytesMut, Problem> {
    let late = |_| Problem::new(408, "request-timeout", "the body did not come in time");
    timeout(time, read(payload, limit)).await.map_err(late)?
}

/// Parses a body that has come.
pub(super) fn parse<T: RequestBody>(bytes: &[u8]) -> Result<T, Problem> {
    if !T::ARRAY && bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::bad_field(".", "an object is expected"));
    }
    read_json(bytes)
}

fn check_type(request: &HttpRequest) -> Result<(), Problem> {
    let content_type =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new(415, "unsupported-media-type", "compressed bodies are not taken"));
    }
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        415,
        "unsupported-media-type",
        "the body must be sent as content-type: application/json",
    ))
}

fn check_length(request: &HttpRequest, limit: usize) -> Result<(), Problem> {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) { Err(too_large(limit)) } else { Ok(()) }
}

async fn read(mut payload: Payload, limit: usize) -> Result<web::BytesMut, Problem> {
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::new(400, "bad-request", "the body broke off"))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn too_large(limit: usize) -> Problem {
    Problem::new(413, "too-large", format!("the body is larger than {limit} bytes")).with("limit", limit)
}

/// Parses JSON strictly.
///
/// # Errors
/// 400 `bad-json` for what is not JSON, `bad-field` naming the field for what is not the expected shape.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        // The parser takes a number where a word must stand for broken JSON.
        let is_json = error.inner().is_data() || serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        if is_json { json_problem(&field, error.inner()) } else { broken(error.inner()) }
    })?;
    json.end().map_err(|_| Problem::new(400, "bad-json", "something follows the JSON value"))?;
    Ok(value)
}

fn broken(error: &serde_json::Error) -> Problem {
    let detail = format!("the body is not JSON (line {}, column {})", error.line(), error.column());
    Problem::new(400, "bad-json", detail)
}

fn json_problem(field: &str, error: &serde_json::Error) -> Problem {
    let told = error.to_string();
    shape_problem(field, told.rsplit_once(" at line ").map_or(told.as_str(), |(why, _)| why))
}

/// What is wrong with a value at `field`, from serde's own words.
pub(super) fn shape_problem(field: &str, told: &str) -> Problem {
    // serde puts the name of an unknown or missing field between back-quotes, and nothing else there first.
    let unknown = told.strip_prefix("unknown field `").map(|rest| (rest, "unknown field"));
    let missing = || told.strip_prefix("missing field `").map(|rest| (rest, "missing"));
    let named = unknown.or_else(missing).and_then(|(rest, why)| Some((rest.split_once('`')?.0, why)));
    let (field, why) = match named {
        Some((name, why)) if field == "." => (name.to_owned(), why),
        Some((name, why)) if field.ends_with(name) => (field.to_owned(), why),
        Some((name, why)) => (format!("{field}.{name}"), why),
        None => (field.to_owned(), told),
    };
    let field: String = field.chars().take(100).collect();
    let why: String = why.chars().take(200).collect();
    Problem::bad_field(&field, why)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        name: String,
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        id: u8,
    }

    fn told(json: &str) -> (String, String) {
        let problem = read_json::<Outer>(json.as_bytes()).unwrap_err();
        let field = problem.members().get("field").and_then(|field| field.as_str()).unwrap_or("").to_owned();
        (problem.code().to_owned(), field)
    }

    #[test]
    fn a_bad_shape_names_its_field() {
        let cases = [
            (r#"{"name":1,"list":[]}"#, "name"),
            (r#"{"list":[]}"#, "name"),
            (r#"{"name":"a","list":[{"id":1},{"id":300}]}"#, "list[1].id"),
            (r#"{"name":"a","list":[{}]}"#, "list[0].id"),
            (r#"{"name":"a","list":[],"more":1}"#, "more"),
            (r#"{"name":"a","list":[{"id":1,"more":1}]}"#, "list[0].more"),
        ];
        for (json, field) in cases {
            assert_eq!(told(json), ("bad-field".to_owned(), field.to_owned()), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_apart() {
        let deep = "[".repeat(100_000);
        for json in ["", "{", "nope", r#"{"name":"a","list":[]} x"#, deep.as_str()] {
            let (code, _) = told(json);
            assert!(code == "bad-json" || json == deep.as_str(), "{code}");
        }
    }
}
