//! Health for probes: ready while database and volume answer, alive as long as the process runs. The maintenance lock needs the
//! database alone: whoever updates the platform is not kept waiting by a broken volume.
//!
//! `backup.slo` tells whether there is a good backup that is young enough, whatever keeps others from being made: also a schedule that
//! somebody has disabled and forgotten. While the database is away, the one that was seen last grows older.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
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
const OBJECTIVE: &str = "backup.slo";
const LOCK: &str = lock_service_server::SERVICE_NAME;
/// The whole server, and the service that needs database and volume.
const READINESS: [&str; 2] = ["", BackupServiceServer::<super::backup_service::Service>::NAME];

/// What is able to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Able {
    database: bool,
    /// Database and volume.
    all: bool,
    /// The newest good backup is young enough.
    recent: bool,
}

/// What was found last, for every server that answers probes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Probes {
    able: watch::Sender<Able>,
    /// How old the newest good backup may be.
    objective: Duration,
}

impl Probes {
    pub fn new(objective: Duration) -> Self {
        Self { able: watch::Sender::default(), objective }
    }

    /// Looks what is able to work, until the service is asked to stop; then nothing is.
    pub(super) async fn look(&self, holdfast: &Holdfast) {
        let stopping = holdfast.stopping();
        let look = async {
            // When the newest backup was made, counted by a clock that nobody steps.
            let mut newest = None;
            loop {
                let database = matches!(timeout(PATIENCE, holdfast.database_answers()).await, Ok(Ok(())));
                let all = database && matches!(timeout(PATIENCE, holdfast.volume_works()).await, Ok(Ok(())));
                if database && let Ok(Ok(age)) = timeout(PATIENCE, holdfast.newest_backup_age()).await {
                    newest = age.map(|age| (age, Instant::now()));
                }
                let recent = newest.is_some_and(|(age, seen): (Duration, Instant)| age + seen.elapsed() < self.objective);
                self.found(Able { database, all, recent });
                tokio::time::sleep(PERIOD).await;
            }
        };
        stopping.run_until_cancelled(look).await;
        self.able.send_modify(|able| *able = Able { recent: able.recent, ..Able::default() });
    }

    fn found(&self, now: Able) {
        let before = self.able.send_replace(now);
        if (now.database, now.all) != (before.database, before.all) {
            if now.all { info!("ready") } else { warn!(database = now.database, "not ready") }
        }
        if before.recent && !now.recent {
            warn!(objective = ?self.objective, "the newest good backup is older than it may be, or there is none");
        }
    }

    /// Tells what was found last, until `end`; then nothing is ready any more, and after a moment those who watch are let go.
    pub(super) async fn tell(&self, reporter: HealthReporter, end: CancellationToken) {
        let mut able = self.able.subscribe();
        let tell = async {
            loop {
                let now = *able.borrow_and_update();
                report(&reporter, now).await;
                if able.changed().await.is_err() {
                    return;
                }
            }
        };
        end.run_until_cancelled(tell).await;
        report(&reporter, Able::default()).await;
        tokio::time::sleep(DRAIN).await;
        let_go(reporter).await;
    }
}

/// A health service that is not ready yet.
pub async fn start() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, server) = health_reporter();
    report(&reporter, Able::default()).await;
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    (reporter, server)
}

/// Ends the streams of those who watch.
pub async fn let_go(mut reporter: HealthReporter) {
    for service in READINESS.into_iter().chain([LOCK, OBJECTIVE, LIVENESS]) {
        reporter.clear_service_status(service).await;
    }
}

async fn report(reporter: &HealthReporter, able: Able) {
    let ready = READINESS.map(|service| (service, able.all));
    for (service, serves) in ready.into_iter().chain([(LOCK, able.database), (OBJECTIVE, able.recent)]) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(service, status).await;
    }
}
