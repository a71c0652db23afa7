//! The figures of the relay, on a listener of their own.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, WWW_AUTHENTICATE},
    web,
};
use secrecy::{ExposeSecret, SecretString};

use super::service::Health;
use crate::metrics;

/// The text format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The bearer token that the figures are guarded by; none when whoever can connect may read them.
pub struct Guard(pub Option<SecretString>);

impl Guard {
    fn admits(&self, request: &HttpRequest) -> bool {
        let Some(token) = &self.0 else { return true };
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Digests are compared in a time that tells nothing of where they differ.
        blake3::hash(given.as_bytes()) == blake3::hash(token.expose_secret().as_bytes())
    }
}

async fn get_metrics(
    request: HttpRequest,
    health: web::Data<Health>,
    guard: web::Data<Guard>,
) -> HttpResponse {
    if !guard.admits(&request) {
        return HttpResponse::Unauthorized().insert_header((WWW_AUTHENTICATE, "Bearer")).finish();
    }
    let load = health.store.load();
    for (queue, waiting) in load.waiting {
        metrics::waiting(queue, waiting);
    }
    for pool in load.pools {
        metrics::pooled(pool.name, pool.open, pool.idle);
    }
    let (connections, reachable) = (health.switchboard.connected(), health.switchboard.reachable().await);
    HttpResponse::Ok().content_type(TEXT).body(metrics::page(connections, reachable))
}

/// Adds the one route of the listener for metrics.
pub fn routes(services: &mut web::ServiceConfig) {
    services.route("/metrics", web::get().to(get_metrics));
}
