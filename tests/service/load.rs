//! Many callers at once: the service answers all of them while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::backup::{BackupRequest, GetOperationRequest, ListBackupsRequest};
use holdfast::grpc::proto::lock::WatchLockRequest;
use sqlx::Executor;
use tonic::service::interceptor::InterceptedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::proxy::Proxy;
use super::world::{PASSPHRASE, TOKEN, UPDATE_TOKEN, World, psql, refused};

const CLIENTS: usize = 200;

fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * part / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_list_while_a_large_backup_is_made() {
    let mut world = World::without_service().await;
    let all = "select 'truncate ' || string_agg(oid::regclass::text, ', ') || ' restart identity' from pg_class where relkind in ('r', 'p') and relnamespace::regnamespace::text in ('platform', 'reporting')";
    let truncate = psql(&world.url("platform"), &["-c", all]);
    world.sql(&truncate).await;
    psql(&world.url("platform"), &["-v", "scale=40", "-v", "seed=1", "-f", "deploy/platform/generate.sql"]);
    world.start().await.unwrap();
    world.set_passphrase(PASSPHRASE).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let calls = InterceptedService::new(world.channel().await, world.bearer());
        let (mut client, stop) = (BackupServiceClient::new(calls), stop.clone());
        clients.push(tokio::spawn(async move {
            let mut times = Vec::new();
            // At least once, however soon the backup is done.
            while times.is_empty() || !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                client.list_backups(ListBackupsRequest::default()).await.expect("every call is answered");
                times.push(start.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            times
        }));
    }
    let (mut health, done) = (HealthClient::new(world.channel().await), stop.clone());
    let probe = tokio::spawn(async move {
        let mut times = Vec::new();
        while times.is_empty() || !done.load(Ordering::Relaxed) {
            let start = Instant::now();
            health.check(HealthCheckRequest { service: "liveness".into() }).await.unwrap();
            times.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times
    });
    let start = Instant::now();
    let backup = world.backup().await;
    let took = start.elapsed();
    assert!(backup.resources.iter().map(|part| part.item_count).sum::<i64>() > 10_000);
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    let mut health = probe.await.unwrap();
    let (calls, median, p99) = (times.len(), percentile(&mut times, 50), percentile(&mut times, 99));
    let worst = percentile(&mut health, 99);
    eprintln!(
        "{CLIENTS} clients, {calls} lists in {took:?}: median {median:?}, p99 {p99:?}; health p99 {worst:?}; {} bytes",
        backup.size_bytes
    );
    assert!(calls >= CLIENTS);
    assert!(p99 < Duration::from_secs(10) && worst < Duration::from_secs(2), "too slow");
    world.restore(&backup, PASSPHRASE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_hundred_calls_at_once_are_answered_while_an_operation_waits_for_its_tables() {
    let world = World::new().await;
    let backup = world.backup().await;
    for restore in [true, false] {
        let session = world.lock_table(if restore { "row exclusive" } else { "access exclusive" }).await;
        let operation = if restore { world.begin_restore(&backup, "").await } else { world.begin_backup().await };
        world.until_waiting(if restore { "holdfast_restore" } else { "holdfast_backup" }, "%").await;
        let mut calls = tokio::task::JoinSet::new();
        let start = Instant::now();
        for _ in 0..50 {
            let (mut backups, mut operations, name) = (world.backups().await, world.operations().await, operation.clone());
            calls.spawn(async move { backups.list_backups(ListBackupsRequest::default()).await.map(|_| true) });
            calls.spawn(async move {
                let request = GetOperationRequest { name };
                operations.get_operation(request).await.map(|answer| !answer.into_inner().done)
            });
        }
        let answers = calls.join_all().await;
        eprintln!("a hundred calls during {operation}: {:?}", start.elapsed());
        // None waited for it: it is not done when the last is answered.
        assert!(answers.iter().all(|answer| matches!(answer, Ok(true))), "{answers:?}");
        assert_eq!(world.value("select count(*) from holdfast.operation where not done").await, "1");
        drop(session);
        world.outcome(&operation).await.unwrap();
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_callers_who_keep_every_connection_busy_get_no_living_operation_killed() {
    let world = World::new().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    let update = world.begin_update().await;
    let lock_wait = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let request = BackupRequest { lock_wait, ..Default::default() };
    let operation = world.backups().await.backup(request).await.unwrap().into_inner().name;
    // Nobody can list, and all of them wait with a connection each.
    let mut other = world.superuser().await;
    other.execute("begin; lock table holdfast.backup").await.unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut backups = world.backups().await;
        callers.spawn(async move {
            loop {
                assert!(backups.list_backups(ListBackupsRequest::default()).await.is_err());
            }
        });
    }
    // More than anybody who is silent is left alone for.
    tokio::time::sleep(Duration::from_secs(16)).await;
    drop(other);
    callers.abort_all();
    world.end_update(update).await;
    world.backup_outcome(&operation).await.unwrap_or_else(|error| panic!("{error:?}\n{}\n{}", world.log(), twin.log()));
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_watch_are_bounded_and_make_room_when_they_go() {
    const PLACES: usize = 300;
    let world = World::new().await;
    let mut watches = Vec::new();
    let watch = async |token| {
        let request = WatchLockRequest { name: "locks/platform-maintenance".into() };
        world.locks(token).await.watch_lock(request).await.map(tonic::Response::into_inner)
    };
    // One caller does not get all of them.
    for place in 0..PLACES {
        watches.push(watch(if place % 3 == 0 { UPDATE_TOKEN } else { TOKEN }).await.unwrap());
    }
    let status = watch(TOKEN).await.unwrap_err();
    assert_eq!((status.code(), refused(status).reason.as_str()), (tonic::Code::ResourceExhausted, "RATE_LIMITED"));
    world.backup().await;
    watches.truncate(PLACES / 2);
    super::world::eventually_async(Duration::from_secs(30), async || watch(TOKEN).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_transaction_that_is_given_up_before_it_has_begun_does_not_stay_open_in_the_pool() {
    let mut world = World::without_service().await;
    let proxy = Proxy::new(world.port()).await;
    world.set("HOLDFAST_DATABASE__PORT", &proxy.port.to_string());
    world.start().await.unwrap();
    let session = world.lock_table("access exclusive").await;
    let operation = world.begin_backup().await;
    world.until_waiting("holdfast_backup", "%").await;
    // The heartbeat does not hear that its transaction has begun, and then the operation ends.
    proxy.hold("BEGIN", false);
    proxy.until_held(1).await;
    world.cancel(&operation).await;
    proxy.until_held(2).await;
    proxy.open();
    assert_eq!(world.outcome(&operation).await.unwrap_err().reason, "CANCELLED_BY_CALLER");
    let open = "exists (select from pg_stat_activity where datname = current_database() and usename = 'holdfast_state'
        and state = 'idle in transaction' and clock_timestamp() - xact_start > interval '1 s')";
    let mut clock = world.superuser().await;
    for _ in 0..3 {
        sqlx::raw_sql("select pg_sleep(0.7)").execute(&mut clock).await.unwrap();
        assert_eq!(world.value(open).await, "false");
    }
    drop(session);
    world.is_tidy().await;
    world.backup().await;
}
