//! Why something failed, as callers learn it: a published reason, a sentence, and what can be done.
//!
//! A failure has no paths, SQL, rows or secrets in it. It is what a refused call answers and what a failed operation
//! keeps, so that both always say the same.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The published reasons (`error_reason.proto`). The wire has the gRPC code of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    InvalidField,
    InvalidPageToken,
    RequestIdReused,
    PassphraseRequired,
    PassphraseIncorrect,
    PassphraseTooWeak,
    SecretKeyRequired,
    SecretKeyIncorrect,
    RecipientsMissing,
    NotABackupFile,
    CredentialsMissing,
    CredentialsInvalid,
    PermissionMissing,
    TransportNotSecure,
    RateLimited,
    IdentityUnavailable,
    CallTimedOut,
    BackupNotFound,
    OperationNotFound,
    ResourceUnknown,
    SoftwareUpdateInProgress,
    OperationInProgress,
    LeaseLost,
    LockServiceUnavailable,
    LockServiceUnusable,
    OperationNotCancellable,
    BackupInUse,
    BackupAlreadyExists,
    BackupNotReady,
    ScheduleDisabled,
    ScheduleDrivenInternally,
    WarningsNotAcknowledged,
    EtagMismatch,
    PreviewStale,
    BackupIncompatible,
    ResourceNotInBackup,
    Interrupted,
    CancelledByCaller,
    OperationTimedOut,
    TransferTimedOut,
    StorageFull,
    StorageUnavailable,
    ArchiveUnavailable,
    DatabaseUnavailable,
    ServerDraining,
    BackupCorrupted,
    BackupFileMissing,
    RestoreConstraintViolation,
    OffsetOutOfRange,
    CatalogMismatch,
    TablesLocked,
    RestoreNotExact,
    SealKeyMismatch,
    Internal,
}

impl Reason {
    /// As it is published, for example `BACKUP_NOT_FOUND`.
    pub fn word(self) -> String {
        serde_json::to_string(&self).unwrap_or_default().trim_matches('"').to_owned()
    }
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: Reason,
    /// One or two sentences.
    pub message: String,
    /// Values that appear in the message, for programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The field of the request that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Name of the backup, operation, resource or lock concerned, for example `backups/b-...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The same request may succeed after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instructions: String,
    /// What exactly is in the way, by the name of its kind, where there may be several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub violations: BTreeMap<String, String>,
}

impl Failure {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            field: None,
            subject: None,
            retry_after: None,
            instructions: String::new(),
            violations: BTreeMap::new(),
        }
    }

    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    pub fn field(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    pub fn subject(mut self, subject: impl ToString) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub fn instructions(mut self, text: impl Into<String>) -> Self {
        self.instructions = text.into();
        self
    }
}
