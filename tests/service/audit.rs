//! The audit log: everything is told once, by whom and how it ended, and who watches misses nothing.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use holdfast::grpc::proto::backup::audit_service_client::AuditServiceClient;
use holdfast::grpc::proto::backup::{
    AuditEvent, BackupRequest, DeleteBackupRequest, DownloadBackupRequest, ListAuditEventsRequest, RestoreRequest,
    SetRetentionRequest, SetScheduleRequest, WatchAuditEventsRequest,
};
use sqlx::{AssertSqlSafe, Executor};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use super::world::{BINARY, PASSPHRASE, TOKEN, World, eventually_async, refused};

const PATIENCE: Duration = Duration::from_secs(60);

fn number(event: &AuditEvent) -> i64 {
    event.name.strip_prefix("auditEvents/").unwrap().parse().unwrap()
}

/// All events, oldest first, read in small pages.
async fn all(world: &World, types: &[&str]) -> Vec<AuditEvent> {
    let types: Vec<String> = types.iter().map(|text| (*text).to_owned()).collect();
    let mut request = ListAuditEventsRequest { page_size: 7, types, ..Default::default() };
    let mut events = Vec::new();
    loop {
        let page = world.events().await.list_audit_events(request.clone()).await.unwrap().into_inner();
        assert!(page.audit_events.len() <= 7);
        events.extend(page.audit_events);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert!(events.is_sorted_by_key(|event| -number(event)), "newest first");
    events.reverse();
    events
}

async fn watch(world: &World, start_after: &str, types: &[&str]) -> Streaming<AuditEvent> {
    let types = types.iter().map(|text| (*text).to_owned()).collect();
    let request = WatchAuditEventsRequest { start_after: start_after.to_owned(), types };
    world.events().await.watch_audit_events(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<AuditEvent>) -> AuditEvent {
    timeout(PATIENCE, stream.message()).await.expect("an event comes").unwrap().expect("the watch goes on")
}

/// Writes an event as a transaction of somebody else does.
fn insert(mark: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("insert into holdfast.event (type, body) values ('test.written', '{{\"target\": \"{mark}\"}}')"))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happens_is_told_once_with_who_did_it_by_what_and_how_it_ended() {
    let world = World::new().await;
    world.install_adapter_types().await;
    let mut backups = world.backups().await;
    world.set_passphrase(PASSPHRASE).await;
    let request = BackupRequest { request_id: "r-17".into(), ..Default::default() };
    let backup = world.try_backup(request).await.unwrap();
    world.sql("update platform.license set issued_to = 'nobody'").await;
    let restore = RestoreRequest {
        name: backup.name.clone(),
        passphrase: PASSPHRASE.into(),
        reason: "after the flood".into(),
        skip_safety_backup: true,
        ..Default::default()
    };
    world.try_restore(restore.clone()).await.unwrap();
    let held = world.lock_table("row exclusive").await;
    let cancelled = backups.restore(restore.clone()).await.unwrap().into_inner().name;
    world.cancel(&cancelled).await;
    world.wait(&cancelled).await;
    drop(held);
    world.sql("alter table platform.license add constraint later check (issued_to is null) not valid; update platform.license set issued_to = null").await;
    assert_eq!(world.try_restore(restore).await.unwrap_err().reason, "RESTORE_CONSTRAINT_VIOLATION");
    let mut file = backups
        .download_backup(DownloadBackupRequest { name: backup.name.clone(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    while file.message().await.unwrap().is_some() {}
    let held = world.lock_table("access exclusive").await;
    let failed = world.begin_backup().await;
    world.cancel(&failed).await;
    world.wait(&failed).await;
    drop(held);
    let retention = holdfast::grpc::proto::backup::Retention { max_count: 1, ..Default::default() };
    backups.set_retention(SetRetentionRequest { retention: Some(retention) }).await.unwrap();
    let newest = world.backup().await;
    backups.delete_backup(DeleteBackupRequest { name: newest.name.clone(), ..Default::default() }).await.unwrap();
    let schedule = holdfast::grpc::proto::backup::Schedule { enabled: Some(false), ..Default::default() };
    backups.set_schedule(SetScheduleRequest { schedule: Some(schedule), ..Default::default() }).await.unwrap();
    world.try_set_passphrase(Some("")).await.unwrap();
    let stranger = AuditServiceClient::new(world.channel().await).list_audit_events(ListAuditEventsRequest::default()).await;
    assert_eq!(stranger.unwrap_err().code(), Code::Unauthenticated);
    world.becomes("select count(*) from holdfast.event where type = 'access.denied'", "1", PATIENCE).await;

    let service = "/holdfast.backup.v1.BackupService/";
    let cancels = "/holdfast.backup.v1.OperationService/CancelOperation";
    let expected = [
        ("encryption.changed", "SetEncryption", "settings/encryption", 0, ""),
        ("backup.started", "Backup", "", 0, ""),
        ("backup.completed", "Backup", &backup.name, 0, ""),
        ("restore.started", "Restore", &backup.name, 0, ""),
        ("restore.completed", "Restore", &backup.name, 0, ""),
        ("restore.started", "Restore", &backup.name, 0, ""),
        ("operation.cancel_requested", cancels, &cancelled, 0, ""),
        ("restore.cancelled", "Restore", &backup.name, 1, "CANCELLED_BY_CALLER"),
        ("restore.started", "Restore", &backup.name, 0, ""),
        ("restore.failed", "Restore", &backup.name, 9, "RESTORE_CONSTRAINT_VIOLATION"),
        ("backup.downloaded", "DownloadBackup", &backup.name, 0, ""),
        ("backup.started", "Backup", "", 0, ""),
        ("operation.cancel_requested", cancels, &failed, 0, ""),
        ("backup.failed", "Backup", "", 1, "CANCELLED_BY_CALLER"),
        ("retention.changed", "SetRetention", "settings/retention", 0, ""),
        ("backup.started", "Backup", "", 0, ""),
        ("backup.expired", "", &backup.name, 0, ""),
        ("backup.completed", "Backup", &newest.name, 0, ""),
        ("backup.deleted", "DeleteBackup", &newest.name, 0, ""),
        ("schedule.changed", "SetSchedule", "settings/schedule", 0, ""),
        ("encryption.disabled", "SetEncryption", "settings/encryption", 0, ""),
    ];
    let every = all(&world, &[]).await;
    assert!(every.iter().map(number).eq(1..=every.len() as i64));
    // Each operation takes the lock and gives it back.
    let events: Vec<_> = every.into_iter().filter(|event| !event.r#type.starts_with("lock.")).collect();
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            let method = event.method.strip_prefix(service).unwrap_or(&event.method);
            (event.r#type.as_str(), method, event.target.as_str(), event.code, event.error_reason.as_str())
        })
        .collect();
    let (denied, told) = found.split_last().unwrap();
    assert_eq!(told, expected.map(|(kind, method, target, code, reason)| (kind, method, target, code, reason)));
    let listing = "/holdfast.backup.v1.AuditService/ListAuditEvents";
    assert_eq!(*denied, ("access.denied", listing, "", 16, "CREDENTIALS_MISSING"));

    for event in &events {
        let actor = event.actor.clone().unwrap();
        assert!(event.event_time.is_some());
        let who = (actor.principal.as_str(), actor.authentication.as_str());
        match event.r#type.as_str() {
            "backup.expired" => assert_eq!(who, ("system:retention", "internal")),
            "access.denied" => assert_eq!(who, ("", "")),
            _ => assert_eq!(who, ("token:static", "token"), "{event:?}"),
        }
        if event.r#type != "backup.expired" {
            assert!(actor.peer_address.starts_with("127.0.0.1:") && actor.user_agent.starts_with("tonic/"), "{event:?}");
        }
        let of_operation = event.r#type.starts_with("restore.")
            || event.r#type.starts_with("operation.")
            || ["backup.started", "backup.completed", "backup.failed"].contains(&event.r#type.as_str());
        assert_eq!(event.operation.starts_with("operations/"), of_operation, "{event:?}");
        assert_eq!(event.reason == "after the flood", event.r#type.starts_with("restore."), "{event:?}");
        let text = format!("{event:?}");
        assert!(!text.contains(PASSPHRASE) && !text.contains(TOKEN), "{text}");
    }
    assert_eq!((events[1].request_id.as_str(), events[2].request_id.as_str()), ("r-17", "r-17"));
    assert_eq!((events[3].operation.as_str(), events[5].operation.as_str()), (events[4].operation.as_str(), cancelled.as_str()));
    assert_eq!(events[2].attributes["sha256"], backup.sha256);
    assert_eq!(events[14].attributes["maxCount"], "1");

    assert_eq!(all(&world, &["restore.*"]).await.len(), 6);
    assert_eq!(all(&world, &["restore.completed", "backup.e*"]).await.len(), 2);
    let wrong = ListAuditEventsRequest { types: vec!["Restore".into()], ..Default::default() };
    assert_eq!(refused(world.events().await.list_audit_events(wrong).await.unwrap_err()).reason, "INVALID_FIELD");
    let output = world.cli(&["events", "--type", "restore.*", "--limit", "1"], "");
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && line.contains("restore.failed") && line.contains("RESTORE_CONSTRAINT_VIOLATION"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_watch_misses_no_event_though_transactions_commit_in_any_order() {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let mut world = World::new().await;
    let mut from_now = watch(&world, "", &[]).await;
    // A transaction that is open while all others commit, and one that is rolled back.
    let (mut open, mut undone) = (world.superuser().await, world.superuser().await);
    open.execute("begin").await.unwrap();
    open.execute(sqlx::raw_sql(insert("open"))).await.unwrap();
    undone.execute("begin").await.unwrap();
    undone.execute(sqlx::raw_sql(insert("undone"))).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut connection = world.superuser().await;
        writers.push(tokio::spawn(async move {
            for turn in 0..EACH {
                connection.execute("begin").await.unwrap();
                connection.execute(sqlx::raw_sql(insert(&format!("{writer}-{turn}")))).await.unwrap();
                connection.execute("select pg_sleep(random() * 0.05)").await.unwrap();
                connection.execute("commit").await.unwrap();
            }
        }));
    }
    // Several number at the same time.
    let (mut second, mut seen) = (watch(&world, "auditEvents/0", &[]).await, Vec::new());
    while seen.len() < WRITERS * EACH {
        seen.push(next(&mut from_now).await);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    undone.execute("rollback").await.unwrap();
    assert!(seen.iter().all(|event| event.target != "open"));
    open.execute("commit").await.unwrap();
    seen.push(next(&mut from_now).await);
    assert_eq!(seen.last().unwrap().target, "open");
    let total = WRITERS * EACH + 1;
    assert!(seen.iter().map(number).eq(1..=i64::try_from(total).unwrap()), "numbers have gaps, or are not in their order");
    let written: BTreeSet<&str> = seen.iter().map(|event| event.target.as_str()).collect();
    assert_eq!(written.len(), total, "an event came twice");
    for expected in &seen {
        assert_eq!(next(&mut second).await, *expected);
    }
    // From any start, with the same events.
    for start in [1, 57, 120, total - 1] {
        let mut stream = watch(&world, &seen[start - 1].name, &[]).await;
        for expected in &seen[start..] {
            assert_eq!(next(&mut stream).await, *expected);
        }
    }
    // A family, past many others.
    let mut chosen = watch(&world, "auditEvents/0", &["retention.*"]).await;
    let retention = holdfast::grpc::proto::backup::Retention { max_count: 5, ..Default::default() };
    world.backups().await.set_retention(SetRetentionRequest { retention: Some(retention) }).await.unwrap();
    assert_eq!(next(&mut chosen).await.r#type, "retention.changed");
    // What is not there yet cannot be started after: it would hide what comes first.
    let ahead = WatchAuditEventsRequest { start_after: "auditEvents/1000000".into(), ..Default::default() };
    assert_eq!(refused(world.events().await.watch_audit_events(ahead).await.unwrap_err()).reason, "INVALID_FIELD");

    assert_eq!(next(&mut from_now).await.r#type, "retention.changed");
    let ending =
        tokio::spawn(async move { timeout(PATIENCE, from_now.message()).await.expect("the watch ends").unwrap_err().code() });
    drop((second, chosen));
    world.terminate().await;
    assert_eq!(ending.await.unwrap(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_follows_events_over_a_restart_of_the_service() {
    let mut world = World::new().await;
    let address = world.address();
    let mut command = std::process::Command::new(BINARY);
    command.args(["events", "--follow", "--after", "auditEvents/0", "--json"]).env_clear();
    command.envs([("HOLDFAST_ENDPOINT", address.as_str()), ("HOLDFAST_TOKEN", TOKEN)]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let printed = BufReader::new(follower.stdout.take().unwrap());
    std::thread::spawn(move || printed.lines().map_while(Result::ok).for_each(|line| sender.send(line).unwrap_or_default()));
    for number in 1..=3 {
        let retention = holdfast::grpc::proto::backup::Retention { max_count: 10 + number, ..Default::default() };
        world.backups().await.set_retention(SetRetentionRequest { retention: Some(retention) }).await.unwrap();
        let line = timeout(PATIENCE, lines.recv()).await.expect("a line comes").unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (event["name"].as_str().unwrap(), event["type"].as_str().unwrap()),
            (&*format!("auditEvents/{number}"), "retention.changed")
        );
        world.terminate().await;
        world.set("HOLDFAST_LISTEN", address.trim_start_matches("http://"));
        world.start().await.unwrap();
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_counted_and_does_not_fill_the_log() {
    const CALLS: u64 = 400;
    let world = World::new().await;
    let channel = world.channel().await;
    for _ in 0..CALLS {
        let refused = AuditServiceClient::new(channel.clone()).list_audit_events(ListAuditEventsRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    let told = "select coalesce(sum(coalesce((body #>> '{attributes,count}')::bigint, 1)), 0) from holdfast.event where type = 'access.denied'";
    // Those that wait are written one by one first.
    eventually_async(Duration::from_secs(180), async || (world.value(told).await == CALLS.to_string()).then_some(())).await;
    let rows: u64 = world.value("select count(*) from holdfast.event").await.parse().unwrap();
    assert!(rows < CALLS / 2, "{rows} rows");
}
