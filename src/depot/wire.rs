//! The way to an object storage: HTTP over TLS, one connection for a request. No redirect is followed, no proxy is used.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Uri, body::Incoming};
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// For a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Why no connection can be made with these settings.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the file of the certificate authority has no certificate in it, in PEM")]
    Authority,
    #[error("this system has no certificate authorities")]
    NoAuthorities,
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
}

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub struct Wire(TlsConnector);

impl Wire {
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
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    async fn connect(&self, to: &Uri) -> io::Result<http1::SendRequest<HttpRequestBody>> {
        let host = to.host().ok_or(io::ErrorKind::InvalidInput)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if !tls {
            return spoken(stream).await;
        }
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        spoken(self.0.connect(name, stream).await?).await
    }

    async fn exchange(&self, mut request: HttpRequest) -> Result<hyper::Response<Incoming>, HttpError> {
        let to = request.uri().clone();
        let connected = timeout(CONNECT, self.connect(&to)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut connection = connected.map_err(|error| HttpError::new(HttpErrorKind::Connect, error))?;
        let wrong = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let host = to.authority().map_or("", |authority| authority.as_str());
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(host).map_err(wrong)?);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let path = to.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        connection.send_request(request).await.map_err(|error| HttpError::new(HttpErrorKind::Request, error))
    }
}

/// What is sent on a connection, and what comes, is moved by a task that ends with both.
async fn spoken(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<http1::SendRequest<HttpRequestBody>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the archive broke");
        }
    });
    Ok(sender)
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let body =
            |body: Incoming| HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)));
        Ok(self.exchange(request).await?.map(body))
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}
