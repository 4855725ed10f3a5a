//! Why a call is refused or an operation failed, and what callers learn of it.

mod below;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::check;
use crate::model::manifest::PassphraseNote;
use crate::model::notice::{Notice, Severity};
use crate::model::{Backup, BackupId, Failure, OperationId, Reason, ResourceName, schedule, secret};
use crate::{archive, depot, folder, lock, postgres};

/// Everything that can go wrong, named for what a caller can know or do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{problem}")]
    InvalidField { field: &'static str, problem: String },
    #[error("this schedule cannot be: {0}")]
    InvalidSchedule(#[from] schedule::Invalid),
    #[error("this passphrase is too weak: {0}")]
    WeakPassphrase(#[from] secret::Weak),
    #[error("this request_id was used for another request")]
    RequestIdReused(OperationId),
    #[error("this request_id was used for another upload")]
    UploadIdReused(BackupId),
    #[error("there is no backup {0}")]
    BackupNotFound(BackupId),
    #[error("there is no operation {0}")]
    OperationNotFound(OperationId),
    #[error("there is no resource {0} in the catalog")]
    ResourceUnknown(ResourceName),
    #[error("the backup has no data of resource {0}")]
    ResourceNotInBackup(ResourceName),
    #[error("backup {0} cannot be used: {detail}", detail = .1.trim_end_matches('.'))]
    BackupNotReady(BackupId, String),
    #[error("backup {0} cannot be used: {detail}", detail = .1.trim_end_matches('.'))]
    BackupInvalid(BackupId, String),
    #[error("the file of backup {0} is on its way back from the archive")]
    OnItsWay(BackupId, OperationId),
    #[error("the file could not be brought back from the archive: {}", .0.message)]
    NotBroughtBack(Box<Failure>),
    #[error("backup {0} is in use")]
    BackupInUse(BackupId),
    #[error("there is a backup {0} already: {1}")]
    BackupExists(BackupId, &'static str),
    #[error("this is not a backup file: {0}")]
    NotABackup(String),
    #[error("the backup is encrypted, and no passphrase was given")]
    PassphraseRequired(Option<PassphraseNote>),
    #[error("the passphrase does not open this backup")]
    PassphraseIncorrect(Option<PassphraseNote>),
    /// Who can open it, as far as that is known.
    #[error("only the secret key of a recipient opens this backup, and none was given")]
    SecretKeyRequired(Vec<String>),
    #[error("the secret key is none of those that open this backup")]
    SecretKeyIncorrect(Vec<String>),
    #[error("the secret key is protected by a passphrase, and none was given")]
    SecretKeyLocked,
    #[error("the passphrase does not open the secret key")]
    SecretKeyPassphraseIncorrect,
    #[error("new backups are to be encrypted to recipients, and none are configured any more")]
    RecipientsMissing,
    #[error("too many wrong passphrases were sent for backup {0}")]
    TooManyAttempts(BackupId, Duration),
    #[error("the backup file is damaged: {0}")]
    Damaged(String),
    #[error("the backup was written in a format that this version does not read: {found}")]
    NewerFormat { found: String },
    #[error("the offset {offset} is beyond the end of the file, which has {size} bytes")]
    OffsetOutOfRange { offset: u64, size: u64 },
    #[error("{} changed since it was read", .0)]
    EtagMismatch(&'static str),
    #[error("something changed since the preview")]
    PreviewStale,
    #[error("{}", .0.iter().map(|notice| notice.message.as_str()).next().unwrap_or_default())]
    NotAcknowledged(Vec<Notice>),
    #[error("the safety backup could not be made: {0}")]
    NoSafetyBackup(Box<Error>),
    #[error("the schedule is disabled")]
    ScheduleDisabled,
    #[error("the timer of this service starts the scheduled backups")]
    ScheduleDrivenInternally,
    #[error("the run planned for {} is being started by another caller", .0.to_rfc3339_opts(SecondsFormat::Secs, true))]
    SlotClaimed(DateTime<Utc>),
    #[error("callers made {limit} backups within an hour, which is the limit")]
    TooManyBackups { limit: u32, wait: Duration },
    #[error(transparent)]
    Lock(#[from] lock::Error),
    #[error("the operation was cancelled")]
    Cancelled,
    #[error("the operation has gone too far to be cancelled")]
    NotCancellable(OperationId),
    #[error("the service stopped, or lost its database, while the operation ran; nothing of it remains")]
    Interrupted,
    #[error("the operation took longer than it may")]
    TimedOut,
    #[error("the service is stopping")]
    Draining,
    #[error("too many downloads, uploads, previews or verifications run at the same time")]
    TooManyTransfers,
    #[error("the transfer {0}")]
    TransferTimedOut(&'static str),
    #[error("the backup volume has {available} bytes free, and {needed} are needed")]
    NoSpace { needed: u64, available: u64 },
    #[error("too many callers watch already")]
    TooManyWatchers,
    #[error("the stored passphrase does not open under the configured seal key")]
    SealBroken,
    #[error("what was read back from the volume is not what was written")]
    ReadBack,
    #[error(transparent)]
    Folder(#[from] folder::Error),
    #[error(transparent)]
    Depot(#[from] depot::Error),
    #[error(transparent)]
    Database(#[from] postgres::Error),
    #[error("a bug: {0}")]
    Bug(&'static str),
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        match error {
            archive::Error::PassphraseRequired => Self::PassphraseRequired(None),
            archive::Error::PassphraseIncorrect => Self::PassphraseIncorrect(None),
            archive::Error::SecretKeyRequired(recipients) => Self::SecretKeyRequired(recipients),
            archive::Error::SecretKeyIncorrect(recipients) => Self::SecretKeyIncorrect(recipients),
            archive::Error::SecretKeyUnusable(problem) => {
                Self::InvalidField { field: "secret_key", problem: format!("the secret key cannot be used: {problem}") }
            }
            archive::Error::SecretKeyLocked => Self::SecretKeyLocked,
            archive::Error::SecretKeyPassphraseIncorrect => Self::SecretKeyPassphraseIncorrect,
            archive::Error::NewerFormat { found } => Self::NewerFormat { found: found.to_string() },
            archive::Error::Io(error) => Self::Folder(error.into()),
            error => Self::Damaged(error.to_string()),
        }
    }
}

const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);
const FREE_SPACE: &str = "Free space on the backup volume; no backup was deleted to make room.";

impl Error {
    /// Whether to ask for the lock again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Lock(error) => {
                use lock::Error::{Awaited, Draining, Held, Unavailable};
                matches!(error, Held(_) | Awaited(_) | Draining | Unavailable(_))
            }
            Self::Database(error) => error.passes(),
            _ => false,
        }
    }

    /// Whether what was sent to open a file is at fault, or missing; not the file.
    pub fn is_about_opener(&self) -> bool {
        let missing = matches!(self, Self::PassphraseRequired(_) | Self::SecretKeyRequired(_) | Self::SecretKeyLocked);
        missing || self.is_a_wrong_opener() || matches!(self, Self::TooManyAttempts(..) | Self::InvalidField { .. })
    }

    /// Whether it was a guess that failed.
    pub fn is_a_wrong_opener(&self) -> bool {
        matches!(self, Self::PassphraseIncorrect(_) | Self::SecretKeyIncorrect(_) | Self::SecretKeyPassphraseIncorrect)
    }

    /// With what the catalog knows of who or what opens this backup.
    pub fn about(self, backup: &Backup) -> Self {
        let recipients = |found: Vec<String>| if backup.recipients.is_empty() { found } else { backup.recipients.clone() };
        match self {
            Self::PassphraseRequired(_) => Self::PassphraseRequired(backup.passphrase),
            Self::PassphraseIncorrect(_) => Self::PassphraseIncorrect(backup.passphrase),
            Self::SecretKeyRequired(found) => Self::SecretKeyRequired(recipients(found)),
            Self::SecretKeyIncorrect(found) => Self::SecretKeyIncorrect(recipients(found)),
            error => error,
        }
    }

    /// What callers learn of it. Causes that only operators may see are logged here, once.
    pub fn failure(&self) -> Failure {
        let failure = |reason| Failure::new(reason, format!("{}.", sentence(&self.to_string())));
        match self {
            Self::InvalidField { field, .. } => failure(Reason::InvalidField).field(field),
            Self::InvalidSchedule(_) => failure(Reason::InvalidField).field("schedule"),
            Self::WeakPassphrase(_) => failure(Reason::PassphraseTooWeak).field("passphrase"),
            Self::RequestIdReused(id) => failure(Reason::RequestIdReused).with("operation", operation(*id)).field("request_id"),
            Self::UploadIdReused(id) => failure(Reason::RequestIdReused).with("backup", backup(id)).field("request_id"),
            Self::BackupNotFound(id) => failure(Reason::BackupNotFound).subject(backup(id)),
            Self::OperationNotFound(id) => failure(Reason::OperationNotFound).subject(operation(*id)),
            Self::ResourceUnknown(name) => failure(Reason::ResourceUnknown).subject(format!("resources/{name}")),
            Self::ResourceNotInBackup(name) => failure(Reason::ResourceNotInBackup).subject(format!("resources/{name}")),
            Self::BackupNotReady(id, _) => failure(Reason::BackupNotReady).subject(backup(id)),
            Self::BackupInvalid(id, _) => failure(Reason::BackupCorrupted)
                .subject(backup(id))
                .instructions("Put a whole copy of the file in its place and verify it, or use another backup."),
            Self::OnItsWay(id, operation_id) => failure(Reason::BackupNotReady)
                .with("operation", operation(*operation_id))
                .subject(backup(id))
                .retry_after(LATER)
                .instructions("Wait for that operation, and call again."),
            Self::NotBroughtBack(cause) => Failure {
                message: format!("The file could not be brought back from the archive. {}", cause.message),
                ..(**cause).clone()
            },
            Self::BackupInUse(id) => failure(Reason::BackupInUse)
                .subject(backup(id))
                .instructions("Wait until the restore, download, upload or verification has ended."),
            Self::BackupExists(id, _) => failure(Reason::BackupAlreadyExists).with("backup", backup(id)).subject(backup(id)),
            Self::NotABackup(_) => failure(Reason::NotABackupFile),
            Self::PassphraseRequired(note) => passphrase(failure(Reason::PassphraseRequired), *note),
            Self::PassphraseIncorrect(note) => passphrase(failure(Reason::PassphraseIncorrect), *note),
            Self::SecretKeyRequired(recipients) => secret_key(failure(Reason::SecretKeyRequired), recipients),
            Self::SecretKeyIncorrect(recipients) => secret_key(failure(Reason::SecretKeyIncorrect), recipients),
            Self::SecretKeyLocked => failure(Reason::PassphraseRequired)
                .field("passphrase")
                .instructions("Give the passphrase of the secret key with it."),
            Self::SecretKeyPassphraseIncorrect => failure(Reason::PassphraseIncorrect)
                .field("passphrase")
                .instructions("Give the passphrase of the secret key, not one of the service."),
            Self::RecipientsMissing => failure(Reason::RecipientsMissing).subject("settings/encryption").instructions(
                "Configure them again (HOLDFAST_ENCRYPTION__RECIPIENTS_FILE), set a passphrase, or, if new backups are to be readable \
                 by anybody who has the file, switch encryption off.",
            ),
            Self::TooManyAttempts(id, wait) => failure(Reason::RateLimited)
                .subject(backup(id))
                .with("attemptsPerMinute", check::MOST)
                .retry_after(Duration::from_secs(wait.as_secs() + 1))
                .instructions("Wait, and look for the right one: more than five in a minute are not tried."),
            Self::Damaged(_) => {
                failure(Reason::BackupCorrupted).instructions("Use another backup, or a copy of this file from elsewhere.")
            }
            Self::NewerFormat { found } => failure(Reason::BackupIncompatible)
                .with("formatVersion", found)
                .with("supported", crate::model::manifest::FormatVersion::PRESENT)
                .instructions("Restore it with the version of Holdfast that wrote it, or a newer one."),
            Self::OffsetOutOfRange { size, .. } => failure(Reason::OffsetOutOfRange).with("sizeBytes", size),
            Self::EtagMismatch(_) => {
                failure(Reason::EtagMismatch).instructions("Read it again and repeat the change on what you then see.")
            }
            Self::PreviewStale => failure(Reason::PreviewStale).instructions("Preview again, and restore what you then see."),
            Self::NotAcknowledged(notices) => not_acknowledged(notices),
            Self::NoSafetyBackup(cause) => {
                let mut failure = cause.failure();
                failure.message = format!("The safety backup could not be made, and nothing was restored. {}", failure.message);
                let without = "without a safety backup (skip_safety_backup): it cannot be undone then.";
                failure.instructions = match failure.instructions.as_str() {
                    "" => format!("Restore {without}"),
                    first => format!("{first} Or restore {without}"),
                };
                failure
            }
            Self::ScheduleDisabled => failure(Reason::ScheduleDisabled).subject("settings/schedule"),
            Self::ScheduleDrivenInternally => failure(Reason::ScheduleDrivenInternally)
                .subject("settings/schedule")
                .instructions("Where a CronJob is to start them, set HOLDFAST_SCHEDULE__DRIVER=external."),
            Self::SlotClaimed(_) => failure(Reason::OperationInProgress).retry_after(SOON),
            Self::TooManyBackups { wait, .. } => failure(Reason::RateLimited)
                .retry_after(*wait)
                .instructions("Each takes the place of an older one. HOLDFAST_LIMITS__BACKUPS_PER_HOUR is the limit."),
            Self::Lock(error) => below::lock(error, failure),
            Self::Cancelled => failure(Reason::CancelledByCaller),
            Self::NotCancellable(id) => failure(Reason::OperationNotCancellable).subject(operation(*id)),
            Self::Interrupted => failure(Reason::Interrupted).instructions("Start it again."),
            Self::TimedOut => failure(Reason::OperationTimedOut),
            Self::Draining => failure(Reason::ServerDraining).retry_after(SOON),
            Self::TooManyTransfers | Self::TooManyWatchers => failure(Reason::RateLimited).retry_after(LATER),
            Self::TransferTimedOut(_) => failure(Reason::TransferTimedOut)
                .instructions("Continue a download with read_offset; of an upload nothing remains, send the file again."),
            Self::NoSpace { needed, available } => failure(Reason::StorageFull)
                .with("needed", needed)
                .with("available", available)
                .instructions(FREE_SPACE),
            Self::SealBroken => {
                tracing::error!("the stored passphrase does not open under the configured seal key");
                failure(Reason::SealKeyMismatch)
                    .instructions("Mount the seal key of this installation, or set the passphrase again.")
            }
            Self::ReadBack => {
                tracing::error!("a new file did not read back as it was written; the volume is not to be trusted");
                failure(Reason::StorageUnavailable).instructions("Check the volume: it does not return what is written to it.")
            }
            Self::Folder(error) => below::folder(error, failure),
            Self::Depot(error) => below::depot(error, failure),
            Self::Database(error) => below::database(error, failure),
            Self::Bug(_) => {
                tracing::error!(error = self as &dyn std::error::Error, "an operation failed for a reason within Holdfast");
                Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details.")
            }
        }
    }
}

/// Refusals first: nobody can accept them.
fn not_acknowledged(notices: &[Notice]) -> Failure {
    let refusal = notices.iter().find(|notice| notice.severity == Severity::Refusal);
    if let Some(notice) = refusal {
        let mut failure = Failure::new(Reason::RestoreConstraintViolation, &notice.message).instructions(&notice.instructions);
        failure.metadata.clone_from(&notice.metadata);
        return failure;
    }
    let reasons: BTreeSet<&str> = notices.iter().map(|notice| notice.reason.as_str()).collect();
    let reasons = reasons.into_iter().collect::<Vec<_>>().join(", ");
    let message = format!("The restore needs to be told that this is accepted: {reasons}.");
    let mut failure = Failure::new(Reason::WarningsNotAcknowledged, message).with("warnings", reasons);
    for notice in notices {
        let text = [notice.message.as_str(), &notice.instructions].join(" ");
        failure.violations.entry(notice.reason.clone()).or_insert_with(|| text.trim_end().to_owned());
    }
    failure.instructions("Look at a preview of the restore; then name these in acknowledged_warnings or acknowledged_reasons, if that is what you want.")
}

fn passphrase(failure: Failure, note: Option<PassphraseNote>) -> Failure {
    let failure = failure.field("passphrase");
    match note {
        None => failure,
        Some(note) => failure
            .with("passphraseGeneration", note.generation)
            .with("passphraseSetTime", rfc3339(note.set_time))
            .instructions(format!("Give the passphrase that was set at {}.", rfc3339(note.set_time))),
    }
}

fn secret_key(failure: Failure, recipients: &[String]) -> Failure {
    let failure = failure.field("secret_key");
    match recipients {
        [] => failure,
        recipients => {
            let recipients = recipients.join(", ");
            let instructions = format!("Give the secret key of one of these: {recipients} (gpg --export-secret-keys).");
            failure.with("recipients", recipients).instructions(instructions)
        }
    }
}

fn backup(id: &BackupId) -> String {
    format!("backups/{id}")
}

fn operation(id: OperationId) -> String {
    format!("operations/{id}")
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// With a capital letter at the beginning.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
