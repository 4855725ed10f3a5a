//! The wire's texts and numbers, checked before anything else looks at them, and the refusals as statuses.

use std::collections::HashMap;
use std::time::Duration;

use holdfast::grpc::proto::lock::{AcquireLockRequest, ExpiryPolicy, LockPurpose};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::rules::Terms;
use super::{DOMAIN, LOCK};

const DEFAULT_TTL: Duration = Duration::from_secs(60);
const MIN_TTL: Duration = Duration::from_secs(10);
const MAX_TTL: Duration = Duration::from_secs(3600);
const MAX_WAIT: Duration = Duration::from_secs(60);
const MAX_HOLDER_ID: usize = 128;
pub const MAX_REASON: usize = 256;
const MAX_REQUEST_ID: usize = 36;

pub fn refusal(code: Code, reason: &str, message: &str, metadata: HashMap<String, String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

pub fn invalid(field: &str, message: &str) -> Status {
    let mut details = ErrorDetails::with_error_info("INVALID_FIELD", DOMAIN, HashMap::new());
    details.add_bad_request_violation(field, message);
    Status::with_error_details(Code::InvalidArgument, format!("`{field}`: {message}"), details)
}

pub fn lock(name: &str) -> Result<(), Status> {
    match name {
        LOCK => Ok(()),
        "" => Err(invalid("name", "is required")),
        _ => Err(refusal(Code::NotFound, "LOCK_UNKNOWN", "There is no lock of that name.", HashMap::new())),
    }
}

/// A text of at most `max` characters, none of which a terminal obeys.
pub fn text(field: &str, text: &str, max: usize) -> Result<(), Status> {
    match text.chars().count() > max || text.chars().any(char::is_control) {
        true => Err(invalid(field, "is too long, or has control characters")),
        false => Ok(()),
    }
}

pub fn required(field: &str, value: &str, max: usize) -> Result<(), Status> {
    if value.is_empty() { Err(invalid(field, "is required")) } else { text(field, value, max) }
}

fn span(field: &str, span: prost_types::Duration) -> Result<Duration, Status> {
    Duration::try_from(span).map_err(|_| invalid(field, "is no length of time"))
}

pub fn ttl(ttl: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    let ttl = ttl.map(|ttl| span("ttl", ttl)).transpose()?;
    match ttl.is_some_and(|ttl| !(MIN_TTL..=MAX_TTL).contains(&ttl)) {
        true => Err(invalid("ttl", "is from 10 s to 1 h")),
        false => Ok(ttl),
    }
}

/// What is asked for, and how long its caller would wait for it.
pub fn terms(principal: String, request: AcquireLockRequest) -> Result<(Terms, Duration), Status> {
    required("holder_id", &request.holder_id, MAX_HOLDER_ID)?;
    required("reason", &request.reason, MAX_REASON)?;
    text("request_id", &request.request_id, MAX_REQUEST_ID)?;
    text("operation", &request.operation, MAX_REASON)?;
    let purpose = LockPurpose::try_from(request.purpose).ok().filter(|&purpose| purpose != LockPurpose::Unspecified);
    let purpose = purpose.ok_or_else(|| invalid("purpose", "is required"))?;
    let policy = ExpiryPolicy::try_from(request.expiry_policy).map_err(|_| invalid("expiry_policy", "is not known"))?;
    let policy = if policy == ExpiryPolicy::Unspecified { ExpiryPolicy::Release } else { policy };
    let ttl = ttl(request.ttl)?.unwrap_or(DEFAULT_TTL);
    let wait = request.wait_timeout.map_or(Ok(Duration::ZERO), |wait| span("wait_timeout", wait))?;
    if wait > MAX_WAIT {
        return Err(invalid("wait_timeout", "is at most 60 s"));
    }
    let AcquireLockRequest { holder_id, reason, operation, request_id, .. } = request;
    Ok((Terms { principal, holder_id, purpose, reason, operation, ttl, policy, request_id }, wait))
}
