//! The one list of routes. The OpenAPI document comes from it.

mod docs;
mod shared;

use actix_web::{App, HttpResponse, Responder, get, http::Method, http::header, web};
use bytes::Bytes;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

use crate::{
    auth, groups,
    http::{KnownPaths, service},
    keys, messages, queue,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Restante",
        description = "A zero-knowledge relay for Signal and MLS clients. Errors are application/problem+json with a \
                       stable `code`; see proto-docs/problems.md. The socket's frames are in proto-docs/websocket.md."
    ),
    modifiers(&Bearer),
    tags(
        (name = "service", description = "The relay itself"),
        (name = "auth", description = "Devices prove themselves"),
        (name = "keys", description = "Devices and their public keys"),
        (name = "groups", description = "MLS groups and roster groups"),
        (name = "messages", description = "Sealed messages and the mailbox"),
        (name = "socket", description = "Live delivery"),
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// Adds every route.
pub fn routes(services: &mut ServiceConfig<'_>) {
    services
        .configure(service::routes)
        .configure(auth::routes::routes)
        .configure(keys::routes::routes)
        .configure(messages::routes::routes)
        .configure(groups::routes::routes)
        .configure(queue::routes::routes)
        .service(get_openapi)
        .service(get_docs);
}

/// The OpenAPI document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(Document::openapi()).configure(routes).split_for_parts();
    shared::complete(&mut document);
    document
}

/// The document as it is committed and served.
#[must_use]
pub fn document_text() -> String {
    document().to_pretty_json().unwrap_or_default() + "\n"
}

/// The paths there are and their methods.
#[must_use]
pub fn known_paths() -> KnownPaths {
    KnownPaths::new(document().paths.paths.into_iter().map(|(path, item)| {
        let known = [
            (item.get.is_some(), Method::GET),
            (item.put.is_some(), Method::PUT),
            (item.post.is_some(), Method::POST),
            (item.delete.is_some(), Method::DELETE),
        ];
        (path, known.into_iter().filter(|(is_known, _)| *is_known).map(|(_, method)| method).collect())
    }))
}

/// The document's text and its page, made once for all workers and all answers.
pub struct Published {
    text: Bytes,
    html: Bytes,
    /// The page's own Content-Security-Policy.
    policy: String,
}

impl Published {
    /// Makes both.
    #[must_use]
    pub fn new() -> Self {
        let document = serde_json::to_value(document()).unwrap_or_default();
        let docs::Page { html, policy } = docs::page(&document);
        Self { text: document_text().into(), html: html.into(), policy }
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new()
    }
}

/// This document.
#[utoipa::path(tag = "service", responses((status = 200, description = "the OpenAPI document")))]
#[get("/api/v1/openapi.json")]
async fn get_openapi(published: web::Data<Published>) -> impl Responder {
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/json")).body(published.text.clone())
}

/// This document as a page for a browser, without scripts and without anything from elsewhere.
#[utoipa::path(tag = "service", responses((status = 200, description = "a page", content_type = "text/html", body = str)))]
#[get("/docs")]
async fn get_docs(published: web::Data<Published>) -> impl Responder {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, published.policy.as_str()))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(published.html.clone())
}
