//! Operations live by themselves: they run once, stop when asked, and end whatever happens to the caller, the service
//! or the database.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, GetSystemStatusRequest, ListOperationsRequest, OperationPhase, WaitOperationRequest,
    WatchOperationRequest,
};
use sqlx::{Connection, PgConnection};
use tonic::Code;

use super::world::{PASSPHRASE, World, eventually, refused};
use super::zoo::{all_of, signal};

fn with_id(request_id: &str) -> BackupRequest {
    BackupRequest { request_id: request_id.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_r26_fifty_calls_with_one_request_id_are_one_operation_and_one_file() {
    let world = World::new().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut backups = world.backups().await;
        calls.spawn(async move { backups.backup(with_id("once")).await.map(|answer| answer.into_inner().name) });
    }
    let mut names: Vec<String> = calls.join_all().await.into_iter().map(|name| name.unwrap()).collect();
    names.dedup();
    assert_eq!(names.len(), 1, "{names:?}");
    world.wait(&names[0]).await;
    world.is_tidy().await;
    assert_eq!(world.files().len(), 1);

    let other = BackupRequest { description: "another".into(), ..with_id("once") };
    let error = world.try_backup(other).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("REQUEST_ID_REUSED", Code::InvalidArgument.into()));
    assert_eq!(error.metadata["operation"], names[0]);
    let again = world.backups().await.backup(with_id("once")).await.unwrap().into_inner();
    assert!(again.done && again.name == names[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_a_second_operation_is_refused_or_waits_for_the_lock() {
    let world = World::new().await;
    let backup = world.backup().await;
    let session = world.lock_table("row exclusive").await;
    let first = world.begin_restore(&backup, "").await;
    let restore = all_of(&backup);
    let refusals = [
        world.backups().await.backup(BackupRequest::default()).await.unwrap_err(),
        world.backups().await.restore(restore).await.unwrap_err(),
    ];
    for status in refusals {
        use tonic_types::StatusExt;
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
        let error = refused(status);
        assert_eq!((error.reason.as_str(), error.code), ("OPERATION_IN_PROGRESS", Code::Aborted.into()));
        assert_eq!(error.metadata["operation"], first);
    }
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.backup_possible && !status.restore_possible);
    assert!(status.obstacles.iter().any(|obstacle| obstacle.reason == "OPERATION_IN_PROGRESS"), "{:?}", status.obstacles);
    assert!(status.active_operations.iter().any(|operation| operation.name == first));

    let lock_wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let waiting = world.backups().await.backup(BackupRequest { lock_wait, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(waiting.metadata.unwrap().phase(), OperationPhase::WaitingForLock);
    session.close().await.unwrap();
    assert!(matches!(world.wait(&first).await.result, Some(Outcome::Restore(_))));
    assert!(matches!(world.wait(&waiting.name).await.result, Some(Outcome::Backup(_))));
    world.is_tidy().await;
    assert_eq!(world.files().len(), 2);
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(status.backup_possible && status.restore_possible && status.obstacles.is_empty());
}

/// How long a backup and a restore of what is in the world take when nobody disturbs them.
async fn durations(world: &World, passphrase: &str) -> [Duration; 2] {
    let start = Instant::now();
    let backup = world.backup().await;
    let backed_up = start.elapsed();
    world.damage();
    let start = Instant::now();
    world.restore(&backup, passphrase).await.unwrap();
    [backed_up, start.elapsed()]
}

/// An operation that waits for a table which the session holds. (A restore waits for 5 s at a time.)
async fn begin_waiting(world: &World, backup: &Backup, restore: bool) -> (String, PgConnection) {
    let session = world.lock_table(if restore { "row exclusive" } else { "access exclusive" }).await;
    let name = if restore { world.begin_restore(backup, PASSPHRASE).await } else { world.begin_backup().await };
    world.until_waiting(if restore { "holdfast_restore" } else { "holdfast_backup" }, "%").await;
    (name, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_operations_end_within_two_seconds_and_leave_nothing() {
    let world = World::new().await;
    world.grow().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let lasts = durations(&world, PASSPHRASE).await;
    world.damage();
    let mut before = world.digests();
    let (mut cancelled, mut longest) = ([0; 2], Duration::ZERO);
    for part in [0, 1, 5, 20, 40, 60, 80, 95] {
        for restore in [false, true] {
            let delay = lasts[usize::from(restore)] * part / 100;
            let name = if restore { world.begin_restore(&backup, PASSPHRASE).await } else { world.begin_backup().await };
            tokio::time::sleep(delay).await;
            let start = Instant::now();
            let answer = world.try_cancel(&name).await;
            let ended = world.wait(&name).await;
            let took = start.elapsed();
            match ended.result {
                Some(Outcome::Error(error)) => {
                    answer.unwrap();
                    assert_eq!((error.reason.as_str(), error.code), ("CANCELLED_BY_CALLER", Code::Cancelled.into()));
                    assert!(took < Duration::from_secs(2), "{took:?} after {delay:?}, restore: {restore}\n{}", world.log());
                    longest = longest.max(took);
                    cancelled[usize::from(restore)] += 1;
                }
                // It was done before: the answer may say so, but never that it was cancelled.
                Some(Outcome::Backup(_) | Outcome::Restore(_)) => {
                    assert!(answer.map_or_else(|status| status.code() == Code::FailedPrecondition, |()| true));
                    if restore {
                        world.damage();
                        before = world.digests();
                    }
                }
                other => panic!("{other:?} after {delay:?}"),
            }
            world.is_tidy().await;
        }
    }
    eprintln!("cancelled: {cancelled:?} of 8 backups and 8 restores, which last {lasts:?}; within {longest:?}");
    assert_eq!(world.digests(), before);

    for restore in [false, true] {
        let (name, session) = begin_waiting(&world, &backup, restore).await;
        let start = Instant::now();
        world.cancel(&name).await;
        world.cancel(&name).await;
        let Some(Outcome::Error(error)) = world.wait(&name).await.result else { panic!("it was not cancelled") };
        assert_eq!(error.reason, "CANCELLED_BY_CALLER");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?} while it waits for a table", start.elapsed());
        session.close().await.unwrap();
    }
    assert_eq!(world.digests(), before);
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_callers_who_hang_up_change_nothing() {
    let world = World::new().await;
    for delay in 0..25 {
        let mut backups = world.backups().await;
        // Refused while the one before runs; that is no harm.
        let _ = tokio::time::timeout(Duration::from_micros(delay * 400), backups.backup(BackupRequest::default())).await;
        if delay % 6 == 0 {
            world.is_tidy().await;
        }
    }
    world.is_tidy().await;
    assert_eq!(world.value("select count(*) from holdfast.operation where body->'outcome'->'failed' is not null").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_the_service_that_is_stopped_leaves_before_or_after_and_exits_with_0() {
    let mut world = World::new().await;
    world.grow().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let after = world.digests();
    let lasts = durations(&world, PASSPHRASE).await;
    world.damage();
    let (mut interrupted, mut state) = (0, world.digests());
    // At first while it waits for a table, then anywhere.
    for part in [None, Some(5), Some(40), Some(80)] {
        for restore in [false, true] {
            let (name, session) = match part {
                None => begin_waiting(&world, &backup, restore).await,
                Some(part) => {
                    let name = if restore { world.begin_restore(&backup, PASSPHRASE).await } else { world.begin_backup().await };
                    tokio::time::sleep(lasts[usize::from(restore)] * part / 100).await;
                    (name, world.platform().await)
                }
            };
            let start = Instant::now();
            assert_eq!(world.terminate().await, Some(0));
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
            assert!(world.drafts().is_empty());
            session.close().await.unwrap();
            world.start().await.unwrap();
            let ended = world.wait(&name).await;
            match ended.result.unwrap() {
                Outcome::Error(error) => {
                    assert_eq!((error.reason.as_str(), error.code), ("INTERRUPTED", Code::Aborted.into()));
                    interrupted += 1;
                }
                Outcome::Restore(_) => state.clone_from(&after),
                Outcome::Backup(_) => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(world.digests(), state, "{part:?}");
            world.is_tidy().await;
        }
    }
    assert!(interrupted >= 2, "those that waited could not have ended");
    world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), after);
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_f13_a_killed_service_ends_its_operation_at_the_next_start_and_leaves_no_draft() {
    let mut world = World::new().await;
    world.grow().await;
    let (mut names, mut drafts, mut longest) = (Vec::new(), 0, Duration::ZERO);
    let copying = "select pid from pg_stat_activity where datname = current_database() and usename = 'holdfast_backup'
        and state = 'active' and query like 'COPY%'";
    let [lasts, _] = durations(&world, "").await;
    for round in 0..10u32 {
        // The one before may hold the lock until it is looked after.
        let lock_wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = BackupRequest { lock_wait, ..Default::default() };
        names.push(world.backups().await.backup(request).await.unwrap().into_inner().name);
        if round % 3 == 0 {
            // The session that copies is stopped, so that the draft stays one.
            let pid = world.catch(copying).await;
            signal("-STOP", &pid);
            eventually(Duration::from_secs(60), || (!world.drafts().is_empty()).then_some(())).await;
            world.kill();
            drafts += world.drafts().len();
            signal("-CONT", &pid);
        } else {
            tokio::time::sleep(lasts * round / 9).await;
            world.kill();
        }
        let start = Instant::now();
        world.start().await.unwrap();
        longest = longest.max(start.elapsed());
        if round % 3 == 2 {
            world.is_tidy().await;
        }
    }
    eprintln!("ten starts after SIGKILL, the longest {longest:?}");
    assert!(longest < Duration::from_secs(30), "{longest:?}");
    assert!(drafts >= 4, "no kill hit a backup that was writing");
    world.is_tidy().await;
    for name in names {
        match world.wait(&name).await.result.unwrap() {
            Outcome::Error(error) => assert_eq!(error.reason, "INTERRUPTED", "{error:?}"),
            Outcome::Backup(result) => {
                assert!(world.file(&result.backup.unwrap()).exists());
            }
            other => panic!("{other:?}"),
        }
    }
    let before = world.digests();
    let newest = world.backup().await;
    for backup in world.listed().await.into_iter().take(3) {
        world.restore(&backup, "").await.unwrap();
        assert_eq!(world.digests(), before);
    }
    assert!(world.file(&newest).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_what_a_crash_interrupted_is_finished_or_undone_as_the_folder_says() {
    let mut world = World::new().await;
    let [renamed, vanished, deleting, late] =
        [world.backup().await, world.backup().await, world.backup().await, world.backup().await];
    world.kill();
    let id = |name: &str| name.rsplit('/').next().unwrap().to_owned();
    let creating = |backup: &holdfast::grpc::proto::backup::Backup, done: bool| {
        format!(
            "update holdfast.backup set state = 'creating', body = body || '{{\"state\": \"creating\"}}' where id = '{0}';
             update holdfast.operation set done = {done}, owner = gen_random_uuid(), heartbeat_time = now() - interval '1 hour',
                    body = body || '{{\"outcome\": null, \"end_time\": null, \"phase\": \"committing\"}}'
             where {done} is false and id = '{1}'",
            id(&backup.name),
            id(&backup.operation)
        )
    };
    world.sql_as_superuser(&creating(&renamed, false)).await;
    world.sql_as_superuser(&creating(&vanished, false)).await;
    // Its operation has ended already: the database was away while the row was to be written.
    world.sql_as_superuser(&creating(&late, true)).await;
    std::fs::rename(world.file(&vanished), world.folder().join(format!(".draft-{}", id(&vanished.operation)))).unwrap();
    let mark = format!(
        "update holdfast.backup set state = 'deleting', body = body || '{{\"state\": \"deleting\"}}' where id = '{}'",
        id(&deleting.name)
    );
    world.sql_as_superuser(&mark).await;
    world.start().await.unwrap();
    world.becomes("select count(*) from holdfast.backup where state <> 'ready'", "0", Duration::from_secs(20)).await;
    world.is_tidy().await;
    let left: Vec<String> = world.listed().await.into_iter().map(|backup| backup.name).collect();
    assert_eq!(left, [late.name.clone(), renamed.name.clone()]);
    assert!(matches!(world.wait(&renamed.operation).await.result, Some(Outcome::Backup(_))));
    let Some(Outcome::Error(error)) = world.wait(&vanished.operation).await.result else { panic!() };
    assert_eq!(error.reason, "INTERRUPTED");
    world.restore(&renamed, "").await.unwrap();
    world.restore(&late, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_an_orphan_whose_last_transaction_still_holds_the_fence_is_ended_when_it_lets_go() {
    let world = World::new().await;
    // What a dead process leaves behind a connection that the server has not given up yet.
    let orphan = "01890000-0000-7000-8000-000000000000";
    let body = "(select body from holdfast.operation limit 1)";
    world.backup().await;
    world
        .sql_as_superuser(&format!(
            "insert into holdfast.operation (id, caller, request_digest, owner, heartbeat_time, body)
             values ('{orphan}', 'x', '', gen_random_uuid(), now() - interval '1 hour',
                     {body} || '{{\"id\": \"{orphan}\", \"outcome\": null, \"end_time\": null, \"phase\": \"transferring\"}}');
             insert into holdfast.lease (lock_name, fencing_token, lease_id_hash, sealed_id, principal, holder_id, purpose, reason, operation, request_id, expiry_policy, ttl, expire_time)
             values ('platform-maintenance', 1000, '', '', 'system:holdfast', 'dead', 'BACKUP', 'Backup', 'operations/{orphan}', '{orphan}', 'RELEASE', '1 minute', now() + interval '1 minute')"
        ))
        .await;
    let mut zombie = world.superuser().await;
    sqlx::raw_sql("begin; select holdfast.fence('platform-maintenance', 1000)").execute(&mut zombie).await.unwrap();
    // Who looks after orphans waits for that transaction.
    world.until_waiting("holdfast_state", "DELETE FROM lease%").await;
    assert_eq!(world.value(&format!("select done from holdfast.operation where id = '{orphan}'")).await, "false");
    zombie.close().await.unwrap();
    world.is_tidy().await;
    world.backup().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_listing_and_waiting_tell_the_life_of_an_operation() {
    let world = World::new().await;
    let session = world.lock_table("access exclusive").await;
    let name = world.begin_backup().await;
    let mut operations = world.operations().await;
    let request = WatchOperationRequest { name: name.clone(), ..Default::default() };
    let mut watch = operations.watch_operation(request).await.unwrap().into_inner();
    let (mut revision, mut done, mut percent, mut messages) = (0, false, 0, 0);
    let mut session = Some(session);
    while let Some(operation) = watch.message().await.unwrap() {
        assert!(!done);
        let metadata = operation.metadata.unwrap();
        assert!(metadata.revision > revision, "{} after {revision}", metadata.revision);
        revision = metadata.revision;
        let now = metadata.progress.unwrap_or_default().percent;
        assert!((percent..=100).contains(&now), "{now} after {percent}");
        percent = now;
        done = operation.done;
        messages += 1;
        if metadata.phase == i32::from(OperationPhase::Preparing)
            && let Some(session) = session.take()
        {
            session.close().await.unwrap();
        }
    }
    assert!(done && messages >= 2 && percent == 100, "{messages} messages, {percent} %");

    // A failure as a status, for scripts.
    let session = world.lock_table("access exclusive").await;
    let failing = world.begin_backup().await;
    world.cancel(&failing).await;
    let wait = WaitOperationRequest { name: failing.clone(), error_as_status: true, ..Default::default() };
    assert_eq!(refused(operations.wait_operation(wait).await.unwrap_err()).reason, "CANCELLED_BY_CALLER");
    let request = WatchOperationRequest { name: failing.clone(), error_as_status: true };
    let mut watch = operations.watch_operation(request).await.unwrap().into_inner();
    let status = loop {
        match watch.message().await {
            Ok(message) => assert!(message.is_some(), "the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Cancelled);
    session.close().await.unwrap();

    for _ in 0..3 {
        world.backup().await;
    }
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListOperationsRequest { page_size: 2, page_token, active_only: false };
        let page = operations.list_operations(request).await.unwrap().into_inner();
        assert!(page.operations.len() <= 2);
        seen.extend(page.operations.into_iter().map(|operation| operation.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|newer, older| newer > older), "{seen:?}");
    assert_eq!(seen[4], name);
    let active = ListOperationsRequest { active_only: true, ..Default::default() };
    assert!(operations.list_operations(active).await.unwrap().into_inner().operations.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_while_the_database_is_away_the_service_stays_and_works_again_afterwards() {
    let world = World::new().await;
    world.grow().await;
    let [lasts, _] = durations(&world, "").await;
    for part in [10, 60] {
        let name = world.begin_backup().await;
        tokio::time::sleep(lasts * part / 100).await;
        world.database_away(true).await;
        let start = Instant::now();
        world.becomes_ready(false).await;
        let status = world.backups().await.backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!(refused(status).reason, "DATABASE_UNAVAILABLE");
        let asked = Instant::now();
        let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap_err();
        assert_eq!(refused(status).reason, "DATABASE_UNAVAILABLE");
        assert!(asked.elapsed() < Duration::from_secs(9), "{:?}: it waited more than once", asked.elapsed());
        tokio::time::sleep(Duration::from_secs(3).saturating_sub(start.elapsed())).await;
        world.database_away(false).await;
        world.becomes_ready(true).await;
        let ended = world.wait(&name).await;
        match ended.result.unwrap() {
            Outcome::Error(error) => assert_eq!(error.reason, "DATABASE_UNAVAILABLE", "{error:?}"),
            Outcome::Backup(_) => {}
            other => panic!("{other:?}"),
        }
        world.is_tidy().await;
        world.backup().await;
    }
}
