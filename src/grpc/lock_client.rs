//! The maintenance lock when another service hosts it: the client of its LockService. Whatever it does not clearly grant is
//! not granted.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};
use tracing::{Instrument, Span};

use super::convert::lock as convert;
use super::convert::lock::refusal::refusal;
use super::proto::lock as wire;
use super::proto::lock::lock_service_client::LockServiceClient;
use super::trace;
use crate::lock::{Error, Locks};
use crate::model::lock::{Holder, Lease, Lock, NAME, Terms};

/// Longest time of one call; a service that is gone without a word is noticed by then.
const DEADLINE: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(3);
/// A connection whose other end is gone is given up within the call that meets it, so that the next one is made on another.
/// Nothing is sent while nobody calls: servers take that for abuse.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(1);
/// A lock and its holder have at most a few KB.
const MAX_MESSAGE: usize = 64 * 1024;

/// The lock of another service. Cheap to clone.
#[derive(Clone)]
pub struct RemoteLock {
    client: LockServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    exposed: bool,
}

/// The address or the token cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the address of the lock service is not one such as https://update-service:50051")]
    Address,
    #[error("the certificate authority of the lock service is not PEM")]
    Certificate(#[source] tonic::transport::Error),
    #[error("the token for the lock service has characters that no token has")]
    Token,
}

impl RemoteLock {
    /// Does not connect before it is asked for something. To be called in the runtime that it is to live in.
    ///
    /// # Errors
    /// When the address or the token is malformed.
    pub fn new(address: &str, token: &str, ca: Option<&[u8]>) -> Result<Self, Invalid> {
        let mut endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|_| Invalid::Address)?
            .timeout(DEADLINE)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            .keep_alive_while_idle(false);
        let uri = endpoint.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Invalid::Address),
        };
        if secure {
            let tls = ClientTlsConfig::new();
            let tls = match ca {
                Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
                None => tls.with_native_roots(),
            };
            endpoint = endpoint.tls_config(tls).map_err(Invalid::Certificate)?;
        }
        let token = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut token = token.map_err(|_| Invalid::Token)?;
        token.set_sensitive(true);
        let client = LockServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { client, token, exposed: !secure && !here })
    }

    /// Whether others could read what is said to it.
    pub fn exposed(&self) -> bool {
        self.exposed
    }

    /// A request, and its span.
    fn request<T>(&self, method: &'static str, message: T) -> (Request<T>, Span) {
        let (mut request, span) = (Request::new(message), trace::calling(method));
        request.metadata_mut().insert("authorization", self.token.clone());
        trace::pass_on(&span, request.metadata_mut());
        request.set_timeout(DEADLINE);
        (request, span)
    }
}

impl fmt::Debug for RemoteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteLock")
    }
}

async fn answer<T>(span: Span, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    let answer = call.instrument(span.clone()).await;
    trace::answered(&span, answer.as_ref().err().map_or(Code::Ok, Status::code));
    answer.map(Response::into_inner).map_err(|status| refusal(&status))
}

impl Locks for RemoteLock {
    fn acquire(&self, terms: Terms) -> BoxFuture<'static, Result<Lease, Error>> {
        let (request, span) = self.request("holdfast.lock.v1.LockService/AcquireLock", convert::asked(&terms));
        let mut client = self.client.clone();
        async move {
            match answer(span, client.acquire_lock(request)).await {
                Err(Error::Lost | Error::TokenMismatch) => {
                    Err(Error::Unusable("it refuses a lease for a reason of another call".into()))
                }
                granted => convert::granted(&granted?),
            }
        }
        .boxed()
    }

    fn renew(&self, lease: Lease) -> BoxFuture<'static, Result<(), Error>> {
        let (name, lease_id) = (NAME.to_owned(), lease.id.reveal().to_string());
        let message = wire::RenewLockRequest { name, lease_id, ..Default::default() };
        let (request, span) = self.request("holdfast.lock.v1.LockService/RenewLock", message);
        let mut client = self.client.clone();
        async move {
            let renewed = convert::granted(&answer(span, client.renew_lock(request)).await?)?;
            // A service that lost its state may have granted the lock anew.
            if renewed.fencing_token == lease.fencing_token && renewed.ttl >= lease.ttl { Ok(()) } else { Err(Error::Lost) }
        }
        .boxed()
    }

    fn release(&self, lease: Lease) -> BoxFuture<'static, Result<(), Error>> {
        let (name, lease_id) = (NAME.to_owned(), lease.id.reveal().to_string());
        let message = wire::ReleaseLockRequest { name, lease_id };
        let (request, span) = self.request("holdfast.lock.v1.LockService/ReleaseLock", message);
        let mut client = self.client.clone();
        async move {
            match answer(span, client.release_lock(request)).await {
                Ok(_) | Err(Error::Lost) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn forget(&self, terms: Terms) -> BoxFuture<'static, Result<(), Error>> {
        let remote = self.clone();
        async move {
            // Whoever asks for a lock that is free takes it, if only for a moment, and is in the way of others.
            let ours = |holder: &Holder| {
                holder.operation == terms.operation || (holder.operation.is_empty() && holder.purpose == terms.purpose)
            };
            let Some(holder) = remote.look().await?.holder.filter(ours) else { return Ok(()) };
            // The same request gets the lease that it was granted, also when it was a process before this one that asked.
            match remote.acquire(Terms { holder_id: holder.holder_id, ..terms }).await {
                Ok(lease) => remote.release(lease).await,
                Err(Error::Held(_)) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn look(&self) -> BoxFuture<'static, Result<Lock, Error>> {
        let message = wire::GetLockRequest { name: NAME.to_owned() };
        let (request, span) = self.request("holdfast.lock.v1.LockService/GetLock", message);
        let mut client = self.client.clone();
        async move { convert::shown(answer(span, client.get_lock(request)).await?) }.boxed()
    }
}
