//! The archive in a bucket of a real S3 server (`deploy/dev/s3.sh`), which keeps each object as a file, so that a test sees it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::{RestoreRequest, SyncBackupsRequest, VerifyLevel};

use super::offsite::{SOON, flip, told};
use super::tls::Certified;
use super::world::{PASSPHRASE, World, eventually_async, repository, sha256};
use super::zoo::{all_of, of_others};

/// A server with a bucket `backups`. It ends with this value: its script reads our pipe.
struct Server {
    script: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    /// `None`, and a line that says so, where there is none.
    fn start(dir: &Path, port: u16, options: &[&str]) -> Option<Self> {
        let script = repository().join("deploy/dev/s3.sh");
        if !Command::new(&script).arg("path").output().unwrap().status.success() {
            eprintln!("SKIPPED: there is no S3 server here (deploy/dev/s3.sh install)");
            return None;
        }
        std::fs::create_dir_all(dir.join("data/backups")).unwrap();
        let mut script = Command::new(script);
        script.arg("run").arg(dir).arg(port.to_string()).args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("port=").expect("the server runs").parse().unwrap();
        Some(Self { script, port, dir: dir.to_owned() })
    }

    /// The files in the bucket below a prefix, the identity left out.
    fn objects(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.dir.join("data/backups/here")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        paths.filter(|path| !path.ends_with(".holdfast-archive")).collect()
    }

    fn object(&self, name: &str) -> PathBuf {
        self.dir.join("data/backups/here").join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        self.script.wait().unwrap();
    }
}

impl World {
    fn use_bucket(&mut self, port: u16, key: &str) {
        for (name, text) in [("key-id", "test-key-id"), ("key", key)] {
            std::fs::write(self.dir.path().join(name), format!("{text}\n")).unwrap();
        }
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let (key_id, key) = (path("key-id"), path("key"));
        self.set("HOLDFAST_ARCHIVE__URL", "s3://backups/here");
        self.set("HOLDFAST_ARCHIVE__ENDPOINT", &format!("http://127.0.0.1:{port}"));
        self.set("HOLDFAST_ARCHIVE__ACCESS_KEY_ID_FILE", &key_id);
        self.set("HOLDFAST_ARCHIVE__SECRET_ACCESS_KEY_FILE", &key);
    }

    /// A world whose service archives to a bucket; `None` where there can be none.
    async fn with_bucket() -> Option<(Self, Server)> {
        let mut world = Self::without_service().await;
        let server = Server::start(&world.dir.path().join("s3"), 0, &[])?;
        world.use_bucket(server.port, "test-secret-key");
        world.start().await.unwrap();
        Some((world, server))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_files_get_into_a_bucket_and_come_back_as_they_were() {
    let Some((world, server)) = World::with_bucket().await else { return };
    world.install_adapter_types().await;
    let small = world.archived(&world.backup().await).await;
    // More than one part.
    world.grow().await;
    let large = world.archived(&world.backup().await).await;
    assert!(large.size_bytes > 20 << 20 && small.size_bytes < 8 << 20, "{large:?}");
    let status = world.archive_is_well().await;
    assert_eq!(
        (status.url.as_str(), status.backup_count, status.newest_snapshot_time),
        ("s3://backups/here", 2, large.snapshot_time)
    );
    let digests = world.digests();
    for backup in [&small, &large] {
        assert_eq!(std::fs::read(server.object(&backup.file_name)).unwrap(), std::fs::read(world.file(backup)).unwrap());
        std::fs::remove_file(world.file(backup)).unwrap();
    }
    world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    assert_eq!(world.entry(&large).await.state(), State::Missing);
    world.damage();
    world.restore(&large, "").await.unwrap();
    assert_eq!(world.digests(), digests);
    assert_eq!(sha256(&world.downloaded(&small).await.unwrap()), small.sha256);
    // No secret is told.
    for secret in ["test-secret-key", "test-key-id"] {
        assert!(!world.log().contains(secret));
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_storage_that_is_down_or_refuses_fails_no_backup_and_gets_everything_later() {
    let mut world = World::without_service().await;
    let Some(server) = Server::start(&world.dir.path().join("s3"), 0, &[]) else { return };
    world.use_bucket(server.port, "another-key");
    world.start().await.unwrap();
    let first = world.backup().await;
    let (reason, text) = world.archive_fails().await;
    assert!(reason == "ARCHIVE_UNAVAILABLE" && text.contains("keys"), "{text}");
    world.terminate().await;
    world.use_bucket(server.port, "test-secret-key");
    world.set("HOLDFAST_ARCHIVE__URL", "s3://no-such-bucket");
    world.start().await.unwrap();
    let text = eventually_async(SOON, async || Some(world.archive_fails().await.1).filter(|text| text.contains("bucket"))).await;
    assert!(text.contains("Create the bucket"), "{text}");
    world.terminate().await;
    world.set("HOLDFAST_ARCHIVE__URL", "s3://backups/here");
    world.start().await.unwrap();
    world.archived(&first).await;

    let (port, dir) = (server.port, server.dir.clone());
    drop(server);
    let second = world.backup().await;
    let (reason, _) = world.archive_fails().await;
    assert_eq!((reason.as_str(), world.archive_status().await.backlog_count), ("ARCHIVE_UNAVAILABLE", 1));
    // What is there comes to nobody meanwhile, and that is said.
    std::fs::remove_file(world.file(&first)).unwrap();
    world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    assert_eq!(world.restore(&first, "").await.unwrap_err().reason, "ARCHIVE_UNAVAILABLE");
    let server = Server::start(&dir, port, &[]).unwrap();
    world.archived(&second).await;
    world.archive_is_well().await;
    assert!(world.verify(&first, VerifyLevel::Contents, "").await.unwrap().valid);
    assert_eq!(server.objects().len(), 2);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_storage_that_never_answers_keeps_nobody_waiting() {
    let mut world = World::without_service().await;
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    world.use_bucket(silent.local_addr().unwrap().port(), "test-secret-key");
    world.start().await.unwrap();
    let backup = world.backup().await;
    world.restore(&backup, "").await.unwrap();
    assert_eq!(world.archive_status().await.backlog_count, 1);
    let asked = Instant::now();
    assert_eq!(world.terminate().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_service_that_is_killed_while_it_sends_leaves_no_half_object() {
    let Some((mut world, server)) = World::with_bucket().await else { return };
    world.grow().await;
    let backup = world.backup().await;
    // Parts of an upload are files of the server before they are an object.
    let parts = |path: &Path| -> bool {
        let found = Command::new("find").arg(path).args(["-type", "f", "-size", "+1M"]).output().unwrap().stdout;
        !found.is_empty()
    };
    eventually_async(SOON, async || parts(&server.dir).then_some(())).await;
    world.kill();
    for object in server.objects() {
        assert_eq!(sha256(&std::fs::read(&object).unwrap()), backup.sha256, "{object:?}");
    }
    world.start_later().await;
    world.archived(&backup).await;
    assert_eq!(sha256(&std::fs::read(server.object(&backup.file_name)).unwrap()), backup.sha256);
    assert_eq!(server.objects().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_a_new_installation_finds_what_is_in_the_bucket_and_what_is_damaged_there_is_told() {
    let Some((world, server)) = World::with_bucket().await else { return };
    world.install_adapter_types().await;
    world.set_passphrase(PASSPHRASE).await;
    let [first, second] = [world.archived(&world.backup().await).await, world.archived(&world.backup().await).await];
    let system = world.value("select system_id from holdfast.system").await;
    let digests = world.digests();
    flip(&server.object(&second.file_name));

    let mut other = World::without_service().await;
    other.use_bucket(server.port, "test-secret-key");
    other.set("HOLDFAST_ARCHIVE__ADOPT", &system);
    other.start().await.unwrap();
    eventually_async(SOON, async || (other.listed().await.len() == 2).then_some(())).await;
    other.damage();
    let before = other.digests();
    let acknowledged_warnings = of_others();
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), acknowledged_warnings, ..all_of(&second) };
    assert_eq!(other.try_restore(request.clone()).await.unwrap_err().reason, "BACKUP_CORRUPTED");
    assert_eq!(other.digests(), before);
    other.try_restore(RestoreRequest { name: first.name.clone(), ..request }).await.unwrap();
    assert_eq!(other.digests(), digests);
    assert_eq!(other.value(&told("archive.adopted|archive.lost")).await, "archive.adopted archive.lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_behind_tls_is_reached_with_its_certificate_authority_and_not_without() {
    let mut world = World::without_service().await;
    let certified = Certified::new(world.dir.path(), &[]);
    let [key, certificate] = ["key", "certificate"].map(|name| world.dir.path().join(name).display().to_string());
    std::fs::rename(&key, format!("{key}.pem")).unwrap();
    let options = ["--cert", &certificate, "--key", &format!("{key}.pem")];
    let Some(server) = Server::start(&world.dir.path().join("s3"), 0, &options) else { return };
    world.use_bucket(server.port, "test-secret-key");
    world.set("HOLDFAST_ARCHIVE__ENDPOINT", &format!("https://localhost:{}", server.port));
    world.start().await.unwrap();
    let backup = world.backup().await;
    assert_eq!(world.archive_fails().await.0, "ARCHIVE_UNAVAILABLE");
    assert!(server.objects().is_empty());
    world.terminate().await;
    world.set("HOLDFAST_ARCHIVE__CA_FILE", &certified.certificate.display().to_string());
    world.start().await.unwrap();
    world.archived(&backup).await;
    assert_eq!(server.objects().len(), 1);
}
