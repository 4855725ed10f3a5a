//! A piece of work that outlives the call that started it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::backup::{Backup, Trigger};
use super::event::{Actor, Caller};
use super::failure::Failure;
use super::name::{BackupId, OperationId, ResourceName};
use super::notice::Notice;
use super::trace::TraceId;
use super::verification::Verification;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Backup,
    Restore,
    Preview,
    /// A verification that looks at the file alone.
    Verify,
    /// One that restores it, too, and rolls that back.
    Rehearsal,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Preview => "preview",
            Self::Verify => "verify",
            Self::Rehearsal => "rehearsal",
        }
    }
}

/// Where an operation is; phases follow each other in this order and some are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    WaitingForLock,
    Preparing,
    Transferring,
    SafetyBackup,
    Applying,
    Checking,
    Committing,
    Finishing,
    Done,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::WaitingForLock => "waiting_for_lock",
            Self::Preparing => "preparing",
            Self::Transferring => "transferring",
            Self::SafetyBackup => "safety_backup",
            Self::Applying => "applying",
            Self::Checking => "checking",
            Self::Committing => "committing",
            Self::Finishing => "finishing",
            Self::Done => "done",
        }
    }
}

/// How much is done. `percent` never goes back and is 100 only at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub percent: u8,
    pub completed_bytes: u64,
    /// 0 when unknown.
    pub estimated_bytes: u64,
    pub completed_resources: u32,
    pub total_resources: u32,
    pub current_resource: Option<ResourceName>,
}

/// The state of an operation, whole; it is kept in the database and survives the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    pub kind: Kind,
    pub trigger: Option<Trigger>,
    pub caller: String,
    /// The caller with all that was proven of it, for the events that follow.
    #[serde(default)]
    pub actor: Actor,
    /// gRPC method that started it; empty for what the service does by itself.
    #[serde(default)]
    pub method: String,
    /// Why, as the caller says.
    #[serde(default)]
    pub reason: String,
    pub request_id: String,
    /// The trace of its work, which is that of the call that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<TraceId>,
    /// The backup it works on; a backup has one from the moment its file is known.
    pub target: Option<BackupId>,
    pub create_time: DateTime<Utc>,
    /// When work began, after waiting for the lock.
    pub start_time: Option<DateTime<Utc>>,
    pub end_time: Option<DateTime<Utc>>,
    pub phase: Phase,
    /// One sentence on what happens now.
    pub detail: String,
    pub progress: Progress,
    pub cancel_requested: bool,
    /// Of the maintenance lock it runs under; 0 while it waits.
    pub fencing_token: i64,
    /// Grows by 1 with every change.
    pub revision: i64,
    pub outcome: Option<Outcome>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Backup(Box<BackupResult>),
    Restore(Box<RestoreResult>),
    Preview(Box<RestorePreview>),
    Verify(Box<Verification>),
    Failed(Box<Failure>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupResult {
    pub backup: Backup,
    /// Deleted by retention afterwards.
    pub expired: Vec<BackupId>,
    /// Superfluous, but in use or not removable just now; the next backup tries again.
    pub not_expired: Vec<BackupId>,
    /// What else somebody should know.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreResult {
    pub backup: BackupId,
    pub snapshot_time: DateTime<Utc>,
    pub commit_time: DateTime<Utc>,
    pub changes: Vec<ResourceChange>,
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// Has the data as it was just before; `None` when the caller wanted none.
    #[serde(default)]
    pub safety_backup: Option<BackupId>,
}

/// What a restore would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePreview {
    pub backup: BackupId,
    pub changes: Vec<ResourceChange>,
    pub notices: Vec<Notice>,
    /// Of everything that the preview depends on.
    pub etag: String,
    pub expire_time: DateTime<Utc>,
}

/// What happened to one resource: to the rows of its first table, its items, and to those of all its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceChange {
    pub resource: ResourceName,
    pub items_before: u64,
    pub items_in_backup: u64,
    pub items_removed: u64,
    pub items_added: u64,
    pub items_changed: u64,
    #[serde(default)]
    pub rows_removed: u64,
    #[serde(default)]
    pub rows_added: u64,
    #[serde(default)]
    pub rows_changed: u64,
}

impl Operation {
    /// One that was just accepted, from `caller` at `now`.
    pub fn accepted(id: OperationId, kind: Kind, caller: &Caller, request_id: &str, now: DateTime<Utc>) -> Self {
        Self {
            id,
            kind,
            trigger: None,
            caller: caller.principal().to_owned(),
            actor: caller.actor.clone(),
            method: caller.method.clone(),
            reason: String::new(),
            request_id: request_id.to_owned(),
            trace_id: None,
            target: None,
            create_time: now,
            start_time: None,
            end_time: None,
            phase: Phase::WaitingForLock,
            detail: String::new(),
            progress: Progress::default(),
            cancel_requested: false,
            fencing_token: 0,
            revision: 1,
            outcome: None,
        }
    }

    pub fn done(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether a request to cancel can still have an effect.
    pub fn cancellable(&self) -> bool {
        !self.done() && self.phase < Phase::Committing
    }
}
