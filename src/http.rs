//! Requests to others: HTTP/1.1, over TLS where the address says https. One request is one connection; no redirect is followed,
//! and no proxy is used.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// For a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Why no request can be made with these settings.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the file of the certificate authority has no certificate in it, in PEM")]
    Authority,
    #[error("this system has no certificate authorities")]
    NoAuthorities,
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("it does not speak HTTP as it should: {0}")]
    Http(#[from] hyper::Error),
    #[error("its answer breaks off, or is larger than any should be")]
    Body,
    #[error("the request cannot be written")]
    Request(#[from] hyper::http::Error),
}

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Client(Option<TlsConnector>);

impl Client {
    /// Trusts this certificate authority, PEM, or those of the system.
    pub fn new(authority: Option<&[u8]>) -> Result<Self, Invalid> {
        let mut roots = RootCertStore::empty();
        match authority {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate.map_err(|_| Invalid::Authority)?)?;
                }
                if roots.is_empty() {
                    return Err(Invalid::Authority);
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(Invalid::NoAuthorities);
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Some(TlsConnector::from(Arc::new(config)))))
    }

    /// For addresses without TLS only.
    pub fn plain() -> Self {
        Self(None)
    }

    /// Sends a request to its address, which has scheme and host. The answer is as long as it takes.
    ///
    /// # Errors
    /// When no answer has begun. The request may have arrived all the same.
    pub async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Error>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let to = request.uri().clone();
        let host = to.authority().map_or("", |authority| authority.as_str());
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(host).map_err(hyper::http::Error::from)?);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let path = to.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(hyper::http::Error::from)?;
        let mut connection = timeout(CONNECT, self.connect(&to)).await.map_err(|_| Error::TimedOut)??;
        Ok(connection.send_request(request).await?)
    }

    /// A request and its whole answer, of at most `max` bytes, within `limit`.
    pub async fn ask(&self, request: Request<Full<Bytes>>, limit: Duration, max: usize) -> Result<(StatusCode, Bytes), Error> {
        let exchange = async {
            let (head, body) = self.send(request).await?.into_parts();
            let body = Limited::new(body, max).collect().await.map_err(|_| Error::Body)?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(limit, exchange).await.unwrap_or(Err(Error::TimedOut))
    }

    async fn connect<B>(&self, to: &Uri) -> Result<http1::SendRequest<B>, Error>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = to.host().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if !tls {
            return spoken(stream).await;
        }
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let connector = self.0.as_ref().ok_or(io::Error::from(io::ErrorKind::Unsupported))?;
        spoken(connector.connect(name, stream).await?).await
    }
}

/// What is sent on a connection, and what comes, is moved by a task that ends with both.
async fn spoken<B>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<http1::SendRequest<B>, Error>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
    Ok(sender)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
