//! The folder: only whole files have names in it, nothing foreign is touched, and what is gone or damaged is told.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, DeleteBackupRequest, DownloadBackupRequest, GetBackupRequest, GetSystemStatusRequest, RestoreRequest,
    Retention, SetRetentionRequest,
};
use tonic::{Code, Status};

use super::world::{World, eventually, refused, sha256};
use super::zoo::all_of;

/// A file system of its own; it goes with this value.
pub struct Volume<'a>(&'a Path);

impl<'a> Volume<'a> {
    /// In memory, with these options. `None`, and a line that says so, where this process may not mount.
    pub fn mount(path: &'a Path, options: &str) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("mode=0700,{options}"), "none"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED: only root can mount a volume");
        None
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

async fn keep(world: &World, max_count: i32) -> Result<Retention, Status> {
    let retention = Some(Retention { max_count, ..Default::default() });
    Ok(world.backups().await.set_retention(SetRetentionRequest { retention }).await?.into_inner())
}

async fn delete(world: &World, backup: &Backup, etag: &str) -> Result<(), Status> {
    let request = DeleteBackupRequest { name: backup.name.clone(), etag: etag.to_owned() };
    world.backups().await.delete_backup(request).await.map(|_| ())
}

async fn download(world: &World, backup: &Backup) -> Result<(), Status> {
    let request = DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
    let mut stream = world.backups().await.download_backup(request).await?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

fn names(backups: &[Backup]) -> Vec<&str> {
    backups.iter().map(|backup| backup.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_without_its_volume_the_service_writes_nothing_and_is_not_ready() {
    let mut world = World::new().await;
    let backup = world.backup().await;
    world.becomes_ready(true).await;
    let (folder, away) = (world.folder(), world.dir.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let refusal = |error: holdfast::grpc::proto::backup::OperationError| {
        assert_eq!((error.reason.as_str(), error.code), ("STORAGE_UNAVAILABLE", Code::Unavailable.into()), "{error:?}");
    };
    refusal(world.try_backup(BackupRequest::default()).await.unwrap_err());
    world.becomes_ready(false).await;
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);

    // The volume of another system.
    std::fs::write(folder.join(".holdfast-volume"), uuid::Uuid::new_v4().to_string()).unwrap();
    refusal(world.try_backup(BackupRequest::default()).await.unwrap_err());
    assert!(!world.ready().await);
    world.terminate().await;
    let message = world.start().await.unwrap_err();
    assert!(message.contains("belongs to another system"), "{message}");
    std::fs::remove_file(folder.join(".holdfast-volume")).unwrap();
    let message = world.start().await.unwrap_err();
    assert!(message.contains("identity file is missing"), "{message}");
    std::fs::remove_dir(&folder).unwrap();
    assert!(world.start().await.is_err());

    std::fs::rename(&away, &folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    let message = world.start().await.unwrap_err();
    assert!(message.contains("everybody may write"), "{message}");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    world.start().await.unwrap();
    world.becomes_ready(true).await;
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).unwrap();
    refusal(world.try_backup(BackupRequest::default()).await.unwrap_err());
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    world.restore(&backup, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_full_or_read_only_volume_fails_the_backup_and_costs_no_other() {
    let mut world = World::without_service().await;
    let folder = world.folder();
    let Some(_volume) = Volume::mount(&folder, "size=1m") else { return };
    world.start().await.unwrap();
    keep(&world, 1).await.unwrap();
    let good = world.backup().await;
    for left in [0, 4096, 12 * 1024] {
        std::fs::write(folder.join("ballast"), "").unwrap();
        let space = rustix::fs::statvfs(&folder).unwrap();
        let ballast = space.f_bavail * space.f_frsize - left;
        std::fs::write(folder.join("ballast"), vec![1; usize::try_from(ballast).unwrap()]).unwrap();
        let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), ("STORAGE_FULL", Code::ResourceExhausted.into()), "{error:?}");
        assert!(world.drafts().is_empty());
        assert_eq!(names(&world.listed().await), [good.name.as_str()]);
    }
    std::fs::remove_file(folder.join("ballast")).unwrap();
    let remount = |mode: &str| {
        assert!(Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(&folder).status().unwrap().success())
    };
    remount("ro");
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!(error.reason, "STORAGE_UNAVAILABLE");
    download(&world, &good).await.unwrap();
    remount("rw");
    world.restore(&good, "").await.unwrap();
    let newer = world.backup().await;
    assert_eq!(names(&world.listed().await), [newer.name.as_str()]);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_f23_files_are_given_up_in_the_order_in_which_they_came_whatever_the_clock_said() {
    let world = World::new().await;
    let [first, second, third] = [world.backup().await, world.backup().await, world.backup().await];
    // The clock was 50 years ahead at first, and 20 years behind at last; and somebody touched the files.
    for (backup, year) in [(&first, 2076), (&second, 2026), (&third, 2006)] {
        let times = ["create_time", "snapshot_time", "complete_time"].map(|name| format!("'{name}', '{year}-01-01T00:00:00Z'"));
        world
            .sql_as_superuser(&format!(
                "update holdfast.backup set register_time = '{year}-01-01', body = body || jsonb_build_object({}) where id = '{}'",
                times.join(", "),
                backup.name.trim_start_matches("backups/")
            ))
            .await;
        assert!(Command::new("touch").args(["-d", &format!("{year}-01-01")]).arg(world.file(backup)).status().unwrap().success());
    }
    assert_eq!(names(&world.listed().await), [&third, &second, &first].map(|backup| backup.name.as_str()));
    keep(&world, 3).await.unwrap();
    let fourth = world.backup().await;
    assert_eq!(names(&world.listed().await), [&fourth, &third, &second].map(|backup| backup.name.as_str()));
    keep(&world, 1).await.unwrap();
    let fifth = world.backup().await;
    assert_eq!(names(&world.listed().await), [fifth.name.as_str()]);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_foreign_files_links_and_pipes_are_left_alone_and_never_listed() {
    let world = World::new().await;
    keep(&world, 1).await.unwrap();
    let first = world.backup().await;
    let folder = world.folder();
    let outside = world.dir.path().join("outside");
    std::fs::write(&outside, "outside").unwrap();
    let like_ours = |digit: &str| first.file_name.replace(&first.file_name[20..24], &digit.repeat(4));
    std::fs::write(folder.join("notes.txt"), "notes").unwrap();
    std::fs::copy(world.file(&first), folder.join(like_ours("a"))).unwrap();
    symlink(&outside, folder.join(like_ours("b"))).unwrap();
    std::fs::create_dir(folder.join(like_ours("c"))).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join(like_ours("d"))).status().unwrap().success());
    std::fs::write(folder.join(".draft-not-an-operation"), "x").unwrap();
    let foreign: BTreeSet<String> = world.files().into_iter().filter(|name| *name != first.file_name).collect();
    assert_eq!(foreign.len(), 5);

    let second = world.backup().await;
    let third = world.backup().await;
    assert_eq!(names(&world.listed().await), [third.name.as_str()]);
    let files: BTreeSet<String> = world.files().into_iter().collect();
    assert!(files.is_superset(&foreign) && !files.contains(&second.file_name), "{files:?}");
    assert_eq!(std::fs::read_to_string(outside).unwrap(), "outside");
    assert!(folder.join(".draft-not-an-operation").exists());

    // A link or a pipe in the place of a backup is neither followed nor waited for.
    let kept = world.dir.path().join("kept");
    std::fs::rename(world.file(&third), &kept).unwrap();
    symlink(&kept, world.file(&third)).unwrap();
    assert!(world.restore(&third, "").await.is_err());
    std::fs::remove_file(world.file(&third)).unwrap();
    assert!(Command::new("mkfifo").arg(world.file(&third)).status().unwrap().success());
    assert_eq!(world.restore(&third, "").await.unwrap_err().reason, "BACKUP_FILE_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_damaged_is_told_apart_and_changes_nothing() {
    let world = World::new().await;
    let [gone, damaged, cut] = [world.backup().await, world.backup().await, world.backup().await];
    let mode = |backup: &Backup| std::fs::metadata(world.file(backup)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(&gone), mode(&damaged), mode(&cut)], [0o600; 3]);
    world.damage();
    let before = world.digests();
    std::fs::remove_file(world.file(&gone)).unwrap();
    let mut bytes = std::fs::read(world.file(&damaged)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(world.file(&damaged), bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(world.file(&cut)).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();

    for (backup, reason) in [(&gone, "BACKUP_FILE_MISSING"), (&damaged, "BACKUP_CORRUPTED"), (&cut, "BACKUP_CORRUPTED")] {
        let error = world.restore(backup, "").await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), (reason, Code::DataLoss.into()), "{error:?}");
    }
    assert_eq!(refused(download(&world, &gone).await.unwrap_err()).reason, "BACKUP_FILE_MISSING");
    assert_eq!(world.digests(), before);
    for backup in [&gone, &damaged, &cut] {
        delete(&world, backup, "").await.unwrap();
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_a_backup_that_is_downloaded_is_not_deleted() {
    let world = World::new().await;
    world.grow().await;
    keep(&world, 1).await.unwrap();
    let backup = world.backup().await;
    let request = DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
    let mut reader = world.backups().await.download_backup(request).await.unwrap().into_inner();
    reader.message().await.unwrap();
    let error = refused(delete(&world, &backup, "").await.unwrap_err());
    assert_eq!((error.reason.as_str(), error.code), ("BACKUP_IN_USE", Code::FailedPrecondition.into()));

    let name = world.begin_backup().await;
    let Some(holdfast::grpc::proto::backup::operation::Result::Backup(result)) = world.wait(&name).await.result else { panic!() };
    assert!(result.expired_backups.is_empty());
    let notice = result.notices.iter().find(|notice| notice.code().as_str_name() == "NOTICE_CODE_RETENTION_INCOMPLETE");
    assert!(notice.is_some_and(|notice| notice.subject == backup.name), "{:?}", result.notices);

    let mut bytes = Vec::new();
    while let Some(message) = reader.message().await.unwrap() {
        use holdfast::grpc::proto::backup::download_backup_response::Payload;
        if let Some(Payload::Chunk(chunk)) = message.payload {
            bytes.extend_from_slice(&chunk.data);
        }
    }
    assert_eq!(sha256(&bytes), backup.sha256);
    drop(reader);
    let request = GetBackupRequest { name: backup.name.clone() };
    let etag = world.backups().await.get_backup(request).await.unwrap().into_inner().etag;
    let error = refused(delete(&world, &backup, "\"12345\"").await.unwrap_err());
    assert_eq!((error.reason.as_str(), error.code), ("ETAG_MISMATCH", Code::Aborted.into()));
    delete(&world, &backup, &etag).await.unwrap();
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_whoever_copies_the_folder_meanwhile_gets_whole_files_only() {
    let world = World::new().await;
    world.grow().await;
    let (folder, copies) = (world.folder(), world.dir.path().join("copies"));
    std::fs::create_dir(&copies).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let copying = std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        loop {
            // Once more after the last backup.
            let last = stopped.try_recv().is_ok();
            for entry in std::fs::read_dir(&folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.starts_with('.') || seen.contains(&name) {
                    continue;
                }
                let digest = sha256(&std::fs::read(folder.join(&name)).unwrap());
                assert!(name.contains(&digest[..32]), "{name} was copied with {digest}");
                seen.insert(name);
            }
            if last {
                return seen.len();
            }
        }
    });
    for _ in 0..5 {
        world.backup().await;
    }
    stop.send(()).unwrap();
    assert_eq!(copying.join().unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_file_is_durable_before_it_has_its_name_and_its_name_before_it_is_told() {
    if !Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: there is no strace");
        return;
    }
    let world = World::new().await;
    let trace = world.dir.path().join("trace");
    let calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "300", "-e", calls, "-o"]).arg(&trace).args(["-p", &world.pid().to_string()]);
    let mut strace = strace.stderr(Stdio::null()).spawn().unwrap();
    let threads = format!("/proc/{}/task", world.pid());
    let traced = |thread: std::io::Result<std::fs::DirEntry>| {
        // A thread may end while it is looked at.
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    };
    eventually(Duration::from_secs(60), || std::fs::read_dir(&threads).unwrap().all(traced).then_some(())).await;
    let backup = world.backup().await;
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status().unwrap();
    strace.wait().unwrap();
    let trace = std::fs::read_to_string(trace).unwrap();
    let folder = format!("{}>", world.folder().display());
    let line = |what: &dyn Fn(&str) -> bool| trace.lines().position(what).unwrap_or_else(|| panic!("{trace}"));
    let synced = line(&|line| line.contains("fsync(") && line.contains("/.draft-"));
    let renamed =
        line(&|line| line.contains("renameat2(") && line.contains(&backup.file_name) && line.contains("RENAME_NOREPLACE"));
    let named = line(&|line| line.contains("fsync(") && line.contains(&folder));
    assert!(synced < renamed && renamed < named, "{synced} {renamed} {named}\n{trace}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_s05_s18_f23_retention_keeps_the_newest_by_sequence_and_only_a_good_backup_deletes() {
    let world = World::new().await;
    assert_eq!(
        world
            .backups()
            .await
            .get_retention(holdfast::grpc::proto::backup::GetRetentionRequest {})
            .await
            .unwrap()
            .into_inner()
            .max_count,
        30
    );
    for wrong in [0, -1, 1001, i32::MAX] {
        assert_eq!(refused(keep(&world, wrong).await.unwrap_err()).reason, "INVALID_FIELD", "{wrong}");
    }
    let absent = world.backups().await.set_retention(SetRetentionRequest { retention: None }).await.unwrap_err();
    assert_eq!(absent.code(), Code::InvalidArgument);

    keep(&world, 3).await.unwrap();
    let mut made = Vec::new();
    for round in 0..5 {
        // Encrypted and plain count together.
        let passphrase = if round % 2 == 0 { "" } else { super::world::PASSPHRASE };
        world.set_passphrase(passphrase).await;
        let backup = world.backup().await;
        // The newest looks oldest: neither order nor age follow from times of the file system.
        let time = format!("20{:02}-01-01", 30 - round);
        assert!(Command::new("touch").args(["-d", &time]).arg(world.file(&backup)).status().unwrap().success());
        made.push(backup);
    }
    let newest: Vec<&str> = made[2..].iter().rev().map(|backup| backup.name.as_str()).collect();
    assert_eq!(names(&world.listed().await), newest);
    assert_eq!(world.files().len(), 3);

    let lowered = keep(&world, 1).await.unwrap();
    assert_eq!((lowered.current_count, lowered.excess_count), (3, 3));
    assert_eq!(world.files().len(), 3);
    let marked = world.listed().await;
    assert!(marked.iter().all(|backup| backup.retention_position.as_ref().unwrap().next_to_expire));

    // Neither a cancelled backup nor one that fails deletes anything.
    let session = world.lock_table("access exclusive").await;
    let name = world.begin_backup().await;
    world.cancel(&name).await;
    world.wait(&name).await;
    sqlx::Connection::close(session).await.unwrap();
    world.sql_as_superuser("revoke select on platform.license from holdfast_backup").await;
    world.try_backup(BackupRequest::default()).await.unwrap_err();
    world.sql_as_superuser("grant select on platform.license to holdfast_backup").await;
    assert_eq!(names(&world.listed().await), newest);

    let last = world.backup().await;
    let listed = world.listed().await;
    assert_eq!(names(&listed), [last.name.as_str()]);
    assert_eq!(listed[0].state(), State::Ready);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_backup_that_does_not_fit_is_refused_before_it_starts() {
    let mut world = World::without_service().await;
    let folder = world.folder();
    let Some(_volume) = Volume::mount(&folder, "size=4m") else { return };
    world.start().await.unwrap();
    let good = world.backup().await;
    let before = world.value("select count(*) from holdfast.operation").await;
    let space = rustix::fs::statvfs(&folder).unwrap();
    // As large as the last one, but not a quarter larger.
    let left = u64::try_from(good.size_bytes).unwrap();
    let ballast = space.f_bavail * space.f_frsize - left / 4096 * 4096;
    std::fs::write(folder.join("ballast"), vec![1; usize::try_from(ballast).unwrap()]).unwrap();
    for validate_only in [false, true] {
        let status = world.backups().await.backup(BackupRequest { validate_only, ..Default::default() }).await.unwrap_err();
        let error = refused(status);
        assert_eq!((error.reason.as_str(), error.code), ("STORAGE_FULL", Code::ResourceExhausted.into()), "{error:?}");
        let number = |name: &str| error.metadata[name].parse::<u64>().unwrap();
        assert!(number("needed") > number("available") && number("available") > 0, "{error:?}");
    }
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.backup_possible && status.obstacles.iter().any(|obstacle| obstacle.reason == "STORAGE_FULL"), "{status:?}");
    assert!(status.storage_available_bytes > 0);
    // The safety backup would not fit either; without one it can be restored.
    let error = world.try_restore(RestoreRequest { skip_safety_backup: false, ..all_of(&good) }).await.unwrap_err();
    assert_eq!(error.reason, "STORAGE_FULL");
    assert!(error.message.contains("skip_safety_backup"), "{error:?}");
    assert_eq!(world.value("select count(*) from holdfast.operation").await, before);
    world.restore(&good, "").await.unwrap();
    assert_eq!(names(&world.listed().await), [good.name.as_str()]);
    std::fs::remove_file(folder.join("ballast")).unwrap();
    world.backup().await;
    world.is_tidy().await;
}
