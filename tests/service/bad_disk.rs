//! A disk that answers with errors, with other bytes than it was given, or not at all: no backup is made of what it did not keep,
//! nothing in the database follows from what it cannot read, and the service goes on.

use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::{Backup, BackupRequest, DownloadBackupRequest, VerifyLevel};
use tonic::{Code, Status};

use super::disk::{Disk, Faults};
use super::world::{World, long_tests, refused, rounds};
use super::zoo::all_of;

/// A world with one good backup, on a disk of the test's own.
async fn on_a_disk(settings: &[(&str, &str)]) -> Option<(World, Disk, Backup)> {
    let mut world = World::without_service().await;
    let disk = Disk::mount(&world.folder())?;
    for (name, value) in settings {
        world.set(name, value);
    }
    world.start().await.unwrap();
    let good = world.backup().await;
    Some((world, disk, good))
}

async fn download(world: &World, backup: &Backup) -> Result<(), Status> {
    let request = DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
    let mut stream = world.backups().await.download_backup(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_f11_a_volume_that_cannot_rename_without_replacing_keeps_backups_all_the_same() {
    let mut world = World::without_service().await;
    let Some(disk) = Disk::mount(&world.folder()) else { return };
    disk.fails(Faults { plain_renames: true, ..Faults::default() });
    world.start().await.unwrap();
    let backups = [world.backup().await, world.backup().await];
    world.is_tidy().await;
    // Killed with both names, a file is a backup, and its draft goes.
    world.terminate().await;
    std::fs::hard_link(world.file(&backups[0]), world.folder().join(format!(".draft-{}", uuid::Uuid::now_v7()))).unwrap();
    world.start().await.unwrap();
    world.tidies().await;
    for backup in backups {
        world.verifies(&backup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_what_the_disk_keeps_otherwise_than_it_was_written_is_no_backup() {
    let Some((world, disk, good)) = on_a_disk(&[]).await else { return };
    disk.fails(Faults { turns_bits: true, ..Faults::default() });
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!(error.code, i32::from(Code::DataLoss), "{error:?}");
    assert_eq!(world.files(), [good.file_name.as_str()]);
    world.is_tidy().await;
    disk.is_sound();
    world.verifies(&good);
    world.verifies(&world.backup().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_disk_that_fails_at_any_read_of_a_file_changes_nothing_in_the_database() {
    let Some((world, disk, good)) = on_a_disk(&[]).await else { return };
    world.install_adapter_types().await;
    let reads = |what: &str, reads: u32| {
        assert!(reads > 0, "{what} reads nothing");
        let step = (reads / rounds(4, reads)).max(1);
        (1..=reads).rev().step_by(step as usize)
    };
    disk.is_sound();
    download(&world, &good).await.unwrap();
    for read in reads("a download", disk.reads()) {
        disk.fails(Faults { unreadable_from: Some(read), ..Faults::default() });
        let status = download(&world, &good).await.expect_err("a download does not end well");
        assert_eq!(refused(status).reason, "STORAGE_UNAVAILABLE");
    }
    disk.is_sound();
    assert!(world.verify(&good, VerifyLevel::Contents, "").await.unwrap().valid);
    for read in reads("a verification", disk.reads()) {
        disk.fails(Faults { unreadable_from: Some(read), ..Faults::default() });
        let error = world.verify(&good, VerifyLevel::Contents, "").await.expect_err("a verification does not end well");
        assert_eq!(error.reason, "STORAGE_UNAVAILABLE", "{error:?}");
        // Whether it is damaged is not known.
        assert_eq!(world.entry(&good).await.state(), State::Ready);
    }
    disk.is_sound();
    world.restore(&good, "").await.unwrap();
    let all = disk.reads();
    world.damage();
    let before = world.digests();
    for read in reads("a restore", all) {
        disk.fails(Faults { unreadable_from: Some(read), ..Faults::default() });
        world.restore_fails(all_of(&good), "STORAGE_UNAVAILABLE").await;
    }
    assert_eq!(world.digests(), before);
    disk.is_sound();
    world.is_tidy().await;
    world.restore(&good, "").await.unwrap();
    assert_ne!(world.digests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_s16_a_volume_that_becomes_read_only_in_the_middle_fails_the_backup_and_can_still_be_read() {
    let Some((mut world, disk, good)) = on_a_disk(&[]).await else { return };
    disk.is_sound();
    world.backup().await;
    let made = world.listed().await;
    let all = disk.changes();
    for from in [1, all / 2, all - 1] {
        disk.fails(Faults { read_only_from: Some(from), ..Faults::default() });
        let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!(error.reason, "STORAGE_UNAVAILABLE", "{from} of {all}: {error:?}");
        download(&world, &good).await.unwrap();
        world.restore(&good, "").await.unwrap();
        assert_eq!(world.listed().await, made);
    }
    disk.is_sound();
    // What could not be removed meanwhile is removed within a minute, or at the next start.
    if !long_tests() {
        world.terminate().await;
        world.start().await.unwrap();
    }
    world.tidies().await;
    world.is_tidy().await;
    world.verifies(&world.backup().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_while_the_volume_hangs_calls_are_answered_and_an_operation_is_given_up_in_time() {
    // The end of an operation waits up to a minute for what hangs.
    let Some((world, disk, good)) = on_a_disk(&[("HOLDFAST_OPERATION_TIMEOUT", "5s")]).await else { return };
    world.becomes_ready(true).await;
    let session = world.lock_table("access exclusive").await;
    let begun = world.begin_backup().await;
    disk.fails(Faults { hangs: true, ..Faults::default() });
    drop(session);
    world.becomes_ready(false).await;
    let threads = || std::fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap().count();
    let (counted, began) = (threads(), Instant::now());
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (mut backups, good) = (world.backups().await, good.clone());
        calls.spawn(async move {
            match number % 4 {
                0 => backups.restore(all_of(&good)).await.map(|_| ()),
                1 => backups.backup(BackupRequest::default()).await.map(|_| ()),
                2 => backups.sync_backups(holdfast::grpc::proto::backup::SyncBackupsRequest::default()).await.map(|_| ()),
                _ => {
                    let request = DownloadBackupRequest { name: good.name.clone(), ..Default::default() };
                    backups.download_backup(request).await.map(|_| ())
                }
            }
        });
    }
    assert!(world.serves("liveness").await);
    assert_eq!(world.listed().await.len(), 1);
    while let Some(call) = calls.join_next().await {
        let error = refused(call.unwrap().unwrap_err());
        assert!(["STORAGE_UNAVAILABLE", "OPERATION_IN_PROGRESS"].contains(&error.reason.as_str()), "{error:?}");
    }
    eprintln!("while the volume hung, 8 calls were answered within {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60));
    // However long it hangs, whoever looks at it holds one thread.
    for _ in 0..rounds(0, 30) {
        world.try_backup(BackupRequest::default()).await.unwrap_err();
    }
    assert!(threads() <= counted + 3, "{} threads were {counted} before the calls", threads());
    if long_tests() {
        let error = world.outcome(&begun).await.unwrap_err();
        assert_eq!(error.reason, "OPERATION_TIMED_OUT", "{error:?}");
    }
    disk.is_sound();
    let error = world.outcome(&begun).await.unwrap_err();
    assert_eq!(error.reason, "OPERATION_TIMED_OUT", "{error:?}");
    world.becomes_ready(true).await;
    world.tidies().await;
    world.is_tidy().await;
    world.verifies(&good);
}
