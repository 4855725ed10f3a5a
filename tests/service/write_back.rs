//! A file system on less room than it believes to have, as on a thin volume: it takes what it is given, and only fsync tells that it
//! could not be kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::grpc::proto::backup::{BackupRequest, VerifyLevel};

use super::files::Volume;
use super::world::World;

/// Bytes that the file system believes to have.
const BELIEVED: &str = "128M";

/// An ext4 in a file on a smaller file system. It goes with this value.
struct Thin<'a> {
    path: &'a Path,
    ballast: PathBuf,
    _below: Volume<'a>,
}

impl<'a> Thin<'a> {
    /// At `path`, on a file system that is made at `below`. `None`, and a line that says so, where that cannot be done.
    fn mount(path: &'a Path, below: &'a Path) -> Option<Self> {
        let _below = Volume::mount(below, "size=32m")?;
        let image = below.join("image");
        let made = [
            Command::new("truncate").args(["-s", BELIEVED]).arg(&image).status(),
            Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1"]).arg(&image).status(),
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path).stderr(Stdio::null()).status(),
        ];
        if made.iter().any(|made| !made.as_ref().is_ok_and(|status| status.success())) {
            eprintln!("SKIPPED: no file system can be mounted from a file");
            return None;
        }
        std::fs::remove_dir(path.join("lost+found")).unwrap();
        Some(Self { path, ballast: below.join("ballast"), _below })
    }

    /// Takes all room away but so much; nobody above notices.
    fn shrinks_to(&self, left: u64) {
        let space = rustix::fs::statvfs(self.ballast.parent().unwrap()).unwrap();
        let taken = (space.f_bavail * space.f_frsize).checked_sub(left).expect("there is more than that");
        std::fs::write(&self.ballast, vec![1; usize::try_from(taken).unwrap()]).unwrap();
    }

    fn grows(&self) {
        std::fs::remove_file(&self.ballast).unwrap();
    }
}

impl Drop for Thin<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_what_is_lost_on_its_way_to_the_disk_is_no_backup_and_costs_no_other() {
    let mut world = World::without_service().await;
    let (folder, below) = (world.folder(), world.dir.path().join("below"));
    std::fs::create_dir(&below).unwrap();
    let Some(disk) = Thin::mount(&folder, &below) else { return };
    world.start().await.unwrap();
    let digests = world.digests();
    let good = world.backup().await;
    // 4 MB that do not compress.
    world
        .sql(
            "insert into platform.license (id, number, product, valid_from, file)
             select gen_random_uuid(), 'bulk', 'bulk', now(), decode(string_agg(md5(random()::text), ''), 'hex') from generate_series(1, 250000)",
        )
        .await;
    for left in [1 << 20, 0] {
        disk.shrinks_to(left);
        let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
        assert!(["STORAGE_FULL", "STORAGE_UNAVAILABLE"].contains(&error.reason.as_str()), "{error:?}");
        assert_eq!(world.files(), [good.file_name.as_str()]);
        world.is_tidy().await;
        disk.grows();
        world.verifies(&good);
    }
    let next = world.backup().await;
    world.verifies(&next);
    for backup in [&good, &next] {
        assert!(world.verify(backup, VerifyLevel::Contents, "").await.unwrap().valid);
    }
    world.restores_to(&good, &digests).await;
}
