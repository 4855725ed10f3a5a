//! Health for probes: ready while database and volume answer, alive as long as the process runs. The maintenance lock needs the
//! database alone: whoever updates the platform is not kept waiting by a broken volume.

use std::time::Duration;

use tokio::time::timeout;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::{info, warn};

use super::proto::backup::backup_service_server::BackupServiceServer;
use super::proto::lock::lock_service_server;
use crate::operations::Holdfast;

const PERIOD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(4);
/// Between the end of readiness and the end of listening, so that callers are told instead of cut off.
const DRAIN: Duration = Duration::from_millis(250);

const LIVENESS: &str = "liveness";
const LOCK: &str = lock_service_server::SERVICE_NAME;
/// The whole server, and the service that needs database and volume.
const READINESS: [&str; 2] = ["", BackupServiceServer::<super::backup_service::Service>::NAME];

/// What is able to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Able {
    database: bool,
    /// Database and volume.
    all: bool,
}

impl Able {
    async fn now(holdfast: &Holdfast) -> Self {
        let database = matches!(timeout(PATIENCE, holdfast.database_answers()).await, Ok(Ok(())));
        let all = database && matches!(timeout(PATIENCE, holdfast.volume_works()).await, Ok(Ok(())));
        Self { database, all }
    }
}

/// A health service that is not ready yet.
pub async fn start() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = health_reporter();
    report(&reporter, Able::default()).await;
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    (reporter, server)
}

/// Reports readiness until the service is asked to stop; then it is not ready any more, and after a moment those who
/// watch are let go.
pub async fn follow(reporter: HealthReporter, holdfast: Holdfast) {
    let stopping = holdfast.stopping();
    let mut able = Able::default();
    while !stopping.is_cancelled() {
        let now = tokio::select! {
            now = Able::now(&holdfast) => now,
            () = stopping.cancelled() => break,
        };
        if now != able {
            report(&reporter, now).await;
            if now.all {
                info!("ready")
            } else {
                warn!(database = now.database, "not ready")
            }
            able = now;
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stopping.cancelled() => {}
        }
    }
    report(&reporter, Able::default()).await;
    tokio::time::sleep(DRAIN).await;
    let_go(reporter).await;
}

/// Ends the streams of those who watch.
pub async fn let_go(mut reporter: HealthReporter) {
    for service in READINESS.into_iter().chain([LOCK, LIVENESS]) {
        reporter.clear_service_status(service).await;
    }
}

async fn report(reporter: &HealthReporter, able: Able) {
    for (service, serves) in READINESS.into_iter().map(|service| (service, able.all)).chain([(LOCK, able.database)]) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, status).await;
    }
}
