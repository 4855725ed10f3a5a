//! Scheduled backups: a slot makes one backup, whoever fires, and nothing is made up for that was not planned.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::schedule::{Driver, Recurrence, RunState};
use holdfast::grpc::proto::backup::{BackupRequest, DailyRecurrence, GetScheduleRequest, Schedule, SetScheduleRequest, Trigger};
use prost_types::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::world::{World, refused};

async fn set(world: &World, schedule: Schedule) -> Result<Schedule, Status> {
    let request = SetScheduleRequest { schedule: Some(schedule), ..Default::default() };
    Ok(world.backups().await.set_schedule(request).await?.into_inner())
}

async fn get(world: &World) -> Schedule {
    world.backups().await.get_schedule(GetScheduleRequest {}).await.unwrap().into_inner()
}

fn daily(hours: i32, minutes: i32) -> Schedule {
    Schedule { recurrence: Some(Recurrence::Daily(DailyRecurrence { hours, minutes })), ..Default::default() }
}

fn cron(rule: &str) -> Schedule {
    Schedule { recurrence: Some(Recurrence::Cron(rule.to_owned())), ..Default::default() }
}

/// As if the service had been installed `hours` ago, with a daily run `late` seconds ago.
pub async fn planned_in_the_past(world: &World, late: u32, deadline: u32) {
    world
        .sql_as_superuser(&format!(
            "update holdfast.system set install_time = now() - interval '3 days', schedule_time = now() - interval '3 days';
             insert into holdfast.setting (name, value, update_time)
             select 'schedule', jsonb_build_object('enabled', true, 'time_zone', 'UTC', 'start_deadline', jsonb_build_object('secs', {deadline}, 'nanos', 0),
                    'recurrence', jsonb_build_object('daily', jsonb_build_object(
                        'hours', extract(hour from t at time zone 'UTC')::int, 'minutes', extract(minute from t at time zone 'UTC')::int))),
                    now() - interval '20 hours'
             from (select now() - interval '{late} seconds' as t) as planned
             on conflict (name) do update set value = excluded.value, update_time = excluded.update_time"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_s12_the_schedule_is_daily_at_one_and_changes_only_where_it_is_told_to() {
    let mut world = World::new().await;
    // As it is installed.
    world.sql_as_superuser("delete from holdfast.setting where name = 'schedule'").await;
    let installed = get(&world).await;
    assert_eq!(installed.driver(), Driver::Internal);
    assert_eq!((installed.enabled, installed.recurrence.clone()), (Some(true), daily(1, 0).recurrence));
    assert_eq!((installed.time_zone.as_str(), installed.start_deadline.unwrap().seconds), ("UTC", 6 * 3600));
    let next = installed.next_run_time.unwrap();
    assert_eq!(next.seconds % 86_400, 3600);

    let changed = set(&world, daily(3, 30)).await.unwrap();
    assert_eq!((changed.enabled, changed.next_run_time.unwrap().seconds % 86_400), (Some(true), 3 * 3600 + 1800));
    let zone = set(&world, Schedule { time_zone: "Europe/Berlin".into(), ..Default::default() }).await.unwrap();
    assert_eq!(zone.recurrence, daily(3, 30).recurrence);
    assert_ne!(zone.next_run_time.unwrap().seconds % 86_400, 3 * 3600 + 1800);
    let weekly = set(&world, cron("15 2 * * 1-5")).await.unwrap();
    assert_eq!(weekly.time_zone, "Europe/Berlin");
    let off = set(&world, Schedule { enabled: Some(false), ..Default::default() }).await.unwrap();
    assert_eq!((off.enabled, off.next_run_time, off.recurrence.clone()), (Some(false), None, cron("15 2 * * 1-5").recurrence));

    for (wrong, word) in [
        (daily(24, 0), "hours"),
        (daily(1, -1), "minutes"),
        (cron("0 0 31 2 *"), "never"),
        (cron("* * * * *"), "15 minutes"),
        (cron("0 30 2 * * *"), "five fields"),
        (cron("@daily"), "five fields"),
        (Schedule { time_zone: "Mars/Base".into(), ..Default::default() }, "IANA"),
        (Schedule { start_deadline: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..Default::default() }, "deadline"),
        (Schedule::default(), "what is to change"),
    ] {
        let status = set(&world, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(word), "{word} is not in {}", status.message());
    }
    let mut stale = daily(4, 0);
    stale.etag = installed.etag.clone();
    assert_eq!(refused(set(&world, stale).await.unwrap_err()).reason, "ETAG_MISMATCH");

    let error = world.try_backup(planned(None)).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SCHEDULE_DRIVEN_INTERNALLY", Code::FailedPrecondition.into()));
    world.kill();
    world.start().await.unwrap();
    assert_eq!(get(&world).await, off);
}

fn planned(time: Option<i64>) -> BackupRequest {
    let scheduled_time = time.map(|seconds| Timestamp { seconds, nanos: 0 });
    BackupRequest { trigger: Trigger::Scheduled.into(), scheduled_time, ..Default::default() }
}

fn present() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_a_cronjob_that_fires_twice_on_several_replicas_makes_one_backup_for_each_time() {
    let world = World::with(&[("HOLDFAST_SCHEDULE__DRIVER", "external")]).await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    let schedule = get(&world).await;
    assert_eq!((schedule.driver(), schedule.next_run_time), (Driver::External, None));

    let minute = present() / 60 * 60;
    let times = [minute - 120, minute - 60, minute - 3];
    for time in times {
        let calls = [&world, &twin, &world, &twin, &world].map(|service| async {
            let begun = service.backups().await.backup(planned(Some(time))).await;
            begun.map(|answer| answer.into_inner().name).map_err(refused)
        });
        let answers = futures_util::future::join_all(calls).await;
        let names: BTreeSet<&String> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(names.len(), 1, "{answers:?}");
        // Who came while the first was about to begin may try again.
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(error.reason, "OPERATION_IN_PROGRESS", "{error:?}");
        }
        let name = (*names.first().unwrap()).clone();
        assert!(matches!(world.wait(&name).await.result, Some(Outcome::Backup(_))));
        let again = twin.backups().await.backup(planned(Some(time))).await.unwrap().into_inner();
        assert_eq!((again.name, again.done), (name.clone(), true));
        world.becomes("select string_agg(distinct state, ' ') from holdfast.slot", "succeeded", Duration::from_secs(30)).await;
        let schedule = get(&twin).await;
        assert_eq!((schedule.last_run_time.unwrap().seconds, &schedule.last_run_operation), (time, &name));
        assert_eq!(schedule.last_run_state(), RunState::Succeeded);
    }
    let listed = world.listed().await;
    assert_eq!(listed.len(), times.len());
    assert!(listed.iter().all(|backup| backup.trigger() == Trigger::Scheduled));

    // A CronJob that does not say for when is meant for now.
    let unnamed = world.try_backup(planned(None)).await.unwrap();
    assert_eq!(unnamed.trigger(), Trigger::Scheduled);
    for (time, word) in [(present() + 3600, "has not come"), (present() - 7 * 3600, "6h")] {
        let error = world.try_backup(planned(Some(time))).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), ("INVALID_FIELD", Code::InvalidArgument.into()));
        assert!(error.message.contains(word), "{error:?}");
    }

    let missed = "select string_agg(state, ' ') from holdfast.slot where planned_time < now() - interval '6 hours'";
    assert_eq!(world.value(missed).await, "missed");
    let told = "select count(*)::text from holdfast.event where type = 'schedule.run_missed'";
    assert_eq!(world.value(told).await, "1");

    // The lock is waited for, as by the timer.
    let update = world.begin_update().await;
    let waits = world.backups().await.backup(planned(Some(minute - 240))).await.unwrap().into_inner();
    assert!(!waits.done);
    drop(update);
    set(&world, Schedule { enabled: Some(false), ..Default::default() }).await.unwrap();
    let error = world.try_backup(planned(None)).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SCHEDULE_DISABLED", Code::FailedPrecondition.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_callers_make_only_so_many_backups_an_hour_and_the_schedule_goes_on() {
    let world = World::with(&[("HOLDFAST_LIMITS__BACKUPS_PER_HOUR", "3"), ("HOLDFAST_SCHEDULE__DRIVER", "external")]).await;
    let patient = BackupRequest { lock_wait: Some(prost_types::Duration { seconds: 100, nanos: 0 }), ..Default::default() };
    let calls = (0..30).map(|_| world.try_backup(patient.clone()));
    let answers = futures_util::future::join_all(calls).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 3, "{answers:?}");
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!((error.reason.as_str(), error.code), ("RATE_LIMITED", Code::ResourceExhausted.into()), "{error:?}");
    }
    let status = world.backups().await.backup(BackupRequest::default()).await.unwrap_err();
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3600), "{wait:?}");
    assert!(status.message().contains("HOLDFAST_LIMITS__BACKUPS_PER_HOUR"), "{status:?}");
    assert_eq!(world.listed().await.len(), 3);
    let denied = "select count(*) > 0 from holdfast.event where type = 'access.denied' and body ->> 'failure' = 'RATE_LIMITED'";
    world.becomes(denied, "true", Duration::from_secs(30)).await;

    world.try_backup(planned(None)).await.unwrap();
    // An hour later.
    world.sql_as_superuser("update holdfast.operation set heartbeat_time = heartbeat_time - interval '1 hour'").await;
    world.backup().await;
    assert_eq!(world.listed().await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn s06_s08_a_slot_that_two_services_wait_for_makes_one_backup() {
    let world = World::new().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    // The next minute that is far enough away to be set before it begins.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let minute = i32::try_from((now + 4) / 60 + 1).unwrap();
    let schedule = set(&world, daily(minute / 60 % 24, minute % 60)).await.unwrap();
    assert_eq!(schedule.next_run_time.unwrap().seconds, i64::from(minute) * 60);
    // As if the clock had been a year ahead meanwhile, and found this run and many others missed.
    world
        .sql_as_superuser(&format!(
            "insert into holdfast.slot (planned_time, state) select to_timestamp({}) + day * interval '1 day', 'missed' from generate_series(0, 365) as day;
             update holdfast.system set schedule_time = now() + interval '1 year';
             update holdfast.setting set update_time = now() + interval '1 year' where name = 'schedule'",
            i64::from(minute) * 60
        ))
        .await;
    world.becomes("select count(*) from holdfast.slot where state = 'succeeded'", "1", Duration::from_secs(90)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let listed = world.listed().await;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].trigger(), listed[0].creator.as_str()), (Trigger::Scheduled, "system:scheduler"));
    for service in [&world, &twin] {
        let schedule = get(service).await;
        assert_eq!(schedule.last_run_time.unwrap().seconds, i64::from(minute) * 60);
        assert_eq!((schedule.last_run_state(), schedule.last_run_operation), (RunState::Succeeded, listed[0].operation.clone()));
        assert!(schedule.last_success_time.is_some());
    }
    assert_eq!(world.value("select count(*) from holdfast.slot where operation is not null").await, "1");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s09_a_run_missed_by_less_than_the_deadline_is_made_up_for_once() {
    let mut world = World::new().await;
    world.kill();
    planned_in_the_past(&world, 3 * 3600, 6 * 3600).await;
    world.start().await.unwrap();
    let mut twin = world.twin();
    twin.start().await.unwrap();
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "succeeded", Duration::from_secs(30)).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.listed().await.len(), 1);
    assert_eq!(get(&world).await.last_run_state(), RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn s09_a_run_missed_by_more_than_the_deadline_is_told_and_not_made_up_for() {
    let mut world = World::new().await;
    world.kill();
    planned_in_the_past(&world, 3 * 3600, 3600).await;
    world.start().await.unwrap();
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "missed", Duration::from_secs(30)).await;
    let schedule = get(&world).await;
    assert_eq!(schedule.last_run_state(), RunState::Missed);
    assert!(world.listed().await.is_empty());
    assert!(world.log().contains("scheduled backups were not made"));
    let told = "select string_agg(type || ' ' || (body #>> '{actor,principal}'), ' ') from holdfast.event";
    assert_eq!(world.value(told).await, "schedule.run_missed system:scheduler");

    // A change makes up for nothing that was planned before it.
    set(&world, Schedule { start_deadline: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }), ..Default::default() })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(world.listed().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_a_slot_whose_claimant_died_before_it_began_is_run_by_another() {
    let mut world = World::new().await;
    world.kill();
    planned_in_the_past(&world, 600, 3600).await;
    world
        .sql_as_superuser(
            "insert into holdfast.slot (planned_time, state, operation)
             select date_trunc('minute', now() - interval '600 seconds'), 'running', '01890000-0000-7000-8000-000000000000'",
        )
        .await;
    world.start().await.unwrap();
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "succeeded", Duration::from_secs(30)).await;
    assert_eq!(world.listed().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_run_that_finds_the_lock_taken_waits_and_is_skipped_at_its_deadline() {
    let mut world = World::new().await;
    world.kill();
    planned_in_the_past(&world, 600, 608).await;
    world
        .sql_as_superuser(
            "insert into holdfast.lease (lock_name, fencing_token, lease_id_hash, sealed_id, principal, holder_id, purpose, reason, operation, request_id, expiry_policy, ttl, expire_time)
             values ('platform-maintenance', 1000, '', '', 'token:update-service', 'update', 'SOFTWARE_UPDATE', 'Update to 8.4.1', '', '', 'HOLD', '1 hour', now() + interval '1 hour');
             update holdfast.setting set value = jsonb_set(value, '{start_deadline,secs}',
                 to_jsonb(ceil(extract(epoch from now() - date_trunc('minute', now() - interval '600 seconds')))::int + 20))",
        )
        .await;
    world.start().await.unwrap();
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "running", Duration::from_secs(30)).await;
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SOFTWARE_UPDATE_IN_PROGRESS", Code::FailedPrecondition.into()));
    world.becomes("select string_agg(state, ' ') from holdfast.slot", "skipped", Duration::from_secs(60)).await;
    assert_eq!(get(&world).await.last_run_state(), RunState::Skipped);
    let told =
        "select string_agg(type || ' ' || (body ->> 'failure'), ' ' order by type) from holdfast.event where body ? 'failure'";
    let reason = "SOFTWARE_UPDATE_IN_PROGRESS";
    assert_eq!(world.value(told).await, format!("backup.failed {reason} schedule.run_skipped {reason}"));
    assert!(world.listed().await.is_empty());
}
