//! Who may call what. Deny by default: a method that is not in the table below cannot be called.
//!
//! Permission is checked before anything is looked up, so that nobody learns from a refusal what exists.

use std::fmt;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use tonic::codegen::http::{self, Extensions, HeaderMap, header};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};

use crate::model::event::{Actor, Caller};
use crate::model::{Failure, Reason};

/// Characters of the `user-agent` that the audit log keeps.
const MAX_USER_AGENT: usize = 128;

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    BackupsRead,
    BackupsCreate,
    BackupsVerify,
    BackupsDownload,
    BackupsUpload,
    BackupsRestore,
    BackupsDelete,
    OperationsRead,
    OperationsCancel,
    SettingsRead,
    SettingsUpdate,
    SettingsEncrypt,
    AuditRead,
    LocksRead,
    LocksAcquire,
    LocksBreak,
}

impl Permission {
    /// As the contract names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BackupsRead => "backups.read",
            Self::BackupsCreate => "backups.create",
            Self::BackupsVerify => "backups.verify",
            Self::BackupsDownload => "backups.download",
            Self::BackupsUpload => "backups.upload",
            Self::BackupsRestore => "backups.restore",
            Self::BackupsDelete => "backups.delete",
            Self::OperationsRead => "operations.read",
            Self::OperationsCancel => "operations.cancel",
            Self::SettingsRead => "settings.read",
            Self::SettingsUpdate => "settings.update",
            Self::SettingsEncrypt => "settings.encrypt",
            Self::AuditRead => "audit.read",
            Self::LocksRead => "locks.read",
            Self::LocksAcquire => "locks.acquire",
            Self::LocksBreak => "locks.break",
        }
    }
}

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// For probes, which have no credentials.
    Nothing,
    /// Any caller that is known.
    Identity,
    Permission(Permission),
}

/// Every method of every service that is served.
const METHODS: &[(&str, Need)] = &[
    ("/holdfast.backup.v1.BackupService/Backup", Need::Permission(Permission::BackupsCreate)),
    ("/holdfast.backup.v1.BackupService/Restore", Need::Permission(Permission::BackupsRestore)),
    ("/holdfast.backup.v1.BackupService/ListBackups", Need::Permission(Permission::BackupsRead)),
    ("/holdfast.backup.v1.BackupService/SetSchedule", Need::Permission(Permission::SettingsUpdate)),
    ("/holdfast.backup.v1.BackupService/GetBackup", Need::Permission(Permission::BackupsRead)),
    ("/holdfast.backup.v1.BackupService/DeleteBackup", Need::Permission(Permission::BackupsDelete)),
    ("/holdfast.backup.v1.BackupService/VerifyBackup", Need::Permission(Permission::BackupsVerify)),
    ("/holdfast.backup.v1.BackupService/CheckPassphrase", Need::Permission(Permission::BackupsVerify)),
    ("/holdfast.backup.v1.BackupService/PreviewRestore", Need::Permission(Permission::BackupsRestore)),
    ("/holdfast.backup.v1.BackupService/UpdateBackup", Need::Permission(Permission::BackupsCreate)),
    ("/holdfast.backup.v1.BackupService/DownloadBackup", Need::Permission(Permission::BackupsDownload)),
    ("/holdfast.backup.v1.BackupService/UploadBackup", Need::Permission(Permission::BackupsUpload)),
    ("/holdfast.backup.v1.BackupService/SyncBackups", Need::Permission(Permission::BackupsUpload)),
    ("/holdfast.backup.v1.BackupService/ListResources", Need::Permission(Permission::BackupsRead)),
    ("/holdfast.backup.v1.BackupService/GetSchedule", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/GetRetention", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/SetRetention", Need::Permission(Permission::SettingsUpdate)),
    ("/holdfast.backup.v1.BackupService/GetEncryption", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/SetEncryption", Need::Permission(Permission::SettingsEncrypt)),
    ("/holdfast.backup.v1.BackupService/GetSystemStatus", Need::Permission(Permission::BackupsRead)),
    ("/holdfast.backup.v1.OperationService/GetOperation", Need::Permission(Permission::OperationsRead)),
    ("/holdfast.backup.v1.OperationService/ListOperations", Need::Permission(Permission::OperationsRead)),
    ("/holdfast.backup.v1.OperationService/WaitOperation", Need::Permission(Permission::OperationsRead)),
    ("/holdfast.backup.v1.OperationService/WatchOperation", Need::Permission(Permission::OperationsRead)),
    ("/holdfast.backup.v1.OperationService/CancelOperation", Need::Permission(Permission::OperationsCancel)),
    ("/holdfast.backup.v1.AuditService/ListAuditEvents", Need::Permission(Permission::AuditRead)),
    ("/holdfast.backup.v1.AuditService/WatchAuditEvents", Need::Permission(Permission::AuditRead)),
    ("/holdfast.backup.v1.AuditService/ListAuditRecords", Need::Permission(Permission::AuditRead)),
    ("/holdfast.lock.v1.LockService/AcquireLock", Need::Permission(Permission::LocksAcquire)),
    ("/holdfast.lock.v1.LockService/RenewLock", Need::Permission(Permission::LocksAcquire)),
    ("/holdfast.lock.v1.LockService/ReleaseLock", Need::Permission(Permission::LocksAcquire)),
    ("/holdfast.lock.v1.LockService/GetLock", Need::Permission(Permission::LocksRead)),
    ("/holdfast.lock.v1.LockService/WatchLock", Need::Permission(Permission::LocksRead)),
    ("/holdfast.lock.v1.LockService/ForceReleaseLock", Need::Permission(Permission::LocksBreak)),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Identity),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Identity),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
];

/// The table's entry for a path; `None` when no such method is served.
pub fn method(path: &str) -> Option<(&'static str, Need)> {
    METHODS.iter().find(|(known, _)| *known == path).copied()
}

/// Who calls, as proven.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Stands in operations, in the catalog and in the audit log.
    pub subject: String,
    /// How it was proven, for example `token`.
    pub authentication: &'static str,
    pub permissions: Permissions,
}

#[derive(Debug, Clone)]
pub enum Permissions {
    All,
    Only(Vec<Permission>),
}

impl Principal {
    /// # Errors
    /// PERMISSION_MISSING.
    pub fn check(&self, permission: Permission) -> Result<(), Box<Failure>> {
        match &self.permissions {
            Permissions::All => Ok(()),
            Permissions::Only(granted) if granted.contains(&permission) => Ok(()),
            Permissions::Only(_) => {
                let message = format!("This call needs the permission {}.", permission.name());
                Err(Failure::new(Reason::PermissionMissing, message).with("permission", permission.name()).into())
            }
        }
    }
}

/// How callers prove who they are, by what each presents; it gives a `Principal`. Client certificates, service-account tokens
/// and tokens of an identity provider have their place here.
#[derive(Debug, Clone)]
pub struct Authenticator {
    tokens: Vec<StaticToken>,
}

/// One secret for one caller, for a workstation and for the update-service. Only its digest is kept.
#[derive(Clone)]
struct StaticToken {
    digest: [u8; 32],
    principal: Principal,
}

impl Authenticator {
    /// The text of a token file, and whose token it is; white space around it does not count. `None` when it is blank.
    pub fn static_token(text: &str, subject: &str) -> Option<Self> {
        Self { tokens: Vec::new() }.and_token(text, subject, Permissions::All)
    }

    /// One more, for a caller that may do this only.
    pub fn and_token(mut self, text: &str, subject: &str, permissions: Permissions) -> Option<Self> {
        let token = text.trim();
        let principal = Principal { subject: subject.to_owned(), authentication: "token", permissions };
        self.tokens.push(StaticToken { digest: sha256(token), principal });
        (!token.is_empty()).then_some(self)
    }

    /// # Errors
    /// CREDENTIALS_MISSING, CREDENTIALS_INVALID.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Box<Failure>> {
        let presented = sha256(bearer(headers)?);
        // Digests have one length, so that neither it nor the contents of a token show in the time this takes.
        let known = self.tokens.iter().find(|token| bool::from(presented.ct_eq(&token.digest)));
        known.map(|token| token.principal.clone()).ok_or_else(|| refused(Reason::CredentialsInvalid, "The token is not valid."))
    }
}

impl fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticToken").field("subject", &self.principal.subject).finish_non_exhaustive()
    }
}

/// The token of `authorization: Bearer ...` (RFC 6750, 2.1; the scheme is case-insensitive, RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Box<Failure>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| {
        refused(Reason::CredentialsMissing, "This call needs credentials; send them as `authorization: Bearer <token>`.")
    })?;
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && values.next().is_none() => Ok(token.trim()),
        _ => Err(refused(Reason::CredentialsInvalid, "The credentials are not one `authorization: Bearer <token>`.")),
    }
}

fn refused(reason: Reason, message: &str) -> Box<Failure> {
    Failure::new(reason, message).into()
}

fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

/// A call as the audit log tells of it; `None` for a caller that is not known. The gate leaves it in the extensions.
pub fn caller<B>(request: &http::Request<B>, method: &str, principal: Option<&Principal>) -> Caller {
    let user_agent = request.headers().get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let user_agent = user_agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
    let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let actor = Actor {
        principal: principal.map(|principal| principal.subject.clone()).unwrap_or_default(),
        authentication: principal.map_or("", |principal| principal.authentication).to_owned(),
        peer_address: peer.map(|address| address.to_string()).unwrap_or_default(),
        user_agent,
    };
    Caller { actor, method: method.to_owned() }
}

/// Who calls, and the message.
///
/// # Errors
/// CREDENTIALS_MISSING, when the call did not come through the gate.
pub fn accept<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    match extensions.remove::<Caller>() {
        Some(caller) => Ok((caller, message)),
        None => Err(Failure::new(Reason::CredentialsMissing, "This call needs credentials.").into()),
    }
}

/// Refuses a secret that came over a connection which others can read.
///
/// # Errors
/// TRANSPORT_NOT_SECURE.
pub fn check_transport(extensions: &Extensions, allow_plaintext_secrets: bool) -> Result<(), Status> {
    if allow_plaintext_secrets || encrypted(extensions) {
        return Ok(());
    }
    let failure = Failure::new(Reason::TransportNotSecure, "A secret was sent over a connection without TLS, and is refused.");
    Err(failure
        .instructions("If others could read the connection, the secret is theirs: choose another. Then call over TLS.")
        .into())
}

/// Whether a connection is encrypted. Only plain TCP is served so far: what the TLS listener leaves in the extensions is
/// to be looked for here.
fn encrypted(_: &Extensions) -> bool {
    false
}

#[cfg(test)]
mod tests;
