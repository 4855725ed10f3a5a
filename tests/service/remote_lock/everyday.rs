//! What Holdfast does every day, and how it and the updates are kept apart.

use std::time::Duration;

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{BackupRequest, Retention, SetRetentionRequest};
use holdfast::grpc::proto::lock::lock::State;
use holdfast::grpc::proto::lock::{AcquireLockRequest, GetLockRequest, LockPurpose, WatchLockRequest};
use tonic::Code;
use tonic_types::StatusExt;

use super::super::update_service::{Fault, LOCK, UPDATE_SERVICE, Update};
use super::super::world::{PASSPHRASE, TOKEN, World, refused};
use super::super::zoo::all_of;
use super::{At, SHORT, Site};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_platform_had_comes_back_and_retention_and_previews_work() {
    let mut site = Site::on(World::without_service().await).await;
    site.start().await;
    site.world.set_passphrase(PASSPHRASE).await;
    let digests = site.world.digests();
    let backup = site.world.backup().await;
    let first = site.lock().await.fencing_token;
    site.world.damage();
    assert_ne!(site.world.digests(), digests);
    let preview = site.world.preview(&backup, PASSPHRASE).await;
    assert!(!preview.etag.is_empty());
    assert_eq!(site.lock().await.fencing_token, first, "a preview needs no lock");
    site.world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!(site.world.digests(), digests);
    assert_eq!(site.lock().await.fencing_token, first + 1, "an operation is granted the lock once");

    let retention = Some(Retention { max_count: 1, ..Default::default() });
    site.world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    let newest = site.world.backup().await;
    let listed = site.world.listed().await;
    assert_eq!(listed.iter().map(|backup| &backup.name).collect::<Vec<_>>(), [&newest.name]);
    site.is_tidy().await;
    let status = site.status().await;
    assert!(status.backup_possible && status.restore_possible && status.obstacles.is_empty(), "{status:?}");
    assert!(!site.world.log().contains("\"ERROR\""), "{}", site.world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cancelled_leaves_neither_a_change_nor_the_lock() {
    let site = Site::new().await;
    let backup = site.damaged().await;
    let before = site.world.digests();
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.world.cancel(&operation).await;
    assert_eq!(site.world.outcome(&operation).await.unwrap_err().reason, "CANCELLED_BY_CALLER");
    assert_eq!(site.world.digests(), before);
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l15_the_lock_is_asked_for_before_any_table_and_given_back_after_all_of_them() {
    let site = Site::with(&[SHORT]).await;
    let backup = site.damaged().await;
    site.host.take_calls();
    let operation = site.begin_held_restore(&backup, At::Work).await;
    let mut before = site.host.take_calls();
    // On a slow machine it has been renewed already.
    before.retain(|method| !["GetLock", "RenewLock"].contains(&method.as_str()));
    assert_eq!(before, ["AcquireLock"], "{before:?}");
    // It has the tables now, and keeps what it has.
    site.until_renewed(2).await;
    let meanwhile = site.host.take_calls();
    assert!(meanwhile.contains(&"RenewLock".to_owned()));
    assert!(meanwhile.iter().all(|method| ["RenewLock", "GetLock"].contains(&method.as_str())), "{meanwhile:?}");
    site.go_on().await;
    site.world.outcome(&operation).await.unwrap();
    site.is_tidy().await;
    let after = site.host.take_calls();
    assert!(after.contains(&"ReleaseLock".to_owned()), "{after:?}");
}

/// What is left of the lease of a service that was killed when the next one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Lease,
    Nothing,
    /// Nobody can say.
    Unknown,
}

async fn a_killed_restore_is_recovered(left: Left) {
    // For as long as nobody gives it back, the lease is in the way.
    let mut site = Site::with(&[("HOLDFAST_LOCK__TTL", "60s")]).await;
    let backup = site.damaged().await;
    let before = site.world.digests();
    let operation = site.begin_held_restore(&backup, At::Work).await;
    site.world.kill();
    let granted = site.lock().await;
    assert_eq!(granted.state(), State::Held);
    match left {
        Left::Lease => {}
        Left::Nothing => site.host.expire(),
        Left::Unknown => site.host.set(Fault::Dead).await,
    }
    site.start().await;
    assert_eq!(site.world.outcome(&operation).await.unwrap_err().reason, "INTERRUPTED", "{left:?}");
    assert_eq!(site.world.digests(), before);
    site.go_on().await;
    site.host.set(Fault::None).await;
    site.lock_gets_free(Duration::from_secs(15)).await;
    assert_eq!(site.lock().await.fencing_token, granted.fencing_token, "{left:?}: to give it back, it was taken anew");
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l09_a_killed_restore_is_recovered_also_without_the_lock_service_and_the_next_one_works() {
    let [lease, nothing, unknown] = [Left::Lease, Left::Nothing, Left::Unknown].map(a_killed_restore_is_recovered);
    tokio::join!(lease, nothing, unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_refused_while_a_backup_runs_and_told_all_of_it() {
    let site = Site::new().await;
    let table = site.world.open_transaction("lock table zoo.item in access exclusive mode").await;
    let operation = site.world.begin_backup().await;
    let refused = Update::try_begin(&site.host.endpoint(), UPDATE_SERVICE.token, "update-1").await.err().unwrap();
    assert_eq!(refused.code(), Code::Aborted);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "LOCK_HELD");
    let told = |name: &str| info.metadata.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((told("holder"), told("purpose"), told("operation")), ("holdfast", "BACKUP", operation.as_str()));
    assert!(told("reason").starts_with("Backup, started by ") && !told("holderId").is_empty(), "{info:?}");
    assert!(told("acquireTime") < told("expireTime"), "{info:?}");

    // Holdfast shows the same, and does not pretend to host it.
    let mut locks = site.world.locks(TOKEN).await;
    let name = || LOCK.to_owned();
    let shown = locks.get_lock(GetLockRequest { name: name() }).await.unwrap().into_inner();
    let (ours, theirs) = (shown.holder.unwrap(), site.lock().await.holder.unwrap());
    assert_eq!((ours.operation, ours.fencing_token), (operation.clone(), theirs.fencing_token));
    assert_eq!((ours.principal, ours.reason, ours.acquire_time), (theirs.principal, theirs.reason, theirs.acquire_time));
    let mut watch = locks.watch_lock(WatchLockRequest { name: name() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().state(), State::Held);
    let request = AcquireLockRequest {
        name: name(),
        holder_id: "update-1".into(),
        purpose: LockPurpose::SoftwareUpdate.into(),
        reason: "Update".into(),
        ..Default::default()
    };
    let status = locks.acquire_lock(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("Another service hosts the maintenance lock"), "{status:?}");
    assert_eq!(refused_reason(status), "NOT_SERVED");

    sqlx::Connection::close(table).await.unwrap();
    site.world.backup_outcome(&operation).await.unwrap();
    let mut last = State::Held;
    while last == State::Held {
        last = watch.message().await.unwrap().unwrap().state();
    }
    assert_eq!(last, State::Free);
    Update::try_begin(&site.host.endpoint(), UPDATE_SERVICE.token, "update-1").await.unwrap().end().await.unwrap();
    site.is_tidy().await;
}

fn refused_reason(status: tonic::Status) -> String {
    refused(status).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_during_an_update_and_the_status_says_so_beforehand() {
    let site = Site::new().await;
    let backup = site.damaged().await;
    let update = site.host.begin_update("update-1").await.unwrap();
    update.step("step 3 of 7").await.unwrap();
    for stale in [false, true] {
        if stale {
            site.host.expire();
        }
        let mut backups = site.world.backups().await;
        let refusals = [
            backups.backup(BackupRequest::default()).await.unwrap_err(),
            backups.backup(BackupRequest { validate_only: true, ..Default::default() }).await.unwrap_err(),
            backups.restore(all_of(&backup)).await.unwrap_err(),
        ];
        let refusals = refusals.map(|status| {
            assert!(status.get_details_retry_info().is_none_or(|retry| retry.retry_delay.is_none()), "{status:?}");
            assert_eq!(status.code(), Code::FailedPrecondition);
            refused(status)
        });
        for error in refusals.into_iter().chain([site.obstacle().await]) {
            assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS", "{error:?}");
            let told = |name: &str| error.metadata.get(name).map(String::as_str).unwrap_or_default();
            assert_eq!((told("lock"), told("holder"), told("stale")), (LOCK, "update-service", stale.to_string().as_str()));
            assert_eq!((told("holderReason"), told("purpose")), ("Update update-1: step 3 of 7", "SOFTWARE_UPDATE"));
            assert!(told("acquireTime") < told("expireTime"), "{error:?}");
        }
    }
    // Its update is over; what was refused is done.
    let waits = BackupRequest { lock_wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }), ..Default::default() };
    let waiting = site.world.backups().await.backup(waits).await.unwrap().into_inner();
    update.end().await.unwrap();
    assert!(matches!(site.world.outcome(&waiting.name).await, Ok(Outcome::Backup(_))));
    site.world.restore(&backup, "").await.unwrap();
    site.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_service_is_told_of_the_trace_that_its_lock_is_taken_for() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let site = Site::new().await;
    let mut request = tonic::Request::new(BackupRequest::default());
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=of-the-caller".parse().unwrap());
    let operation = site.world.backups().await.backup(request).await.unwrap().into_inner();
    site.world.wait(&operation.name).await;
    let traces = site.host.traces();
    for method in ["AcquireLock", "ReleaseLock"] {
        let (_, trace) = traces.iter().find(|(name, _)| name == method).unwrap_or_else(|| panic!("{method} in {traces:?}"));
        let parts: Vec<_> = trace.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"), "{method}: {trace}");
        // Each call is a span of its own.
        assert!(parts[2].len() == 16 && parts[2] != "00f067aa0ba902b7", "{method}: {trace}");
    }
}
