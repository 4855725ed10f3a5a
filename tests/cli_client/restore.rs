//! Restoring and undoing without a terminal: what is previewed, what is sent, what is refused before it is sent.

use holdfast::grpc::proto::backup::notice::Severity::{Blocking, Refusal, Warning};
use holdfast::grpc::proto::backup::{
    NoticeCode, Operation, OperationError, OperationMetadata, OperationType, Resource, operation,
};

use crate::Rig;
use crate::fake::{BACKUP, state};
use crate::platform::{SAFETY, notice, preview, restored, safety};

impl Rig {
    fn platform(&self) -> std::sync::MutexGuard<'_, crate::platform::Platform> {
        self.fake.platform.lock().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_previewed_followed_and_reported_with_how_to_undo_it() {
    let rig = Rig::new().await;
    rig.platform().previews = [preview("e1", vec![notice(Warning, NoticeCode::PasswordExpired, "", "bob")])].into();
    let ended = rig.run("restore latest --yes --passphrase-stdin --reason drill", "s3cret").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in
        ["RESOURCE  ", "ROWS WRITTEN", "adapters  replace  4", "warning: bob is concerned. (PASSWORD_EXPIRED)", "transferring"]
    {
        assert!(ended.err.contains(part), "{part:?} in {}", ended.err);
    }
    assert!(
        ended.out.contains("warning: mail is concerned. (ADAPTER_TYPE_NOT_INSTALLED)\n  what to do: Look after mail."),
        "{ended:?}"
    );
    assert!(ended.out.contains("b-20260302t020000z-safetyyy") && ended.out.ends_with("\nundo it: holdfast undo\n"), "{ended:?}");
    let sent = rig.platform().restores.clone();
    assert_eq!((sent.len(), sent[0].preview_etag.as_str(), sent[0].reason.as_str()), (1, "e1", "drill"));
    assert!(!sent[0].skip_safety_backup && sent[0].request_id.len() == 36);
    assert_eq!(rig.asked("Preview"), [format!(r#"Preview {BACKUP} "s3cret" []"#)]);
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
        assert_eq!((ended.code, ended.out.as_str()), (64 + 9, ""), "{ended:?}");
        assert!(ended.err.contains("not acknowledged: COLUMN_DROPPED, VAULT_EMPTY."), "{ended:?}");
        assert!(ended.err.contains("reason: WARNINGS_NOT_ACKNOWLEDGED\n"), "{ended:?}");
        assert!(ended.err.contains("add --acknowledge COLUMN_DROPPED --acknowledge VAULT_EMPTY.\n"), "{ended:?}");
    }
    assert!(rig.platform().restores.is_empty());

    let line = format!("{line} --acknowledge VAULT_EMPTY --acknowledge COLUMN_DROPPED --acknowledge NOT_AMONG_THEM");
    let ended = rig.run(&line, "s3cret").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let sent = rig.platform().restores.pop().unwrap();
    let codes = [NoticeCode::ColumnDropped as i32, NoticeCode::LicensesCleared as i32];
    assert_eq!((sent.acknowledged_warnings.as_slice(), sent.acknowledged_reasons), (&codes[..], vec!["VAULT_EMPTY".to_owned()]));
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
    assert!(rig.platform().restores.is_empty());
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
async fn with_yes_a_stale_preview_is_made_again_three_times_and_no_more() {
    let rig = Rig::new().await;
    let fresh = |count: u32| (1..=count).map(|etag| preview(&etag.to_string(), vec![])).collect();
    rig.platform().previews = fresh(4);
    let ended = rig.run("restore latest --yes --passphrase-stdin", "s3cret").await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("A new preview shows the same as before."), "{ended:?}");
    let sent: Vec<_> = rig.platform().restores.drain(..).collect();
    assert_eq!(sent.iter().map(|request| request.preview_etag.as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert!(sent[0].request_id != sent[1].request_id, "another preview is another request");

    rig.platform().previews = fresh(9);
    let ended = rig.run("restore latest --yes --passphrase-stdin", "s3cret").await;
    assert_eq!((ended.code, ended.out.as_str()), (64 + 10, ""), "{ended:?}");
    assert!(ended.err.contains("reason: PREVIEW_STALE"), "{ended:?}");
    assert_eq!(rig.platform().restores.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_warning_that_is_new_after_a_stale_preview_is_not_accepted_by_yes() {
    let rig = Rig::new().await;
    let blocking = notice(Blocking, NoticeCode::NoAdministratorInBackup, "", "accounts");
    rig.platform().previews = [preview("1", vec![]), preview("2", vec![blocking])].into();
    let ended = rig.run("restore latest --yes --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 64 + 9 && ended.err.contains("--acknowledge NO_ADMINISTRATOR_IN_BACKUP"), "{ended:?}");
    assert_eq!(rig.platform().restores.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_lost_is_sent_again_as_the_same_request() {
    let rig = Rig::new().await;
    rig.platform().lost = 2;
    assert_eq!(rig.run("restore latest --yes --passphrase-stdin", "s3cret").await.code, 0);
    let sent = rig.platform().restores.clone();
    assert!(sent.len() == 3 && sent.iter().all(|request| *request == sent[0]), "{sent:?}");
    assert_eq!(rig.asked("Preview").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_waits_for_what_is_in_the_way_as_long_as_the_restore_would() {
    let rig = Rig::new().await;
    rig.platform().busy = 2;
    let ended = rig.run("restore latest --yes --passphrase-stdin --lock-wait 10m", "s3cret").await;
    assert!(ended.code == 0 && ended.err.contains("waiting: Refused."), "{ended:?}");
    assert_eq!(rig.asked("Preview").len(), 3);
    rig.platform().busy = 1;
    let ended = rig.run("restore latest --yes --passphrase-stdin", "s3cret").await;
    assert!(ended.code == 64 + 10 && ended.err.contains("OPERATION_IN_PROGRESS"), "{ended:?}");
    assert_eq!(rig.platform().restores.len(), 1);
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
    let error = operation::Result::Error(OperationError { code: 10, ..Default::default() });
    let metadata = OperationMetadata { r#type: OperationType::Restore.into(), ..Default::default() };
    Operation { metadata: Some(metadata), ..state(3, Some(error)) }
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
    assert_eq!(rig.asked("Preview").len(), 2);
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
