//! Refusals and failures as `application/problem+json` (RFC 9457).

use std::{fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError, http::StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::policy::Policy;
use crate::{store::StoreError, wire::whole_seconds};

/// A refusal or failure on its way to the client: a status, a stable code, words, and typed members.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<u64>,
    policy: Option<Box<Policy>>,
}

impl Problem {
    /// A problem of this status and code; `detail` is lower case, without a full stop, and safe to show.
    #[must_use]
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, detail: detail.into(), members: Map::new(), retry_after: None, policy: None }
    }

    /// 400 for a field that is not what it should be.
    #[must_use]
    pub fn bad_field(field: &str, why: impl fmt::Display) -> Self {
        Self::new(400, "bad-field", format!("{field}: {why}")).with("field", field)
    }

    /// 404 for what does not exist, or not for this caller.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(404, "not-found", format!("there is no such {what}"))
    }

    /// 503 with `Retry-After`.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: &str) -> Self {
        Self { retry_after: Some(1), ..Self::new(503, code, detail) }
    }

    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many(code: &'static str, detail: &str, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(429, code, detail) }
    }

    /// 429 `rate-limited`; `Retry-After` tells the wait, a begun second counted whole.
    #[must_use]
    pub fn rate_limited(wait: Duration, detail: &str) -> Self {
        Self::too_many("rate-limited", detail, whole_seconds(wait).max(1))
    }

    /// This problem with one more member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // Members are numbers, texts and lists of them, whose serialisation cannot fail.
        self.members.insert(name.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }

    /// This problem, its field called by another name.
    #[must_use]
    pub fn renamed(mut self, rename: impl FnOnce(&str) -> String) -> Self {
        if let Some(Value::String(field)) = self.members.get_mut("field") {
            let name = rename(field);
            if let Some(rest) = self.detail.strip_prefix(field.as_str()) {
                self.detail = format!("{name}{rest}");
            }
            *field = name;
        }
        self
    }

    /// This problem, of a request that this limit refused.
    #[must_use]
    pub fn under(mut self, policy: Policy) -> Self {
        self.policy = Some(Box::new(policy));
        self
    }

    /// The limit that refused the request, if one did.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.policy.as_deref().copied()
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The words for the client.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The typed members.
    #[must_use]
    pub const fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The body, for an answer with this request id.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Value {
        let mut body = json!({
            "type": format!("urn:restante:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "error": self.detail,
            "code": self.code,
            "request_id": request_id,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.members.clone());
        }
        body
    }

    /// When to try again, in seconds.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Only the status: the frame around each request writes the body, because it knows the request id.
    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::new(self.status);
        response.extensions_mut().insert(self.clone());
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(source) => {
                tracing::warn!(error = %source, "the store could not be asked");
                Self::unavailable(
                    "store-unavailable",
                    "the store cannot be asked at the moment; repeat the request",
                )
            }
            StoreError::Overloaded => Self::unavailable(
                "overloaded",
                "too much waits to be stored; nothing was done, repeat the request",
            ),
        }
    }
}
