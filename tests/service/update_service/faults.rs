//! What a lock service may do to its callers instead of serving them. A tower layer around the service spoils calls; what
//! concerns connections is left to the line before it.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast::grpc::proto::lock as proto;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, Service};

use super::line::{Line, Way};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It behaves.
    None,
    /// Its port is closed, its connections are reset. What it knows is there again when it behaves.
    Dead,
    /// It takes calls and never answers them.
    Hangs,
    /// Nothing arrives and nothing is closed, as behind a firewall that drops everything.
    BlackHole,
    /// It does what is asked, and answers after so long.
    Late(Duration),
    /// Something else listens at its port, which does not even speak HTTP/2.
    NotHttp2,
    /// Something else answers: a web page.
    NotGrpc,
    /// Answers that cannot be decoded.
    WrongTypes,
    /// Answers that can be decoded and make no sense.
    Nonsense,
    /// Answers of more than any caller should take.
    Huge,
    /// It does not permit its caller anything.
    PermissionDenied,
    /// A server without LockService.
    Unimplemented,
    /// Whatever is asked of a lease is answered with these bytes, and not done.
    Grants(&'static [u8]),
    /// Three calls in ten fail as chance will have it that begins with this number; half of those are done all the same.
    Flaky(u64),
    /// The next AcquireLock is done, and its answer is lost with its connection.
    LosesAnswer,
    /// It has forgotten everything: the lock is free and its fencing tokens begin again. Once.
    LosesState,
}

const HUGE: usize = 8 * 1024 * 1024;

/// The fault at present, and the layer that acts by it.
#[derive(Clone)]
pub struct Faults {
    fault: Arc<Mutex<Fault>>,
    line: Line,
    calls: Arc<Mutex<Vec<String>>>,
    traces: Arc<Mutex<Vec<(String, String)>>>,
}

impl Faults {
    pub fn on(line: Line) -> Self {
        Self { fault: Arc::new(Mutex::new(Fault::None)), line, calls: Arc::default(), traces: Arc::default() }
    }

    /// Methods that were called since the last look, in their order.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// What calls said of their trace: the method, and the `traceparent`.
    pub fn traces(&self) -> Vec<(String, String)> {
        self.traces.lock().unwrap().clone()
    }

    pub async fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        let way = match fault {
            Fault::Dead => Way::Cut,
            Fault::BlackHole => Way::Frozen,
            Fault::NotHttp2 => Way::Gibberish,
            _ => Way::Open,
        };
        self.line.set(way).await;
    }

    /// The fault for a call, which is over with the call when it is for one call only.
    fn meet(&self, path: &str) -> Fault {
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Fault::LosesAnswer if path.ends_with("/AcquireLock") => std::mem::replace(&mut fault, Fault::None),
            Fault::LosesAnswer => Fault::None,
            Fault::Flaky(ref mut chance) => {
                *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Fault::Flaky(*chance >> 33)
            }
            fault => fault,
        }
    }
}

/// One message, and a status that says that all is well.
fn answer(message: &[u8]) -> Response<Body> {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    let ok = HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(frame.freeze()).with_trailers(async { Some(Ok(ok)) });
    Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(Body::new(body)).unwrap()
}

fn web_page() -> Response<Body> {
    let body = Full::new(Bytes::from_static(b"<html><body>Please log in.</body></html>"));
    Response::builder().header(header::CONTENT_TYPE, "text/html").body(Body::new(body)).unwrap()
}

fn nonsense(path: &str) -> Vec<u8> {
    if path.ends_with("/AcquireLock") || path.ends_with("/RenewLock") {
        let ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let lock = "locks/another".to_owned();
        proto::LockLease { lock, fencing_token: -1, ttl, ..Default::default() }.encode_to_vec()
    } else {
        proto::Lock { name: "locks/another".into(), state: 99, fencing_token: -1, ..Default::default() }.encode_to_vec()
    }
}

impl<S> Layer<S> for Faults {
    type Service = Spoilt<S>;

    fn layer(&self, inner: S) -> Spoilt<S> {
        Spoilt { faults: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Spoilt<S> {
    faults: Faults,
    inner: S,
}

impl<S> Service<Request<Body>> for Spoilt<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let unready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, unready);
        let faults = self.faults.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            if let Some(trace) = request.headers().get("traceparent") {
                faults.traces.lock().unwrap().push((name.clone(), trace.to_str().unwrap().to_owned()));
            }
            faults.calls.lock().unwrap().push(name);
            match faults.meet(&path) {
                Fault::Hangs => pending().await,
                Fault::Late(by) => {
                    let done = inner.call(request).await;
                    tokio::time::sleep(by).await;
                    done
                }
                Fault::NotGrpc => Ok(web_page()),
                // Field 1 is a text in all answers of the contract; this is a number.
                Fault::WrongTypes => Ok(answer(&[0x08, 0x01])),
                Fault::Nonsense => Ok(answer(&nonsense(&path))),
                Fault::Huge => Ok(answer(&proto::Lock { name: "x".repeat(HUGE), ..Default::default() }.encode_to_vec())),
                Fault::PermissionDenied => Ok(Status::permission_denied("Not you.").into_http()),
                Fault::Unimplemented => Ok(Status::unimplemented("").into_http()),
                Fault::Grants(lease) if path.ends_with("/AcquireLock") || path.ends_with("/RenewLock") => Ok(answer(lease)),
                Fault::Flaky(chance) => match chance % 20 {
                    0..3 => Ok(Status::unavailable("Not now.").into_http()),
                    3..6 => {
                        let _lost = inner.call(request).await;
                        Ok(Status::unavailable("Not any more.").into_http())
                    }
                    _ => inner.call(request).await,
                },
                Fault::LosesAnswer => {
                    let _lost = inner.call(request).await;
                    faults.line.reset();
                    pending().await
                }
                Fault::None | Fault::Dead | Fault::BlackHole | Fault::NotHttp2 | Fault::Grants(_) | Fault::LosesState => {
                    inner.call(request).await
                }
            }
        })
    }
}
