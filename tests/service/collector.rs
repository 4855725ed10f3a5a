//! A collector of traces and metrics on loopback, which keeps what it is sent; and what its spans say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{MetricsService, MetricsServiceServer};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::canary::nothing_shows;
use super::world::{World, eventually};

pub struct Collector {
    pub address: String,
    received: Arc<Received>,
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    /// Attributes of who exported.
    resource: Mutex<BTreeMap<String, String>>,
    metrics: Mutex<BTreeSet<String>>,
    headers: Mutex<BTreeSet<String>>,
    /// All of it.
    bytes: Mutex<Vec<u8>>,
}

impl Received {
    fn keep<M: Message>(&self, request: &Request<M>) {
        self.bytes.lock().unwrap().extend(request.get_ref().encode_to_vec());
        let headers = request.metadata().clone().into_headers();
        self.headers.lock().unwrap().extend(headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(&request);
        for resource in request.into_inner().resource_spans {
            *self.resource.lock().unwrap() = attributes(&resource.resource.unwrap().attributes);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.keep(&request);
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        self.metrics.lock().unwrap().extend(scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name));
        Ok(Response::new(Default::default()))
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::<Received>::default();
        let router = Server::builder()
            .add_service(TraceServiceServer::from_arc(received.clone()))
            .add_service(MetricsServiceServer::from_arc(received.clone()));
        tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, received }
    }

    /// A service, not started yet, that exports to it.
    pub async fn world(&self) -> World {
        let mut world = World::without_service().await;
        self.is_told_by(&mut world);
        world
    }

    /// This service exports to it, without much delay.
    pub fn is_told_by(&self, world: &mut World) {
        world.set("OTEL_EXPORTER_OTLP_ENDPOINT", &self.address);
        world.set("OTEL_BSP_SCHEDULE_DELAY", "100");
        world.set("OTEL_METRIC_EXPORT_INTERVAL", "200");
    }

    /// The spans of a trace, once this one is among them.
    pub async fn trace(&self, id: &str, name: &str) -> Vec<Span> {
        eventually(Duration::from_secs(30), || {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| hex(&span.trace_id) == id).collect();
            spans.iter().any(|span| span.name == name).then_some(spans)
        })
        .await
    }

    pub fn spans(&self) -> Vec<Span> {
        self.received.spans.lock().unwrap().clone()
    }

    pub fn resource(&self) -> BTreeMap<String, String> {
        self.received.resource.lock().unwrap().clone()
    }

    /// Names of the metrics.
    pub fn metrics(&self) -> BTreeSet<String> {
        self.received.metrics.lock().unwrap().clone()
    }

    pub fn headers(&self) -> BTreeSet<String> {
        self.received.headers.lock().unwrap().clone()
    }

    /// Whether this was sent anywhere in it.
    pub fn has(&self, text: &str) -> bool {
        self.received.bytes.lock().unwrap().windows(text.len()).any(|part| part == text.as_bytes())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            nothing_shows(&self.received.bytes.lock().unwrap(), "what the collector was sent");
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Attributes as text.
pub fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|entry| (entry.key.clone(), text(&entry.value))).collect()
}
