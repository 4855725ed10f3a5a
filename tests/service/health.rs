//! Health, as probes ask for it on an address of its own: each of its services turns with what it stands for, and liveness never.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::ListBackupsRequest;
use holdfast::grpc::proto::backup::backup_service_client::BackupServiceClient;
use holdfast::grpc::proto::lock::GetLockRequest;
use holdfast::grpc::proto::lock::lock_service_client::LockServiceClient;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::world::{Bearer, TOKEN, World};

const SERVICES: [&str; 5] = ["liveness", "", "holdfast.backup.v1.BackupService", "holdfast.lock.v1.LockService", "backup.slo"];

/// Where the service answers probes.
fn address(world: &World) -> String {
    let log = world.log();
    let line = log.lines().rfind(|line| line.contains("\"health\"")).unwrap();
    format!("http://{}", serde_json::from_str::<serde_json::Value>(line).unwrap()["address"].as_str().unwrap())
}

/// What a probe is told of a service, over a connection of its own.
async fn probe(address: &str, service: &str) -> Result<ServingStatus, tonic::Status> {
    let channel = Endpoint::from_shared(address.to_owned()).unwrap().timeout(Duration::from_secs(5));
    let channel = channel.connect().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
}

/// Waits until those of the services, in their order, are told to serve that have a 1 here.
async fn becomes(world: &World, wanted: &str) {
    let (address, end) = (address(world), Instant::now() + Duration::from_secs(40));
    loop {
        let mut found = String::new();
        for service in SERVICES {
            let serves = probe(&address, service).await.unwrap() == ServingStatus::Serving;
            found.push(if serves { '1' } else { '0' });
        }
        if found == wanted {
            return;
        }
        assert!(Instant::now() < end, "{SERVICES:?} are {found} and not {wanted}\n{}", world.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_f06_s13_each_health_service_turns_with_what_it_stands_for_and_liveness_never() {
    let mut world = World::on_its_own_database_server().await;
    world.set("HOLDFAST_HEALTH_LISTEN", "127.0.0.1:0");
    world.stop_database().await;
    world.start_to_listen().await.unwrap();
    becomes(&world, "10000").await;
    let probes = Arc::new(AtomicU32::new(0));
    let alive = {
        let (address, probes) = (address(&world), probes.clone());
        tokio::spawn(async move {
            loop {
                assert_eq!(probe(&address, "liveness").await.unwrap(), ServingStatus::Serving);
                probes.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    world.start_database();
    // There is no backup yet.
    becomes(&world, "11110").await;
    world.backup().await;
    becomes(&world, "11111").await;

    world.stop_database().await;
    // What was seen of the backups is still so.
    becomes(&world, "10001").await;
    world.start_database();
    becomes(&world, "11111").await;

    let elsewhere = world.dir.path().join("elsewhere");
    std::fs::rename(world.folder(), &elsewhere).unwrap();
    becomes(&world, "10011").await;
    std::fs::rename(&elsewhere, world.folder()).unwrap();
    becomes(&world, "11111").await;

    let older = |hours: u32| {
        format!(
            "update holdfast.backup set body = body || jsonb_build_object('snapshot_time',
                 to_char(now() at time zone 'UTC' - interval '{hours} h', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))"
        )
    };
    world.sql_as_superuser(&older(25)).await;
    becomes(&world, "11111").await;
    world.sql_as_superuser(&older(27)).await;
    becomes(&world, "11110").await;
    world.sql_as_superuser(&older(1)).await;
    becomes(&world, "11111").await;
    // A backup that is damaged is none.
    world.sql_as_superuser("update holdfast.backup set state = 'invalid', body = body || '{\"state\": \"invalid\"}'").await;
    becomes(&world, "11110").await;

    assert!(!alive.is_finished(), "{:?}", alive.await);
    alive.abort();
    assert!(probes.load(Ordering::Relaxed) > 20);
    // Nobody reads a log of probes.
    let log = world.log();
    assert!(!log.contains("grpc.health"), "{}", log.lines().find(|line| line.contains("grpc.health")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_who_probes_gets_nothing_else_and_cannot_keep_others_from_probing() {
    let world = World::with(&[("HOLDFAST_HEALTH_LISTEN", "127.0.0.1:0")]).await;
    let address = address(&world);
    let channel = Endpoint::from_shared(address.clone()).unwrap().connect().await.unwrap();
    // Nor with what everything else is to be had for.
    let mut backups = BackupServiceClient::with_interceptor(channel.clone(), Bearer::of(TOKEN));
    let refused = backups.list_backups(ListBackupsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let mut locks = LockServiceClient::with_interceptor(channel, Bearer::of(TOKEN));
    assert_eq!(locks.get_lock(GetLockRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(probe(&address, "other").await.unwrap_err().code(), Code::NotFound);

    let mut open = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
        // Some say nothing, and some begin to speak.
        if number % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        }
        open.push(stream);
    }
    for service in ["liveness", ""] {
        let end = Instant::now() + Duration::from_secs(30);
        while probe(&address, service).await.ok() != Some(ServingStatus::Serving) {
            assert!(Instant::now() < end, "{service}");
        }
    }
    let files = || std::fs::read_dir(format!("/proc/{}/fd", world.pid())).unwrap().count();
    super::world::eventually(Duration::from_secs(30), || (files() < 150).then_some(())).await;
}
