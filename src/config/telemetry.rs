//! What the service tells of itself: log lines, health, metrics, and what it exports to a collector.
//!
//! The export is configured by the standard names of OpenTelemetry alone. Its library would pass over what it does not understand;
//! here that is an error.

use std::fs;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use uuid::Uuid;

use super::exposed;
use crate::telemetry::Export;

/// Standard names of OpenTelemetry that are in force here, and what they mean.
pub const STANDARD: [(&str, &str); 18] = [
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Collector of traces and metrics (OTLP over gRPC), for example http://collector:4317; without it, nothing is exported",
    ),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "The same, of traces alone"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "The same, of metrics alone"),
    (HEADERS, "Headers that are sent with each export, for example `api-key=...`; with https only, or to this machine"),
    (CERTIFICATE, "With https: certificate authority of the collector, a PEM file; without it, those of the system"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "Milliseconds for one export [default: 10000]"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "`grpc`, which is the only one [default: grpc]"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "`none`, which is the only one [default: none]"),
    ("OTEL_TRACES_EXPORTER", "`otlp`, or `none` [default: otlp]"),
    ("OTEL_METRICS_EXPORTER", "`otlp`, or `none` [default: otlp]"),
    ("OTEL_SDK_DISABLED", "`true`: nothing is exported [default: false]"),
    (
        SAMPLER,
        "Which traces are exported: `always_on`, `always_off`, `traceidratio`, or one of these behind `parentbased_`, by which the caller decides of its own [default: parentbased_always_on]",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", "Part of the traces that `traceidratio` takes, 0 to 1 [default: 1]"),
    ("OTEL_SERVICE_NAME", "Name of the service in what is exported [default: holdfast]"),
    (RESOURCE, "What else is said of it, for example `deployment.environment.name=production,k8s.namespace.name=platform`"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "Milliseconds between two exports of metrics [default: 60000]"),
    ("OTEL_BSP_SCHEDULE_DELAY", "Milliseconds between two exports of spans [default: 5000]"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "Spans that wait to be exported; more are dropped [default: 2048]"),
];
/// May have secrets in it.
pub const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLERS: [&str; 6] =
    ["always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"];

/// Who learns how the service is, besides its callers.
#[derive(Debug, Args)]
pub struct TelemetryArguments {
    /// What to log, for example `info` or `holdfast=debug`
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
    /// How lines of the log are written
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", default_value = "json", hide_env_values = true)]
    pub log_format: LogFormat,
    /// Address that answers `GET /metrics` for Prometheus, for example 0.0.0.0:9464; without it, nobody is answered
    #[arg(long, env = "HOLDFAST_METRICS_LISTEN", hide_env_values = true)]
    pub metrics_listen: Option<SocketAddr>,
    /// Address that answers health probes and nothing else, for example 0.0.0.0:8086. It needs no TLS and no credentials, since it
    /// has no data
    #[arg(long, env = "HOLDFAST_HEALTH_LISTEN", hide_env_values = true)]
    pub health_listen: Option<SocketAddr>,
    /// How old the newest good backup may be; once it is older, the health service `backup.slo` is NOT_SERVING
    #[arg(long, env = "HOLDFAST_BACKUP_OBJECTIVE", default_value = "26h", hide_env_values = true)]
    pub backup_objective: humantime::Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// What goes to a collector, if anything.
pub fn export(allow_plaintext: bool) -> Result<Option<Export>> {
    let disabled = match standard("OTEL_SDK_DISABLED").map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => bail!("OTEL_SDK_DISABLED is true or false"),
    };
    let endpoint = |signal: &str| -> Result<Option<String>> {
        let wanted = one_of(&format!("OTEL_{signal}_EXPORTER"), &["otlp", "none"])? != Some("none");
        let [own, common] = [format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"), "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()];
        let (name, address) = match (standard(&own), standard(&common)) {
            (Some(address), _) => (own, address),
            (None, Some(address)) => (common, address),
            (None, None) => return Ok(None),
        };
        let exposed = exposed(&address).with_context(|| format!("{name} is not such as http://collector:4317"))?;
        ensure!(
            !exposed || allow_plaintext || standard(HEADERS).is_none(),
            "{HEADERS} would go to another machine without TLS: use https, or set HOLDFAST_ALLOW_PLAINTEXT=true where a mesh encrypts"
        );
        Ok(Some(address).filter(|_| wanted && !disabled))
    };
    let (traces, metrics) = (endpoint("TRACES")?, endpoint("METRICS")?);
    // The exporter would take them before the common ones, unchecked.
    for signal in ["TRACES", "METRICS"] {
        for kind in ["HEADERS", "TIMEOUT", "PROTOCOL", "COMPRESSION"] {
            let name = format!("OTEL_EXPORTER_OTLP_{signal}_{kind}");
            ensure!(standard(&name).is_none(), "{name} is not taken: set OTEL_EXPORTER_OTLP_{kind}, for traces and metrics");
        }
    }
    one_of("OTEL_EXPORTER_OTLP_PROTOCOL", &["grpc"])?;
    one_of("OTEL_EXPORTER_OTLP_COMPRESSION", &["none"])?;
    one_of(SAMPLER, &SAMPLERS)?;
    let part: Option<f64> = number("OTEL_TRACES_SAMPLER_ARG")?;
    ensure!(part.is_none_or(|part| (0.0..=1.0).contains(&part)), "OTEL_TRACES_SAMPLER_ARG is a number from 0 to 1");
    for (name, example) in [(HEADERS, "api-key=..."), (RESOURCE, "deployment.environment.name=production")] {
        let list = standard(name).unwrap_or_default();
        let well = |entry: &str| {
            let key = entry.split_once('=').map(|(key, _)| key.trim()).unwrap_or_default();
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        };
        // What is wrong is not shown: it may be a secret.
        ensure!(list.split_terminator(',').all(well), "{name} is not a list such as {example}, with commas between its entries");
    }
    for name in ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE"] {
        ensure!(number::<u32>(name)? != Some(0), "{name} is a number above 0");
    }
    let queue: u32 = number("OTEL_BSP_MAX_QUEUE_SIZE")?.unwrap_or(1);
    ensure!(queue <= 100_000, "OTEL_BSP_MAX_QUEUE_SIZE is at most 100000: each span in it takes memory");
    let interval: u32 = number("OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(60_000);
    ensure!(interval >= 100, "OTEL_METRIC_EXPORT_INTERVAL is in milliseconds, and at least 100");
    let read = |path: String| fs::read(&path).with_context(|| format!("{CERTIFICATE} is {path}, which cannot be read"));
    let authority = standard(CERTIFICATE).map(read).transpose()?;
    Ok((traces.is_some() || metrics.is_some()).then(|| Export {
        traces,
        metrics,
        authority,
        service_name: standard("OTEL_SERVICE_NAME"),
        interval: Duration::from_millis(interval.into()),
        instance: Uuid::new_v4(),
    }))
}

/// The value of a standard name; a blank one is none.
pub fn standard(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn one_of(name: &str, words: &[&'static str]) -> Result<Option<&'static str>> {
    let Some(value) = standard(name) else { return Ok(None) };
    let word = words.iter().find(|word| **word == value);
    word.map(|word| Some(*word)).with_context(|| format!("{name} is {value:?}; here it can be {}", words.join(", ")))
}

fn number<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Some(value) = standard(name) else { return Ok(None) };
    value.parse().map(Some).ok().with_context(|| format!("{name} is {value:?}, which is not such a number"))
}
