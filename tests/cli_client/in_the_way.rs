//! Something is in the way, runs or does not end: what an operator is told, and what to do about it.

use holdfast::grpc::proto::backup::{Operation, OperationError, OperationMetadata, OperationType, SystemStatus, operation};
use tonic::Code;

use crate::Rig;
use crate::fake::{BACKUP, OPERATION, pairs, state};
use crate::platform::{SAFETY, restored};

const OTHER: &str = "operations/019c0000-0000-7000-8000-00000000000c";

#[tokio::test(flavor = "multi_thread")]
async fn a_software_update_in_the_way_says_who_why_since_until_and_what_to_do() {
    let rig = Rig::new().await;
    let ended = rig.run("backup --json --description update", "").await;
    assert_eq!((ended.code, ended.out.as_str()), (64 + 9, ""), "a refusal leaves standard output empty");
    let expected = "error: Refused.\nreason: SOFTWARE_UPDATE_IN_PROGRESS\nholder: update-service\nwhy: Update to 8.4.1\n\
        since: 2026-03-01T01:00:00Z\nuntil: 2026-03-01T01:15:00Z, unless it is renewed\nwhat to do:\n\
        \x20 look at it: holdfast lock\n  see it end: holdfast lock watch\n\
        \x20 wait for it: add --lock-wait 30m to backup, restore or undo\n";
    assert_eq!(ended.err, expected);
    assert_eq!(rig.asked("Backup ").len(), 1, "only UNAVAILABLE is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_in_the_way_can_be_followed_cancelled_or_waited_for() {
    let rig = Rig::new().await;
    let ended = rig.run("backup --description busy", "").await;
    assert_eq!(ended.code, 64 + 10, "{ended:?}");
    for command in ["watch", "cancel"] {
        assert!(
            ended.err.contains(&format!("holdfast operations {command} 019c0000-0000-7000-8000-000000000000\n")),
            "{ended:?}"
        );
    }
    assert!(ended.err.contains("--lock-wait"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_the_operation_alone_and_says_so() {
    let rig = Rig::new().await;
    let ended = rig.interrupted("backup --description endless", "WatchOperation").await;
    assert_eq!(ended.code, 130);
    assert!(ended.err.contains("The operation goes on.\n  follow it: holdfast operations watch 019c0000"), "{ended:?}");
    assert!(ended.err.contains("holdfast operations cancel 019c0000"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_before_the_service_answered_says_that_it_may_be_at_work() {
    let rig = Rig::new().await;
    let ended = rig.interrupted("backup --description silent", "Backup silent").await;
    assert_eq!(ended.code, 130);
    assert!(ended.err.contains("may be at work all the same.\n  look: holdfast operations\n"), "{ended:?}");
}

fn obstacle(code: Code, reason: &str, metadata: &[(&str, &str)]) -> OperationError {
    OperationError {
        code: code as i32,
        message: "Taken.".into(),
        reason: reason.into(),
        metadata: pairs(metadata),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_is_in_the_way_in_words_and_what_to_do() {
    let rig = Rig::new().await;
    let update = [("holder", "update-service"), ("holderReason", "Update to 8.4.1"), ("acquireTime", "T1"), ("expireTime", "T2")];
    let stale = [&update[..], &[("stale", "true")]].concat();
    let shown: [(OperationError, &[&str], &[&str]); 4] = [
        (
            obstacle(Code::FailedPrecondition, "SOFTWARE_UPDATE_IN_PROGRESS", &update),
            &["Holder:  update-service\n", "Why:     Update to 8.4.1\n", "Since:   T1\n", "Until:   T2, unless", "--lock-wait"],
            &["stopped renewing"],
        ),
        (
            obstacle(Code::FailedPrecondition, "SOFTWARE_UPDATE_IN_PROGRESS", &stale),
            &["Until:   T2; its holder stopped renewing\n", "Stale:   yes\n", "holdfast lock\n"],
            &["--lock-wait", "lock release"],
        ),
        (
            obstacle(Code::Aborted, "OPERATION_IN_PROGRESS", &[("operation", OPERATION), ("acquireTime", "T1")]),
            &["Since:      T1\n", "holdfast operations watch 019c0000-0000-7000-8000-000000000000\n"],
            &[],
        ),
        (obstacle(Code::Unavailable, "LOCK_SERVICE_UNAVAILABLE", &[]), &["nothing starts without the maintenance lock"], &[]),
    ];
    for (obstacle, present, absent) in shown {
        rig.platform().status = SystemStatus { obstacles: vec![obstacle], ..SystemStatus::default() };
        let ended = rig.run("status", "").await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.out.contains("Backup possible:   no\n"), "{ended:?}");
        assert!(present.iter().all(|part| ended.out.contains(part)), "{present:?} in {}", ended.out);
        assert!(!absent.iter().any(|part| ended.out.contains(part)), "{absent:?} in {}", ended.out);
    }
}

fn running() -> Operation {
    let metadata = OperationMetadata { r#type: OperationType::Backup.into(), caller: "timer".into(), ..Default::default() };
    Operation { name: OTHER.into(), metadata: Some(metadata), ..Operation::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_have_not_ended_stand_first_or_alone() {
    let rig = Rig::new().await;
    rig.platform().operations = vec![restored(BACKUP, SAFETY), running()];
    let ended = rig.run("operations", "").await;
    let rows: Vec<&str> = ended.out.lines().skip(1).collect();
    assert!(rows.len() == 2 && rows[0].starts_with("019c0000-0000-7000-8000-00000000000c  backup"), "{ended:?}");
    assert!(rows[0].ends_with("timer"), "{ended:?}");
    let ended = rig.run("operations list --active --json", "").await;
    let printed: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((printed["operations"].as_array().unwrap().len(), &printed["operations"][0]["name"]), (1, &OTHER.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_what_has_ended_says_how_it_ended_and_asks_for_nothing() {
    let rig = Rig::new().await;
    let mut ended = restored(BACKUP, SAFETY);
    ended.metadata.as_mut().unwrap().end_time = Some(prost_types::Timestamp { seconds: 1_772_326_800, nanos: 0 });
    rig.platform().operations = vec![ended];
    let told = rig.run(&format!("operations cancel {OPERATION}"), "").await;
    let expected = "Operation 019c0000-0000-7000-8000-000000000000 had ended already, 2026-03-01T01:00:00Z: done. \
        Nothing was cancelled; to undo the restore: holdfast undo\n";
    assert_eq!((told.code, told.err.as_str()), (0, expected));
    let error = operation::Result::Error(OperationError { code: 1, ..OperationError::default() });
    rig.platform().operations = vec![state(9, Some(error))];
    let told = rig.run(&format!("operations cancel {OPERATION}"), "").await;
    assert!(told.code == 0 && told.err.ends_with(": cancelled.\n"), "{told:?}");
    assert!(rig.asked("Cancel").is_empty());
    rig.platform().operations = vec![running()];
    let told = rig.run(&format!("operations cancel {OTHER}"), "").await;
    assert!(told.code == 0 && told.err.contains("Cancellation was asked for."), "{told:?}");
    assert_eq!(rig.asked("Cancel"), [format!("Cancel {OTHER}")]);
}
