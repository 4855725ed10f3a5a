//! A server that has a certificate which nobody has signed but itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub struct Certified {
    pub acceptor: TlsAcceptor,
    /// File with the certificate, of `localhost`.
    pub certificate: PathBuf,
}

impl Certified {
    /// Leaves key and certificate in `dir`. `speaks` is what it offers to speak, if it says so.
    pub fn new(dir: &Path, speaks: &[&str]) -> Self {
        let [key, certificate] = ["key", "certificate"].map(|name| dir.join(name));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        make.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        make.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
        let made = make.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let chain = vec![CertificateDer::from_pem_file(&certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = speaks.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate }
    }
}

/// A certificate authority.
pub struct Authority {
    dir: PathBuf,
    pub certificate: PathBuf,
}

impl Authority {
    /// Leaves everything that it makes in `dir`, which is made.
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (certificate, _) = made(dir, "authority", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        Self { dir: dir.to_owned(), certificate }
    }

    /// The files of a certificate and its key, for whoever has these other names: `DNS:localhost`, `URI:spiffe://...`.
    pub fn certify(&self, name: &str, other_names: &str) -> (PathBuf, PathBuf) {
        let (own, key) = (self.certificate.display().to_string(), self.dir.join("authority.key").display().to_string());
        let other_names = format!("subjectAltName={other_names}");
        made(&self.dir, name, &["-CA", &own, "-CAkey", &key, "-addext", &other_names, "-addext", "basicConstraints=CA:FALSE"])
    }
}

fn made(dir: &Path, name: &str, options: &[&str]) -> (PathBuf, PathBuf) {
    let [certificate, key] = ["pem", "key"].map(|kind| dir.join(format!("{name}.{kind}")));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    make.args(["-subj", &format!("/CN={name}")]).args(options).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}
