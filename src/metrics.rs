//! The figures of the service for Prometheus, over HTTP. Alone names opentelemetry.
//!
//! Hardly anything is counted along the way: each scrape asks `operations`, which asks the database and the volume. So the figures
//! are those of the installation and not of one process, but for the callers that it refused. They have no names, ids or secrets in them, and need no token.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::model::Reason;
use crate::model::backup::{State, Trigger};
use crate::model::schedule::RunState;
use crate::operations::Holdfast;
use crate::operations::call::Figures;

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

/// The instruments, which read the figures of the last scrape.
pub struct Metrics {
    registry: Registry,
    figures: Arc<Mutex<Figures>>,
    _provider: SdkMeterProvider,
}

impl Metrics {
    pub fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        let exporter = exporter.scope_info_enabled(false).without_target_info().build().map_err(|error| Error(error.into()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let figures = Arc::new(Mutex::new(Figures::default()));
        instruments(&provider.meter("holdfast"), &figures);
        Ok(Self { registry, figures, _provider: provider })
    }

    /// The text format of Prometheus, version 0.0.4.
    fn text(&self, figures: Figures) -> Result<String, Error> {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(|error| Error(error.into()))
    }
}

type Shared = Arc<Mutex<Figures>>;

/// An instrument's callback, which has the figures.
fn with<T>(
    figures: &Shared,
    observe: impl Fn(&Figures, &dyn AsyncInstrument<T>) + Send + Sync + 'static,
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let figures = figures.clone();
    move |instrument| observe(&figures.lock().unwrap_or_else(PoisonError::into_inner), instrument)
}

fn instruments(meter: &Meter, figures: &Shared) {
    let gauge =
        |name: &'static str, unit: &'static str, description: &'static str, observe: fn(&Figures, &dyn AsyncInstrument<i64>)| {
            let gauge = meter.i64_observable_gauge(name).with_unit(unit).with_description(description);
            gauge.with_callback(with(figures, observe)).build();
        };
    gauge("backup.last_success.timestamp", "s", "When the newest good file was complete and proven", |figures, gauge| {
        for (trigger, name) in [(Trigger::OnDemand, "on_demand"), (Trigger::Scheduled, "scheduled")] {
            let good = figures.backups.iter().filter(|backup| backup.state == State::Ready && backup.trigger == trigger);
            if let Some(time) = good.filter_map(|backup| backup.complete_time).max() {
                gauge.observe(time.timestamp(), &[KeyValue::new("trigger", name)]);
            }
        }
    });
    gauge("backup.files", "", "Backups in the catalog by what is known of their files", |figures, gauge| {
        for (state, name) in [
            (State::Creating, "creating"),
            (State::Ready, "ready"),
            (State::Invalid, "invalid"),
            (State::Missing, "missing"),
            (State::Deleting, "deleting"),
        ] {
            let count = figures.backups.iter().filter(|backup| backup.state == state).count() as u64;
            // What the archive has is not lost.
            let elsewhere = if state == State::Missing { figures.only_archived } else { 0 };
            gauge.observe(number(count - elsewhere), &[KeyValue::new("state", name)]);
        }
        gauge.observe(number(figures.only_archived), &[KeyValue::new("state", "archived")]);
    });
    gauge("backup.unencrypted_files", "", "Good backups that anybody who has the file can read", |figures, gauge| {
        let plain = figures.backups.iter().filter(|backup| backup.state == State::Ready && !backup.encrypted());
        gauge.observe(number(plain.count() as u64), &[]);
    });
    gauge("backup.retention.limit", "", "Backups that retention keeps", |figures, gauge| {
        gauge.observe(figures.max_count.into(), &[]);
    });
    gauge("backup.retention.excess", "", "Backups beyond the limit that could not be deleted yet", |figures, gauge| {
        let counted = figures.backups.iter().filter(|backup| backup.counts()).count() as u64;
        gauge.observe(number(counted.saturating_sub(figures.max_count.into())), &[]);
    });
    gauge("backup.schedule.enabled", "", "1: backups are made by schedule", |figures, gauge| {
        gauge.observe(figures.schedule_enabled.into(), &[]);
    });
    gauge("backup.schedule.next_run.timestamp", "s", "When the next scheduled backup is due", |figures, gauge| {
        if let Some(time) = figures.next_run {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    gauge("backup.encryption.enabled", "", "1: new backups are encrypted", |figures, gauge| {
        gauge.observe(figures.encrypted.into(), &[]);
    });
    gauge("backup.encryption.passphrase_generation", "", "Number of the passphrase in use", |figures, gauge| {
        gauge.observe(figures.passphrase_generation.into(), &[]);
    });
    gauge("backup.storage.usable", "", "1: the backup volume is there", |figures, gauge| {
        gauge.observe(figures.space.is_some().into(), &[]);
    });
    gauge("backup.storage.available", "By", "Free space of the backup volume", |figures, gauge| {
        if let Some(space) = figures.space {
            gauge.observe(number(space.available), &[]);
        }
    });
    gauge("backup.storage.size", "By", "Size of the backup volume", |figures, gauge| {
        if let Some(space) = figures.space {
            gauge.observe(number(space.total), &[]);
        }
    });
    gauge("backup.storage.used", "By", "Size of all backup files", |figures, gauge| {
        let here = figures.backups.iter().filter(|backup| backup.state != State::Missing);
        gauge.observe(number(here.map(|backup| backup.size_bytes).sum()), &[]);
    });
    gauge("backup.archive.files", "", "Backups that are in the archive", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(number(archive.count), &[]);
        }
    });
    gauge("backup.archive.backlog", "", "Backups that wait to be copied to the archive", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(number(archive.backlog), &[]);
        }
    });
    gauge("backup.archive.failing", "", "1: the archive does not work", |figures, gauge| {
        if let Some(archive) = &figures.archive {
            gauge.observe(archive.failure.is_some().into(), &[]);
        }
    });
    gauge("backup.archive.snapshot.timestamp", "s", "How new the newest data in the archive are", |figures, gauge| {
        if let Some(time) = figures.archive.as_ref().and_then(|archive| archive.newest_snapshot_time) {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    gauge("backup.archive.oldest_waiting.timestamp", "s", "Since when the backup waits that waits longest", |figures, gauge| {
        if let Some(time) = figures.archive.as_ref().and_then(|archive| archive.oldest_waiting_time) {
            gauge.observe(time.timestamp(), &[]);
        }
    });
    let runs = meter.u64_observable_counter("backup.schedule.runs").with_description("Scheduled runs by their result");
    let observe = |figures: &Figures, counter: &dyn AsyncInstrument<u64>| {
        for (state, name) in [
            (RunState::Succeeded, "succeeded"),
            (RunState::Failed, "failed"),
            (RunState::Skipped, "skipped"),
            (RunState::Missed, "missed"),
        ] {
            let count = figures.runs.iter().find(|(found, _)| *found == state).map_or(0, |(_, count)| *count);
            counter.observe(count, &[KeyValue::new("state", name)]);
        }
    };
    runs.with_callback(with(figures, observe)).build();
    let refusals = meter.u64_observable_counter("backup.auth.failures");
    let refusals = refusals.with_description("Callers that this process refused, since it began, by the reason");
    let observe = |figures: &Figures, counter: &dyn AsyncInstrument<u64>| {
        for (reason, name) in [
            (Reason::CredentialsMissing, "CREDENTIALS_MISSING"),
            (Reason::CredentialsInvalid, "CREDENTIALS_INVALID"),
            (Reason::PermissionMissing, "PERMISSION_MISSING"),
            (Reason::IdentityUnavailable, "IDENTITY_UNAVAILABLE"),
        ] {
            let count = figures.refusals.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count);
            counter.observe(count, &[KeyValue::new("reason", name)]);
        }
    };
    refusals.with_callback(with(figures, observe)).build();
    let build = meter.u64_observable_gauge("backup.build_info").with_description("1, and which version this is");
    build.with_callback(|gauge| gauge.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))])).build();
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Answers `GET /metrics` for as long as the service runs.
pub async fn serve(listener: TcpListener, holdfast: Holdfast, metrics: Metrics) {
    let (metrics, places) = (Arc::new(metrics), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
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
