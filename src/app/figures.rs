//! The listener for metrics, apart from the one that clients reach.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use actix_web::{App, HttpServer, web};
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::http::{
    metrics::{self, Guard},
    service::Health,
};

/// Connections of whoever collects the figures.
const CONNECTIONS: usize = 64;

/// How long a silent head of a request is waited for.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Takes the address, and tells which it is.
///
/// # Errors
/// When it cannot be listened on.
pub(super) fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let cannot = |error| StartError::Io(format!("cannot listen on {address} for metrics"), error);
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let bound = listener.local_addr().map_err(cannot)?;
    Ok((listener, bound))
}

/// Serves until stopped. Who is collecting the figures at that moment is not waited for.
pub(super) async fn serve(
    listener: TcpListener,
    health: web::Data<Health>,
    guard: web::Data<Guard>,
    stop: CancellationToken,
) {
    if let Err(error) = serve_until(listener, health, guard, stop).await {
        tracing::error!(%error, "the listener for metrics failed");
    }
}

async fn serve_until(
    listener: TcpListener,
    health: web::Data<Health>,
    guard: web::Data<Guard>,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = move || App::new().app_data(health.clone()).app_data(guard.clone()).configure(metrics::routes);
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS)
        .client_request_timeout(HEAD_TIMEOUT)
        .keep_alive(IDLE_TIMEOUT)
        .disable_signals()
        .listen(listener)?
        .run();
    let handle = server.handle();
    let mut serving = tokio::spawn(server);
    tokio::select! {
        ended = &mut serving => return ended.map_err(io::Error::from)?,
        () = stop.cancelled() => {}
    }
    handle.stop(false).await;
    serving.await.map_err(io::Error::from)?
}
