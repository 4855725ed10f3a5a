//! BackupService: each method reads its request, asks `operations`, and writes the answer.

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::access::{accept, check_transport};
use super::convert::backup as convert;
use super::convert::fields::{backup_id, revision};
use super::convert::{operation, settings};
use super::proto::backup as wire;
use super::proto::backup::backup_service_server::BackupService;
use super::{held, status};
use crate::model::operation::Kind;
use crate::model::{Failure, Passphrase, Reason};
use crate::operations::Holdfast;
use crate::operations::call::Download;

pub struct Service {
    pub holdfast: Holdfast,
    pub allow_plaintext_secrets: bool,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl BackupService for Service {
    async fn backup(&self, request: Request<wire::BackupRequest>) -> Answer<wire::Operation> {
        let (caller, request) = accept(request)?;
        let started = self.holdfast.backup(&caller, convert::backup_request(request)?).await?;
        Ok(Response::new(operation::accepted(started, Kind::Backup)))
    }

    async fn restore(&self, request: Request<wire::RestoreRequest>) -> Answer<wire::Operation> {
        self.check_secret(&request, convert::has_secret(&request.get_ref().passphrase, &request.get_ref().secret_key))?;
        let (caller, request) = accept(request)?;
        let started = self.holdfast.restore(&caller, convert::restore_request(request)?).await?;
        Ok(Response::new(operation::accepted(started, Kind::Restore)))
    }

    async fn list_backups(&self, request: Request<wire::ListBackupsRequest>) -> Answer<wire::ListBackupsResponse> {
        let (page_size, after) = convert::list_backups_request(request.get_ref())?;
        Ok(Response::new(convert::list_backups_response(self.holdfast.list_backups(page_size, after).await?)))
    }

    async fn set_schedule(&self, request: Request<wire::SetScheduleRequest>) -> Answer<wire::Schedule> {
        let (caller, request) = accept(request)?;
        let validate_only = request.validate_only;
        let (change, seen) = settings::schedule_change(request)?;
        let state = self.holdfast.set_schedule(&caller, change, seen, validate_only).await?;
        Ok(Response::new(settings::schedule(state)))
    }

    async fn get_backup(&self, request: Request<wire::GetBackupRequest>) -> Answer<wire::Backup> {
        let id = backup_id("name", &request.get_ref().name)?;
        Ok(Response::new(convert::listed(self.holdfast.get_backup(&id).await?)))
    }

    async fn delete_backup(&self, request: Request<wire::DeleteBackupRequest>) -> Answer<()> {
        let (caller, request) = accept(request)?;
        let (id, seen) = (backup_id("name", &request.name)?, revision("etag", &request.etag)?);
        Ok(Response::new(self.holdfast.delete_backup(&caller, &id, seen).await?))
    }

    async fn verify_backup(&self, request: Request<wire::VerifyBackupRequest>) -> Answer<wire::Operation> {
        self.check_secret(&request, convert::has_secret(&request.get_ref().passphrase, &request.get_ref().secret_key))?;
        let (caller, request) = accept(request)?;
        let started = self.holdfast.verify_backup(&caller, convert::verify_request(request)?).await?;
        Ok(Response::new(operation::operation(started)))
    }

    async fn check_passphrase(&self, request: Request<wire::CheckPassphraseRequest>) -> Answer<wire::CheckPassphraseResponse> {
        self.check_secret(&request, !request.get_ref().passphrase.is_empty())?;
        let (caller, request) = accept(request)?;
        let (id, passphrase) = (backup_id("name", &request.name)?, Passphrase::new(request.passphrase));
        Ok(Response::new(convert::opened(self.holdfast.check_passphrase(&caller, &id, passphrase).await?)))
    }

    async fn preview_restore(&self, request: Request<wire::PreviewRestoreRequest>) -> Answer<wire::Operation> {
        self.check_secret(&request, convert::has_secret(&request.get_ref().passphrase, &request.get_ref().secret_key))?;
        let (caller, request) = accept(request)?;
        let started = self.holdfast.preview_restore(&caller, convert::preview_request(request)?).await?;
        Ok(Response::new(operation::operation(started)))
    }

    async fn update_backup(&self, request: Request<wire::UpdateBackupRequest>) -> Answer<wire::Backup> {
        let (caller, request) = accept(request)?;
        let (id, change, seen) = convert::update_request(request)?;
        Ok(Response::new(convert::listed(self.holdfast.update_backup(&caller, &id, change, seen).await?)))
    }

    type DownloadBackupStream = BoxStream<'static, Result<wire::DownloadBackupResponse, Status>>;

    async fn download_backup(&self, request: Request<wire::DownloadBackupRequest>) -> Answer<Self::DownloadBackupStream> {
        let (caller, request) = accept(request)?;
        let request = convert::download_request(&request)?;
        let (offset, limit) = (request.offset, request.limit);
        // For as long as the stream is there, whether it is read or not.
        let place = self.holdfast.watcher()?;
        let download = self.holdfast.download(&caller, request).await?;
        Ok(Response::new(held(file(download, offset, limit), place)))
    }

    async fn upload_backup(&self, request: Request<Streaming<wire::UploadBackupRequest>>) -> Answer<wire::Backup> {
        let (caller, mut messages) = accept(request)?;
        let first = self.holdfast.in_time(messages.message()).await??;
        let request = convert::upload_request(first)?;
        let chunks = messages.map(|message| convert::upload_chunk(message?));
        Ok(Response::new(convert::listed(self.holdfast.upload(&caller, request, chunks).await?)))
    }

    async fn sync_backups(&self, request: Request<wire::SyncBackupsRequest>) -> Answer<wire::SyncBackupsResponse> {
        let (caller, _) = accept(request)?;
        Ok(Response::new(convert::synced(self.holdfast.sync_backups(&caller).await?)))
    }

    async fn list_resources(&self, request: Request<wire::ListResourcesRequest>) -> Answer<wire::ListResourcesResponse> {
        let all = self.holdfast.list_resources().await?;
        Ok(Response::new(convert::list_resources(request.get_ref(), all)?))
    }

    async fn get_schedule(&self, _: Request<wire::GetScheduleRequest>) -> Answer<wire::Schedule> {
        Ok(Response::new(settings::schedule(self.holdfast.schedule().await?)))
    }

    async fn get_retention(&self, _: Request<wire::GetRetentionRequest>) -> Answer<wire::Retention> {
        Ok(Response::new(settings::retention(self.holdfast.retention().await?)))
    }

    async fn set_retention(&self, request: Request<wire::SetRetentionRequest>) -> Answer<wire::Retention> {
        let (caller, request) = accept(request)?;
        let (max_count, seen) = settings::set_retention_request(request)?;
        Ok(Response::new(settings::retention(self.holdfast.set_retention(&caller, max_count, seen).await?)))
    }

    async fn get_encryption(&self, _: Request<wire::GetEncryptionRequest>) -> Answer<wire::Encryption> {
        Ok(Response::new(settings::encryption(self.holdfast.encryption().await?)))
    }

    async fn set_encryption(&self, request: Request<wire::SetEncryptionRequest>) -> Answer<wire::Encryption> {
        self.check_secret(&request, request.get_ref().passphrase.as_ref().is_some_and(|text| !text.is_empty()))?;
        let (caller, request) = accept(request)?;
        let (passphrase, seen) = settings::set_encryption_request(request)?;
        Ok(Response::new(settings::encryption(self.holdfast.set_encryption(&caller, passphrase, seen).await?)))
    }

    async fn get_signing(&self, _: Request<wire::GetSigningRequest>) -> Answer<wire::Signing> {
        Ok(Response::new(settings::signing(self.holdfast.signing().await?)))
    }

    async fn rotate_signing_key(&self, request: Request<wire::RotateSigningKeyRequest>) -> Answer<wire::Signing> {
        let (caller, _) = accept(request)?;
        Ok(Response::new(settings::signing(self.holdfast.rotate_signing_key(&caller).await?)))
    }

    async fn get_system_status(&self, _: Request<wire::GetSystemStatusRequest>) -> Answer<wire::SystemStatus> {
        Ok(Response::new(operation::system_status(self.holdfast.system_status().await?)))
    }
}

impl Service {
    fn check_secret<T>(&self, request: &Request<T>, secret: bool) -> Result<(), Status> {
        if secret { check_transport(request.extensions(), self.allow_plaintext_secrets) } else { Ok(()) }
    }
}

/// The header, then the chunks. A channel that ends before the last byte is an error and not the end of the file.
fn file(download: Download, offset: u64, limit: Option<u64>) -> BoxStream<'static, Result<wire::DownloadBackupResponse, Status>> {
    let header = convert::file_header(&download);
    let end = limit.map_or(download.size_bytes, |limit| download.size_bytes.min(offset.saturating_add(limit)));
    let chunks = stream::unfold(Some((download.chunks, offset)), move |rest| async move {
        let (mut chunks, at) = rest?;
        let failure = match chunks.recv().await {
            Some(Ok(chunk)) => {
                let next = chunk.offset + chunk.data.len() as u64;
                return Some((Ok(convert::file_chunk(chunk)), Some((chunks, next))));
            }
            Some(Err(failure)) => failure,
            None if at >= end => return None,
            None => Failure::new(Reason::Internal, "the file ended before its end"),
        };
        let status = Status::from(failure);
        status::log("/holdfast.backup.v1.BackupService/DownloadBackup", &status);
        Some((Err(status), None))
    });
    stream::iter([Ok(header)]).chain(chunks).boxed()
}
