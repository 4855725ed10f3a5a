//! Recipients: the secret key that somebody keeps off-line opens new files as well; or alone, so that the service cannot read
//! again what it has written.

use std::path::Path;
use std::process::Command;

use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{
    Backup, BackupRequest, Encryption, GetEncryptionRequest, GetSystemStatusRequest, OperationError, PreviewRestoreRequest,
    RestoreRequest, SyncBackupsRequest, VerifyBackupRequest, VerifyLevel, VerifyResult, encryption_info,
};
use tonic::Code;

use super::canary::secret;
use super::interop::bash;
use super::world::{PASSPHRASE, World, refused};
use super::zoo::all_of;

const FILE: &str = "HOLDFAST_ENCRYPTION__RECIPIENTS_FILE";
const KEY_PASSPHRASE: &str = "of the key alone";

/// A key of gpg, as the README says, in a home of its own.
struct Key {
    home: tempfile::TempDir,
    /// Passphrase of the key.
    passphrase: &'static str,
}

impl Key {
    fn new(user: &str, passphrase: &'static str, until: &str) -> Self {
        // A short path: the agent has a socket in it.
        let key = Self { home: tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap(), passphrase };
        key.gpg(&["--quick-generate-key", user, "future-default", "default", until]);
        key
    }

    /// One that has expired long ago.
    fn of_the_past(user: &str) -> Self {
        let key = Self { home: tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap(), passphrase: "" };
        let then = ["--faked-system-time", "20200101T000000"];
        key.gpg(&[&then[..], &["--quick-generate-key", user, "future-default", "default", "1y"]].concat());
        key
    }

    fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).args(["--batch", "--pinentry-mode", "loopback", "--passphrase"]);
        let output = command.arg(self.passphrase).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn certificate(&self) -> Vec<u8> {
        self.gpg(&["--armor", "--export"])
    }

    fn secret(&self) -> Vec<u8> {
        self.gpg(&["--armor", "--export-secret-keys"])
    }

    fn fingerprint(&self) -> String {
        let listed = String::from_utf8(self.gpg(&["--with-colons", "--list-keys"])).unwrap();
        listed.lines().find_map(|line| line.strip_prefix("fpr:::::::::")).unwrap().trim_end_matches(':').to_owned()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

impl World {
    /// With these certificates configured.
    async fn with_recipients(certificates: &[u8]) -> Self {
        let mut world = Self::without_service().await;
        world.configure_recipients(certificates);
        world.start().await.unwrap();
        world
    }

    fn configure_recipients(&mut self, certificates: &[u8]) {
        let file = self.dir.path().join("recipients.asc");
        std::fs::write(&file, certificates).unwrap();
        self.set(FILE, file.to_str().unwrap());
    }

    async fn encryption(&self) -> Encryption {
        self.backups().await.get_encryption(GetEncryptionRequest {}).await.unwrap().into_inner()
    }

    async fn restore_with(&self, backup: &Backup, key: &[u8], passphrase: &str) -> Result<(), OperationError> {
        String::from_utf8_lossy(key).lines().filter(|line| line.len() == 64).for_each(secret);
        let request = RestoreRequest { secret_key: key.to_vec(), passphrase: passphrase.into(), ..all_of(backup) };
        self.try_restore(request).await.map(|_| ())
    }

    async fn verify_with(&self, backup: &Backup, key: &[u8], passphrase: &str) -> Result<VerifyResult, OperationError> {
        let request = VerifyBackupRequest {
            name: backup.name.clone(),
            level: VerifyLevel::Contents.into(),
            secret_key: key.to_vec(),
            passphrase: passphrase.into(),
            ..Default::default()
        };
        let operation = self.backups().await.verify_backup(request).await.map_err(refused)?.into_inner();
        match self.wait(&operation.name).await.result.unwrap() {
            Outcome::Verify(found) => Ok(found),
            Outcome::Error(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

/// The file opens with gpg and the key alone, and its members are whole.
fn gpg_unpacks(key: &Key, file: &Path, into: &Path) {
    std::fs::create_dir(into).unwrap();
    let script = "gpg --batch --quiet --pinentry-mode loopback --passphrase \"$PASSPHRASE\" --decrypt \"$FILE\" | tar --zstd -x; test -s end.json";
    let home = key.home.path().to_str().unwrap();
    bash(into, script, &[("FILE", file.to_str().unwrap()), ("GNUPGHOME", home), ("PASSPHRASE", key.passphrase)], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_for_recipients_only_is_proven_and_read_again_with_their_secret_key_only() {
    let (key, other) = (Key::new("escrow@example.org", KEY_PASSPHRASE, "never"), Key::new("other", "", "never"));
    let world = World::with_recipients(&key.certificate()).await;
    let encryption = world.encryption().await;
    assert!(encryption.enabled && encryption.write_only, "{encryption:?}");
    assert_eq!(encryption.recipients[0].fingerprint, key.fingerprint());
    assert_eq!(encryption.recipients[0].user_id, "escrow@example.org");
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(status.encryption_enabled && status.backup_possible);

    let backup = world.backup().await;
    assert!(backup.file_name.ends_with(".tar.zst.pgp"));
    let info = backup.encryption_info.clone().unwrap();
    assert_eq!((info.r#type(), info.recipients.as_slice()), (encryption_info::Type::Recipients, &[key.fingerprint()][..]));
    assert!(!info.current_passphrase && info.passphrase_generation == 0);
    let good = world.digests();
    world.damage();
    let hurt = world.digests();

    let secret = key.secret();
    for (key, passphrase, reason) in [
        (&b""[..], "", "SECRET_KEY_REQUIRED"),
        (b"", PASSPHRASE, "SECRET_KEY_REQUIRED"),
        (&other.secret(), "", "SECRET_KEY_INCORRECT"),
        (&secret, "", "PASSPHRASE_REQUIRED"),
        (&secret, PASSPHRASE, "PASSPHRASE_INCORRECT"),
        (b"no key", PASSPHRASE, "INVALID_FIELD"),
    ] {
        let error = world.restore_with(&backup, key, passphrase).await.unwrap_err();
        assert_eq!((error.reason.as_str(), error.code), (reason, Code::InvalidArgument.into()), "{error:?}");
        let error = world.verify_with(&backup, key, passphrase).await.unwrap_err();
        assert_eq!(error.reason, reason, "{error:?}");
        assert_eq!(error.metadata.contains_key("recipients"), reason.starts_with("SECRET_KEY"), "{error:?}");
    }
    assert_eq!(world.check(&backup, PASSPHRASE).await.unwrap_err().reason, "SECRET_KEY_REQUIRED");
    assert_eq!(world.digests(), hurt);

    // Without the key its digest at least is known to hold; with it everything is.
    assert!(world.verify(&backup, VerifyLevel::Checksum, "").await.unwrap().valid);
    assert!(world.verify_with(&backup, &secret, KEY_PASSPHRASE).await.unwrap().valid);
    let request = PreviewRestoreRequest {
        name: backup.name.clone(),
        secret_key: secret.clone(),
        passphrase: KEY_PASSPHRASE.into(),
        ..Default::default()
    };
    let preview = world.backups().await.preview_restore(request).await.unwrap().into_inner();
    assert!(matches!(world.wait(&preview.name).await.result, Some(Outcome::Preview(_))));
    world.restore_with(&backup, &secret, KEY_PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), good);
    gpg_unpacks(&key, &world.file(&backup), &world.dir.path().join("unpacked"));

    let key_file = world.dir.path().join("key.asc");
    std::fs::write(&key_file, &secret).unwrap();
    let run = |arguments: &str, stdin: &str| {
        let arguments = arguments.replace("KEY", key_file.to_str().unwrap());
        let output = world.cli(&arguments.split(' ').collect::<Vec<_>>(), stdin);
        (output.status.code().unwrap(), [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    };
    let (code, told) = run("encryption", "");
    assert!(code == 0 && told.contains("the recipients only") && told.contains("escrow@example.org"), "{told}");
    let (code, told) = run("list", "");
    assert!(code == 0 && told.contains("only a secret key opens it"), "{told}");
    let (code, told) = run("verify latest --level contents", "");
    assert!(code == 67 && told.contains("SECRET_KEY_REQUIRED"), "{told}");
    for line in ["verify latest --level rehearsal", "restore latest --yes --preview", "restore latest --yes"] {
        let (code, told) = run(&format!("{line} --secret-key-file KEY --passphrase-stdin"), KEY_PASSPHRASE);
        assert_eq!(code, 0, "{line}: {told}");
    }
    // The key is nowhere but in the calls.
    let state = world.value("select string_agg(body::text, '') from (select body from holdfast.operation union all select body from holdfast.event) as all_of_it").await;
    let log = world.log();
    let lines: Vec<_> = std::str::from_utf8(&secret).unwrap().lines().filter(|line| line.len() == 64).collect();
    assert!(lines.len() > 5 && log.contains("TRACE") && state.contains("restore"));
    assert!(lines.iter().all(|line| !log.contains(line) && !state.contains(line)));
    assert!(!log.contains(KEY_PASSPHRASE) && !state.contains(KEY_PASSPHRASE));
    let (file, into) = (world.file(&backup), world.dir.path().join("extracted"));
    let (code, told) = run(&format!("extract {} -C {} --passphrase-stdin", file.display(), into.display()), PASSPHRASE);
    assert!(code == 2 && told.contains("--secret-key-file"), "{told}");
    let extract = format!("extract {} -C {} --secret-key-file KEY --passphrase-stdin", file.display(), into.display());
    let (code, told) = run(&extract, KEY_PASSPHRASE);
    assert!(code == 0 && into.join("end.json").exists(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c05_recipients_that_are_gone_never_make_backups_plain_in_silence() {
    let key = Key::new("escrow", "", "never");
    let mut world = World::with_recipients(&key.certificate()).await;
    world.backup().await;
    world.terminate().await;
    world.unset(FILE);
    world.start().await.unwrap();
    assert!(world.log().contains("none are configured any more"));
    let error = world.try_backup(BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.code), ("RECIPIENTS_MISSING", Code::FailedPrecondition.into()), "{error:?}");
    assert_eq!(world.files().len(), 1);
    let status = world.backups().await.get_system_status(GetSystemStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.backup_possible && status.restore_possible);
    assert_eq!(status.obstacles[0].reason, "RECIPIENTS_MISSING");
    assert!(status.encryption_enabled && world.encryption().await.enabled, "they are not plain");
    let said = world.cli(&["encryption"], "");
    assert!(String::from_utf8_lossy(&said.stdout).contains("refused: the recipients"), "{said:?}");
    // Said by somebody, it is another matter; and a passphrase helps as well.
    let set = world.try_set_passphrase(Some(PASSPHRASE)).await.unwrap();
    assert!(set.enabled && !set.write_only);
    assert!(world.backup().await.file_name.ends_with(".pgp"));
    assert!(!world.try_set_passphrase(Some("")).await.unwrap().enabled);
    assert!(world.backup().await.file_name.ends_with(".tar.zst"));

    // Configured again, they are in force again, without a word of anybody.
    world.terminate().await;
    world.configure_recipients(&key.certificate());
    world.start().await.unwrap();
    assert!(world.encryption().await.write_only);
    assert!(world.backup().await.file_name.ends_with(".pgp"));
    // There is no call that makes backups plain where recipients are configured.
    assert!(world.try_set_passphrase(Some("")).await.unwrap().write_only);
    assert!(world.backup().await.file_name.ends_with(".pgp"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_passphrase_besides_the_passphrase_the_key_and_gpg_open_a_file() {
    let (key, second) = (Key::new("escrow", "", "never"), Key::new("deputy", "", "80d"));
    let world = World::with_recipients(&[key.certificate(), second.certificate()].concat()).await;
    assert!(world.log().contains(&format!("The certificate {} of a recipient expires", second.fingerprint())));
    world.set_passphrase(PASSPHRASE).await;
    assert!(!world.encryption().await.write_only);
    let operation = world.wait(&world.begin_backup().await).await;
    let Some(Outcome::Backup(result)) = operation.result else { panic!("{operation:?}") };
    let told: Vec<_> = result.notices.iter().map(|notice| (notice.reason.as_str(), notice.subject.as_str())).collect();
    assert_eq!(told, [("RECIPIENT_EXPIRES", second.fingerprint().as_str())]);
    let backup = world.entry(&result.backup.unwrap()).await;
    let info = backup.encryption_info.clone().unwrap();
    assert_eq!((info.r#type(), info.recipients.len()), (encryption_info::Type::Passphrase, 2));
    assert!(info.current_passphrase);
    let good = world.digests();
    world.damage();
    world.restore(&backup, PASSPHRASE).await.unwrap();
    assert_eq!(world.digests(), good);
    for key in [&key, &second] {
        world.damage();
        world.restore_with(&backup, &key.secret(), "").await.unwrap();
        assert_eq!(world.digests(), good);
    }
    gpg_unpacks(&second, &world.file(&backup), &world.dir.path().join("unpacked"));

    // In another folder, with nothing known of it, it is found for what it is.
    world.set_passphrase("").await;
    let sealed = world.backup().await;
    let elsewhere = World::new().await;
    for backup in [&backup, &sealed] {
        std::fs::copy(world.file(backup), elsewhere.file(backup)).unwrap();
    }
    let found = elsewhere.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap().into_inner();
    assert_eq!((found.imported.len(), found.rejected_count), (2, 0));
    let kinds =
        async || [elsewhere.entry(&backup).await, elsewhere.entry(&sealed).await].map(|backup| backup.encryption_info.unwrap());
    let [first, last] = kinds().await;
    assert_eq!((first.r#type(), last.r#type()), (encryption_info::Type::Passphrase, encryption_info::Type::Recipients));
    assert_eq!(last.recipients.len(), 2, "{last:?}");
    assert!(elsewhere.verify_with(&sealed, &key.secret(), "").await.unwrap().valid);
    assert!(elsewhere.verify_with(&backup, b"", PASSPHRASE).await.unwrap().valid);
    let fingerprints = [key.fingerprint(), second.fingerprint()];
    assert_eq!(kinds().await.map(|info| info.recipients), [fingerprints.to_vec(), fingerprints.to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_of_no_use_keep_the_service_from_starting_and_say_why() {
    let key = Key::new("escrow", "", "never");
    let mut world = World::without_service().await;
    world.set(FILE, "/nowhere/recipients.asc");
    assert!(world.start().await.unwrap_err().contains("cannot be read"));
    for (certificates, why) in [
        (b"hello".to_vec(), "no OpenPGP certificate"),
        (Vec::new(), "no OpenPGP certificate"),
        (key.secret(), "belongs off-line"),
        ([key.certificate(), key.certificate()].concat(), "twice"),
        (Key::of_the_past("old").certificate(), "has expired at 2020-12-31"),
    ] {
        world.configure_recipients(&certificates);
        let told = world.start().await.unwrap_err();
        assert!(told.contains(why) && told.contains("recipients.asc"), "{told}");
    }
    world.configure_recipients(&key.certificate());
    world.start().await.unwrap();
}
