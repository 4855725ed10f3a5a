//! Single fields: names, texts, numbers, times, etags and page tokens. Every refusal names the field and says what to do.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tonic::Status;

use crate::model::{BackupId, Failure, OperationId, Reason, ResourceName};

pub const MAX_TEXT: usize = 256;
pub const MAX_REQUEST_ID: usize = 36;
const MAX_LOCK_WAIT: Duration = Duration::from_secs(6 * 3600);

pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    Failure::new(Reason::InvalidField, message).field(field).into()
}

pub fn backup_name(id: &BackupId) -> String {
    format!("backups/{id}")
}

pub fn operation_name(id: OperationId) -> String {
    format!("operations/{id}")
}

pub fn resource_name(name: &ResourceName) -> String {
    format!("resources/{name}")
}

fn named<T: FromStr>(field: &str, text: &str, collection: &str, example: &str) -> Result<T, Status> {
    let id = text.strip_prefix(collection).and_then(|rest| rest.strip_prefix('/')).and_then(|id| id.parse().ok());
    id.ok_or_else(|| invalid(field, format!("`{field}` is required and has the form `{collection}/{example}`.")))
}

pub fn backup_id(field: &str, text: &str) -> Result<BackupId, Status> {
    named(field, text, "backups", "b-20260301t010000z-7f3k2qab")
}

pub fn operation_id(field: &str, text: &str) -> Result<OperationId, Status> {
    named(field, text, "operations", "018e2f6a-7c00-7000-8000-000000000000")
}

/// Each resource once, in the order in which they were named.
pub fn resources(field: &str, texts: &[String]) -> Result<Vec<ResourceName>, Status> {
    let mut names = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        let name = named(&format!("{field}[{place}]"), text, "resources", "login-accounts")?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Free text: bounded, and without characters that a terminal or a database does not take.
pub fn text(field: &str, text: String, max: usize) -> Result<String, Status> {
    if text.chars().count() > max {
        return Err(invalid(field, format!("`{field}` has at most {max} characters; shorten it.")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(invalid(field, format!("`{field}` has control characters; remove them.")));
    }
    Ok(text)
}

pub fn page_size(size: i32, default: u32, max: u32) -> Result<u32, Status> {
    match u32::try_from(size) {
        Ok(0) => Ok(default),
        Ok(size) => Ok(size.min(max)),
        Err(_) => Err(invalid("page_size", "`page_size` is not negative; leave it out for the default.")),
    }
}

/// A token that continues `list` at `place`. It has no meaning for callers.
pub fn page_token(list: &str, place: impl Display) -> String {
    format!("{list}:{place}").bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Where `list` is continued; `None` at the beginning.
pub fn page_place<T: FromStr + Display>(list: &str, token: &str) -> Result<Option<T>, Status> {
    let unhex = |token: &str| {
        let digits = token.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
        String::from_utf8(digits.collect::<Option<Vec<_>>>()?).ok()
    };
    let parse = || unhex(token)?.strip_prefix(list)?.strip_prefix(':')?.parse::<T>().ok();
    match token {
        "" => Ok(None),
        // Only what was given out is taken: one place has one token.
        _ => parse().filter(|place| page_token(list, place) == token).map(Some).ok_or_else(|| {
            let failure = Failure::new(Reason::InvalidPageToken, "`page_token` is not one of this list.").field("page_token");
            failure.instructions("Send `next_page_token` as it is, or leave it out to begin again.").into()
        }),
    }
}

/// An entity tag (RFC 9110, 8.8.3).
pub fn etag(revision: i64) -> String {
    format!("\"{revision}\"")
}

/// The revision of an etag; `None` when there is none.
pub fn revision(field: &str, text: &str) -> Result<Option<i64>, Status> {
    let parse = || text.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    match text {
        "" => Ok(None),
        _ => parse().filter(|&revision| etag(revision) == text).map(Some).ok_or_else(|| {
            invalid(field, format!("`{field}` is not an etag of this service; send the one you read, with its quotes."))
        }),
    }
}

pub fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    let nanos = time.timestamp_subsec_nanos().min(999_999_999); // a leap second has more
    prost_types::Timestamp { seconds: time.timestamp(), nanos: int32(nanos) }
}

pub fn time(field: &str, time: prost_types::Timestamp) -> Result<DateTime<Utc>, Status> {
    // The range of google.protobuf.Timestamp: the years 1 to 9999.
    let seconds = Some(time.seconds).filter(|seconds| (-62_135_596_800..=253_402_300_799).contains(seconds));
    let nanos = u32::try_from(time.nanos).ok().filter(|&nanos| nanos < 1_000_000_000);
    let time = seconds.zip(nanos).and_then(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos));
    time.ok_or_else(|| invalid(field, format!("`{field}` is not a time; send one such as 2026-03-01T01:00:00Z.")))
}

pub fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: int64(duration.as_secs()), nanos: int32(duration.subsec_nanos()) }
}

pub fn span(field: &str, span: prost_types::Duration) -> Result<Duration, Status> {
    let nanos = u32::try_from(span.nanos).ok().filter(|&nanos| nanos < 1_000_000_000);
    let span = u64::try_from(span.seconds).ok().zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
    span.ok_or_else(|| invalid(field, format!("`{field}` is not a length of time; send one such as 90s, not below 0.")))
}

/// How long to wait for the lock; absent: not at all.
pub fn lock_wait(wait: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let wait = wait.map_or(Ok(Duration::ZERO), |wait| span("lock_wait", wait))?;
    if wait > MAX_LOCK_WAIT {
        return Err(invalid("lock_wait", "`lock_wait` is at most 6 h; send a shorter one."));
    }
    Ok(wait)
}

/// A count in a field that is smaller than it may be.
pub fn int32(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

pub fn int64(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
pub mod tests;
