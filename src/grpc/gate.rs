//! What every call passes before a handler sees it, in this order: no new calls while stopping, who is it, may they, not too
//! many at once. And what every answer passes: a panic becomes INTERNAL, an error is logged once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::access::{self, Authenticator, Need};
use super::listener::Peer;
use super::status;
use super::trace::{Answered, Call};
use crate::model::event::Caller;
use crate::model::{Failure, Reason};

/// Calls that may be worked on at once, over all connections. Streams count until their first message only.
const MAX_CALLS: usize = 500;

/// The same of one caller, streams included until they end: there is room for others whatever one does.
const MAX_CALLS_EACH: usize = MAX_CALLS / 2;
/// Until it is known who calls.
const ADMISSION: Duration = Duration::from_secs(20);

/// A tower layer around all services.
#[derive(Clone)]
pub struct Gate {
    authenticator: Authenticator,
    stopping: CancellationToken,
    /// The answer to calls that are not taken.
    closed: fn() -> Status,
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
    refused: Arc<Refused>,
    answered: Answered,
}

/// Is told of every caller that is refused for who it is.
type Refused = dyn Fn(&Caller, Reason) + Send + Sync;

impl Gate {
    pub fn new(
        authenticator: Authenticator,
        stopping: CancellationToken,
        refused: impl Fn(&Caller, Reason) + Send + Sync + 'static,
    ) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CALLS));
        let answered: Answered = Arc::new(|_| {});
        Self { authenticator, stopping, closed: draining, places, shares: Arc::default(), refused: Arc::new(refused), answered }
    }

    /// The same, with somebody who is told of each call that was answered.
    pub fn telling(self, answered: Answered) -> Self {
        Self { answered, ..self }
    }

    /// The gate of a service that has not started yet: it lets probes in and nobody else.
    pub fn not_ready(authenticator: Authenticator) -> Self {
        let gate = Self::new(authenticator, CancellationToken::new(), |_, _| {});
        gate.stopping.cancel();
        Self { closed: not_ready, ..gate }
    }

    /// Lets a call in, with its caller in the extensions; what is returned is held until it is answered.
    async fn admit(&self, request: &mut Request<Body>) -> Result<Option<Places>, Status> {
        let method = access::method(request.uri().path());
        if let Some((_, Need::Nothing)) = method {
            return Ok(None);
        }
        if self.stopping.is_cancelled() {
            return Err((self.closed)());
        }
        let path = method.map_or("", |(path, _)| path);
        let refuse = |caller: &Caller, failure: Failure| {
            (self.refused)(caller, failure.reason);
            Status::from(failure)
        };
        let peer = request.extensions().get::<Peer>().cloned();
        let principal = self.authenticator.authenticate(request.headers(), peer.as_ref()).await;
        let principal = principal.map_err(|failure| refuse(&access::caller(request, path, None), *failure))?;
        if let Some(peer) = peer {
            peer.is_known();
        }
        let caller = access::caller(request, path, Some(&principal));
        let permitted = match method {
            Some((_, Need::Nothing | Need::Identity)) => Ok(()),
            Some((_, Need::Permission(permission))) => principal.check(permission),
            None => Err(Failure::new(Reason::PermissionMissing, "No such method is served.").into()),
        };
        permitted.map_err(|failure| refuse(&caller, *failure))?;
        // Whoever is nobody takes no place.
        let share = self.shares.take(&principal.subject);
        let share = share.ok_or_else(|| overloaded("Too many calls of this caller are being worked on."))?;
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| overloaded("Too many calls are being worked on."))?;
        request.extensions_mut().insert(caller);
        Ok(Some(Places { _of_all: place, of_caller: share }))
    }
}

/// What a call takes of what there is.
struct Places {
    /// Until it is answered, or the first message of a stream is on its way.
    _of_all: OwnedSemaphorePermit,
    /// Until the last byte of the answer is sent.
    of_caller: Share,
}

/// How many calls each caller has under way.
#[derive(Default)]
struct Shares(Mutex<HashMap<String, usize>>);

impl Shares {
    /// `None`: the caller has all that one may have.
    fn take(self: &Arc<Self>, subject: &str) -> Option<Share> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(subject.to_owned()).or_default();
        if *count >= MAX_CALLS_EACH {
            return None;
        }
        *count += 1;
        Some(Share { of: self.clone(), subject: subject.to_owned() })
    }
}

struct Share {
    of: Arc<Shares>,
    subject: String,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.subject);
            }
        }
    }
}

/// The answer to calls of a service that stops.
pub fn draining() -> Status {
    let failure = Failure::new(Reason::ServerDraining, "The service is stopping.");
    failure.retry_after(Duration::from_secs(5)).instructions("Call again in a moment.").into()
}

fn not_ready() -> Status {
    let failure = Failure::new(Reason::ServerDraining, "The service is not ready yet.");
    failure.retry_after(Duration::from_secs(5)).instructions("Call again in a moment; health tells when it is ready.").into()
}

fn overloaded(message: &str) -> Status {
    let failure = Failure::new(Reason::RateLimited, message);
    failure.retry_after(Duration::from_secs(1)).instructions("Call again in a moment.").into()
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let unready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, unready);
        let gate = self.gate.clone();
        let (method, need) = access::method(request.uri().path()).unwrap_or(("_OTHER", Need::Identity));
        // Probes are not told of.
        let call = (need != Need::Nothing).then(|| Call::begin(&request, method, gate.answered.clone()));
        let span = call.as_ref().map_or_else(Span::none, Call::span);
        let answered = async move {
            let limit = limit(method);
            let answer = AssertUnwindSafe(async {
                match timeout(ADMISSION, gate.admit(&mut request)).await.unwrap_or_else(|_| Err(late())) {
                    Ok(None) => inner.call(request).await,
                    Ok(Some(places)) => match timeout(limit, inner.call(request)).await {
                        Ok(response) => Ok(response?.map(|body| held(body, places.of_caller))),
                        Err(_) => Ok(late().into_http()),
                    },
                    Err(status) => Ok(status.into_http()),
                }
            });
            let response = answer.catch_unwind().await.unwrap_or_else(|_panic| Ok(panicked().into_http()))?;
            let Some(call) = call else { return Ok(response) };
            let Some(status) = response.extensions().get::<Status>() else { return Ok(call.answer(response)) };
            // Reflection has errors of its own.
            let ours = method.starts_with("/holdfast.");
            let better = if ours { status::of_transport(status) } else { None };
            status::log(method, better.as_ref().unwrap_or(status));
            Ok(call.answer(better.map_or(response, Status::into_http)))
        };
        Box::pin(answered.instrument(span))
    }
}

/// How long a call may take until it is answered, or its first message is on its way. What takes longer is given up, as if
/// the caller had hung up.
fn limit(method: &str) -> Duration {
    match method.rsplit_once('/').map_or(method, |(_, name)| name) {
        // It takes as long as the caller says, or sends.
        "WaitOperation" | "AcquireLock" | "UploadBackup" | "ServerReflectionInfo" => Duration::from_secs(7 * 3600),
        // They read whole files, or wait until one is back from the archive.
        "Restore" | "PreviewRestore" | "VerifyBackup" | "CheckPassphrase" | "DownloadBackup" | "SyncBackups" => {
            Duration::from_secs(150)
        }
        _ => Duration::from_secs(60),
    }
}

/// The answer, which keeps a place until its last byte is sent.
fn held(body: Body, share: Share) -> Body {
    Body::new(body.map_frame(move |frame| {
        _ = &share;
        frame
    }))
}

fn late() -> Status {
    let failure = Failure::new(Reason::CallTimedOut, "The call took longer than it may, and was given up.");
    failure.instructions("See whether the service is busy or its database slow, and call again.").into()
}

fn panicked() -> Status {
    Failure::new(Reason::Internal, "panic").into()
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;
    use crate::grpc::access::{Bindings, Role};

    fn call(path: &str, token: Option<&str>) -> Request<Body> {
        let request = Request::builder().uri(format!("http://localhost{path}"));
        let request = token.into_iter().fold(request, |r, token| r.header("authorization", format!("Bearer {token}")));
        request.body(Body::empty()).unwrap()
    }

    async fn answer(gate: &Gate, request: Request<Body>) -> Option<Status> {
        let echo = tower::service_fn(|request: Request<Body>| async move {
            let known = request.extensions().get::<Caller>().is_some();
            assert_eq!(known, !request.uri().path().starts_with("/grpc.health"), "a handler that panics");
            Ok(Response::new(Body::empty()))
        });
        let response = gate.layer(echo).call(request).await.unwrap();
        response.extensions().get::<Status>().cloned()
    }

    fn authenticator() -> Authenticator {
        let authenticator = Authenticator::new(Bindings::default());
        let authenticator = authenticator.with_token("letmein", "token:static", &[Role::BackupAdmin]).unwrap();
        authenticator.with_token("another", "token:other", &[Role::Monitoring]).unwrap()
    }

    fn gate() -> Gate {
        Gate::new(authenticator(), CancellationToken::new(), |_, _| {})
    }

    fn reason(status: Option<Status>) -> String {
        status.unwrap().get_details_error_info().unwrap().reason
    }

    const GET: &str = "/holdfast.backup.v1.BackupService/GetBackup";

    #[tokio::test]
    async fn only_known_callers_and_known_methods_pass() {
        let gate = gate();
        assert!(answer(&gate, call(GET, Some("letmein"))).await.is_none());
        assert!(answer(&gate, call("/grpc.health.v1.Health/Check", None)).await.is_none());
        assert_eq!(reason(answer(&gate, call(GET, None)).await), "CREDENTIALS_MISSING");
        assert_eq!(reason(answer(&gate, call(GET, Some("letmei"))).await), "CREDENTIALS_INVALID");
        assert_eq!(reason(answer(&gate, call("/x.Y/Z", None)).await), "CREDENTIALS_MISSING");
        assert_eq!(reason(answer(&gate, call("/x.Y/Z", Some("letmein"))).await), "PERMISSION_MISSING");
    }

    #[tokio::test]
    async fn a_service_that_stops_takes_no_new_calls_but_answers_probes() {
        let gate = gate();
        gate.stopping.cancel();
        let status = answer(&gate, call(GET, Some("letmein"))).await.unwrap();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.get_details_retry_info().is_some());
        assert!(answer(&gate, call("/grpc.health.v1.Health/Check", None)).await.is_none());
    }

    #[tokio::test]
    async fn p11_a_service_that_is_not_ready_yet_tells_every_caller_so_and_answers_probes() {
        let gate = Gate::not_ready(authenticator());
        for token in [Some("letmein"), Some("another"), None] {
            let status = answer(&gate, call(GET, token)).await.unwrap();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
            assert_eq!(reason(Some(status)), "SERVER_DRAINING");
        }
        assert!(answer(&gate, call("/grpc.health.v1.Health/Check", None)).await.is_none());
    }

    #[tokio::test]
    async fn too_many_calls_are_refused_and_places_are_given_back() {
        let gate = gate();
        for _ in 0..MAX_CALLS + 1 {
            assert!(answer(&gate, call(GET, Some("letmein"))).await.is_none());
        }
        let all = Arc::clone(&gate.places).try_acquire_many_owned(u32::try_from(MAX_CALLS).unwrap()).unwrap();
        assert_eq!(reason(answer(&gate, call(GET, Some("letmein"))).await), "RATE_LIMITED");
        drop(all);
    }

    #[tokio::test]
    async fn p07_one_caller_has_half_of_the_places_and_streams_count_to_their_end() {
        let gate = gate();
        let endless = tower::service_fn(|_: Request<Body>| async {
            Ok(Response::new(Body::new(http_body_util::Full::new(bytes::Bytes::from_static(b"x")))))
        });
        let ask = async |token| gate.layer(endless).call(call(GET, Some(token))).await.unwrap();
        let mut open = Vec::new();
        for _ in 0..MAX_CALLS_EACH {
            open.push(ask("letmein").await);
        }
        let status = |response: Response<Body>| response.extensions().get::<Status>().cloned();
        assert_eq!(reason(status(ask("letmein").await)), "RATE_LIMITED");
        assert!(status(ask("another").await).is_none());
        open.pop();
        assert!(status(ask("letmein").await).is_none());
        drop(open);
        assert!(gate.shares.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn p07_a_call_that_takes_too_long_is_given_up_and_gives_its_place_back() {
        let gate = gate();
        let stalls = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let start = tokio::time::Instant::now();
        let response = gate.layer(stalls).call(call(GET, Some("letmein"))).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 60);
        let status = response.extensions().get::<Status>().unwrap();
        assert_eq!((status.code(), reason(Some(status.clone())).as_str()), (Code::DeadlineExceeded, "CALL_TIMED_OUT"));
        assert_eq!(gate.places.available_permits(), MAX_CALLS);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let gate = gate();
        let panics = tower::service_fn(|_: Request<Body>| async { panic!("planted") });
        let response = gate.layer(panics).call(call(GET, Some("letmein"))).await.unwrap();
        assert_eq!(response.extensions().get::<Status>().unwrap().code(), Code::Internal);
        assert_eq!(gate.places.available_permits(), MAX_CALLS);
    }
}
