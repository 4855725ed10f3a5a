//! What operators see: log lines, and spans for a collector. Requests, rows and secrets are in neither.
//!
//! Every call and every operation has a span, and so a W3C trace id, whether it is exported or not. What is exported waits in a
//! bounded queue for a thread of its own: a collector that is slow or gone costs spans, and nobody waits for it.

mod export;
mod line;

use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::config::LogFormat;
use crate::model::TraceId;
pub use export::{Export, Outage};

/// Libraries that would log what they carry, headers and statements included, are never more talkative than this.
const BOUNDED: [&str; 6] = ["h2=info", "hyper=info", "hyper_util=info", "tower=info", "sqlx=info", "rustls=info"];
/// How long the end of the service waits for the collector.
pub const FLUSH: Duration = Duration::from_secs(2);

/// Sends what is left at the end.
pub struct Telemetry(SdkTracerProvider);

/// Begins to log to standard output, and to export spans if that is wanted. `filter` is in the syntax of
/// `tracing_subscriber::EnvFilter`. To be called in the runtime that is to speak with the collector.
pub fn start(filter: &str, format: LogFormat, export: Option<&Export>) -> Result<Telemetry> {
    let mut filter = self::filter(filter)?;
    for directive in BOUNDED {
        filter = filter.add_directive(directive.parse()?);
    }
    let provider = export::spans(export)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("holdfast"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_level(false)
        .with_target(false)
        .with_context_activation(false)
        .with_filter(filter_fn(is_span).with_max_level_hint(LevelFilter::INFO));
    let lines = match format {
        LogFormat::Json => fmt::layer().event_format(line::Line).fmt_fields(line::Repeated).boxed(),
        LogFormat::Text => fmt::layer().boxed(),
    };
    // Whatever is logged, what it belongs to is known.
    let lines = lines.with_filter(filter.or(filter_fn(is_span).with_max_level_hint(LevelFilter::INFO)));
    Registry::default().with(spans).with(lines).init();
    // The text of a panic may repeat what was being worked on; the place is enough to find it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    Ok(Telemetry(provider))
}

/// What is logged.
pub fn filter(text: &str) -> Result<EnvFilter> {
    text.parse().with_context(|| format!("{text:?} is not a log filter"))
}

/// The spans of this program; those of libraries may have anything in them.
fn is_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("holdfast")
}

impl Telemetry {
    /// Sends what is left, for as long as the collector takes it and no longer than `FLUSH`.
    pub async fn end(self) {
        let flush = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH));
        // Whoever waits for it longer than it may take would keep the process alive.
        if let Ok(Ok(Err(error))) = tokio::time::timeout(FLUSH + FLUSH / 4, flush).await {
            tracing::debug!(%error, "the last spans were not exported");
        }
    }
}

/// The trace that a span belongs to.
pub fn trace_id(span: &Span) -> Option<TraceId> {
    TraceId::new(span.context().span().span_context().trace_id().to_bytes())
}
