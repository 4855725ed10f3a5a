//! The figures of the service: for Prometheus, which asks over HTTP, and for a collector, which is sent them by OTLP.
//!
//! Hardly anything is counted along the way: each scrape asks `operations`, which asks the database and the volume. So the figures
//! are those of the installation and not of one process, but for its calls and operations, and the callers that it refused. They
//! have no names, ids or secrets in them, and need no token.

mod instruments;

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::model::Operation;
use crate::operations::Holdfast;
use crate::operations::call::Figures;
use crate::telemetry::{Export, FLUSH, Outage};
use instruments::{Counted, Shared};

/// For one scrape, from its request to the last byte.
const LIMIT: Duration = Duration::from_secs(10);
/// Until the request was sent.
const HEAD: Duration = Duration::from_secs(2);
/// Most scrapers at a time; others wait.
const MAX_CONNECTIONS: usize = 16;

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be set up")]
pub struct Error(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The instruments, and who reads them.
pub struct Metrics {
    registry: Registry,
    figures: Shared,
    counted: Counted,
    push: Option<Push>,
    _provider: SdkMeterProvider,
}

/// The way to a collector.
struct Push {
    reader: Reader,
    exporter: MetricExporter,
    interval: Duration,
    outage: Outage,
}

impl Metrics {
    /// For Prometheus, and for a collector where there is one. To be called in the runtime that is to speak with it.
    pub fn new(export: Option<&Export>) -> Result<Self, Error> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        let exporter = exporter.scope_info_enabled(false).without_target_info().build().map_err(|error| Error(error.into()))?;
        let mut provider = SdkMeterProvider::builder().with_reader(exporter);
        let mut push = None;
        if let Some(export) = export
            && let Some(exporter) = export.to_metrics().map_err(|error| Error(error.into()))?
        {
            let reader = Reader(Arc::new(ManualReader::builder().build()));
            provider = provider.with_reader(reader.clone()).with_resource(export.resource());
            push = Some(Push { reader, exporter, interval: export.interval, outage: Outage::default() });
        }
        let (provider, figures) = (provider.build(), Shared::default());
        let meter = provider.meter("holdfast");
        instruments::observe(&meter, &figures);
        Ok(Self { registry, figures, counted: Counted::new(&meter), push, _provider: provider })
    }

    /// A call that was answered. `at_fault`: the service, and not its caller.
    pub fn call(&self, method: &'static str, status: &'static str, at_fault: bool, took: Duration) {
        self.counted.call(method, status, at_fault, took);
    }

    /// An operation that ended, or, without an outcome, did not begin.
    pub fn operation(&self, operation: &Operation) {
        self.counted.operation(operation);
    }

    fn found(&self, figures: Option<Figures>) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// The text format of Prometheus, version 0.0.4.
    fn text(&self, figures: Figures) -> Result<String, Error> {
        self.found(Some(figures));
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(|error| Error(error.into()))
    }

    /// Sends the figures to the collector, where there is one, for as long as the service runs. One that is slow or gone is its
    /// own loss.
    pub async fn push(self: Arc<Self>, holdfast: Holdfast) {
        let Some(push) = &self.push else { return };
        let stopping = holdfast.stopping();
        let every = async {
            loop {
                sleep(push.interval).await;
                self.found(timeout(LIMIT, holdfast.figures()).await.ok().and_then(Result::ok));
                push.send().await;
            }
        };
        stopping.run_until_cancelled(every).await;
    }

    /// Sends what was counted since, and no longer than `FLUSH`.
    pub async fn end(&self) {
        if let Some(push) = &self.push {
            // Nobody looks any more.
            self.found(None);
            let _ = timeout(FLUSH, push.send()).await;
        }
    }
}

impl Push {
    async fn send(&self) {
        let mut found = ResourceMetrics::default();
        let sent = match self.reader.collect(&mut found) {
            Ok(()) => self.exporter.export(&found).await,
            error => error,
        };
        self.outage.note("metrics", &sent);
    }
}

/// A reader that is asked when there is something to send.
#[derive(Clone)]
struct Reader(Arc<ManualReader>);

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, found: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(found)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// Answers `GET /metrics` for as long as the service runs.
pub async fn serve(listener: TcpListener, holdfast: Holdfast, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let stopping = holdfast.stopping();
    let accept = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (holdfast, metrics) = (holdfast.clone(), metrics.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        // A scraper that hangs up or is slow is its own loss.
                        let _ = timeout(LIMIT, answer(stream, holdfast, metrics)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    stopping.run_until_cancelled(accept).await;
}

async fn answer(stream: TcpStream, holdfast: Holdfast, metrics: Arc<Metrics>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (holdfast, metrics) = (holdfast.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(response(&request, &holdfast, &metrics).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    connection.await
}

async fn response(request: &Request<Incoming>, holdfast: &Holdfast, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match holdfast.figures().await {
            Ok(figures) => match metrics.text(figures) {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the metrics cannot be written");
                    (StatusCode::INTERNAL_SERVER_ERROR, String::new())
                }
            },
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.failure().message)),
        },
        _ => (StatusCode::NOT_FOUND, "GET /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
