//! Why LockService refuses, as statuses of the domain `lock.holdfast`, in both directions.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::grpc::proto::lock::ErrorReason;
use crate::grpc::status::hosted_elsewhere;
use crate::lock::Error;
use crate::model::lock::{ExpiryPolicy, Holder, NAME, Purpose};

const DOMAIN: &str = "lock.holdfast";
const SOON: Duration = Duration::from_secs(2);

fn status(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> (Status, ErrorDetails) {
    let mut details = ErrorDetails::with_error_info(name(reason), DOMAIN, metadata);
    details.set_resource_info("holdfast.lock.v1.Lock", NAME, "", "");
    (Status::new(code, message), details)
}

fn finish((status, details): (Status, ErrorDetails)) -> Status {
    Status::with_error_details(status.code(), status.message(), details)
}

fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let (status, mut details) = status(Code::InvalidArgument, ErrorReason::InvalidField, &message, HashMap::new());
    details.add_bad_request_violation(field, &message);
    finish((status, details))
}

pub fn unknown(lock: &str) -> Status {
    let lock: String = lock.chars().take(80).collect();
    let message = format!("There is no lock {lock:?}; the only one is {NAME}.");
    finish(status(Code::NotFound, ErrorReason::LockUnknown, message, HashMap::new()))
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Held(holder) if holder.stale => {
                let message = format!(
                    "{} has the lock since {} and has stopped renewing it: {} Only {} itself, or an administrator with ForceReleaseLock \
                     and fencing token {}, ends this.",
                    holder.principal,
                    rfc3339(holder.acquire_time),
                    sentence(&holder.reason),
                    holder.holder_id,
                    holder.fencing_token
                );
                let (status, mut details) = status(Code::FailedPrecondition, ErrorReason::LockStale, &message, metadata(&holder));
                details.add_precondition_failure_violation(name(ErrorReason::LockStale), NAME, &message);
                finish((status, details))
            }
            Error::Awaited(update) => {
                let (who, since) = (&update.principal, rfc3339(update.acquire_time));
                let message = format!("{who} waits for the lock since {since}, and comes first: {}", sentence(&update.reason));
                finish(status(Code::Aborted, ErrorReason::LockHeld, message, metadata(&update)))
            }
            Error::RequestIdReused => {
                let message = "The caller has the lock under this `request_id`, with another holder_id, purpose or expiry_policy. \
                               Send what was sent the first time, or another `request_id`.";
                invalid("request_id", message)
            }
            Error::Held(holder) => {
                let message = format!(
                    "{} has the lock since {}, until {} unless it renews it: {}",
                    holder.principal,
                    rfc3339(holder.acquire_time),
                    rfc3339(holder.expire_time),
                    sentence(&holder.reason)
                );
                finish(status(Code::Aborted, ErrorReason::LockHeld, message, metadata(&holder)))
            }
            Error::Draining => {
                let message = "The lease of the holder before is over, and its last transaction is still being rolled back.";
                let (status, mut details) = status(Code::Aborted, ErrorReason::PreviousHolderDraining, message, HashMap::new());
                details.set_retry_info(Some(SOON));
                finish((status, details))
            }
            Error::Lost => {
                let message = "This lease is over: the lock was granted to somebody else, or taken away. Stop, and roll back.";
                finish(status(Code::Aborted, ErrorReason::LeaseLost, message, HashMap::new()))
            }
            Error::TokenMismatch => {
                let message = "No present holder has this fencing token. Look at the lock again before you take it from anybody.";
                finish(status(Code::Aborted, ErrorReason::FencingTokenMismatch, message, HashMap::new()))
            }
            Error::Unavailable(cause) => {
                tracing::warn!(error = &*cause as &dyn std::error::Error, "the lock cannot be reached");
                let message = "The store of the locks does not answer; nobody is granted anything.";
                let (status, mut details) = status(Code::Unavailable, ErrorReason::StoreUnavailable, message, HashMap::new());
                details.set_retry_info(Some(SOON));
                finish((status, details))
            }
            Error::Unusable(_) => {
                let message = "The service that hosts the lock cannot be used; the log tells more.";
                finish(status(Code::Unavailable, ErrorReason::StoreUnavailable, message, HashMap::new()))
            }
            Error::Elsewhere => hosted_elsewhere(),
        }
    }
}

fn metadata(holder: &Holder) -> HashMap<String, String> {
    let pairs = [
        ("holder", holder.principal.clone()),
        ("holderId", holder.holder_id.clone()),
        ("purpose", holder.purpose.word().to_owned()),
        ("reason", holder.reason.clone()),
        ("operation", holder.operation.clone()),
        ("fencingToken", holder.fencing_token.to_string()),
        ("acquireTime", rfc3339(holder.acquire_time)),
        ("renewTime", rfc3339(holder.renew_time)),
        ("expireTime", rfc3339(holder.expire_time)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What another service that hosts the lock refuses with. Whatever is not of the contract grants nothing.
pub fn refusal(status: &Status) -> Error {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    let reason = info.as_ref().map(|info| info.reason.as_str()).unwrap_or_default();
    let is = |known: ErrorReason| reason == name(known);
    match (status.code(), info.as_ref()) {
        (Code::Aborted, Some(info)) if is(ErrorReason::LockHeld) => Error::Held(Box::new(holder(&info.metadata, false))),
        (Code::FailedPrecondition, Some(info)) if is(ErrorReason::LockStale) => {
            Error::Held(Box::new(holder(&info.metadata, true)))
        }
        (Code::Aborted, _) if is(ErrorReason::PreviousHolderDraining) => Error::Draining,
        (Code::Aborted, _) if is(ErrorReason::LeaseLost) => Error::Lost,
        (Code::Aborted, _) if is(ErrorReason::FencingTokenMismatch) => Error::TokenMismatch,
        // What passes, at the host or on the way to it.
        (
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
            | Code::ResourceExhausted,
            _,
        ) => Error::Unavailable(status.clone().into()),
        (code, _) => {
            let known = ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}")).map_or("no reason of the contract", name);
            Error::Unusable(format!("it answers {code:?} ({known})"))
        }
    }
}

fn holder(metadata: &HashMap<String, String>, stale: bool) -> Holder {
    let text = |key: &str| {
        metadata.get(key).map(|text| text.chars().filter(|c| !c.is_control()).take(256).collect()).unwrap_or_default()
    };
    let time = |key: &str| {
        let time = metadata.get(key).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        time.map(|time| time.to_utc()).unwrap_or_default()
    };
    Holder {
        principal: text("holder"),
        holder_id: text("holderId"),
        purpose: Purpose::parse(text("purpose").trim_start_matches("LOCK_PURPOSE_")).unwrap_or(Purpose::Maintenance),
        reason: text("reason"),
        operation: text("operation"),
        fencing_token: text("fencingToken").parse().unwrap_or_default(),
        acquire_time: time("acquireTime"),
        renew_time: time("renewTime"),
        expire_time: time("expireTime"),
        expiry_policy: if stale { ExpiryPolicy::Hold } else { ExpiryPolicy::Release },
        stale,
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = include_str!("../../../../proto/holdfast/lock/v1/error_reason.proto");

    fn someone(stale: bool) -> Holder {
        Holder {
            principal: "update-service".into(),
            holder_id: "pod-1".into(),
            purpose: Purpose::SoftwareUpdate,
            reason: "Update to 8.4.1".into(),
            operation: "updates/8.4.1".into(),
            fencing_token: 7,
            acquire_time: DateTime::UNIX_EPOCH,
            renew_time: DateTime::UNIX_EPOCH,
            expire_time: DateTime::UNIX_EPOCH,
            expiry_policy: if stale { ExpiryPolicy::Hold } else { ExpiryPolicy::Release },
            stale,
        }
    }

    #[test]
    fn what_is_refused_reads_as_it_was_written() {
        for stale in [false, true] {
            let status = Status::from(Error::Held(Box::new(someone(stale))));
            let Error::Held(read) = refusal(&status) else { panic!("{status:?}") };
            assert_eq!(*read, someone(stale));
            assert!(status.message().contains("update-service") && status.message().contains("Update to 8.4.1"));
        }
        assert!(matches!(refusal(&Error::Draining.into()), Error::Draining));
        assert!(matches!(refusal(&Error::Lost.into()), Error::Lost));
        assert!(matches!(refusal(&Error::TokenMismatch.into()), Error::TokenMismatch));
        assert!(matches!(refusal(&Error::Unavailable("x".into()).into()), Error::Unavailable(_)));
    }

    #[test]
    fn l17_what_is_not_of_the_contract_grants_nothing_and_is_told_apart() {
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented, Code::Internal, Code::OutOfRange] {
            assert!(matches!(refusal(&Status::new(code, "LOCK_HELD")), Error::Unusable(_)), "{code:?}");
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Aborted, Code::ResourceExhausted] {
            assert!(matches!(refusal(&Status::new(code, "?")), Error::Unavailable(_)), "{code:?}");
        }
    }

    #[test]
    fn every_reason_of_the_contract_has_the_code_that_it_states() {
        for error in [
            Error::Held(Box::new(someone(false))),
            Error::Held(Box::new(someone(true))),
            Error::Draining,
            Error::Lost,
            Error::TokenMismatch,
        ] {
            let status = Status::from(error);
            let reason = status.get_details_error_info().unwrap().reason;
            let (before, _) = CONTRACT.split_once(&format!("ERROR_REASON_{reason} ")).unwrap();
            let comment = before.rsplit_once("= ").map_or(before, |(_, comment)| comment);
            let stated = match status.code() {
                Code::Aborted => "ABORTED",
                Code::FailedPrecondition => "FAILED_PRECONDITION",
                other => panic!("{other:?}"),
            };
            assert!(comment.contains(&format!("// {stated}")), "{reason}: {comment}");
        }
    }
}
