//! A volume without room: the backup fails and says so, no other is given up to make room, and the next one works as soon as
//! there is some.

use std::path::PathBuf;

use holdfast::grpc::proto::backup::{Backup, BackupRequest, Retention, SetRetentionRequest};
use tonic::Code;

use super::disk::{Disk, Faults, Room};
use super::files::Volume;
use super::world::{World, long_tests};

/// The room is a multiple of this part of what a backup needs.
const PARTS: u64 = 20;

async fn keep(world: &World, max_count: i32) {
    let retention = Some(Retention { max_count, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
}

/// A backup fails for want of room, and nothing has changed.
async fn does_not_fit(world: &World, good: &Backup, why: &str) {
    let error = world.try_backup(BackupRequest::default()).await.expect_err(why);
    assert_eq!((error.reason.as_str(), error.code), ("STORAGE_FULL", Code::ResourceExhausted.into()), "{why}: {error:?}");
    assert_eq!(world.files(), [good.file_name.as_str()], "{why}");
    world.is_tidy().await;
    world.verifies(good);
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_a_volume_with_room_for_any_part_of_a_backup_fails_it_and_costs_no_other() {
    let mut world = World::without_service().await;
    let Some(disk) = Disk::mount(&world.folder()) else { return };
    world.start().await.unwrap();
    keep(&world, 1).await;
    let digests = world.digests();
    let good = world.backup().await;
    let size = good.size_bytes.unsigned_abs();
    for part in (0..PARTS).filter(|part| long_tests() || [0, 9, 19].contains(part)) {
        // Where the room is told the backup may be refused before it begins; a quota shows only when it is used up.
        for kind in [Room::Told, Room::Hidden] {
            let room = disk.occupied() + size * part / PARTS;
            disk.fails(Faults { room: Some((room, kind)), ..Faults::default() });
            does_not_fit(&world, &good, &format!("{part}/{PARTS} {kind:?}")).await;
            if kind == Room::Hidden {
                assert!(disk.changes() > 0, "it was not even tried");
            }
        }
    }
    disk.is_sound();
    let next = world.backup().await;
    assert_eq!(world.files(), [next.file_name.as_str()]);
    world.install_adapter_types().await;
    world.damage();
    assert_ne!(world.digests(), digests);
    world.restore(&next, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_volume_without_a_free_inode_is_full() {
    let mut world = World::without_service().await;
    let folder = world.folder();
    // For the folder, the identity file and one backup.
    let Some(_volume) = Volume::mount(&folder, "size=16m,nr_inodes=3") else { return };
    world.start().await.unwrap();
    keep(&world, 1).await;
    let good = world.backup().await;
    does_not_fit(&world, &good, "no inode").await;
    world.restore(&good, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_a_path_that_is_too_long_is_told_at_the_start() {
    let mut world = World::without_service().await;
    let mut folder: PathBuf = world.folder();
    while folder.as_os_str().len() < 3800 {
        folder.push("a".repeat(200));
    }
    // Short enough for the folder, too long for a file in it.
    folder.push("a".repeat(4060 - folder.as_os_str().len()));
    std::fs::create_dir_all(&folder).unwrap();
    world.set("HOLDFAST_FOLDER", folder.to_str().unwrap());
    let message = world.start().await.unwrap_err();
    assert!(message.contains("File name too long"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_files_are_for_the_owner_alone_whatever_the_umask_is() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::without_service().await;
    world.run_by(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""]);
    world.start().await.unwrap();
    let backup = world.backup().await;
    for path in [world.file(&backup), world.folder().join(".holdfast-volume")] {
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}
