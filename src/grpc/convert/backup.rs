//! Backups, their files and resources, and the requests about them.

use std::collections::BTreeSet;

use tonic::Status;

use super::fields::{
    MAX_REQUEST_ID, MAX_TEXT, backup_id, backup_name, etag, int32, int64, invalid, lock_wait, operation_name, page_place,
    page_size, page_token, resource_name, resources, text, time, timestamp,
};
use super::operation::{notice, notice_code};
use crate::grpc::proto::backup as wire;
use crate::model::backup::{Backup, ResourceContent, State, Trigger};
use crate::model::manifest::PassphraseNote;
use crate::model::verification::VerifyLevel;
use crate::model::{Passphrase, ResourceName, Sha256};
use crate::operations::call::{
    BackupRequest, Chunk, Download, DownloadRequest, Listed, Page, PreviewRequest, ResourceState, RestoreRequest, VerifyRequest,
};

/// Lists a page token may belong to.
const BACKUPS: &str = "backups";
const RESOURCES: &str = "resources";

/// Acknowledged reasons, and characters of one.
const MAX_REASONS: usize = 100;
const MAX_REASON: usize = 63;

/// What `archive` writes: RFC 9580 SEIPD version 1.
pub const ALGORITHM: &str = "AES256.CFB";

pub fn backup_request(request: wire::BackupRequest) -> Result<BackupRequest, Status> {
    let trigger = match wire::Trigger::try_from(request.trigger) {
        Ok(wire::Trigger::Unspecified | wire::Trigger::OnDemand) => Trigger::OnDemand,
        Ok(wire::Trigger::Scheduled) => Trigger::Scheduled,
        Ok(wire::Trigger::Safety | wire::Trigger::Uploaded | wire::Trigger::Imported) | Err(_) => {
            return Err(invalid("trigger", "`trigger` is TRIGGER_ON_DEMAND or TRIGGER_SCHEDULED in a request; choose one."));
        }
    };
    let scheduled_time = request.scheduled_time.map(|planned| time("scheduled_time", planned)).transpose()?;
    if scheduled_time.is_some() && trigger != Trigger::Scheduled {
        return Err(invalid("scheduled_time", "`scheduled_time` goes with TRIGGER_SCHEDULED; leave it out, or set `trigger`."));
    }
    Ok(BackupRequest {
        description: text("description", request.description, MAX_TEXT)?,
        trigger,
        scheduled_time,
        lock_wait: lock_wait(request.lock_wait)?,
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID)?,
        validate_only: request.validate_only,
    })
}

pub fn restore_request(request: wire::RestoreRequest) -> Result<RestoreRequest, Status> {
    if request.acknowledged_reasons.len() > MAX_REASONS {
        return Err(invalid(
            "acknowledged_reasons",
            format!("`acknowledged_reasons` has at most {MAX_REASONS} entries; shorten it."),
        ));
    }
    let reasons = request.acknowledged_reasons.into_iter().map(|reason| text("acknowledged_reasons", reason, MAX_REASON));
    let mut acknowledged = reasons.collect::<Result<Vec<_>, _>>()?;
    for code in request.acknowledged_warnings {
        let code = wire::NoticeCode::try_from(code).map_err(|_| {
            invalid("acknowledged_warnings", "`acknowledged_warnings` has a code that this version does not know; leave it out.")
        })?;
        acknowledged.push(code.as_str_name().trim_start_matches("NOTICE_CODE_").to_owned());
    }
    Ok(RestoreRequest {
        preview_etag: (!request.preview_etag.is_empty()).then_some(request.preview_etag),
        acknowledged,
        safety_backup: !request.skip_safety_backup,
        backup: backup_id("name", &request.name)?,
        passphrase: Passphrase::new(request.passphrase),
        resources: resources("resources", &request.resources)?,
        lock_wait: lock_wait(request.lock_wait)?,
        reason: text("reason", request.reason, MAX_TEXT)?,
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID)?,
        validate_only: request.validate_only,
    })
}

pub fn preview_request(request: wire::PreviewRestoreRequest) -> Result<PreviewRequest, Status> {
    Ok(PreviewRequest {
        backup: backup_id("name", &request.name)?,
        passphrase: Passphrase::new(request.passphrase),
        resources: resources("resources", &request.resources)?,
    })
}

pub fn verify_request(request: wire::VerifyBackupRequest) -> Result<VerifyRequest, Status> {
    let level = match wire::VerifyLevel::try_from(request.level) {
        Ok(wire::VerifyLevel::Unspecified | wire::VerifyLevel::Checksum) => VerifyLevel::Checksum,
        Ok(wire::VerifyLevel::Contents) => VerifyLevel::Contents,
        Ok(wire::VerifyLevel::Rehearsal) => VerifyLevel::Rehearsal,
        Err(_) => {
            return Err(invalid(
                "level",
                "`level` is one that this version does not know; choose CHECKSUM, CONTENTS or REHEARSAL.",
            ));
        }
    };
    Ok(VerifyRequest {
        backup: backup_id("name", &request.name)?,
        level,
        passphrase: Passphrase::new(request.passphrase),
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID)?,
    })
}

/// Page size, and the sequence after which the page begins.
pub fn list_backups_request(request: &wire::ListBackupsRequest) -> Result<(u32, Option<i64>), Status> {
    Ok((page_size(request.page_size, 50, 1000)?, page_place(BACKUPS, &request.page_token)?))
}

pub fn list_backups_response(page: Page<Listed>) -> wire::ListBackupsResponse {
    wire::ListBackupsResponse {
        backups: page.items.into_iter().map(listed).collect(),
        next_page_token: page.next.map(|next| page_token(BACKUPS, next)).unwrap_or_default(),
        total_size: int32(page.total),
    }
}

/// A backup with what only the catalog knows.
pub fn listed(listed: Listed) -> wire::Backup {
    let retention_position = listed.position.map(|position| wire::RetentionPosition {
        position: int32(position),
        max_count: int32(listed.max_count),
        next_to_expire: listed.next_to_expire,
    });
    let mut message = backup(listed.backup);
    if let Some(info) = &mut message.encryption_info {
        info.current_passphrase = listed.current_passphrase;
    }
    wire::Backup {
        register_time: Some(timestamp(listed.register_time)),
        retention_position,
        etag: etag(listed.revision),
        ..message
    }
}

/// A backup as it was when its operation ended.
pub fn backup(backup: Backup) -> wire::Backup {
    wire::Backup {
        name: backup_name(&backup.id),
        uid: backup.uid.to_string(),
        state: state(backup.state).into(),
        create_time: Some(timestamp(backup.create_time)),
        snapshot_time: Some(timestamp(backup.snapshot_time)),
        complete_time: Some(timestamp(backup.complete_time)),
        size_bytes: int64(backup.size_bytes),
        file_name: backup.file_name.to_string(),
        sha256: backup.sha256.to_string(),
        trigger: trigger(backup.trigger).into(),
        encryption_info: Some(encryption_info(backup.passphrase)),
        resources: backup.resources.into_iter().map(content).collect(),
        description: backup.description,
        creator: backup.creator,
        operation: operation_name(backup.operation),
        format_version: backup.format_version,
        source_system: backup.source_system.to_string(),
        state_detail: backup.state_detail,
        pinned: Some(backup.pinned),
        last_verification: backup.last_verification.map(|last| wire::VerificationSummary {
            level: verify_level(last.level).into(),
            valid: last.valid,
            verify_time: Some(timestamp(last.time)),
            operation: operation_name(last.operation),
        }),
        ..wire::Backup::default()
    }
}

fn state(state: State) -> wire::backup::State {
    match state {
        State::Creating => wire::backup::State::Creating,
        State::Ready => wire::backup::State::Ready,
        State::Invalid => wire::backup::State::Invalid,
        State::Missing => wire::backup::State::Missing,
        State::Deleting => wire::backup::State::Deleting,
    }
}

pub fn verify_level(level: VerifyLevel) -> wire::VerifyLevel {
    match level {
        VerifyLevel::Checksum => wire::VerifyLevel::Checksum,
        VerifyLevel::Contents => wire::VerifyLevel::Contents,
        VerifyLevel::Rehearsal => wire::VerifyLevel::Rehearsal,
    }
}

pub fn trigger(trigger: Trigger) -> wire::Trigger {
    match trigger {
        Trigger::OnDemand => wire::Trigger::OnDemand,
        Trigger::Scheduled => wire::Trigger::Scheduled,
        Trigger::Safety => wire::Trigger::Safety,
    }
}

fn encryption_info(passphrase: Option<PassphraseNote>) -> wire::EncryptionInfo {
    match passphrase {
        None => wire::EncryptionInfo { r#type: wire::encryption_info::Type::None.into(), ..Default::default() },
        Some(note) => wire::EncryptionInfo {
            r#type: wire::encryption_info::Type::Passphrase.into(),
            passphrase_generation: int32(note.generation),
            passphrase_set_time: Some(timestamp(note.set_time)),
            current_passphrase: false,
            algorithm: ALGORITHM.into(),
        },
    }
}

fn content(content: ResourceContent) -> wire::ResourceContent {
    wire::ResourceContent {
        resource: resource_name(&content.name),
        display_name: content.title,
        item_count: int64(content.items),
        size_bytes: int64(content.bytes),
    }
}

pub fn download_request(request: &wire::DownloadBackupRequest) -> Result<DownloadRequest, Status> {
    let expected = match request.expected_sha256.as_str() {
        "" => None,
        text => Some(text.parse::<Sha256>().map_err(|_| {
            invalid("expected_sha256", "`expected_sha256` has 64 lower-case hex digits; send `Backup.sha256` as you read it.")
        })?),
    };
    let bytes = |field: &str, number: i64| {
        u64::try_from(number).map_err(|_| invalid(field, format!("`{field}` is not negative; leave it out for the whole file.")))
    };
    Ok(DownloadRequest {
        backup: backup_id("name", &request.name)?,
        offset: bytes("read_offset", request.read_offset)?,
        limit: Some(bytes("read_limit", request.read_limit)?).filter(|&limit| limit > 0),
        expected,
    })
}

pub fn file_header(download: &Download) -> wire::DownloadBackupResponse {
    let header = wire::FileHeader {
        file_name: download.file_name.to_string(),
        size_bytes: int64(download.size_bytes),
        sha256: download.sha256.to_string(),
        ..Default::default()
    };
    wire::DownloadBackupResponse { payload: Some(wire::download_backup_response::Payload::Header(header)) }
}

pub fn file_chunk(chunk: Chunk) -> wire::DownloadBackupResponse {
    let chunk = wire::FileChunk { offset: int64(chunk.offset), data: chunk.data, crc32c: Some(chunk.crc32c) };
    wire::DownloadBackupResponse { payload: Some(wire::download_backup_response::Payload::Chunk(chunk)) }
}

/// The page that was asked for, out of all resources.
pub fn list_resources(
    request: &wire::ListResourcesRequest,
    all: Vec<ResourceState>,
) -> Result<wire::ListResourcesResponse, Status> {
    let size = page_size(request.page_size, 200, 200)? as usize;
    let after: Option<ResourceName> = page_place(RESOURCES, &request.page_token)?;
    let start = match after {
        None => 0,
        Some(after) => all.iter().position(|state| state.resource.name == after).map_or(all.len(), |place| place + 1),
    };
    let last = all.get(start + size - 1).filter(|_| start + size < all.len());
    Ok(wire::ListResourcesResponse {
        next_page_token: last.map(|state| page_token(RESOURCES, &state.resource.name)).unwrap_or_default(),
        resources: all.into_iter().skip(start).take(size).map(resource).collect(),
    })
}

fn resource(state: ResourceState) -> wire::Resource {
    let rules = state.resource.checks.iter().chain(&state.resource.watches);
    let effects: BTreeSet<_> = rules.map(|rule| notice_code(&rule.reason)).collect();
    wire::Resource {
        name: resource_name(&state.resource.name),
        display_name: state.resource.title,
        description: state.resource.description,
        depends_on: state.depends_on.iter().map(resource_name).collect(),
        sensitive: state.resource.sensitive,
        item_count: int64(state.items),
        restore_effects: effects.into_iter().map(Into::into).collect(),
        notices: state.notices.into_iter().map(notice).collect(),
    }
}

#[cfg(test)]
pub mod tests;
