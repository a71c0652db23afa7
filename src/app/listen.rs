//! What clients reach: every route, in its frame, behind the listener.

use std::{net::SocketAddr, sync::Arc};

use actix_cors::Cors;
use actix_server::Server;
use actix_web::{
    App,
    middleware::{Condition, from_fn},
    web,
};
use utoipa_actix_web::AppExt;

use super::{StartError, parts::Parts};
use crate::{
    api,
    auth::recognise,
    config::Config,
    http::{Recognise, Unread, frame, guard, hold, unknown_path},
    net::{self, Certificate, Terms},
};

/// Seconds for which a browser may keep the answer to a preflight.
const PREFLIGHT_LIFE: usize = 3600;

/// Listens, and tells where.
///
/// # Errors
/// When the address or the certificate cannot be used.
pub(super) fn listen(
    config: Config,
    parts: Parts,
    certificate: Option<Arc<Certificate>>,
) -> Result<(Server, SocketAddr), StartError> {
    let address = config.address();
    let cannot = |error| StartError::Io(format!("cannot listen on {address}"), error);
    let (listener, bound) = net::bind(address).map_err(cannot)?;
    let terms = Terms {
        workers: config.workers,
        transport: config.transport.clone(),
        proxies: config.proxies.trusted.clone(),
        stall: config.socket.stall,
        shutdown: config.shutdown_timeout,
        certificate,
    };
    let config = web::Data::new(config);
    let known = web::Data::new(api::known_paths());
    let recognise = web::Data::new(Recognise(recognise));
    let unread = web::Data::new(Unread::new(config.transport.max_unread));
    let document = web::Data::new(api::Published::new());
    let application = move || {
        App::new()
            .app_data(config.clone())
            .app_data(known.clone())
            .app_data(document.clone())
            .app_data(parts.health.clone())
            .app_data(parts.floor.clone())
            .app_data(parts.authority.clone())
            .app_data(parts.logins.clone())
            .app_data(parts.address_budgets.clone())
            .app_data(parts.paces.clone())
            .app_data(parts.blocks.clone())
            .app_data(recognise.clone())
            .app_data(unread.clone())
            .app_data(parts.keys.clone())
            .app_data(parts.messages.clone())
            .app_data(parts.groups.clone())
            .app_data(parts.queue.clone())
            .wrap(from_fn(hold))
            // Inside of CORS, so that a page can read why it was refused.
            .wrap(from_fn(guard))
            .wrap(Condition::new(!config.cors_allowed_origins.is_empty(), cors(&config)))
            .wrap(from_fn(frame))
            .into_utoipa_app()
            .configure(api::routes)
            .into_app()
            .default_service(web::to(unknown_path))
    };
    Ok((net::serve(listener, &terms, application).map_err(cannot)?, bound))
}

/// What web pages of the listed origins may do. No other origin is ever named in an answer.
fn cors(config: &Config) -> Cors {
    let allowed = config.cors_allowed_origins.iter();
    let cors = allowed.fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    cors.allowed_methods(["GET", "HEAD", "POST", "PUT", "DELETE"])
        .allowed_headers(["authorization", "content-type", "x-join-token"])
        .expose_headers(["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"])
        .max_age(PREFLIGHT_LIFE)
        .block_on_origin_mismatch(false)
}
