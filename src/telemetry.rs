//! What operators see: log lines. Requests, rows and secrets are never logged.

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Libraries that would log what they carry, headers and statements included, are never more talkative than this.
const BOUNDED: [&str; 6] = ["h2=info", "hyper=info", "hyper_util=info", "tower=info", "sqlx=info", "rustls=info"];

/// Begins to log to standard output. `filter` is in the syntax of `tracing_subscriber::EnvFilter`.
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let mut filter: EnvFilter = filter.parse().with_context(|| format!("{filter:?} is not a log filter"))?;
    for directive in BOUNDED {
        filter = filter.add_directive(directive.parse()?);
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.init(),
    }
    // The text of a panic may repeat what was being worked on; the place is enough to find it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    Ok(())
}
