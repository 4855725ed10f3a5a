//! A log line: one JSON object, with what it belongs to - trace, span, operation and call - beside what it says.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, dispatcher};
use tracing_opentelemetry::get_otel_context;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// What lines repeat of the spans they are in: the field of the span, and its name in the line.
const REPEATED: [(&str, &str); 2] = [("backup.operation.id", "operation_id"), ("rpc.method", "rpc.method")];

/// One line for an event.
pub struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        out.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut out)?;
        write!(out, "\",\"level\":\"{}\"", metadata.level())?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut said = Vec::new();
        for (name, value) in fields.0 {
            write!(out, ",{}:{value}", Value::from(name))?;
            said.push(name);
        }
        write!(out, ",\"target\":{}", Value::from(metadata.target()))?;
        if let Some(span) = context.lookup_current() {
            let id = span.id();
            if let Some(otel) = dispatcher::get_default(|dispatch| get_otel_context(&id, dispatch)) {
                let ids = otel.span().span_context().clone();
                if ids.is_valid() {
                    write!(out, ",\"trace_id\":\"{}\",\"span_id\":\"{}\"", ids.trace_id(), ids.span_id())?;
                }
            }
            for span in span.scope() {
                let extensions = span.extensions();
                let Some(repeated) = extensions.get::<FormattedFields<N>>() else { continue };
                for (name, value) in repeated.fields.lines().filter_map(|line| line.split_once('=')) {
                    // The innermost knows best, and the event itself better.
                    let name = REPEATED.iter().map(|(_, name)| *name).find(|known| *known == name);
                    if let Some(name) = name.filter(|name| !said.contains(name)) {
                        write!(out, ",\"{name}\":{value}")?;
                        said.push(name);
                    }
                }
            }
        }
        writeln!(out, "}}")
    }
}

/// Of a span, what lines repeat: a row `name=JSON` for each.
pub struct Repeated;

impl<'writer> FormatFields<'writer> for Repeated {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, recorded: R) -> fmt::Result {
        let mut fields = Fields::default();
        recorded.record(&mut fields);
        for (field, value) in fields.0 {
            if let Some((_, name)) = REPEATED.iter().find(|(known, _)| *known == field) {
                writeln!(out, "{name}={value}")?;
            }
        }
        Ok(())
    }

    /// None of them is learnt later.
    fn add_fields(&self, _: &'writer mut FormattedFields<Self>, _: &tracing::span::Record<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Fields and their values, in their order.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), Value::from(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::from(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), Value::from(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.push((field.name(), Value::from(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), Value::from(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.push((field.name(), Value::from(value)));
    }
}
