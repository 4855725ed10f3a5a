//! The end of the service when it is asked to, and of its database when nobody asks.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{
    BackupRequest, DownloadBackupRequest, GetOperationRequest, ListBackupsRequest, WatchAuditEventsRequest, WatchOperationRequest,
};
use tonic::Code;

use super::proxy::Proxy;
use super::world::{World, eventually, long_tests, refused};
use super::zoo::{BUSY, BUSY_DAMAGE, resource, signal};

/// Asks the service to end, more than once, and tells how long it took. It must be over in 10 s; a machine may be slow.
async fn ends(world: &mut World, what: &str) {
    let (began, pid) = (Instant::now(), world.pid().to_string());
    for _ in 0..3 {
        signal("-TERM", &pid);
    }
    assert_eq!(world.terminate().await, Some(0), "{what}\n{}", world.log());
    let took = began.elapsed();
    eprintln!("SIGTERM while {what}: {took:?}");
    assert!(took < Duration::from_secs(20), "{what}: {took:?}\n{}", world.log());
}

async fn interrupted(world: &World, operation: &str) {
    let error = world.outcome(operation).await.unwrap_err();
    assert_eq!(error.reason, "INTERRUPTED", "{error:?}");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_a_service_that_is_stopped_ends_soon_whatever_is_open() {
    let mut world = World::without_service().await;
    let proxy = Proxy::new(world.port()).await;
    world.set("HOLDFAST_DATABASE__PORT", &proxy.port.to_string());
    world.start().await.unwrap();
    world.grow().await;
    let backup = world.backup().await;

    // A file of many times what a window holds, of which nobody reads more than the beginning.
    let request = DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
    let mut download = world.backups().await.download_backup(request).await.unwrap().into_inner();
    download.message().await.unwrap();
    ends(&mut world, "a download is not being read").await;
    drop(download);

    world.start().await.unwrap();
    let update = world.begin_update().await;
    let lock_wait = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let waiting =
        world.backups().await.backup(BackupRequest { lock_wait, ..Default::default() }).await.unwrap().into_inner().name;
    let request = WatchOperationRequest { name: waiting.clone(), ..Default::default() };
    let mut operation = world.operations().await.watch_operation(request).await.unwrap().into_inner();
    let mut events = world.events().await.watch_audit_events(WatchAuditEventsRequest::default()).await.unwrap().into_inner();
    operation.message().await.unwrap();
    ends(&mut world, "watchers watch and a backup waits for the lock").await;
    // Either is told, or was before: the event and the state of the operation that ended come first.
    let watched = loop {
        match operation.message().await {
            Ok(Some(message)) if message.done => break None,
            Ok(message) => assert!(message.is_some(), "the stream ended without a word"),
            Err(status) => break Some(status),
        }
    };
    let told = loop {
        match events.message().await {
            Ok(message) => assert!(message.is_some(), "the stream ended without a word"),
            Err(status) => break status,
        }
    };
    for status in watched.into_iter().chain([told]) {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(refused(status).reason, "SERVER_DRAINING");
    }
    world.start().await.unwrap();
    world.end_update(update).await;
    interrupted(&world, &waiting).await;

    // A database that takes what is sent and never answers, met by a backup that waits for a table.
    let session = world.lock_table("access exclusive").await;
    let silenced = world.begin_backup().await;
    world.until_waiting("holdfast_backup", "%").await;
    proxy.silence();
    ends(&mut world, "the database does not answer").await;
    assert!(world.drafts().is_empty());
    drop(session);
    proxy.open();
    world.start().await.unwrap();
    interrupted(&world, &silenced).await;
    world.restore(&backup, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_a_restore_that_is_committing_when_the_service_is_stopped_is_finished() {
    let mut world = World::without_service().await.with_zoo(BUSY, &resource("zoo", &["zoo.parent", "zoo.child"])).await;
    world.start().await.unwrap();
    world.build_gate().await;
    let backup = world.backup().await;
    let whole = world.digests();
    world.sql(BUSY_DAMAGE).await;
    let gate = world.close_gate().await;
    let operation = world.begin_restore(&backup, "").await;
    world.until_commit().await;
    signal("-TERM", &world.pid().to_string());
    eventually(Duration::from_secs(30), || world.log().contains("\"stopping\"").then_some(())).await;
    drop(gate);
    ends(&mut world, "a restore commits").await;
    // It told so itself: nobody had to find out.
    assert_eq!(world.value("select count(*) from holdfast.operation where not done").await, "0");
    world.start().await.unwrap();
    assert!(matches!(world.wait(&operation).await.result, Some(Outcome::Restore(_))));
    assert_eq!(world.digests(), whole);
    world.is_tidy().await;
}

/// PostgreSQL is stopped in the middle of an operation, for longer than an owner may be silent, and started again.
async fn outlives_its_database(restore: bool) {
    let mut world = World::on_its_own_database_server().await;
    world.start().await.unwrap();
    let pid = world.pid();
    let backup = world.backup().await;
    let whole = world.digests();
    world.damage();
    let damaged = world.digests();
    let session = world.lock_table(if restore { "row exclusive" } else { "access exclusive" }).await;
    let operation = if restore { world.begin_restore(&backup, "").await } else { world.begin_backup().await };
    world.until_waiting(if restore { "holdfast_restore" } else { "holdfast_backup" }, "%").await;
    world.stop_database().await;
    drop(session);
    let away = Duration::from_secs(if long_tests() { 600 } else { 11 });
    let (began, mut longest, mut calls) = (Instant::now(), Duration::ZERO, 0);
    while began.elapsed() < away {
        let call = Instant::now();
        let (mut lists, mut starts, mut looks) = (world.backups().await, world.backups().await, world.operations().await);
        let (listed, started, looked) = tokio::join!(
            lists.list_backups(ListBackupsRequest::default()),
            starts.backup(BackupRequest::default()),
            looks.get_operation(GetOperationRequest { name: operation.clone() }),
        );
        for status in [listed.err(), started.err(), looked.err()] {
            assert_eq!(refused(status.expect("there is no database")).reason, "DATABASE_UNAVAILABLE");
        }
        longest = longest.max(call.elapsed());
        calls += 3;
        assert!(world.serves("liveness").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{calls} calls without a database were answered, each within {longest:?}");
    assert!(longest < Duration::from_secs(20), "{longest:?}");
    world.becomes_ready(false).await;
    assert!(!world.serves("holdfast.lock.v1.LockService").await);
    world.start_database();
    world.becomes_ready(true).await;
    let error = world.outcome(&operation).await.unwrap_err();
    assert!(["DATABASE_UNAVAILABLE", "LEASE_LOST"].contains(&error.reason.as_str()), "{error:?}");
    assert_eq!(world.digests(), damaged);
    world.is_tidy().await;
    world.backup().await;
    world.restores_to(&backup, &whole).await;
    assert_eq!(world.pid(), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_b23_a_service_whose_database_is_stopped_in_the_middle_of_a_backup_recovers_by_itself() {
    outlives_its_database(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_service_whose_database_is_stopped_in_the_middle_of_a_restore_recovers_by_itself() {
    outlives_its_database(true).await;
}
