//! Configuration of the service: flags and environment, parsed into the types they stand for. Secrets come as files.

mod identity;
mod reference;
mod telemetry;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, CommandFactory, ValueEnum};
use sqlx::postgres::PgSslMode;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::depot::{self, Depot};
use crate::grpc::{Authenticator, RemoteLock, TlsFiles};
use crate::model::Catalog;
use crate::model::event::Filter;
use crate::model::schedule::Driver;
use crate::operations::{self, Archive, Limits, Recipients, SealKey, Trust};
use crate::postgres::{Database, Fencing, Login};
use crate::telemetry::Export;
use crate::webhook::Webhook;
use identity::IdentityArguments;
pub use reference::{Setting, in_force, reference};
pub use telemetry::LogFormat;
use telemetry::TelemetryArguments;

/// Arguments of `holdfast serve`; each can be given in the environment instead.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, env = "HOLDFAST_LISTEN", default_value = "127.0.0.1:50051", hide_env_values = true)]
    pub listen: SocketAddr,
    #[command(flatten)]
    tls: TlsArguments,
    /// Folder of the backup files: the mounted volume
    #[arg(long, env = "HOLDFAST_FOLDER", hide_env_values = true)]
    pub folder: PathBuf,
    /// Catalog of the resources, a TOML file; without it, that of the sample platform
    #[arg(long, env = "HOLDFAST_CATALOG", hide_env_values = true)]
    catalog: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArguments,
    #[command(flatten)]
    identity: IdentityArguments,
    /// File with at least 32 random bytes, the key under which the passphrase is stored
    #[arg(long, env = "HOLDFAST_SEAL_KEY_FILE", hide_env_values = true)]
    seal_key_file: PathBuf,
    /// File with the OpenPGP certificates of those whose secret keys, kept off-line, open new backups as well, or alone
    #[arg(long, env = "HOLDFAST_ENCRYPTION__RECIPIENTS_FILE", hide_env_values = true)]
    encryption_recipients_file: Option<PathBuf>,
    /// File with OpenPGP certificates (`holdfast signing export`) of other installations whose files count as this one's own
    #[arg(long, env = "HOLDFAST_TRUSTED_CERTIFICATES_FILE", hide_env_values = true)]
    trusted_certificates_file: Option<PathBuf>,
    /// Address that is told of events: https, or http on this machine
    #[arg(long, env = "HOLDFAST_WEBHOOK_URL", requires = "webhook_secret_file", hide_env_values = true)]
    webhook_url: Option<String>,
    /// File with the key that signs them: `whsec_` and 24 to 64 random bytes in base64
    #[arg(long, env = "HOLDFAST_WEBHOOK_SECRET_FILE", requires = "webhook_url", hide_env_values = true)]
    webhook_secret_file: Option<PathBuf>,
    /// Types of the events it is told of, for example `restore.*,backup.failed`; without it, all
    #[arg(long, env = "HOLDFAST_WEBHOOK_TYPES", requires = "webhook_url", value_delimiter = ',', hide_env_values = true)]
    webhook_types: Vec<String>,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    archive: ArchiveArguments,
    /// Accept passphrases and lease ids over connections without TLS: for development, or where a mesh encrypts
    #[arg(long, env = "HOLDFAST_ALLOW_PLAINTEXT_SECRETS", hide_env_values = true)]
    pub allow_plaintext_secrets: bool,
    /// Listen, use PostgreSQL, tell of events and archive beyond loopback without TLS: only where a mesh encrypts
    #[arg(long, env = "HOLDFAST_ALLOW_PLAINTEXT", hide_env_values = true)]
    allow_plaintext: bool,
    /// Longest time a backup or restore may take
    #[arg(long, env = "HOLDFAST_OPERATION_TIMEOUT", default_value = "2h", hide_env_values = true)]
    pub operation_timeout: humantime::Duration,
    /// Time within which each file is read again from the disk, and checked; at least 10s
    #[arg(long, env = "HOLDFAST_SCRUB_PERIOD", default_value = "24h", hide_env_values = true)]
    scrub_period: humantime::Duration,
    /// The id of a backup volume that is lost for good, and whose place the backup folder takes
    #[arg(long, env = "HOLDFAST_LOST_VOLUME", hide_env_values = true)]
    pub lost_volume: Option<Uuid>,
    /// Who starts scheduled backups
    #[arg(long, env = "HOLDFAST_SCHEDULE__DRIVER", default_value = "internal", hide_env_values = true)]
    schedule_driver: ScheduleDriver,
    #[command(flatten)]
    limits: LimitArguments,
    #[command(flatten)]
    pub telemetry: TelemetryArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleDriver {
    /// The timer of this service, at the times of the schedule
    Internal,
    /// A caller of Backup with TRIGGER_SCHEDULED, for example a CronJob, at its own times
    External,
}

/// TLS of the address to listen on. The files are read again when they change.
#[derive(Debug, Args)]
struct TlsArguments {
    /// Certificate of the service, PEM, and those between it and its authority; without it, there is no TLS
    #[arg(long, env = "HOLDFAST_TLS__CERTIFICATE_FILE", requires = "tls_key_file", hide_env_values = true)]
    tls_certificate_file: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "HOLDFAST_TLS__KEY_FILE", requires = "tls_certificate_file", hide_env_values = true)]
    tls_key_file: Option<PathBuf>,
    /// Certificate authority of clients that prove by a certificate who they are, PEM
    #[arg(long, env = "HOLDFAST_TLS__CLIENT_CA_FILE", requires = "tls_certificate_file", hide_env_values = true)]
    tls_client_ca_file: Option<PathBuf>,
}

/// What callers may take.
#[derive(Debug, Args)]
struct LimitArguments {
    /// Most backups that callers may make on demand within an hour, since each can cost an older one its place; 0: any number
    #[arg(long, env = "HOLDFAST_LIMITS__BACKUPS_PER_HOUR", default_value_t = 6, hide_env_values = true)]
    backups_per_hour: u32,
    /// Largest file that is taken in by UploadBackup, bytes
    #[arg(long, env = "HOLDFAST_LIMITS__MAX_UPLOAD_BYTES", default_value_t = 10 << 30, hide_env_values = true)]
    max_upload_bytes: u64,
    /// How long a download or upload may stand still, or be slower than 10 KB/s, before it is given up; at least 1s
    #[arg(long, env = "HOLDFAST_LIMITS__TRANSFER_PATIENCE", default_value = "2m", hide_env_values = true)]
    transfer_patience: humantime::Duration,
}

/// Who hosts the maintenance lock that excludes software updates.
#[derive(Debug, Args)]
struct LockArguments {
    /// Who hosts the maintenance lock
    #[arg(long, env = "HOLDFAST_LOCK__MODE", default_value = "embedded", hide_env_values = true)]
    lock_mode: LockMode,
    /// Length of the lease of a backup or restore, which is renewed; when this service dies, others wait no longer: 10 s to 60 s
    #[arg(long, env = "HOLDFAST_LOCK__TTL", default_value = "30s", hide_env_values = true)]
    lock_ttl: humantime::Duration,
    /// With `remote`: address of the LockService, https, or http on this machine
    #[arg(long, env = "HOLDFAST_LOCK__ENDPOINT", hide_env_values = true)]
    lock_endpoint: Option<String>,
    /// With `remote`: file with the bearer token that it asks for
    #[arg(long, env = "HOLDFAST_LOCK__TOKEN_FILE", hide_env_values = true)]
    lock_token_file: Option<PathBuf>,
    /// With `remote`: certificate authority of its server, PEM; without it, those of the system
    #[arg(long, env = "HOLDFAST_LOCK__CA_FILE", hide_env_values = true)]
    lock_ca_file: Option<PathBuf>,
}

/// A second place for the backup files.
#[derive(Debug, Args)]
struct ArchiveArguments {
    /// Where files are copied once they are proven: file:///mnt/archive, or s3://bucket/prefix; without it, nowhere
    #[arg(long, env = "HOLDFAST_ARCHIVE__URL", hide_env_values = true)]
    archive_url: Option<String>,
    /// Files that are kept in the archive; 0 keeps all
    #[arg(long, env = "HOLDFAST_ARCHIVE__MAX_COUNT", default_value_t = 0, hide_env_values = true)]
    archive_max_count: u32,
    /// Id of a system that is gone and whose place this one takes: its archive becomes that of this one
    #[arg(long, env = "HOLDFAST_ARCHIVE__ADOPT", hide_env_values = true)]
    archive_adopt: Option<Uuid>,
    /// With `s3`: address of the storage, https, or http on this machine; without it, that of Amazon in the region
    #[arg(long, env = "HOLDFAST_ARCHIVE__ENDPOINT", hide_env_values = true)]
    archive_endpoint: Option<String>,
    /// With `s3`: region of the bucket
    #[arg(long, env = "HOLDFAST_ARCHIVE__REGION", default_value = "us-east-1", hide_env_values = true)]
    archive_region: String,
    /// With `s3`: file with the id of the access key
    #[arg(long, env = "HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE", hide_env_values = true)]
    archive_access_key_id_file: Option<PathBuf>,
    /// With `s3`: file with the access key
    #[arg(long, env = "HOLDFAST_ARCHIVE__SECRET_ACCESS_KEY_FILE", hide_env_values = true)]
    archive_secret_access_key_file: Option<PathBuf>,
    /// With `s3`: certificate authority of the storage, PEM; without it, those of the system
    #[arg(long, env = "HOLDFAST_ARCHIVE__CA_FILE", hide_env_values = true)]
    archive_ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LockMode {
    /// This service hosts LockService on its database
    Embedded,
    /// Another service hosts LockService, and this one is its client
    Remote,
}

/// Where the database is. Each of the three roles logs in with a name and, unless the server trusts it, a password file.
#[derive(Debug, Args)]
struct DatabaseArguments {
    /// Host name, IP address or folder of the socket
    #[arg(long = "database-host", env = "HOLDFAST_DATABASE__HOST", default_value = "localhost", hide_env_values = true)]
    host: String,
    /// Its port
    #[arg(long = "database-port", env = "HOLDFAST_DATABASE__PORT", default_value_t = 5432, hide_env_values = true)]
    port: u16,
    /// Name of the platform's database
    #[arg(long = "database-name", env = "HOLDFAST_DATABASE__NAME", hide_env_values = true)]
    name: String,
    /// `disable` and the like only on loopback
    #[arg(long = "database-sslmode", env = "HOLDFAST_DATABASE__SSLMODE", default_value = "verify-full", hide_env_values = true)]
    sslmode: PgSslMode,
    /// Certificate authority of the server, PEM; without it, those of the system
    #[arg(long = "database-ca-file", env = "HOLDFAST_DATABASE__CA_FILE", hide_env_values = true)]
    ca_file: Option<PathBuf>,
    /// Role that owns the schema `holdfast`
    #[arg(long, env = "HOLDFAST_DATABASE__STATE_USER", default_value = "holdfast_state", hide_env_values = true)]
    state_user: String,
    /// File with its password
    #[arg(long, env = "HOLDFAST_DATABASE__STATE_PASSWORD_FILE", hide_env_values = true)]
    state_password_file: Option<PathBuf>,
    /// Role that reads the tables of the catalog
    #[arg(long, env = "HOLDFAST_DATABASE__BACKUP_USER", default_value = "holdfast_backup", hide_env_values = true)]
    backup_user: String,
    /// File with its password
    #[arg(long, env = "HOLDFAST_DATABASE__BACKUP_PASSWORD_FILE", hide_env_values = true)]
    backup_password_file: Option<PathBuf>,
    /// Role that changes the tables of the catalog
    #[arg(long, env = "HOLDFAST_DATABASE__RESTORE_USER", default_value = "holdfast_restore", hide_env_values = true)]
    restore_user: String,
    /// File with its password
    #[arg(long, env = "HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE", hide_env_values = true)]
    restore_password_file: Option<PathBuf>,
}

impl DatabaseArguments {
    /// Whether nobody can read what is said, or answer instead: it stays on this machine, or the server proves who it is.
    fn is_protected(&self) -> bool {
        let here = self.host.is_empty() || self.host.starts_with('/') || is_loopback(&self.host);
        here || matches!(self.sslmode, PgSslMode::VerifyFull)
    }
}

impl Serve {
    pub fn scrub_period(&self) -> Duration {
        (*self.scrub_period).max(Duration::from_secs(10))
    }

    pub fn driver(&self) -> Driver {
        match self.schedule_driver {
            ScheduleDriver::Internal => Driver::Internal,
            ScheduleDriver::External => Driver::External,
        }
    }

    pub fn limits(&self) -> Limits {
        let patience = (*self.limits.transfer_patience).max(Duration::from_secs(1));
        let backups_per_hour = (self.limits.backups_per_hour > 0).then_some(self.limits.backups_per_hour);
        Limits { backups_per_hour, upload_bytes: self.limits.max_upload_bytes, patience }
    }

    /// Refuses names that mean nothing, which may be misspelt, and addresses that would expose secrets.
    pub fn check(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        collect_names(&crate::cli::Arguments::command(), &mut known);
        #[cfg(debug_assertions)]
        known.insert(crate::fault::SETTING.to_owned());
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let unknown: Vec<_> = names.filter(|name| name.starts_with("HOLDFAST_") && !known.contains(name)).collect();
        ensure!(unknown.is_empty(), "the environment has names that Holdfast does not know: {}", unknown.join(", "));
        if !self.listen.ip().is_loopback() && self.tls().is_none() && !self.allow_plaintext {
            bail!(
                "{} is reachable from other machines, and there is no TLS: set HOLDFAST_TLS__CERTIFICATE_FILE and \
                 HOLDFAST_TLS__KEY_FILE, listen on 127.0.0.1, or set HOLDFAST_ALLOW_PLAINTEXT=true where a mesh encrypts",
                self.listen
            );
        }
        if !self.database.is_protected() && !self.allow_plaintext {
            bail!(
                "the data would go to and from PostgreSQL on {} without proof that it is that server: set \
                 HOLDFAST_DATABASE__SSLMODE=verify-full, and HOLDFAST_DATABASE__CA_FILE if its authority is not one of the system, \
                 or HOLDFAST_ALLOW_PLAINTEXT=true where a mesh encrypts",
                self.database.host
            );
        }
        Ok(())
    }

    /// Where the certificates for callers are, if there is TLS for them.
    pub fn tls(&self) -> Option<TlsFiles> {
        let at = &self.tls;
        let (certificate, key) = at.tls_certificate_file.clone().zip(at.tls_key_file.clone())?;
        Some(TlsFiles { certificate, key, client_ca: at.tls_client_ca_file.clone() })
    }

    pub fn catalog(&self) -> Result<Catalog> {
        let Some(path) = &self.catalog else { return Ok(Catalog::parse(Catalog::SAMPLE)?) };
        let text = fs::read_to_string(path).with_context(|| format!("the catalog {} cannot be read", path.display()))?;
        Catalog::parse(&text).with_context(|| format!("{} is not a catalog", path.display()))
    }

    pub fn database(&self) -> Result<Database> {
        let at = &self.database;
        let login = |user: &str, file: &Option<PathBuf>| -> Result<Login> {
            let password = file.as_deref().map(secret).transpose()?;
            Ok(Login { user: user.to_owned(), password })
        };
        let logins = [
            login(&at.state_user, &at.state_password_file)?,
            login(&at.backup_user, &at.backup_password_file)?,
            login(&at.restore_user, &at.restore_password_file)?,
        ];
        let fencing = match self.lock.lock_mode {
            LockMode::Embedded => Fencing::Hosted,
            LockMode::Remote => Fencing::Foreign,
        };
        Ok(Database::new(at.host.clone(), at.port, at.name.clone(), at.sslmode, at.ca_file.as_deref(), logins).fenced(fencing))
    }

    /// The lock of another service, if it hosts it. To be called in the runtime that it is to live in.
    pub fn remote_lock(&self) -> Result<Option<RemoteLock>> {
        let at = &self.lock;
        if at.lock_mode == LockMode::Embedded {
            ensure!(
                at.lock_endpoint.is_none() && at.lock_token_file.is_none() && at.lock_ca_file.is_none(),
                "an address, token or certificate of a lock service is given, but this service hosts the lock itself; set \
                 HOLDFAST_LOCK__MODE=remote, or leave them out"
            );
            return Ok(None);
        }
        let (Some(endpoint), Some(token)) = (&at.lock_endpoint, &at.lock_token_file) else {
            bail!("HOLDFAST_LOCK__MODE=remote needs HOLDFAST_LOCK__ENDPOINT and HOLDFAST_LOCK__TOKEN_FILE")
        };
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("the certificate {} cannot be read", path.display()));
        let ca = at.lock_ca_file.as_ref().map(read).transpose()?;
        let remote = RemoteLock::new(endpoint, secret(token)?.trim(), ca.as_deref())?;
        if remote.exposed() && !self.allow_plaintext_secrets {
            bail!(
                "the lock would be asked for, with a token, over a connection without TLS: use https, or set \
                 HOLDFAST_ALLOW_PLAINTEXT_SECRETS=true where a mesh encrypts"
            );
        }
        Ok(Some(remote))
    }

    pub fn lock_ttl(&self) -> Result<Duration> {
        let ttl = *self.lock.lock_ttl;
        ensure!((10..=60).contains(&ttl.as_secs()) && ttl.subsec_nanos() == 0, "HOLDFAST_LOCK__TTL is between 10s and 60s");
        Ok(ttl)
    }

    /// What goes to a collector of traces and metrics, if anything.
    pub fn export(&self) -> Result<Option<Export>> {
        telemetry::export(self.allow_plaintext)
    }

    /// How callers prove who they are.
    pub fn authenticator(&self) -> Result<Authenticator> {
        self.identity.authenticator(self.tls.tls_client_ca_file.is_some())
    }

    /// Who is told of events, if anybody.
    pub fn webhook(&self) -> Result<Option<Webhook>> {
        let (Some(address), Some(file)) = (&self.webhook_url, &self.webhook_secret_file) else { return Ok(None) };
        let webhook =
            Webhook::new(address, &secret(file)?, Filter::parse(&self.webhook_types)?).context("no such webhook can be")?;
        if webhook.exposed() && !self.allow_plaintext {
            bail!(
                "events would go to another machine without TLS: use https, or set HOLDFAST_ALLOW_PLAINTEXT=true where a mesh encrypts"
            );
        }
        Ok(Some(webhook))
    }

    /// Where the files go besides the backup folder, if anywhere.
    pub fn archive(&self) -> Result<Option<Archive>> {
        let at = &self.archive;
        let with_s3 = [&at.archive_access_key_id_file, &at.archive_secret_access_key_file, &at.archive_ca_file];
        let with_s3 = at.archive_endpoint.is_some() || with_s3.iter().any(|file| file.is_some());
        let Some(url) = &at.archive_url else {
            ensure!(
                !with_s3 && at.archive_max_count == 0 && at.archive_adopt.is_none(),
                "settings of an archive are given, but not where it is; set HOLDFAST_ARCHIVE__URL, or leave them out"
            );
            return Ok(None);
        };
        let depot = match url.split_once("://") {
            Some(("file", path)) => {
                ensure!(!with_s3, "the archive is a folder: it needs no endpoint, no keys and no certificate; leave them out");
                let path = PathBuf::from(path);
                ensure!(!same_folder(&path, &self.folder), "the archive cannot be in the backup folder: it is to outlive it");
                Depot::folder(path)
            }
            Some(("s3", place)) => self.bucket(place)?,
            _ => bail!("HOLDFAST_ARCHIVE__URL is not such as file:///mnt/archive or s3://bucket/prefix"),
        };
        let depot = depot.context("no such archive can be")?;
        Ok(Some(Archive { depot, max_count: at.archive_max_count, adopt: at.archive_adopt }))
    }

    fn bucket(&self, place: &str) -> Result<Result<Depot, depot::Invalid>> {
        let at = &self.archive;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        ensure!(!bucket.is_empty(), "HOLDFAST_ARCHIVE__URL names no bucket; it is such as s3://bucket/prefix");
        ensure!(!place.contains(['@', '?', '#']), "HOLDFAST_ARCHIVE__URL has a bucket and a prefix in it, and nothing else");
        let (Some(key_id), Some(key)) = (&at.archive_access_key_id_file, &at.archive_secret_access_key_file) else {
            bail!(
                "an archive in a bucket needs HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE and HOLDFAST_ARCHIVE__SECRET_ACCESS_KEY_FILE"
            )
        };
        if let Some(endpoint) = &at.archive_endpoint {
            let exposed = exposed(endpoint).context("HOLDFAST_ARCHIVE__ENDPOINT is not such as https://s3.example.com")?;
            ensure!(
                !exposed || self.allow_plaintext,
                "backups would go to another machine without TLS: use https, or set HOLDFAST_ALLOW_PLAINTEXT=true where a mesh encrypts"
            );
        }
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("the certificate {} cannot be read", path.display()));
        let access = depot::Access {
            endpoint: at.archive_endpoint.clone(),
            region: at.archive_region.clone(),
            key_id: secret(key_id)?,
            key: secret(key)?,
            authority: at.archive_ca_file.as_ref().map(read).transpose()?,
        };
        Ok(Depot::bucket(bucket, prefix, &access))
    }

    /// Who opens new backups with a secret key of their own; nobody, unless it is configured.
    pub fn recipients(&self) -> Result<Recipients> {
        let Some(path) = &self.encryption_recipients_file else { return Ok(Recipients::default()) };
        let bytes = fs::read(path).with_context(|| format!("the certificates {} cannot be read", path.display()))?;
        operations::recipients(&bytes).with_context(|| format!("backups cannot be encrypted to {}", path.display()))
    }

    /// Whose files count as this installation's own, besides its own.
    pub fn trusted(&self) -> Result<Trust> {
        let Some(path) = &self.trusted_certificates_file else { return Ok(Trust::default()) };
        let bytes = fs::read(path).with_context(|| format!("the certificates {} cannot be read", path.display()))?;
        Trust::parse(&bytes).with_context(|| format!("{} cannot vouch for files", path.display()))
    }

    pub fn seal_key(&self) -> Result<SealKey> {
        let path = &self.seal_key_file;
        let content = Zeroizing::new(fs::read(path).with_context(|| format!("the seal key {} cannot be read", path.display()))?);
        SealKey::new(&content).with_context(|| format!("{} has fewer than {} bytes", path.display(), SealKey::MIN_BYTES))
    }
}

/// Whether one is the other, or in it.
fn same_folder(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(path).starts_with(real(folder))
}

/// Whether others could read what is sent to this address: no TLS, and not to this machine. `None`: it is no address.
fn exposed(address: &str) -> Option<bool> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.trim_end_matches('/');
    if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
        return None;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    let here = is_loopback(host);
    match scheme {
        "https" => Some(false),
        "http" => Some(!here),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// The text of a secret file, line ends around it left out.
fn secret(path: &Path) -> Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("the secret {} cannot be read", path.display()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn collect_names(command: &clap::Command, names: &mut BTreeSet<String>) {
    names.extend(command.get_arguments().filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned)));
    command.get_subcommands().for_each(|command| collect_names(command, names));
}
