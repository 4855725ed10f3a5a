//! Operations, how they ended, and the state of the whole system.

use std::time::Duration;

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::backup::{backup, trigger, verify_level};
use super::fields::{
    backup_name, int32, int64, operation_id, operation_name, page_place, page_size, page_token, resource_name, span, timestamp,
};
use crate::grpc::proto::backup as wire;
use crate::model::archive::ArchiveFacts;
use crate::model::notice::{Severity, in_the_way};
use crate::model::operation::{
    BackupResult, Kind, Operation, Outcome, Phase, Progress, ResourceChange, RestorePreview, RestoreResult,
};
use crate::model::verification::{Check, Verification};
use crate::model::{Failure, Notice, OperationId};
use crate::operations::call::SystemStatus;

const API_VERSION: &str = "v1";

/// The operation that was started, or one that is done and has no name when the request was only to be validated.
pub fn accepted(started: Option<Operation>, kind: Kind) -> wire::Operation {
    started.map_or_else(
        || wire::Operation {
            name: String::new(),
            metadata: Some(wire::OperationMetadata {
                r#type: operation_type(kind).into(),
                api_version: API_VERSION.into(),
                ..Default::default()
            }),
            done: true,
            result: None,
        },
        operation,
    )
}

pub fn operation(operation: Operation) -> wire::Operation {
    let metadata = wire::OperationMetadata {
        create_time: Some(timestamp(operation.create_time)),
        end_time: operation.end_time.map(timestamp),
        target: operation.target.as_ref().map(backup_name).unwrap_or_default(),
        r#type: operation_type(operation.kind).into(),
        cancellable: operation.cancellable(),
        status_detail: operation.detail,
        cancel_requested: operation.cancel_requested,
        api_version: API_VERSION.into(),
        start_time: operation.start_time.map(timestamp),
        phase: phase(operation.phase).into(),
        progress: Some(progress(operation.progress)),
        trigger: operation.trigger.map_or(wire::Trigger::Unspecified, trigger).into(),
        caller: operation.caller,
        request_id: operation.request_id,
        fencing_token: operation.fencing_token,
        revision: operation.revision,
        trace_id: operation.trace_id.map(|id| id.to_string()).unwrap_or_default(),
    };
    wire::Operation {
        name: operation_name(operation.id),
        metadata: Some(metadata),
        done: operation.outcome.is_some(),
        result: operation.outcome.map(outcome),
    }
}

/// Why an operation failed.
pub fn failure(operation: &Operation) -> Option<&Failure> {
    match operation.outcome.as_ref()? {
        Outcome::Failed(failure) => Some(failure),
        Outcome::Backup(_) | Outcome::Restore(_) | Outcome::Preview(_) | Outcome::Verify(_) => None,
    }
}

fn operation_type(kind: Kind) -> wire::OperationType {
    match kind {
        Kind::Backup => wire::OperationType::Backup,
        Kind::Restore => wire::OperationType::Restore,
        Kind::Preview => wire::OperationType::Preview,
        Kind::Verify | Kind::Rehearsal => wire::OperationType::Verify,
    }
}

fn phase(phase: Phase) -> wire::OperationPhase {
    match phase {
        Phase::WaitingForLock => wire::OperationPhase::WaitingForLock,
        Phase::Preparing => wire::OperationPhase::Preparing,
        Phase::SafetyBackup => wire::OperationPhase::SafetyBackup,
        Phase::Transferring => wire::OperationPhase::Transferring,
        Phase::Applying => wire::OperationPhase::Applying,
        Phase::Checking => wire::OperationPhase::Checking,
        Phase::Committing => wire::OperationPhase::Committing,
        Phase::Finishing => wire::OperationPhase::Finishing,
        Phase::Done => wire::OperationPhase::Done,
    }
}

fn progress(progress: Progress) -> wire::Progress {
    wire::Progress {
        percent: progress.percent.into(),
        completed_bytes: int64(progress.completed_bytes),
        estimated_bytes: int64(progress.estimated_bytes),
        completed_resources: int32(progress.completed_resources),
        total_resources: int32(progress.total_resources),
        current_resource: progress.current_resource.as_ref().map(resource_name).unwrap_or_default(),
        estimated_remaining: None,
    }
}

fn outcome(outcome: Outcome) -> wire::operation::Result {
    match outcome {
        Outcome::Backup(result) => wire::operation::Result::Backup(backup_result(*result)),
        Outcome::Restore(result) => wire::operation::Result::Restore(restore_result(*result)),
        Outcome::Preview(preview) => wire::operation::Result::Preview(restore_preview(*preview)),
        Outcome::Verify(found) => wire::operation::Result::Verify(verify_result(*found)),
        Outcome::Failed(failure) => wire::operation::Result::Error((*failure).into()),
    }
}

fn verify_result(found: Verification) -> wire::VerifyResult {
    let check = |check: &Check| wire::verify_result::Check {
        name: check.aspect.word().to_owned(),
        passed: check.passed,
        detail: check.detail.clone(),
    };
    wire::VerifyResult {
        backup: backup_name(&found.backup),
        level: verify_level(found.level).into(),
        valid: found.valid(),
        checks: found.checks.iter().map(check).collect(),
        notices: found.notices.into_iter().map(notice).collect(),
    }
}

fn backup_result(result: BackupResult) -> wire::BackupResult {
    let expired = result.expired.iter().map(backup_name).map(|name| {
        let message = format!("{name} was deleted: more backups than are to be kept.");
        Notice::new(Severity::Info, "BACKUP_EXPIRED", message).about(name)
    });
    let not_expired = result.not_expired.iter().map(backup_name).map(|name| {
        let message = format!("{name} is superfluous but could not be deleted.");
        let notice = Notice::new(Severity::Warning, "RETENTION_INCOMPLETE", message).about(name);
        notice.instructions("The next backup tries again.")
    });
    let plain = !result.backup.encrypted();
    let plain = plain.then(|| Notice::new(Severity::Info, "NOT_ENCRYPTED", "The file is not encrypted."));
    let notices = expired.chain(not_expired).chain(plain).chain(result.notices).map(notice).collect();
    let expired_backups = result.expired.iter().map(backup_name).collect();
    wire::BackupResult { backup: Some(backup(result.backup)), expired_backups, notices }
}

fn restore_result(result: RestoreResult) -> wire::RestoreResult {
    wire::RestoreResult {
        backup: backup_name(&result.backup),
        snapshot_time: Some(timestamp(result.snapshot_time)),
        commit_time: Some(timestamp(result.commit_time)),
        notices: result.notices.into_iter().map(notice).collect(),
        changes: result.changes.iter().map(change).collect(),
        safety_backup: result.safety_backup.as_ref().map(backup_name).unwrap_or_default(),
    }
}

fn restore_preview(preview: RestorePreview) -> wire::RestorePreview {
    wire::RestorePreview {
        backup: backup_name(&preview.backup),
        restorable: in_the_way(&preview.notices, &[]).is_empty(),
        changes: preview.changes.iter().map(change).collect(),
        warnings: preview.notices.into_iter().map(notice).collect(),
        etag: preview.etag,
        expire_time: Some(timestamp(preview.expire_time)),
    }
}

pub fn notice(notice: Notice) -> wire::Notice {
    let severity = match notice.severity {
        Severity::Info => wire::notice::Severity::Info,
        Severity::Warning => wire::notice::Severity::Warning,
        Severity::Blocking => wire::notice::Severity::Blocking,
        Severity::Refusal => wire::notice::Severity::Refusal,
    };
    wire::Notice {
        severity: severity.into(),
        code: notice_code(&notice.reason).into(),
        resource: notice.resource.as_ref().map(resource_name).unwrap_or_default(),
        subject: notice.subject,
        message: notice.message,
        instructions: notice.instructions,
        metadata: notice.metadata.into_iter().collect(),
        reason: notice.reason,
    }
}

/// The code of a reason; `Other` for those that only the catalog knows.
pub fn notice_code(reason: &str) -> wire::NoticeCode {
    wire::NoticeCode::from_str_name(&format!("NOTICE_CODE_{reason}")).unwrap_or(wire::NoticeCode::Other)
}

fn change(change: &ResourceChange) -> wire::ResourceChange {
    let action = match change.items_in_backup {
        0 => wire::resource_change::Action::Clear,
        _ => wire::resource_change::Action::Replace,
    };
    wire::ResourceChange {
        resource: resource_name(&change.resource),
        action: action.into(),
        items_before: int64(change.items_before),
        items_in_backup: int64(change.items_in_backup),
        items_removed: int64(change.items_removed),
        items_added: int64(change.items_added),
        items_changed: int64(change.items_changed),
        rows_removed: int64(change.rows_removed),
        rows_added: int64(change.rows_added),
        rows_changed: int64(change.rows_changed),
    }
}

/// Page size, the operation before which the page begins, and whether only active ones are meant.
pub fn list_request(request: &wire::ListOperationsRequest) -> Result<(u32, Option<OperationId>, bool), Status> {
    let before = page_place(list(request.active_only), &request.page_token)?;
    Ok((page_size(request.page_size, 50, 500)?, before, request.active_only))
}

pub fn list_response(operations: Vec<Operation>, next: Option<OperationId>, active_only: bool) -> wire::ListOperationsResponse {
    wire::ListOperationsResponse {
        operations: operations.into_iter().map(operation).collect(),
        next_page_token: next.map(|next| page_token(list(active_only), next)).unwrap_or_default(),
    }
}

/// A token belongs to one of the two lists.
fn list(active_only: bool) -> &'static str {
    if active_only { "operations-active" } else { "operations" }
}

/// Which operation to wait for, and for how long: what was asked for, but no longer than the call may take.
pub fn wait_request(request: &wire::WaitOperationRequest, metadata: &MetadataMap) -> Result<(OperationId, Duration), Status> {
    const DEFAULT: Duration = Duration::from_secs(60);
    const MAX: Duration = Duration::from_secs(600);
    let id = operation_id("name", &request.name)?;
    let asked = request.timeout.map_or(Ok(DEFAULT), |timeout| span("timeout", timeout))?.min(MAX);
    let deadline = metadata.get("grpc-timeout").and_then(|value| call_timeout(value.to_str().ok()?));
    // The answer has to be there before the deadline, or the caller gets none.
    let deadline = deadline.map(|deadline| deadline.saturating_sub((deadline / 10).min(Duration::from_secs(1))));
    Ok((id, deadline.map_or(asked, |deadline| asked.min(deadline))))
}

/// The `grpc-timeout` of a call (gRPC over HTTP/2, "Requests": at most 8 digits and a unit).
fn call_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit).filter(|digits| digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

pub fn system_status(status: SystemStatus) -> wire::SystemStatus {
    let (backup_possible, restore_possible) = (status.backup_obstacles.is_empty(), status.restore_obstacles.is_empty());
    let mut obstacles = status.backup_obstacles;
    for obstacle in status.restore_obstacles {
        if !obstacles.contains(&obstacle) {
            obstacles.push(obstacle);
        }
    }
    let (latest_backup, latest_snapshot_time) = status.latest.unzip();
    wire::SystemStatus {
        backup_possible,
        restore_possible,
        obstacles: obstacles.into_iter().map(Into::into).collect(),
        active_operations: status.active.into_iter().map(operation).collect(),
        latest_backup: latest_backup.as_ref().map(backup_name).unwrap_or_default(),
        latest_snapshot_time: latest_snapshot_time.flatten().map(timestamp),
        next_run_time: status.next_run.map(timestamp),
        encryption_enabled: status.encryption_enabled,
        backup_count: int32(status.backup_count),
        storage_total_bytes: int64(status.storage_total_bytes),
        storage_available_bytes: int64(status.storage_available_bytes),
        storage_used_bytes: int64(status.storage_used_bytes),
        server_version: env!("CARGO_PKG_VERSION").into(),
        system_id: status.system_id.to_string(),
        archive: status.archive.map(archive_status),
    }
}

fn archive_status(facts: ArchiveFacts) -> wire::ArchiveStatus {
    let (error, failing_since_time) = facts.failure.unzip();
    wire::ArchiveStatus {
        url: facts.url,
        backup_count: int32(facts.count),
        newest_snapshot_time: facts.newest_snapshot_time.map(timestamp),
        backlog_count: int32(facts.backlog),
        oldest_waiting_time: facts.oldest_waiting_time.map(timestamp),
        error: error.map(Into::into),
        failing_since_time: failing_since_time.map(timestamp),
    }
}

#[cfg(test)]
mod tests;
