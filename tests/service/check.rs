//! Which passphrase opens which file: told by the list, and by a check that touches no data.

use std::io::Write;
use std::process::{Command, Stdio};

use holdfast::grpc::proto::backup::{
    Backup, CheckPassphraseRequest, EncryptionInfo, GetEncryptionRequest, OperationError, PreviewRestoreRequest,
    SyncBackupsRequest, VerifyLevel, encryption_info,
};
use tonic::Code;
use tonic_types::StatusExt;

use super::canary::secret;
use super::world::{PASSPHRASE, World, refused};

const SECOND: &str = "another passphrase, for later files";

impl World {
    /// Whether a passphrase, or without one that in use, opens a backup.
    pub async fn check(&self, backup: &Backup, passphrase: &str) -> Result<EncryptionInfo, OperationError> {
        secret(passphrase);
        let request = CheckPassphraseRequest { name: backup.name.clone(), passphrase: passphrase.into() };
        let answer = self.backups().await.check_passphrase(request).await.map_err(refused)?.into_inner();
        assert_eq!(answer.name, backup.name);
        Ok(answer.encryption_info.unwrap())
    }

    /// Number of the passphrase of a backup as the list has it, and whether it is the one in use.
    async fn listed_passphrase(&self, backup: &Backup) -> (i32, bool) {
        let info = self.entry(backup).await.encryption_info.unwrap();
        (info.passphrase_generation, info.current_passphrase)
    }
}

fn reason(result: Result<EncryptionInfo, OperationError>) -> String {
    result.unwrap_err().reason
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_the_list_and_a_check_tell_which_passphrase_opens_which_file() {
    let world = World::new().await;
    let [plain, first, second] = world.of_three_times(SECOND).await;
    assert_eq!(world.listed_passphrase(&plain).await, (0, false));
    assert_eq!(world.listed_passphrase(&first).await, (1, false));
    assert_eq!(world.listed_passphrase(&second).await, (2, true));

    let opened = world.check(&first, PASSPHRASE).await.unwrap();
    assert_eq!((opened.passphrase_generation, opened.current_passphrase), (1, false));
    assert_eq!(opened.passphrase_set_time, first.encryption_info.as_ref().unwrap().passphrase_set_time);
    for passphrase in [SECOND, ""] {
        let opened = world.check(&second, passphrase).await.unwrap();
        assert_eq!((opened.passphrase_generation, opened.current_passphrase), (2, true));
        assert_eq!(reason(world.check(&first, passphrase).await), "PASSPHRASE_INCORRECT");
    }
    let error = world.check(&second, PASSPHRASE).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("PASSPHRASE_INCORRECT", Code::InvalidArgument.into()));
    assert_eq!(error.metadata["passphraseGeneration"], "2");
    assert_eq!(world.check(&plain, PASSPHRASE).await.unwrap().r#type(), encryption_info::Type::None);
    let unknown = Backup { name: "backups/b-20260301t010000z-abcdefgh".into(), ..Default::default() };
    assert_eq!(reason(world.check(&unknown, SECOND).await), "BACKUP_NOT_FOUND");

    let run = |arguments: &str, stdin: &str| {
        let output = world.cli(&arguments.split(' ').collect::<Vec<_>>(), stdin);
        (output.status.code().unwrap(), [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    };
    let id = |backup: &Backup| backup.name.trim_start_matches("backups/").to_owned();
    let (code, told) = run(&format!("encryption check {} --passphrase-stdin", id(&second)), &format!("{SECOND}\n"));
    assert!(code == 0 && told.contains("passphrase 2 of ") && told.contains("in use now"), "{told}");
    assert_eq!(run(&format!("encryption check {} --current --json", id(&second)), "").0, 0);
    let (code, told) = run(&format!("encryption check {} --passphrase-stdin", id(&first)), SECOND);
    assert!(code == 67 && told.contains("PASSPHRASE_INCORRECT"), "{told}");
    assert_eq!(run(&format!("encryption check {} --current", id(&first)), "").0, 67);
    assert_eq!(run(&format!("encryption check {}", id(&first)), "").0, 2, "there is nobody to ask");
    assert_eq!(run(&format!("encryption check {}", id(&plain)), "").0, 0);
    let (code, told) = run("list", "");
    assert!(code == 0 && told.contains("passphrase 1 of ") && told.matches("in use now").count() == 1, "{told}");

    // Of a file that is not what was written nobody can say it.
    world.set_passphrase("").await;
    assert_eq!(world.listed_passphrase(&second).await, (2, false));
    assert_eq!(reason(world.check(&second, "").await), "PASSPHRASE_REQUIRED");
    let bytes = std::fs::read(world.file(&second)).unwrap();
    for place in [20, 60, 90] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x40;
        std::fs::write(world.file(&second), damaged).unwrap();
        for passphrase in [SECOND, PASSPHRASE] {
            let error = world.check(&second, passphrase).await.unwrap_err();
            assert_eq!((error.reason.as_str(), error.code), ("BACKUP_CORRUPTED", Code::DataLoss.into()), "{place} {passphrase}");
        }
    }
    std::fs::remove_file(world.file(&second)).unwrap();
    assert_eq!(reason(world.check(&second, SECOND).await), "BACKUP_FILE_MISSING");
    // Neither a lock nor an operation was needed.
    assert_eq!(world.value("select count(*) from holdfast.operation").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn c06_the_generation_of_another_system_is_not_taken_for_the_passphrase_in_use_here() {
    let (world, other) = (World::new().await, World::new().await);
    other.set_passphrase(PASSPHRASE).await;
    let foreign = other.backup().await;
    world.set_passphrase(SECOND).await;
    let own = world.backup().await;
    std::fs::copy(other.file(&foreign), world.file(&foreign)).unwrap();
    let found = world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap().into_inner();
    assert_eq!(found.imported.len(), 1);
    assert_eq!(world.listed_passphrase(&foreign).await, (0, false), "nobody has opened it yet");
    assert_eq!(world.listed_passphrase(&own).await, (1, true));
    // Both are number 1.
    assert!(world.verify(&foreign, VerifyLevel::Contents, PASSPHRASE).await.unwrap().valid);
    assert_eq!(world.listed_passphrase(&foreign).await, (1, false));
    assert_eq!(reason(world.check(&foreign, "").await), "PASSPHRASE_INCORRECT");
    let opened = world.check(&foreign, PASSPHRASE).await.unwrap();
    assert_eq!((opened.passphrase_generation, opened.current_passphrase), (1, false));

    // The same passphrase in use here, under another number: proven, not guessed.
    world.set_passphrase(PASSPHRASE).await;
    assert_eq!(world.listed_passphrase(&foreign).await, (1, false));
    assert!(world.check(&foreign, "").await.unwrap().current_passphrase);
    assert_eq!(world.listed_passphrase(&foreign).await, (1, true));
    assert_eq!(world.listed_passphrase(&own).await, (1, false));
    world.set_passphrase(SECOND).await;
    assert_eq!(world.listed_passphrase(&foreign).await, (1, false));
    // What a sync opens is proven as well.
    world.set_passphrase(PASSPHRASE).await;
    let newer = other.backup().await;
    std::fs::copy(other.file(&newer), world.file(&newer)).unwrap();
    world.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap();
    assert_eq!(world.listed_passphrase(&newer).await, (1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_wrong_passphrases_are_limited_whichever_call_they_come_with() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let (backup, other) = (world.backup().await, world.backup().await);
    let preview = |passphrase: &str| {
        let (name, passphrase) = (backup.name.clone(), passphrase.to_owned());
        let request = PreviewRestoreRequest { name, passphrase, ..Default::default() };
        async { world.backups().await.preview_restore(request).await.map_err(refused).map(|_| ()).unwrap_err().reason }
    };
    let verify = async || world.verify(&backup, VerifyLevel::Contents, SECOND).await.unwrap_err().reason;
    let restore = async || world.restore(&backup, SECOND).await.unwrap_err().reason;
    let reasons = [
        restore().await,
        preview(SECOND).await,
        verify().await,
        reason(world.check(&backup, SECOND).await),
        reason(world.check(&backup, SECOND).await),
    ];
    assert_eq!(reasons, ["PASSPHRASE_INCORRECT"; 5].map(str::to_owned));
    assert_eq!([restore().await, preview(PASSPHRASE).await, verify().await], ["RATE_LIMITED"; 3].map(str::to_owned));
    let request = CheckPassphraseRequest { name: backup.name.clone(), passphrase: PASSPHRASE.into() };
    let status = world.backups().await.check_passphrase(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!((1..=60).contains(&delay.as_secs()), "{delay:?}");
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, backup.name);
    // What asks for no passphrase goes on, and so does every other backup.
    assert!(world.verify(&backup, VerifyLevel::Checksum, "").await.unwrap().valid);
    world.check(&other, PASSPHRASE).await.unwrap();
    world.restore(&other, PASSPHRASE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_that_fails_its_probe_or_is_not_kept_as_it_was_written_changes_nothing() {
    let mut world = World::new().await;
    let encryption =
        async |world: &World| world.backups().await.get_encryption(GetEncryptionRequest {}).await.unwrap().into_inner();
    world.set_passphrase(PASSPHRASE).await;
    let before = encryption(&world).await;
    let events = "select count(*) from holdfast.event where type like 'encryption.%'";
    assert_eq!(world.value(events).await, "1");

    world.kill();
    world.set("HOLDFAST_FAULT", "probing");
    world.start().await.unwrap();
    let error = refused(world.try_set_passphrase(Some(SECOND)).await.unwrap_err());
    assert_eq!((error.reason.as_str(), error.code), ("INTERNAL", Code::Internal.into()));
    assert_eq!(encryption(&world).await, before);
    let kept = world.backup().await;
    world.check(&kept, PASSPHRASE).await.unwrap();

    world
        .sql_as_superuser(
            "create function holdfast.bit_rot() returns trigger language plpgsql as
             $$ begin new.secret := set_byte(new.secret, 20, 255 - get_byte(new.secret, 20)); return new; end $$;
             create trigger bit_rot before update on holdfast.setting for each row when (new.secret is not null)
             execute function holdfast.bit_rot()",
        )
        .await;
    let error = refused(world.try_set_passphrase(Some(SECOND)).await.unwrap_err());
    assert_eq!(error.reason, "INTERNAL");
    assert_eq!((encryption(&world).await, world.value(events).await.as_str()), (before.clone(), "1"));
    world.check(&world.backup().await, PASSPHRASE).await.unwrap();
    world.sql_as_superuser("drop trigger bit_rot on holdfast.setting").await;
    assert_eq!(world.try_set_passphrase(Some(SECOND)).await.unwrap().passphrase_generation, before.passphrase_generation + 1);
    world.check(&world.backup().await, SECOND).await.unwrap();
}

/// Whether gpg opens a file with these bytes as the passphrase.
fn gpg_opens(file: &std::path::Path, passphrase: &[u8]) -> bool {
    let home = tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap();
    let mut gpg = Command::new("gpg");
    gpg.env("GNUPGHOME", home.path()).args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase-fd", "0"]);
    let mut gpg =
        gpg.arg("--decrypt").arg(file).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    gpg.stdin.take().unwrap().write_all(passphrase).unwrap();
    let opened = gpg.wait().unwrap().success();
    let _ = Command::new("gpgconf").arg("--homedir").arg(home.path()).args(["--kill", "gpg-agent"]).status();
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_passphrase_is_its_bytes_on_every_way_in_and_for_gpg() {
    let world = World::small().await;
    let (composed, decomposed) = ("gr\u{fc}\u{df}e aus K\u{f6}ln", "gru\u{308}\u{df}e aus Ko\u{308}ln");
    let longest = "0123456789abcdef".repeat(64);
    let file = world.dir.path().join("passphrase");
    for (passphrase, other) in [
        ("  blanks around it  ", "blanks around it"),
        (composed, decomposed),
        (decomposed, composed),
        ("quotes \" ' \\ $HOME `id` %n", "quotes \" ' \\ $HOME `id` %"),
        (
            "\u{1F512}\u{1F511}\u{5bc6}\u{9470} \u{43a}\u{43b}\u{44e}\u{447} 12",
            "\u{1F512}\u{1F511}\u{5bc6}\u{9470} \u{43a}\u{43b}\u{44e}\u{447} 13",
        ),
        (&longest, &longest[1..]),
    ] {
        // By standard input, by a file that an editor has ended with a line end, and by the API: the same.
        let set = world.cli(&["encryption", "set", "--passphrase-stdin"], passphrase);
        assert!(set.status.success(), "{set:?}");
        let backup = world.backup().await;
        for line_end in ["", "\n", "\r\n"] {
            std::fs::write(&file, format!("{passphrase}{line_end}")).unwrap();
            let arguments = ["encryption", "check", "latest", "--passphrase-file", file.to_str().unwrap()];
            let checked = world.cli(&arguments, "");
            assert!(checked.status.success(), "{passphrase:?} {checked:?}");
        }
        assert!(world.check(&backup, passphrase).await.unwrap().current_passphrase, "{passphrase:?}");
        assert_eq!(reason(world.check(&backup, other).await), "PASSPHRASE_INCORRECT", "{passphrase:?}");
        // Two line ends are not one.
        std::fs::write(&file, format!("{passphrase}\n\n")).unwrap();
        let checked = world.cli(&["encryption", "check", "latest", "--passphrase-file", file.to_str().unwrap()], "");
        assert_ne!(checked.status.code(), Some(0), "{passphrase:?}");
        // gpg 2.2 takes no more than 255 bytes of it.
        if passphrase.len() < 256 {
            assert!(gpg_opens(&world.file(&backup), passphrase.as_bytes()), "{passphrase:?}");
            assert!(!gpg_opens(&world.file(&backup), other.as_bytes()), "{passphrase:?}");
        }
    }
    for (refused_one, why) in [
        ("short", "12"),
        (&format!("{longest}x"), "1024"),
        ("null\0in it, long enough", "control"),
        ("tab\tin it, long enough", "control"),
        ("line end behind it\n", "control"),
        ("delete \u{7f} in it, long", "control"),
        ("next line \u{85} in it, long", "control"),
    ] {
        let error = refused(world.try_set_passphrase(Some(refused_one)).await.unwrap_err());
        assert!(error.reason == "PASSPHRASE_TOO_WEAK" && error.message.contains(why), "{refused_one:?} {error:?}");
    }
}
