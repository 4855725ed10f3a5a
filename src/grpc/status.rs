//! The one place where a failure becomes what goes over the wire: a gRPC status, or the error of an operation.
//!
//! Both say the same. A cause never gets here; a reason does, with the code that the contract states for it.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{Span, debug, error, warn};

use super::convert::fields::duration;
use super::proto::backup::{ErrorReason, OperationError};
use crate::model::{Failure, Reason};
use crate::{operations, telemetry};

/// `ErrorInfo.domain` of every error of this service.
pub const DOMAIN: &str = "backup.holdfast";

/// Errors travel in trailers, and large ones hit the header limits of clients (grpc.io, "Error handling").
const MAX_TEXT: usize = 512;
const MAX_METADATA: usize = 1024;

/// The code and the published name of each reason (`error_reason.proto`).
pub fn published(reason: Reason) -> (Code, ErrorReason) {
    match reason {
        Reason::InvalidField => (Code::InvalidArgument, ErrorReason::InvalidField),
        Reason::InvalidPageToken => (Code::InvalidArgument, ErrorReason::InvalidPageToken),
        Reason::RequestIdReused => (Code::InvalidArgument, ErrorReason::RequestIdReused),
        Reason::PassphraseRequired => (Code::InvalidArgument, ErrorReason::PassphraseRequired),
        Reason::PassphraseIncorrect => (Code::InvalidArgument, ErrorReason::PassphraseIncorrect),
        Reason::PassphraseTooWeak => (Code::InvalidArgument, ErrorReason::PassphraseTooWeak),
        Reason::SecretKeyRequired => (Code::InvalidArgument, ErrorReason::SecretKeyRequired),
        Reason::SecretKeyIncorrect => (Code::InvalidArgument, ErrorReason::SecretKeyIncorrect),
        Reason::RecipientsMissing => (Code::FailedPrecondition, ErrorReason::RecipientsMissing),
        Reason::NotABackupFile => (Code::InvalidArgument, ErrorReason::NotABackupFile),
        Reason::CredentialsMissing => (Code::Unauthenticated, ErrorReason::CredentialsMissing),
        Reason::CredentialsInvalid => (Code::Unauthenticated, ErrorReason::CredentialsInvalid),
        Reason::PermissionMissing => (Code::PermissionDenied, ErrorReason::PermissionMissing),
        Reason::TransportNotSecure => (Code::FailedPrecondition, ErrorReason::TransportNotSecure),
        Reason::RateLimited => (Code::ResourceExhausted, ErrorReason::RateLimited),
        Reason::IdentityUnavailable => (Code::Unavailable, ErrorReason::IdentityUnavailable),
        Reason::CallTimedOut => (Code::DeadlineExceeded, ErrorReason::CallTimedOut),
        Reason::BackupNotFound => (Code::NotFound, ErrorReason::BackupNotFound),
        Reason::OperationNotFound => (Code::NotFound, ErrorReason::OperationNotFound),
        Reason::ResourceUnknown => (Code::NotFound, ErrorReason::ResourceUnknown),
        Reason::SoftwareUpdateInProgress => (Code::FailedPrecondition, ErrorReason::SoftwareUpdateInProgress),
        Reason::OperationInProgress => (Code::Aborted, ErrorReason::OperationInProgress),
        Reason::LeaseLost => (Code::Aborted, ErrorReason::LeaseLost),
        Reason::LockServiceUnavailable => (Code::Unavailable, ErrorReason::LockServiceUnavailable),
        Reason::LockServiceUnusable => (Code::FailedPrecondition, ErrorReason::LockServiceUnusable),
        Reason::OperationNotCancellable => (Code::FailedPrecondition, ErrorReason::OperationNotCancellable),
        Reason::BackupInUse => (Code::FailedPrecondition, ErrorReason::BackupInUse),
        Reason::BackupAlreadyExists => (Code::AlreadyExists, ErrorReason::BackupAlreadyExists),
        Reason::BackupNotReady => (Code::FailedPrecondition, ErrorReason::BackupNotReady),
        Reason::ScheduleDisabled => (Code::FailedPrecondition, ErrorReason::ScheduleDisabled),
        Reason::ScheduleDrivenInternally => (Code::FailedPrecondition, ErrorReason::ScheduleDrivenInternally),
        Reason::WarningsNotAcknowledged => (Code::FailedPrecondition, ErrorReason::WarningsNotAcknowledged),
        Reason::PreviewStale => (Code::Aborted, ErrorReason::PreviewStale),
        Reason::EtagMismatch => (Code::Aborted, ErrorReason::EtagMismatch),
        Reason::BackupIncompatible => (Code::FailedPrecondition, ErrorReason::BackupIncompatible),
        Reason::ResourceNotInBackup => (Code::FailedPrecondition, ErrorReason::ResourceNotInBackup),
        Reason::Interrupted => (Code::Aborted, ErrorReason::Interrupted),
        Reason::CancelledByCaller => (Code::Cancelled, ErrorReason::CancelledByCaller),
        Reason::OperationTimedOut => (Code::DeadlineExceeded, ErrorReason::OperationTimedOut),
        Reason::TransferTimedOut => (Code::DeadlineExceeded, ErrorReason::TransferTimedOut),
        Reason::StorageFull => (Code::ResourceExhausted, ErrorReason::StorageFull),
        Reason::StorageUnavailable => (Code::Unavailable, ErrorReason::StorageUnavailable),
        Reason::ArchiveUnavailable => (Code::Unavailable, ErrorReason::ArchiveUnavailable),
        Reason::DatabaseUnavailable => (Code::Unavailable, ErrorReason::DatabaseUnavailable),
        Reason::ServerDraining => (Code::Unavailable, ErrorReason::ServerDraining),
        Reason::BackupCorrupted => (Code::DataLoss, ErrorReason::BackupCorrupted),
        Reason::BackupFileMissing => (Code::DataLoss, ErrorReason::BackupFileMissing),
        Reason::RestoreConstraintViolation => (Code::FailedPrecondition, ErrorReason::RestoreConstraintViolation),
        Reason::OffsetOutOfRange => (Code::OutOfRange, ErrorReason::OffsetOutOfRange),
        Reason::CatalogMismatch => (Code::FailedPrecondition, ErrorReason::CatalogMismatch),
        Reason::TablesLocked => (Code::Aborted, ErrorReason::TablesLocked),
        Reason::RestoreNotExact => (Code::FailedPrecondition, ErrorReason::RestoreNotExact),
        Reason::SealKeyMismatch => (Code::FailedPrecondition, ErrorReason::SealKeyMismatch),
        Reason::Internal => (Code::Internal, ErrorReason::Internal),
    }
}

/// As it stands in `ErrorInfo.reason`, for example `BACKUP_NOT_FOUND`.
pub fn published_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let failure = bounded(failure);
        let (code, reason) = published(failure.reason);
        let name = published_name(reason);
        let mut details = ErrorDetails::new();
        details.set_error_info(name, DOMAIN, failure.metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
        if let Some(field) = &failure.field {
            details.add_bad_request_violation(field, &failure.message);
        }
        // What the log tells of it is found by this.
        if let (Reason::Internal, Some(trace)) = (failure.reason, telemetry::trace_id(&Span::current())) {
            details.set_request_info(trace.to_string(), "");
        }
        if let Some(delay) = failure.retry_after {
            details.set_retry_info(Some(delay));
        }
        let subject = failure.subject.unwrap_or_default();
        for (kind, message) in &failure.violations {
            details.add_precondition_failure_violation(kind, &subject, message);
        }
        if code == Code::FailedPrecondition && failure.violations.is_empty() {
            details.add_precondition_failure_violation(name, &subject, &failure.message);
        }
        if code == Code::ResourceExhausted {
            details.add_quota_failure_violation(&subject, &failure.message);
        }
        if !subject.is_empty() {
            details.set_resource_info(resource_type(&subject), &subject, "", "");
        }
        let message = [failure.message, failure.instructions].join(" ");
        Self::with_error_details(code, message.trim_end(), details)
    }
}

impl From<operations::Error> for Status {
    fn from(error: operations::Error) -> Self {
        error.failure().into()
    }
}

impl From<Failure> for OperationError {
    fn from(failure: Failure) -> Self {
        let failure = bounded(failure);
        let (code, reason) = published(failure.reason);
        Self {
            code: code as i32,
            message: failure.message,
            reason: published_name(reason).into(),
            domain: DOMAIN.into(),
            metadata: failure.metadata.into_iter().collect(),
            retry_delay: failure.retry_after.map(duration),
            instructions: failure.instructions,
        }
    }
}

/// For calls that only the host of the lock can answer.
pub fn hosted_elsewhere() -> Status {
    let message = "Another service hosts the maintenance lock of this installation: send this call to it.";
    with_reason(Code::Unimplemented, ErrorReason::NotServed, message)
}

/// What the transport refused by itself, before a handler saw it, with a reason like every other error: a message that is
/// malformed, missing, too large or compressed.
pub fn of_transport(status: &Status) -> Option<Status> {
    match status.code() {
        _ if status.get_details_error_info().is_some() => None,
        Code::Unimplemented => Some(with_reason(Code::Unimplemented, ErrorReason::NotServed, status.message())),
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            let message = "The message of the call cannot be read: it is missing, malformed, or larger than accepted.";
            Some(with_reason(Code::InvalidArgument, ErrorReason::InvalidField, message))
        }
        _ => None,
    }
}

fn with_reason(code: Code, reason: ErrorReason, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(published_name(reason), DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The failure without what is too large to travel, and a bug without anything that could tell of the inside.
fn bounded(failure: Failure) -> Failure {
    if failure.reason == Reason::Internal {
        return Failure::new(Reason::Internal, "An error inside the service; its log tells more.");
    }
    let mut left = MAX_METADATA;
    let mut metadata = failure.metadata;
    metadata.values_mut().for_each(|value| cut(value, MAX_TEXT / 2));
    metadata.retain(|key, value| {
        let size = key.len() + value.len();
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    let short = |mut text: String, limit| {
        cut(&mut text, limit);
        text
    };
    Failure {
        reason: failure.reason,
        message: short(failure.message, MAX_TEXT),
        metadata,
        field: failure.field.map(|field| short(field, MAX_TEXT / 4)),
        subject: failure.subject.map(|subject| short(subject, MAX_TEXT / 4)),
        retry_after: failure.retry_after,
        instructions: short(failure.instructions, MAX_TEXT),
        violations: failure.violations.into_iter().take(8).map(|(kind, text)| (kind, short(text, MAX_TEXT / 2))).collect(),
    }
}

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit - '…'.len_utf8()));
        text.push('…');
    }
}

fn resource_type(subject: &str) -> &'static str {
    match subject.split_once('/') {
        Some(("backups", _)) => "holdfast.backup.v1.Backup",
        Some(("operations", _)) => "holdfast.backup.v1.Operation",
        Some(("resources", _)) => "holdfast.backup.v1.Resource",
        Some(("locks", _)) => "holdfast.lock.v1.Lock",
        _ => "",
    }
}

/// Logs a call that did not succeed: who is at fault decides the level. Neither the request nor the message is logged,
/// because a message may repeat what was sent.
pub fn log(method: &str, status: &Status) {
    let info = status.get_details_error_info();
    let reason = info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason);
    match status.code() {
        Code::Ok => {}
        Code::Internal | Code::Unknown => error!(method, reason, "call failed"),
        Code::Unavailable | Code::DataLoss | Code::ResourceExhausted => warn!(method, reason, "call refused"),
        _ => debug!(method, reason, "call refused"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONTRACT: &str = include_str!("../../proto/holdfast/backup/v1/error_reason.proto");

    /// Name of each value of the contract, and the word that its comment begins with.
    fn contract() -> Vec<(&'static str, &'static str)> {
        let (mut values, mut comment) = (Vec::new(), None);
        for line in CONTRACT.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("// ") {
                comment = comment.or(text.split_once('.').map(|(code, _)| code));
            } else if let Some((name, _)) = line.strip_prefix("ERROR_REASON_").and_then(|value| value.split_once(' ')) {
                values.extend(comment.take().map(|code| (name, code)));
            } else {
                comment = None;
            }
        }
        values
    }

    /// `FailedPrecondition` as `FAILED_PRECONDITION`.
    fn stated(code: Code) -> String {
        let text = format!("{code:?}");
        let upper = |(place, c): (usize, char)| (place > 0 && c.is_uppercase()).then_some('_').into_iter().chain([c]);
        text.chars().enumerate().flat_map(upper).collect::<String>().to_uppercase()
    }

    #[test]
    fn every_reason_is_published_under_its_name_with_the_code_the_contract_states() {
        let model = include_str!("../model/failure.rs").split_once("pub enum Reason {").unwrap().1.split_once('}').unwrap().0;
        let mut reasons = model.lines().filter(|line| line.trim().ends_with(',')).count();
        for (name, code) in contract() {
            let Ok(reason) = serde_json::from_value::<Reason>(name.into()) else { continue };
            let (published_code, value) = published(reason);
            assert_eq!((published_name(value), stated(published_code).as_str()), (name, code));
            reasons -= 1;
        }
        assert_eq!(reasons, 0, "so many reasons of the model are not in error_reason.proto");
    }

    #[test]
    fn a_failure_tells_all_it_knows() {
        let failure = Failure::new(Reason::SoftwareUpdateInProgress, "A software update is running.")
            .with("holder", "update-service")
            .subject("locks/platform-maintenance")
            .retry_after(Duration::from_secs(30))
            .instructions("Wait for its end.");
        let status = Status::from(failure.clone());
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "A software update is running. Wait for its end.");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SOFTWARE_UPDATE_IN_PROGRESS", DOMAIN));
        assert_eq!(info.metadata["holder"], "update-service");
        assert_eq!(details.precondition_failure().unwrap().violations[0].subject, "locks/platform-maintenance");
        assert_eq!(details.resource_info().unwrap().resource_type, "holdfast.lock.v1.Lock");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(30)));

        let error = OperationError::from(failure);
        assert_eq!((error.code, error.reason.as_str()), (9, "SOFTWARE_UPDATE_IN_PROGRESS"));
        assert_eq!(error.retry_delay.unwrap().seconds, 30);
        assert_eq!(error.instructions, "Wait for its end.");
    }

    #[test]
    fn a_bug_tells_nothing_but_that_it_is_one() {
        let failure = Failure::new(Reason::Internal, "select * from account").with("path", "/backups/x").field("name");
        let status = Status::from(failure.clone());
        let text = format!("{status:?} {:?}", OperationError::from(failure));
        assert!(!text.contains("account") && !text.contains("/backups/x"), "{text}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
        assert!(status.get_details_bad_request().is_none());
    }

    #[test]
    fn errors_stay_small_enough_for_trailers() {
        let long = "ß".repeat(5000);
        let mut failure = Failure::new(Reason::TransportNotSecure, &long).field(&long).subject(&long).instructions(&long);
        for number in 0..100 {
            failure = failure.with(&format!("key{number}"), &long);
        }
        let status = Status::from(failure);
        assert!(status.details().len() < 4096, "{}", status.details().len());
        assert!(!status.get_details_error_info().unwrap().metadata.is_empty());
    }
}
