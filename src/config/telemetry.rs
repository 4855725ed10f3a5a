//! What the service tells of itself: log lines, health, metrics.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// Who learns how the service is, besides its callers.
#[derive(Debug, Args)]
pub struct TelemetryArguments {
    /// What to log, for example `info` or `holdfast=debug`
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
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
