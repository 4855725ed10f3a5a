//! What callers ask and what they are answered, in the words of the model.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::sync::mpsc;

use crate::folder::Space;
use crate::model::archive::ArchiveFacts;
use crate::model::backup::{Backup, Trigger};
use crate::model::catalog::Resource;
pub use crate::model::event::Caller;
use crate::model::schedule::{Driver, Recurrence, RunState};
use crate::model::settings::{Encryption, Recipient, Retention, Setting, SigningKeyNote};
use crate::model::verification::VerifyLevel;
use crate::model::{BackupId, Failure, FileName, Notice, Opener, Operation, OperationId, Reason, ResourceName, Schedule, Sha256};

#[derive(Debug, Clone)]
pub struct BackupRequest {
    pub description: String,
    pub trigger: Trigger,
    /// With `Trigger::Scheduled`: the slot that the run is for.
    pub scheduled_time: Option<DateTime<Utc>>,
    pub lock_wait: Duration,
    /// Empty: none.
    pub request_id: String,
    pub validate_only: bool,
}

#[derive(Debug, Clone)]
pub struct RestoreRequest {
    pub backup: BackupId,
    pub opener: Option<Opener>,
    /// Empty: all in the file.
    pub resources: Vec<ResourceName>,
    /// `None`: whatever the restore finds.
    pub preview_etag: Option<String>,
    /// Reasons of blocking notices that the caller accepts.
    pub acknowledged: Vec<String>,
    pub safety_backup: bool,
    pub lock_wait: Duration,
    pub reason: String,
    pub request_id: String,
    pub validate_only: bool,
}

#[derive(Debug, Clone)]
pub struct PreviewRequest {
    pub backup: BackupId,
    pub opener: Option<Opener>,
    /// Empty: all in the file.
    pub resources: Vec<ResourceName>,
}

#[derive(Debug, Clone)]
pub struct VerifyRequest {
    pub backup: BackupId,
    pub level: VerifyLevel,
    pub opener: Option<Opener>,
    /// Empty: none.
    pub request_id: String,
}

/// What callers may change of a backup. `None`: stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupChange {
    pub description: Option<String>,
    /// Whether retention keeps it.
    pub pinned: Option<bool>,
}

/// What a look at the folder found.
#[derive(Debug, Clone)]
pub struct Synced {
    /// Now in the catalog.
    pub imported: Vec<Listed>,
    /// No longer in the folder.
    pub missing: Vec<BackupId>,
    /// In it again.
    pub recovered: Vec<BackupId>,
    /// Left alone, in part; `rejected_count` are all.
    pub rejected: Vec<Rejected>,
    pub rejected_count: u64,
}

/// A file that is not taken for a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub file_name: String,
    pub reason: Reason,
    /// One sentence.
    pub detail: String,
}

/// One page of a list. `after` of the next call is `next` of this one.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<i64>,
    /// Number of all items.
    pub total: u64,
}

/// A backup with what only the catalog knows of it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub backup: Backup,
    /// Durable sequence in which files entered the system; the order of lists and of retention.
    pub sequence: i64,
    pub register_time: DateTime<Utc>,
    pub revision: i64,
    /// When its file was proven in the archive, if it is there.
    pub archive_time: Option<DateTime<Utc>>,
    /// Place in the retention queue, 1 for the newest; `None` where retention does not count it.
    pub position: Option<u32>,
    pub max_count: u32,
    /// Whether the next successful backup deletes it.
    pub next_to_expire: bool,
    /// Whether its passphrase is the one in use now.
    pub current_passphrase: bool,
}

#[derive(Debug, Clone)]
pub struct DownloadRequest {
    pub backup: BackupId,
    pub offset: u64,
    /// `None`: to the end.
    pub limit: Option<u64>,
    /// Of the transfer that is continued.
    pub expected: Option<Sha256>,
}

#[derive(Debug, Clone)]
pub struct UploadRequest {
    /// `None`: to be taken from the contents.
    pub file_name: Option<FileName>,
    pub size_bytes: u64,
    pub sha256: Sha256,
    pub description: String,
    /// Empty: none.
    pub request_id: String,
}

/// A file on its way out. The channel is short: the next piece but one is read when the last one was taken.
#[derive(Debug)]
pub struct Download {
    pub file_name: FileName,
    pub size_bytes: u64,
    pub sha256: Sha256,
    pub chunks: mpsc::Receiver<Result<Chunk, Failure>>,
}

#[derive(Debug, Clone)]
pub struct Chunk {
    pub offset: u64,
    pub data: Bytes,
    /// `None`: it was not sent.
    pub crc32c: Option<u32>,
}

/// A change of the schedule; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct ScheduleChange {
    pub enabled: Option<bool>,
    pub recurrence: Option<Recurrence>,
    pub time_zone: Option<Tz>,
    pub start_deadline: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct ScheduleState {
    pub setting: Setting<Schedule>,
    pub driver: Driver,
    pub next_run: Option<DateTime<Utc>>,
    pub last_run: Option<Run>,
    /// End of the newest scheduled run that succeeded.
    pub last_success: Option<DateTime<Utc>>,
}

/// What is measured of the service, all of one moment. It follows from the database and the volume, so every replica says the
/// same, and a restart forgets nothing.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub backups: Vec<Backup>,
    /// Those of them whose file is in the archive and not here.
    pub only_archived: u64,
    /// `None`: there is no archive.
    pub archive: Option<ArchiveFacts>,
    pub max_count: u32,
    pub schedule_enabled: bool,
    pub next_run: Option<DateTime<Utc>>,
    /// How many runs ended how, ever.
    pub runs: Vec<(RunState, u64)>,
    /// How many callers this process has refused, by the reason.
    pub refusals: Vec<(Reason, u64)>,
    /// Whether new backups are.
    pub encrypted: bool,
    /// 0: there is no passphrase in use.
    pub passphrase_generation: u32,
    /// Unknown where the volume does not answer.
    pub space: Option<Space>,
}

/// One slot of the schedule.
#[derive(Debug, Clone)]
pub struct Run {
    pub planned_time: DateTime<Utc>,
    pub state: RunState,
    pub operation: Option<OperationId>,
}

#[derive(Debug, Clone)]
pub struct EncryptionState {
    pub setting: Setting<Encryption>,
    pub recipients: Vec<Recipient>,
}

/// Who signs and signed the files of this system.
#[derive(Debug, Clone)]
pub struct SigningState {
    /// Newest first.
    pub keys: Vec<SigningKeyNote>,
    /// Fingerprints of others whose files count as this system's own.
    pub trusted: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct RetentionState {
    pub setting: Setting<Retention>,
    /// Backups that count.
    pub current: u32,
    /// Backups that the next successful one deletes.
    pub excess: u32,
}

#[derive(Debug, Clone)]
pub struct ResourceState {
    pub resource: Resource,
    /// Resources that its rows refer to: they must be restored with it.
    pub depends_on: Vec<ResourceName>,
    pub items: u64,
    pub notices: Vec<Notice>,
}

#[derive(Debug, Clone)]
pub struct SystemStatus {
    pub backup_obstacles: Vec<Failure>,
    pub restore_obstacles: Vec<Failure>,
    pub active: Vec<Operation>,
    pub latest: Option<(BackupId, Option<DateTime<Utc>>)>,
    pub next_run: Option<DateTime<Utc>>,
    pub encryption_enabled: bool,
    pub backup_count: u64,
    pub storage_total_bytes: u64,
    pub storage_available_bytes: u64,
    pub storage_used_bytes: u64,
    pub system_id: uuid::Uuid,
    /// `None`: there is no archive.
    pub archive: Option<ArchiveFacts>,
}
