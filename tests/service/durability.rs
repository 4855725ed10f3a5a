//! A disk that does not keep what it was given, and says so only when it is asked to keep it: `strace` puts its errors there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use holdfast::grpc::proto::backup::BackupRequest;

use super::world::World;
use super::zoo::signal;

/// Errors in the system calls of the service, for as long as this value lives.
struct Injected(Child);

impl Injected {
    /// `fault` as strace(1) has it for `--inject`; `path`: only where this file is concerned. `None`, and a line that says so,
    /// where this process may not look into others.
    fn into(world: &World, fault: &str, path: Option<&Path>) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", &format!("inject={fault}"), "-p", &world.pid().to_string()]);
        if let Some(path) = path {
            command.arg("-P").arg(path);
        }
        let mut strace = command.stderr(Stdio::piped()).spawn().expect("strace runs");
        let mut said = String::new();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        while !said.contains("attached") {
            let Some(line) = lines.next() else {
                strace.wait().unwrap();
                assert!(said.contains("not permitted"), "{said}");
                eprintln!("SKIPPED: this process may not trace another");
                return None;
            };
            said += &line.unwrap();
        }
        // Whatever else it says, nobody is to wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self(strace))
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        signal("-INT", &self.0.id().to_string());
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_f05_f11_what_the_disk_does_not_keep_is_no_backup_and_costs_no_other() {
    let world = World::new().await;
    let good = world.backup().await;
    let folder = world.folder().canonicalize().unwrap();
    for (fault, path, reason) in [
        // A second fsync would say that all is well, of data that are gone.
        ("fsync:error=EIO:when=1", None, "STORAGE_UNAVAILABLE"),
        ("fsync:error=EDQUOT", None, "STORAGE_FULL"),
        ("fsync:error=ENOSPC", None, "STORAGE_FULL"),
        // The file is kept, its name is not.
        ("fsync:error=EIO", Some(folder.as_path()), "STORAGE_UNAVAILABLE"),
        // It is not copied to where it cannot be moved.
        ("renameat2:error=EXDEV", None, "STORAGE_UNAVAILABLE"),
    ] {
        let Some(injected) = Injected::into(&world, fault, path) else { return };
        let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
        assert_eq!(error.reason, reason, "{fault} {path:?}: {error:?}");
        drop(injected);
        assert_eq!(world.files(), [good.file_name.as_str()], "{fault} {path:?}");
        world.is_tidy().await;
        world.verifies(&good);
    }
    world.verifies(&world.backup().await);
    world.restore(&good, "").await.unwrap();
}
