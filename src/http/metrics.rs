//! The figures of the relay, on a listener of their own.

use actix_web::{HttpResponse, web};

use super::service::Health;
use crate::metrics;

/// The text format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn get_metrics(health: web::Data<Health>) -> HttpResponse {
    let (connections, reachable) = (health.switchboard.connected(), health.switchboard.reachable().await);
    HttpResponse::Ok().content_type(TEXT).body(metrics::page(connections, reachable))
}

/// Adds the one route of the listener for metrics.
pub fn routes(services: &mut web::ServiceConfig) {
    services.route("/metrics", web::get().to(get_metrics));
}
