//! Backup files on this machine: what `inspect` and `extract` say and leave behind, for good files and damaged ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chrono::DateTime;
use holdfast::archive::{Protection, Writer};
use holdfast::model::backup::Trigger;
use holdfast::model::copy::{BINARY_HEADER, BINARY_TRAILER};
use holdfast::model::manifest::{ColumnEntry, FormatVersion, ResourceEntry, TableEntry};
use holdfast::model::{BackupId, CopyFormat, FileName, Manifest, Passphrase, Piece, TableName};
use uuid::Uuid;

const PASSPHRASE: &str = "correct horse battery";
const BINARY_ROW: &[u8] = b"\0\x01\0\0\0\x04\x89PNG";

/// A folder with one backup file of two tables.
struct Rig {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Rig {
    fn new(passphrase: Option<&str>) -> Self {
        let time = DateTime::from_timestamp(1_772_326_800, 0).unwrap();
        let resource = "odd-things".parse().unwrap();
        let tables = [("account", CopyFormat::Text), ("photo", CopyFormat::Binary)];
        let names = tables.map(|(table, _)| TableName::new("platform", table));
        let entry = |(place, (_, format)): (usize, &(&str, CopyFormat))| TableEntry {
            name: names[place].clone(),
            path: Manifest::member_folder(&resource, &names[place], place),
            format: *format,
            columns: vec![ColumnEntry { name: "id".into(), type_name: "bigint".into() }],
            key: vec!["id".into()],
        };
        let manifest = Manifest {
            format_version: FormatVersion::PRESENT,
            backup: BackupId::new(time, Uuid::from_u128(7)),
            uid: Uuid::from_u128(8),
            trigger: Trigger::OnDemand,
            description: String::new(),
            create_time: time,
            snapshot_time: time,
            system_id: Uuid::from_u128(9),
            writer: "holdfast 0.1.0".into(),
            server_version: "15.18".into(),
            passphrase: None,
            recipients: Vec::new(),
            audit: None,
            trace_id: None,
            tables: tables.iter().enumerate().map(entry).collect(),
            resources: vec![ResourceEntry {
                name: resource.clone(),
                title: "Odd Things".into(),
                tables: names.to_vec(),
                sequences: Vec::new(),
            }],
        };
        let protection = Protection { passphrase: passphrase.and_then(Passphrase::new), ..Protection::default() };
        let mut writer = Writer::new(Vec::new(), &protection, &manifest).unwrap();
        for (table, rows) in [(1, BINARY_ROW), (0, b"1\tada\n2\tgrace\n")] {
            writer.piece(&Piece { table, rows: rows.to_vec(), last: true }).unwrap();
        }
        let written = writer.finish(Vec::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FileName::new(manifest.backup, written.sha256, protection.encrypts()).to_string());
        fs::write(&file, written.out).unwrap();
        Self { folder, file }
    }

    fn run(&self, command: &str, file: &Path, rest: &str, input: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg(command)
            .arg(file)
            .args(rest.split_whitespace())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not everything reads its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn a_file_is_inspected_as_far_as_it_can_be_read() {
    let rig = Rig::new(Some(PASSPHRASE));
    let (code, out, err) = rig.run("inspect", &rig.file, "--json", "");
    assert_eq!((code, err.as_str()), (0, ""));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&found["encrypted"], &found["matchesName"], &found["manifest"]), (&true.into(), &true.into(), &().into()));

    let (code, out, _) = rig.run("inspect", &rig.file, "--passphrase-stdin", &format!("{PASSPHRASE}\n"));
    assert!(code == 0 && out.contains("Odd Things") && out.contains("use --verify"), "{out}");
    let (code, out, _) = rig.run("inspect", &rig.file, "--verify --passphrase-stdin", PASSPHRASE);
    assert!(code == 0 && out.contains("everything was read and is right") && out.contains("platform.account"), "{out}");
    assert_eq!(rig.run("inspect", &rig.file, "--verify", "").0, 2, "there is nobody to ask for the passphrase");

    let (code, out, err) = rig.run("inspect", Path::new("/proc/self/cmdline"), "", "");
    assert!(code == 1 && out.is_empty() && err.contains("error: this is not a backup file"), "{err}");

    let plain = Rig::new(None);
    let (code, out, _) = plain.run("inspect", &plain.file, "", "");
    assert!(code == 0 && out.contains("Odd Things"), "{out}");
}

#[test]
fn damage_is_told_from_a_wrong_passphrase() {
    let rig = Rig::new(Some(PASSPHRASE));
    let (code, out, err) = rig.run("inspect", &rig.file, "--verify --passphrase-stdin", "another passphrase");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("error: the passphrase does not open this file"), "{err}");
    let mut bytes = fs::read(&rig.file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&rig.file, bytes).unwrap();
    let (code, _, err) = rig.run("inspect", &rig.file, "--verify --passphrase-stdin", PASSPHRASE);
    assert!(code == 1 && err.contains("error: the file is damaged"), "{err}");
}

#[test]
fn a_file_is_unpacked_into_what_psql_reads() {
    for passphrase in [Some(PASSPHRASE), None] {
        let rig = Rig::new(passphrase);
        let (code, _, err) = rig.run("extract", &rig.file, "-C out --passphrase-stdin", passphrase.unwrap_or_default());
        assert_eq!(code, 0, "{err}");
        let text = fs::read(rig.path("out/data/odd-things/platform.account.copy")).unwrap();
        assert_eq!(text, b"1\tada\n2\tgrace\n");
        let binary = fs::read(rig.path("out/data/odd-things/platform.photo.copy")).unwrap();
        assert_eq!(binary, [BINARY_HEADER, BINARY_ROW, BINARY_TRAILER].concat());
        let mut names: Vec<_> = fs::read_dir(rig.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        assert_eq!(names, ["data", "end.json", "manifest.json"]);

        let (code, _, err) = rig.run("extract", &rig.file, "-C out --passphrase-stdin", passphrase.unwrap_or_default());
        assert!(code == 1 && err.contains("is not empty"), "{err}");
    }
}

#[test]
fn what_is_left_of_a_damaged_file_says_that_it_is_not_proven() {
    let rig = Rig::new(None);
    let bytes = fs::read(&rig.file).unwrap();
    // Under a name without a digest the damage is found only on the way.
    let renamed = rig.path("renamed");
    fs::write(&renamed, &bytes[..bytes.len() - 1]).unwrap();
    let (code, out, err) = rig.run("extract", &renamed, "-C out", "");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("error: the file is damaged") && err.contains("out/UNPROVEN.partial"), "{err}");
    let left: Vec<_> = fs::read_dir(rig.path("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["UNPROVEN.partial"]);
}

#[test]
fn a_wrong_passphrase_leaves_nothing() {
    let rig = Rig::new(Some(PASSPHRASE));
    let (code, _, _) = rig.run("extract", &rig.file, "-C out --passphrase-stdin", "another passphrase");
    assert_eq!((code, rig.path("out").exists()), (1, false));
}
