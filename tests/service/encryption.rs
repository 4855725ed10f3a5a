//! The passphrase: each file opens with that of its time and with no other, and it is nowhere to be read.

use holdfast::grpc::proto::backup::{BackupRequest, GetEncryptionRequest, GetSystemStatusRequest};
use std::process::{Command, Stdio};
use tonic::Code;

use super::world::{PASSPHRASE, World, psql, refused, rounds};

const SECOND: &str = "Tr0ub4dor & 3 – ключ 鍵 \u{1F512}  two  spaces ";

#[tokio::test(flavor = "multi_thread")]
async fn c05_c16_c17_only_a_blank_passphrase_switches_encryption_off_and_a_weak_one_is_refused() {
    let mut world = World::new().await;
    let absent = refused(world.try_set_passphrase(None).await.unwrap_err());
    assert_eq!((absent.reason.as_str(), absent.code), ("INVALID_FIELD", Code::InvalidArgument.into()));
    let long = "a long passphrase ".repeat(100);
    for weak in [
        "short",
        "aaaaaaaaaaaaaaaa",
        "password1234",
        "123456789012",
        "Summer2026!!",
        "line\nbreak in it, long enough",
        "null\0in it, long enough",
        &long,
    ] {
        let error = refused(world.try_set_passphrase(Some(weak)).await.unwrap_err());
        assert_eq!((error.reason.as_str(), error.code), ("PASSPHRASE_TOO_WEAK", Code::InvalidArgument.into()), "{weak:?}");
    }
    assert!(!world.try_set_passphrase(Some("")).await.unwrap().enabled);

    let first = world.try_set_passphrase(Some(PASSPHRASE)).await.unwrap();
    assert!(first.enabled);
    let same = world.try_set_passphrase(Some(PASSPHRASE)).await.unwrap();
    assert_eq!((same.passphrase_generation, same.etag.clone()), (first.passphrase_generation, first.etag.clone()));
    world.kill();
    world.start().await.unwrap();
    let kept = world.backups().await.get_encryption(GetEncryptionRequest {}).await.unwrap().into_inner();
    assert_eq!(kept, same);
    let second = world.try_set_passphrase(Some(SECOND)).await.unwrap();
    assert_eq!(second.passphrase_generation, first.passphrase_generation + 1);
    let off = world.try_set_passphrase(Some("")).await.unwrap();
    assert!(!off.enabled);
    let again = world.try_set_passphrase(Some(PASSPHRASE)).await.unwrap();
    assert_eq!(again.passphrase_generation, first.passphrase_generation + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_c08_a_file_opens_with_the_passphrase_of_its_time_and_with_no_other() {
    let world = World::new().await;
    let [plain, first, second] = world.of_three_times(SECOND).await;
    world.set_passphrase("").await;
    let good = world.digests();
    world.damage();
    let hurt = world.digests();

    for (backup, wrong, reason) in [
        (&first, "", "PASSPHRASE_REQUIRED"),
        (&first, SECOND, "PASSPHRASE_INCORRECT"),
        (&second, PASSPHRASE, "PASSPHRASE_INCORRECT"),
        (&second, SECOND.trim(), "PASSPHRASE_INCORRECT"),
    ] {
        let error = world.restore(backup, wrong).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), (reason, Code::InvalidArgument.into()), "{error:?}");
        assert!(
            error.metadata.contains_key("passphraseGeneration") && error.metadata.contains_key("passphraseSetTime"),
            "{error:?}"
        );
    }
    // Damage is told from a wrong passphrase, with the right one, a wrong one and none.
    let (bytes, mut superuser) = (std::fs::read(world.file(&second)).unwrap(), world.superuser().await);
    for place in [3, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x40;
        std::fs::write(world.file(&second), damaged).unwrap();
        for passphrase in [SECOND, PASSPHRASE, ""] {
            let error = world.restore(&second, passphrase).await.unwrap_err();
            assert_eq!((error.reason.as_str(), error.code), ("BACKUP_CORRUPTED", Code::DataLoss.into()), "{place} {passphrase}");
            world.forget_damage(&mut superuser).await;
        }
    }
    std::fs::remove_file(world.file(&second)).unwrap();
    assert_eq!(world.restore(&second, SECOND).await.unwrap_err().reason, "BACKUP_FILE_MISSING");
    assert_eq!(world.digests(), hurt);

    std::fs::write(world.file(&second), bytes).unwrap();
    world.forget_damage(&mut superuser).await;
    for (backup, passphrase) in [(&plain, ""), (&first, PASSPHRASE), (&second, SECOND)] {
        world.restore(backup, passphrase).await.unwrap();
        assert_eq!(world.digests(), good);
        world.damage();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c07_a_passphrase_that_changes_during_backups_never_mislabels_a_file() {
    const MANY: i32 = 8;
    let world = World::new().await;
    let passphrase = |generation: i32| format!("passphrase of generation {generation}, long enough");
    let mut backups = Vec::new();
    let enough = std::cell::Cell::new(false);
    let setting = async {
        let mut generation = 0;
        while generation < MANY || !enough.get() {
            let encryption = world.try_set_passphrase(Some(&passphrase(generation + 1))).await.unwrap();
            generation += 1;
            assert_eq!(encryption.passphrase_generation, generation);
        }
    };
    let making = async {
        for _ in 0..rounds(8, 200) {
            let backup = world.backup().await;
            // Each opens with that of its generation, as long as it is there.
            let generation = backup.encryption_info.as_ref().unwrap().passphrase_generation;
            if generation > 0 {
                let opened = world.check(&backup, &passphrase(generation)).await.unwrap();
                assert_eq!(opened.passphrase_generation, generation);
                let error = world.check(&backup, &passphrase(generation + 1)).await.unwrap_err();
                assert_eq!(error.reason, "PASSPHRASE_INCORRECT");
            }
            backups.push(backup);
        }
        enough.set(true);
    };
    tokio::join!(setting, making);
    let last = backups.len().saturating_sub(8);
    for backup in &backups[last..] {
        let info = backup.encryption_info.as_ref().unwrap();
        if info.passphrase_generation == 0 {
            world.restore(backup, "").await.unwrap();
        } else {
            world.restore(backup, &passphrase(info.passphrase_generation)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_seal_key_is_told_before_a_backup_and_another_passphrase_helps() {
    let mut world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    world.terminate().await;
    std::fs::write(world.dir.path().join("seal-key"), "too short").unwrap();
    assert!(world.start().await.unwrap_err().contains("fewer than 32 bytes"));
    std::fs::write(world.dir.path().join("seal-key"), "fedcba9876543210fedcba9876543210").unwrap();
    world.start().await.unwrap();
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("SEAL_KEY_MISMATCH", Code::FailedPrecondition.into()), "{error:?}");
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.backup_possible && status.restore_possible);
    assert!(status.obstacles.iter().any(|obstacle| obstacle.reason == "SEAL_KEY_MISMATCH"), "{:?}", status.obstacles);
    assert_eq!(world.files().len(), 1);
    world.restore(&backup, PASSPHRASE).await.unwrap();
    world.set_passphrase(PASSPHRASE).await;
    let newer = world.backup().await;
    let generation =
        |backup: &holdfast::grpc::proto::backup::Backup| backup.encryption_info.as_ref().unwrap().passphrase_generation;
    assert_eq!(generation(&newer), generation(&backup) + 1);
    world.restore(&newer, PASSPHRASE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i9_the_passphrase_is_in_no_log_no_table_and_no_argument() {
    const CANARY: &str = "canary-4711 passphrase nobody may read";
    let mut world = World::new().await;
    world.terminate().await;
    world.sql_as_superuser(&format!("alter database {} set log_statement = 'all'", world.database)).await;
    world.start().await.unwrap();
    world.set_passphrase(CANARY).await;
    let backup = world.backup().await;
    world.restore(&backup, CANARY).await.unwrap();
    world.restore(&backup, &format!("{CANARY}, wrong")).await.unwrap_err();
    world.try_set_passphrase(Some(&format!("{CANARY}\n"))).await.unwrap_err();

    let url = world.url("holdfast_state");
    let dump = Command::new("pg_dump").args(["--schema=holdfast", &url]).stderr(Stdio::inherit()).output().unwrap();
    assert!(dump.status.success());
    let proc = |name: &str| std::fs::read(format!("/proc/{}/{name}", world.pid())).unwrap();
    let server_log = std::fs::read(super::world::server_log()).unwrap();
    assert!(server_log.windows(18).any(|part| part == b"INSERT INTO settin"), "statements are not logged");
    let places = [
        ("log", world.log().into_bytes()),
        ("log of the server", server_log),
        ("dump", dump.stdout),
        ("arguments", proc("cmdline")),
        ("environment", proc("environ")),
        ("file", std::fs::read(world.file(&backup)).unwrap()),
    ];
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for (place, bytes) in places {
        assert!(!bytes.is_empty(), "{place}");
        for canary in ["canary-4711", &hex] {
            assert!(
                !bytes.windows(canary.len()).any(|part| part.eq_ignore_ascii_case(canary.as_bytes())),
                "{canary} is in the {place}"
            );
        }
    }
    assert!(!psql(&url, &["-c", "select * from holdfast.setting"]).contains("canary"));
}
