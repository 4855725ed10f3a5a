//! What the service refuses to start with, and says why; and what it waits for.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::ListBackupsRequest;
use sqlx::Connection;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;

use super::tls::Authority;
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
        ("HOLDFAST_AUTH__ROLE_BINDINGS", "user:alice=root", "`root` is no role; the roles are backup-admin"),
        ("HOLDFAST_AUTH__TOKEN_REVIEW__AUDIENCE", "backup.holdfast", "HOLDFAST_AUTH__TOKEN_REVIEW__URL"),
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
async fn it_does_not_start_where_nobody_can_prove_who_they_are_or_everybody_may_do_everything() {
    let mut world = World::without_service().await;
    for name in ["HOLDFAST_TOKEN_FILE", "HOLDFAST_UPDATE_TOKEN_FILE"] {
        world.set(name, "");
    }
    let message = world.start().await.unwrap_err();
    for way in [
        "HOLDFAST_TOKEN_FILE",
        "HOLDFAST_TLS__CLIENT_CA_FILE",
        "HOLDFAST_AUTH__TOKEN_REVIEW__AUDIENCE",
        "HOLDFAST_AUTH__JWT__ISSUER",
    ] {
        assert!(message.contains(way), "{message}");
    }
    world.unset("HOLDFAST_TOKEN_FILE");

    world.set("HOLDFAST_DATABASE__HOST", "db.example.org");
    for mode in ["disable", "prefer", "require", "verify-ca"] {
        world.set("HOLDFAST_DATABASE__SSLMODE", mode);
        let message = world.start().await.unwrap_err();
        assert!(message.contains("HOLDFAST_DATABASE__SSLMODE=verify-full"), "{mode}: {message}");
    }
    world.unset("HOLDFAST_DATABASE__HOST");
    world.unset("HOLDFAST_DATABASE__SSLMODE");

    let [certificate, key, other] = {
        let authority = Authority::new(&world.dir.path().join("authority"));
        let ((certificate, key), (_, other)) = (authority.certify("one", "DNS:a"), authority.certify("other", "DNS:b"));
        [certificate, key, other].map(|path| path.display().to_string())
    };
    for (certificate, key, words) in [
        (certificate.as_str(), other.as_str(), "do not belong together"),
        (certificate.as_str(), "/dev/null", "no private key"),
        ("/dev/null", key.as_str(), "no certificate"),
        ("/nonexistent", key.as_str(), "/nonexistent"),
    ] {
        world.set("HOLDFAST_TLS__CERTIFICATE_FILE", certificate);
        world.set("HOLDFAST_TLS__KEY_FILE", key);
        let message = world.start().await.unwrap_err();
        assert!(message.contains(words), "{words}: {message}");
    }
    world.unset("HOLDFAST_TLS__CERTIFICATE_FILE");
    world.unset("HOLDFAST_TLS__KEY_FILE");

    let name = world.database.clone();
    for (power, option) in [
        ("CREATEROLE", "createrole"),
        ("BYPASSRLS", "bypassrls"),
        ("pg_execute_server_program", "in role pg_execute_server_program"),
    ] {
        let role = format!("with_{}_{name}", power.to_lowercase());
        world
            .sql_as_superuser(&format!(
                "create role {role} login password 'a-password-for-tests' {option}; grant connect on database {name} to {role}"
            ))
            .await;
        for user in ["BACKUP", "RESTORE", "STATE"] {
            let setting = format!("HOLDFAST_DATABASE__{user}_USER");
            world.set(&setting, &role);
            let message = world.start().await.unwrap_err();
            assert!(message.contains(&role) && message.contains(power) && message.contains("does not need"), "{user}: {message}");
            world.unset(&setting);
        }
        world.sql_as_superuser(&format!("drop owned by {role}; drop role {role}")).await;
    }
    // It reads, and could do everything else.
    world.set("HOLDFAST_DATABASE__BACKUP_USER", "platform");
    let message = world.start().await.unwrap_err();
    assert!(message.contains("role platform has what the owner of platform.account has"), "{message}");
    world.unset("HOLDFAST_DATABASE__BACKUP_USER");
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
