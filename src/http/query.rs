//! Query strings, parsed strictly.

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use futures_util::future::{Ready, ready};
use serde::de::DeserializeOwned;

use super::{Problem, body::shape_problem};

/// A parsed query string. Unknown parameters must be refused by its type (`deny_unknown_fields`).
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(parse(request.query_string()).map(Self))
    }
}

fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let field = error.path().to_string();
        shape_problem(&field, &error.inner().to_string())
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Page {
        id: String,
        limit: Option<u32>,
    }

    #[test]
    fn a_bad_query_names_its_parameter() {
        for (query, field) in [("limit=1", "id"), ("id=a&limit=x", "limit"), ("id=a&more=1", "more")] {
            let problem = parse::<Page>(query).unwrap_err();
            assert_eq!(problem.code(), "bad-field");
            assert_eq!(
                problem.members().get("field").and_then(|field| field.as_str()),
                Some(field),
                "{query}"
            );
        }
        assert!(parse::<Page>("id=a&limit=5").is_ok());
    }
}
