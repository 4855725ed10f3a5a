//! The way to a collector: OTLP over gRPC. What the standard names say (`config::telemetry`) was checked before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter as Exporter};
use uuid::Uuid;

/// What is exported, and where to. Sampler, headers, time limits and queue are read from the environment by the library.
#[derive(Debug, Clone)]
pub struct Export {
    /// Address that takes traces; `None`: they are not exported.
    pub traces: Option<String>,
    pub metrics: Option<String>,
    /// Certificate authority of the collector, PEM; `None`: those of the system.
    pub authority: Option<Vec<u8>>,
    pub service_name: Option<String>,
    /// Between two exports of metrics.
    pub interval: Duration,
    /// Of this process.
    pub instance: Uuid,
}

impl Export {
    /// Who it is that exports.
    pub fn resource(&self) -> Resource {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", "holdfast"),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", self.instance.to_string()),
            ])
            .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
        match &self.service_name {
            Some(name) => resource.with_service_name(name.clone()).build(),
            None => resource.build(),
        }
    }

    /// To be called in the runtime that is to speak with the collector.
    pub fn to_metrics(&self) -> Result<Option<MetricExporter>> {
        let Some(address) = &self.metrics else { return Ok(None) };
        let exporter = self.at(address, MetricExporter::builder().with_tonic()).build();
        exporter.map(Some).context("metrics cannot be exported")
    }

    fn to_traces(&self) -> Result<Option<SpanExporter>> {
        let Some(address) = &self.traces else { return Ok(None) };
        let exporter = self.at(address, SpanExporter::builder().with_tonic()).build();
        exporter.map(Some).context("traces cannot be exported")
    }

    fn at<B: WithExportConfig + WithTonicConfig>(&self, address: &str, exporter: B) -> B {
        let exporter = exporter.with_endpoint(address);
        match self.tls(address) {
            Some(tls) => exporter.with_tls_config(tls),
            None => exporter,
        }
    }

    fn tls(&self, address: &str) -> Option<ClientTlsConfig> {
        let tls = address.starts_with("https://").then(ClientTlsConfig::new)?;
        Some(match &self.authority {
            Some(authority) => tls.ca_certificate(Certificate::from_pem(authority)),
            None => tls.with_native_roots(),
        })
    }
}

/// Where spans begin and end. Without a collector they have their ids, and nothing else is kept of them.
pub fn spans(export: Option<&Export>) -> Result<SdkTracerProvider> {
    let exporter = match export {
        Some(export) => export.to_traces()?.map(|exporter| (exporter, export.resource())),
        None => None,
    };
    Ok(match exporter {
        Some((exporter, resource)) => {
            let exporter = Watched { exporter, outage: Outage::default() };
            SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build()
        }
        // What the caller wants to have sampled is: others may export their part of the trace.
        None => SdkTracerProvider::builder().with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff))).build(),
    })
}

/// Tells once that the collector does not take what it is sent, and once that it does again.
#[derive(Debug, Default)]
pub struct Outage(AtomicBool);

impl Outage {
    pub fn note(&self, what: &str, result: &OTelSdkResult) {
        match result {
            Ok(()) if self.0.swap(false, Ordering::Relaxed) => tracing::info!(what, "the collector takes them again"),
            Err(error) if !self.0.swap(true, Ordering::Relaxed) => {
                tracing::warn!(what, %error, "the collector does not take them; some are lost");
            }
            _ => {}
        }
    }
}

#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    outage: Outage,
}

impl Exporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.outage.note("traces", &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
