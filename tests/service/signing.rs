//! Who wrote a file: one of others is restored only when somebody says that this is meant, however it came into the folder.

use std::collections::HashMap;
use std::time::Duration;

use holdfast::archive::{self, Contents, Part, Protection, Trust, Writer};
use holdfast::grpc::proto::backup::{
    Backup, GetSigningRequest, ListAuditEventsRequest, NoticeCode, Origin, RestoreRequest, Signing, SyncBackupsRequest,
    VerifyLevel,
};
use holdfast::model::manifest::PassphraseNote;
use holdfast::model::{BackupId, FileName, Passphrase, Piece};
use tonic::Code;
use uuid::Uuid;

use super::interop::{bash, unpack};
use super::world::{PASSPHRASE, World, eventually_async};
use super::zoo::{all_of, of_others};

const ACCOUNTS: &str = "create table zoo.account (id int primary key, name text, admin boolean not null);
    insert into zoo.account select i, 'name ' || i, i = 1 from generate_series(1, 9) i";
const MALLORY: &[u8] = b"666\tmallory\tt\n";

impl World {
    async fn accounts() -> Self {
        Self::zoo(ACCOUNTS, &["zoo.account"]).await
    }

    /// Puts a file into the folder that nobody here wrote: that of a backup, with one more administrator. Returns its entry.
    async fn plant(&self, original: &Backup, passphrase: Option<&str>) -> Backup {
        let (mut rows, nobody) = (Vec::new(), Trust::default());
        let file = std::fs::File::open(self.file(original)).unwrap();
        let read = archive::read::<archive::Error>(file, None, &nobody, |part| {
            rows.extend(if let Part::Piece(piece) = part { piece.rows } else { Vec::new() });
            Ok(())
        });
        let Contents { mut manifest, end, .. } = read.unwrap();
        manifest.backup = BackupId::new(manifest.create_time, Uuid::new_v4());
        manifest.uid = Uuid::new_v4();
        manifest.passphrase = passphrase.map(|_| PassphraseNote { generation: 1, set_time: manifest.create_time });
        let protection = Protection { passphrase: passphrase.and_then(Passphrase::new), ..Protection::default() };
        let mut writer = Writer::new(Vec::new(), &protection, &manifest).unwrap();
        rows.extend_from_slice(MALLORY);
        writer.piece(&Piece { table: 0, rows, last: true }).unwrap();
        let written = writer.finish(end.sequences).unwrap();
        let name = FileName::new(manifest.backup, written.sha256, protection.encrypts());
        self.copied_in(name, &written.out).await
    }

    /// A file that somebody copied into the folder, as the catalog has it from then on.
    async fn copied_in(&self, name: FileName, bytes: &[u8]) -> Backup {
        std::fs::write(self.folder().join(name.to_string()), bytes).unwrap();
        let found = self.backups().await.sync_backups(SyncBackupsRequest {}).await.unwrap().into_inner();
        assert_eq!((found.imported.len(), found.rejected.len()), (1, 0), "{found:?}");
        found.imported[0].clone()
    }

    async fn is_administrator(&self) -> bool {
        self.value("select exists (select from zoo.account where name = 'mallory' and admin)").await == "true"
    }

    /// What the newest event of a type says more.
    async fn told(&self, kind: &str) -> HashMap<String, String> {
        let request = ListAuditEventsRequest { types: vec![kind.into()], ..Default::default() };
        let list = self.events().await.list_audit_events(request).await.unwrap().into_inner();
        list.audit_events.into_iter().next().map(|event| event.attributes).unwrap_or_default()
    }

    async fn signing(&self) -> Signing {
        self.backups().await.get_signing(GetSigningRequest {}).await.unwrap().into_inner()
    }

    /// The one backup that there is.
    async fn only(&self) -> Backup {
        eventually_async(Duration::from_secs(30), async || self.listed().await.pop()).await
    }

    async fn found(&self, backup: &Backup) -> Backup {
        self.listed().await.into_iter().find(|listed| listed.name == backup.name).unwrap()
    }

    /// The same bytes once more, as a file that was copied in.
    async fn brought_in_again(&self, backup: &Backup) -> Backup {
        let bytes = std::fs::read(self.file(backup)).unwrap();
        let id = backup.name.trim_start_matches("backups/");
        assert!(self.cli(&["delete", id, "--yes"], "").status.success());
        self.copied_in(backup.file_name.parse().unwrap(), &bytes).await
    }
}

fn meant(backup: &Backup) -> RestoreRequest {
    RestoreRequest { acknowledged_warnings: vec![NoticeCode::ForeignBackup.into()], ..all_of(backup) }
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_a_file_with_one_more_administrator_is_not_restored_unless_that_is_meant() {
    let world = World::accounts().await;
    let good = world.backup().await;
    assert_eq!((good.origin(), world.found(&good).await.origin()), (Origin::Native, Origin::Native));
    let planted = world.plant(&good, None).await;
    assert_eq!((planted.origin(), planted.signing_key.as_str()), (Origin::Foreign, ""));
    let shown = world.cli(&["show", planted.name.trim_start_matches("backups/")], "");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("unknown: it is not signed"), "{shown:?}");

    let status = world.backups().await.restore(all_of(&planted)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let message = world.restore_fails(all_of(&planted), "WARNINGS_NOT_ACKNOWLEDGED").await;
    assert!(message.contains("FOREIGN_BACKUP"), "{message}");
    let told = world.told("restore.failed").await;
    assert_eq!((told["origin"].as_str(), told["warnings"].as_str()), ("foreign", "FOREIGN_BACKUP"));
    // Also where the tables are empty, which are filled without a detour.
    world.sql("delete from zoo.account").await;
    world.restore_fails(all_of(&planted), "WARNINGS_NOT_ACKNOWLEDGED").await;
    assert!(!world.is_administrator().await);

    let result = world.try_restore(meant(&planted)).await.unwrap();
    assert!(world.is_administrator().await && result.notices.iter().any(|notice| notice.reason == "FOREIGN_BACKUP"));
    let told = world.told("restore.completed").await;
    assert_eq!((told["origin"].as_str(), told["acknowledged"].as_str()), ("foreign", "FOREIGN_BACKUP"));
    // What this system wrote needs no words, and that is told too; and so do safety backups.
    let result = world.try_restore(RestoreRequest { skip_safety_backup: false, ..all_of(&good) }).await.unwrap();
    assert!(!world.is_administrator().await);
    let told = world.told("restore.completed").await;
    assert_eq!((&told["origin"], &told["signingKey"]), (&"native".to_owned(), &world.signing().await.keys[0].fingerprint));
    let undo = RestoreRequest { name: result.safety_backup, ..all_of(&good) };
    world.try_restore(undo).await.unwrap();
    assert!(world.is_administrator().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_who_wrote_an_encrypted_file_is_found_out_before_anything_is_changed() {
    let world = World::accounts().await;
    let good = world.backup().await;
    // Nobody here knows the passphrase, so that nothing is known of it before it is opened.
    let planted = world.plant(&good, Some(PASSPHRASE)).await;
    assert_eq!(planted.origin(), Origin::Unspecified);
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), ..all_of(&planted) };
    for statements in ["update zoo.account set name = 'other' where id = 3", "delete from zoo.account"] {
        world.sql(statements).await;
        let message = world.restore_fails(request.clone(), "WARNINGS_NOT_ACKNOWLEDGED").await;
        assert!(message.contains("FOREIGN_BACKUP"), "{message}");
        assert_eq!(world.told("restore.failed").await["warnings"], "FOREIGN_BACKUP");
    }
    assert!(!world.is_administrator().await);
    let found = world.verify(&planted, VerifyLevel::Contents, PASSPHRASE).await.unwrap();
    assert!(found.valid && found.notices[0].code() == NoticeCode::ForeignBackup, "{found:?}");
    assert_eq!(world.found(&planted).await.origin(), Origin::Foreign);
    world.try_restore(RestoreRequest { passphrase: PASSPHRASE.into(), ..meant(&planted) }).await.unwrap();
    assert!(world.is_administrator().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_a_file_under_the_name_of_another_backup_is_not_restored_at_all() {
    let world = World::accounts().await;
    let good = world.backup().await;
    let planted = world.plant(&good, Some(PASSPHRASE)).await;
    // The same bytes, which the digest in the name proves, as a newer backup than they are.
    let bytes = std::fs::read(world.file(&planted)).unwrap();
    let name: FileName = planted.file_name.parse().unwrap();
    let digest = planted.sha256.parse().unwrap();
    let id = BackupId::new(name.id().time() + chrono::TimeDelta::days(1), Uuid::new_v4());
    let renamed = world.copied_in(FileName::new(id, digest, true), &bytes).await;
    let request = RestoreRequest { passphrase: PASSPHRASE.into(), acknowledged_warnings: of_others(), ..all_of(&renamed) };
    let message = world.restore_fails(request, "BACKUP_CORRUPTED").await;
    assert!(message.contains("it is another backup") && message.contains(name.id().as_str()), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_keys_rotate_old_files_stay_native_and_gpg_verifies_both() {
    let world = World::accounts().await;
    world.set_passphrase(PASSPHRASE).await;
    let first = world.backup().await;
    let before = world.signing().await;
    assert_eq!(before.keys.len(), 1);
    let rotated = world.cli(&["signing", "rotate", "--yes"], "");
    assert!(rotated.status.success(), "{rotated:?}");
    let after = world.signing().await;
    assert!(after.keys.len() == 2 && after.keys[1].fingerprint == before.keys[0].fingerprint);
    assert_eq!(after.keys.iter().map(|key| key.in_use).collect::<Vec<_>>(), [true, false]);
    assert_eq!(world.told("signing.key_changed").await["key"], after.keys[0].fingerprint);
    assert_eq!(world.value("select count(*) from holdfast.signing_key where secret is not null").await, "1");
    let second = world.backup().await;
    let exported = world.cli(&["signing", "export"], "");
    let certificates = String::from_utf8(exported.stdout).unwrap();
    assert_eq!(certificates.matches("BEGIN PGP PUBLIC KEY BLOCK").count(), 2);
    let path = world.dir.path().join("certificates.asc");
    std::fs::write(&path, &certificates).unwrap();

    for (backup, key, name) in [(&first, &after.keys[1], "first"), (&second, &after.keys[0], "second")] {
        assert_eq!((backup.origin(), &backup.signing_key), (Origin::Native, &key.fingerprint));
        let folder = world.dir.path().join(name);
        unpack(&world, backup, &folder);
        let home = tempfile::Builder::new().prefix("hf-gpg-").tempdir_in("/tmp").unwrap();
        let environment = [("CERTIFICATES", path.to_str().unwrap()), ("GNUPGHOME", home.path().to_str().unwrap())];
        let script = "gpg --batch --quiet --import \"$CERTIFICATES\"; gpg --batch --status-fd 1 --verify signature.asc end.json";
        let said = bash(&folder, script, &environment, "");
        assert!(said.contains(&format!("VALIDSIG {}", key.fingerprint)), "{said}");
        let passphrase = world.dir.path().join("passphrase");
        std::fs::write(&passphrase, PASSPHRASE).unwrap();
        let (file, secret) = (world.file(backup), passphrase.to_str().unwrap());
        let arguments = ["inspect", file.to_str().unwrap(), "--verify", "--passphrase-file", secret, "--certificates-file"];
        let inspected = world.cli(&[&arguments[..], &[path.to_str().unwrap()]].concat(), "");
        let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
        assert!(said.contains(&format!("by {}, which is trusted", key.fingerprint)), "{inspected:?}");
        // One that nobody has an entry of any more is known by its signature.
        let again = world.brought_in_again(backup).await;
        assert_eq!((again.origin(), &again.signing_key), (Origin::Native, &key.fingerprint));
        world.restore(&again, PASSPHRASE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c04_f16_a_new_installation_knows_the_files_of_the_old_one_when_it_has_its_certificate() {
    let mut world = World::accounts().await;
    let old = world.backup().await;
    let certificates = world.cli(&["signing", "export"], "").stdout;
    world.terminate().await;
    world.sql_as_superuser("drop schema holdfast cascade").await;
    world.start().await.unwrap();
    let found = world.only().await;
    assert_eq!((found.origin(), &found.signing_key), (Origin::Foreign, &old.signing_key));
    let other_system = RestoreRequest { acknowledged_warnings: vec![NoticeCode::OtherSystem.into()], ..all_of(&found) };
    let message = world.restore_fails(other_system.clone(), "WARNINGS_NOT_ACKNOWLEDGED").await;
    assert!(message.contains("FOREIGN_BACKUP") && !message.contains("OTHER_SYSTEM"), "{message}");

    world.terminate().await;
    let path = world.dir.path().join("certificates.asc");
    std::fs::write(&path, certificates).unwrap();
    world.set("HOLDFAST_TRUSTED_CERTIFICATES_FILE", path.to_str().unwrap());
    world.start().await.unwrap();
    assert_eq!(world.signing().await.trusted, std::slice::from_ref(&old.signing_key));
    assert_eq!(world.only().await.origin(), Origin::Unspecified, "nobody has verified it since");
    world.try_restore(other_system).await.unwrap();
    assert_eq!(world.only().await.origin(), Origin::Native);
    // A certificate that is taken away vouches for nothing any more.
    world.terminate().await;
    world.unset("HOLDFAST_TRUSTED_CERTIFICATES_FILE");
    world.start().await.unwrap();
    assert_eq!(world.only().await.origin(), Origin::Foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vouches_for_nobody_keeps_the_service_from_starting_and_says_what_helps() {
    let mut world = World::without_service().await;
    let path = world.dir.path().join("certificates.asc");
    std::fs::write(&path, "hello").unwrap();
    world.set("HOLDFAST_TRUSTED_CERTIFICATES_FILE", path.to_str().unwrap());
    let said = world.start().await.unwrap_err();
    assert!(said.contains("cannot vouch for files") && said.contains("no OpenPGP certificate"), "{said}");
}
