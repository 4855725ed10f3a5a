//! LockService from memory, on loopback, for callers with bearer tokens.
//!
//! Its clock goes on by itself and can be advanced; times of day are made from it for display alone, and can be wrong by days
//! without any effect on a lease. Every change is told in the order in which it was made: both happen under one mutex.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use holdfast::grpc::proto::lock as proto;
use holdfast::grpc::proto::lock::lock_service_server::{LockService, LockServiceServer};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::client::Update;
use super::faults::{Fault, Faults};
use super::fields::{self, refusal};
use super::line::Line;
use super::rules::{Lease, Lock, Refusal};
use super::{ADMINISTRATOR, Caller, HOLDFAST, LOCK, UPDATE_SERVICE};

/// The contract asks for a message in 15 s.
const HEARTBEAT: Duration = Duration::from_secs(14);

pub struct Host {
    shared: Arc<Shared>,
    faults: Faults,
    line: Line,
    database: Option<String>,
}

impl Host {
    /// Serves until the test ends.
    pub async fn start() -> Self {
        let (changes, _) = broadcast::channel(64);
        let shared = Arc::new(Shared { books: Mutex::default(), start: Instant::now(), calendar: SystemTime::now(), changes });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line = Line::to(listener.local_addr().unwrap().port()).await;
        let faults = Faults::on(line.clone());
        let service = LockServiceServer::new(Service(shared.clone()));
        let router = Server::builder().layer(faults.clone()).add_service(service);
        tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
        Self { shared, faults, line, database: None }
    }

    /// The same; its own updates raise the fence in the platform's database, as a role that may call `advance_fence`.
    pub async fn with_database(url: &str) -> Self {
        Self { database: Some(url.to_owned()), ..Self::start().await }
    }

    pub fn endpoint(&self) -> String {
        self.line.endpoint()
    }

    /// From now on it behaves like this.
    pub async fn set(&self, fault: Fault) {
        match fault {
            Fault::LosesState => self.shared.change(|books, _| books.lock = Lock::default()),
            fault => self.faults.set(fault).await,
        }
    }

    /// Methods that were called since the last look, in their order.
    pub fn take_calls(&self) -> Vec<String> {
        self.faults.take_calls()
    }

    /// What calls said of their trace: the method, and the `traceparent`.
    pub fn traces(&self) -> Vec<(String, String)> {
        self.faults.traces()
    }

    /// Lets time pass for leases.
    pub fn advance(&self, time: Duration) {
        self.shared.change(|books, _| books.ahead += time);
    }

    /// Sets its calendar wrong, by so many seconds.
    pub fn set_calendar(&self, wrong_by: i64) {
        self.shared.books().wrong_by = wrong_by;
    }

    /// Lets the present lease end.
    pub fn expire(&self) {
        let rest = self.shared.rest();
        self.advance(rest.unwrap_or_default());
    }

    /// An update of its own. Before it may change anything, the platform's database refuses the tokens of everybody
    /// who had the lock before, and their last transactions have ended.
    pub async fn begin_update(&self, id: &str) -> Result<Update, Status> {
        let update = Update::begin(&self.endpoint(), UPDATE_SERVICE.token, id).await?;
        let Some(url) = &self.database else { return Ok(update) };
        if advance_fence(url, update.fencing_token).await.unwrap_or(false) {
            return Ok(update);
        }
        update.end().await?;
        Err(Status::failed_precondition("The database has seen a newer token, or cannot be asked: this update may not begin."))
    }
}

async fn advance_fence(url: &str, token: i64) -> Result<bool, sqlx::Error> {
    let mut database = PgConnection::connect(url).await?;
    sqlx::query_scalar("SELECT holdfast.advance_fence($1)").bind(token).fetch_one(&mut database).await
}

/// All that changes.
#[derive(Default)]
struct Books {
    lock: Lock,
    /// How far the clock was advanced.
    ahead: Duration,
    wrong_by: i64,
}

struct Shared {
    books: Mutex<Books>,
    start: Instant,
    /// The time of day at the start.
    calendar: SystemTime,
    changes: broadcast::Sender<proto::Lock>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn now(&self, books: &Books) -> Duration {
        self.start.elapsed() + books.ahead
    }

    /// Changes something and tells those who watch, unless it was only a renewal.
    fn change<T>(&self, change: impl FnOnce(&mut Books, Duration) -> T) -> T {
        let mut books = self.books();
        let now = self.now(&books);
        let before = self.shown(&books);
        let answer = change(&mut books, now);
        let after = self.shown(&books);
        let essence = |lock: &proto::Lock| (lock.state, lock.holder.as_ref().map(|holder| holder.fencing_token));
        if essence(&before) != essence(&after) {
            // Nobody watches: no error.
            let _ = self.changes.send(after);
        }
        answer
    }

    /// The lock at present, and what changes from here on.
    fn follow(&self) -> (proto::Lock, broadcast::Receiver<proto::Lock>) {
        let books = self.books();
        (self.shown(&books), self.changes.subscribe())
    }

    /// How long the present lease still lasts, if it does.
    fn rest(&self) -> Option<Duration> {
        let books = self.books();
        let now = self.now(&books);
        books.lock.end(now).map(|end| end - now)
    }

    /// A time of day, for display.
    fn time(&self, books: &Books, at: Duration) -> prost_types::Timestamp {
        let time = prost_types::Timestamp::from(self.calendar + at);
        prost_types::Timestamp { seconds: time.seconds + books.wrong_by, ..time }
    }

    /// The lock as everybody may see it.
    fn shown(&self, books: &Books) -> proto::Lock {
        let now = self.now(books);
        let time = |at| Some(self.time(books, at));
        let holder = books.lock.holder(now).map(|lease| proto::LockHolder {
            principal: lease.terms.principal.clone(),
            holder_id: lease.terms.holder_id.clone(),
            purpose: lease.terms.purpose.into(),
            reason: lease.terms.reason.clone(),
            operation: lease.terms.operation.clone(),
            fencing_token: lease.fencing_token,
            acquire_time: time(lease.acquired),
            renew_time: time(lease.renewed),
            expire_time: time(lease.end),
            expiry_policy: lease.terms.policy.into(),
        });
        proto::Lock {
            name: LOCK.into(),
            description: "Backup, restore and software update of the platform.".into(),
            state: books.lock.state(now).into(),
            holder,
            fencing_token: books.lock.newest,
            update_time: time(books.lock.changed(now)),
        }
    }

    /// The lease as its holder alone may see it.
    fn lease(&self, lease: &Lease) -> proto::LockLease {
        let length = |length: Duration| prost_types::Duration::try_from(length).ok();
        proto::LockLease {
            lock: LOCK.into(),
            lease_id: lease.lease_id.clone(),
            fencing_token: lease.fencing_token,
            ttl: length(lease.terms.ttl),
            expire_time: Some(self.time(&self.books(), lease.end)),
            renew_interval: length(lease.terms.ttl / 3),
        }
    }

    fn refused(&self, why: Refusal) -> Status {
        let none = HashMap::new;
        match why {
            Refusal::Held(lease) => {
                let message = format!("Taken by {}: {}", lease.terms.principal, lease.terms.reason);
                refusal(Code::Aborted, "LOCK_HELD", &message, self.metadata(&lease))
            }
            Refusal::Stale(lease) => {
                let message = format!("{} has not renewed: {}", lease.terms.principal, lease.terms.reason);
                refusal(Code::FailedPrecondition, "LOCK_STALE", &message, self.metadata(&lease))
            }
            Refusal::RequestIdReused => {
                refusal(Code::InvalidArgument, "INVALID_FIELD", "The request_id belongs to a request with other terms.", none())
            }
            Refusal::Lost => refusal(Code::Aborted, "LEASE_LOST", "This lease is over: stop.", none()),
            Refusal::TokenMismatch => {
                refusal(Code::Aborted, "FENCING_TOKEN_MISMATCH", "No present holder has this token; look again.", none())
            }
        }
    }

    fn metadata(&self, lease: &Lease) -> HashMap<String, String> {
        let books = self.books();
        let (terms, time) = (&lease.terms, |at| self.time(&books, at).to_string());
        let purpose = terms.purpose.as_str_name();
        let entries = [
            ("holder", terms.principal.clone()),
            ("holderId", terms.holder_id.clone()),
            ("purpose", purpose.trim_start_matches("LOCK_PURPOSE_").to_owned()),
            ("reason", terms.reason.clone()),
            ("operation", terms.operation.clone()),
            ("acquireTime", time(lease.acquired)),
            ("expireTime", time(lease.end)),
        ];
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer "));
    let known = [UPDATE_SERVICE, HOLDFAST, ADMINISTRATOR].into_iter().find(|caller| Some(caller.token) == token);
    known.ok_or_else(|| refusal(Code::Unauthenticated, "ACCESS_DENIED", "Send a token that is known here.", HashMap::new()))
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl LockService for Service {
    type WatchLockStream = ReceiverStream<Result<proto::Lock, Status>>;

    async fn acquire_lock(&self, request: Request<proto::AcquireLockRequest>) -> Result<Response<proto::LockLease>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        fields::lock(&request.name)?;
        let (terms, wait) = fields::terms(caller.principal.to_owned(), request)?;
        let deadline = Instant::now() + wait;
        loop {
            let (_, mut changes) = self.0.follow();
            let refusal = match self.0.change(|books, now| books.lock.acquire(now, terms.clone())) {
                Ok(lease) => return Ok(Response::new(self.0.lease(&lease))),
                Err(refusal) => refusal,
            };
            if Instant::now() >= deadline || matches!(refusal, Refusal::Stale(_)) {
                return Err(self.0.refused(refusal));
            }
            tokio::select! {
                _ = changes.recv() => {}
                () = sleep(self.0.rest().unwrap_or_default()) => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    async fn renew_lock(&self, request: Request<proto::RenewLockRequest>) -> Result<Response<proto::LockLease>, Status> {
        caller(&request)?;
        let request = request.into_inner();
        fields::lock(&request.name)?;
        fields::required("lease_id", &request.lease_id, usize::MAX)?;
        fields::text("reason", &request.reason, fields::MAX_REASON)?;
        let ttl = fields::ttl(request.ttl)?;
        let renewed = self.0.change(|books, now| books.lock.renew(now, &request.lease_id, ttl, &request.reason));
        renewed.map(|lease| Response::new(self.0.lease(&lease))).map_err(|refusal| self.0.refused(refusal))
    }

    async fn release_lock(&self, request: Request<proto::ReleaseLockRequest>) -> Result<Response<proto::Lock>, Status> {
        caller(&request)?;
        let request = request.into_inner();
        fields::lock(&request.name)?;
        fields::required("lease_id", &request.lease_id, usize::MAX)?;
        self.0.change(|books, now| books.lock.release(now, &request.lease_id));
        Ok(Response::new(self.0.follow().0))
    }

    async fn get_lock(&self, request: Request<proto::GetLockRequest>) -> Result<Response<proto::Lock>, Status> {
        caller(&request)?;
        fields::lock(&request.into_inner().name)?;
        Ok(Response::new(self.0.follow().0))
    }

    async fn watch_lock(&self, request: Request<proto::WatchLockRequest>) -> Result<Response<Self::WatchLockStream>, Status> {
        caller(&request)?;
        fields::lock(&request.into_inner().name)?;
        let (mut last, mut changes) = self.0.follow();
        let (sender, receiver) = mpsc::channel(1);
        let shared = self.0.clone();
        // Ends when the caller has hung up.
        tokio::spawn(async move {
            while sender.send(Ok(last)).await.is_ok() {
                let pause = shared.rest().map_or(HEARTBEAT, |rest| rest.min(HEARTBEAT));
                last = tokio::select! {
                    change = changes.recv() => change.unwrap_or_else(|_| shared.follow().0),
                    () = sleep(pause) => shared.follow().0,
                    () = sender.closed() => return,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn force_release_lock(
        &self,
        request: Request<proto::ForceReleaseLockRequest>,
    ) -> Result<Response<proto::Lock>, Status> {
        if !caller(&request)?.administrator {
            return Err(refusal(Code::PermissionDenied, "ACCESS_DENIED", "`locks.break` is for administrators.", HashMap::new()));
        }
        let request = request.into_inner();
        fields::lock(&request.name)?;
        fields::required("reason", &request.reason, fields::MAX_REASON)?;
        if request.fencing_token <= 0 {
            return Err(fields::invalid("fencing_token", "is required"));
        }
        let broken = self.0.change(|books, now| books.lock.force_release(now, request.fencing_token));
        broken.map(|()| Response::new(self.0.follow().0)).map_err(|refusal| self.0.refused(refusal))
    }
}
