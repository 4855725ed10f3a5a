//! Restoring and undoing without a terminal: what is sent, what is refused, and what is shown of it.

use std::time::Duration;

use holdfast::grpc::proto::backup::notice::Severity::{Blocking, Refusal, Warning};
use holdfast::grpc::proto::backup::{NoticeCode, Operation, OperationPhase, Resource, operation};

use crate::Rig;
use crate::fake::BACKUP;
use crate::platform::{SAFETY, notice, preview, restored, safety};

impl Rig {
    pub fn platform(&self) -> std::sync::MutexGuard<'_, crate::platform::Platform> {
        self.fake.platform.lock().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_followed_and_reported_with_how_to_undo_it() {
    let rig = Rig::new().await;
    rig.platform().previews = [preview("e1", vec![notice(Warning, NoticeCode::PasswordExpired, "", "bob")])].into();
    let ended = rig.run("restore latest --yes --passphrase-stdin --reason drill", "s3cret").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.contains("warning: mail is concerned. (ADAPTER_TYPE_NOT_INSTALLED)\n  what to do: Look after mail."),
        "{ended:?}"
    );
    assert!(ended.out.contains("b-20260302t020000z-safetyyy") && ended.out.ends_with("\nundo it: holdfast undo\n"), "{ended:?}");
    let sent = rig.platform().restores.clone();
    assert_eq!((sent.len(), sent[0].reason.as_str()), (1, "drill"));
    assert!(!sent[0].skip_safety_backup && sent[0].request_id.len() == 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_yes_nothing_is_previewed_so_nothing_goes_stale() {
    let rig = Rig::new().await;
    rig.platform().previews = (1..=4).map(|etag| preview(&etag.to_string(), vec![])).collect();
    assert_eq!(rig.run("restore latest --yes --passphrase-stdin", "s3cret").await.code, 0);
    let sent = rig.platform().restores.clone();
    assert_eq!((sent.len(), sent[0].preview_etag.as_str()), (1, ""));
    assert!(rig.asked("Preview").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_document_on_standard_output() {
    let rig = Rig::new().await;
    let ended = rig.run("restore latest --yes --json --passphrase-stdin", "s3cret").await;
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, printed["safetyBackup"].as_str()), (0, Some(SAFETY)));
    let ended = rig.run("restore latest --preview --json --passphrase-stdin", "s3cret").await;
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((ended.code, &printed["restorable"], &printed["etag"]), (0, &true.into(), &"1".into()));
    assert_eq!(rig.platform().restores.len(), 1, "a preview restores nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn yes_does_not_accept_blocking_warnings_and_names_those_that_are_missing() {
    let rig = Rig::new().await;
    let warnings = vec![
        notice(Blocking, NoticeCode::ColumnDropped, "", "a.b"),
        notice(Blocking, NoticeCode::Other, "VAULT_EMPTY", "vault"),
        notice(Blocking, NoticeCode::LicensesCleared, "", "licenses"),
    ];
    rig.platform().previews = [preview("e1", warnings)].into();
    let line = "restore latest --yes --json --passphrase-stdin --acknowledge LICENSES_CLEARED";
    for line in [line, "restore latest --yes --passphrase-stdin --acknowledge LICENSES_CLEARED"] {
        let ended = rig.run(line, "s3cret").await;
        assert_eq!(ended.code, 64 + 9, "{ended:?}");
        if line.contains("--json") {
            let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
            assert_eq!((printed["warnings"].as_array().unwrap().len(), ended.out.lines().count()), (3, 1), "{ended:?}");
        } else {
            assert_eq!(ended.out, "");
            assert!(ended.err.contains("blocking: a.b is concerned. (COLUMN_DROPPED)\n"), "{ended:?}");
        }
        assert!(ended.err.contains("not acknowledged: COLUMN_DROPPED, VAULT_EMPTY."), "{ended:?}");
        assert!(ended.err.contains("reason: WARNINGS_NOT_ACKNOWLEDGED\n"), "{ended:?}");
        assert!(ended.err.contains("add --acknowledge COLUMN_DROPPED --acknowledge VAULT_EMPTY.\n"), "{ended:?}");
    }
    rig.platform().restores.clear();

    let line = format!("{line} --acknowledge VAULT_EMPTY --acknowledge COLUMN_DROPPED --acknowledge NOT_AMONG_THEM");
    let ended = rig.run(&line, "s3cret").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(printed["safetyBackup"], SAFETY);
    let sent = rig.platform().restores.pop().unwrap();
    assert_eq!(sent.acknowledged_reasons, ["LICENSES_CLEARED", "VAULT_EMPTY", "COLUMN_DROPPED", "NOT_AMONG_THEM"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_not_followed_or_only_checked_is_not_explained_by_a_preview() {
    let rig = Rig::new().await;
    rig.platform().previews = [preview("e1", vec![notice(Blocking, NoticeCode::OtherSystem, "", "file")])].into();
    let checked = rig.run("restore latest --yes --validate-only --passphrase-stdin", "s3cret").await;
    assert!(checked.code == 64 + 9 && checked.err.contains("add --acknowledge OTHER_SYSTEM\n"), "{checked:?}");
    let started = rig.run("restore latest --yes --no-wait --json --passphrase-stdin", "s3cret").await;
    let printed: serde_json::Value = serde_json::from_str(&started.out).unwrap();
    assert_eq!(printed["error"]["reason"], "WARNINGS_NOT_ACKNOWLEDGED");
    assert!(rig.asked("Preview").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_cannot_be_acknowledged_and_says_what_to_do() {
    let rig = Rig::new().await;
    rig.platform().previews = [preview("e1", vec![notice(Refusal, NoticeCode::RowsReferredTo, "", "orders")])].into();
    for rest in ["--yes", "--preview", "--yes --acknowledge ROWS_REFERRED_TO", "--preview --acknowledge ROWS_REFERRED_TO"] {
        let ended = rig.run(&format!("restore latest {rest} --passphrase-stdin"), "s3cret").await;
        assert_eq!(ended.code, 64 + 9, "{ended:?}");
        assert!(
            ended.err.ends_with("orders is concerned.\nreason: ROWS_REFERRED_TO\ninstructions: Look after orders.\n"),
            "{ended:?}"
        );
    }
    let sent = rig.asked("Restore").len();
    assert_eq!(sent, 2, "a preview restores nothing, and the service refused the others");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_a_preview_says_whether_it_could_be_restored() {
    let rig = Rig::new().await;
    rig.platform().previews = [preview("e1", vec![notice(Blocking, NoticeCode::OtherSystem, "", "file")])].into();
    let ended = rig.run("restore latest --preview --json --passphrase-stdin", "s3cret").await;
    assert_eq!(ended.code, 64 + 9, "{ended:?}");
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(printed["warnings"][0]["reason"], "OTHER_SYSTEM");
    let ended = rig.run("restore latest --preview --acknowledge OTHER_SYSTEM --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 0 && ended.out.contains("Restorable:  when acknowledged: OTHER_SYSTEM"), "{ended:?}");
    rig.platform().previews[0].warnings.clear();
    let ended = rig.run("restore latest --preview --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 64 + 9 && ended.err.contains("NOT_RESTORABLE"), "{ended:?}");
    assert!(rig.platform().restores.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_lost_is_sent_again_as_the_same_request() {
    let rig = Rig::new().await;
    rig.platform().lost = 2;
    assert_eq!(rig.run("restore latest --yes --passphrase-stdin", "s3cret").await.code, 0);
    let sent = rig.platform().restores.clone();
    assert!(sent.len() == 3 && sent.iter().all(|request| *request == sent[0]), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_waits_for_others_as_long_as_the_service_says_but_not_for_ever() {
    let rig = Rig::new().await;
    rig.platform().busy = (3, Duration::from_millis(10));
    let ended = rig.run("restore latest --preview --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 0 && ended.err.matches("waiting: Too many previews.").count() == 1, "{ended:?}");
    assert_eq!(rig.asked("Preview").len(), 4);
    rig.platform().busy = (1, Duration::from_secs(3600));
    let ended = rig.run("restore latest --preview --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 64 + 8 && ended.err.contains("reason: RATE_LIMITED"), "{ended:?}");
    assert_eq!(rig.asked("Preview").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_without_a_safety_backup_says_that_it_cannot_be_undone() {
    let rig = Rig::new().await;
    let ended = rig.run("restore latest --yes --skip-safety-backup --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 0 && ended.err.contains("this restore cannot be undone"), "{ended:?}");
    assert!(ended.out.contains("cannot be undone") && !ended.out.contains("holdfast undo"), "{ended:?}");
    assert!(rig.platform().restores[0].skip_safety_backup);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_backup_is_never_a_safety_backup() {
    let rig = Rig::new().await;
    rig.platform().safety = Some(safety());
    let ended = rig.run("show latest --json", "").await;
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(printed["name"], BACKUP);
    assert_eq!(rig.run("restore latest --yes --passphrase-stdin", "s3cret").await.code, 0);
    assert_eq!(rig.platform().restores[0].name, BACKUP, "a second `restore latest` must not undo the first");
    let listed = rig.run("list", "").await.out;
    assert!(listed.contains("b-20260302t020000z-safetyyy") && listed.contains("safety"), "{listed}");
}

fn failed() -> Operation {
    crate::platform::failed("INTERRUPTED", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_restores_what_the_last_restore_replaced_from_its_safety_backup() {
    let rig = Rig::new().await;
    let other = "backups/b-20260101t000000z-otherrrr";
    rig.platform().safety = Some(safety());
    rig.platform().operations = vec![failed(), restored(BACKUP, SAFETY), restored(BACKUP, other)];
    let ended = rig.run("undo --preview", "").await;
    assert!(ended.code == 0 && ended.out.contains("ROWS WRITTEN"), "{ended:?}");
    assert!(rig.platform().restores.is_empty());
    let ended = rig.run("undo --yes --json --reason slip", "").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in ["By:            alice", "Of:            b-20260301t010000z-abcdefgh", "Resources:     adapters"] {
        assert!(ended.err.contains(part), "{part:?} in {}", ended.err);
    }
    let sent = rig.platform().restores.pop().unwrap();
    assert_eq!(
        (sent.name.as_str(), sent.resources, sent.reason.as_str()),
        (SAFETY, vec!["resources/adapters".to_owned()], "slip")
    );
    assert_eq!(rig.asked("Preview").len(), 1);
    rig.run("undo --yes --resources licenses", "").await;
    assert_eq!(rig.platform().restores.pop().unwrap().resources, ["resources/licenses"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_does_not_pass_over_a_restore_that_cannot_be_undone() {
    let rig = Rig::new().await;
    rig.platform().safety = Some(safety());
    rig.platform().operations = vec![restored(BACKUP, ""), restored(BACKUP, SAFETY)];
    let ended = rig.run("undo --yes", "").await;
    assert!(ended.code == 1 && ended.err.contains("cannot be undone") && ended.out.is_empty(), "{ended:?}");
    assert!(rig.platform().restores.is_empty() && rig.asked("Preview").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_falls_back_to_the_newest_safety_backup_when_no_restore_is_known() {
    let rig = Rig::new().await;
    let ended = rig.run("undo --yes", "").await;
    assert!(ended.code == 1 && ended.err.contains("there is nothing to undo"), "{ended:?}");
    rig.platform().safety = Some(safety());
    rig.platform().operations = vec![failed()];
    let ended = rig.run("undo --yes", "").await;
    assert!(ended.code == 0 && ended.err.contains("The newest safety backup is b-20260302t020000z-safetyyy"), "{ended:?}");
    let sent = rig.platform().restores.pop().unwrap();
    assert_eq!((sent.name.as_str(), sent.resources.len()), (SAFETY, 0));
}

/// A restore that was committed so many seconds after 2026-03-01 01:00.
fn committed(safety_backup: &str, seconds: i64) -> Operation {
    let mut operation = restored(BACKUP, safety_backup);
    if let Some(operation::Result::Restore(result)) = &mut operation.result {
        result.commit_time = Some(prost_types::Timestamp { seconds: 1_772_326_800 + seconds, nanos: 0 });
    }
    operation
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_takes_the_restore_that_was_committed_last_not_the_one_asked_for_last() {
    let rig = Rig::new().await;
    let other = "backups/b-20260101t000000z-otherrrr";
    rig.platform().safety = Some(safety());
    // Newest first: the one in the middle waited for the lock.
    rig.platform().operations = vec![committed(other, 20), committed(SAFETY, 30), committed(other, 10)];
    let ended = rig.run("undo --yes", "").await;
    assert!(ended.code == 0 && ended.err.contains("Last restore:  2026-03-01T01:00:30Z"), "{ended:?}");
    assert_eq!(rig.platform().restores.pop().unwrap().name, SAFETY);
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_is_refused_while_a_restore_has_not_ended() {
    let rig = Rig::new().await;
    let mut waiting = Operation { done: false, result: None, ..restored(BACKUP, "") };
    let about = waiting.metadata.as_mut().unwrap();
    (about.phase, about.status_detail) = (OperationPhase::WaitingForLock.into(), "Waits for update-service.".into());
    rig.platform().safety = Some(safety());
    rig.platform().operations = vec![restored(BACKUP, SAFETY), waiting];
    for line in ["undo --yes", "undo --preview"] {
        let ended = rig.run(line, "").await;
        assert_eq!((ended.code, ended.out.as_str()), (64 + 10, ""), "{ended:?}");
        assert!(ended.err.contains("A restore has not ended: waiting for lock: Waits for update-service."), "{ended:?}");
        assert!(ended.err.contains("by alice. follow it: holdfast operations watch 019c0000"), "{ended:?}");
    }
    assert!(rig.platform().restores.is_empty() && rig.asked("Preview").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_asks_and_says_so_when_its_backup_is_gone() {
    let rig = Rig::new().await;
    rig.platform().operations = vec![restored(BACKUP, SAFETY)];
    let ended = rig.run("undo", "yes\n").await;
    assert!(ended.code == 2 && ended.err.contains("use --yes"), "{ended:?}");
    let ended = rig.run("undo --yes", "").await;
    assert!(ended.code == 64 + 5 && ended.err.contains("BACKUP_NOT_FOUND"), "{ended:?}");
    assert!(ended.err.contains("State before:  b-20260302t020000z-safetyyy"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_show_what_is_wrong_with_them_now() {
    let rig = Rig::new().await;
    let notices = vec![notice(Warning, NoticeCode::AdapterTypeNotInstalled, "", "mail\x1b[2J")];
    rig.platform().resources = vec![Resource { name: "resources/adapters".into(), notices, ..Default::default() }];
    let ended = rig.run("resources", "").await;
    assert!(
        ended.out.contains("\nadapters:\nwarning: mail\u{fffd}[2J is concerned. (ADAPTER_TYPE_NOT_INSTALLED)\n"),
        "{ended:?}"
    );
    assert!(ended.out.ends_with("  what to do: Look after mail\u{fffd}[2J.\n"), "{ended:?}");
}
