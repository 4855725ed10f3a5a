//! Answers that are lost, a host that forgets, a calendar that is wrong, calls that fail by chance.

use std::time::Duration;

use holdfast::grpc::proto::backup::{BackupRequest, RestoreRequest};
use tonic::Code;

use super::super::schedule::planned_in_the_past;
use super::super::update_service::Fault;
use super::super::world::rounds;
use super::super::zoo::all_of;
use super::{A_MINUTE, At, SHORT, Site};

const DAY: i64 = 24 * 3600;

fn wait(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn l05_a_caller_that_waits_gets_the_lease_whose_grant_was_lost_and_keeps_it() {
    let site = Site::with(&[SHORT]).await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    let token = site.lock().await.fencing_token;
    site.hold_restores(At::Work).await;
    site.host.set(Fault::LosesAnswer).await;
    let request = RestoreRequest { lock_wait: wait(60), ..all_of(&backup) };
    let operation = site.world.backups().await.restore(request).await.unwrap().into_inner();
    site.until_held().await;
    assert_eq!(site.lock().await.fencing_token, token + 1, "it was granted another");
    // Nobody gives it back while it is in use.
    site.until_renewed(1).await;
    site.go_on().await;
    site.world.outcome(&operation.name).await.unwrap();
    assert_eq!((site.world.digests(), site.lock().await.fencing_token), (digests, token + 1));
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l05_a_caller_that_does_not_wait_is_refused_and_leaves_no_lock_behind() {
    let site = Site::new().await;
    for round in 1..=rounds(2, 100) {
        site.host.set(Fault::LosesAnswer).await;
        let error = site.world.try_backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), ("LOCK_SERVICE_UNAVAILABLE", Code::Unavailable.into()));
        assert_eq!(site.lock().await.fencing_token, i64::from(round), "it was not granted");
        // The lease would have lasted for 30 s.
        site.lock_gets_free(Duration::from_secs(6)).await;
    }
    assert_eq!(site.world.value("select count(*) from holdfast.operation").await, "0");
    site.world.backup().await;
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l11_a_host_that_has_forgotten_its_tokens_gets_no_work_until_it_has_caught_up() {
    let site = Site::with(&[SHORT]).await;
    let digests = site.world.digests();
    let backup = site.damaged().await;
    site.world.backup().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    let newest = site.lock().await.fencing_token;
    assert_eq!(newest, 3);
    site.host.set(Fault::LosesState).await;
    // Whom it has forgotten has no lease to renew.
    let error = site.world.outcome(&operation).await.unwrap_err();
    assert_eq!(error.reason, "LEASE_LOST", "{error:?}");
    site.go_on().await;
    for _ in 0..newest {
        site.world.restore_fails(all_of(&backup), "LOCK_SERVICE_UNUSABLE").await;
        site.lock_gets_free(Duration::from_secs(5)).await;
    }
    site.world.restore(&backup, "").await.unwrap();
    assert_eq!((site.world.digests(), site.lock().await.fencing_token), (digests, newest + 1));
    site.is_tidy().await;
}

async fn with_a_calendar_that_is_wrong(by: i64) {
    let site = Site::with(&[SHORT]).await;
    let digests = site.world.digests();
    site.host.set_calendar(by);
    let backup = site.damaged().await;
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.until_renewed(1).await;
    let error = site.world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), &error.metadata["operation"]), ("OPERATION_IN_PROGRESS", &operation));
    site.go_on().await;
    site.world.outcome(&operation).await.unwrap();
    assert_eq!(site.world.digests(), digests);
    site.is_tidy().await;
    assert!(!site.world.log().contains("could not be renewed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn l10_a_host_whose_calendar_is_wrong_by_a_day_changes_nothing() {
    tokio::join!(with_a_calendar_that_is_wrong(-DAY), with_a_calendar_that_is_wrong(DAY));
}

#[tokio::test(flavor = "multi_thread")]
async fn l19_backups_succeed_with_a_lock_service_that_fails_three_calls_in_ten() {
    let mut site = Site::new().await;
    for seed in 0..rounds(2, 100) {
        site.host.set(Fault::Flaky(u64::from(seed))).await;
        let request = BackupRequest { lock_wait: wait(60), ..Default::default() };
        site.world.try_backup(request).await.unwrap_or_else(|error| panic!("{seed}: {error:?}\n{}", site.world.log()));
    }
    // A service that dies before it has given the lock back leaves it taken until its lease is over.
    site.host.set(Fault::None).await;
    site.lock_gets_free(Duration::from_secs(10)).await;
    site.world.kill();
    site.host.set(Fault::Flaky(u64::from(rounds(2, 100)))).await;
    planned_in_the_past(&site.world, 600, 3600).await;
    site.start().await;
    site.world.becomes("select string_agg(state, ' ') from holdfast.slot", "succeeded", A_MINUTE).await;
    site.host.set(Fault::None).await;
    site.lock_gets_free(Duration::from_secs(10)).await;
    site.is_tidy().await;
}
