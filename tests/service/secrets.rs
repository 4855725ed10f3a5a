//! A canary for every secret: none of them is anywhere but in the file and in the database, even when everything is logged.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast::grpc::proto::backup::{RestoreRequest, SetEncryptionRequest};

use super::canary::{absent, shows};
use super::world::{TOKEN, World, cluster_folder, superuser_url};

const FIRST: &str = "canary-one gorse thimble quartz";
const SECOND: &str = "canary-two marble ferret oxbow";
const WRONG: &str = "canary-wrong pickle lantern dusk";
const HASH: &str = "$argon2id$canary$Zm91bmQgbWUgb24gdGhlIGRpc2s";

/// Everything in the folder, drafts too, on one heap.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}

/// Within a minute after the last call nothing of these is in the memory of a process, be it freed. (C20)
async fn forgotten(pid: u32, secrets: &[&str]) {
    let Some(_) = memory(pid) else {
        eprintln!("SKIPPED: what is left in memory; only root sees it");
        return;
    };
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let memory = memory(pid).unwrap();
        assert!(shows("holdfast", &memory), "nothing of the process was seen");
        if !secrets.iter().any(|secret| shows(secret, &memory)) {
            return;
        }
        if Instant::now() > end {
            secrets.iter().for_each(|secret| absent(secret, &memory, "the memory of the service"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Everything that a core of this process would have in it, as far as it was written to. `None`: we may not look.
fn memory(pid: u32) -> Option<Vec<u8>> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut found = Vec::new();
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut part = vec![0; usize::try_from(to - from).unwrap()];
        // What was unmapped meanwhile is nowhere.
        if memory.read_exact_at(&mut part, from).is_ok() {
            found.append(&mut part);
        }
    }
    Some(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn c20_no_secret_leaves_the_file_and_the_database() {
    let mut world = World::without_service().await;
    world
        .sql(&format!("update platform.password set hash = '{HASH}'; update platform.account set display_name = '{HASH}'"))
        .await;
    world.start().await.unwrap();

    // Whoever reads the folder while a backup is made sees no plaintext.
    let (folder, stop, drafts) = (world.folder(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, seen) = (stop.clone(), drafts.clone());
    let watch = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            for (path, bytes) in contents(&folder) {
                absent(HASH, &bytes, "the folder");
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if !bytes.is_empty() && (name.starts_with(".draft-") || name.ends_with(".pgp")) {
                    assert_eq!(bytes[0], 0xc3, "{name} is not an OpenPGP message");
                    seen.fetch_add(usize::from(name.starts_with(".draft-")), Ordering::Relaxed);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });

    let mut said: Vec<u8> = Vec::new();
    let mut run = |world: &World, line: &str, stdin: &str| {
        let output = world.cli(&line.split(' ').collect::<Vec<_>>(), stdin);
        said.extend(output.stdout.iter().chain(&output.stderr));
        output.status.code().unwrap()
    };
    assert_eq!(run(&world, "encryption set --passphrase-stdin --json", FIRST), 0);
    let first = world.backup().await;
    assert_eq!(run(&world, "encryption set --passphrase-stdin", SECOND), 0);
    assert_eq!(run(&world, "backup --wait --json", ""), 0);
    let id = first.name.trim_start_matches("backups/").to_owned();
    assert_eq!(run(&world, "restore latest --yes --passphrase-stdin", SECOND), 0);
    assert_eq!(run(&world, &format!("restore {id} --yes --passphrase-stdin"), WRONG), 67);
    assert_eq!(run(&world, &format!("restore {id} --yes --passphrase-stdin --json"), FIRST), 0);
    for (level, passphrase, code) in
        [("contents", FIRST, 0), ("rehearsal", FIRST, 0), ("contents", WRONG, 67), ("checksum", WRONG, 0)]
    {
        assert_eq!(run(&world, &format!("verify {id} --level {level} --passphrase-stdin --json"), passphrase), code, "{level}");
    }
    // Errors that know of a secret.
    let long = format!("{SECOND}\u{7}");
    assert_eq!(run(&world, "encryption set --passphrase-stdin", &long), 67);
    assert_eq!(run(&world, &format!("inspect {} --verify --passphrase-stdin", world.file(&first).display()), WRONG), 1);
    let stale = SetEncryptionRequest { passphrase: Some(WRONG.into()), etag: "\"77\"".into() };
    let mut refusals = format!("{:?}", world.backups().await.set_encryption(stale).await.unwrap_err());
    let request = RestoreRequest { name: first.name.clone(), passphrase: WRONG.into(), ..Default::default() };
    refusals += &format!("{request:?}{:?}", world.backups().await.restore(request.clone()).await.unwrap_err());
    // A constraint that the restored rows violate: PostgreSQL would quote the row.
    world.sql("alter table platform.password add constraint no_canary check (hash not like '%canary%') not valid").await;
    refusals += &format!("{:?}", world.restore(&first, FIRST).await.map(|_| ()));
    for line in ["list", "show latest", "status --json", "operations list --json", "encryption"] {
        assert_eq!(run(&world, line, ""), 0);
    }
    for option in ["--passphrase", "--token"] {
        assert_eq!(run(&world, &format!("list {option} x"), ""), 2, "no secret is an argument");
    }
    // A draft lives for some milliseconds.
    for _ in 0..50 {
        if drafts.load(Ordering::Relaxed) == 0 {
            world.backup().await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    assert!(drafts.load(Ordering::Relaxed) > 0, "no draft was seen");

    // Tokens are hashed on the stack, and rows pass through zstd: neither is ours to wipe.
    forgotten(world.pid(), &[FIRST, SECOND, WRONG]).await;

    let process = PathBuf::from(format!("/proc/{}", world.pid()));
    let read = |name: &str| std::fs::read(process.join(name)).unwrap();
    let (environ, cmdline) = (read("environ"), read("cmdline"));
    assert!(environ.windows(21).any(|part| part == b"HOLDFAST_SEAL_KEY_FIL") && !cmdline.is_empty());
    let dump = Command::new("pg_dump").args(["-n", "holdfast", "-d", &superuser_url(&world.database)]).output().unwrap();
    assert!(dump.status.success() && dump.stdout.len() > 1000, "{dump:?}");
    let database_log = std::fs::read(cluster_folder().join("log")).unwrap_or_default();
    world.terminate().await;
    let log = world.log();
    assert!(log.contains("\"TRACE\"") || log.contains("\"DEBUG\""), "nothing much was logged");
    let key = std::fs::read_to_string(world.dir.path().join("seal-key")).unwrap();
    let password = std::fs::read_to_string(world.dir.path().join("password")).unwrap();
    for secret in [FIRST, SECOND, WRONG, TOKEN, &password, &key, HASH] {
        absent(secret, log.as_bytes(), "the log");
        absent(secret, &environ, "the environment of the service");
        absent(secret, &cmdline, "the command line of the service");
        absent(secret, &said, "what the command line printed");
        absent(secret, refusals.as_bytes(), "a refusal");
        absent(secret, &dump.stdout, "the state of the service");
        for (path, bytes) in contents(&world.folder()) {
            absent(secret, &bytes, &path.display().to_string());
        }
    }
    for secret in [FIRST, SECOND, WRONG, TOKEN, &key] {
        absent(secret, &database_log, "the log of the database");
    }
}
