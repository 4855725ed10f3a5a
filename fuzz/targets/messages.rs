//! Requests: the first byte tells which, the others are the message. Page tokens, names, times and spans become values, or a refusal that
//! names a field. A page token that is accepted is one that was given out.

#![no_main]

use holdfast::grpc::fuzzing::{backup, event, fields, lock, operation, settings};
use holdfast::grpc::proto::backup as wire;
use holdfast::grpc::proto::lock as locks;
use holdfast::model::{OperationId, ResourceName};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let _ = match kind % 20 {
        0 => str::from_utf8(data).ok().map(|token| {
            same::<i64>(token);
            same::<OperationId>(token);
            same::<ResourceName>(token);
        }),
        1 => decoded(data, |request: wire::ListBackupsRequest| backup::list_backups_request(&request).is_ok()),
        2 => decoded(data, |request: wire::ListOperationsRequest| operation::list_request(&request).is_ok()),
        3 => decoded(data, |request: wire::ListAuditEventsRequest| event::list_request(&request).is_ok()),
        4 => decoded(data, |request: wire::WatchAuditEventsRequest| event::watch_request(&request).is_ok()),
        5 => decoded(data, |request: wire::ListAuditRecordsRequest| event::records_request(&request).is_ok()),
        6 => decoded(data, |request| backup::backup_request(request).is_ok()),
        7 => decoded(data, |request| backup::restore_request(request).is_ok()),
        8 => decoded(data, |request| backup::preview_request(request).is_ok()),
        9 => decoded(data, |request| backup::verify_request(request).is_ok()),
        10 => decoded(data, |request| backup::update_request(request).is_ok()),
        11 => decoded(data, |request: wire::DownloadBackupRequest| backup::download_request(&request).is_ok()),
        12 => decoded(data, |request: wire::UploadBackupRequest| backup::upload_request(Some(request)).is_ok()),
        13 => decoded(data, |request| settings::schedule_change(request).is_ok()),
        14 => decoded(data, |request| settings::set_retention_request(request).is_ok()),
        15 => decoded(data, |request| settings::set_encryption_request(request).is_ok()),
        16 => decoded(data, |request: locks::AcquireLockRequest| lock::acquire_request(request, "somebody").is_ok()),
        17 => decoded(data, |request| lock::renew_request(request).is_ok()),
        18 => decoded(data, |request| lock::force_request(request).is_ok()),
        _ => decoded(data, |request: wire::WaitOperationRequest| {
            operation::wait_request(&request, &Default::default()).is_ok()
        }),
    };
});

fn decoded<M: Message + Default>(data: &[u8], convert: impl FnOnce(M) -> bool) -> Option<()> {
    let _ = convert(M::decode(data).ok()?);
    Some(())
}

fn same<T: std::str::FromStr + std::fmt::Display>(token: &str) {
    for list in ["backups", "operations", ""] {
        if let Ok(Some(place)) = fields::page_place::<T>(list, token) {
            assert_eq!(fields::page_token(list, place), token);
        }
    }
}
