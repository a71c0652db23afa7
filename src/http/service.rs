//! The routes about the relay itself: name, health, readiness, limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, Responder, get, http::header, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;
use crate::{
    config::Config,
    domain::{Clock, SELDOM_ACTS_PER_HOUR},
    hot::Switchboard,
    store::Store,
    wire::Time,
};

/// What the health routes look at.
pub struct Health {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Hot state and the connected sessions.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Set when the relay is about to stop.
    pub draining: AtomicBool,
    /// When the relay started.
    pub started: Instant,
    /// What the store and hot state said last.
    pub reports: Arc<Reports>,
}

/// How long it is remembered whether the store and hot state answer: no flood of probes asks them more often.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Whether the relay could serve a moment ago, for whoever asks now.
#[derive(Default)]
pub struct Reports(tokio::sync::Mutex<Option<(Instant, Report)>>);

/// What is missing although the relay serves, or why it does not.
type Report = Result<Vec<&'static str>, Problem>;

impl Reports {
    /// The last report, or a fresh one if that was made longer ago than `life`. Of many who need a fresh one, one makes it.
    async fn latest(&self, life: Duration, fresh: impl Future<Output = Report>) -> Report {
        let mut last = self.0.lock().await;
        if let Some((made_at, report)) = &*last
            && made_at.elapsed() < life
        {
            return report.clone();
        }
        let report = fresh.await;
        *last = Some((Instant::now(), report.clone()));
        report
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct About {
    service: &'static str,
    version: &'static str,
    description: &'static str,
    links: Links,
}

#[derive(Debug, Serialize, ToSchema)]
struct Links {
    health: &'static str,
    openapi: &'static str,
    docs: &'static str,
    limits: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct HealthAnswer {
    #[schema(example = "healthy")]
    status: &'static str,
    timestamp: Time,
    version: &'static str,
    stats: HealthStats,
}

#[derive(Debug, Serialize, ToSchema)]
struct HealthStats {
    uptime_seconds: u64,
    active_connections: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Ready {
    #[schema(example = "ready")]
    status: &'static str,
    /// What is missing although the relay serves.
    degraded: Vec<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
struct LimitsAnswer {
    max_body_bytes: usize,
    max_keys_body_bytes: usize,
    max_message_body_bytes: usize,
    max_envelope_bytes: usize,
    max_send_bytes: usize,
    max_group_body_bytes: usize,
    max_in_flight: usize,
    max_connections_per_address: usize,
    max_unread_bytes: usize,
    min_answer_pace: u32,
    max_devices: u32,
    max_prekeys: u32,
    mls_cipher_suites: Vec<u16>,
    key_package_max_lifetime_seconds: u64,
    max_mailbox_items: u32,
    max_mailbox_items_per_sender: u32,
    max_group_size: u32,
    max_groups_per_user: u32,
    mls_max_past_epochs: u32,
    invite_ttl_seconds: u64,
    queue_ttl_seconds: u64,
    access_token_ttl_seconds: u64,
    refresh_token_ttl_seconds: u64,
    heartbeat_seconds: u64,
    rate_limit_message_limit: u32,
    rate_limit_ack_limit: u32,
    rate_limit_read_limit: u32,
    rate_limit_keys_limit: u32,
    rate_limit_group_limit: u32,
    rate_limit_join_limit: u32,
    rate_limit_account_limit: u32,
    rate_limit_open_limit: u32,
    rate_limit_devices_per_ip: u32,
    rate_limit_connection_limit_per_ip: u32,
    rate_limit_connection_limit_per_user: u32,
    rate_limit_max_message_size: usize,
    rate_limit_block_after: u32,
    register_limit_per_address: u32,
    login_limit_per_address: u32,
    refresh_limit_per_address: u32,
    fetch_limit_per_pair: u32,
    fetch_limit_per_user: u32,
    fetch_limit_for_new_users: u32,
    logins_per_hour: u32,
    links_per_hour: u32,
    rotations_per_hour: u32,
    mls_key_changes_per_hour: u32,
    package_uploads_per_hour: u32,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Name, version, links: JSON, or a page for a browser.
#[utoipa::path(tag = "service", responses((status = 200, body = About)))]
#[get("/")]
async fn get_about(request: HttpRequest) -> HttpResponse {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    if accept.contains("text/html") {
        return HttpResponse::Ok().content_type("text/html; charset=utf-8").body(format!(
            "<!doctype html><meta charset=utf-8><title>Restante</title><h1>Restante {VERSION}</h1>\
             <p>A zero-knowledge relay for Signal and MLS clients.</p>\
             <ul><li><a href=/health>health</a><li><a href=/docs>routes</a><li><a href=/api/v1/openapi.json>OpenAPI document</a>\
             <li><a href=/api/v1/limits>limits</a></ul>"
        ));
    }
    HttpResponse::Ok().json(About {
        service: "restante",
        version: VERSION,
        description: env!("CARGO_PKG_DESCRIPTION"),
        links: Links {
            health: "/health",
            openapi: "/api/v1/openapi.json",
            docs: "/docs",
            limits: "/api/v1/limits",
        },
    })
}

/// That the relay is alive, with a few figures.
#[utoipa::path(tag = "service", responses((status = 200, body = HealthAnswer)))]
#[get("/health")]
async fn get_health(health: web::Data<Health>) -> impl Responder {
    web::Json(HealthAnswer {
        status: "healthy",
        timestamp: Time(health.clock.now()),
        version: VERSION,
        stats: HealthStats {
            uptime_seconds: health.started.elapsed().as_secs(),
            active_connections: health.switchboard.connected(),
        },
    })
}

macro_rules! probe {
    ($name:ident, $path:literal, $says:literal, live) => {
        #[doc = $says]
        #[utoipa::path(tag = "service", responses((status = 200, description = "alive")))]
        #[get($path)]
        async fn $name() -> impl Responder {
            web::Json(serde_json::json!({ "status": "alive" }))
        }
    };
    ($name:ident, $path:literal, $says:literal, ready) => {
        #[doc = $says]
        #[utoipa::path(tag = "service", responses((status = 200, body = Ready), (status = 503, description = "not ready")))]
        #[get($path)]
        async fn $name(health: web::Data<Health>) -> Result<impl Responder, Problem> {
            readiness(&health).await.map(web::Json)
        }
    };
}

probe!(get_live, "/health/live", "That the process answers.", live);
probe!(get_healthz, "/healthz", "Alias of `/health/live`.", live);
probe!(
    get_ready,
    "/health/ready",
    "Whether the relay can serve: its store answers, its schema fits, it is not stopping.",
    ready
);
probe!(get_readyz, "/readyz", "Alias of `/health/ready`.", ready);

async fn readiness(health: &Health) -> Result<Ready, Problem> {
    if health.draining.load(Ordering::SeqCst) {
        return Err(Problem::unavailable("draining", "the relay is stopping"));
    }
    let (reports, store) = (Arc::clone(&health.reports), Arc::clone(&health.store));
    let switchboard = Arc::clone(&health.switchboard);
    // By a task of its own: whoever asks and goes away at once leaves an answer for the others all the same.
    let asking = tokio::spawn(async move { reports.latest(REMEMBERED, report(&*store, &switchboard)).await });
    let failed = |_| Problem::new(500, "internal", "the relay could not look after itself");
    Ok(Ready { status: "ready", degraded: asking.await.map_err(failed)?? })
}

async fn report(store: &dyn Store, switchboard: &Switchboard) -> Report {
    store.check().await?;
    Ok(if switchboard.reachable().await { vec![] } else { vec!["hot-state"] })
}

/// The limits that clients meet.
#[utoipa::path(tag = "service", responses((status = 200, body = LimitsAnswer)))]
#[get("/api/v1/limits")]
async fn get_limits(config: web::Data<Config>) -> impl Responder {
    let (client, store) = (config.limits, config.store_limits);
    let (rate, address, fetch) = (config.rate_limits, config.address_limits, config.fetch_limits);
    web::Json(LimitsAnswer {
        max_body_bytes: client.body,
        max_keys_body_bytes: client.keys_body,
        max_message_body_bytes: client.message_body,
        max_envelope_bytes: client.envelope,
        max_send_bytes: client.send,
        max_group_body_bytes: client.group_body,
        max_in_flight: client.in_flight,
        max_connections_per_address: config.transport.max_connections_per_address,
        max_unread_bytes: config.transport.max_unread,
        min_answer_pace: config.transport.least_pace,
        max_devices: store.max_devices,
        max_prekeys: store.max_prekeys,
        mls_cipher_suites: config.mls.cipher_suites.iter().map(|suite| suite.number()).collect(),
        key_package_max_lifetime_seconds: config.mls.key_package_life.as_secs(),
        max_mailbox_items: store.mailbox_items,
        max_mailbox_items_per_sender: store.mailbox_items_per_sender,
        max_group_size: store.max_members,
        max_groups_per_user: store.max_groups,
        mls_max_past_epochs: store.past_epochs,
        invite_ttl_seconds: config.group_limits.invite_life.as_secs(),
        queue_ttl_seconds: config.queue_life.as_secs(),
        access_token_ttl_seconds: config.access_token_life.as_secs(),
        refresh_token_ttl_seconds: config.refresh_token_life.as_secs(),
        heartbeat_seconds: config.socket.heartbeat.as_secs(),
        rate_limit_message_limit: rate.messages,
        rate_limit_ack_limit: rate.acks,
        rate_limit_read_limit: rate.reads,
        rate_limit_keys_limit: rate.keys,
        rate_limit_group_limit: rate.groups,
        rate_limit_join_limit: rate.joins,
        rate_limit_account_limit: rate.account,
        rate_limit_open_limit: rate.openings,
        rate_limit_devices_per_ip: rate.devices_per_address,
        rate_limit_connection_limit_per_ip: rate.connections_per_address,
        rate_limit_connection_limit_per_user: rate.connections_per_user,
        rate_limit_max_message_size: client.send,
        rate_limit_block_after: rate.block_after,
        register_limit_per_address: address.registrations,
        login_limit_per_address: address.logins,
        refresh_limit_per_address: address.refreshes,
        fetch_limit_per_pair: fetch.pair,
        fetch_limit_per_user: fetch.target,
        fetch_limit_for_new_users: fetch.newcomers,
        logins_per_hour: SELDOM_ACTS_PER_HOUR,
        links_per_hour: SELDOM_ACTS_PER_HOUR,
        rotations_per_hour: SELDOM_ACTS_PER_HOUR,
        mls_key_changes_per_hour: SELDOM_ACTS_PER_HOUR,
        package_uploads_per_hour: SELDOM_ACTS_PER_HOUR,
    })
}

/// Adds these routes.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services
        .service(get_about)
        .service(get_health)
        .service(get_live)
        .service(get_healthz)
        .service(get_ready)
        .service(get_readyz);
    services.service(get_limits);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn of_many_who_ask_at_once_one_makes_a_report_and_the_others_wait_for_it() {
        let (reports, made) = (Reports::default(), AtomicUsize::new(0));
        let ask = |life| {
            reports.latest(life, async {
                tokio::task::yield_now().await;
                made.fetch_add(1, Ordering::SeqCst);
                Err(Problem::unavailable("store", "away"))
            })
        };
        let answers = futures_util::future::join_all((0..100).map(|_| ask(LONG))).await;
        assert!(answers.iter().all(Result::is_err), "a bad report is told to all as well");
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert!(ask(Duration::ZERO).await.is_err());
        assert_eq!(made.load(Ordering::SeqCst), 2, "one that is too old is made anew");
    }
}
