//! The archive in a second folder: what is proven gets there, what is lost here comes back from there, and an archive that fails
//! costs nobody anything but itself.

use std::path::PathBuf;
use std::time::Duration;

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::download_backup_response::Payload;
use holdfast::grpc::proto::backup::{
    ArchiveStatus, Backup, BackupRequest, DeleteBackupRequest, DownloadBackupRequest, GetSystemStatusRequest, RestoreRequest,
    Retention, SetRetentionRequest, SyncBackupsRequest, Trigger, VerifyLevel,
};

use super::world::{PASSPHRASE, World, eventually, eventually_async, refused, sha256};
use super::zoo::{all_of, of_others, signal};

pub const SOON: Duration = Duration::from_secs(90);

/// How often events of these types were written.
pub fn told(types: &str) -> String {
    format!("select coalesce(string_agg(type, ' ' order by event_time), '') from holdfast.event where type ~ '^({types})$'")
}

impl World {
    /// A world whose service archives to a folder beside that of its backups.
    async fn with_archive() -> Self {
        let mut world = Self::without_service().await;
        world.use_archive();
        world.start().await.unwrap();
        world
    }

    fn use_archive(&mut self) {
        std::fs::create_dir(self.archive()).unwrap();
        self.set("HOLDFAST_ARCHIVE__URL", &format!("file://{}", self.archive().display()));
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// Names in the archive, drafts included and the identity left out.
    fn archive_files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.archive()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != ".holdfast-volume").collect();
        names.sort();
        names
    }

    /// Waits until a backup is in the archive.
    pub async fn archived(&self, backup: &Backup) -> Backup {
        eventually_async(SOON, async || {
            let entry = self.entry(backup).await;
            entry.archive_time.is_some().then_some(entry)
        })
        .await
    }

    pub async fn archive_status(&self) -> ArchiveStatus {
        let status = self.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
        status.archive.expect("there is an archive")
    }

    /// Waits until the archive fails, and returns the reason and the text.
    pub async fn archive_fails(&self) -> (String, String) {
        let error = eventually_async(SOON, async || self.archive_status().await.error).await;
        (error.reason, format!("{} {}", error.message, error.instructions))
    }

    /// Waits until the archive works and has everything.
    pub async fn archive_is_well(&self) -> ArchiveStatus {
        eventually_async(SOON, async || {
            let status = self.archive_status().await;
            (status.error.is_none() && status.backlog_count == 0).then_some(status)
        })
        .await
    }

    pub async fn downloaded(&self, backup: &Backup) -> Result<Vec<u8>, tonic::Status> {
        let request = DownloadBackupRequest { name: backup.name.clone(), ..Default::default() };
        let mut stream = self.backups().await.download_backup(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await? {
            if let Some(Payload::Chunk(chunk)) = message.payload {
                bytes.extend_from_slice(&chunk.data);
            }
        }
        Ok(bytes)
    }

    async fn keeps(&self, max_count: i32) {
        let retention = Some(Retention { max_count, ..Default::default() });
        self.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    }

    async fn deletes(&self, backup: &Backup) -> Result<(), tonic::Status> {
        let request = DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
        self.backups().await.delete_backup(request).await.map(|_| ())
    }
}

/// Changes one byte in the middle.
pub fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_in_the_archive_soon_and_that_is_told() {
    let mut world = World::with_archive().await;
    assert_eq!(world.archive_status().await.backup_count, 0);
    let first = world.backup().await;
    assert_eq!(first.archive_time, None, "nobody waits for the archive");
    let first = world.archived(&first).await;
    assert_eq!(std::fs::read(world.archive().join(&first.file_name)).unwrap(), std::fs::read(world.file(&first)).unwrap());
    // What only undoes a restore stays here.
    world.try_restore(RestoreRequest { skip_safety_backup: false, ..all_of(&first) }).await.unwrap();
    let second = world.archived(&world.backup().await).await;
    let status = world.archive_is_well().await;
    assert_eq!((status.backup_count, status.newest_snapshot_time), (2, second.snapshot_time));
    assert_eq!(status.url, format!("file://{}", world.archive().display()));
    let mut both = [first.file_name.clone(), second.file_name.clone()];
    both.sort();
    assert_eq!(world.archive_files(), both);

    let printed = |arguments: &[&str]| String::from_utf8(world.cli(arguments, "").stdout).unwrap();
    assert!(printed(&["status"]).contains("with 2 backups, the newest data of "), "{}", printed(&["status"]));
    assert_eq!(printed(&["list"]).matches(" archived").count(), 2, "{}", printed(&["list"]));
    assert!(printed(&["show", second.name.rsplit('/').next().unwrap()]).contains("Archived:"));
    // Nothing is copied twice, whatever starts again.
    let copied = std::fs::metadata(world.archive().join(&first.file_name)).unwrap().modified().unwrap();
    world.terminate().await;
    world.start().await.unwrap();
    let third = world.archived(&world.backup().await).await;
    assert_eq!(std::fs::metadata(world.archive().join(&first.file_name)).unwrap().modified().unwrap(), copied);
    assert_eq!(world.value(&told("backup.archived")).await, ["backup.archived"; 3].join(" "));
    assert_eq!(world.archive_status().await.newest_snapshot_time, third.snapshot_time);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_what_is_gone_or_damaged_here_comes_back_from_the_archive_when_it_is_used() {
    let world = World::with_archive().await;
    world.install_adapter_types().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.archived(&world.backup().await).await;
    let (good, digests) = (std::fs::read(world.file(&backup)).unwrap(), world.digests());
    let lose = async || {
        std::fs::remove_file(world.file(&backup)).unwrap();
        world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
        assert_eq!(world.entry(&backup).await.state(), State::Missing);
    };
    lose().await;
    assert!(world.verify(&backup, VerifyLevel::Contents, PASSPHRASE).await.unwrap().valid);
    assert_eq!(world.entry(&backup).await.state(), State::Ready);
    lose().await;
    assert!(world.verify(&backup, VerifyLevel::Rehearsal, PASSPHRASE).await.unwrap().valid);
    assert_eq!(world.entry(&backup).await.state(), State::Ready);
    lose().await;
    assert_eq!(world.downloaded(&backup).await.unwrap(), good);
    lose().await;
    world.damage();
    world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), digests);
    // A damaged one makes place for the good one, whoever meets it first.
    for level in [VerifyLevel::Checksum, VerifyLevel::Contents, VerifyLevel::Rehearsal] {
        flip(&world.file(&backup));
        assert!(world.verify(&backup, level, PASSPHRASE).await.unwrap().valid, "{level:?}");
        assert_eq!(
            (std::fs::read(world.file(&backup)).unwrap(), world.entry(&backup).await.state()),
            (good.clone(), State::Ready)
        );
    }
    flip(&world.file(&backup));
    world.damage();
    world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!((world.digests(), std::fs::read(world.file(&backup)).unwrap()), (digests.clone(), good.clone()));
    // The command line says what it waits for.
    lose().await;
    let saved = world.dir.path().join("saved");
    let output = world.cli(&["download", "latest", "-o", &saved.display().to_string()], "");
    assert!(!output.status.success(), "what is not ready is not the latest");
    let id = backup.name.rsplit('/').next().unwrap();
    let output = world.cli(&["download", id, "-o", &saved.display().to_string()], "");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("brought back"), "{output:?}");
    assert_eq!(std::fs::read(saved).unwrap(), good);
    assert_eq!(world.value(&told("backup.recovered")).await, ["backup.recovered"; 9].join(" "));
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_what_is_damaged_in_the_archive_too_is_not_restored() {
    let mut world = World::with_archive().await;
    let backup = world.archived(&world.backup().await).await;
    flip(&world.archive().join(&backup.file_name));
    std::fs::remove_file(world.file(&backup)).unwrap();
    world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    let digests = world.digests();
    let error = world.restore(&backup, "").await.unwrap_err();
    assert_eq!(error.reason, "BACKUP_CORRUPTED", "{error:?}");
    assert_eq!((world.digests(), world.files().len(), world.drafts().len()), (digests, 0, 0));
    let entry = world.entry(&backup).await;
    assert!(entry.state() == State::Missing && entry.archive_time.is_none(), "{entry:?}");
    assert_eq!(world.value(&told("archive.lost")).await, "archive.lost");
    // What is lost there and is whole here is copied again, and not only after a start.
    world.terminate().await;
    world.set("HOLDFAST_SCRUB_PERIOD", "10s");
    world.start().await.unwrap();
    let backup = world.archived(&world.backup().await).await;
    for _ in 0..2 {
        std::fs::remove_file(world.archive().join(&backup.file_name)).unwrap();
        eventually_async(SOON, async || world.archive_files().contains(&backup.file_name).then_some(())).await;
    }
    world.archived(&backup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_what_was_damaged_here_does_not_get_into_the_archive_and_keeps_no_other_waiting() {
    let world = World::with_archive().await;
    let away = world.dir.path().join("away");
    std::fs::rename(world.archive(), &away).unwrap();
    let [first, damaged, last] = [world.backup().await, world.backup().await, world.backup().await];
    flip(&world.file(&damaged));
    std::fs::rename(&away, world.archive()).unwrap();
    world.archived(&first).await;
    world.archived(&last).await;
    world.archive_is_well().await;
    let entry = world.entry(&damaged).await;
    assert!(entry.state() == State::Invalid && entry.archive_time.is_none(), "{entry:?}");
    assert_eq!(world.archive_files().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_what_retention_or_a_caller_deletes_stays_in_the_archive_and_can_be_restored() {
    let mut world = World::with_archive().await;
    world.install_adapter_types().await;
    let digests = world.digests();
    let first = world.archived(&world.backup().await).await;
    world.keeps(1).await;
    let second = world.archived(&world.backup().await).await;
    assert_eq!(world.files(), [second.file_name.as_str()]);
    assert_eq!(world.entry(&first).await.state(), State::Missing);
    world.deletes(&second).await.unwrap();
    let entry = world.entry(&second).await;
    assert!(entry.state() == State::Missing && entry.state_detail.contains("archive"), "{entry:?}");
    assert_eq!(refused(world.deletes(&second).await.unwrap_err()).reason, "BACKUP_NOT_READY");
    assert_eq!(world.archive_files().len(), 2);
    world.damage();
    world.restore(&first, "").await.unwrap();
    assert_eq!(world.digests(), digests);
    assert_eq!(world.files(), [first.file_name.as_str()]);

    // The limit of the archive is its own, and the newest always stays.
    world.terminate().await;
    world.set("HOLDFAST_ARCHIVE__MAX_COUNT", "1");
    world.start().await.unwrap();
    let third = world.archived(&world.backup().await).await;
    eventually_async(SOON, async || (world.archive_files() == [third.file_name.clone()]).then_some(())).await;
    eventually_async(SOON, async || (world.listed().await.len() == 1).then_some(())).await;
    assert_eq!(world.value(&told("archive.expired")).await, ["archive.expired"; 2].join(" "));
    assert_eq!(world.archive_is_well().await.backup_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_with_the_database_and_the_folder_lost_the_archive_has_every_backup() {
    let world = World::with_archive().await;
    world.install_adapter_types().await;
    let plain = world.archived(&world.backup().await).await;
    world.set_passphrase(PASSPHRASE).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let encrypted = world.archived(&world.backup().await).await;
    let system = world.value("select system_id from holdfast.system").await;
    let digests = world.digests();

    let mut other = World::without_service().await;
    other.set("HOLDFAST_ARCHIVE__URL", &format!("file://{}", world.archive().display()));
    other.start().await.unwrap();
    // Nothing is mixed by accident.
    let (reason, text) = other.archive_fails().await;
    assert!(reason == "ARCHIVE_UNAVAILABLE" && text.contains(&format!("HOLDFAST_ARCHIVE__ADOPT={system}")), "{text}");
    let own = other.backup().await;
    assert_eq!(other.listed().await.len(), 1);
    assert_eq!(world.archive_files().len(), 2);
    // What is no backup any more is told, and left out.
    let name = |id: char| {
        format!("{}{id}{}", &plain.file_name[..plain.file_name.len() - 20], &plain.file_name[plain.file_name.len() - 19..])
    };
    let damaged = [name('0'), name('1')].into_iter().find(|name| *name != plain.file_name).unwrap();
    std::fs::copy(world.archive().join(&plain.file_name), world.archive().join(&damaged)).unwrap();
    // It takes the place of the one that is gone.
    other.terminate().await;
    other.set("HOLDFAST_ARCHIVE__ADOPT", &system);
    other.start().await.unwrap();
    let own = other.archived(&own).await;
    let listed = eventually_async(SOON, async || {
        let listed = other.listed().await;
        (listed.len() == 3).then_some(listed)
    })
    .await;
    for (found, made) in listed.iter().zip([&encrypted, &plain]) {
        assert!(found.state() == State::Missing && found.trigger() == Trigger::Imported && found.archive_time.is_some());
        assert_eq!((&found.name, &found.sha256, found.size_bytes), (&made.name, &made.sha256, made.size_bytes));
    }
    assert_eq!(listed[2].name, own.name);
    let rejected = other.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap().into_inner().rejected;
    let [rejected] = rejected.as_slice() else { panic!("{rejected:?}") };
    assert_eq!((&rejected.file_name, rejected.reason.as_str()), (&damaged, "BACKUP_CORRUPTED"));
    assert!(rejected.detail.contains("in the archive"), "{rejected:?}");
    std::fs::remove_file(world.archive().join(&damaged)).unwrap();
    other.damage();
    let acknowledged_warnings = of_others();
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), acknowledged_warnings, ..all_of(&encrypted) };
    other.try_restore(request).await.unwrap();
    assert_eq!(other.digests(), digests);
    assert!(other.verify(&plain, VerifyLevel::Contents, "").await.unwrap().valid);
    assert_eq!(other.entry(&plain).await.resources, plain.resources);
    // The one that was thought to be gone does not write there any more.
    let late = world.backup().await;
    let (_, text) = world.archive_fails().await;
    assert!(text.contains("another system"), "{text}");
    assert!(world.entry(&late).await.archive_time.is_none() && world.archive_files().len() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_f14_an_archive_that_is_gone_fails_no_backup_and_gets_everything_when_it_is_back() {
    let world = World::with_archive().await;
    let first = world.archived(&world.backup().await).await;
    let away = world.dir.path().join("away");
    std::fs::rename(world.archive(), &away).unwrap();
    let waiting = [world.backup().await, world.backup().await];
    let (reason, _) = world.archive_fails().await;
    assert_eq!(reason, "ARCHIVE_UNAVAILABLE");
    let status = world.archive_status().await;
    assert_eq!((status.backup_count, status.backlog_count, status.newest_snapshot_time), (1, 2, first.snapshot_time));
    assert!(status.failing_since_time.is_some() && status.oldest_waiting_time.is_some());
    let printed = String::from_utf8(world.cli(&["status"], "").stdout).unwrap();
    assert!(printed.contains("The archive fails since") && printed.contains("Backup possible:   yes"), "{printed}");
    // A mount point without its volume is not written to.
    std::fs::create_dir(world.archive()).unwrap();
    eventually_async(SOON, async || world.archive_fails().await.1.contains("identity").then_some(())).await;
    assert_eq!(std::fs::read_dir(world.archive()).unwrap().count(), 0);
    std::fs::remove_dir(world.archive()).unwrap();
    std::fs::rename(&away, world.archive()).unwrap();
    for backup in &waiting {
        world.archived(backup).await;
    }
    world.archive_is_well().await;
    let outage = "archive.failed archive.recovered";
    world.becomes(&told("archive.failed|archive.recovered"), outage, SOON).await;
    assert_eq!(world.archive_files().len(), 3);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_full_archive_has_no_half_file_and_loses_none_that_is_whole() {
    let mut world = World::without_service().await;
    std::fs::create_dir(world.archive()).unwrap();
    let archive = world.archive();
    let Some(volume) = super::files::Volume::mount(&archive, "size=2m") else { return };
    world.set("HOLDFAST_ARCHIVE__URL", &format!("file://{}", world.archive().display()));
    world.start().await.unwrap();
    let good = world.archived(&world.backup().await).await;
    let fill = world.archive().join("fill");
    let _ = std::fs::write(&fill, vec![7; 4 << 20]);
    let waiting = world.backup().await;
    let (reason, text) = world.archive_fails().await;
    assert!(reason == "ARCHIVE_UNAVAILABLE" && text.contains("full"), "{text}");
    assert_eq!(world.archive_files().iter().filter(|name| *name != "fill").collect::<Vec<_>>(), [&good.file_name]);
    assert_eq!(sha256(&std::fs::read(world.archive().join(&good.file_name)).unwrap()), good.sha256);
    std::fs::remove_file(&fill).unwrap();
    world.archived(&waiting).await;
    world.archive_is_well().await;
    assert!(world.archive_files().iter().all(|name| !name.starts_with('.')), "{:?}", world.archive_files());
    world.terminate().await;
    drop(volume);
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_f13_a_service_that_is_killed_while_it_copies_leaves_nothing_half() {
    let mut world = World::with_archive().await;
    world.grow().await;
    for _ in 0..3 {
        let backup = world.backup().await;
        // In the middle of it, or just after.
        eventually_async(SOON, async || {
            (!world.archive_files().iter().all(|name| *name != backup.file_name && !name.starts_with(".draft-"))).then_some(())
        })
        .await;
        world.kill();
        for name in world.archive_files().iter().filter(|name| !name.starts_with('.')) {
            let bytes = std::fs::read(world.archive().join(name)).unwrap();
            assert!(name.contains(&sha256(&bytes)[..32]), "{name} is not whole");
        }
        world.start_later().await;
        world.archived(&backup).await;
        world.archive_is_well().await;
        assert!(world.archive_files().iter().all(|name| !name.starts_with('.')), "{:?}", world.archive_files());
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_of_several_replicas_one_copies_and_another_takes_over() {
    let mut world = World::with_archive().await;
    let mut twin = world.twin();
    twin.start().await.unwrap();
    for _ in 0..3 {
        world.archived(&twin.backup().await).await;
    }
    // The other one has nothing to do with the archive: while that is gone, it does not even notice.
    let away = world.dir.path().join("away");
    std::fs::rename(world.archive(), &away).unwrap();
    let waiting = twin.backup().await;
    let failures = |world: &World| world.log().matches("the archive failed").count();
    eventually(SOON, || (failures(&world) >= 3).then_some(())).await;
    assert_eq!(failures(&twin), 0, "{}", twin.log());
    std::fs::rename(&away, world.archive()).unwrap();
    twin.archived(&waiting).await;
    // Whoever copies is paused, and then dies.
    signal("-STOP", &world.pid().to_string());
    world.kill();
    let last = twin.backup().await;
    twin.archived(&last).await;
    assert_eq!(twin.value(&told("backup.archived")).await, ["backup.archived"; 5].join(" "));
    assert_eq!(world.archive_files().len(), 5);
    twin.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_a_panic_on_the_way_to_the_archive_or_back_leaves_the_truth() {
    let mut world = World::with_archive().await;
    world.terminate().await;
    world.set("HOLDFAST_FAULT", "archiving");
    world.start().await.unwrap();
    let backup = world.archived(&world.backup().await).await;
    world.terminate().await;
    world.set("HOLDFAST_FAULT", "bringing back");
    std::fs::remove_file(world.file(&backup)).unwrap();
    world.start().await.unwrap();
    eventually_async(SOON, async || (world.entry(&backup).await.state() == State::Missing).then_some(())).await;
    let error = world.downloaded(&backup).await.unwrap_err();
    assert_eq!(refused(error).reason, "INTERNAL");
    assert_eq!(world.log().matches("\"message\":\"panic\"").count(), 2);
    assert_eq!(sha256(&world.downloaded(&backup).await.unwrap()), backup.sha256);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_is_refused_at_the_start() {
    let mut world = World::without_service().await;
    let inside = format!("file://{}", world.folder().join("archive").display());
    for (url, more, says) in [
        ("ftp://example.com", None, "file:///mnt/archive or s3://bucket/prefix"),
        ("file://relative", None, "absolute path"),
        (inside.as_str(), None, "outlive"),
        ("s3://bucket/prefix", None, "HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE"),
        ("s3:///prefix", None, "names no bucket"),
        ("s3://key:secret@bucket", None, "nothing else"),
        ("s3://bucket", Some(("HOLDFAST_ARCHIVE__ENDPOINT", "http://s3.example.com")), "without TLS"),
        ("s3://bucket", Some(("HOLDFAST_ARCHIVE__ENDPOINT", "s3.example.com")), "not such as"),
    ] {
        for name in
            ["HOLDFAST_ARCHIVE__ENDPOINT", "HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE", "HOLDFAST_ARCHIVE__SECRET_ACCESS_KEY_FILE"]
        {
            world.unset(name);
        }
        world.set("HOLDFAST_ARCHIVE__URL", url);
        if let Some((name, value)) = more {
            let token = world.dir.path().join("token").display().to_string();
            world.set("HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE", &token);
            world.set("HOLDFAST_ARCHIVE__SECRET_ACCESS_KEY_FILE", &token);
            world.set(name, value);
        }
        let error = world.start_to_listen().await.unwrap_err();
        assert!(error.contains(says), "{url}: {error}");
    }
    world.unset("HOLDFAST_ARCHIVE__URL");
    assert!(world.start_to_listen().await.unwrap_err().contains("set HOLDFAST_ARCHIVE__URL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_and_the_place_in_the_list_stay_when_a_file_comes_back() {
    let world = World::with_archive().await;
    let described = BackupRequest { description: "before the move".into(), ..Default::default() };
    let first = world.archived(&world.try_backup(described).await.unwrap()).await;
    let second = world.archived(&world.backup().await).await;
    std::fs::remove_file(world.file(&first)).unwrap();
    world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    assert!(world.verify(&first, VerifyLevel::Checksum, "").await.unwrap().valid);
    let listed = world.listed().await;
    assert_eq!(listed.iter().map(|backup| &backup.name).collect::<Vec<_>>(), [&second.name, &first.name]);
    assert_eq!(listed[1].description, "before the move");
    assert_eq!(listed[1].retention_position.unwrap().position, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backup_folder_under_another_path_is_no_archive_whatever_is_adopted() {
    let mut world = World::without_service().await;
    let archive = world.archive();
    std::fs::create_dir(&archive).unwrap();
    let bound = std::process::Command::new("mount").arg("--bind").args([world.folder(), archive.clone()]).status();
    if !bound.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: only root can mount a volume");
        return;
    }
    world.start().await.unwrap();
    let volume = world.value("select volume_id from holdfast.system").await;
    world.terminate().await;
    world.set("HOLDFAST_ARCHIVE__URL", &format!("file://{}", archive.display()));
    world.set("HOLDFAST_ARCHIVE__ADOPT", &volume);
    world.set("HOLDFAST_ARCHIVE__MAX_COUNT", "1");
    world.start().await.unwrap();
    let made = [world.backup().await, world.backup().await];
    let (reason, text) = world.archive_fails().await;
    let _ = std::process::Command::new("umount").arg("-l").arg(&archive).status();
    assert!(reason == "ARCHIVE_UNAVAILABLE" && text.contains("the backup folder itself"), "{text}");
    for backup in &made {
        world.verifies(backup);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_loss_or_damage_nobody_has_noticed_yet_is_brought_back_when_it_is_used() {
    let world = World::with_archive().await;
    let backup = world.backup().await;
    world.archived(&backup).await;
    std::fs::remove_file(world.file(&backup)).unwrap();
    world.restore(&backup, "").await.unwrap();
    std::fs::remove_file(world.file(&backup)).unwrap();
    assert_eq!(sha256(&world.downloaded(&backup).await.unwrap()), backup.sha256);
    let mut bytes = std::fs::read(world.file(&backup)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(world.file(&backup), &bytes).unwrap();
    world.restore(&backup, "").await.unwrap();
    world.verifies(&backup);
    let told = world.value(&told("backup.(invalid|missing|recovered)")).await;
    for kind in ["backup.missing", "backup.invalid", "backup.recovered"] {
        assert!(told.contains(kind), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_another_folder_takes_the_place_of_a_volume_that_is_lost_when_that_is_said_and_once() {
    let mut world = World::without_service().await;
    world.use_archive();
    world.start().await.unwrap();
    let backup = world.backup().await;
    world.archived(&backup).await;
    world.terminate().await;
    let empty = |folder: PathBuf| {
        std::fs::remove_dir_all(&folder).unwrap();
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&folder).unwrap();
    };
    empty(world.folder());
    let refused = world.start().await.unwrap_err();
    let lost = world.value("select volume_id from holdfast.system").await;
    assert!(refused.contains("HOLDFAST_LOST_VOLUME") && refused.contains(&lost), "{refused}");
    world.set("HOLDFAST_LOST_VOLUME", &lost);
    world.start().await.unwrap();
    world.restore(&backup, "").await.unwrap();
    world.backup().await;
    world.terminate().await;
    // Another time it is an unmounted volume again.
    empty(world.folder());
    assert!(world.start().await.unwrap_err().contains("identity file is missing"));
}
