//! The folder is the truth: what is in it is found, what is gone is told, and with the database lost nothing is.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, GetSystemStatusRequest, RestoreRequest, Retention, SetRetentionRequest, SyncBackupsRequest,
    SyncBackupsResponse, Trigger, UpdateBackupRequest, VerifyLevel,
};
use prost_types::FieldMask;
use tonic::Status;

use super::world::{PASSPHRASE, World, eventually_async, refused};
use super::zoo::{all_of, of_others};

const EVENTS: &str = "select coalesce(string_agg(type, ' ' order by event_time), '') from holdfast.event
                      where type in ('backup.imported', 'backup.missing', 'backup.recovered', 'backup.updated', 'backup.expired')";

impl World {
    async fn sync(&self) -> SyncBackupsResponse {
        self.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap().into_inner()
    }

    async fn update(&self, backup: Backup, paths: &[&str]) -> Result<Backup, Status> {
        let update_mask = (!paths.is_empty()).then(|| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let request = UpdateBackupRequest { backup: Some(backup), update_mask };
        Ok(self.backups().await.update_backup(request).await?.into_inner())
    }
}

fn change(backup: &Backup) -> Backup {
    Backup { name: backup.name.clone(), ..Default::default() }
}

fn facts(backup: &Backup) -> impl PartialEq + std::fmt::Debug + use<> {
    let passphrase = backup.encryption_info.as_ref().map(|info| (info.passphrase_generation, info.passphrase_set_time));
    let file = (backup.name.clone(), backup.file_name.clone(), backup.sha256.clone(), backup.size_bytes);
    (file, backup.uid.clone(), backup.snapshot_time, backup.resources.clone(), backup.description.clone(), passphrase)
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_with_the_database_lost_the_folder_has_every_backup() {
    let mut world = World::new().await;
    let plain = world.try_backup(BackupRequest { description: "the first".into(), ..Default::default() }).await.unwrap();
    world.set_passphrase(PASSPHRASE).await;
    // Their names tell the second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let encrypted = world.backup().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.try_restore(RestoreRequest { skip_safety_backup: false, ..all_of(&plain) }).await.unwrap();
    let before = world.listed().await;
    let digests = world.digests();
    assert_eq!(before.iter().map(Backup::trigger).collect::<Vec<_>>(), [Trigger::Safety, Trigger::OnDemand, Trigger::OnDemand]);

    world.terminate().await;
    world.sql_as_superuser("drop schema holdfast cascade").await;
    world.start().await.unwrap();
    let found = eventually_async(Duration::from_secs(30), async || {
        let listed = world.listed().await;
        (listed.len() == before.len()).then_some(listed)
    })
    .await;
    // In the order in which they were made.
    let names = |backups: &[Backup]| backups.iter().map(|backup| backup.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&before));
    assert!(found.iter().all(|backup| backup.state() == State::Ready && backup.trigger() == Trigger::Imported));
    assert_eq!(facts(&found[2]), facts(&plain), "what is not encrypted tells everything");
    let unknown = &found[1];
    assert_eq!((unknown.resources.len(), unknown.uid.as_str(), unknown.snapshot_time), (0, "", None));
    assert_eq!((&unknown.sha256, unknown.size_bytes), (&encrypted.sha256, encrypted.size_bytes));
    assert!(unknown.encryption_info.as_ref().unwrap().passphrase_set_time.is_none());

    // Nobody is believed to know the passphrase, and a wrong one is told as that.
    let error = world.restore(unknown, "").await.unwrap_err();
    assert_eq!(error.reason, "PASSPHRASE_REQUIRED");
    assert_eq!(
        world.verify(unknown, VerifyLevel::Contents, "another passphrase").await.unwrap_err().reason,
        "PASSPHRASE_INCORRECT"
    );
    // Whoever opens it learns what is in it; and so does the list.
    world.damage();
    let acknowledged_warnings = of_others();
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), acknowledged_warnings, ..all_of(unknown) };
    world.try_restore(request).await.unwrap();
    assert_eq!(world.digests(), digests);
    assert!(world.verify(unknown, VerifyLevel::Contents, PASSPHRASE).await.unwrap().valid);
    assert_eq!(facts(&world.entry(unknown).await), facts(&encrypted));
    // A safety backup is one again as soon as that is known, and takes the place of no other.
    assert!(world.verify(&found[0], VerifyLevel::Contents, PASSPHRASE).await.unwrap().valid);
    let safety = world.entry(&found[0]).await;
    assert!(safety.trigger() == Trigger::Safety && safety.retention_position.is_none(), "{safety:?}");
    assert_eq!(world.value(EVENTS).await, ["backup.imported"; 3].join(" "));
    // A second look, and another start, find nothing new.
    world.terminate().await;
    world.start().await.unwrap();
    assert_eq!(world.sync().await, SyncBackupsResponse::default());
    assert_eq!(world.value(EVENTS).await, ["backup.imported"; 3].join(" "));
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_s17_only_whole_files_that_are_what_their_name_says_are_taken_in() {
    const EARLIER: &str = "the passphrase of another year";
    let world = World::new().await;
    // Of this one nothing but its digest tells that it is not whole.
    world.set_passphrase(EARLIER).await;
    let half = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let [copied, known] = [world.backup().await, world.backup().await];
    let elsewhere = |backup: &Backup| world.dir.path().join(&backup.file_name);
    for backup in [&copied, &half] {
        std::fs::copy(world.file(backup), elsewhere(backup)).unwrap();
        let request = holdfast::grpc::proto::backup::DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
        world.backups().await.delete_backup(request).await.unwrap();
    }
    let folder = world.folder();
    let other_id = |digit: &str| known.file_name.replace(&known.file_name[20..24], &digit.repeat(4));
    let other_digest = known.file_name.replace(&known.file_name[26..58], &"0".repeat(32));
    std::fs::copy(elsewhere(&copied), folder.join(&copied.file_name)).unwrap();
    let bytes = std::fs::read(elsewhere(&half)).unwrap();
    std::fs::write(folder.join(&half.file_name), &bytes[..bytes.len() / 2]).unwrap();
    // The passphrase in use opens it: it is another backup than its name says.
    std::fs::copy(world.file(&known), folder.join(other_id("a"))).unwrap();
    std::fs::copy(world.file(&known), folder.join(&other_digest)).unwrap();
    symlink("/etc/shadow", folder.join(other_id("b"))).unwrap();
    std::fs::create_dir(folder.join(other_id("c"))).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join(other_id("d"))).status().unwrap().success());
    std::fs::write(folder.join("notes.txt"), "notes").unwrap();
    std::fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff\x1b[2J")), "no text").unwrap();
    let before = world.files();

    let found = world.sync().await;
    assert_eq!(found.imported.iter().map(facts).collect::<Vec<_>>(), [facts(&copied)], "{found:?}");
    assert!(found.imported[0].creator == "token:static" && found.imported[0].register_time != copied.register_time);
    assert!(found.missing.is_empty());
    let why: std::collections::BTreeMap<_, _> =
        found.rejected.iter().map(|file| (file.file_name.as_str(), file.reason.as_str())).collect();
    let (a, b, c, d) = (other_id("a"), other_id("b"), other_id("c"), other_id("d"));
    let expected = [
        (half.file_name.as_str(), "BACKUP_CORRUPTED"),
        (a.as_str(), "BACKUP_CORRUPTED"),
        (other_digest.as_str(), "BACKUP_ALREADY_EXISTS"),
        (b.as_str(), "NOT_A_BACKUP_FILE"),
        (c.as_str(), "NOT_A_BACKUP_FILE"),
        (d.as_str(), "NOT_A_BACKUP_FILE"),
        ("notes.txt", "NOT_A_BACKUP_FILE"),
        ("\u{fffd}\u{1b}[2J", "NOT_A_BACKUP_FILE"),
    ];
    assert_eq!(why, expected.into_iter().collect(), "{found:?}");
    assert_eq!(found.rejected_count, 8);
    assert!(found.rejected.iter().all(|file| file.detail.ends_with('.')), "{found:?}");
    assert_eq!(world.files(), before, "nothing is touched");
    assert_eq!(world.listed().await.len(), 2);
    // To a terminal as well, without what a terminal would obey.
    let output = world.cli(&["sync"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("left alone") && !text.contains('\u{1b}'), "{text}");

    // The copy is complete now.
    std::fs::write(folder.join(&half.file_name), &bytes).unwrap();
    let found = world.sync().await;
    assert_eq!((found.imported.len(), found.rejected_count), (1, 7));
    assert_eq!((&found.imported[0].name, &found.imported[0].sha256), (&half.name, &half.sha256));
    world.restore(&found.imported[0], EARLIER).await.unwrap();
    // Whoever restores the latest does not get one that was copied in.
    let output = world.cli(&["show", "latest", "--json"], "");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&known.name), "{output:?}");
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.latest_backup, known.name);
    // Retention counts from when it came here, and never deletes what it does not know.
    let retention = Some(Retention { max_count: 1, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    let newest = world.backup().await;
    let counted = world.listed().await.into_iter().filter(|backup| backup.trigger() != Trigger::Safety);
    assert_eq!(counted.map(|backup| backup.name).collect::<Vec<_>>(), [newest.name]);
    assert!(world.files().contains(&other_digest) && world.files().contains(&"notes.txt".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_gone_are_marked_and_found_again() {
    let mut world = World::new().await;
    let [first, second] = [world.backup().await, world.backup().await];
    let away = world.dir.path().join("away");
    std::fs::rename(world.file(&first), &away).unwrap();
    let found = world.sync().await;
    assert_eq!((found.missing.as_slice(), found.imported.len()), (&[first.name.clone()][..], 0));
    let entry = world.entry(&first).await;
    assert!(entry.state() == State::Missing && !entry.state_detail.is_empty() && entry.retention_position.is_none());
    assert_eq!(world.restore(&first, "").await.unwrap_err().reason, "BACKUP_FILE_MISSING");
    assert!(world.sync().await.missing.is_empty(), "it is told once");
    // Another file of its name is not it.
    let mut rotten = std::fs::read(&away).unwrap();
    rotten[100] ^= 1;
    std::fs::write(world.file(&first), rotten).unwrap();
    world.sync().await;
    assert_eq!(world.entry(&first).await.state(), State::Missing);
    std::fs::rename(&away, world.file(&first)).unwrap();
    assert_eq!(world.sync().await.recovered, [first.name.as_str()]);
    assert!(world.sync().await.recovered.is_empty(), "it is told once");
    assert_eq!(world.entry(&first).await.state(), State::Ready);
    world.restore(&first, "").await.unwrap();

    // At the start, too; and a folder that is not the volume says nothing of its files.
    std::fs::remove_file(world.file(&second)).unwrap();
    world.terminate().await;
    world.start().await.unwrap();
    world.becomes(EVENTS, "backup.missing backup.recovered backup.missing", Duration::from_secs(30)).await;
    assert_eq!(world.entry(&second).await.state(), State::Missing);
    let moved = world.dir.path().join("moved");
    std::fs::rename(world.folder(), &moved).unwrap();
    std::fs::create_dir(world.folder()).unwrap();
    let refusal = world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap_err();
    assert_eq!(refused(refusal).reason, "STORAGE_UNAVAILABLE");
    std::fs::remove_dir(world.folder()).unwrap();
    std::fs::rename(&moved, world.folder()).unwrap();
    assert_eq!(world.entry(&first).await.state(), State::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_look_into_the_folder_at_once_take_each_file_in_once() {
    let mut world = World::new().await;
    for _ in 0..3 {
        world.backup().await;
    }
    world.terminate().await;
    world.sql_as_superuser("delete from holdfast.backup").await;
    world.forget_events().await;
    let mut twin = world.twin();
    let (one, other) = tokio::join!(world.start(), twin.start());
    one.unwrap();
    other.unwrap();
    tokio::join!(world.sync(), twin.sync(), world.sync(), twin.sync());
    assert_eq!(world.listed().await.len(), 3);
    assert_eq!(world.value(EVENTS).await, ["backup.imported"; 3].join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_backup_is_kept_and_does_not_count() {
    let world = World::new().await;
    let first = world.backup().await;
    let pinned = world.update(Backup { pinned: Some(true), ..change(&first) }, &[]).await.unwrap();
    assert!(pinned.pinned() && pinned.retention_position.is_none() && pinned.etag != first.etag, "{pinned:?}");
    let retention = Some(Retention { max_count: 1, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    world.backup().await;
    let newest = world.backup().await;
    let names = async || world.listed().await.into_iter().map(|backup| backup.name).collect::<Vec<_>>();
    assert_eq!(names().await, [newest.name.clone(), first.name.clone()]);
    // Unpinned it is in its old place again: the last one.
    let output = world.cli(&["update", first.name.trim_start_matches("backups/"), "--unpin"], "");
    assert!(output.status.success(), "{output:?}");
    let entry = world.entry(&first).await;
    assert!(entry.retention_position.is_some_and(|place| place.position == 2 && place.next_to_expire), "{entry:?}");
    let newest = world.backup().await;
    assert_eq!(names().await, [newest.name]);
    assert_eq!(world.value(EVENTS).await, "backup.updated backup.expired backup.updated backup.expired backup.expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_callers_say_of_a_backup_is_changed_as_they_say_and_never_by_accident() {
    let world = World::new().await;
    let made = world.try_backup(BackupRequest { description: "before 8.4.1".into(), ..Default::default() }).await.unwrap();
    let made = world.entry(&made).await;
    let described = |description: &str| Backup { description: description.into(), ..change(&made) };
    let updated = world.update(described("after 8.4.1"), &[]).await.unwrap();
    assert_eq!((updated.description.as_str(), updated.pinned()), ("after 8.4.1", false));
    // The same once more changes nothing, and is not told again.
    assert_eq!(world.update(described("after 8.4.1"), &[]).await.unwrap(), updated);
    assert_eq!(world.value(EVENTS).await, "backup.updated");
    let updated = world.update(Backup { pinned: Some(true), ..described("ignored") }, &["pinned"]).await.unwrap();
    assert_eq!((updated.description.as_str(), updated.pinned()), ("after 8.4.1", true));
    let updated = world.update(change(&made), &["description"]).await.unwrap();
    assert_eq!((updated.description.as_str(), updated.pinned()), ("", true));
    let updated = world.update(described("all"), &["*"]).await.unwrap();
    assert_eq!((updated.description.as_str(), updated.pinned()), ("all", false));

    let why = |answer: Result<Backup, Status>| refused(answer.unwrap_err()).reason;
    assert_eq!(why(world.update(Backup { etag: made.etag.clone(), ..described("late") }, &[]).await), "ETAG_MISMATCH");
    for (backup, paths) in [
        (change(&made), &[][..]),
        (Backup::default(), &["pinned"]),
        (described(&"x".repeat(257)), &[]),
        (described("x"), &["state"]),
        (Backup { etag: "7".into(), ..described("x") }, &[]),
    ] {
        assert_eq!(why(world.update(backup, paths).await), "INVALID_FIELD", "{paths:?}");
    }
    let nobody = Backup { name: "backups/b-20260301t010000z-abcdefgh".into(), ..described("x") };
    assert_eq!(why(world.update(nobody, &[]).await), "BACKUP_NOT_FOUND");
    assert_eq!(world.entry(&made).await, updated);
}
