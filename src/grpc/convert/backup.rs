//! Backups, their files and resources, and the requests about them.

use std::collections::BTreeSet;

use tonic::Status;
use zeroize::Zeroizing;

use super::fields::{
    MAX_REQUEST_ID, MAX_TEXT, backup_id, backup_name, etag, int32, int64, invalid, lock_wait, operation_name, page_place,
    page_size, page_token, resource_name, resources, revision, text, time, timestamp,
};
use super::operation::{notice, notice_code};
use crate::grpc::proto::backup as wire;
use crate::grpc::status::{published, published_name};
use crate::model::backup::{Backup, Origin, ResourceContent, State, Trigger};
use crate::model::verification::VerifyLevel;
use crate::model::{BackupId, FileName, Opener, Passphrase, ResourceName, SecretKey, Sha256};
use crate::operations::Opened;
use crate::operations::call::{
    BackupChange, BackupRequest, Chunk, Download, DownloadRequest, Listed, Page, PreviewRequest, Rejected, ResourceState,
    RestoreRequest, Synced, UploadRequest, VerifyRequest,
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
        opener: opener(request.passphrase, request.secret_key)?,
        resources: resources("resources", &request.resources)?,
        lock_wait: lock_wait(request.lock_wait)?,
        reason: text("reason", request.reason, MAX_TEXT)?,
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID)?,
        validate_only: request.validate_only,
    })
}

/// Whether it must not be sent in the clear.
pub fn has_secret(passphrase: &str, secret_key: &[u8]) -> bool {
    !passphrase.is_empty() || !secret_key.is_empty()
}

/// What a caller sent to open a file with, if anything.
fn opener(passphrase: String, secret_key: Vec<u8>) -> Result<Option<Opener>, Status> {
    let (passphrase, secret_key) = (Passphrase::new(passphrase), Zeroizing::new(secret_key));
    if secret_key.len() > SecretKey::MAX_BYTES {
        return Err(invalid("secret_key", "`secret_key` has at most 64 KiB; send the key of one recipient alone."));
    }
    Ok(Opener::new(passphrase, secret_key.as_slice()))
}

pub fn preview_request(request: wire::PreviewRestoreRequest) -> Result<PreviewRequest, Status> {
    Ok(PreviewRequest {
        backup: backup_id("name", &request.name)?,
        opener: opener(request.passphrase, request.secret_key)?,
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
        opener: opener(request.passphrase, request.secret_key)?,
        request_id: text("request_id", request.request_id, MAX_REQUEST_ID)?,
    })
}

/// The fields of a backup that callers change.
const CHANGEABLE: [&str; 2] = ["description", "pinned"];

/// What is to change of which backup, and the revision that the caller has read. Without a mask these are the fields that are
/// set; a field that a mask names and that is not set becomes empty, or not pinned.
pub fn update_request(request: wire::UpdateBackupRequest) -> Result<(BackupId, BackupChange, Option<i64>), Status> {
    let backup =
        request.backup.ok_or_else(|| invalid("backup", "`backup` is required; set its `name` and what is to change."))?;
    let (id, seen) = (backup_id("backup.name", &backup.name)?, revision("backup.etag", &backup.etag)?);
    let description = text("backup.description", backup.description, MAX_TEXT)?;
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        let change = BackupChange { description: (!description.is_empty()).then_some(description), pinned: backup.pinned };
        if change == BackupChange::default() {
            return Err(invalid("backup", "`backup` has neither `description` nor `pinned`; set what is to change."));
        }
        return Ok((id, change, seen));
    }
    if let Some(path) = paths.iter().find(|path| *path != "*" && !CHANGEABLE.contains(&path.as_str())) {
        let message = format!("`{path}` cannot be changed; `update_mask` takes {} or *.", CHANGEABLE.join(", "));
        return Err(invalid("update_mask", message));
    }
    let named = |field: &str| paths.iter().any(|path| path == "*" || path == field);
    let change = BackupChange {
        description: named("description").then_some(description),
        pinned: named("pinned").then(|| backup.pinned.unwrap_or_default()),
    };
    Ok((id, change, seen))
}

pub fn synced(found: Synced) -> wire::SyncBackupsResponse {
    let rejected = |file: Rejected| wire::sync_backups_response::RejectedFile {
        file_name: file.file_name,
        reason: published_name(published(file.reason).1).into(),
        detail: file.detail,
    };
    wire::SyncBackupsResponse {
        imported: found.imported.into_iter().map(listed).collect(),
        missing: found.missing.iter().map(backup_name).collect(),
        recovered: found.recovered.iter().map(backup_name).collect(),
        rejected: found.rejected.into_iter().map(rejected).collect(),
        rejected_count: int32(found.rejected_count),
    }
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
        archive_time: listed.archive_time.map(timestamp),
        ..message
    }
}

/// A backup as it was when its operation ended.
pub fn backup(backup: Backup) -> wire::Backup {
    let (origin, signing_key) = origin(backup.origin.clone());
    wire::Backup {
        name: backup_name(&backup.id),
        uid: backup.uid.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: state(backup.state).into(),
        create_time: Some(timestamp(backup.create_time)),
        snapshot_time: backup.snapshot_time.map(timestamp),
        complete_time: backup.complete_time.map(timestamp),
        size_bytes: int64(backup.size_bytes),
        file_name: backup.file_name.to_string(),
        sha256: backup.sha256.to_string(),
        trigger: trigger(backup.trigger).into(),
        encryption_info: Some(encryption_info(&backup)),
        resources: backup.resources.into_iter().map(content).collect(),
        description: backup.description,
        creator: backup.creator,
        operation: backup.operation.map(operation_name).unwrap_or_default(),
        format_version: backup.format_version,
        source_system: backup.source_system.as_ref().map(ToString::to_string).unwrap_or_default(),
        state_detail: backup.state_detail,
        pinned: Some(backup.pinned),
        origin: origin.into(),
        signing_key,
        last_verification: backup.last_verification.map(|last| wire::VerificationSummary {
            level: verify_level(last.level).into(),
            valid: last.valid,
            verify_time: Some(timestamp(last.time)),
            operation: last.operation.map(operation_name).unwrap_or_default(),
        }),
        ..wire::Backup::default()
    }
}

/// Who wrote a file, and the key that it says it was signed with.
fn origin(origin: Option<Origin>) -> (wire::Origin, String) {
    match origin {
        None => (wire::Origin::Unspecified, String::new()),
        Some(Origin::Native(key)) => (wire::Origin::Native, key),
        Some(Origin::Foreign(key)) => (wire::Origin::Foreign, key.unwrap_or_default()),
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
        Trigger::Imported => wire::Trigger::Imported,
        Trigger::Uploaded => wire::Trigger::Uploaded,
    }
}

fn encryption_info(backup: &Backup) -> wire::EncryptionInfo {
    if !backup.encrypted() {
        return wire::EncryptionInfo { r#type: wire::encryption_info::Type::None.into(), ..Default::default() };
    }
    let kind = if backup.write_only { wire::encryption_info::Type::Recipients } else { wire::encryption_info::Type::Passphrase };
    wire::EncryptionInfo {
        r#type: kind.into(),
        passphrase_generation: backup.passphrase.map_or(0, |note| int32(note.generation)),
        passphrase_set_time: backup.passphrase.map(|note| timestamp(note.set_time)),
        current_passphrase: false,
        algorithm: ALGORITHM.into(),
        recipients: backup.recipients.clone(),
    }
}

/// What opened it.
pub fn opened(opened: Opened) -> wire::CheckPassphraseResponse {
    let info = wire::EncryptionInfo { current_passphrase: opened.current_passphrase, ..encryption_info(&opened.backup) };
    wire::CheckPassphraseResponse { name: backup_name(&opened.backup.id), encryption_info: Some(info) }
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
    let chunk = wire::FileChunk { offset: int64(chunk.offset), data: chunk.data, crc32c: chunk.crc32c };
    wire::DownloadBackupResponse { payload: Some(wire::download_backup_response::Payload::Chunk(chunk)) }
}

/// What the first message of an upload says of the file.
pub fn upload_request(first: Option<wire::UploadBackupRequest>) -> Result<UploadRequest, Status> {
    use wire::upload_backup_request::Payload;
    let Some(Payload::Header(header)) = first.and_then(|message| message.payload) else {
        return Err(invalid("header", "The first message of an upload is its `header`; send it before the chunks."));
    };
    let file_name = match header.file_name.as_str() {
        "" => None,
        text => Some(text.parse::<FileName>().map_err(|_| {
            invalid(
                "header.file_name",
                "`file_name` is the name that the file had in a backup folder, without a path; leave it out if it is lost.",
            )
        })?),
    };
    let size = u64::try_from(header.size_bytes);
    let sha256 = header.sha256.parse::<Sha256>();
    Ok(UploadRequest {
        file_name,
        size_bytes: size.map_err(|_| invalid("header.size_bytes", "`size_bytes` is not negative; send the size of the file."))?,
        sha256: sha256
            .map_err(|_| invalid("header.sha256", "`sha256` is required, the SHA-256 of the file: 64 lower-case hex digits."))?,
        description: text("header.description", header.description, MAX_TEXT)?,
        request_id: text("header.request_id", header.request_id, MAX_REQUEST_ID)?,
    })
}

pub fn upload_chunk(message: wire::UploadBackupRequest) -> Result<Chunk, Status> {
    use wire::upload_backup_request::Payload;
    let Some(Payload::Chunk(chunk)) = message.payload else {
        return Err(invalid("chunk", "Behind the header an upload has chunks only."));
    };
    let offset = u64::try_from(chunk.offset).map_err(|_| invalid("chunk.offset", "`offset` is not negative."))?;
    Ok(Chunk { offset, data: chunk.data, crc32c: chunk.crc32c })
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
