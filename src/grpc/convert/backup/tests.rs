//! Tests of `backup`.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::fields::tests::refused;
use super::*;
use crate::model::catalog::Resource;
use crate::model::manifest::PassphraseNote;
use crate::model::{BackupId, FileName, OperationId};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_772_326_800 + seconds, 0).unwrap()
}

pub fn sample(passphrase: Option<PassphraseNote>) -> Backup {
    let id = BackupId::new(at(0), Uuid::from_u128(77));
    Backup {
        file_name: FileName::new(id.clone(), Sha256([7; 32]), passphrase.is_some()),
        id,
        uid: Some(Uuid::from_u128(5)),
        state: State::Ready,
        trigger: Trigger::Scheduled,
        description: "before the move".into(),
        creator: "user:eve".into(),
        operation: Some(OperationId(Uuid::from_u128(9))),
        create_time: at(0),
        snapshot_time: Some(at(1)),
        complete_time: Some(at(2)),
        size_bytes: 4096,
        sha256: Sha256([7; 32]),
        passphrase,
        opened_by: None,
        recipients: Vec::new(),
        write_only: false,
        resources: vec![ResourceContent { name: "adapters".parse().unwrap(), title: "Adapters".into(), items: 3, bytes: 99 }],
        format_version: "1.0".into(),
        source_system: Some(Uuid::from_u128(6)),
        origin: None,
        state_detail: String::new(),
        last_verification: None,
        pinned: true,
    }
}

fn note() -> PassphraseNote {
    PassphraseNote { generation: 2, set_time: at(-9) }
}

fn entry(sequence: i64) -> Listed {
    Listed {
        archive_time: None,
        backup: sample(Some(note())),
        sequence,
        register_time: at(3),
        revision: 8,
        position: None,
        max_count: 30,
        next_to_expire: false,
        current_passphrase: true,
    }
}

#[test]
fn a_listed_backup_tells_what_the_catalog_knows() {
    let message = listed(Listed { position: Some(4), next_to_expire: true, ..entry(1) });
    assert_eq!(backup_id("name", &message.name).unwrap(), sample(None).id);
    assert_eq!((message.state(), message.trigger()), (wire::backup::State::Ready, wire::Trigger::Scheduled));
    assert_eq!((message.etag.as_str(), message.size_bytes, message.pinned), ("\"8\"", 4096, Some(true)));
    assert_eq!(message.sha256, "07".repeat(32));
    let times = [message.create_time, message.snapshot_time, message.complete_time, message.register_time];
    assert_eq!(times.map(|time| time.unwrap().seconds - at(0).timestamp()), [0, 1, 2, 3]);
    let position = message.retention_position.unwrap();
    assert_eq!((position.position, position.max_count, position.next_to_expire), (4, 30, true));
    let info = message.encryption_info.unwrap();
    assert_eq!(info.r#type(), wire::encryption_info::Type::Passphrase);
    assert_eq!((info.passphrase_generation, info.current_passphrase), (2, true));
    assert_eq!((message.resources[0].resource.as_str(), message.resources[0].item_count), ("resources/adapters", 3));
    assert!(listed(entry(1)).retention_position.is_none());
}

#[test]
fn a_file_that_nobody_has_opened_yet_claims_nothing() {
    let name = FileName::new(BackupId::new(at(0), Uuid::from_u128(77)), Sha256([7; 32]), true);
    let message = backup(Backup::found(name, 9, Sha256([7; 32]), "system:folder"));
    assert_eq!(message.create_time.unwrap().seconds, at(0).timestamp(), "its name tells");
    assert_eq!((message.snapshot_time, message.complete_time, message.resources.len()), (None, None, 0));
    assert_eq!([message.uid, message.operation, message.source_system, message.format_version], [""; 4]);
    let info = message.encryption_info.unwrap();
    assert_eq!(info.r#type(), wire::encryption_info::Type::Passphrase);
    assert_eq!((info.passphrase_generation, info.passphrase_set_time), (0, None));
}

#[test]
fn a_plain_backup_says_that_it_is_not_encrypted() {
    let info = backup(sample(None)).encryption_info.unwrap();
    assert_eq!((info.r#type(), info.algorithm.as_str()), (wire::encryption_info::Type::None, ""));
}

#[test]
fn a_page_continues_where_the_last_one_ended() {
    let page = list_backups_response(Page { items: vec![entry(5), entry(4)], next: Some(4), total: 9 });
    assert_eq!((page.backups.len(), page.total_size), (2, 9));
    let next = wire::ListBackupsRequest { page_size: 2, page_token: page.next_page_token };
    assert_eq!(list_backups_request(&next).unwrap(), (2, Some(4)));
    assert_eq!(list_backups_request(&wire::ListBackupsRequest::default()).unwrap(), (50, None));
    assert!(list_backups_response(Page { items: vec![], next: None, total: 0 }).next_page_token.is_empty());
}

#[test]
fn an_empty_backup_request_is_valid_and_harmless() {
    let request = backup_request(wire::BackupRequest::default()).unwrap();
    assert_eq!(request.trigger, Trigger::OnDemand);
    assert!(request.lock_wait.is_zero() && request.scheduled_time.is_none() && !request.validate_only);
}

#[test]
fn only_callers_triggers_can_be_asked_for() {
    let of = |trigger: i32| backup_request(wire::BackupRequest { trigger, ..Default::default() });
    assert_eq!(of(wire::Trigger::Scheduled.into()).unwrap().trigger, Trigger::Scheduled);
    for trigger in [wire::Trigger::Safety as i32, wire::Trigger::Uploaded as i32, wire::Trigger::Imported as i32, 99, -1] {
        assert_eq!(refused(of(trigger)).1, "trigger");
    }
    let planned = Some(prost_types::Timestamp { seconds: 1_772_326_800, nanos: 0 });
    let on_demand = wire::BackupRequest { scheduled_time: planned, ..Default::default() };
    assert_eq!(refused(backup_request(on_demand)).1, "scheduled_time");
}

#[test]
fn a_restore_takes_the_passphrase_as_it_is_and_promises_nothing_it_does_not_keep() {
    let request = wire::RestoreRequest { name: format!("backups/{}", sample(None).id), ..Default::default() };
    let with = |passphrase: &str| restore_request(wire::RestoreRequest { passphrase: passphrase.into(), ..request.clone() });
    assert!(with("").unwrap().opener.is_none());
    assert_eq!(with(" blanks count ").unwrap().opener.unwrap().passphrase().unwrap().reveal(), " blanks count ");
    let with_key = |secret_key: Vec<u8>| restore_request(wire::RestoreRequest { secret_key, ..request.clone() });
    assert!(matches!(with_key(vec![1]).unwrap().opener, Some(crate::model::Opener::SecretKey(_))));
    assert_eq!(refused(with_key(vec![0; 65_537])).1, "secret_key");
    let previewed = wire::RestoreRequest { preview_etag: "1".into(), ..request.clone() };
    assert_eq!(restore_request(previewed).unwrap().preview_etag.as_deref(), Some("1"));
    let long = wire::RestoreRequest { reason: "x".repeat(257), ..request.clone() };
    assert_eq!(refused(restore_request(long)).1, "reason");
    let acknowledged_reasons = vec!["PRINTER_LOST".to_owned()];
    let lenient = wire::RestoreRequest {
        skip_safety_backup: true,
        acknowledged_warnings: vec![4],
        acknowledged_reasons,
        ..request.clone()
    };
    let lenient = restore_request(lenient).unwrap();
    assert_eq!(
        (lenient.safety_backup, lenient.acknowledged),
        (false, vec!["PRINTER_LOST".into(), "NO_ADMINISTRATOR_IN_BACKUP".into()])
    );
    assert!(restore_request(request.clone()).unwrap().safety_backup);
    let unknown = wire::RestoreRequest { acknowledged_warnings: vec![9999], ..request };
    assert_eq!(refused(restore_request(unknown)).1, "acknowledged_warnings");
    assert_eq!(refused(restore_request(wire::RestoreRequest::default())).1, "name");
}

#[test]
fn a_download_begins_and_ends_where_it_is_asked_to() {
    let request = wire::DownloadBackupRequest { name: format!("backups/{}", sample(None).id), ..Default::default() };
    let all = download_request(&request).unwrap();
    assert_eq!((all.offset, all.limit, all.expected), (0, None, None));
    let part = wire::DownloadBackupRequest { read_offset: 7, read_limit: 5, expected_sha256: "07".repeat(32), ..request.clone() };
    let part = download_request(&part).unwrap();
    assert_eq!((part.offset, part.limit, part.expected), (7, Some(5), Some(Sha256([7; 32]))));
    let negative = |read_offset, read_limit| wire::DownloadBackupRequest { read_offset, read_limit, ..request.clone() };
    assert_eq!(refused(download_request(&negative(-1, 0))).1, "read_offset");
    assert_eq!(refused(download_request(&negative(0, -1))).1, "read_limit");
    let odd = wire::DownloadBackupRequest { expected_sha256: "AB".into(), ..request.clone() };
    assert_eq!(refused(download_request(&odd)).1, "expected_sha256");
}

#[test]
fn resources_come_in_pages_each_once() {
    let state = |number: usize| ResourceState {
        resource: Resource {
            name: format!("r{number}").parse().unwrap(),
            title: "T".into(),
            description: String::new(),
            sensitive: false,
            tables: Vec::new(),
            sequences: Vec::new(),
            references: Vec::new(),
            checks: Vec::new(),
            watches: Vec::new(),
        },
        depends_on: Vec::new(),
        items: 0,
        notices: Vec::new(),
    };
    for (count, size) in [(0, 2), (1, 2), (2, 2), (5, 2), (6, 3), (5, 200)] {
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = wire::ListResourcesRequest { page_size: size, page_token };
            let page = list_resources(&request, (0..count).map(state).collect()).unwrap();
            assert!(page.resources.len() <= size as usize);
            names.extend(page.resources.into_iter().map(|resource| resource.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(names, (0..count).map(|number| format!("resources/r{number}")).collect::<Vec<_>>());
    }
}
