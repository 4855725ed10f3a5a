//! What every call passes before a handler sees it, in this order: no new calls while stopping, not too many at once,
//! who is it, may they. And what every answer passes: a panic becomes INTERNAL, an error is logged once.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::access::{self, Authenticator, Need};
use super::status;
use crate::model::event::Caller;
use crate::model::{Failure, Reason};

/// Calls that may be worked on at once, over all connections. Streams count until their first message only.
const MAX_CALLS: usize = 500;

/// A tower layer around all services.
#[derive(Clone)]
pub struct Gate {
    authenticator: Authenticator,
    stopping: CancellationToken,
    /// The answer to calls that are not taken.
    closed: fn() -> Status,
    places: Arc<Semaphore>,
    refused: Arc<Refused>,
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
        Self { authenticator, stopping, closed: draining, places, refused: Arc::new(refused) }
    }

    /// The gate of a service that has not started yet: it lets probes in and nobody else.
    pub fn not_ready(authenticator: Authenticator) -> Self {
        let gate = Self::new(authenticator, CancellationToken::new(), |_, _| {});
        gate.stopping.cancel();
        Self { closed: not_ready, ..gate }
    }

    /// Lets a call in, with its principal in the extensions; what is returned is held until it is answered.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let method = access::method(request.uri().path());
        if let Some((_, Need::Nothing)) = method {
            return Ok(None);
        }
        if self.stopping.is_cancelled() {
            return Err((self.closed)());
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| overloaded())?;
        let path = method.map_or("", |(path, _)| path);
        let refuse = |caller: &Caller, failure: Failure| {
            (self.refused)(caller, failure.reason);
            Status::from(failure)
        };
        let principal = self.authenticator.authenticate(request.headers());
        let principal = principal.map_err(|failure| refuse(&access::caller(request, path, None), *failure))?;
        let caller = access::caller(request, path, Some(&principal));
        let permitted = match method {
            Some((_, Need::Nothing | Need::Identity)) => Ok(()),
            Some((_, Need::Permission(permission))) => principal.check(permission),
            None => Err(Failure::new(Reason::PermissionMissing, "No such method is served.").into()),
        };
        permitted.map_err(|failure| refuse(&caller, *failure))?;
        request.extensions_mut().insert(caller);
        Ok(Some(place))
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

fn overloaded() -> Status {
    let failure = Failure::new(Reason::RateLimited, "Too many calls are being worked on.");
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
        Box::pin(async move {
            let method = access::method(request.uri().path()).map_or("_OTHER", |(path, _)| path);
            let answer = AssertUnwindSafe(async {
                match gate.admit(&mut request) {
                    Ok(_place) => inner.call(request).await,
                    Err(status) => Ok(status.into_http()),
                }
            });
            let response = answer.catch_unwind().await.unwrap_or_else(|_panic| Ok(panicked().into_http()))?;
            let Some(status) = response.extensions().get::<Status>() else { return Ok(response) };
            // Health and reflection have errors of their own.
            let ours = method.starts_with("/holdfast.");
            let better = if ours { status::of_transport(status) } else { None };
            status::log(method, better.as_ref().unwrap_or(status));
            Ok(better.map_or(response, Status::into_http))
        })
    }
}

fn panicked() -> Status {
    Failure::new(Reason::Internal, "panic").into()
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt;

    use super::*;

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

    fn gate() -> Gate {
        Gate::new(Authenticator::static_token("letmein", "token:static").unwrap(), CancellationToken::new(), |_, _| {})
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
        let gate = Gate::not_ready(Authenticator::static_token("letmein", "token:static").unwrap());
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
    async fn a_panic_is_an_internal_error() {
        let gate = gate();
        let panics = tower::service_fn(|_: Request<Body>| async { panic!("planted") });
        let response = gate.layer(panics).call(call(GET, Some("letmein"))).await.unwrap();
        assert_eq!(response.extensions().get::<Status>().unwrap().code(), Code::Internal);
        assert_eq!(gate.places.available_permits(), MAX_CALLS);
    }
}
