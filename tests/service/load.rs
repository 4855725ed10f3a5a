//! Many callers at once: the service answers all of them while it works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::ListBackupsRequest;
use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::world::{PASSPHRASE, World, psql};

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
