//! Schedule, retention and encryption. An empty request never switches anything off.

use chrono_tz::Tz;
use tonic::Status;

use super::backup::ALGORITHM;
use super::fields::{duration, etag, int32, invalid, operation_name, revision, span, timestamp};
use crate::grpc::proto::backup as wire;
use crate::model::Passphrase;
use crate::model::schedule::{Driver, Recurrence, RunState, Schedule};
use crate::model::settings::{Recipient, Retention, SigningKeyNote};
use crate::operations::call::{EncryptionState, RetentionState, ScheduleChange, ScheduleState, SigningState};

const SCHEDULE: &str = "settings/schedule";
const RETENTION: &str = "settings/retention";
const ENCRYPTION: &str = "settings/encryption";
const SIGNING: &str = "settings/signing";

/// The fields of a schedule that callers change.
const CHANGEABLE: [&str; 5] = ["enabled", "daily", "cron", "time_zone", "start_deadline"];

/// What is to change, and the revision that the caller has read.
///
/// Without a mask these are the fields that are set. A field that a mask names and that is not set goes back to what was
/// installed; `*` names all.
pub fn schedule_change(request: wire::SetScheduleRequest) -> Result<(ScheduleChange, Option<i64>), Status> {
    let schedule = request.schedule.ok_or_else(|| invalid("schedule", "`schedule` is required; set what is to change."))?;
    setting_name("schedule.name", &schedule.name, SCHEDULE)?;
    let seen = revision("schedule.etag", &schedule.etag)?;
    let mut given = given(schedule)?;
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        let ScheduleChange { enabled: None, recurrence: None, time_zone: None, start_deadline: None } = given else {
            return Ok((given, seen));
        };
        return Err(invalid("schedule", "`schedule` has no field that is set; set what is to change."));
    }
    for path in paths.iter().filter(|path| *path != "*") {
        if !CHANGEABLE.contains(&path.as_str()) {
            let known = CHANGEABLE.join(", ");
            return Err(invalid("update_mask", format!("`{path}` cannot be changed; `update_mask` takes {known} or *.")));
        }
    }
    let all = paths.iter().any(|path| path == "*");
    let named = |field: &str| all || paths.iter().any(|path| path == field);
    // The two rules are members of one `oneof`: naming the one that is not set would silently mean 'every day at 01:00'.
    let rule = match given.recurrence {
        Some(Recurrence::Daily { .. }) => named("daily"),
        Some(Recurrence::Cron(_)) => named("cron"),
        None => all,
    };
    if !rule && (named("daily") || named("cron")) {
        return Err(invalid("update_mask", "`update_mask` names a rule that `schedule` does not have; set `daily` or `cron`."));
    }
    let installed = Schedule::default();
    if !rule {
        given.recurrence = None;
    } else if given.recurrence.is_none() {
        given.recurrence = Some(installed.recurrence);
    }
    let change = ScheduleChange {
        enabled: named("enabled").then(|| given.enabled.unwrap_or(installed.enabled)),
        recurrence: given.recurrence,
        time_zone: named("time_zone").then(|| given.time_zone.unwrap_or(installed.time_zone)),
        start_deadline: named("start_deadline").then(|| given.start_deadline.unwrap_or(installed.start_deadline)),
    };
    Ok((change, seen))
}

/// The fields that are set.
fn given(schedule: wire::Schedule) -> Result<ScheduleChange, Status> {
    let part = |field: &str, number: i32, max: u8| {
        let number = u8::try_from(number).ok().filter(|&number| number <= max);
        number.ok_or_else(|| invalid(field, format!("`{field}` is between 0 and {max}; send such a number.")))
    };
    let recurrence = match schedule.recurrence {
        None => None,
        Some(wire::schedule::Recurrence::Daily(daily)) => Some(Recurrence::Daily {
            hours: part("schedule.daily.hours", daily.hours, 23)?,
            minutes: part("schedule.daily.minutes", daily.minutes, 59)?,
        }),
        Some(wire::schedule::Recurrence::Cron(rule)) if rule.split_whitespace().count() == 5 && rule.len() <= 256 => {
            Some(Recurrence::Cron(rule))
        }
        Some(wire::schedule::Recurrence::Cron(_)) => {
            let message = "`schedule.cron` has five fields, minute first; send one such as `30 2 * * 1-5`.";
            return Err(invalid("schedule.cron", message));
        }
    };
    let time_zone = match schedule.time_zone.as_str() {
        "" => None,
        name => Some(name.parse::<Tz>().map_err(|_| {
            invalid("schedule.time_zone", "`schedule.time_zone` is not in the IANA database; send one such as `Europe/Berlin`.")
        })?),
    };
    let start_deadline = schedule.start_deadline.map(|deadline| span("schedule.start_deadline", deadline)).transpose()?;
    if start_deadline.is_some_and(|deadline| !(60..=24 * 3600).contains(&deadline.as_secs())) {
        let message = "`schedule.start_deadline` is between 1 minute and 24 hours; send such a time.";
        return Err(invalid("schedule.start_deadline", message));
    }
    Ok(ScheduleChange { enabled: schedule.enabled, recurrence, time_zone, start_deadline })
}

/// A setting exists once: its name is known, and may be left out.
fn setting_name(field: &str, name: &str, expected: &str) -> Result<(), Status> {
    if name.is_empty() || name == expected {
        return Ok(());
    }
    Err(invalid(field, format!("`{field}` is `{expected}`; send that or leave it out.")))
}

pub fn schedule(state: ScheduleState) -> wire::Schedule {
    let recurrence = match state.setting.value.recurrence {
        Recurrence::Daily { hours, minutes } => {
            wire::schedule::Recurrence::Daily(wire::DailyRecurrence { hours: hours.into(), minutes: minutes.into() })
        }
        Recurrence::Cron(rule) => wire::schedule::Recurrence::Cron(rule),
    };
    let last = state.last_run;
    wire::Schedule {
        name: SCHEDULE.into(),
        enabled: Some(state.setting.value.enabled),
        recurrence: Some(recurrence),
        time_zone: state.setting.value.time_zone.name().into(),
        start_deadline: Some(duration(state.setting.value.start_deadline)),
        driver: driver(state.driver).into(),
        next_run_time: state.next_run.map(timestamp),
        last_run_time: last.as_ref().map(|run| timestamp(run.planned_time)),
        last_run_state: last.as_ref().map_or(wire::schedule::RunState::Unspecified, |run| run_state(run.state)).into(),
        last_run_operation: last.and_then(|run| run.operation).map(operation_name).unwrap_or_default(),
        last_success_time: state.last_success.map(timestamp),
        update_time: state.setting.update_time.map(timestamp),
        updater: state.setting.updater,
        etag: etag(state.setting.revision),
    }
}

fn driver(driver: Driver) -> wire::schedule::Driver {
    match driver {
        Driver::Internal => wire::schedule::Driver::Internal,
        Driver::External => wire::schedule::Driver::External,
    }
}

fn run_state(state: RunState) -> wire::schedule::RunState {
    match state {
        RunState::Running => wire::schedule::RunState::Running,
        RunState::Succeeded => wire::schedule::RunState::Succeeded,
        RunState::Failed => wire::schedule::RunState::Failed,
        RunState::Skipped => wire::schedule::RunState::Skipped,
        RunState::Missed => wire::schedule::RunState::Missed,
    }
}

/// How many backups to keep, and the revision that the caller has read.
pub fn set_retention_request(request: wire::SetRetentionRequest) -> Result<(u32, Option<i64>), Status> {
    let retention = request.retention.ok_or_else(|| invalid("retention", "`retention` is required; set `max_count` in it."))?;
    setting_name("retention.name", &retention.name, RETENTION)?;
    let count = u32::try_from(retention.max_count).ok().filter(|count| Retention::RANGE.contains(count));
    let count = count.ok_or_else(|| {
        let (min, max) = Retention::RANGE.into_inner();
        invalid("retention.max_count", format!("`retention.max_count` is required and between {min} and {max}."))
    })?;
    Ok((count, revision("retention.etag", &retention.etag)?))
}

pub fn retention(state: RetentionState) -> wire::Retention {
    wire::Retention {
        name: RETENTION.into(),
        max_count: int32(state.setting.value.max_count),
        current_count: int32(state.current),
        excess_count: int32(state.excess),
        update_time: state.setting.update_time.map(timestamp),
        updater: state.setting.updater,
        etag: etag(state.setting.revision),
    }
}

/// The new passphrase, `None` to switch encryption off, and the revision that the caller has read.
pub fn set_encryption_request(request: wire::SetEncryptionRequest) -> Result<(Option<Passphrase>, Option<i64>), Status> {
    let passphrase = request.passphrase.ok_or_else(|| {
        invalid("passphrase", "`passphrase` is required; send the new one, or a blank one (\"\") to switch encryption off.")
    })?;
    Ok((Passphrase::new(passphrase), revision("etag", &request.etag)?))
}

pub fn encryption(state: EncryptionState) -> wire::Encryption {
    let setting = state.setting;
    let note = setting.value.passphrase;
    // Where recipients are missing, backups are refused, and never plain.
    let enabled = note.is_some() || !state.recipients.is_empty() || setting.value.recipients;
    let recipient = |recipient: Recipient| wire::Recipient {
        fingerprint: recipient.fingerprint,
        user_id: recipient.user_id,
        expire_time: recipient.expire_time.map(timestamp),
    };
    wire::Encryption {
        name: ENCRYPTION.into(),
        enabled,
        passphrase_generation: int32(setting.value.last_generation),
        passphrase_set_time: note.map(|note| timestamp(note.set_time)),
        algorithm: if enabled { ALGORITHM.into() } else { String::new() },
        updater: setting.updater,
        update_time: setting.update_time.map(timestamp),
        etag: etag(setting.revision),
        write_only: enabled && note.is_none(),
        recipients: state.recipients.into_iter().map(recipient).collect(),
    }
}

pub fn signing(state: SigningState) -> wire::Signing {
    let key = |key: SigningKeyNote| wire::SigningKey {
        fingerprint: key.fingerprint,
        certificate: String::from_utf8_lossy(&key.certificate).into_owned(),
        create_time: Some(timestamp(key.create_time)),
        creator: key.creator,
        in_use: key.in_use,
    };
    wire::Signing { name: SIGNING.into(), keys: state.keys.into_iter().map(key).collect(), trusted: state.trusted }
}

#[cfg(test)]
mod tests;
