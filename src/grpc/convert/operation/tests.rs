//! Tests of `operation`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::backup::tests::sample;
use super::super::fields::tests::refused;
use super::*;
use crate::model::Reason;
use crate::model::backup::Trigger;
use crate::model::event::Actor;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn running() -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(9)),
        kind: Kind::Restore,
        trigger: Some(Trigger::OnDemand),
        caller: "user:eve".into(),
        actor: Actor::default(),
        method: String::new(),
        reason: String::new(),
        request_id: "r-1".into(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap()),
        target: Some(sample(None).id),
        create_time: at(1),
        start_time: Some(at(2)),
        end_time: None,
        phase: Phase::Applying,
        detail: "replaces data".into(),
        progress: Progress { percent: 40, current_resource: Some("adapters".parse().unwrap()), ..Default::default() },
        cancel_requested: true,
        fencing_token: 11,
        revision: 12,
        outcome: None,
    }
}

fn ended(outcome: Outcome) -> wire::Operation {
    operation(Operation { outcome: Some(outcome), phase: Phase::Done, ..running() })
}

#[test]
fn an_operation_tells_how_far_it_is() {
    let message = operation(running());
    assert_eq!(operation_id("name", &message.name).unwrap(), running().id);
    assert!(!message.done && message.result.is_none());
    let metadata = message.metadata.unwrap();
    assert_eq!(metadata.r#type(), wire::OperationType::Restore);
    assert_eq!(metadata.phase(), wire::OperationPhase::Applying);
    assert_eq!((metadata.fencing_token, metadata.revision), (11, 12));
    assert_eq!(metadata.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(metadata.cancellable && metadata.cancel_requested && metadata.end_time.is_none());
    let progress = metadata.progress.unwrap();
    assert_eq!((progress.percent, progress.current_resource.as_str()), (40, "resources/adapters"));
}

#[test]
fn an_operation_that_ended_has_exactly_its_result() {
    let failure = Failure::new(Reason::CancelledByCaller, "It was cancelled.");
    let failed = Operation { outcome: Some(Outcome::Failed(Box::new(failure))), ..running() };
    assert_eq!(super::failure(&failed).unwrap().reason, Reason::CancelledByCaller);
    let message = operation(failed);
    assert!(message.done && !message.metadata.unwrap().cancellable);
    let Some(wire::operation::Result::Error(error)) = message.result else { panic!("not an error") };
    assert_eq!((error.code, error.reason.as_str()), (1, "CANCELLED_BY_CALLER"));
}

#[test]
fn a_backup_names_what_retention_did() {
    let id = sample(None).id;
    let result = BackupResult {
        backup: sample(None),
        expired: vec![id.clone(), id.clone()],
        not_expired: vec![id.clone()],
        notices: Vec::new(),
    };
    let message = ended(Outcome::Backup(Box::new(result)));
    let Some(wire::operation::Result::Backup(result)) = message.result else { panic!("not a backup") };
    assert_eq!(result.expired_backups, [backup_name(&id), backup_name(&id)]);
    let codes: Vec<_> = result.notices.iter().map(wire::Notice::code).collect();
    use wire::NoticeCode::{BackupExpired, NotEncrypted, RetentionIncomplete};
    assert_eq!(codes, [BackupExpired, BackupExpired, RetentionIncomplete, NotEncrypted]);
    assert!(result.notices[..3].iter().all(|notice| notice.subject == backup_name(&id)));
}

#[test]
fn a_restore_names_what_it_changed_and_what_it_did_not() {
    let change = |resource: &str, items_in_backup| ResourceChange {
        resource: resource.parse().unwrap(),
        items_before: 5,
        items_in_backup,
        items_removed: 2,
        items_added: 1,
        items_changed: 3,
        rows_removed: 4,
        rows_added: 5,
        rows_changed: 6,
    };
    let result = RestoreResult {
        backup: sample(None).id,
        snapshot_time: at(1),
        commit_time: at(2),
        changes: vec![change("adapters", 4), change("licenses", 0)],
        notices: vec![
            Notice::new(Severity::Warning, "RESOURCE_NOT_SUPPORTED", "It is skipped.").of(&"old".parse().unwrap()),
            Notice::new(Severity::Info, "PRINTER_LOST", "The printer is gone.").about("p1"),
        ],
        safety_backup: Some(sample(None).id),
    };
    let message = ended(Outcome::Restore(Box::new(result)));
    let Some(wire::operation::Result::Restore(result)) = message.result else { panic!("not a restore") };
    let actions: Vec<_> = result.changes.iter().map(wire::ResourceChange::action).collect();
    assert_eq!(actions, [wire::resource_change::Action::Replace, wire::resource_change::Action::Clear]);
    let notices: Vec<_> = result.notices.iter().map(|notice| (notice.code(), notice.resource.as_str())).collect();
    assert_eq!(notices, [(wire::NoticeCode::ResourceNotSupported, "resources/old"), (wire::NoticeCode::Other, "")]);
    assert_eq!(result.notices[1].reason, "PRINTER_LOST");
    assert_eq!(result.safety_backup, backup_name(&sample(None).id));
}

#[test]
fn a_request_that_was_only_validated_is_done_and_has_no_name() {
    let message = accepted(None, Kind::Backup);
    assert!(message.done && message.name.is_empty() && message.result.is_none());
    let metadata = message.metadata.unwrap();
    assert_eq!((metadata.r#type(), metadata.api_version.as_str()), (wire::OperationType::Backup, "v1"));
    assert!(!accepted(Some(running()), Kind::Restore).name.is_empty());
}

#[test]
fn a_token_of_all_operations_does_not_continue_the_active_ones() {
    let page = list_response(vec![running()], Some(running().id), false);
    let next = |active_only| wire::ListOperationsRequest { page_token: page.next_page_token.clone(), active_only, page_size: 0 };
    assert_eq!(list_request(&next(false)).unwrap(), (50, Some(running().id), false));
    assert_eq!(refused(list_request(&next(true))).0, "INVALID_PAGE_TOKEN");
}

#[test]
fn a_wait_ends_with_the_shortest_of_its_limits() {
    let wait = |seconds: Option<i64>, deadline: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", deadline.parse().unwrap());
        let timeout = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let request = wire::WaitOperationRequest { name: operation_name(running().id), timeout, error_as_status: false };
        wait_request(&request, &metadata).map(|(_, limit)| limit)
    };
    assert_eq!(wait(None, "").unwrap(), Duration::from_secs(60));
    assert_eq!(wait(Some(0), "").unwrap(), Duration::ZERO);
    assert_eq!(wait(Some(3600), "").unwrap(), Duration::from_secs(600));
    assert_eq!(wait(Some(600), "30S").unwrap(), Duration::from_secs(29));
    assert_eq!(wait(Some(600), "100m").unwrap(), Duration::from_millis(90));
    assert_eq!(wait(Some(5), "1H").unwrap(), Duration::from_secs(5));
    for odd in ["x", "S", "-1S", "123456789S", "1"] {
        assert_eq!(wait(None, odd).unwrap(), Duration::from_secs(60), "{odd}");
    }
    assert_eq!(refused(wait(Some(-1), "")).1, "timeout");
}

#[test]
fn an_obstacle_to_both_is_named_once() {
    let obstacle = |reason| Failure::new(reason, "obstacle");
    let status = system_status(SystemStatus {
        backup_obstacles: vec![obstacle(Reason::DatabaseUnavailable)],
        restore_obstacles: vec![obstacle(Reason::LockServiceUnavailable), obstacle(Reason::DatabaseUnavailable)],
        active: vec![running()],
        latest: None,
        next_run: None,
        encryption_enabled: true,
        backup_count: 3,
        storage_total_bytes: u64::MAX,
        storage_available_bytes: 1,
        storage_used_bytes: 2,
        system_id: Uuid::nil(),
        archive: None,
    });
    assert!(!status.backup_possible && !status.restore_possible);
    assert_eq!(status.obstacles.len(), 2);
    assert_eq!((status.storage_total_bytes, status.latest_backup.as_str()), (i64::MAX, ""));
    assert_eq!(status.active_operations.len(), 1);
}
