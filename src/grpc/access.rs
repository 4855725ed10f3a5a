//! Who may call what. Deny by default: a method that is not in the table below cannot be called.
//!
//! Permission is checked before anything is looked up, so that nobody learns from a refusal what exists.

mod identity;
mod jwt;
mod roles;
mod token_review;

use tonic::codegen::http::{self, Extensions, header};
use tonic::{Request, Status};
use tracing::Span;

use super::listener::Peer;
use crate::model::event::{Actor, Caller};
use crate::model::{Failure, Reason};
use crate::telemetry;

pub use identity::{Authenticator, Principal};
pub use jwt::{Jwt, KeySource};
pub use roles::{Bindings, Role};
pub use token_review::TokenReview;

/// Characters of the `user-agent` that the audit log keeps.
const MAX_USER_AGENT: usize = 128;

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    BackupsRead,
    BackupsCreate,
    BackupsUpdate,
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
            Self::BackupsUpdate => "backups.update",
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
    ("/holdfast.backup.v1.BackupService/UpdateBackup", Need::Permission(Permission::BackupsUpdate)),
    ("/holdfast.backup.v1.BackupService/DownloadBackup", Need::Permission(Permission::BackupsDownload)),
    ("/holdfast.backup.v1.BackupService/UploadBackup", Need::Permission(Permission::BackupsUpload)),
    ("/holdfast.backup.v1.BackupService/SyncBackups", Need::Permission(Permission::BackupsUpload)),
    ("/holdfast.backup.v1.BackupService/ListResources", Need::Permission(Permission::BackupsRead)),
    ("/holdfast.backup.v1.BackupService/GetSchedule", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/GetRetention", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/SetRetention", Need::Permission(Permission::SettingsUpdate)),
    ("/holdfast.backup.v1.BackupService/GetEncryption", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/SetEncryption", Need::Permission(Permission::SettingsEncrypt)),
    ("/holdfast.backup.v1.BackupService/GetSigning", Need::Permission(Permission::SettingsRead)),
    ("/holdfast.backup.v1.BackupService/RotateSigningKey", Need::Permission(Permission::SettingsEncrypt)),
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

impl Principal {
    /// # Errors
    /// PERMISSION_MISSING.
    pub fn check(&self, permission: Permission) -> Result<(), Box<Failure>> {
        if self.roles.iter().any(|role| role.may(permission)) {
            return Ok(());
        }
        let message = format!("This call needs the permission {}.", permission.name());
        Err(Failure::new(Reason::PermissionMissing, message).with("permission", permission.name()).into())
    }
}

/// A call as the audit log tells of it; `None` for a caller that is not known. The gate leaves it in the extensions.
pub fn caller<B>(request: &http::Request<B>, method: &str, principal: Option<&Principal>) -> Caller {
    let user_agent = request.headers().get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let user_agent = user_agent.unwrap_or_default().chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
    let peer = request.extensions().get::<Peer>();
    let actor = Actor {
        principal: principal.map(|principal| principal.subject.clone()).unwrap_or_default(),
        authentication: principal.map_or("", |principal| principal.authentication).to_owned(),
        peer_address: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
        user_agent,
    };
    Caller { actor, method: method.to_owned(), trace_id: telemetry::trace_id(&Span::current()) }
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

fn encrypted(extensions: &Extensions) -> bool {
    extensions.get::<Peer>().is_some_and(|peer| peer.encrypted)
}

#[cfg(test)]
mod tests;
