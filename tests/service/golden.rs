//! Files of every released format are restored for ever, and those of a newer one are refused politely (tests/golden).

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use holdfast::grpc::proto::backup::{Backup, NoticeCode, RestoreRequest};
use holdfast::model::{FileName, Sha256};

use super::world::{BINARY, World, repository, sha256};
use super::zoo::{all_of, of_others};

const PASSPHRASE: &str = "a passphrase for golden files";

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap()
}

/// The tables without a row, and a service for them.
async fn empty() -> World {
    let mut world = World::without_service().await.with_zoo(&text("schema.sql"), &text("catalog.toml")).await;
    world.start().await.unwrap();
    world
}

/// The files of a format, and the passphrase of each.
fn files(version: &str) -> Vec<(PathBuf, &'static str)> {
    let paths = std::fs::read_dir(golden(version)).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.map(|path| if path.extension().is_some_and(|end| end == "pgp") { (path, PASSPHRASE) } else { (path, "") });
    files.collect()
}

/// Puts a file into the folder and the catalog as one of which nothing is known, also where an import would refuse it.
async fn put(world: &World, like: &Backup, file: &Path, bytes: &[u8]) -> Backup {
    let name: FileName = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let digest = Sha256(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap());
    let name = FileName::new(name.id().clone(), digest, name.encrypted());
    std::fs::write(world.folder().join(name.to_string()), bytes).unwrap();
    let id = name.id();
    let other = like.name.trim_start_matches("backups/");
    let entry = format!(
        "delete from holdfast.backup where id = '{id}';
         insert into holdfast.backup (id, operation, state, body)
         select '{id}', gen_random_uuid(), state, body || jsonb_build_object('id', '{id}', 'uid', null, 'operation', null, 'origin', null,
             'sha256', '{digest}', 'file_name', '{name}', 'size_bytes', {})
         from holdfast.backup where id = '{other}'",
        bytes.len()
    );
    world.sql_as_superuser(&entry).await;
    Backup { name: format!("backups/{id}"), file_name: name.to_string(), sha256: sha256(bytes), ..like.clone() }
}

fn inspect(file: &Path, passphrase: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["inspect", "--verify"]).arg(file).env_clear().stdin(Stdio::null());
    let secret = tempfile::NamedTempFile::new().unwrap();
    if !passphrase.is_empty() {
        std::fs::write(secret.path(), passphrase).unwrap();
        command.arg("--passphrase-file").arg(secret.path());
    }
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_r24_files_of_format_1_0_are_restored_to_what_they_were_made_of() {
    restored_to_what_they_were_made_of("1.0", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_r24_files_of_format_1_1_are_signed_and_restored_to_what_they_were_made_of() {
    restored_to_what_they_were_made_of("1.1", true).await;
}

async fn restored_to_what_they_were_made_of(version: &str, signed: bool) {
    let (world, files) = (empty().await, files(version));
    let nothing = world.digests();
    let like = world.backup().await;
    assert_eq!(files.iter().map(|(_, passphrase)| passphrase.is_empty()).collect::<std::collections::BTreeSet<_>>().len(), 2);
    for (file, passphrase) in &files {
        let inspected = inspect(file, passphrase);
        let said = String::from_utf8_lossy(&inspected.stdout);
        assert!(inspected.status.success() && said.contains("everything was read and is right"), "{inspected:?}");
        assert!(said.contains(&format!("format {version}")), "{said}");
        assert_eq!(said.contains("it says by"), signed, "{said}");
        assert_eq!(world.digests(), nothing);
        let backup = put(&world, &like, file, &std::fs::read(file).unwrap()).await;
        assert_eq!(Path::new(&backup.file_name), file.file_name().unwrap(), "the file is not what it was");
        // It comes from another system, which the caller has to know (R24).
        let request = RestoreRequest { passphrase: (*passphrase).into(), ..all_of(&backup) };
        let message = world.restore_fails(request.clone(), "WARNINGS_NOT_ACKNOWLEDGED").await;
        assert!(message.contains("OTHER_SYSTEM"), "{message}");
        // And nobody here knows who wrote it (C04).
        let acknowledged_warnings = vec![NoticeCode::OtherSystem.into()];
        let known = RestoreRequest { acknowledged_warnings, ..request.clone() };
        let message = world.restore_fails(known, "WARNINGS_NOT_ACKNOWLEDGED").await;
        assert!(message.contains("FOREIGN_BACKUP"), "{message}");
        let acknowledged_warnings = of_others();
        if let Err(error) = world.try_restore(RestoreRequest { acknowledged_warnings, ..request }).await {
            panic!("{}: {error:?}\n{}", file.display(), world.log());
        }
        assert_eq!(world.digests(), text("digests"), "{}", file.display());
        // What comes from a sequence comes after every number of the file.
        world.sql("insert into zoo.account (name, created) values ('new', now())").await;
        assert_eq!(world.value("select max(id) > 200 from zoo.account").await, "true");
        world.restore(&like, "").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_files_that_this_version_makes_of_the_golden_data_hold_the_golden_data() {
    let world = empty().await;
    world.sql(&text("data.sql")).await;
    let plain = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let encrypted = world.backup().await;
    if let Some(folder) = std::env::var_os("HOLDFAST_GOLDEN").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).unwrap();
        for backup in [&plain, &encrypted] {
            std::fs::copy(world.file(backup), folder.join(&backup.file_name)).unwrap();
        }
        std::fs::write(golden("digests"), world.digests()).unwrap();
    }
    assert_eq!(world.digests(), text("digests"));
    for (backup, passphrase) in [(&plain, ""), (&encrypted, PASSPHRASE)] {
        world.sql("delete from zoo.photo; update zoo.account set boss_id = null; delete from zoo.event").await;
        world.restore(backup, passphrase).await.unwrap();
        assert_eq!(world.digests(), text("digests"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r19_c15_a_file_of_a_newer_format_is_refused_and_both_versions_are_named() {
    let world = empty().await;
    let like = world.backup().await;
    let before = world.digests();
    let (file, _) = files("1.0").into_iter().find(|(_, passphrase)| passphrase.is_empty()).unwrap();
    let archive = zstd::decode_all(&std::fs::read(&file).unwrap()[..]).unwrap();
    let present = br#""format_version": "1.0""#;
    let at = archive.windows(present.len()).position(|part| part == present).expect("a manifest") + present.len() - 4;
    for newer in ["1.2", "2.0"] {
        let mut archive = archive.clone();
        archive[at..at + 3].copy_from_slice(newer.as_bytes());
        let bytes = zstd::encode_all(&archive[..], 1).unwrap();
        let backup = put(&world, &like, &file, &bytes).await;
        let message = world.restore_fails(all_of(&backup), "BACKUP_INCOMPATIBLE").await;
        assert!(message.contains(newer) && message.contains("1.1"), "{message}");
        let inspected = inspect(&world.file(&backup), "");
        let said = String::from_utf8_lossy(&inspected.stderr);
        assert!(inspected.status.code() == Some(1) && said.contains(newer) && said.contains("1.1"), "{inspected:?}");
    }
    assert_eq!(world.digests(), before);
}
