//! A file opens without Holdfast: gpg, tar, zstd, sha256sum, psql and Python do what the README in the file says, and come to
//! the same data.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast::grpc::proto::backup::Backup;
use serde_json::Value;

use super::world::{PASSPHRASE, World, psql, repository};

/// Runs bash in a folder, with this on standard input; what it prints, when it succeeds.
pub fn bash(folder: &Path, script: &str, environment: &[(&str, &str)], stdin: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder).envs(environment.iter().copied());
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Unpacks the file of a backup into `folder`, as its README says.
pub fn unpack(world: &World, backup: &Backup, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let file = world.file(backup).display().to_string();
    let sha256 = bash(folder, "sha256sum \"$FILE\"", &[("FILE", &file)], "");
    assert!(sha256.starts_with(&backup.sha256) && backup.file_name.contains(&backup.sha256[..32]), "{sha256}");
    if backup.file_name.ends_with(".tar.zst") {
        bash(folder, "tar --zstd -xf \"$FILE\"", &[("FILE", &file)], "");
        return;
    }
    // A short path: the agent has a socket in it.
    let home = tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap();
    let environment = [("FILE", file.as_str()), ("GNUPGHOME", home.path().to_str().unwrap())];
    let script =
        "gpg --batch --quiet --pinentry-mode loopback --passphrase-fd 0 --decrypt \"$FILE\" | tar --zstd -x; gpgconf --kill all";
    bash(folder, script, &environment, PASSPHRASE);
}

/// Loads what was unpacked into a new database with psql alone, and returns the lines of digest.sql from there.
async fn load(world: &World, folder: &Path, manifest: &Value) -> String {
    let scratch = world.empty_platform().await;
    for table in manifest["tables"].as_array().unwrap() {
        let (name, path, format) =
            (table["name"].as_str().unwrap(), table["path"].as_str().unwrap(), table["format"].as_str().unwrap());
        let columns = table["columns"].as_array().unwrap().iter().map(|column| quoted(column["name"].as_str().unwrap()));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let copy = format!("\\copy {name} ({columns}) from pstdin with (format {format})");
        // No triggers and no foreign keys, in this session alone.
        let environment =
            [("COPY", copy.as_str()), ("URL", &scratch.superuser), ("PGOPTIONS", "-c session_replication_role=replica")];
        bash(folder, &format!("cat {path}/*.copy | psql -qX -v ON_ERROR_STOP=1 -c \"$COPY\" \"$URL\""), &environment, "");
    }
    psql(&scratch.platform, &["-f", "deploy/platform/digest.sql"])
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_gpg_tar_and_psql_bring_every_table_back_without_holdfast() {
    let world = World::new().await;
    let before = world.digests();
    let plain = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let encrypted = world.backup().await;
    for (backup, folder) in [(plain, "plain"), (encrypted, "encrypted")] {
        let folder = world.dir.path().join(folder);
        unpack(&world, &backup, &folder);
        let (manifest, end) = (json(&folder.join("manifest.json")), json(&folder.join("end.json")));
        let tables = manifest["tables"].as_array().unwrap();
        let formats: Vec<_> = tables.iter().map(|table| table["format"].as_str().unwrap()).collect();
        assert!(formats.contains(&"text") && formats.contains(&"binary"));
        assert_eq!(format!("backups/{}", manifest["backup"].as_str().unwrap()), backup.name);

        let script = repository().join("tests/digest.py");
        let checked = bash(&folder, "python3 \"$SCRIPT\" .", &[("SCRIPT", script.to_str().unwrap())], "");
        assert_eq!(checked.lines().count(), tables.len());

        // The command in the README itself, for a table in text.
        let readme = std::fs::read_to_string(folder.join("README.txt")).unwrap();
        let command = &readme[readme.rfind("  cat data/").unwrap()..];
        let place = formats.iter().position(|format| *format == "text").unwrap();
        let command = command.replace("data/RESOURCE/TABLE", tables[place]["path"].as_str().unwrap());
        assert_eq!(bash(&folder, &command, &[], "").trim(), end["tables"][place]["digest"].as_str().unwrap());

        assert_eq!(load(&world, &folder, &manifest).await, before);
    }
}
