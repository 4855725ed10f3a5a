//! TLS of the server: 1.2 and newer, HTTP/2 and nothing else, and certificates that are read again when their files change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

/// How often the files are looked at. Whoever renews certificates does so days before they expire.
const PERIOD: Duration = Duration::from_secs(10);

/// Where the certificate is, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authority of the certificates by which clients may prove who they are.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS with these files.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("{} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{} has no certificate in it, in PEM", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} has no private key in it, in PEM and without a passphrase", .0.display())]
    NoKey(PathBuf),
    #[error("the certificate and the key cannot be used, or do not belong together")]
    Pair(#[source] rustls::Error),
    #[error("the authority of the clients cannot be used")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

/// The server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    seen: tokio::sync::Mutex<Content>,
    now: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    /// # Errors
    /// When the files cannot be read, or are not what they should be.
    pub async fn open(files: TlsFiles) -> Result<Arc<Self>, Invalid> {
        let seen = read(&files).await?;
        let now = Mutex::new(Arc::new(config(&files, &seen)?));
        Ok(Arc::new(Self { files, seen: tokio::sync::Mutex::new(seen), now }))
    }

    /// Takes what is new in the files, for connections from then on. What cannot be used leaves everything as it is.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let mut seen = self.seen.lock().await;
        let found = match read(&self.files).await {
            Ok(found) => found,
            Err(error) => return unchanged(&error),
        };
        if found == *seen {
            return;
        }
        match config(&self.files, &found) {
            Ok(config) => {
                *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("new certificates are in use");
            }
            // Half of a new pair, perhaps: the other half is another change.
            Err(error) => unchanged(&error),
        }
        *seen = found;
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio_rustls::TlsAcceptor::from(config).accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

fn unchanged(error: &Invalid) {
    tracing::warn!(error = error as &dyn std::error::Error, "new certificates cannot be used; those before stay in use");
}

async fn read(files: &TlsFiles) -> Result<Content, Invalid> {
    let read = async |path: &Path| tokio::fs::read(path).await.map_err(|error| Invalid::Unreadable(path.to_owned(), error));
    let certificate = read(&files.certificate).await?;
    let key = Zeroizing::new(read(&files.key).await?);
    let client_ca = match &files.client_ca {
        None => None,
        Some(path) => Some(read(path).await?),
    };
    Ok(Content { certificate, key, client_ca })
}

fn config(files: &TlsFiles, content: &Content) -> Result<ServerConfig, Invalid> {
    let chain = certificates(&files.certificate, &content.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(|_| Invalid::NoKey(files.key.clone()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions().map_err(Invalid::Pair)?;
    let config = match files.client_ca.as_deref().zip(content.client_ca.as_deref()) {
        None => config.with_no_client_auth(),
        Some((path, pem)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, pem)? {
                roots.add(certificate).map_err(|error| Invalid::Authority(error.into()))?;
            }
            // Optional: probes have none, and others have a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
            config.with_client_cert_verifier(verifier.build().map_err(|error| Invalid::Authority(error.into()))?)
        }
    };
    let mut config = config.with_single_cert(chain, key).map_err(Invalid::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| Invalid::NoCertificate(path.to_owned()))
}

/// What a client has shown of itself, by a certificate of the authority of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    None,
    /// It names nobody, or more than one.
    Unnamed,
    /// Of whoever has this SPIFFE ID (`spiffe://domain/path`).
    Of(String),
}

impl Certificate {
    /// The name is the one URI of the certificate (X.509-SVID, 2): others than SPIFFE IDs could be taken for other subjects.
    pub(super) fn of(connection: &ServerConnection) -> Self {
        let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else { return Self::None };
        let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Self::Unnamed };
        let mut names = certificate.valid_uri_names();
        match (names.next(), names.next()) {
            (Some(name), None) if is_spiffe_id(name) => Self::Of(name.to_owned()),
            _ => Self::Unnamed,
        }
    }
}

/// SPIFFE-ID, 2: at most 2,048 bytes; a lower-case domain, and a path of letters, digits, dots, dashes and underscores.
pub(super) fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 2048
        && !domain.is_empty()
        && domain.chars().all(|c| plain(c) && !c.is_ascii_uppercase())
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spiffe_ids_are_names() {
        for name in ["spiffe://example.org/ns/platform/sa/update-service", "spiffe://a/b", "spiffe://a.b_c/D-1/x.y"] {
            assert!(is_spiffe_id(name), "{name}");
        }
        for name in [
            "token:static",
            "user:alice",
            "https://example.org/x",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///b",
            "spiffe://A/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/b,c=d",
            "spiffe://a/b\n",
            "spiffe://user@a/b",
            "spiffe://a:8/b",
        ] {
            assert!(!is_spiffe_id(name), "{name}");
        }
    }
}
