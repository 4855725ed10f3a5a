//! The promise of the format: GnuPG, GNU tar and zstd open a file without us.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::archive::SigningKey;
use crate::model::copy::{BINARY_HEADER, BINARY_TRAILER};

pub(super) fn gpg(home: &Path, arguments: &[&str], file: &Path) -> Vec<u8> {
    let mut command = Command::new("gpg");
    command.env("GNUPGHOME", home).args(["--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "0"]);
    let mut gpg =
        command.args(arguments).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    gpg.stdin.take().unwrap().write_all(PASSPHRASE.as_bytes()).unwrap();
    let output = gpg.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn c14_c18_c19_gpg_tar_and_zstd_open_a_file_and_it_tells_nothing_without_the_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("gnupg");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::PermissionsExt::set_mode(&mut home.metadata().unwrap().permissions(), 0o700);
    let long = "x".repeat(63);
    let manifest = manifest_of(&[
        ("account", CopyFormat::Text),
        ("photo", CopyFormat::Binary),
        ("Ünï", CopyFormat::Text),
        (&long, CopyFormat::Text),
    ]);
    let many: Vec<u8> = (0..2_000_000u64).flat_map(|i| format!("{i}\t{}\n", i * 7919).into_bytes()).collect();
    let pieces =
        [piece(1, binary(b"one")), piece(0, many.clone()), last(0, "x\n"), last(2, ""), last(1, binary(b"two")), last(3, "y\n")];
    // At full cost.
    let key = SigningKey::generate("Holdfast of a test", manifest.create_time).unwrap();
    let protection = Protection { signer: Some(key.clone()), ..protection(Some(&passphrase())) };
    let mut writer = Writer::new(Vec::new(), &protection, &manifest).unwrap();
    pieces.iter().for_each(|piece| writer.piece(piece).unwrap());
    let written = writer.finish(vec![sequence()]).unwrap();
    assert!(written.out.len() > 5 << 20, "more than one partial length");
    assert_eq!(written.out[14], 255, "the highest S2K count");
    assert_eq!(read(&written.out[..], Some(&passphrase())).unwrap().rows, expected(&pieces, 4));
    let file = folder.path().join("backup.tar.zst.pgp");
    std::fs::write(&file, &written.out).unwrap();

    let packets = gpg(&home, &["--list-packets"], &file);
    let packets = String::from_utf8(packets).unwrap();
    let kinds: Vec<&str> = packets.lines().filter(|line| line.starts_with(':')).collect();
    assert_eq!(kinds.len(), 3, "{packets}");
    assert!(kinds[0].starts_with(":symkey enc packet: version 4, cipher 9, aead 0,s2k 3, hash 8"), "{packets}");
    assert!(kinds[1].starts_with(":encrypted data packet:"), "{packets}");
    assert!(kinds[2].starts_with(":literal data packet:"), "{packets}");
    assert!(packets.contains("mdc_method: 2"), "{packets}");
    assert!(packets.contains("mode b (62), created 0, name=\"\""), "{packets}");
    assert!(packets.contains("count 65011712 (255)"), "{packets}");

    let compressed = folder.path().join("backup.tar.zst");
    std::fs::write(&compressed, gpg(&home, &["--decrypt"], &file)).unwrap();
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").arg("--zstd").args(arguments).arg("-f").arg(&compressed).current_dir(&folder).output();
        let output = output.unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let list = tar(&["-tv", "--utc", "--numeric-owner"]);
    assert!(list.lines().all(|line| line.starts_with("-rw------- 0/0 ") && line.contains(" 2026-03-01 01:00 ")), "{list}");
    let names: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let data = |table: &str, number: usize| Manifest::member_name(&format!("data/odd-things/platform.{table}"), number);
    let (long, odd) = (manifest.tables[3].path.clone(), manifest.tables[2].path.clone());
    let (long, odd) = (Manifest::member_name(&long, 0), Manifest::member_name(&odd, 0));
    let members = [data("photo", 0), data("account", 0), data("account", 1), odd, data("photo", 1), long];
    let members: Vec<&str> = ["README.txt", "manifest.json"].into_iter().chain(members.iter().map(|name| &name[..])).collect();
    assert_eq!(names, [&members[..], &["end.json", "signature.asc"]].concat());

    tar(&["-x"]);
    let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(file(&data("account", 0)), many);
    assert_eq!(file(&data("account", 1)), b"x\n");
    let photo = [&BINARY_HEADER[..], &binary(b"one"), &binary(b"two"), BINARY_TRAILER].concat();
    assert_eq!([file(&data("photo", 0)), file(&data("photo", 1))].concat(), photo);
    assert_eq!(serde_json::from_slice::<Manifest>(&file("manifest.json")).unwrap(), manifest);
    assert_eq!(serde_json::from_slice::<EndRecord>(&file("end.json")).unwrap(), written.end);
    assert_eq!(written.end.manifest_sha256, super::super::sha256(&file("manifest.json")));
    assert!(file("README.txt").starts_with(b"This is a backup"));

    let certificate = folder.path().join("certificate.asc");
    std::fs::write(&certificate, key.certificate().unwrap()).unwrap();
    gpg(&home, &["--import"], &certificate);
    let verify = |end: &Path| {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", &home).args(["--batch", "--status-fd", "1", "--verify"]);
        command.arg(folder.path().join("signature.asc")).arg(end).output().unwrap()
    };
    let good = verify(&folder.path().join("end.json"));
    let status = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success() && status.contains(&format!("VALIDSIG {}", key.fingerprint())), "{good:?}");
    let altered = folder.path().join("altered.json");
    std::fs::write(&altered, [&file("end.json")[..], b" "].concat()).unwrap();
    assert!(!verify(&altered).status.success());
    let _ = Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "gpg-agent"]).status();
}
