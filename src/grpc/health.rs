//! Health for probes: ready while database and volume answer, alive as long as the process runs.

use std::time::Duration;

use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::{info, warn};

use super::proto::backup::backup_service_server::BackupServiceServer;
use crate::operations::Holdfast;

const PERIOD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(4);
/// Between the end of readiness and the end of listening, so that callers are told instead of cut off.
const DRAIN: Duration = Duration::from_millis(250);

const LIVENESS: &str = "liveness";
/// What follows `Holdfast::ready`: the whole server, and the service that needs database and volume.
const READINESS: [&str; 2] = ["", BackupServiceServer::<super::backup_service::Service>::NAME];

/// A health service that is not ready yet.
pub async fn start() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = health_reporter();
    report(&reporter, false).await;
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    (reporter, server)
}

/// Reports readiness until the service is asked to stop; then it is not ready any more, and after a moment those who
/// watch are let go.
pub async fn follow(mut reporter: HealthReporter, holdfast: Holdfast) {
    let stopping = holdfast.stopping();
    let mut ready = false;
    while !stopping.is_cancelled() {
        let now = tokio::select! {
            answer = tokio::time::timeout(PATIENCE, holdfast.ready()) => matches!(answer, Ok(Ok(()))),
            () = stopping.cancelled() => break,
        };
        if now != ready {
            ready = now;
            report(&reporter, ready).await;
            if ready { info!("ready") } else { warn!("not ready") }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stopping.cancelled() => {}
        }
    }
    report(&reporter, false).await;
    tokio::time::sleep(DRAIN).await;
    for service in READINESS.into_iter().chain([LIVENESS]) {
        reporter.clear_service_status(service).await;
    }
}

async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in READINESS {
        reporter.set_service_status(service, status).await;
    }
}
