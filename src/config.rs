//! Configuration of the service: flags and environment, parsed into the types they stand for. Secrets come as files.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, CommandFactory, ValueEnum};
use sqlx::postgres::PgSslMode;
use zeroize::Zeroizing;

use crate::grpc::{Authenticator, Permission, Permissions, RemoteLock};
use crate::model::Catalog;
use crate::model::event::Filter;
use crate::operations::{self, Recipients, SealKey};
use crate::postgres::{Database, Fencing, Login};
use crate::webhook::Webhook;

/// Arguments of `holdfast serve`; each can be given in the environment instead.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, env = "HOLDFAST_LISTEN", default_value = "127.0.0.1:50051", hide_env_values = true)]
    pub listen: SocketAddr,
    /// Folder of the backup files: the mounted volume
    #[arg(long, env = "HOLDFAST_FOLDER", hide_env_values = true)]
    pub folder: PathBuf,
    /// Catalog of the resources, a TOML file; without it, that of the sample platform
    #[arg(long, env = "HOLDFAST_CATALOG", hide_env_values = true)]
    catalog: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArguments,
    /// File with the bearer token that callers send
    #[arg(long, env = "HOLDFAST_TOKEN_FILE", hide_env_values = true)]
    server_token_file: PathBuf,
    /// Whose token it is, as operations and the audit log name the caller; `user:NAME` for a login account
    #[arg(long, env = "HOLDFAST_TOKEN_SUBJECT", default_value = "token:static", hide_env_values = true)]
    server_token_subject: String,
    /// File with at least 32 random bytes, the key under which the passphrase is stored
    #[arg(long, env = "HOLDFAST_SEAL_KEY_FILE", hide_env_values = true)]
    seal_key_file: PathBuf,
    /// File with the OpenPGP certificates of those whose secret keys, kept off-line, open new backups as well, or alone
    #[arg(long, env = "HOLDFAST_ENCRYPTION__RECIPIENTS_FILE", hide_env_values = true)]
    encryption_recipients_file: Option<PathBuf>,
    /// Address that is told of events: https, or http on this machine
    #[arg(long, env = "HOLDFAST_WEBHOOK_URL", requires = "webhook_secret_file", hide_env_values = true)]
    webhook_url: Option<String>,
    /// File with the key that signs them: `whsec_` and 24 to 64 random bytes in base64
    #[arg(long, env = "HOLDFAST_WEBHOOK_SECRET_FILE", requires = "webhook_url", hide_env_values = true)]
    webhook_secret_file: Option<PathBuf>,
    /// Types of the events it is told of, for example `restore.*,backup.failed`; without it, all
    #[arg(long, env = "HOLDFAST_WEBHOOK_TYPES", requires = "webhook_url", value_delimiter = ',', hide_env_values = true)]
    webhook_types: Vec<String>,
    /// File with the bearer token of the update-service, which may take and read the maintenance lock and read operations
    #[arg(long, env = "HOLDFAST_UPDATE_TOKEN_FILE", hide_env_values = true)]
    update_token_file: Option<PathBuf>,
    #[command(flatten)]
    lock: LockArguments,
    /// Accept passphrases and lease ids over connections without TLS: for development, or where a mesh encrypts
    #[arg(long, env = "HOLDFAST_ALLOW_PLAINTEXT_SECRETS", hide_env_values = true)]
    pub allow_plaintext_secrets: bool,
    /// Listen, and tell of events, beyond loopback without TLS: only where a mesh encrypts
    #[arg(long, env = "HOLDFAST_ALLOW_PLAINTEXT", hide_env_values = true)]
    allow_plaintext: bool,
    /// Longest time a backup or restore may take
    #[arg(long, env = "HOLDFAST_OPERATION_TIMEOUT", default_value = "2h", hide_env_values = true)]
    pub operation_timeout: humantime::Duration,
    /// Time within which each file is read again from the disk, and checked; at least 10s
    #[arg(long, env = "HOLDFAST_SCRUB_PERIOD", default_value = "24h", hide_env_values = true)]
    scrub_period: humantime::Duration,
    /// What to log, for example `info` or `holdfast=debug`
    #[arg(long, env = "HOLDFAST_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
    #[arg(long, env = "HOLDFAST_LOG_FORMAT", default_value = "json", hide_env_values = true)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

/// Who hosts the maintenance lock that excludes software updates.
#[derive(Debug, Args)]
struct LockArguments {
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
    #[arg(long = "database-port", env = "HOLDFAST_DATABASE__PORT", default_value_t = 5432, hide_env_values = true)]
    port: u16,
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
    #[arg(long, env = "HOLDFAST_DATABASE__STATE_PASSWORD_FILE", hide_env_values = true)]
    state_password_file: Option<PathBuf>,
    /// Role that reads the tables of the catalog
    #[arg(long, env = "HOLDFAST_DATABASE__BACKUP_USER", default_value = "holdfast_backup", hide_env_values = true)]
    backup_user: String,
    #[arg(long, env = "HOLDFAST_DATABASE__BACKUP_PASSWORD_FILE", hide_env_values = true)]
    backup_password_file: Option<PathBuf>,
    /// Role that changes the tables of the catalog
    #[arg(long, env = "HOLDFAST_DATABASE__RESTORE_USER", default_value = "holdfast_restore", hide_env_values = true)]
    restore_user: String,
    #[arg(long, env = "HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE", hide_env_values = true)]
    restore_password_file: Option<PathBuf>,
}

impl Serve {
    pub fn scrub_period(&self) -> Duration {
        (*self.scrub_period).max(Duration::from_secs(10))
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
        if !self.listen.ip().is_loopback() && !self.allow_plaintext {
            bail!(
                "{} is reachable from other machines, and there is no TLS: listen on 127.0.0.1, or set HOLDFAST_ALLOW_PLAINTEXT=true \
                 where a mesh encrypts",
                self.listen
            );
        }
        Ok(())
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

    pub fn authenticator(&self) -> Result<Authenticator> {
        let token = secret(&self.server_token_file)?;
        ensure!(
            !self.server_token_subject.starts_with("system:"),
            "HOLDFAST_TOKEN_SUBJECT is the name of a caller, for example user:alice; those that begin with system: are Holdfast's own"
        );
        let authenticator = Authenticator::static_token(&token, &self.server_token_subject)
            .with_context(|| format!("{} has no token in it", self.server_token_file.display()))?;
        let Some(path) = &self.update_token_file else { return Ok(authenticator) };
        let other = secret(path)?;
        ensure!(other.trim() != token.trim(), "{} has the token of another caller in it", path.display());
        let permissions = vec![Permission::LocksAcquire, Permission::LocksRead, Permission::OperationsRead];
        let authenticator = authenticator.and_token(&other, "token:update-service", Permissions::Only(permissions));
        authenticator.with_context(|| format!("{} has no token in it", path.display()))
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

    /// Who opens new backups with a secret key of their own; nobody, unless it is configured.
    pub fn recipients(&self) -> Result<Recipients> {
        let Some(path) = &self.encryption_recipients_file else { return Ok(Recipients::default()) };
        let bytes = fs::read(path).with_context(|| format!("the certificates {} cannot be read", path.display()))?;
        operations::recipients(&bytes).with_context(|| format!("backups cannot be encrypted to {}", path.display()))
    }

    pub fn seal_key(&self) -> Result<SealKey> {
        let path = &self.seal_key_file;
        let content = Zeroizing::new(fs::read(path).with_context(|| format!("the seal key {} cannot be read", path.display()))?);
        SealKey::new(&content).with_context(|| format!("{} has fewer than {} bytes", path.display(), SealKey::MIN_BYTES))
    }
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
