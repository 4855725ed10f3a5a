//! What retention cannot delete stays, is told, and goes later; it never costs the backup that was just made.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{NoticeCode, Retention, SetRetentionRequest};

use super::disk::{Disk, Faults};
use super::world::{World, eventually, long_tests, repository};

/// A file that nobody can remove, root included.
struct Immutable(PathBuf);

impl Immutable {
    /// `None`, and a line that says so, where this process or the file system cannot do it.
    fn make(path: &Path) -> Option<Self> {
        let made = Command::new("chattr").arg("+i").arg(path).stderr(Stdio::null()).status();
        if made.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        eprintln!("SKIPPED: no file can be made immutable here");
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

async fn keep(world: &World, max_count: i32) {
    let retention = Some(Retention { max_count, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
}

/// Makes a backup that succeeds, and returns of which files it is told that they could not be deleted.
async fn backs_up(world: &World) -> Vec<String> {
    let Outcome::Backup(result) = world.outcome(&world.begin_backup().await).await.unwrap() else { panic!() };
    world.verifies(&result.backup.unwrap());
    let told = result.notices.into_iter().filter(|notice| notice.code() == NoticeCode::RetentionIncomplete);
    told.map(|notice| notice.subject).collect()
}

/// What was left to be deleted goes within a minute, or at the next start.
async fn is_finished(world: &mut World) {
    if !long_tests() {
        world.terminate().await;
        world.start().await.unwrap();
    }
    eventually(Duration::from_secs(75), || (world.files().len() == 1).then_some(())).await;
    world.becomes("select count(*) from holdfast.backup", "1", Duration::from_secs(10)).await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s16_a_file_that_cannot_be_deleted_fails_no_backup_is_told_and_goes_later() {
    let mut world = World::new().await;
    keep(&world, 1).await;
    let oldest = world.backup().await;
    let Some(immutable) = Immutable::make(&world.file(&oldest)) else { return };
    assert_eq!(backs_up(&world).await, [oldest.name.as_str()], "{}", world.log());
    for _ in 0..2 {
        // The new one and the one that stays, and is told of: what can be deleted is.
        let files = world.files();
        assert!(files.len() == 2 && files.contains(&oldest.file_name), "{files:?}");
        assert_eq!(world.entry(&oldest).await.state(), State::Deleting);
        backs_up(&world).await;
    }
    drop(immutable);
    is_finished(&mut world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s16_a_deletion_that_fails_or_is_half_done_is_finished_later() {
    let mut world = World::without_service().await;
    let Some(disk) = Disk::mount(&world.folder()) else { return };
    world.start().await.unwrap();
    keep(&world, 1).await;
    world.backup().await;
    disk.is_sound();
    world.backup().await;
    // The last two are the removal of the oldest and the sync of the folder.
    let oldest = world.listed().await[0].clone();
    disk.fails(Faults { read_only_from: Some(disk.changes() - 1), ..Faults::default() });
    assert_eq!(backs_up(&world).await, [oldest.name.as_str()], "{}", world.log());
    assert!(world.files().contains(&oldest.file_name));
    disk.is_sound();
    is_finished(&mut world).await;
}

#[test]
fn s20_the_manual_says_that_a_deleted_file_is_unlinked_not_wiped() {
    let manual = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let section = manual.split("\n### ").find(|section| section.starts_with("What is kept")).expect("a section on what is kept");
    let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("Deleting unlinks the file") && words.contains("does not overwrite it"), "{section}");
    assert!(words.contains("passphrase"), "where secrecy comes from: {section}");
}
