//! The way to the service: address, token, time limits, and what is sent again.
//!
//! Only UNAVAILABLE is sent again, and only what does no harm when it arrives twice: reads, previews, and calls with a request
//! id. What begins work waits, for a while, for a service that says it has too much to do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use super::output::{clean, note};
use super::problem::Problem;
use crate::grpc::proto::backup::audit_service_client::AuditServiceClient;
use crate::grpc::proto::backup::backup_service_client::BackupServiceClient;
use crate::grpc::proto::backup::operation_service_client::OperationServiceClient;
use crate::grpc::proto::lock::lock_service_client::LockServiceClient;

const TOKEN: &str = "HOLDFAST_TOKEN";
/// How long a call may take. A restore reads the whole file before it is accepted; streams have no limit.
const DEADLINE: Duration = Duration::from_secs(120);
const ATTEMPTS: u32 = 4;
/// How long a service that has too much to do is asked again.
const BUSY: Duration = Duration::from_secs(120);

/// Where the service is, and who asks.
#[derive(Debug, clap::Args)]
pub struct Connection {
    /// Address of the service, http or https
    #[arg(long, global = true, env = "HOLDFAST_ENDPOINT", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    endpoint: String,
    /// File with the token of the caller; without it HOLDFAST_TOKEN is used
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// With https: certificate authority of the service, PEM; without it, those of the system
    #[arg(long, global = true, env = "HOLDFAST_CA_FILE", value_name = "FILE", hide_env_values = true)]
    ca_file: Option<PathBuf>,
    /// With https: certificate by which the caller proves who it is, PEM
    #[arg(long, global = true, env = "HOLDFAST_CERTIFICATE_FILE", value_name = "FILE", hide_env_values = true)]
    certificate_file: Option<PathBuf>,
    /// With https: the private key of that certificate, PEM
    #[arg(long, global = true, env = "HOLDFAST_KEY_FILE", value_name = "FILE", hide_env_values = true)]
    key_file: Option<PathBuf>,
}

impl Connection {
    /// What the service has to prove by its certificate, and what is shown to it.
    fn tls(&self) -> Result<ClientTlsConfig, Problem> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let tls = match &self.ca_file {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&self.certificate_file, &self.key_file) {
            (None, None) => Ok(tls),
            (Some(certificate), Some(key)) => {
                let key = zeroize::Zeroizing::new(read(key)?);
                Ok(tls.identity(Identity::from_pem(read(certificate)?, &*key)))
            }
            _ => Err(Problem::usage("a certificate needs its key, and a key its certificate: give both files")),
        }
    }

    fn has_tls(&self) -> bool {
        [&self.ca_file, &self.certificate_file, &self.key_file].iter().any(|file| file.is_some())
    }
}

/// The service as seen from here. Nothing is sent before the first call.
pub struct Client {
    endpoint: String,
    channel: Channel,
    bearer: Bearer,
}

type Authorised = InterceptedService<Channel, Bearer>;

impl Client {
    /// # Errors
    /// When the address or the token cannot be used.
    pub fn new(connection: &Connection) -> Result<Self, Problem> {
        let (endpoint, secure) = match connection.endpoint.split_once("://") {
            Some((scheme @ ("http" | "https"), _)) => (connection.endpoint.clone(), scheme == "https"),
            Some((scheme, _)) => {
                return Err(Problem::Usage(format!("the endpoint cannot begin with {scheme}://; it is http:// or https://")));
            }
            None if connection.has_tls() => (format!("https://{}", connection.endpoint), true),
            None => (format!("http://{}", connection.endpoint), false),
        };
        let mut channel = Endpoint::from_shared(endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| Problem::Usage(format!("{endpoint} is not an address such as http://127.0.0.1:50051")))?;
        if secure {
            let unusable = |_| Problem::usage("the files for TLS cannot be used; they are PEM, and the key has no passphrase");
            channel = channel.tls_config(connection.tls()?).map_err(unusable)?;
        }
        let channel = channel
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(20))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_lazy();
        Ok(Self { endpoint, channel, bearer: Bearer::of(connection)? })
    }

    pub fn backups(&self) -> BackupServiceClient<Authorised> {
        BackupServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    pub fn operations(&self) -> OperationServiceClient<Authorised> {
        OperationServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    pub fn events(&self) -> AuditServiceClient<Authorised> {
        AuditServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    pub fn locks(&self) -> LockServiceClient<Authorised> {
        LockServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// A call that changes something: it is made once.
    pub async fn once<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        self.within(DEADLINE, call).await
    }

    /// The same, of a call that may take long.
    pub async fn within<T>(&self, limit: Duration, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        let answer = timeout(limit, call()).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("{} did not answer", self.endpoint))));
        answer.map(Response::into_inner).map_err(|status| self.explained(status).into())
    }

    /// A call that may arrive twice: it is made again while the service is not available.
    pub async fn repeat<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        self.repeat_within(DEADLINE, call).await
    }

    async fn repeat_within<T>(&self, limit: Duration, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        let mut attempt = 0;
        loop {
            match self.within(limit, &call).await {
                Err(Problem::Call(status)) if status.code() == Code::Unavailable && attempt + 1 < ATTEMPTS => {
                    // Not for a hiccup.
                    if attempt == 1 {
                        note(&format!("trying again: {}", clean(status.message())));
                    }
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    /// A call that begins work: made again as any other, and when the service has too much to do, as soon as it says.
    ///
    /// # Errors
    /// On Ctrl-C as well. What was asked for may have begun all the same.
    pub async fn begin<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        tokio::select! {
            answer = self.patiently(DEADLINE, call) => answer,
            _ = tokio::signal::ctrl_c() => {
                let text = "Interrupted before the service answered. It may be at work all the same.\n  look: holdfast operations";
                Err(Problem::Interrupted(text.into()))
            }
        }
    }

    /// The same, without an eye on Ctrl-C.
    pub async fn patiently<T>(&self, limit: Duration, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Problem> {
        let (end, mut told) = (Instant::now() + BUSY, false);
        loop {
            let problem = match self.repeat_within(limit, &call).await {
                Err(problem) => problem,
                answer => return answer,
            };
            match problem.busy_for() {
                Some(delay) if Instant::now() + delay < end => {
                    if !told {
                        note(&format!("waiting: {}", clean(&problem.to_string())));
                        told = true;
                    }
                    sleep(delay.max(pause(0))).await;
                }
                _ => return Err(problem),
            }
        }
    }

    /// A connection that did not come about, or broke off, says where it went.
    pub fn explained(&self, status: Status) -> Status {
        if broke_off(&status) {
            let text = "broke the connection off before it answered; what was asked for may be under way: holdfast operations";
            return Status::unavailable(format!("{} {text}", self.endpoint));
        }
        if status.code() == Code::Unavailable && status.details().is_empty() {
            // The last of the causes says most: that the certificate is not trusted, for example.
            let first = std::error::Error::source(&status);
            let last = std::iter::successors(first, |error| error.source()).last();
            let cause = last.map_or_else(|| status.message().to_owned(), ToString::to_string);
            return Status::unavailable(format!("{} does not answer ({cause})", self.endpoint));
        }
        status
    }
}

/// Whether the way to the service is what failed. What a service says has details, or a code of its own.
pub fn broke_off(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled) && status.details().is_empty()
}

/// A request that is answered at once or not at all.
pub fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// How long to wait after this many attempts: 0.2 s, 1 s, 5 s.
pub fn pause(attempt: u32) -> Duration {
    Duration::from_millis(200 * 5u64.pow(attempt.min(2)))
}

/// The token of the caller. It is sent with every call and shown nowhere.
#[derive(Clone)]
pub struct Bearer {
    value: Option<AsciiMetadataValue>,
    /// Read again for each call: tokens of Kubernetes are replaced within the hour, and a command may follow a backup for longer.
    file: Option<PathBuf>,
}

impl Bearer {
    fn of(connection: &Connection) -> Result<Self, Problem> {
        let file = connection.token_file.clone();
        let token = match &file {
            Some(path) => {
                Some(std::fs::read_to_string(path).with_context(|| format!("cannot read the token file {}", path.display()))?)
            }
            None => std::env::var(TOKEN).ok(),
        };
        Ok(Self { value: bearer(token.as_deref().unwrap_or_default())?, file })
    }
}

/// `None` for a blank token.
fn bearer(token: &str) -> Result<Option<AsciiMetadataValue>, Problem> {
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    let mut value = AsciiMetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Problem::usage("the token has characters that a token cannot have"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // A file that is being replaced leaves the token before it.
        let token = self.file.as_ref().and_then(|path| bearer(&std::fs::read_to_string(path).ok()?).ok().flatten());
        self.value = token.or(self.value.take());
        if let Some(token) = &self.value {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_to_five_seconds_and_no_further() {
        assert_eq!([0, 1, 2, 3, 50].map(|attempt| pause(attempt).as_millis()), [200, 1000, 5000, 5000, 5000]);
    }

    #[tokio::test]
    async fn an_address_without_a_scheme_is_accepted_and_another_scheme_is_not() {
        let connection = |endpoint: &str, key: Option<&str>| Connection {
            endpoint: endpoint.into(),
            token_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: key.map(PathBuf::from),
        };
        let client = |endpoint: &str| Client::new(&connection(endpoint, None));
        assert_eq!(client("host:1").unwrap_or_else(|_| panic!()).endpoint, "http://host:1");
        assert!(client("https://host:1").is_ok());
        // A key without its certificate; and whoever has one does not mean to show it without TLS.
        assert!(matches!(Client::new(&connection("host:1", Some("key"))), Err(Problem::Usage(_))));
        assert!(client("http://[::1]:1").is_ok());
        assert!(matches!(client("ftp://host"), Err(Problem::Usage(_))));
        assert!(matches!(client("not an address"), Err(Problem::Usage(_))));
    }
}
