//! Tests of `settings`.

use std::time::Duration;

use super::super::fields::tests::refused;
use super::*;
use crate::model::settings::Setting;

fn invalid_field(field: &str) -> (String, String) {
    ("INVALID_FIELD".into(), field.into())
}

fn daily(hours: i32, minutes: i32) -> Option<wire::schedule::Recurrence> {
    Some(wire::schedule::Recurrence::Daily(wire::DailyRecurrence { hours, minutes }))
}

fn cron(rule: &str) -> Option<wire::schedule::Recurrence> {
    Some(wire::schedule::Recurrence::Cron(rule.into()))
}

fn set(schedule: wire::Schedule, mask: Option<&[&str]>) -> Result<ScheduleChange, Status> {
    let update_mask = mask.map(|paths| prost_types::FieldMask { paths: paths.iter().map(|&path| path.into()).collect() });
    let request = wire::SetScheduleRequest { schedule: Some(schedule), update_mask, validate_only: false };
    schedule_change(request).map(|(change, _)| change)
}

#[test]
fn empty_requests_switch_nothing_off() {
    assert_eq!(refused(schedule_change(wire::SetScheduleRequest::default())), invalid_field("schedule"));
    assert_eq!(refused(set(wire::Schedule::default(), None)), invalid_field("schedule"));
    assert_eq!(refused(set_retention_request(wire::SetRetentionRequest::default())), invalid_field("retention"));
    let empty = wire::SetRetentionRequest { retention: Some(wire::Retention::default()) };
    assert_eq!(refused(set_retention_request(empty)), invalid_field("retention.max_count"));
    assert_eq!(refused(set_encryption_request(wire::SetEncryptionRequest::default())), invalid_field("passphrase"));
}

#[test]
fn a_request_that_only_moves_the_time_leaves_the_rest_as_it_is() {
    let change = set(wire::Schedule { recurrence: daily(3, 0), ..Default::default() }, None).unwrap();
    assert_eq!(change.recurrence, Some(Recurrence::Daily { hours: 3, minutes: 0 }));
    assert!(change.enabled.is_none() && change.time_zone.is_none() && change.start_deadline.is_none());

    let change = set(wire::Schedule { enabled: Some(false), ..Default::default() }, None).unwrap();
    assert_eq!(change.enabled, Some(false));
    assert!(change.recurrence.is_none());
}

#[test]
fn a_mask_chooses_and_resets() {
    let full = wire::Schedule {
        enabled: Some(false),
        recurrence: cron("30 2 * * 1-5"),
        time_zone: "Europe/Berlin".into(),
        start_deadline: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..Default::default()
    };
    let change = set(full.clone(), Some(&["time_zone"])).unwrap();
    assert_eq!(change.time_zone, Some(chrono_tz::Europe::Berlin));
    assert!(change.enabled.is_none() && change.recurrence.is_none() && change.start_deadline.is_none());

    let change = set(full.clone(), Some(&["cron", "enabled"])).unwrap();
    assert_eq!((change.enabled, change.recurrence), (Some(false), Some(Recurrence::Cron("30 2 * * 1-5".into()))));

    let change = set(full, Some(&["*"])).unwrap();
    assert_eq!((change.enabled, change.start_deadline), (Some(false), Some(Duration::from_secs(3600))));

    let installed = Schedule::default();
    let change = set(wire::Schedule::default(), Some(&["*"])).unwrap();
    assert_eq!((change.enabled, change.recurrence), (Some(installed.enabled), Some(installed.recurrence.clone())));
    assert_eq!((change.time_zone, change.start_deadline), (Some(installed.time_zone), Some(installed.start_deadline)));

    let change = set(wire::Schedule::default(), Some(&["start_deadline"])).unwrap();
    assert_eq!(change.start_deadline, Some(installed.start_deadline));
    assert!(change.recurrence.is_none() && change.enabled.is_none());
}

#[test]
fn a_mask_that_names_what_cannot_be_changed_is_refused() {
    for path in ["next_run_time", "Enabled", "daily.hours", "recurrence", "", "enabled,cron"] {
        let schedule = wire::Schedule { enabled: Some(true), ..Default::default() };
        let status = set(schedule, Some(&["enabled", path])).unwrap_err();
        assert!(status.message().contains(&format!("`{path}`")), "{status:?}");
    }
    let by_cron = wire::Schedule { recurrence: cron("0 3 * * *"), ..Default::default() };
    assert_eq!(refused(set(by_cron.clone(), Some(&["daily"]))), invalid_field("update_mask"));
    assert_eq!(refused(set(wire::Schedule::default(), Some(&["cron"]))), invalid_field("update_mask"));
    assert!(set(by_cron, Some(&["daily", "cron"])).is_ok());
}

#[test]
fn fields_of_a_schedule_are_checked_one_by_one() {
    let of = |schedule| refused(set(schedule, None)).1;
    let part = wire::Schedule::default;
    assert_eq!(of(wire::Schedule { recurrence: daily(24, 0), ..part() }), "schedule.daily.hours");
    assert_eq!(of(wire::Schedule { recurrence: daily(256, 0), ..part() }), "schedule.daily.hours");
    assert_eq!(of(wire::Schedule { recurrence: daily(0, -1), ..part() }), "schedule.daily.minutes");
    assert_eq!(of(wire::Schedule { recurrence: cron("0 0 30 2 * *"), ..part() }), "schedule.cron");
    assert_eq!(of(wire::Schedule { time_zone: "Mars/Olympus".into(), ..part() }), "schedule.time_zone");
    assert_eq!(of(wire::Schedule { name: "settings/retention".into(), ..part() }), "schedule.name");
    assert_eq!(of(wire::Schedule { etag: "7".into(), ..part() }), "schedule.etag");
    let deadline = |seconds| wire::Schedule { start_deadline: Some(prost_types::Duration { seconds, nanos: 0 }), ..part() };
    assert_eq!(of(deadline(59)), "schedule.start_deadline");
    assert_eq!(of(deadline(86_401)), "schedule.start_deadline");
    assert!(set(deadline(86_400), None).is_ok());
}

#[test]
fn a_schedule_that_was_read_can_be_sent_back() {
    let setting = Setting { value: Schedule::default(), revision: 4, update_time: None, updater: "me".into() };
    let sent = schedule(ScheduleState { setting, driver: Driver::Internal, next_run: None, last_run: None, last_success: None });
    let request = wire::SetScheduleRequest { schedule: Some(sent), update_mask: None, validate_only: false };
    let (change, seen) = schedule_change(request).unwrap();
    let installed = Schedule::default();
    assert_eq!((change.enabled, change.recurrence), (Some(installed.enabled), Some(installed.recurrence)));
    assert_eq!(seen, Some(4));
}

#[test]
fn retention_keeps_1_to_1000() {
    let set = |max_count| {
        let retention = wire::Retention { max_count, etag: "\"3\"".into(), ..Default::default() };
        set_retention_request(wire::SetRetentionRequest { retention: Some(retention) })
    };
    assert_eq!(set(1).unwrap(), (1, Some(3)));
    assert_eq!(set(1000).unwrap().0, 1000);
    for count in [0, -1, 1001, i32::MIN] {
        assert_eq!(refused(set(count)), invalid_field("retention.max_count"));
    }
}

#[test]
fn only_a_blank_passphrase_that_was_sent_switches_encryption_off() {
    let set = |passphrase: Option<&str>| {
        let request = wire::SetEncryptionRequest { passphrase: passphrase.map(str::to_owned), etag: String::new() };
        set_encryption_request(request).map(|(passphrase, _)| passphrase)
    };
    assert!(set(None).is_err());
    assert_eq!(set(Some("")).unwrap(), None);
    assert_eq!(set(Some("correct horse")).unwrap().unwrap().reveal(), "correct horse");
}

#[test]
fn every_state_of_a_run_is_told() {
    let all = [RunState::Running, RunState::Succeeded, RunState::Failed, RunState::Skipped, RunState::Missed];
    let told = all.map(|state| run_state(state).as_str_name());
    let named = ["RUNNING", "SUCCEEDED", "FAILED", "SKIPPED", "MISSED"].map(|name| format!("RUN_STATE_{name}"));
    assert_eq!(told.map(str::to_owned), named);
}
