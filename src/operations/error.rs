//! Why a call is refused or an operation failed, and what callers learn of it.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::check;
use crate::model::lock::{Holder, NAME, Purpose};
use crate::model::manifest::PassphraseNote;
use crate::model::notice::{Notice, Severity};
use crate::model::{Backup, BackupId, Failure, OperationId, Reason, ResourceName, schedule, secret};
use crate::{archive, folder, lock, postgres};

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
    #[error("there is no backup {0}")]
    BackupNotFound(BackupId),
    #[error("there is no operation {0}")]
    OperationNotFound(OperationId),
    #[error("there is no resource {0} in the catalog")]
    ResourceUnknown(ResourceName),
    #[error("the backup has no data of resource {0}")]
    ResourceNotInBackup(ResourceName),
    #[error("backup {0} cannot be used: {1}")]
    BackupNotReady(BackupId, String),
    #[error("backup {0} is in use")]
    BackupInUse(BackupId),
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
    #[error("too many downloads, previews or verifications run at the same time")]
    TooManyTransfers,
    #[error("too many callers watch already")]
    TooManyWatchers,
    #[error("the stored passphrase does not open under the configured seal key")]
    SealBroken,
    #[error("what was read back from the volume is not what was written")]
    ReadBack,
    #[error(transparent)]
    Folder(#[from] folder::Error),
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
            Self::BackupNotFound(id) => failure(Reason::BackupNotFound).subject(backup(id)),
            Self::OperationNotFound(id) => failure(Reason::OperationNotFound).subject(operation(*id)),
            Self::ResourceUnknown(name) => failure(Reason::ResourceUnknown).subject(format!("resources/{name}")),
            Self::ResourceNotInBackup(name) => failure(Reason::ResourceNotInBackup).subject(format!("resources/{name}")),
            Self::BackupNotReady(id, _) => failure(Reason::BackupNotReady).subject(backup(id)),
            Self::BackupInUse(id) => failure(Reason::BackupInUse)
                .subject(backup(id))
                .instructions("Wait until the restore, download or verification has ended."),
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
            Self::Lock(error) => lock(error, failure),
            Self::Cancelled => failure(Reason::CancelledByCaller),
            Self::NotCancellable(id) => failure(Reason::OperationNotCancellable).subject(operation(*id)),
            Self::Interrupted => failure(Reason::Interrupted).instructions("Start it again."),
            Self::TimedOut => failure(Reason::OperationTimedOut),
            Self::Draining => failure(Reason::ServerDraining).retry_after(SOON),
            Self::TooManyTransfers | Self::TooManyWatchers => failure(Reason::RateLimited).retry_after(LATER),
            Self::SealBroken => {
                tracing::error!("the stored passphrase does not open under the configured seal key");
                failure(Reason::SealKeyMismatch)
                    .instructions("Mount the seal key of this installation, or set the passphrase again.")
            }
            Self::ReadBack => {
                tracing::error!("a new file did not read back as it was written; the volume is not to be trusted");
                failure(Reason::StorageUnavailable).instructions("Check the volume: it does not return what is written to it.")
            }
            Self::Folder(error) => folder(error, failure),
            Self::Database(error) => database(error, failure),
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

fn folder(error: &folder::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use folder::Error as Folder;
    if let Folder::Full(_) | Folder::Unavailable(_) = error {
        tracing::error!(error = error as &dyn std::error::Error, "the backup volume failed");
    }
    match error {
        Folder::Full(_) => {
            failure(Reason::StorageFull).instructions("Free space on the backup volume; no backup was deleted to make room.")
        }
        Folder::Unavailable(_) | Folder::WorldWritable => failure(Reason::StorageUnavailable).retry_after(LATER),
        Folder::NotMounted | Folder::OtherVolume => failure(Reason::StorageUnavailable)
            .retry_after(LATER)
            .instructions("Mount the volume that holds the backups of this system."),
        Folder::Missing => failure(Reason::BackupFileMissing),
        Folder::Exists => failure(Reason::Internal),
    }
}

fn database(error: &postgres::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use postgres::Error as Database;
    match error {
        Database::Unavailable(_) | Database::CommitUnknown(_) | Database::BrokenOff => {
            tracing::warn!(error = error as &dyn std::error::Error, "the database does not answer");
            failure(Reason::DatabaseUnavailable).retry_after(LATER)
        }
        Database::Pooled(_) => failure(Reason::DatabaseUnavailable).instructions("Let Holdfast connect to PostgreSQL directly."),
        Database::Mismatch(_) => failure(Reason::CatalogMismatch)
            .instructions("Make the catalog and the database fit each other; `holdfast serve` checks it at its start."),
        Database::Locked(_) => {
            failure(Reason::TablesLocked).retry_after(LATER).instructions("Try again when the other session has ended.")
        }
        Database::Constraint { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreConstraintViolation) },
        Database::Referenced { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreConstraintViolation) }
            .instructions("Remove those rows, or say in the catalog that this reference is to be followed."),
        Database::NotExact { .. } => Failure { metadata: error.names(), ..failure(Reason::RestoreNotExact) },
        Database::Incompatible(_) => failure(Reason::BackupIncompatible)
            .instructions("Make the tables take what the file has, or restore with the version of the platform that it is of."),
        Database::FenceLost => lock(&lock::Error::Lost, failure),
        Database::Updating => failure(Reason::SoftwareUpdateInProgress).with("lock", NAME).subject(NAME).instructions(
            "Wait for its end, or call with lock_wait; it did not take the maintenance lock, so nobody can tell more of it.",
        ),
        Database::NotKept => {
            tracing::error!("the database did not keep the sealed passphrase as it was written; nothing was changed");
            Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details.")
        }
        Database::TimedOut(_) => failure(Reason::OperationTimedOut),
        Database::Query(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "PostgreSQL refused a statement");
            Failure::new(Reason::Internal, "Something went wrong within Holdfast; its log has the details.")
        }
    }
}

fn lock(error: &lock::Error, failure: impl Fn(Reason) -> Failure) -> Failure {
    use lock::Error as Lock;
    match error {
        Lock::Held(holder) => held(holder, holder_text(holder)),
        Lock::Awaited(update) => {
            let since = rfc3339(update.acquire_time);
            held(update, format!("{} waits for the maintenance lock since {since}, and comes first: {}", update.principal, update.reason))
        }
        Lock::Draining => {
            let message = "Whoever had the maintenance lock before is giving it back; its last transaction has not ended yet.";
            Failure::new(Reason::OperationInProgress, message).subject(NAME).retry_after(LATER)
        }
        Lock::Lost => failure(Reason::LeaseLost).instructions("Everything was rolled back. Start it again."),
        Lock::Unavailable(_) => {
            tracing::warn!(error = error as &dyn std::error::Error, "the lock service does not answer");
            failure(Reason::LockServiceUnavailable)
                .subject(NAME)
                .retry_after(LATER)
                .instructions("Nothing was begun: without the lock a software update could run at the same time.")
        }
        Lock::Unusable(_) => {
            tracing::error!(error = error as &dyn std::error::Error, "the lock service cannot be used");
            failure(Reason::LockServiceUnusable).subject(NAME).instructions(
                "Nothing was begun. Check the lock service, and the address and credentials that are configured for it.",
            )
        }
        Lock::Elsewhere => failure(Reason::LockServiceUnusable).subject(NAME).instructions(
            "Nothing was begun. Another process of this installation was started with another HOLDFAST_LOCK__MODE: give all the same.",
        ),
        // Asked by others only, who are answered in other words.
        Lock::TokenMismatch | Lock::RequestIdReused => {
            Failure::new(Reason::Internal, "Something went wrong within Holdfast.")
        }
    }
}

/// Who has the lock, what for, why, since when and until when.
fn holder_text(holder: &Holder) -> String {
    let what = match (holder.purpose, holder.stale) {
        (Purpose::Backup, _) => "A backup is running",
        (Purpose::Restore, _) => "A restore is running",
        (Purpose::SoftwareUpdate, false) => "A software update is running",
        (Purpose::SoftwareUpdate, true) => "A software update was begun and not finished",
        (Purpose::Maintenance, _) => "An administrator is at work",
    };
    let Holder { principal, reason, .. } = holder;
    let (since, until, renewed) = (rfc3339(holder.acquire_time), rfc3339(holder.expire_time), rfc3339(holder.renew_time));
    let why = reason.trim_end_matches('.');
    let then = match holder.stale {
        false => format!("It has the lock until {until} unless it renews it"),
        true => format!("It has not renewed the lock since {renewed}, and keeps it"),
    };
    format!("{what}, since {since}, by {principal}: {why}. {then}")
}

/// Who is in the way, in words and as data, and what to do.
fn held(holder: &Holder, message: String) -> Failure {
    let own = holder.purpose.own();
    let reason = if own { Reason::OperationInProgress } else { Reason::SoftwareUpdateInProgress };
    let message = format!("{}.", message.trim_end_matches('.'));
    let mut failure = Failure::new(reason, message)
        .with("lock", NAME)
        .with("holder", &holder.principal)
        .with("holderId", &holder.holder_id)
        .with("holderReason", &holder.reason)
        .with("purpose", holder.purpose.word())
        .with("acquireTime", rfc3339(holder.acquire_time))
        .with("expireTime", rfc3339(holder.expire_time))
        .with("stale", holder.stale)
        .subject(NAME);
    if !holder.operation.is_empty() {
        failure = failure.with("operation", &holder.operation);
    }
    match (own, holder.stale) {
        (true, false) => failure.retry_after(LATER).instructions("Wait for its end, or call with lock_wait."),
        (false, false) => failure.instructions("Wait for its end, or call with lock_wait."),
        (_, true) => failure.instructions(
            "Let the update-service take it up again. Only when the update is known to be over or given up: an administrator ends the hold with ForceReleaseLock.",
        ),
    }
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
