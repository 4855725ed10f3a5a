//! What is told of each call: a span, by OpenTelemetry's conventions for RPC, and how long it took.
//!
//! A caller's trace is taken over from its `traceparent` (W3C Trace Context), and passed on to the lock service, to nobody else. It is
//! only a name: nothing is decided by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::metadata::MetadataMap;
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::listener::Peer;

const TRACEPARENT: &str = "traceparent";

/// Is told of each call that was answered.
pub type Answered = Arc<dyn Fn(Answer) + Send + Sync>;

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub method: &'static str,
    /// Its code, as gRPC writes it.
    pub status: &'static str,
    /// The service, and not its caller, is at fault.
    pub at_fault: bool,
    pub took: Duration,
}

/// A call that is being answered, until the last byte is sent or nobody wants it any more.
pub struct Call {
    span: Span,
    method: &'static str,
    begun: Instant,
    /// Unless it is known better, its caller has hung up.
    code: Code,
    answered: Answered,
}

impl Call {
    pub fn begin(request: &Request<Body>, method: &'static str, answered: Answered) -> Self {
        let method = method.trim_start_matches('/');
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let span = info_span!(
            "call",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.status_code = Empty,
            error.type = Empty,
            network.peer.address = peer.map(|peer| peer.ip().to_string()),
            network.peer.port = peer.map(|peer| peer.port()),
        );
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(request.headers()));
        if parent.has_active_span() {
            // Where nothing is traced, there is nothing to be part of.
            let _ = span.set_parent(parent);
        }
        Self { span, method, begun: Instant::now(), code: Code::Cancelled, answered }
    }

    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// The answer, with whose end the call ends.
    pub fn answer(mut self, response: Response<Body>) -> Response<Body> {
        self.code = code(response.headers()).unwrap_or(self.code);
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _within = self.span.enter();
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.code = code;
                }
                frame
            }))
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get("grpc-status")?.as_bytes()))
}

impl Drop for Call {
    fn drop(&mut self) {
        ended(&self.span, self.code, is_ours(self.code));
        (self.answered)(Answer {
            method: self.method,
            status: name(self.code),
            at_fault: is_ours(self.code),
            took: self.begun.elapsed(),
        });
    }
}

/// The span of a call of ours to another service; none where nothing is traced that it belongs to.
pub fn calling(method: &'static str) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    info_span!(
        "calling",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.status_code = Empty,
        error.type = Empty,
    )
}

/// Tells the service that is called which trace it is part of.
pub fn pass_on(span: &Span, metadata: &mut MetadataMap) {
    TraceContextPropagator::new().inject_context(&span.context(), &mut Metadata(metadata));
}

/// How a call of ours ended.
pub fn answered(span: &Span, code: Code) {
    ended(span, code, code != Code::Ok);
}

fn ended(span: &Span, code: Code, failed: bool) {
    span.record("rpc.status_code", name(code));
    if failed {
        span.record("otel.status_code", "error");
        span.record("error.type", name(code));
    }
}

/// Whether the service, and not its caller, is at fault.
fn is_ours(code: Code) -> bool {
    match code {
        Code::Unknown | Code::DeadlineExceeded | Code::Unimplemented | Code::Internal | Code::Unavailable | Code::DataLoss => {
            true
        }
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    }
}

/// As gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What a caller says of its trace.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).filter(|_| key == TRACEPARENT)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (TRACEPARENT, Ok(value)) = (key, value.parse()) {
            self.0.insert(TRACEPARENT, value);
        }
    }
}
