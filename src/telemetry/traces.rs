//! Traces for a collector, by OTLP over HTTP: requests, batches of the store, checks of MLS.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use crate::metrics;

/// The target of the spans that are traced. They are made at the level `trace`, so that they cost nothing while nobody does.
const SPANS: &str = "restante::spans";

/// How long a collector may take for a batch of spans; meanwhile the next ones wait, and past 2,048 they are dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a stop waits for the last batch.
const LAST: Duration = Duration::from_secs(3);

/// Bytes of a collector's answer that are read.
const ANSWER: u64 = 64 << 10;

/// What sends spans to a collector. Nothing is sent yet.
pub(super) fn exporter(collector: &SecretString) -> Result<SpanExporter, String> {
    let address = format!("{}/v1/traces", collector.expose_secret().trim_end_matches('/'));
    SpanExporter::builder()
        .with_http()
        .with_http_client(Courier::new())
        .with_endpoint(address)
        .with_timeout(PATIENCE)
        .build()
        // The error itself may quote the address, and so a password.
        .map_err(|_| "OTEL_EXPORTER_OTLP_ENDPOINT or another OTEL_ variable cannot be used".to_owned())
}

/// The way to a collector.
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    pub(super) fn to(collector: &SecretString, service: &str) -> Result<Self, String> {
        let exporter = exporter(collector)?;
        let resource = Resource::builder()
            .with_service_name(service.to_owned())
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter);
        Ok(Self(provider.build()))
    }

    /// What takes the spans, and no log line.
    pub(super) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("restante"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(|what| what.is_span() && what.target() == SPANS))
            .boxed()
    }

    pub(super) fn finish(self) {
        if self.0.shutdown_with_timeout(LAST).is_err() {
            tracing::warn!("the last spans could not be handed over");
        }
    }
}

/// Carries batches, on the exporter's own thread: whatever a collector does, no request waits for it.
#[derive(Debug)]
struct Courier(ureq::Agent);

impl Courier {
    fn new() -> Self {
        let settings = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Self(settings.into())
    }

    fn carry(&self, batch: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let answer = self.0.run(batch.map(|body| body.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, batch: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let carried = self.carry(batch);
        if !carried.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            metrics::trace_export_failed();
            tracing::debug!("a batch of spans reached no collector");
        }
        Ok(carried?)
    }
}
