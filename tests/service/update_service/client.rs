//! A software update as a client of LockService: it takes the maintenance lock, tells its steps, stops when it must not go on,
//! and gives the lock back.
//!
//! Three things it does that are easily left out. It counts the lease on its own clock, from before it asked. A call without an
//! answer may have been done: it is sent again with the same `request_id`. And it uses its own id as `holder_id` and
//! `request_id`, so that the same update gets its own hold back after a crash.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast::grpc::proto::lock as proto;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use holdfast::grpc::proto::lock::{ExpiryPolicy, LockPurpose};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{DOMAIN, LOCK};
use crate::world::{Bearer, Calls};

/// Renewed every third of it. It may be long: whoever dies holds the lock anyway, until somebody looks.
const TTL: Duration = Duration::from_secs(15 * 60);
/// No step begins when the lease has less left than this.
const MARGIN: Duration = Duration::from_secs(60);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// A call has no answer when there is none this long after it was due.
const GRACE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
const RETRIES: u32 = 5;
/// A renewal that failed is tried again after this long.
const RENEW_AGAIN: Duration = Duration::from_secs(2);
/// How long an update waits for a backup or a restore that is under way.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Why an update must not go on to its next irreversible step.
#[derive(Debug)]
pub enum Stop {
    /// The lock was taken away.
    LeaseLost(Status),
    /// Nobody could renew the lease, and it is all but over.
    OutOfTime,
}

/// A software update that has the lock. Dropped without `end` it is an update whose process died.
pub struct Update {
    /// What the platform's database is shown before the first change.
    pub fencing_token: i64,
    holding: Arc<Holding>,
    renewing: JoinHandle<()>,
}

struct Holding {
    calls: LockServiceClient<Calls>,
    id: String,
    lease_id: String,
    standing: Mutex<Standing>,
}

struct Standing {
    reason: String,
    /// When the lease is over, on our own clock.
    end: Instant,
    lost: Option<Status>,
}

impl Update {
    /// Takes the lock, or takes an own hold again; waits for whoever has it.
    pub async fn begin(endpoint: &str, token: &str, id: &str) -> Result<Self, Status> {
        Self::take(endpoint, token, id, PATIENCE).await
    }

    /// The same, without waiting.
    pub async fn try_begin(endpoint: &str, token: &str, id: &str) -> Result<Self, Status> {
        Self::take(endpoint, token, id, Duration::ZERO).await
    }

    async fn take(endpoint: &str, token: &str, id: &str, patience: Duration) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_lazy();
        let calls = LockServiceClient::new(InterceptedService::new(channel, Bearer::of(token)));
        let last = Instant::now() + patience;
        let reason = format!("Update {id}");
        let mut unanswered = 0;
        let (lease, asked) = loop {
            let wait = last.saturating_duration_since(Instant::now()).min(MAX_WAIT);
            let request = proto::AcquireLockRequest {
                name: LOCK.into(),
                holder_id: id.into(),
                purpose: LockPurpose::SoftwareUpdate.into(),
                reason: reason.clone(),
                ttl: prost_types::Duration::try_from(TTL).ok(),
                wait_timeout: prost_types::Duration::try_from(wait).ok(),
                expiry_policy: ExpiryPolicy::Hold.into(),
                request_id: id.into(),
                ..Default::default()
            };
            let asked = Instant::now();
            match answered(wait + GRACE, calls.clone().acquire_lock(request)).await {
                Ok(lease) => break (lease, asked),
                Err(status) if is(&status, "LOCK_HELD") && Instant::now() < last => {}
                // The previous holder's last transaction still runs.
                Err(status) if is(&status, "PREVIOUS_HOLDER_DRAINING") && Instant::now() < last => sleep(RETRY).await,
                Err(status) if may_be_done(&status) && unanswered < RETRIES => {
                    unanswered += 1;
                    sleep(RETRY).await;
                }
                Err(status) => return Err(status),
            }
        };
        let ttl = lease.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let (Some(ttl), true) = (ttl, lease.lock == LOCK && !lease.lease_id.is_empty() && lease.fencing_token > 0) else {
            return Err(Status::internal("The lock service answered with something that is no lease."));
        };
        let standing = Mutex::new(Standing { reason, end: asked + ttl, lost: None });
        let holding = Arc::new(Holding { calls, id: id.into(), lease_id: lease.lease_id, standing });
        let renewing = tokio::spawn(holding.clone().keep(ttl / 3));
        Ok(Self { fencing_token: lease.fencing_token, holding, renewing })
    }

    /// To be asked before every step that cannot be undone; `step` is what others are told meanwhile.
    pub async fn step(&self, step: &str) -> Result<(), Stop> {
        self.holding.standing().reason = format!("Update {}: {step}", self.holding.id);
        // Without an answer the lease still lasts as long as it does.
        let _ = self.holding.renew().await;
        let standing = self.holding.standing();
        match &standing.lost {
            Some(status) => Err(Stop::LeaseLost(status.clone())),
            None if Instant::now() + MARGIN >= standing.end => Err(Stop::OutOfTime),
            None => Ok(()),
        }
    }

    /// Gives the lock back: also after an update that was rolled back, and one that lost the lock.
    pub async fn end(self) -> Result<(), Status> {
        self.renewing.abort();
        let mut unanswered = 0;
        loop {
            let request = proto::ReleaseLockRequest { name: LOCK.into(), lease_id: self.holding.lease_id.clone() };
            match answered(GRACE, self.holding.calls.clone().release_lock(request)).await {
                Ok(_) => return Ok(()),
                Err(status) if may_be_done(&status) && unanswered < RETRIES => {
                    unanswered += 1;
                    sleep(RETRY).await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    /// Its process dies: nobody renews and nobody releases.
    pub fn vanish(self) {
        drop(self);
    }
}

impl Drop for Update {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Holding {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap()
    }

    async fn renew(&self) -> Result<(), Status> {
        let reason = self.standing().reason.clone();
        let request = proto::RenewLockRequest { name: LOCK.into(), lease_id: self.lease_id.clone(), ttl: None, reason };
        let asked = Instant::now();
        let answer = answered(GRACE, self.calls.clone().renew_lock(request)).await;
        let mut standing = self.standing();
        match answer {
            Ok(lease) => {
                if let Some(ttl) = lease.ttl.and_then(|ttl| Duration::try_from(ttl).ok()) {
                    standing.end = standing.end.max(asked + ttl);
                }
                Ok(())
            }
            Err(status) => {
                if is(&status, "LEASE_LOST") {
                    standing.lost = Some(status.clone());
                }
                Err(status)
            }
        }
    }

    async fn keep(self: Arc<Self>, every: Duration) {
        let mut pause = every;
        while self.standing().lost.is_none() {
            sleep(pause).await;
            pause = if self.renew().await.is_ok() { every } else { RENEW_AGAIN };
        }
    }
}

async fn answered<T>(limit: Duration, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("The lock service does not answer.");
    Ok(timeout(limit, call).await.map_err(late)??.into_inner())
}

/// Whether a call that ended like this may have been done, or may be done when it is sent again.
fn may_be_done(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

fn is(status: &Status, reason: &str) -> bool {
    status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN && info.reason == reason)
}
