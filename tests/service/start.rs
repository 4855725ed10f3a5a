//! What the service refuses to start with, and says why; and what it waits for.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::ListBackupsRequest;
use sqlx::Connection;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

use super::world::{World, eventually, refused, rounds};
use super::zoo::run;

#[tokio::test(flavor = "multi_thread")]
async fn what_it_cannot_start_with_is_named() {
    let mut world = World::without_service().await;
    world.set("HOLDFAST_FOLDR", "/backups");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("HOLDFAST_FOLDR"), "{message}");
    world.unset("HOLDFAST_FOLDR");

    world.set("HOLDFAST_LISTEN", "0.0.0.0:0");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("no TLS") && message.contains("HOLDFAST_ALLOW_PLAINTEXT"), "{message}");
    world.set("HOLDFAST_ALLOW_PLAINTEXT", "true");
    world.start().await.unwrap();
    assert_eq!(world.terminate().await, Some(0));
    world.unset("HOLDFAST_LISTEN");

    for (name, value, words) in [
        ("HOLDFAST_DATABASE__NAME", "nowhere", "\"nowhere\" does not exist"),
        ("HOLDFAST_DATABASE__STATE_USER", "nobody", "authentication failed"),
        ("HOLDFAST_DATABASE__RESTORE_PASSWORD_FILE", "/dev/null", "holdfast_restore"),
        ("HOLDFAST_DATABASE__STATE_PASSWORD_FILE", "/nonexistent", "/nonexistent"),
        ("HOLDFAST_TOKEN_FILE", "/dev/null", "token"),
        ("HOLDFAST_SEAL_KEY_FILE", "/dev/null", "fewer than 32 bytes"),
        ("HOLDFAST_FOLDER", "/nonexistent", "/nonexistent"),
        ("HOLDFAST_CATALOG", "/dev/null", "catalog"),
        ("HOLDFAST_LOG", "not=a=filter", "filter"),
    ] {
        world.set(name, value);
        let start = Instant::now();
        let message = world.start().await.unwrap_err();
        assert!(message.contains(words), "{name}={value}: {message}");
        assert!(start.elapsed() < Duration::from_secs(30), "{name}={value}: {:?}", start.elapsed());
        world.unset(name);
    }
    assert!(world.files().is_empty());
    world.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_does_not_fit_the_database_stops_the_start() {
    let mut world = World::without_service().await;
    world.sql_as_superuser("drop table platform.license cascade").await;
    let message = world.start().await.unwrap_err();
    assert!(message.contains("platform.license"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_service_that_is_started_before_its_database_waits_for_it_and_says_so() {
    let mut world = World::on_its_own_database_server().await;
    world.stop_database().await;
    // Asked to stop while it waits, it does.
    world.start_to_listen().await.unwrap();
    let start = Instant::now();
    assert_eq!(world.terminate().await, Some(0));
    eprintln!("stopped while it waited: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    world.start_to_listen().await.unwrap();
    let pid = world.pid();
    assert!(world.serves("liveness").await);
    for service in ["", "holdfast.backup.v1.BackupService", "holdfast.lock.v1.LockService"] {
        assert!(!world.serves(service).await, "{service}");
    }
    let status = world.backups().await.list_backups(ListBackupsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    let error = refused(status);
    assert!(error.reason == "SERVER_DRAINING" && error.message.contains("not ready yet"), "{error:?}");
    // One that was connected all the time is served as soon as it can be.
    let mut connected = world.backups().await;
    world.start_database();
    world.becomes_ready(true).await;
    for service in ["liveness", "holdfast.backup.v1.BackupService", "holdfast.lock.v1.LockService"] {
        assert!(world.serves(service).await, "{service}");
    }
    world.backup().await;
    assert_eq!(connected.list_backups(ListBackupsRequest::default()).await.unwrap().into_inner().backups.len(), 1);
    assert_eq!(world.pid(), pid);
    // Only the lock works without the volume.
    std::fs::rename(world.folder(), world.dir.path().join("away")).unwrap();
    world.becomes_ready(false).await;
    assert!(world.serves("holdfast.lock.v1.LockService").await && !world.serves("holdfast.backup.v1.BackupService").await);
    std::fs::rename(world.dir.path().join("away"), world.folder()).unwrap();
    world.becomes_ready(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_of_services_with_different_folders_that_start_for_the_first_time_at_once_one_folder_wins() {
    for round in 0..rounds(2, 30) {
        let mut world = World::without_service().await;
        // At first all meet where the folder is decided; then each where it happens to be.
        let met = round == 0;
        let mut deciding = world.superuser().await;
        if met {
            world.start().await.unwrap();
            assert_eq!(world.terminate().await, Some(0));
            run(&mut deciding, "update holdfast.system set volume_id = null").await;
            run(&mut deciding, "begin; select from holdfast.system for update").await;
        }
        let mut starting = JoinSet::new();
        for place in 0..3 {
            // Two share each folder.
            let one = world.elsewhere();
            let mut other = one.elsewhere();
            other.set("HOLDFAST_FOLDER", one.folder().to_str().unwrap());
            for mut service in [one, other] {
                starting.spawn(async move { (place, service.start().await, service) });
            }
        }
        if met {
            world.until("(select count(*) = 6 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'UPDATE system%')").await;
        }
        deciding.close().await.unwrap();
        let (mut winners, mut losers) = (Vec::new(), Vec::new());
        for (place, started, service) in starting.join_all().await {
            match started {
                Ok(()) => winners.push((place, service)),
                Err(message) => {
                    // Before or after it made its folder a volume.
                    let words = ["belongs to another system", "its identity file is missing"];
                    assert!(words.iter().any(|words| message.contains(words)), "{message}");
                    losers.push((place, service));
                }
            }
        }
        assert_eq!((winners.len(), losers.len()), (2, 4));
        assert_eq!(winners[0].0, winners[1].0);
        for (_, service) in &winners {
            service.becomes_ready(true).await;
        }
        // Nor can they later.
        let (_, loser) = &mut losers[0];
        assert!(loser.start().await.unwrap_err().contains("the backup folder"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_service_that_is_started_while_a_migration_has_a_table_waits_for_it() {
    let mut world = World::without_service().await;
    let migration = world.lock_table("access exclusive").await;
    world.start_to_listen().await.unwrap();
    eventually(Duration::from_secs(60), || world.log().contains("not started yet").then_some(())).await;
    assert!(!world.ready().await);
    drop(migration);
    world.becomes_ready(true).await;
    world.backup().await;
}
