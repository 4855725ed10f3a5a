//! What the service on loopback knows about restores: previews in the order in which they come true, and what was restored.

use std::collections::VecDeque;

use std::time::Duration;

use holdfast::grpc::proto::backup::*;
use holdfast::grpc::proto::lock::Lock;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake::{BACKUP, pairs, refusal, state};

pub const PREVIEW: &str = "operations/019c0000-0000-7000-8000-00000000000b";
pub const SAFETY: &str = "backups/b-20260302t020000z-safetyyy";

#[derive(Default)]
pub struct Platform {
    /// The first is what a preview shows. With each restore that is asked for the next comes true, until one is left.
    pub previews: VecDeque<RestorePreview>,
    /// So many previews are refused because too many are made, with this time to wait.
    pub busy: (usize, Duration),
    /// So many answers to a restore are lost.
    pub lost: usize,
    pub restores: Vec<RestoreRequest>,
    pub operations: Vec<Operation>,
    pub resources: Vec<Resource>,
    pub safety: Option<Backup>,
    pub status: SystemStatus,
    pub lock: Lock,
    pub lock_refused: Option<(Code, &'static str)>,
    /// What each watch of the lock sends.
    pub watched: VecDeque<Vec<Lock>>,
}

impl Platform {
    pub fn rehearse(&mut self) -> Result<Operation, Status> {
        if self.busy.0 > 0 {
            self.busy.0 -= 1;
            let mut details = ErrorDetails::with_error_info("RATE_LIMITED", "backup.holdfast", pairs(&[]));
            details.set_retry_info(Some(self.busy.1));
            return Err(Status::with_error_details(Code::ResourceExhausted, "Too many previews.", details));
        }
        Ok(Operation { name: PREVIEW.into(), ..state(1, None) })
    }

    pub fn rehearsed(&self) -> Operation {
        let preview = self.previews.front().cloned().unwrap_or_else(|| preview("1", vec![]));
        Operation { name: PREVIEW.into(), ..state(4, Some(operation::Result::Preview(preview))) }
    }

    pub fn restore(&mut self, request: RestoreRequest) -> Result<Operation, Status> {
        self.restores.push(request.clone());
        if self.lost > 0 {
            self.lost -= 1;
            return Err(Status::unavailable("gone"));
        }
        if self.previews.len() > 1 {
            self.previews.pop_front();
        }
        let now = self.previews.front().cloned().unwrap_or_else(|| preview("1", vec![]));
        if !request.preview_etag.is_empty() && now.etag != request.preview_etag {
            return Err(refusal(Code::Aborted, "PREVIEW_STALE"));
        }
        let accepted = |notice: &&Notice| {
            request.acknowledged_warnings.contains(&notice.code) || request.acknowledged_reasons.contains(&notice.reason)
        };
        if now.warnings.iter().any(|notice| notice.severity() == notice::Severity::Refusal) {
            return Ok(failed("RESTORE_CONSTRAINT_VIOLATION", &[]));
        }
        let blocking = now.warnings.iter().filter(|notice| notice.severity() == notice::Severity::Blocking);
        let open: Vec<&str> = blocking.filter(|notice| !accepted(notice)).map(|notice| notice.reason.as_str()).collect();
        if !open.is_empty() {
            return Ok(failed("WARNINGS_NOT_ACKNOWLEDGED", &[("warnings", &open.join(", "))]));
        }
        let safety_backup = if request.skip_safety_backup { "" } else { SAFETY }.to_owned();
        Ok(restored(&request.name, &safety_backup))
    }
}

/// A restore that ended with an error and changed nothing.
pub fn failed(reason: &str, metadata: &[(&str, &str)]) -> Operation {
    let error = OperationError {
        code: Code::FailedPrecondition as i32,
        message: "Not restored.".into(),
        reason: reason.into(),
        metadata: pairs(metadata),
        ..OperationError::default()
    };
    let mut operation = state(9, Some(operation::Result::Error(error)));
    operation.metadata.get_or_insert_default().r#type = OperationType::Restore.into();
    operation
}

pub fn restored(backup: &str, safety_backup: &str) -> Operation {
    let result = RestoreResult {
        backup: backup.into(),
        changes: vec![change("adapters", 4)],
        notices: vec![notice(notice::Severity::Warning, NoticeCode::AdapterTypeNotInstalled, "", "mail")],
        safety_backup: safety_backup.into(),
        ..RestoreResult::default()
    };
    let mut operation = state(9, Some(operation::Result::Restore(result)));
    let about = operation.metadata.get_or_insert_default();
    (about.caller, about.r#type) = ("alice".into(), OperationType::Restore.into());
    operation
}

pub fn preview(etag: &str, warnings: Vec<Notice>) -> RestorePreview {
    RestorePreview {
        backup: BACKUP.into(),
        restorable: warnings.iter().all(|notice| notice.severity < notice::Severity::Blocking as i32),
        changes: vec![change("adapters", 4)],
        warnings,
        etag: etag.into(),
        expire_time: None,
    }
}

pub fn change(resource: &str, before: i64) -> ResourceChange {
    let action = resource_change::Action::Replace.into();
    ResourceChange {
        resource: format!("resources/{resource}"),
        action,
        items_before: before,
        rows_added: 17,
        ..Default::default()
    }
}

/// With a code of the contract, or (`Other`) a reason of the catalog.
pub fn notice(severity: notice::Severity, code: NoticeCode, reason: &str, subject: &str) -> Notice {
    let known = code.as_str_name().trim_start_matches("NOTICE_CODE_");
    Notice {
        severity: severity.into(),
        code: code.into(),
        reason: if reason.is_empty() { known } else { reason }.to_owned(),
        subject: subject.into(),
        message: format!("{subject} is concerned."),
        instructions: format!("Look after {subject}."),
        ..Notice::default()
    }
}

pub fn safety() -> Backup {
    Backup { name: SAFETY.into(), state: backup::State::Ready.into(), trigger: Trigger::Safety.into(), ..Backup::default() }
}
