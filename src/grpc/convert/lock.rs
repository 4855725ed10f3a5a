//! The maintenance lock: as it is asked for and shown, and as it is read from another service that hosts it.

pub mod refusal;

use std::time::Duration;

use tonic::Status;

use self::refusal::{invalid, unknown};
use super::fields::{MAX_REQUEST_ID, MAX_TEXT, duration, span, timestamp};
use crate::grpc::proto::lock as wire;
use crate::lock::Error;
use crate::model::lock::{ExpiryPolicy, Holder, Lease, LeaseId, Lock, NAME, Purpose, Terms};

const MAX_HOLDER_ID: usize = 128;
const DEFAULT_TTL: Duration = Duration::from_secs(60);
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(3600);
const MAX_WAIT: Duration = Duration::from_secs(60);
const DESCRIPTION: &str = "Backup, restore and software update exclude each other.";

/// Checks the name of a lock; there is one.
pub fn name(text: &str) -> Result<(), Status> {
    match text {
        NAME => Ok(()),
        _ if text.strip_prefix("locks/").is_some_and(|name| !name.is_empty()) => Err(unknown(text)),
        _ => Err(invalid("name", format!("`name` is required and has the form `{NAME}`."))),
    }
}

fn text(field: &str, text: String, max: usize, required: bool) -> Result<String, Status> {
    if required && text.trim().is_empty() {
        return Err(invalid(field, format!("`{field}` is required, with at most {max} characters.")));
    }
    if text.chars().count() > max || text.chars().any(char::is_control) {
        return Err(invalid(field, format!("`{field}` has at most {max} characters, and no control characters.")));
    }
    Ok(text)
}

fn ttl(field: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    let wrong = || invalid("ttl", "`ttl` is between 10 s and 1 h; leave it out for the default.");
    let ttl = field.map(|ttl| span("ttl", ttl).map_err(|_| wrong())).transpose()?;
    if ttl.is_some_and(|ttl| !TTL.contains(&ttl)) { Err(wrong()) } else { Ok(ttl) }
}

/// The terms for this principal, and how long to wait.
pub fn acquire_request(request: wire::AcquireLockRequest, principal: &str) -> Result<(Terms, Duration), Status> {
    name(&request.name)?;
    let purpose = match wire::LockPurpose::try_from(request.purpose) {
        Ok(wire::LockPurpose::Backup) => Purpose::Backup,
        Ok(wire::LockPurpose::Restore) => Purpose::Restore,
        Ok(wire::LockPurpose::SoftwareUpdate) => Purpose::SoftwareUpdate,
        Ok(wire::LockPurpose::Maintenance) => Purpose::Maintenance,
        Ok(wire::LockPurpose::Unspecified) | Err(_) => {
            return Err(invalid("purpose", "`purpose` is required, for example LOCK_PURPOSE_SOFTWARE_UPDATE."));
        }
    };
    let expiry_policy = match wire::ExpiryPolicy::try_from(request.expiry_policy) {
        Ok(wire::ExpiryPolicy::Unspecified | wire::ExpiryPolicy::Release) => ExpiryPolicy::Release,
        Ok(wire::ExpiryPolicy::Hold) => ExpiryPolicy::Hold,
        Err(_) => return Err(invalid("expiry_policy", "`expiry_policy` is EXPIRY_POLICY_RELEASE or EXPIRY_POLICY_HOLD.")),
    };
    let wait = request.wait_timeout.map_or(Ok(Duration::ZERO), |wait| span("wait_timeout", wait));
    let wait = wait.ok().filter(|wait| *wait <= MAX_WAIT);
    let wait = wait.ok_or_else(|| invalid("wait_timeout", "`wait_timeout` is between 0 and 60 s; call again to wait longer."))?;
    let terms = Terms {
        principal: principal.to_owned(),
        holder_id: text("holder_id", request.holder_id, MAX_HOLDER_ID, true)?,
        purpose,
        reason: text("reason", request.reason, MAX_TEXT, true)?,
        operation: text("operation", request.operation, MAX_TEXT, false)?,
        ttl: ttl(request.ttl)?.unwrap_or(DEFAULT_TTL),
        expiry_policy,
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID, false)?,
    };
    Ok((terms, wait))
}

pub fn renew_request(request: wire::RenewLockRequest) -> Result<(LeaseId, Option<Duration>, Option<String>), Status> {
    name(&request.name)?;
    let reason = text("reason", request.reason, MAX_TEXT, false)?;
    Ok((lease_id(&request.lease_id)?, ttl(request.ttl)?, Some(reason).filter(|reason| !reason.is_empty())))
}

pub fn release_request(request: wire::ReleaseLockRequest) -> Result<LeaseId, Status> {
    name(&request.name)?;
    lease_id(&request.lease_id)
}

fn lease_id(text: &str) -> Result<LeaseId, Status> {
    LeaseId::parse(text).ok_or_else(|| invalid("lease_id", "`lease_id` is required: 32 hex digits, from LockLease."))
}

/// The token, and why.
pub fn force_request(request: wire::ForceReleaseLockRequest) -> Result<(i64, String), Status> {
    name(&request.name)?;
    if request.fencing_token <= 0 {
        return Err(invalid("fencing_token", "`fencing_token` is required: that of the holder you saw with GetLock."));
    }
    Ok((request.fencing_token, text("reason", request.reason, MAX_TEXT, true)?))
}

pub fn lease(lease: &Lease) -> wire::LockLease {
    wire::LockLease {
        lock: NAME.to_owned(),
        lease_id: lease.id.reveal().to_string(),
        fencing_token: lease.fencing_token,
        ttl: Some(duration(lease.ttl)),
        expire_time: Some(timestamp(lease.expire_time)),
        renew_interval: Some(duration(lease.ttl / 3)),
    }
}

pub fn lock(lock: &Lock) -> wire::Lock {
    let state = match &lock.holder {
        None => wire::lock::State::Free,
        Some(holder) if holder.stale => wire::lock::State::Stale,
        Some(_) => wire::lock::State::Held,
    };
    wire::Lock {
        name: NAME.to_owned(),
        description: DESCRIPTION.to_owned(),
        state: state.into(),
        holder: lock.holder.as_ref().map(holder),
        fencing_token: lock.fencing_token,
        update_time: Some(timestamp(lock.update_time)),
    }
}

fn holder(holder: &Holder) -> wire::LockHolder {
    wire::LockHolder {
        principal: holder.principal.clone(),
        holder_id: holder.holder_id.clone(),
        purpose: purpose(holder.purpose).into(),
        reason: holder.reason.clone(),
        operation: holder.operation.clone(),
        fencing_token: holder.fencing_token,
        acquire_time: Some(timestamp(holder.acquire_time)),
        renew_time: Some(timestamp(holder.renew_time)),
        expire_time: Some(timestamp(holder.expire_time)),
        expiry_policy: policy(holder.expiry_policy).into(),
    }
}

fn purpose(purpose: Purpose) -> wire::LockPurpose {
    match purpose {
        Purpose::Backup => wire::LockPurpose::Backup,
        Purpose::Restore => wire::LockPurpose::Restore,
        Purpose::SoftwareUpdate => wire::LockPurpose::SoftwareUpdate,
        Purpose::Maintenance => wire::LockPurpose::Maintenance,
    }
}

fn policy(policy: ExpiryPolicy) -> wire::ExpiryPolicy {
    match policy {
        ExpiryPolicy::Release => wire::ExpiryPolicy::Release,
        ExpiryPolicy::Hold => wire::ExpiryPolicy::Hold,
    }
}

/// What to ask another service for under these terms.
pub fn asked(terms: &Terms) -> wire::AcquireLockRequest {
    wire::AcquireLockRequest {
        name: NAME.to_owned(),
        holder_id: terms.holder_id.chars().take(MAX_HOLDER_ID).collect(),
        purpose: purpose(terms.purpose).into(),
        reason: terms.reason.clone(),
        operation: terms.operation.clone(),
        ttl: Some(duration(terms.ttl)),
        wait_timeout: None,
        expiry_policy: policy(terms.expiry_policy).into(),
        request_id: terms.request_id.clone(),
    }
}

/// A lease as another service granted it. It may be shorter than asked for.
pub fn granted(lease: &wire::LockLease) -> Result<Lease, Error> {
    let unusable = |what: &str| Error::Unusable(format!("its answer has no {what}"));
    if lease.lock != NAME {
        return Err(unusable("lease of the lock that was asked for"));
    }
    let ttl = lease.ttl.and_then(|ttl| Duration::try_from(ttl).ok()).filter(|ttl| TTL.contains(ttl));
    Ok(Lease {
        id: LeaseId::parse(&lease.lease_id).ok_or_else(|| unusable("lease_id of 32 hex digits"))?,
        fencing_token: Some(lease.fencing_token).filter(|token| *token > 0).ok_or_else(|| unusable("fencing token"))?,
        ttl: ttl.ok_or_else(|| unusable("ttl between 10 s and 1 h"))?,
        expire_time: read_time(lease.expire_time).unwrap_or_default(),
    })
}

/// A lock as another service shows it. A state that is not known counts as taken.
pub fn shown(lock: wire::Lock) -> Result<Lock, Error> {
    if lock.name != NAME {
        return Err(Error::Unusable("its answer is not about the lock that was asked for".into()));
    }
    let stale = lock.state == i32::from(wire::lock::State::Stale);
    let free = lock.state == i32::from(wire::lock::State::Free);
    let holder = match lock.holder {
        _ if free => None,
        Some(holder) => Some(read_holder(holder, stale)),
        None => return Err(Error::Unusable("its answer names no holder of a lock that is taken".into())),
    };
    Ok(Lock { holder, fencing_token: lock.fencing_token, update_time: read_time(lock.update_time).unwrap_or_default() })
}

fn read_holder(holder: wire::LockHolder, stale: bool) -> Holder {
    let short = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect();
    let hold = holder.expiry_policy == i32::from(wire::ExpiryPolicy::Hold);
    let own = |purpose: wire::LockPurpose| holder.purpose == i32::from(purpose);
    Holder {
        purpose: match () {
            () if own(wire::LockPurpose::Backup) => Purpose::Backup,
            () if own(wire::LockPurpose::Restore) => Purpose::Restore,
            () if own(wire::LockPurpose::SoftwareUpdate) => Purpose::SoftwareUpdate,
            () => Purpose::Maintenance,
        },
        principal: short(holder.principal),
        holder_id: short(holder.holder_id),
        reason: short(holder.reason),
        operation: short(holder.operation),
        fencing_token: holder.fencing_token,
        acquire_time: read_time(holder.acquire_time).unwrap_or_default(),
        renew_time: read_time(holder.renew_time).unwrap_or_default(),
        expire_time: read_time(holder.expire_time).unwrap_or_default(),
        expiry_policy: if hold { ExpiryPolicy::Hold } else { ExpiryPolicy::Release },
        stale,
    }
}

fn read_time(time: Option<prost_types::Timestamp>) -> Option<chrono::DateTime<chrono::Utc>> {
    super::fields::time("time", time?).ok()
}
