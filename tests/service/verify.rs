//! Verifying a backup: what is whole is told as whole, what is damaged is not used any more, and whether it can be restored is
//! tried, not assumed.

use std::time::Duration;

use holdfast::grpc::proto::backup::backup::State;
use holdfast::grpc::proto::backup::operation::Result as Outcome;
use holdfast::grpc::proto::backup::{
    Backup, DeleteBackupRequest, GetBackupRequest, OperationError, OperationType, PreviewRestoreRequest, Retention,
    SetRetentionRequest, VerifyBackupRequest, VerifyLevel, VerifyResult,
};
use sqlx::Connection;

use super::offsite::flip;
use super::world::{PASSPHRASE, World, refused, sha256};
use super::zoo::all_of;

const EVENTS: &str = "select coalesce(string_agg(type, ' ' order by event_time), '') from holdfast.event where type in ('backup.invalid', 'backup.missing', 'backup.recovered')";

impl World {
    pub async fn verify(&self, backup: &Backup, level: VerifyLevel, passphrase: &str) -> Result<VerifyResult, OperationError> {
        let (name, passphrase) = (backup.name.clone(), passphrase.to_owned());
        let request = VerifyBackupRequest { name, level: level.into(), passphrase, ..Default::default() };
        let operation = self.backups().await.verify_backup(request).await.map_err(refused)?.into_inner();
        assert_eq!(operation.metadata.as_ref().unwrap().r#type(), OperationType::Verify);
        match self.outcome(&operation.name).await? {
            Outcome::Verify(found) => Ok(found),
            other => panic!("{other:?}"),
        }
    }

    pub async fn entry(&self, backup: &Backup) -> Backup {
        let request = GetBackupRequest { name: backup.name.clone() };
        self.backups().await.get_backup(request).await.unwrap().into_inner()
    }
}

fn names(found: &VerifyResult) -> Vec<String> {
    found.checks.iter().map(|check| format!("{}{}", if check.passed { "" } else { "!" }, check.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_damage_that_a_restore_or_a_preview_meets_is_known_from_then_on() {
    let world = World::small().await;
    let [first, second] = [world.backup().await, world.backup().await];
    let good = std::fs::read(world.file(&first)).unwrap();
    flip(&world.file(&first));
    std::fs::remove_file(world.file(&second)).unwrap();
    assert_eq!(world.restore(&first, "").await.unwrap_err().reason, "BACKUP_CORRUPTED");
    let request = PreviewRestoreRequest { name: second.name.clone(), ..Default::default() };
    assert_eq!(world.try_preview(request).await.unwrap_err().reason, "BACKUP_FILE_MISSING");
    let entries = [world.entry(&first).await, world.entry(&second).await];
    assert_eq!(entries.each_ref().map(Backup::state), [State::Invalid, State::Missing], "{entries:?}");
    assert_eq!(world.value(EVENTS).await, "backup.invalid backup.missing");
    assert_eq!(world.restore(&first, "").await.unwrap_err().reason, "BACKUP_CORRUPTED");
    std::fs::write(world.file(&first), good).unwrap();
    assert!(world.verify(&first, VerifyLevel::Checksum, "").await.unwrap().valid);
    world.restore(&first, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_backup_passes_at_every_level_and_nothing_is_changed() {
    let world = World::new().await;
    let plain = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let encrypted = world.backup().await;
    world.damage();
    let before = world.digests();
    let sequences = "select string_agg(last_value::text, ' ' order by schemaname, sequencename) from pg_sequences where schemaname <> 'holdfast'";
    let sequences_before = world.value(sequences).await;
    for (backup, passphrase, integrity) in [(&plain, "", None), (&encrypted, PASSPHRASE, Some("openpgp-integrity"))] {
        let mut expected = vec!["file", "sha256", "header"];
        // No passphrase is needed for the first.
        let found = world.verify(backup, VerifyLevel::Unspecified, "").await.unwrap();
        assert!(found.valid && found.level() == VerifyLevel::Checksum && names(&found) == expected, "{found:?}");
        // Nor is one that was sent all the same, and is wrong, held against the file.
        let found = world.verify(backup, VerifyLevel::Checksum, "another passphrase").await.unwrap();
        assert!(found.valid && names(&found) == expected, "{found:?}");
        expected.extend(integrity.into_iter().chain(["structure", "resource-digests"]));
        let found = world.verify(backup, VerifyLevel::Contents, passphrase).await.unwrap();
        assert!(found.valid && names(&found) == expected, "{found:?}");
        expected.extend(["schema", "rehearsal"]);
        let found = world.verify(backup, VerifyLevel::Rehearsal, passphrase).await.unwrap();
        assert!(found.valid && names(&found) == expected, "{found:?}");
        assert!(!found.notices.is_empty(), "what a restore would tell is told");
        let entry = world.entry(backup).await;
        let last = entry.last_verification.clone().unwrap();
        assert!(last.valid && last.level() == VerifyLevel::Rehearsal && entry.state() == State::Ready, "{entry:?}");
        assert!(!last.operation.is_empty() && last.verify_time.is_some());
    }
    assert_eq!((world.digests(), world.value(sequences).await), (before, sequences_before));
    assert_eq!(world.value(EVENTS).await, "");
    assert_eq!(world.value("select count(*) from holdfast.event where type = 'backup.verified'").await, "8");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_damaged_or_missing_file_is_named_not_used_and_used_again_when_it_is_back() {
    let world = World::new().await;
    let backup = world.backup().await;
    let whole = std::fs::read(world.file(&backup)).unwrap();
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    for (bytes, state, bad, event) in [
        (Some(&rotten[..]), State::Invalid, "!sha256", "backup.invalid"),
        (Some(&whole[..whole.len() - 1]), State::Invalid, "!sha256", "backup.invalid"),
        (Some(&[][..]), State::Invalid, "!sha256", "backup.invalid"),
        (None, State::Missing, "!file", "backup.missing"),
    ] {
        world.forget_events().await;
        match bytes {
            Some(bytes) => std::fs::write(world.file(&backup), bytes).unwrap(),
            None => std::fs::remove_file(world.file(&backup)).unwrap(),
        }
        for level in [VerifyLevel::Checksum, VerifyLevel::Contents] {
            let found = world.verify(&backup, level, "").await.unwrap();
            assert!(!found.valid && names(&found).last().unwrap() == bad, "{found:?}");
        }
        let entry = world.entry(&backup).await;
        assert!(entry.state() == state && !entry.state_detail.is_empty() && !entry.last_verification.unwrap().valid);
        assert!(entry.retention_position.is_none(), "it counts as a good one");
        let error = world.restore(&backup, "").await.unwrap_err();
        assert!(["BACKUP_CORRUPTED", "BACKUP_FILE_MISSING"].contains(&error.reason.as_str()), "{error:?}");
        // It is put back from elsewhere.
        std::fs::write(world.file(&backup), &whole).unwrap();
        assert!(world.verify(&backup, VerifyLevel::Checksum, "").await.unwrap().valid);
        assert_eq!(world.entry(&backup).await.state(), State::Ready);
        assert_eq!(world.value(EVENTS).await, format!("{event} backup.recovered"), "each is told once");
        world.restore(&backup, "").await.unwrap();
    }
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_damage_that_only_a_deep_look_finds_is_not_forgotten_by_a_quick_one() {
    let world = World::new().await;
    let backup = world.backup().await;
    // Of its size and SHA-256, and nonsense behind its beginning.
    let mut bytes = std::fs::read(world.file(&backup)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(world.file(&backup), &bytes).unwrap();
    let id = backup.name.trim_start_matches("backups/");
    let entry =
        format!("update holdfast.backup set body = body || jsonb_build_object('sha256', '{}') where id = '{id}'", sha256(&bytes));
    world.sql_as_superuser(&entry).await;
    world.forget_events().await;
    assert!(world.verify(&backup, VerifyLevel::Checksum, "").await.unwrap().valid);
    // Both find it, and it is told once.
    let (one, other) =
        tokio::join!(world.verify(&backup, VerifyLevel::Contents, ""), world.verify(&backup, VerifyLevel::Contents, ""));
    assert!(!one.unwrap().valid && !other.unwrap().valid);
    for level in [VerifyLevel::Checksum, VerifyLevel::Contents, VerifyLevel::Checksum] {
        world.verify(&backup, level, "").await.unwrap();
        assert_eq!(world.entry(&backup).await.state(), State::Invalid, "after {level:?}");
    }
    assert_eq!(world.value(EVENTS).await, "backup.invalid");
    assert_eq!(world.restore(&backup, "").await.unwrap_err().reason, "BACKUP_CORRUPTED");
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_s01_the_scrub_finds_what_rots_names_it_and_no_good_one_is_traded_for_it() {
    let world = World::with(&[("HOLDFAST_SCRUB_PERIOD", "10s")]).await;
    let soon = Duration::from_secs(60);
    let plain = world.backup().await;
    world.set_passphrase(PASSPHRASE).await;
    let encrypted = world.backup().await;
    let scrubbed = "select string_agg(body->'last_verification'->>'level' || ' ' || (body->'last_verification'->>'valid'), ', ' order by sequence)
                    from holdfast.backup where body->'last_verification' <> 'null'";
    world.becomes(scrubbed, "contents true, contents true", soon).await;
    assert!(world.entry(&plain).await.last_verification.unwrap().operation.is_empty());
    // With another passphrase in use, it is not known any more whether the file opens; that it is whole is.
    world.set_passphrase("another passphrase than that one").await;
    world.becomes(scrubbed, "contents true, checksum true", soon).await;

    let whole = std::fs::read(world.file(&encrypted)).unwrap();
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    std::fs::write(world.file(&encrypted), rotten).unwrap();
    world.becomes(EVENTS, "backup.invalid", soon).await;
    let retention = Some(Retention { max_count: 1, ..Default::default() });
    world.backups().await.set_retention(SetRetentionRequest { retention }).await.unwrap();
    assert!(world.entry(&plain).await.retention_position.is_some_and(|place| place.position == 1), "it is the only good one");
    assert_eq!(world.entry(&encrypted).await.state(), State::Invalid);
    std::fs::remove_file(world.file(&encrypted)).unwrap();
    world.becomes(EVENTS, "backup.invalid backup.missing", soon).await;
    std::fs::write(world.file(&encrypted), whole).unwrap();
    world.becomes(EVENTS, "backup.invalid backup.missing backup.recovered", soon).await;
    world.is_tidy().await;
    assert!(!world.log().contains("could not be scrubbed"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn c08_a_wrong_or_missing_passphrase_is_the_callers_mistake_and_says_nothing_of_the_file() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    for level in [VerifyLevel::Contents, VerifyLevel::Rehearsal] {
        assert_eq!(world.verify(&backup, level, "").await.unwrap_err().reason, "PASSPHRASE_REQUIRED");
        assert_eq!(world.verify(&backup, level, "another passphrase").await.unwrap_err().reason, "PASSPHRASE_INCORRECT");
    }
    assert_eq!(world.entry(&backup).await.state(), State::Ready);
    let mut bytes = std::fs::read(world.file(&backup)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(world.file(&backup), bytes).unwrap();
    // Of a damaged file nobody can say whether the passphrase is right.
    let found = world.verify(&backup, VerifyLevel::Contents, "another passphrase").await.unwrap();
    assert_eq!(names(&found), ["file", "!sha256"]);
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_runs_under_the_lock_and_tells_what_would_stop_a_restore() {
    let world = World::new().await;
    let backup = world.backup().await;
    let update = world.begin_update().await;
    let error = world.verify(&backup, VerifyLevel::Rehearsal, "").await.unwrap_err();
    assert_eq!(error.reason, "SOFTWARE_UPDATE_IN_PROGRESS");
    assert!(world.verify(&backup, VerifyLevel::Contents, "").await.unwrap().valid, "a look at the file needs no lock");
    world.end_update(update).await;

    let table = world.lock_table("row exclusive").await;
    let request = VerifyBackupRequest { name: backup.name.clone(), level: VerifyLevel::Rehearsal.into(), ..Default::default() };
    let operation = world.backups().await.verify_backup(request).await.unwrap().into_inner().name;
    world.until_waiting("holdfast_restore", "LOCK TABLE%").await;
    let error = world.restore(&backup, "").await.unwrap_err();
    assert_eq!((error.reason.as_str(), error.metadata["operation"].as_str()), ("OPERATION_IN_PROGRESS", operation.as_str()));
    let request = DeleteBackupRequest { name: backup.name.clone(), ..Default::default() };
    let status = world.backups().await.delete_backup(request).await.unwrap_err();
    assert_eq!(refused(status).reason, "BACKUP_IN_USE");
    table.close().await.unwrap();
    assert!(world.outcome(&operation).await.is_ok());

    // What the file has does not fit any more: that is no damage.
    world.sql("update platform.license set number = 'other ' || number; alter table platform.license add constraint later check (number like 'other%')").await;
    let before = world.digests();
    let found = world.verify(&backup, VerifyLevel::Rehearsal, "").await.unwrap();
    assert!(!found.valid && names(&found).last().unwrap() == "!rehearsal", "{found:?}");
    assert!(found.checks.last().unwrap().detail.contains("later"), "{found:?}");
    let entry = world.entry(&backup).await;
    assert!(entry.state() == State::Ready && !entry.last_verification.unwrap().valid);
    assert_eq!(world.digests(), before);
    world.restore_fails(all_of(&backup), "RESTORE_CONSTRAINT_VIOLATION").await;
    world.is_tidy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_verifies_and_its_exit_code_says_whether_it_is_good() {
    let world = World::new().await;
    world.set_passphrase(PASSPHRASE).await;
    let backup = world.backup().await;
    let output = world.cli(&["verify", "latest", "--level", "rehearsal", "--passphrase-stdin"], PASSPHRASE);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("rehearsal") && !text.contains("BAD"), "{text}");
    let output = world.cli(&["verify", "latest", "--json"], "");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["valid"].as_bool(), json["checks"].as_array().unwrap().len()), (Some(true), 3), "{json}");
    std::fs::write(world.file(&backup), "no backup").unwrap();
    let name = backup.name.trim_start_matches("backups/").to_owned();
    let output = world.cli(&["verify", &name], "");
    // 64 + DATA_LOSS.
    assert_eq!(output.status.code(), Some(79), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("BAD"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("BACKUP_CORRUPTED"));
}
